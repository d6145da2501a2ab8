package gateway

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"slices"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// sessionStore keeps sessions and what instances there are.
type sessionStore struct{ db *store.DB }

// sessionRow is a session as it rests.
type sessionRow struct {
	PID       seal.Index
	Life      int64
	Sealed    []byte
	Since     uint64
	Instance  string
	UpdatedAt time.Time
	LeftAt    *time.Time
	// SeenAt is, when read, the last sign of the instance; nil if it is forgotten.
	SeenAt *time.Time
}

// departure is the end of a session's connections up to this life.
type departure struct {
	PID  seal.Index
	Life int64
}

const saveSessionSQL = `insert into gateway_session (pid, life, sealed, since, instance, updated_at, left_at) values `

const replaceSessionSQL = ` on conflict (pid) do update set life = excluded.life, sealed = excluded.sealed, since = excluded.since,
	instance = excluded.instance, updated_at = excluded.updated_at, left_at = excluded.left_at
	where gateway_session.life <= excluded.life`

// saveMany writes rows and ends connections of instance, all in one
// transaction. A pid is in one of both, once.
func (s *sessionStore) saveMany(ctx context.Context, rows []sessionRow, instance string, left []departure, at time.Time) error {
	// In one order everywhere, so that instances do not wait for each other in a circle.
	slices.SortFunc(rows, func(a, b sessionRow) int { return bytes.Compare(a.PID[:], b.PID[:]) })
	slices.SortFunc(left, func(a, b departure) int {
		return cmp.Or(cmp.Compare(a.Life, b.Life), bytes.Compare(a.PID[:], b.PID[:]))
	})
	return s.db.Tx(ctx, func(tx store.Querier) error {
		for rest := rows; len(rest) > 0; {
			n := store.Chunk(len(rest))
			if err := saveSessions(ctx, tx, rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		for rest := left; len(rest) > 0; {
			n := 1
			for n < len(rest) && rest[n].Life == rest[0].Life {
				n++
			}
			n = store.Chunk(n)
			if err := leaveSessions(ctx, tx, instance, rest[:n], at); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	})
}

func saveSessions(ctx context.Context, tx store.Querier, rows []sessionRow) error {
	const columns = 7
	args := make([]any, 0, len(rows)*columns)
	for i := range rows {
		r := &rows[i]
		args = append(args, r.PID[:], r.Life, r.Sealed, int64(r.Since), r.Instance, store.MicrosOf(r.UpdatedAt), nullMicros(r.LeftAt))
	}
	_, err := tx.ExecContext(ctx, saveSessionSQL+store.Values(len(rows), columns, 1)+replaceSessionSQL, args...)
	return err
}

// leaveSessions ends connections with one life in common.
func leaveSessions(ctx context.Context, tx store.Querier, instance string, left []departure, at time.Time) error {
	args := []any{store.MicrosOf(at), instance, left[0].Life}
	for i := range left {
		args = append(args, left[i].PID[:])
	}
	_, err := tx.ExecContext(ctx, `update gateway_session set left_at = $1, updated_at = $1
		where instance = $2 and life <= $3 and left_at is null and pid in `+store.Values(1, len(left), 4), args...)
	return err
}

// find gives a session; NotFound if there is none.
func (s *sessionStore) find(ctx context.Context, pid seal.Index) (sessionRow, error) {
	r := sessionRow{PID: pid}
	var since int64
	var updated store.Micros
	var left, seen sql.Null[store.Micros]
	err := s.db.Read().QueryRowContext(ctx, `select s.life, s.sealed, s.since, s.instance, s.updated_at, s.left_at, i.seen_at
		from gateway_session s left join gateway_instance i on i.instance = s.instance where s.pid = $1`, pid[:]).
		Scan(&r.Life, &r.Sealed, &since, &r.Instance, &updated, &left, &seen)
	if store.IsNotFound(err) {
		return r, errNoSession
	}
	if err != nil {
		return r, errs.Wrap(errs.Unavailable, err, "read a session")
	}
	r.Since, r.UpdatedAt, r.LeftAt, r.SeenAt = uint64(since), updated.Time(), optionalTime(left), optionalTime(seen)
	return r, nil
}

// stale gives up to limit live sessions of an instance that were written before
// the time, the oldest first.
func (s *sessionStore) stale(ctx context.Context, instance string, before time.Time, limit int) (out []sessionRow, err error) {
	err = store.Each(ctx, s.db.Read(), `select pid, life, sealed, since, updated_at from gateway_session
		where instance = $1 and updated_at < $2 and left_at is null order by updated_at limit $3`,
		[]any{instance, store.MicrosOf(before), limit}, func(scan func(...any) error) error {
			r := sessionRow{Instance: instance}
			var pid []byte
			var since int64
			var updated store.Micros
			if err := scan(&pid, &r.Life, &r.Sealed, &since, &updated); err != nil {
				return err
			}
			r.PID, r.Since, r.UpdatedAt = seal.Index(pid), uint64(since), updated.Time()
			out = append(out, r)
			return nil
		})
	return out, err
}

// reseal replaces the sealed part of rows that nobody has written meanwhile.
// UpdatedAt is the time of before; they become those of now.
func (s *sessionStore) reseal(ctx context.Context, rows []sessionRow, now time.Time) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		for i := range rows {
			r := &rows[i]
			if _, err := tx.ExecContext(ctx, `update gateway_session set sealed = $1, updated_at = $2 where pid = $3 and life = $4 and updated_at = $5 and left_at is null`,
				r.Sealed, store.MicrosOf(now), r.PID[:], r.Life, store.MicrosOf(r.UpdatedAt)); err != nil {
				return err
			}
		}
		return nil
	})
}

