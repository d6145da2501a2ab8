package crm

import (
	"context"
	"slices"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
)

// traceService tells all that is known of one user or trip.
type traceService struct {
	store   *traceStore
	targets *targetService
	log     *eventlog.Log
}

// traced is a user or trip.
type traced struct {
	*shown
	turn
	sent bool // what it should show was sent last
}

// of gives one by its id at the platform. NotFound if no event of it came.
func (s *traceService) of(ctx context.Context, k kind, id string) (*traced, error) {
	w, err := s.targets.of(ctx, k, s.targets.index(k, id))
	if err != nil {
		return nil, err
	}
	if w == nil {
		return nil, errs.New(errs.NotFound, "no event of such a %s came", k)
	}
	t := &traced{shown: w}
	if t.turn, err = s.store.turn(ctx, w.unit, w.entity); err != nil {
		return nil, err
	}
	digest, err := w.digest(s.targets.keys)
	t.sent = w.copy.state == copyExists && w.copy.digest == digest
	return t, err
}

// logPlace is where a log goes on: after so many entries of a time.
type logPlace struct {
	At time.Time `json:"a"`
	N  int       `json:"n"`
}

// logOf gives what happened to a user or trip, the oldest first, and where it
// goes on; nil at the end.
func (s *traceService) logOf(ctx context.Context, k kind, id string, from logPlace, limit int) ([]eventlog.Entry, *logPlace, error) {
	var refs []eventlog.Ref
	if k == kindTrip {
		refs = []eventlog.Ref{{Kind: refTrip, ID: s.targets.index(k, id).String()}}
	} else {
		subjects, err := s.targets.keys.Find(ctx, seal.Alias{Kind: "user_id", Value: id})
		if err != nil {
			return nil, nil, err
		}
		for _, subject := range subjects {
			refs = append(refs, eventlog.Ref{Kind: refUser, ID: subject.String()})
		}
	}
	var all []eventlog.Entry
	for _, ref := range refs {
		list, err := s.oldest(ctx, ref, from.At, from.N+limit+1)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, list...)
	}
	slices.SortStableFunc(all, func(a, b eventlog.Entry) int { return a.Time.Compare(b.Time) })
	all = all[min(from.N, len(all)):]
	if len(all) <= limit {
		return all, nil, nil
	}
	all = all[:limit]
	next := &logPlace{At: all[limit-1].Time}
	if next.At.Equal(from.At) {
		next.N = from.N
	}
	for _, e := range all {
		if e.Time.Equal(next.At) {
			next.N++
		}
	}
	return all, next, nil
}

// oldest gives the oldest entries since a time. The event log gives the newest
// first, so that it is gone through; what is not asked for is not kept.
func (s *traceService) oldest(ctx context.Context, ref eventlog.Ref, from time.Time, n int) ([]eventlog.Entry, error) {
	var kept []eventlog.Entry
	for q := (eventlog.Query{Ref: ref, From: from, Limit: 1000}); ; {
		page, err := s.log.Find(ctx, q)
		if err != nil {
			return nil, err
		}
		kept = append(kept, page.Entries...)
		if drop := len(kept) - n; drop > 0 {
			kept = append(kept[:0], kept[drop:]...)
		}
		if page.Next == "" {
			slices.Reverse(kept)
			return kept, nil
		}
		q.After = page.Next
	}
}
