package eventlog

import (
	"bytes"
	"context"
	"embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Database is the name of the database of all modules' entries.
const Database = "eventlog"

// Migrations makes its tables.
func Migrations() fs.FS { return migrations }

// sqlStrategy keeps entries in a database. What may be personal is sealed under
// a key that is destroyed when the retention has passed.
type sqlStrategy struct {
	module  string
	keys    *seal.Keyring
	db      *store.DB
	transit *seal.Transit
	keep    time.Duration
}

func (s *sqlStrategy) start(db *store.DB, transit *seal.Transit, keep time.Duration) {
	s.db, s.transit, s.keep = db, transit, keep
}

func (s *sqlStrategy) close() {}

// row is an entry as it rests.
type row struct {
	key               []byte
	at                store.Micros
	event, targetKind string
	sealed, receivers []byte
	refs              []seal.Index
}

// hidden is what is sealed of an entry, beside its targets.
type hidden struct {
	ID   string          `json:"id" pii:"content"`
	Text string          `json:"text,omitempty" pii:"content"`
	Refs []Ref           `json:"refs,omitempty"`
	Data json.RawMessage `json:"data,omitempty" pii:"content"`
}

func (s *sqlStrategy) write(ctx context.Context, batch []*record) (int, error) {
	rows := make([]row, 0, len(batch))
	byKey := make(map[string]int, len(batch))
	for _, r := range batch {
		row, err := s.seal(&r.Entry)
		if err != nil {
			return 0, err
		}
		// A statement with an id twice would not say which of them it stored.
		if _, twice := byKey[string(row.key)]; !twice {
			byKey[string(row.key)] = len(rows)
			rows = append(rows, row)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := s.db.Tx(ctx, func(tx store.Querier) error {
		if err := s.insert(ctx, tx, rows); err != nil {
			return err
		}
		return s.insertRefs(ctx, tx, rows)
	})
	if errors.Is(err, errThere) {
		err = s.db.Tx(ctx, func(tx store.Querier) error {
			stored, err := s.insertNew(ctx, tx, rows)
			if err != nil {
				return err
			}
			fresh := make([]row, len(stored))
			for i, key := range stored {
				fresh[i] = rows[byKey[string(key)]]
			}
			return s.insertRefs(ctx, tx, fresh)
		})
	}
	if err != nil {
		return 0, err
	}
	return len(batch), nil
}

// errThere says that some rows are there already.
var errThere = errors.New("eventlog: an entry came again")

func (s *sqlStrategy) seal(e *Entry) (row, error) {
	r := row{key: s.key(e.ID), at: store.MicrosOf(e.Time), event: e.Event, targetKind: e.TargetKind}
	plain, err := json.Marshal(hidden{e.ID, e.Text, e.Refs, e.Data})
	if err != nil {
		return r, errs.Wrap(errs.Invalid, err, "encode an entry")
	}
	if r.sealed, err = s.transit.Seal(plain); err != nil {
		return r, err
	}
	if len(e.Targets) > 0 {
		if r.receivers, err = s.transit.Seal(packTargets(e.Targets)); err != nil {
			return r, err
		}
	}
	for _, ref := range e.Refs {
		if index := s.ref(ref); !slices.Contains(r.refs, index) {
			r.refs = append(r.refs, index)
		}
	}
	return r, nil
}

// key is what a row is known by. UUIDs of version 7 keep their order, so that
// the index grows at its end.
func (s *sqlStrategy) key(id string) []byte {
	if u, err := uuid.Parse(id); err == nil && u.String() == id {
		return u[:]
	}
	index := s.keys.Index("eventlog.id", id)
	return index[:]
}

// ref is what an entry is found by: a blind index, or one of the kind alone, and
// the serial number.
func (s *sqlStrategy) ref(r Ref) seal.Index {
	kind := "eventlog." + s.module + "." + r.Kind
	if r.Serial {
		n, _ := r.serial()
		index := s.keys.Index(kind+".serial", "")
		binary.BigEndian.PutUint64(index[8:], n)
		return index
	}
	return s.keys.Index(kind, r.ID)
}

const entryColumns = 8

// inserted is the statement that stores the first rows, so many together, and
// those that are left.
func (s *sqlStrategy) inserted(rows []row) (text string, args []any, left []row) {
	n := store.Chunk(len(rows))
	args = make([]any, 0, n*entryColumns)
	for _, r := range rows[:n] {
		args = append(args, s.module, r.key, r.at, r.event, r.targetKind, r.sealed, r.receivers, packRefs(r.refs))
	}
	return `insert into eventlog_entry (module, key, at, event, target_kind, sealed, receivers, refs) values ` +
		store.Values(n, entryColumns, 1) + ` on conflict (module, key) do nothing`, args, rows[n:]
}

// insert stores rows of which none is there, as almost always: having the
// database say which were costs a tenth more. Else it fails with errThere, and the
// transaction must be rolled back.
func (s *sqlStrategy) insert(ctx context.Context, tx store.Querier, rows []row) error {
	for len(rows) > 0 {
		text, args, left := s.inserted(rows)
		res, err := tx.ExecContext(ctx, text, args...)
		if err != nil {
			return err
		}
		switch n, err := res.RowsAffected(); {
		case err != nil:
			return err
		case n != int64(len(rows)-len(left)):
			return errThere
		}
		rows = left
	}
	return nil
}

// insertNew stores the rows that are not there yet and gives their keys.
func (s *sqlStrategy) insertNew(ctx context.Context, tx store.Querier, rows []row) (stored [][]byte, err error) {
	for len(rows) > 0 {
		text, args, left := s.inserted(rows)
		keys, err := keysOf(ctx, tx, text+` returning key`, args)
		if err != nil {
			return nil, err
		}
		stored, rows = append(stored, keys...), left
	}
	return stored, nil
}

// insertRefs stores the refs of rows that were new: those of an entry that came
// again might have another time.
func (s *sqlStrategy) insertRefs(ctx context.Context, tx store.Querier, rows []row) error {
	type about struct {
		ref seal.Index
		row *row
	}
	var refs []about
	for i := range rows {
		for _, ref := range rows[i].refs {
			refs = append(refs, about{ref, &rows[i]})
		}
	}
	// Neighbours in the index are written one after the other.
	slices.SortStableFunc(refs, func(a, b about) int { return bytes.Compare(a.ref[:], b.ref[:]) })
	args := make([]any, 0, 4*len(refs))
	for i := range refs {
		args = append(args, s.module, refs[i].ref[:], refs[i].row.at, refs[i].row.key)
	}
	return store.Insert(ctx, tx, `insert into eventlog_ref (module, ref, at, key) values `, 4, args, ` on conflict (module, ref, at, key) do nothing`)
}

// keysOf runs a statement that returns keys.
func keysOf(ctx context.Context, tx store.Querier, text string, args []any) (keys [][]byte, err error) {
	rows, err := tx.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var key []byte
		if err := rows.Scan(&key); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, rows.Err()
}

// expireRows bounds a transaction: receivers make rows large, and what is
// deleted is overwritten.
const expireRows = 200

// expire removes what is past its retention.
func (s *sqlStrategy) expire(ctx context.Context, now time.Time) error {
	before := store.MicrosOf(now.Add(-s.keep))
	for {
		n, err := s.expireSome(ctx, before)
		if err != nil || n < expireRows {
			return err
		}
	}
}

func (s *sqlStrategy) expireSome(ctx context.Context, before store.Micros) (n int, err error) {
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		n = 0
		var gone []row
		err := store.Each(ctx, tx, `delete from eventlog_entry where module = $1 and key in (
			select key from eventlog_entry where module = $1 and at < $2 order by at, key limit $3) returning key, at, refs`,
			[]any{s.module, before, expireRows}, func(scan func(...any) error) error {
				var r row
				var refs []byte
				err := scan(&r.key, &r.at, &refs)
				r.refs = unpackRefs(refs)
				gone = append(gone, r)
				n++
				return err
			})
		if err != nil {
			return err
		}
		for _, r := range gone {
			for _, ref := range r.refs {
				if _, err := tx.ExecContext(ctx, `delete from eventlog_ref where module = $1 and ref = $2 and at = $3 and key = $4`, s.module, ref[:], r.at, r.key); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return n, err
}

// packRefs puts refs one after the other; nil for none.
func packRefs(refs []seal.Index) (packed []byte) {
	for _, ref := range refs {
		packed = append(packed, ref[:]...)
	}
	return packed
}

func unpackRefs(packed []byte) (refs []seal.Index) {
	for one := range slices.Chunk(packed, len(seal.Index{})) {
		refs = append(refs, seal.Index(one))
	}
	return refs
}
