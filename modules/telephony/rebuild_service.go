package telephony

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

// rebuildService folds the whole log into a new generation of the projections
// while the present one answers and goes on, then switches over.
type rebuildService struct {
	events *eventService
	store  *rebuildStore
	log    *slog.Logger
	now    func() time.Time
	wake   chan struct{} // there may be something to sweep
}

// rebuildChunk is how many events one transaction folds: few enough that
// webhooks, which wait for it, notice nothing.
const rebuildChunk = 5000

// rebuild hears of its progress by tell; it ends with ctx. Conflict if another
// rebuild runs.
func (s *rebuildService) rebuild(ctx context.Context, tell func(done, total int64)) (events int64, err error) {
	generation, total, err := s.store.begin(ctx, s.now())
	if err != nil {
		return 0, err
	}
	defer s.stir()
	defer func() {
		if err != nil {
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if aerr := s.store.abandon(last, generation, store.MicrosOf(s.now())); aerr != nil {
				s.log.Warn("a rebuild that failed cannot be abandoned; it counts as running for a while", "error", aerr)
			}
		}
	}()
	var at int64
	seen := new(seenCalls)
	for {
		done, err := s.round(ctx, generation, at, seen, func(n int64) { tell(n, max(total, n)) })
		if err != nil {
			return 0, fmt.Errorf("rebuild: %w", err)
		}
		at = done
		switched, err := s.finish(ctx, generation, at)
		if err != nil {
			return 0, fmt.Errorf("rebuild: %w", err)
		}
		if switched {
			return at, nil
		}
	}
}

// round folds what is behind a place of the log until there is no more. While
// one chunk is written the next one is opened and the one after it read.
func (s *rebuildService) round(ctx context.Context, generation, at int64, seen *seenCalls, tell func(int64)) (int64, error) {
	read, opened := make(chan []*entry, 2), make(chan []*received, 2)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(read)
		for after := at; ; {
			entries, err := s.store.chunk(ctx, after, rebuildChunk)
			if err != nil || len(entries) == 0 {
				return err
			}
			after = entries[len(entries)-1].ID
			if !hand(ctx, read, entries) {
				return ctx.Err()
			}
		}
	})
	g.Go(func() error {
		defer close(opened)
		for entries := range read {
			chunk := make([]*received, len(entries))
			var halves errgroup.Group
			middle := len(entries) / 2
			halves.Go(func() error { return s.open(ctx, entries[:middle], chunk[:middle]) })
			halves.Go(func() error { return s.open(ctx, entries[middle:], chunk[middle:]) })
			if err := halves.Wait(); err != nil {
				return err
			}
			if !hand(ctx, opened, chunk) {
				return ctx.Err()
			}
		}
		return nil
	})
	done := at
	g.Go(func() error {
		for chunk := range opened {
			if err := s.fold(ctx, generation, done, chunk, seen); err != nil {
				return err
			}
			done = chunk[len(chunk)-1].ID
			tell(done)
		}
		return nil
	})
	err := g.Wait()
	return done, err
}

// hand passes a value on; false if ctx ended first.
func hand[T any](ctx context.Context, to chan<- T, v T) bool {
	select {
	case to <- v:
		return true
	case <-ctx.Done():
		return false
	}
}

// fold writes a chunk, if the generation still is the one that is built and
// has come to where the chunk begins.
func (s *rebuildService) fold(ctx context.Context, generation, from int64, chunk []*received, seen *seenCalls) error {
	return s.store.db.Tx(ctx, func(tx store.Querier) error {
		h, err := lockHead(ctx, tx, s.store.db.Engine())
		if err != nil {
			return err
		}
		if h.Building != generation || h.Position != from {
			return errs.New(errs.Conflict, "another rebuild has begun")
		}
		if _, err := s.events.calls.project(ctx, tx, generation, chunk, seen); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `update telephony_head set position = $1, built_at = $2 where one = 1`, chunk[len(chunk)-1].ID, store.MicrosOf(s.now()))
		return err
	})
}

// finish makes the generation the one that answers, if it has come to the end
// of the log.
func (s *rebuildService) finish(ctx context.Context, generation, at int64) (switched bool, err error) {
	err = s.store.db.Tx(ctx, func(tx store.Querier) error {
		switched = false
		h, err := lockHead(ctx, tx, s.store.db.Engine())
		if err != nil {
			return err
		}
		if h.Building != generation || h.Position != at {
			return errs.New(errs.Conflict, "another rebuild has begun")
		}
		if h.Event != at {
			return nil
		}
		switched = true
		_, err = tx.ExecContext(ctx, `update telephony_head set generation = $1, building = 0 where one = 1`, generation)
		return err
	})
	return switched, err
}

// open makes of entries of the log what the projections are made of.
func (s *rebuildService) open(ctx context.Context, entries []*entry, out []*received) error {
	ciphers, err := s.events.ciphers(ctx, entries)
	if err != nil {
		return err
	}
	numbers, actors := known{}, known{}
	all, events := make([]received, len(entries)), make([]event, len(entries))
	for i, e := range entries {
		r := &all[i]
		events[i] = event{Kind: e.Kind, At: e.At.Time()}
		*r = received{entry: *e, event: &events[i], cipher: ciphers[i].caller}
		out[i] = r
		body, err := ciphers[i].open(e)
		if err != nil {
			return fmt.Errorf("open event %d: %w", e.ID, err)
		}
		if body == nil {
			continue // what is in the clear still counts
		}
		r.event.Raw = body
		if err := (&eventReader{event: r.event}).read(); err != nil {
			return fmt.Errorf("read event %d: %w", e.ID, err)
		}
		r.Kind = kinds[r.event.Type] // a newer program may know more types
		s.events.index(r, numbers, actors)
		if r.their != nil {
			_, r.phone = s.events.phone(r.event.TheirNumber)
		}
		if r.actor != nil {
			r.actorSubject, r.actorCipher = e.Subject, ciphers[i].caller
			if e.Actor != nil {
				r.actorSubject, r.actorCipher = *e.Actor, ciphers[i].actor
			}
		}
	}
	return nil
}

// stir has the sweeper look.
func (s *rebuildService) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run removes what rebuilds leave behind, a little at a time, until ctx ends.
func (s *rebuildService) run(ctx context.Context) error {
	s.stir() // a rebuild that was killed
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-tick.C:
		}
		for {
			n, err := s.store.sweep(ctx, s.now(), 500)
			if err != nil && ctx.Err() == nil {
				s.log.Warn("an old generation of the projections cannot be removed; will retry", "error", err)
			}
			if n == 0 || err != nil {
				break
			}
			select { // webhooks go first
			case <-ctx.Done():
				return nil
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}
