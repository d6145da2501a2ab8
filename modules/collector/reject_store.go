package collector

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

// rejectRow is a refused event as it rests; Sealed holds the payload and the
// errors, both of which may be personal.
type rejectRow struct {
	ID                          [16]byte
	App, Category, Name, Reason string
	ReceivedAt                  store.Micros
	RetriedAt                   *store.Micros
	Sealed                      []byte
}

// rejectStore keeps refused events.
type rejectStore struct{ db *store.DB }

// insert stores the rows that are not stored yet.
func (s *rejectStore) insert(ctx context.Context, rows []rejectRow) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		var args []any
		for i := range rows {
			r := &rows[i]
			args = append(args, r.ID[:], r.App, r.Category, r.Name, r.Reason, r.ReceivedAt, r.Sealed)
		}
		return store.Insert(ctx, tx, `insert into collector_reject (id, app, category, name, reason, received_at, sealed) values `, 7, args, ` on conflict (id) do nothing`)
	})
}

// rejectQuery selects refused events, newest first; zero fields do not restrict.
type rejectQuery struct {
	App, Category, Name, Reason string
	From, To                    *time.Time // both inclusive
	After                       *rejectPosition
	Limit                       int
}

type rejectPosition struct {
	ReceivedAt store.Micros
	ID         [16]byte
}

const rejectColumns = `r.id, r.app, r.category, r.name, r.reason, r.received_at, r.retried_at, r.sealed`

func scanReject(scan func(...any) error) (rejectRow, error) {
	var r rejectRow
	var id []byte
	if err := scan(&id, &r.App, &r.Category, &r.Name, &r.Reason, &r.ReceivedAt, &r.RetriedAt, &r.Sealed); err != nil {
		return r, err
	}
	r.ID = [16]byte(id)
	return r, nil
}

// list gives the refused events of q in order.
func (s *rejectStore) list(ctx context.Context, q rejectQuery) ([]rejectRow, error) {
	text, args := q.sql()
	var out []rejectRow
	err := store.Each(ctx, s.db.Read(), text, args, func(scan func(...any) error) error {
		r, err := scanReject(scan)
		out = append(out, r)
		return err
	})
	return out, err
}

func (q rejectQuery) sql() (text string, args []any) {
	var c conditions
	c.equal("r.app", q.App)
	c.equal("r.category", q.Category)
	c.equal("r.name", q.Name)
	c.equal("r.reason", q.Reason)
	c.between("r.received_at", q.From, q.To)
	if q.After != nil {
		c.add("(r.received_at, r.id) < (?, ?)", q.After.ReceivedAt, q.After.ID[:])
	}
	return `select ` + rejectColumns + ` from collector_reject r` + c.where() +
		` order by r.received_at desc, r.id desc limit ` + strconv.Itoa(q.Limit), c.args
}

// get gives one refused event; NotFound if there is none.
func (s *rejectStore) get(ctx context.Context, id [16]byte) (rejectRow, error) {
	r, err := scanReject(s.db.Read().QueryRowContext(ctx, `select `+rejectColumns+` from collector_reject r where r.id = $1`, id[:]).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return r, errs.New(errs.NotFound, "no such reject")
	}
	return r, err
}

// retried notes that a refused event was accepted after all.
func (s *rejectStore) retried(ctx context.Context, id [16]byte, at time.Time) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, `update collector_reject set retried_at = $1 where id = $2`, store.MicrosOf(at), id[:])
		return err
	})
}

// expire removes up to limit refused events: those received before the time,
// and the oldest beyond keep. It tells how many went.
func (s *rejectStore) expire(ctx context.Context, before time.Time, keep int64, limit int) (int, error) {
	var n int64
	err := s.db.Tx(ctx, func(tx store.Querier) error {
		last := rejectPosition{ReceivedAt: store.MicrosOf(before) - 1, ID: [16]byte(bytes.Repeat([]byte{0xff}, 16))}
		var at store.Micros
		var id []byte
		// Walks the index only, and only as far as the limit.
		err := tx.QueryRowContext(ctx, `select received_at, id from collector_reject order by received_at desc, id desc limit 1 offset $1`, keep).Scan(&at, &id)
		switch {
		case err == nil && at > last.ReceivedAt:
			last = rejectPosition{at, [16]byte(id)}
		case err != nil && !errors.Is(err, sql.ErrNoRows):
			return err
		}
		res, err := tx.ExecContext(ctx, `delete from collector_reject where id in
			(select id from collector_reject where (received_at, id) <= ($1, $2) order by received_at, id limit $3)`, last.ReceivedAt, last.ID[:], limit)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return int(n), err
}
