package collector

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// sessionRow is a session as it rests; Sealed holds its id.
type sessionRow struct {
	Session        [16]byte
	Subject        [16]byte
	Sealed         []byte
	FirstAt        store.Micros
	LastAt         store.Micros
	LastReceivedAt store.Micros
	Events         int64
}

const addToSessionSQL = ` on conflict (session) do update set
	subject = excluded.subject, sealed = excluded.sealed,
	first_at = case when excluded.first_at < collector_session.first_at then excluded.first_at else collector_session.first_at end,
	last_at = case when excluded.last_at > collector_session.last_at then excluded.last_at else collector_session.last_at end,
	last_received_at = case when excluded.last_received_at > collector_session.last_received_at then excluded.last_received_at else collector_session.last_received_at end,
	events = collector_session.events + excluded.events`

const sessionColumns = `s.session, s.subject, s.sealed, s.first_at, s.last_at, s.last_received_at, s.events`

func scanSession(scan func(...any) error) (sessionRow, error) {
	var r sessionRow
	var session, subject []byte
	if err := scan(&session, &subject, &r.Sealed, &r.FirstAt, &r.LastAt, &r.LastReceivedAt, &r.Events); err != nil {
		return r, err
	}
	r.Session, r.Subject = [16]byte(session), [16]byte(subject)
	return r, nil
}

// session gives one session; NotFound if there is none.
func (s *eventStore) session(ctx context.Context, id [16]byte) (sessionRow, error) {
	row := s.db.Read().QueryRowContext(ctx, `select `+sessionColumns+` from collector_session s where s.session = $1`, id[:])
	r, err := scanSession(row.Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return r, errs.New(errs.NotFound, "no such session")
	}
	return r, err
}

// sessionQuery selects sessions by the time of their first event, newest first.
type sessionQuery struct {
	From, To *time.Time // both inclusive
	After    *sessionPosition
	Limit    int
}

// sessionPosition is a place in the list of sessions.
type sessionPosition struct {
	FirstAt store.Micros
	Session [16]byte
}

// sessions gives the sessions of q in order.
func (s *eventStore) sessions(ctx context.Context, q sessionQuery) ([]sessionRow, error) {
	text, args := q.sql()
	var out []sessionRow
	err := store.Each(ctx, s.db.Read(), text, args, func(scan func(...any) error) error {
		r, err := scanSession(scan)
		out = append(out, r)
		return err
	})
	return out, err
}

func (q sessionQuery) sql() (text string, args []any) {
	var c conditions
	c.between("s.first_at", q.From, q.To)
	if q.After != nil {
		c.add("(s.first_at, s.session) < (?, ?)", q.After.FirstAt, q.After.Session[:])
	}
	return `select ` + sessionColumns + ` from collector_session s` + c.where() +
		` order by s.first_at desc, s.session desc limit ` + strconv.Itoa(q.Limit), c.args
}

// sessionKinds gives the kinds of events that each of the sessions has.
func (s *eventStore) sessionKinds(ctx context.Context, rows []sessionRow) (map[[16]byte][]kind, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	args := make([]any, len(rows))
	for i := range rows {
		args[i] = rows[i].Session[:]
	}
	out := map[[16]byte][]kind{}
	err := store.Each(ctx, s.db.Read(), `select p.session, k.category, k.name, k.app from collector_session_kind p
		join collector_kind k on k.kind = p.kind where p.session in `+store.Values(1, len(args), 1), args, func(scan func(...any) error) error {
		var session []byte
		var k kind
		if err := scan(&session, &k.Category, &k.Name, &k.App); err != nil {
			return err
		}
		out[[16]byte(session)] = append(out[[16]byte(session)], k)
		return nil
	})
	return out, err
}

// expire removes up to limit events that arrived before the time, oldest
// arrival first, and tells how many.
func (s *eventStore) expire(ctx context.Context, before time.Time, limit int) (int, error) {
	var n int64
	err := s.db.Tx(ctx, func(tx store.Querier) error {
		// Arrival and time of receipt grow together but for the spread of
		// requests in flight, so the oldest end of the key is enough to look at.
		res, err := tx.ExecContext(ctx, `delete from collector_event where received_at < $1 and arrival in
			(select arrival from collector_event order by arrival limit $2)`, store.MicrosOf(before), limit)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return int(n), err
}

// expireSessions removes up to limit sessions whose last event arrived before
// the time, and tells how many it looked at. forget destroys the keys of their
// persons. They go first: what was broken off is found again. A session that got
// another event meanwhile stays, with the key that it has by then.
func (s *eventStore) expireSessions(ctx context.Context, before time.Time, limit int, forget func(context.Context, []seal.Subject) error) (int, error) {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	var keys []any
	var subjects []seal.Subject
	err := store.Each(ctx, s.db.Read(), `select session, subject from collector_session where last_received_at < $1 order by last_received_at limit $2`,
		[]any{store.MicrosOf(before), limit}, func(scan func(...any) error) error {
			var session, subject []byte
			if err := scan(&session, &subject); err != nil {
				return err
			}
			keys, subjects = append(keys, session), append(subjects, seal.Subject(subject))
			return nil
		})
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	if err := forget(ctx, subjects); err != nil {
		return 0, err
	}
	return len(keys), s.db.Tx(ctx, func(tx store.Querier) error {
		var gone []any
		err := store.Each(ctx, tx, `delete from collector_session where last_received_at < $1 and session in `+store.Values(1, len(keys), 2)+` returning session`,
			append([]any{store.MicrosOf(before)}, keys...), func(scan func(...any) error) error {
				var session []byte
				err := scan(&session)
				gone = append(gone, session)
				return err
			})
		if err != nil || len(gone) == 0 {
			return err
		}
		for _, table := range [...]string{"collector_event", "collector_session_kind"} {
			if _, err := tx.ExecContext(ctx, `delete from `+table+` where session in `+store.Values(1, len(gone), 1), gone...); err != nil {
				return err
			}
		}
		return nil
	})
}
