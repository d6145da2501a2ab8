// Package quota divides the rate at which another service may be called among
// all instances of the product that call it.
package quota

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"switchboard/platform/bus"
)

const (
	// beatEvery is how often an instance tells that it is there.
	beatEvery = time.Second
	// goneAfter is when one that was not heard of counts as gone.
	goneAfter = 4 * time.Second
	// leaves goes before the name of one that stops.
	leaves = "-"
)

// Quota is a token bucket that the instances share: each takes an equal part
// of the rate, and a tenth of a second of it at once. A newcomer is heard of at
// once, one that was killed is missed after goneAfter. While the bus is away
// the parts stay as they are.
type Quota struct {
	bus     *bus.Bus
	subject string
	name    string // of this instance
	whole   float64
	limit   *rate.Limiter
	now     func() time.Time

	mu    sync.Mutex
	heard map[string]time.Time // when, of the other instances
}

// New makes a quota of so many calls per second, 0 for no limit, for all who give
// the same name on the same bus. It divides while its Run runs.
func New(b *bus.Bus, name string, perSecond float64, now func() time.Time) *Quota {
	q := &Quota{bus: b, subject: "quota." + name, name: rand.Text(), whole: perSecond, limit: rate.NewLimiter(rate.Inf, 1), now: now, heard: map[string]time.Time{}}
	q.divide(0)
	return q
}

// Wait waits until a call may go; an error only when ctx ends before.
func (q *Quota) Wait(ctx context.Context) error { return q.limit.Wait(ctx) }

// Run takes part until ctx ends; then it leaves its part to the others and
// returns nil.
func (q *Quota) Run(ctx context.Context) error {
	if q.whole == 0 {
		<-ctx.Done()
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return q.bus.Listen(ctx, q.subject, q.hear) })
	g.Go(func() error {
		q.run(ctx)
		return nil
	})
	return g.Wait()
}

func (q *Quota) run(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		q.beat()
		select {
		case <-tick.C:
		case <-ctx.Done():
			// Who does not hear it misses us later.
			_ = q.bus.Broadcast(q.subject, []byte(leaves+q.name))
			return
		}
	}
}

// beat tells that this instance is there, and forgets those who were not heard
// of for long. While the bus is away nobody can be heard of.
func (q *Quota) beat() {
	_ = q.bus.Broadcast(q.subject, []byte(q.name)) // there is a next one
	away := q.bus.Ready() != nil
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	for name, at := range q.heard {
		switch {
		case away:
			q.heard[name] = now
		case now.Sub(at) > goneAfter:
			delete(q.heard, name)
		}
	}
	q.divide(len(q.heard))
}

// hear notes who is there, and answers one who is new.
func (q *Quota) hear(data []byte) {
	name, left := strings.CutPrefix(string(data), leaves)
	if name == q.name {
		return
	}
	q.mu.Lock()
	_, known := q.heard[name]
	if left {
		delete(q.heard, name)
	} else {
		q.heard[name] = q.now()
	}
	q.divide(len(q.heard))
	q.mu.Unlock()
	if !known && !left {
		_ = q.bus.Broadcast(q.subject, []byte(q.name)) // the next beat comes soon
	}
}

// divide sets the part of this instance among so many others.
func (q *Quota) divide(others int) {
	if q.whole == 0 {
		return
	}
	part := q.whole / float64(1+others)
	q.limit.SetLimit(rate.Limit(part))
	q.limit.SetBurst(max(1, int(part/10)))
}
