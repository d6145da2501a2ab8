package crm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
)

// backfillService has everything read and sent again: the sources from their
// beginning, and all users and trips, as if the CRM had nothing.
type backfillService struct {
	store   *reconcileStore
	sources *sources
	logged  eventlog.Logger
	log     *slog.Logger
	now     func() time.Time
	wake    func() // there is something to send
	asked   chan time.Time
	// forgets tells that the CRM is the mock in this process: it begins empty.
	forgets bool

	mu   sync.Mutex
	last backfill
}

// Phases of a backfill.
const (
	backfillReading = "reading" // sources
	backfillSending = "sending" // what is to be sent is marked
	backfillDone    = "done"
	backfillFailed  = "failed"
)

// backfill is how far one is, or was. The zero value: there was none.
type backfill struct {
	state        string
	from         time.Time
	begun, ended time.Time
	users, trips int64 // marked so far
	reason       string
}

func (b *backfill) running() bool { return b.state == backfillReading || b.state == backfillSending }

// backfillPage is how many users or trips are marked in one transaction.
const backfillPage = 500

func (s *backfillService) state() backfill {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *backfillService) note(change func(*backfill)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.last)
}

// begin asks for one, of the sources' events since from. Conflict if one runs.
func (s *backfillService) begin(from time.Time) (backfill, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.running() {
		return s.last, errs.New(errs.Conflict, "a backfill runs already")
	}
	s.last = backfill{state: backfillReading, from: from, begun: s.now()}
	s.asked <- from // there is room: only one is asked for at a time
	return s.last, nil
}

// run does what is asked for until ctx ends.
func (s *backfillService) run(ctx context.Context) error {
	if s.forgets {
		if err := s.resend(ctx, func(kind, int64) {}); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "the mock is not told again what it had; see app crm reconcile", "error", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case from := <-s.asked:
			s.one(ctx, from)
		}
	}
}

func (s *backfillService) one(ctx context.Context, from time.Time) {
	s.tell(ctx, eventBackfillBegun, map[string]any{"from": from})
	err := s.do(ctx, from)
	s.note(func(b *backfill) {
		b.state, b.ended = backfillDone, s.now()
		if err != nil {
			b.state, b.reason = backfillFailed, "the server failed; see its log"
			if errs.KindOf(err) != errs.Internal {
				b.reason = err.Error()
			}
			if ctx.Err() != nil {
				b.reason = "the server stopped"
			}
		}
	})
	if err != nil {
		s.log.ErrorContext(ctx, "the backfill failed", "error", err)
	}
	last := s.state()
	s.tell(ctx, eventBackfillEnded, map[string]any{"users": last.users, "trips": last.trips, "reason": last.reason})
}

func (s *backfillService) tell(ctx context.Context, event string, data map[string]any) {
	raw, _ := json.Marshal(data) // times, numbers and texts
	// What cannot be logged is counted there.
	_ = s.logged.Log(ctx, eventlog.Entry{Event: event, Data: raw})
}

func (s *backfillService) do(ctx context.Context, from time.Time) error {
	if err := s.sources.backfill(ctx, from); err != nil {
		return fmt.Errorf("read the sources: %w", err)
	}
	s.note(func(b *backfill) { b.state = backfillSending })
	return s.resend(ctx, func(k kind, n int64) {
		s.note(func(b *backfill) {
			if k == kindUser {
				b.users += n
			} else {
				b.trips += n
			}
		})
	})
}

// resend has all users and trips sent again, and tells how many are marked.
func (s *backfillService) resend(ctx context.Context, marked func(kind, int64)) error {
	for _, k := range []kind{kindUser, kindTrip} {
		var after seal.Index
		for {
			page, err := s.store.page(ctx, k, after, backfillPage)
			if err != nil {
				return fmt.Errorf("read %ss: %w", k, err)
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1]
			found, err := s.store.find(ctx, k, page)
			if err != nil {
				return fmt.Errorf("read %ss: %w", k, err)
			}
			for _, t := range found {
				t.copy.remote = nil // its trips come all the same
			}
			if err := s.mark(ctx, slices.Collect(maps.Values(found))); err != nil {
				return fmt.Errorf("mark %ss: %w", k, err)
			}
			marked(k, int64(len(page)))
			s.wake()
		}
	}
	return nil
}

// mark keeps trying: what is left out would never be sent.
func (s *backfillService) mark(ctx context.Context, page []*target) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := s.store.again(ctx, page, s.now())
		if errs.KindOf(err) != errs.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}
