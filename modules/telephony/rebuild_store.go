package telephony

import (
	"context"
	"database/sql"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// rebuildStore begins, advances and ends generations of the projections.
type rebuildStore struct{ db *store.DB }

// rebuildSilence is after how long without progress a rebuild counts as dead.
const rebuildSilence = 30 * time.Second

// begin makes room for a new generation and gives its number. Conflict if one
// is being built.
func (s *rebuildStore) begin(ctx context.Context, now time.Time) (generation, total int64, err error) {
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		h, err := lockHead(ctx, tx, s.db.Engine())
		if err != nil {
			return err
		}
		if h.Building != 0 && now.Sub(h.BuiltAt.Time()).Abs() < rebuildSilence {
			return errs.New(errs.Conflict, "a rebuild is running")
		}
		generation, total = max(h.Generation, h.Building)+1, h.Event
		_, err = tx.ExecContext(ctx, `update telephony_head set building = $1, position = 0, built_at = $2 where one = 1`, generation, store.MicrosOf(now))
		return err
	})
	return generation, total, err
}

// abandon gives a generation up that has not moved since.
func (s *rebuildStore) abandon(ctx context.Context, generation int64, since store.Micros) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, `update telephony_head set building = 0 where one = 1 and building = $1 and built_at <= $2`, generation, since)
		return err
	})
}

// chunk reads the log behind a place, as much of it as projections need.
func (s *rebuildStore) chunk(ctx context.Context, after int64, limit int) ([]*entry, error) {
	out, room := make([]*entry, 0, limit), make([]entry, limit)
	// Blobs are copied into large pieces: one each would keep the collector of
	// garbage busier than the database.
	var piece []byte
	keep := func(b sql.RawBytes) []byte {
		if b == nil {
			return nil
		}
		if len(piece)+len(b) > cap(piece) {
			piece = make([]byte, 0, max(256<<10, len(b)))
		}
		at := len(piece)
		piece = append(piece, b...)
		return piece[at:len(piece):len(piece)]
	}
	var call, subject, sealed, actor, actorSealed sql.RawBytes
	err := store.Each(ctx, s.db.Read(), `select id, kind, occurred_at, call, subject, sealed, actor, actor_sealed from telephony_event where id > $1 order by id limit $2`,
		[]any{after, limit}, func(scan func(...any) error) error {
			e := &room[len(out)]
			if err := scan(&e.ID, &e.Kind, &e.At, &call, &subject, &sealed, &actor, &actorSealed); err != nil {
				return err
			}
			e.Subject, e.Sealed, e.ActorSealed = seal.Subject(subject), keep(sealed), keep(actorSealed)
			if call != nil {
				e.Call = (*seal.Index)(keep(call))
			}
			if actor != nil {
				e.Actor = (*seal.Subject)(keep(actor))
			}
			out = append(out, e)
			return nil
		})
	return out, err
}

// tables are the projections, and what orders the rows of a generation.
var tables = []struct{ name, key string }{
	{"telephony_call", "id"}, {"telephony_customer", "their"}, {"telephony_actor", "actor"},
	{"telephony_actor_queue", "actor, queue"}, {"telephony_stat", "hour, queue, actor"},
}

// sweep removes up to limit rows of a generation that neither answers nor is
// being built, and tells how many. One that a rebuild left behind which died is
// given up first.
func (s *rebuildStore) sweep(ctx context.Context, now time.Time, limit int) (n int64, err error) {
	h, err := readHead(ctx, s.db.Read())
	if err != nil {
		return 0, err
	}
	if h.Building != 0 && now.Sub(h.BuiltAt.Time()).Abs() >= rebuildSilence {
		if err := s.abandon(ctx, h.Building, h.BuiltAt); err != nil {
			return 0, err
		}
		h.Building = 0
	}
	for _, t := range tables {
		var gone []int64
		err := store.Each(ctx, s.db.Read(), `select min(generation) from `+t.name+` union select max(generation) from `+t.name, nil, func(scan func(...any) error) error {
			var g *int64
			err := scan(&g)
			if err == nil && g != nil && *g != h.Generation && *g != h.Building {
				gone = append(gone, *g)
			}
			return err
		})
		if err != nil || len(gone) == 0 {
			if err != nil {
				return 0, err
			}
			continue
		}
		err = s.db.Tx(ctx, func(tx store.Querier) error {
			res, err := tx.ExecContext(ctx, `delete from `+t.name+` where generation = $1 and (`+t.key+`) in
				(select `+t.key+` from `+t.name+` where generation = $1 order by `+t.key+` limit $2)`, gone[0], limit)
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		return n, err
	}
	return 0, nil
}
