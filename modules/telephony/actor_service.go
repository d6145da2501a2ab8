package telephony

import (
	"context"
	"fmt"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// aliveFor is how long after its beginning a call counts as waiting or ongoing
// in its queue: the platform may never have told of its end.
const aliveFor = 24 * time.Hour

// actorService tells who answers calls, and what is going on in the queues.
type actorService struct {
	store *actorStore
	keys  *seal.Keyring
	now   func() time.Time
}

func newActorService(db *store.DB, keys *seal.Keyring, now func() time.Time) *actorService {
	return &actorService{&actorStore{db}, keys, now}
}

// foundActor is an actor, opened. Name is nil for one who was erased.
type foundActor struct {
	seenActor
	Name   *actorName
	CallID string
	Since  store.Micros // when what holds now began; 0: not known
}

// list gives a page of actors, and whether more follow.
func (s *actorService) list(ctx context.Context, q actorQuery) (page []foundActor, more bool, err error) {
	q.Limit++
	rows, err := s.store.list(ctx, q)
	if err != nil {
		return nil, false, fmt.Errorf("find actors: %w", err)
	}
	if more = len(rows) == q.Limit; more {
		rows = rows[:q.Limit-1]
	}
	sealed := make(map[seal.Index]sealedActor, len(rows))
	for i := range rows {
		sealed[rows[i].Actor] = rows[i].Name
	}
	names, err := openActors(ctx, s.keys, sealed)
	if err != nil {
		return nil, false, err
	}
	page = make([]foundActor, len(rows))
	for i := range rows {
		page[i] = foundActor{seenActor: rows[i], Since: rows[i].since()}
		if name, ok := names[rows[i].Actor]; ok {
			page[i].Name = &name
		}
		if rows[i].OnCall {
			id, err := s.keys.System().Open(nil, rows[i].Call, sealName)
			if err != nil {
				return nil, false, fmt.Errorf("open the id of a call: %w", err)
			}
			page[i].CallID = string(id)
		}
	}
	return page, more, nil
}

// loggedIn tells whether the actor takes calls of any queue, paused whether he
// is paused in all of those.
func (a *seenActor) loggedIn() (in, paused bool) {
	paused = true
	for _, q := range a.Queues {
		if q.LoggedIn {
			in, paused = true, paused && q.Paused
		}
	}
	return in, in && paused
}

// since is when what holds of an actor now began: the call, the pause, the time
// without a call, or the time without a login.
func (a *seenActor) since() store.Micros {
	if a.OnCall {
		return a.CallAt
	}
	in, paused := a.loggedIn()
	var login, changed, out store.Micros
	for _, q := range a.Queues {
		switch {
		case !in:
			out = max(out, q.LoggedAt)
		case q.LoggedIn:
			if login == 0 || q.LoggedAt < login {
				login = q.LoggedAt
			}
			if q.Paused == paused {
				changed = max(changed, q.PausedAt)
			}
		}
	}
	switch {
	case !in:
		return out
	case paused:
		return changed
	}
	return max(login, changed, a.CallAt)
}

// foundQueue is what is going on in a queue.
type foundQueue struct {
	seenQueue
	LongestWait time.Duration // of those who wait now
}

// queues gives a page of queues, and whether more follow. From is since when
// calls are counted; zero means since midnight UTC.
func (s *actorService) queues(ctx context.Context, from time.Time, after string, limit int) (page []foundQueue, begin store.Micros, more bool, err error) {
	now := s.now().UTC()
	if from.IsZero() {
		from = now.Truncate(24 * time.Hour)
	}
	switch {
	case from.After(now):
		return nil, 0, false, errs.InvalidFields("the time range is empty", errs.Field{Location: "query.from", Message: "lies in the future"})
	case now.Sub(from) > maxStatRange:
		return nil, 0, false, errs.InvalidFields("the time range is too long", errs.Field{Location: "query.from", Message: "lies more than 366 days back"})
	}
	begin = floorHour(from)
	rows, err := s.store.queues(ctx, queueQuery{From: begin, Alive: store.MicrosOf(now.Add(-aliveFor)), After: after, Limit: limit + 1})
	if err != nil {
		return nil, 0, false, fmt.Errorf("find queues: %w", err)
	}
	if more = len(rows) > limit; more {
		rows = rows[:limit]
	}
	page = make([]foundQueue, len(rows))
	for i, r := range rows {
		page[i].seenQueue = r
		if r.Oldest != 0 {
			page[i].LongestWait = max(now.Sub(r.Oldest.Time()), 0)
		}
	}
	return page, begin, more, nil
}