// expire removes sessions that nobody can take up any more: up to limit that
// were left before the time, and up to limit of each instance that died before
// it. It tells how many.
func (s *sessionStore) expire(ctx context.Context, before time.Time, limit int) (n int, err error) {
	at := store.MicrosOf(before)
	n, err = s.remove(ctx, `delete from gateway_session where pid in
		(select pid from gateway_session where left_at < $1 order by left_at limit $2)`, at, limit)
	if err != nil {
		return n, err
	}
	all, err := s.instances(ctx)
	for _, i := range all {
		if err != nil || !i.SeenAt.Before(before) {
			continue
		}
		var lost int
		// Asked again, for it may have come back to life meanwhile.
		if lost, err = s.remove(ctx, `delete from gateway_session where pid in
			(select pid from gateway_session where instance = $1 and left_at is null limit $2)
			and exists (select 1 from gateway_instance where instance = $1 and seen_at < $3)`, i.Name, limit, at); err != nil {
			break
		}
		if n += lost; lost == 0 {
			_, err = s.remove(ctx, `delete from gateway_instance where instance = $1 and seen_at < $2`, i.Name, at)
		}
	}
	return n, err
}

// remove runs one deletion and tells how many rows it took.
func (s *sessionStore) remove(ctx context.Context, query string, args ...any) (n int, err error) {
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		res, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			return err
		}
		deleted, err := res.RowsAffected()
		n = int(deleted)
		return err
	})
	return n, err
}

// instance is a process that serves sockets.
type instance struct {
	Name   string
	SeenAt time.Time
}

// beat tells the others that an instance is there.
func (s *sessionStore) beat(ctx context.Context, name string, now time.Time) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, `insert into gateway_instance (instance, seen_at) values ($1, $2)
			on conflict (instance) do update set seen_at = excluded.seen_at`, name, store.MicrosOf(now))
		return err
	})
}

// instances lists the instances that are remembered, dead ones for a while too.
func (s *sessionStore) instances(ctx context.Context) (out []instance, err error) {
	err = store.Each(ctx, s.db.Read(), `select instance, seen_at from gateway_instance order by instance`, nil, func(scan func(...any) error) error {
		var i instance
		var seen store.Micros
		err := scan(&i.Name, &seen)
		i.SeenAt = seen.Time()
		out = append(out, i)
		return err
	})
	return out, err
}

func nullMicros(t *time.Time) any {
	if t == nil {
		return nil
	}
	return store.MicrosOf(*t)
}

func optionalTime(m sql.Null[store.Micros]) *time.Time {
	if !m.Valid {
		return nil
	}
	t := m.V.Time()
	return &t
}
