package telephony

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// maxStatRange is the longest time that statistics are given for at once.
const maxStatRange = 366 * 24 * time.Hour

// statService answers what came of calls and what actors did.
type statService struct {
	store *statStore
	keys  *seal.Keyring
	now   func() time.Time
}

func newStatService(db *store.DB, keys *seal.Keyring, now func() time.Time) *statService {
	return &statService{&statStore{db}, keys, now}
}

// span completes a range of time: zero times mean the 24 hours before to, and
// now. Errors: Invalid for one that is empty or too long.
func (s *statService) span(from, to time.Time) (time.Time, time.Time, error) {
	if to.IsZero() {
		to = s.now().UTC()
	}
	if from.IsZero() {
		from = to.Add(-24 * time.Hour)
	}
	switch {
	case !from.Before(to):
		return from, to, errs.InvalidFields("the time range is empty", errs.Field{Location: "query.to", Message: "is not after from"})
	case to.Sub(from) > maxStatRange:
		return from, to, errs.InvalidFields("the time range is too long", errs.Field{Location: "query.from", Message: "lies more than 366 days before to"})
	}
	return from, to, nil
}

// wholeHours widens a range to the hours that its ends lie in.
func wholeHours(from, to time.Time) (begin, end store.Micros) {
	begin, end = floorHour(from), floorHour(to)
	if end < store.MicrosOf(to) {
		end += store.Micros(hour)
	}
	return begin, end
}

// floorHour is the beginning of the hour of UTC that t lies in, also before 1970.
func floorHour(t time.Time) store.Micros {
	at := int64(store.MicrosOf(t))
	return store.Micros(at - ((at%hour)+hour)%hour)
}

// figuresRow is a row of statistics, opened. Actor is nil for one who is not
// known any more.
type figuresRow struct {
	statRow
	Actor *string
}

// list gives a page of the groups of q, whether more follow, and the total.
func (s *statService) list(ctx context.Context, q statQuery) (page []figuresRow, more bool, total counter, err error) {
	q.Limit++
	rows, total, err := s.store.list(ctx, q)
	if err != nil {
		return nil, false, total, fmt.Errorf("sum statistics: %w", err)
	}
	if more = len(rows) == q.Limit; more {
		rows = rows[:q.Limit-1]
	}
	var wanted []seal.Index
	seen := map[seal.Index]bool{}
	for _, r := range rows {
		if x := r.actor(); x != nil && !seen[*x] {
			seen[*x] = true
			wanted = append(wanted, *x)
		}
	}
	names, err := s.names(ctx, wanted)
	if err != nil {
		return nil, false, total, err
	}
	page = make([]figuresRow, len(rows))
	for i, r := range rows {
		page[i].statRow = r
		if x := r.actor(); x != nil {
			if name, ok := names[*x]; ok {
				page[i].Actor = &name.Actor
			}
		}
	}
	return page, more, total, nil
}

// actor gives whose row it is; nil if it is nobody's.
func (r *statRow) actor() *seal.Index {
	if len(r.Actor) != len(seal.Index{}) {
		return nil
	}
	return (*seal.Index)(r.Actor)
}

// names opens the names of actors. Those who were erased are not in it.
func (s *statService) names(ctx context.Context, actors []seal.Index) (map[seal.Index]actorName, error) {
	rest, err := s.store.names(ctx, actors)
	if err != nil {
		return nil, fmt.Errorf("find actors: %w", err)
	}
	return openActors(ctx, s.keys, rest)
}

// openActors opens names of actors, and leaves out those who were erased.
func openActors(ctx context.Context, keys *seal.Keyring, names map[seal.Index]sealedActor) (map[seal.Index]actorName, error) {
	order := make([]seal.Index, 0, len(names))
	subjects := make([]seal.Subject, 0, len(names))
	for x, name := range names {
		order, subjects = append(order, x), append(subjects, name.Subject)
	}
	ciphers, err := keys.Ciphers(ctx, subjects)
	if err != nil {
		return nil, fmt.Errorf("open names of actors: %w", err)
	}
	out := make(map[seal.Index]actorName, len(names))
	for i, x := range order {
		plain, err := ciphers[i].Open(nil, names[x].Sealed, sealActor)
		if errors.Is(err, seal.ErrErased) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open the name of an actor: %w", err)
		}
		var name actorName
		if err := json.Unmarshal(plain, &name); err != nil {
			return nil, fmt.Errorf("open the name of an actor: %w", err)
		}
		out[x] = name
	}
	return out, nil
}

// actorIndex is the blind index of an actor's name as it was posted.
func (s *statService) actorIndex(name string) seal.Index { return s.keys.Index("actor", name) }
