package collector

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"switchboard/platform/store"
)

// eventRow is an event as it rests: what is personal is in Sealed.
type eventRow struct {
	Arrival    int64 // order of arrival: sequence of the bus message × 1000 + place in it
	EventID    [16]byte
	Session    [16]byte // blind index of the session id
	Kind       kind
	KindID     int64
	OccurredAt store.Micros
	ReceivedAt store.Micros
	Subject    [16]byte
	Sealed     []byte
}

// eventStore keeps events, sessions and counters: one batch, one transaction.
type eventStore struct {
	db *store.DB
	// sealing is held by whoever seals events and stores them, and alone by whoever
	// destroys keys: no event is stored under a key that is gone.
	sealing sync.RWMutex
}

const rowsPerLookup = 100

// errTwice says that some rows of a batch were there before.
var errTwice = errors.New("collector: events stored twice")

// insert stores what of the batch is not stored yet and counts it in sessions
// and statistics. It gives the rows that were new.
func (s *eventStore) insert(ctx context.Context, rows []eventRow, sessions map[[16]byte][]byte) ([]eventRow, error) {
	if s.db.Engine() == store.Postgres {
		// In one order everywhere, as count does it: else instances that are
		// handed the same events wait for each other in a circle.
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, func(a, b eventRow) int { return bytes.Compare(a.EventID[:], b.EventID[:]) })
	}
	// Nearly always all of a batch is new; only else is it worth asking which.
	fresh := rows
	err := s.db.Tx(ctx, func(tx store.Querier) error {
		n, err := insertEvents(ctx, tx, rows)
		if err == nil && n < len(rows) {
			err = errTwice
		}
		if err != nil {
			return err
		}
		return count(ctx, tx, rows, sessions)
	})
	switch {
	case err == nil:
		return fresh, nil
	case !errors.Is(err, errTwice) && !store.IsUnique(err):
		return nil, fmt.Errorf("store events: %w", err)
	}
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		fresh, err = insertNew(ctx, tx, rows)
		if err != nil {
			return err
		}
		return count(ctx, tx, fresh, sessions)
	})
	if err != nil {
		return nil, fmt.Errorf("store events: %w", err)
	}
	return fresh, nil
}

const insertEventSQL = `insert into collector_event
	(arrival, event_id, session, kind, occurred_at, received_at, subject, sealed) values `

const eventColumns = 8

func eventArgs(rows []eventRow) []any {
	args := make([]any, 0, len(rows)*eventColumns)
	for i := range rows {
		r := &rows[i]
		args = append(args, r.Arrival, r.EventID[:], r.Session[:], r.KindID, r.OccurredAt, r.ReceivedAt, r.Subject[:], r.Sealed)
	}
	return args
}

func insertEvents(ctx context.Context, tx store.Querier, rows []eventRow) (int, error) {
	total := 0
	for len(rows) > 0 {
		chunk := rows[:store.Chunk(len(rows))]
		rows = rows[len(chunk):]
		res, err := tx.ExecContext(ctx, insertEventSQL+store.Values(len(chunk), eventColumns, 1)+` on conflict (event_id) do nothing`, eventArgs(chunk)...)
		if err != nil {
			return 0, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return 0, err
		}
		total += int(n)
	}
	return total, nil
}

// insertNew stores the rows whose event is not there yet and gives those.
func insertNew(ctx context.Context, tx store.Querier, rows []eventRow) ([]eventRow, error) {
	rows, err := placed(ctx, tx, rows)
	if err != nil {
		return nil, err
	}
	var fresh []eventRow
	for chunk := range slices.Chunk(rows, rowsPerLookup) {
		inserted := map[[16]byte]bool{}
		err := store.Each(ctx, tx, insertEventSQL+store.Values(len(chunk), eventColumns, 1)+` on conflict (event_id) do nothing returning event_id`, eventArgs(chunk), func(scan func(...any) error) error {
			var id []byte
			if err := scan(&id); err != nil {
				return err
			}
			inserted[[16]byte(id)] = true
			return nil
		})
		if err != nil {
			return nil, err
		}
		for _, r := range chunk {
			if inserted[r.EventID] {
				delete(inserted, r.EventID)
				fresh = append(fresh, r)
			}
		}
	}
	return fresh, nil
}

