package outbox

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/store"
)

const (
	maxRows   = 128              // messages of one batch
	maxBytes  = 4 << 20          // bytes of one batch, unless one message has more
	lease     = 12 * time.Second // how long a turn lasts if its holder dies
	margin    = 4 * time.Second  // nothing is begun this close to the end of a turn
	poll      = time.Second      // for rows of other instances
	contested = 100 * time.Millisecond
	longPause = 10 * time.Second // between attempts while the bus or the database is away
)

// Relay publishes the outbox of one database. Run does the work; the other
// methods may be called from anywhere.
type Relay struct {
	db     *store.DB
	bus    *bus.Bus
	now    func() time.Time
	log    *slog.Logger
	holder string // names this relay among the instances
	wake   chan struct{}
}

// NewRelay makes a relay; it starts nothing. The clocks of instances that
// share a database may differ by up to 3 s.
func NewRelay(db *store.DB, b *bus.Bus, now func() time.Time, log *slog.Logger) *Relay {
	return &Relay{db: db, bus: b, now: now, log: log, holder: rand.Text(), wake: make(chan struct{}, 1)}
}

// Wake tells the relay that a transaction with messages has committed. Without
// it they are found within a second. It never blocks.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends; then it finishes the message at hand and
// returns nil. While the bus or the database is away it tries again with
// growing pauses, up to 10 s.
func (r *Relay) Run(ctx context.Context) error {
	failures := 0
	// A SQLite file has one process: whoever had the turn is dead.
	free := r.db.Engine() == store.SQLite
	for ctx.Err() == nil {
		var wait time.Duration
		var err error
		if free {
			err = r.freeTurn(ctx)
		}
		if err == nil {
			free = false
			wait, err = r.round(ctx)
		}
		wake := r.wake
		if err != nil && ctx.Err() == nil {
			failures++
			wait = min(contested<<min(failures, 10), longPause)
			wake = nil // what was committed meanwhile does not bring the bus back
			if failures == 1 || wait == longPause && failures%30 == 0 {
				r.log.Warn("outbox: cannot publish, trying again", "database", r.db.Name(), "failures", failures, "error", err)
			}
		} else if err == nil && failures > 0 {
			r.log.Info("outbox: publishing again", "database", r.db.Name(), "failures", failures)
			failures = 0
		}
		if wait == 0 {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// round publishes one batch if there is one and no other relay is at it. It
// tells how long to wait for the next.
func (r *Relay) round(ctx context.Context) (wait time.Duration, err error) {
	found, err := r.any(ctx)
	if err != nil || !found {
		return poll, err
	}
	until := r.now().Add(lease)
	mine, err := r.claim(ctx, until)
	if err != nil || !mine {
		return contested, err
	}
	batch, more, err := r.load(ctx)
	var done result
	if err == nil {
		done, err = r.publish(ctx, batch, until.Add(-margin))
	}
	// Also when ctx has ended: what was published should not be so again, and
	// the next holder should not have to wait.
	settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), margin)
	defer cancel()
	if serr := r.settle(settle, done); err == nil {
		err = serr
	}
	if err == nil && !more {
		wait = poll
		if found, _ := r.any(ctx); found {
			wait = 0
		}
	}
	return wait, err
}

type row struct {
	id int64
	bus.Message
}

// result is what became of a batch.
type result struct {
	published []any // ids
	refused   map[int64]string
}

// publish publishes in order until something is in the way, the turn nears its
// end or ctx ends.
func (r *Relay) publish(ctx context.Context, batch []row, until time.Time) (done result, err error) {
	done.refused = map[int64]string{}
	for _, m := range batch {
		left := until.Sub(r.now())
		if ctx.Err() != nil || left <= 0 {
			return done, nil
		}
		// Not cut short by the end of ctx, which would leave it unknown
		// whether the message is on the bus.
		pctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), left)
		_, err := r.bus.Publish(pctx, m.Message)
		cancel()
		switch {
		case err == nil:
			done.published = append(done.published, m.id)
		case errs.KindOf(err) == errs.Invalid:
			r.log.Error("outbox: the bus refuses a message for good", "database", r.db.Name(), "row", m.id, "subject", m.Subject, "error", err)
			done.refused[m.id] = err.Error()
		default:
			return done, err
		}
	}
	return done, nil
}

func (r *Relay) any(ctx context.Context) (bool, error) {
	var id int64
	err := r.db.Read().QueryRowContext(ctx, `select id from outbox where refused is null order by id limit 1`).Scan(&id)
	if store.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// claim takes the turn until a moment, if nobody has it.
func (r *Relay) claim(ctx context.Context, until time.Time) (mine bool, err error) {
	err = r.db.Tx(ctx, func(tx store.Querier) error {
		res, err := tx.ExecContext(ctx, `update outbox_turn set holder = $1, until = $2 where id = 1 and (holder = $1 or until < $3)`,
			r.holder, int64(store.MicrosOf(until)), int64(store.MicrosOf(r.now())))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		mine = n == 1
		return err
	})
	return mine, err
}

func (r *Relay) freeTurn(ctx context.Context) error {
	return r.db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, `update outbox_turn set until = 0 where id = 1 and until > 0`)
		return err
	})
}

// load reads the next batch; more tells that there are further rows.
func (r *Relay) load(ctx context.Context) (batch []row, more bool, err error) {
	rows, err := r.db.Read().QueryContext(ctx,
		`select id, subject, message_id, header, data from outbox where refused is null order by id limit $1`, maxRows)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	for size := 0; rows.Next(); {
		var m row
		var header string
		if err := rows.Scan(&m.id, &m.Subject, &m.ID, &header, &m.Data); err != nil {
			return nil, false, err
		}
		if err := json.Unmarshal([]byte(header), &m.Header); err != nil {
			return nil, false, err
		}
		if size += len(m.Data); size > maxBytes && len(batch) > 0 {
			return batch, true, nil
		}
		batch = append(batch, m)
	}
	return batch, len(batch) == maxRows, errors.Join(rows.Err(), rows.Close())
}

// settle takes the rows of a batch out and gives the turn back. The rows go
// even if the turn was lost meanwhile: they are on the bus.
func (r *Relay) settle(ctx context.Context, done result) error {
	return r.db.Tx(ctx, func(tx store.Querier) error {
		if n := len(done.published); n > 0 {
			// By their numbers: one that is lower than these may commit later.
			if _, err := tx.ExecContext(ctx, `delete from outbox where id in `+store.Values(1, n, 1), done.published...); err != nil {
				return err
			}
		}
		for id, reason := range done.refused {
			if _, err := tx.ExecContext(ctx, `update outbox set refused = $1 where id = $2`, reason, id); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `update outbox_turn set until = 0 where id = 1 and holder = $1`, r.holder)
		return err
	})
}

// Backlog counts the messages that wait and those the bus refused for good.
func (r *Relay) Backlog(ctx context.Context) (waiting, refused int, err error) {
	err = r.db.Read().QueryRowContext(ctx, `select count(*) - count(refused), count(refused) from outbox`).Scan(&waiting, &refused)
	return waiting, refused, err
}