// placed drops the rows whose event is stored. A row whose place in the order
// of arrival is taken by another event, which happens only if the bus forgot
// its last sequence, goes to the end.
func placed(ctx context.Context, tx store.Querier, rows []eventRow) ([]eventRow, error) {
	stored, taken := map[[16]byte]bool{}, map[int64]bool{}
	for chunk := range slices.Chunk(rows, rowsPerLookup) {
		ids, arrivals := make([]any, len(chunk)), make([]any, len(chunk))
		for i := range chunk {
			ids[i], arrivals[i] = chunk[i].EventID[:], chunk[i].Arrival
		}
		err := store.Each(ctx, tx, `select event_id from collector_event where event_id in `+store.Values(1, len(ids), 1), ids, func(scan func(...any) error) error {
			var id []byte
			if err := scan(&id); err != nil {
				return err
			}
			stored[[16]byte(id)] = true
			return nil
		})
		if err != nil {
			return nil, err
		}
		err = store.Each(ctx, tx, `select arrival from collector_event where arrival in `+store.Values(1, len(arrivals), 1), arrivals, func(scan func(...any) error) error {
			var n int64
			err := scan(&n)
			taken[n] = true
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	var out []eventRow
	var end int64
	for _, r := range rows {
		if !stored[r.EventID] {
			out = append(out, r)
			end = max(end, r.Arrival)
		}
	}
	var moved []*eventRow
	for i := range out {
		if taken[out[i].Arrival] {
			moved = append(moved, &out[i])
		}
	}
	if len(moved) == 0 {
		return out, nil
	}
	var last int64
	if err := tx.QueryRowContext(ctx, `select coalesce(max(arrival), 0) from collector_event`).Scan(&last); err != nil {
		return nil, err
	}
	slices.SortFunc(moved, func(a, b *eventRow) int { return cmp.Compare(a.Arrival, b.Arrival) })
	for i, r := range moved {
		r.Arrival = max(end, last) + 1 + int64(i)
	}
	return out, nil
}

// count adds new events to kinds, sessions and statistics. Rows are written in
// the order of their keys, so that two instances never wait for each other in
// a circle.
func count(ctx context.Context, tx store.Querier, rows []eventRow, sealed map[[16]byte][]byte) error {
	type sessionKind struct {
		session [16]byte
		kind    int64
	}
	type bucket struct{ grain, start, kind int64 }
	kinds := map[int64]kind{}
	sessions := map[[16]byte]*sessionRow{}
	pairs := map[sessionKind]bool{}
	stats := map[bucket]int64{}
	for i := range rows {
		r := &rows[i]
		id := r.KindID
		kinds[id] = r.Kind
		pairs[sessionKind{r.Session, id}] = true
		for _, grain := range [...]int64{60, 3600} {
			stats[bucket{grain, floor(int64(r.OccurredAt), grain*1e6), id}]++
		}
		se := sessions[r.Session]
		if se == nil {
			se = &sessionRow{Session: r.Session, Subject: r.Subject, Sealed: sealed[r.Session], FirstAt: r.OccurredAt, LastAt: r.OccurredAt}
			sessions[r.Session] = se
		}
		se.FirstAt, se.LastAt = min(se.FirstAt, r.OccurredAt), max(se.LastAt, r.OccurredAt)
		se.LastReceivedAt = max(se.LastReceivedAt, r.ReceivedAt)
		se.Events++
	}
	var kindArgs []any
	for _, id := range sortedKeys(kinds, cmp.Compare[int64]) {
		k := kinds[id]
		kindArgs = append(kindArgs, id, k.Category, k.Name, k.App)
	}
	if err := store.Insert(ctx, tx, `insert into collector_kind (kind, category, name, app) values `, 4, kindArgs, ` on conflict (kind) do nothing`); err != nil {
		return err
	}
	compareSession := func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) }
	var sessionArgs, pairArgs, statArgs []any
	for _, key := range sortedKeys(sessions, compareSession) {
		se := sessions[key]
		sessionArgs = append(sessionArgs, se.Session[:], se.Subject[:], se.Sealed, se.FirstAt, se.LastAt, se.LastReceivedAt, se.Events)
	}
	if err := store.Insert(ctx, tx, `insert into collector_session (session, subject, sealed, first_at, last_at, last_received_at, events) values `, 7, sessionArgs, addToSessionSQL); err != nil {
		return err
	}
	for _, p := range sortedKeys(pairs, func(a, b sessionKind) int {
		return cmp.Or(compareSession(a.session, b.session), cmp.Compare(a.kind, b.kind))
	}) {
		pairArgs = append(pairArgs, p.session[:], p.kind)
	}
	if err := store.Insert(ctx, tx, `insert into collector_session_kind (session, kind) values `, 2, pairArgs, ` on conflict (session, kind) do nothing`); err != nil {
		return err
	}
	for _, b := range sortedKeys(stats, func(a, b bucket) int {
		return cmp.Or(cmp.Compare(a.grain, b.grain), cmp.Compare(a.start, b.start), cmp.Compare(a.kind, b.kind))
	}) {
		statArgs = append(statArgs, b.grain, b.start, b.kind, stats[b])
	}
	return store.Insert(ctx, tx, `insert into collector_stat (grain, bucket, kind, events) values `, 4, statArgs,
		` on conflict (grain, bucket, kind) do update set events = collector_stat.events + excluded.events`)
}

// floor rounds n down to a multiple of unit, below zero too.
func floor(n, unit int64) int64 {
	if r := n % unit; r < 0 {
		return n - r - unit
	} else {
		return n - r
	}
}

func sortedKeys[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}

// position is a place in the order of events: time of occurrence, then arrival.
type position struct {
	OccurredAt store.Micros
	Arrival    int64
}

// eventQuery selects events; zero fields do not restrict.
type eventQuery struct {
	Session             *[16]byte
	Category, Name, App string
	From, To            *time.Time // both inclusive
	Desc                bool
	After               *position
	Limit               int
}

// compare is the order of the answer.
func (q eventQuery) compare(a, b eventRow) int {
	order := cmp.Or(cmp.Compare(a.OccurredAt, b.OccurredAt), cmp.Compare(a.Arrival, b.Arrival))
	if q.Desc {
		return -order
	}
	return order
}

// maxKindTerms bounds the parts of a query that merges one index range per
// kind (SQLite takes at most 500 terms in a compound select).
const maxKindTerms = 200

// list gives the events of q in order.
func (s *eventStore) list(ctx context.Context, q eventQuery) ([]eventRow, error) {
	if q.Category == "" && q.Name == "" && q.App == "" {
		return selectEvents(ctx, s.db.Read(), q, nil)
	}
	kinds, err := s.kinds(ctx, q.Category, q.Name, q.App)
	switch {
	case err != nil || len(kinds) == 0:
		return nil, err
	case q.Session != nil || len(kinds) <= maxKindTerms:
		return selectEvents(ctx, s.db.Read(), q, kinds)
	}
	// All parts see one state: else an event that comes in between could be
	// passed over by the cursor.
	var rows []eventRow
	err = s.db.ReadTx(ctx, func(tx store.Querier) error {
		rows = nil
		for part := range slices.Chunk(kinds, maxKindTerms) {
			more, err := selectEvents(ctx, tx, q, part)
			if err != nil {
				return err
			}
			rows = append(rows, more...)
			slices.SortFunc(rows, q.compare)
			rows = rows[:min(len(rows), q.Limit)]
		}
		return nil
	})
	return rows, err
}

// selectEvents gives the events of q in order, only those of the kinds unless
// that is nil.
func selectEvents(ctx context.Context, db store.Querier, q eventQuery, kinds []int64) ([]eventRow, error) {
	text, args := q.sql(kinds)
	var out []eventRow
	err := store.Each(ctx, db, text, args, func(scan func(...any) error) error {
		var e eventRow
		var id, session, subject []byte
		if err := scan(&e.Arrival, &id, &session, &e.KindID, &e.OccurredAt, &e.ReceivedAt, &subject, &e.Sealed); err != nil {
			return err
		}
		e.EventID, e.Session, e.Subject = [16]byte(id), [16]byte(session), [16]byte(subject)
		out = append(out, e)
		return nil
	})
	return out, err
}

// sql writes the query, for at most maxKindTerms kinds unless for a session.
func (q eventQuery) sql(kinds []int64) (text string, args []any) {
	b := &eventSelect{q: q}
	switch {
	case q.Session != nil:
		b.add("e.session = ?", q.Session[:])
		if kinds != nil {
			b.add(kindsIn(kinds))
		}
		return b.text(), b.args
	case len(kinds) == 0:
		return b.text(), b.args
	case len(kinds) == 1:
		b.add("e.kind = ?", kinds[0])
		return b.text(), b.args
	}
	// One range of the index per kind, merged: each gives at most a page.
	var parts []string
	for _, k := range kinds {
		b.all = nil
		b.add("e.kind = ?", k)
		parts = append(parts, "select "+listColumns("t")+" from ("+b.text()+") t")
	}
	return strings.Join(parts, " union all ") + " order by occurred_at" + b.direction() + ", arrival" + b.direction() + " limit " + strconv.Itoa(q.Limit), b.args
}

// listColumns names what selectEvents reads of the table or query called so.
func listColumns(of string) string {
	return strings.ReplaceAll("$.arrival, $.event_id, $.session, $.kind, $.occurred_at, $.received_at, $.subject, $.sealed", "$", of)
}

// eventSelect builds the text of one query.
type eventSelect struct {
	conditions
	q eventQuery
}

func kindsIn(kinds []int64) string {
	in := make([]string, len(kinds))
	for i, k := range kinds {
		in[i] = strconv.FormatInt(k, 10)
	}
	// The sign keeps SQLite from searching by a kind that most events may be of.
	return "+e.kind in (" + strings.Join(in, ",") + ")"
}

func (b *eventSelect) direction() string {
	if b.q.Desc {
		return " desc"
	}
	return ""
}

func (b *eventSelect) text() string {
	b.between("e.occurred_at", b.q.From, b.q.To)
	if a := b.q.After; a != nil {
		sign := ">"
		if b.q.Desc {
			sign = "<"
		}
		b.add("(e.occurred_at, e.arrival) "+sign+" (?, ?)", a.OccurredAt, a.Arrival)
	}
	return `select ` + listColumns("e") + ` from collector_event e` + b.where() +
		` order by e.occurred_at` + b.direction() + `, e.arrival` + b.direction() + ` limit ` + strconv.Itoa(b.q.Limit)
}
