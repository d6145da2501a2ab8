package collector

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"switchboard/platform/bus"
)

// live sends stored events to whoever watches, on any instance. Nobody
// watching costs nothing: instances with watchers say so every few seconds.
type live struct {
	bus    *bus.Bus
	now    func() time.Time
	wanted atomic.Int64 // until when, in Unix nanoseconds

	mu       sync.Mutex
	watchers map[*watcher]bool
}

// watcher is one who watches, here.
type watcher struct {
	wants  func(*item) bool
	events chan *item
	missed atomic.Int64 // events that came while events was full
}

const (
	subjectLive       = "collector.live"
	subjectLiveWanted = "collector.live.wanted"
	liveWantedEvery   = 5 * time.Second
	liveWantedFor     = 3 * liveWantedEvery
	liveBuffer        = 256 // events waiting for a slow watcher; more are left out
)

// run hears of events and of instances that want them.
func (l *live) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return l.bus.Listen(ctx, subjectLiveWanted, func([]byte) { l.note() })
	})
	g.Go(func() error { return l.bus.Listen(ctx, subjectLive, l.hear) })
	return g.Wait()
}

// note remembers that someone watches.
func (l *live) note() { l.wanted.Store(l.now().Add(liveWantedFor).UnixNano()) }

// want tells all instances that someone watches.
func (l *live) want() error {
	l.note()
	return l.bus.Broadcast(subjectLiveWanted, nil)
}

// watch adds a watcher for what wants picks, until end is called.
func (l *live) watch(wants func(*item) bool) (w *watcher, end func()) {
	w = &watcher{wants: wants, events: make(chan *item, liveBuffer)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watchers == nil {
		l.watchers = map[*watcher]bool{}
	}
	l.watchers[w] = true
	return w, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, w)
	}
}

// hear hands an event to the watchers here. It never waits for one.
func (l *live) hear(data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.watchers) == 0 {
		return
	}
	it, err := decodeItem(bytes.Clone(data))
	if err != nil {
		return // of another version of the program
	}
	for w := range l.watchers {
		if !w.wants(it) {
			continue
		}
		select {
		case w.events <- it:
		default:
			w.missed.Add(1)
		}
	}
}

// publish sends the events that were new.
func (l *live) publish(events []*item, fresh []eventRow) {
	if l.now().UnixNano() > l.wanted.Load() {
		return
	}
	stored := make(map[[16]byte]bool, len(fresh))
	for i := range fresh {
		stored[fresh[i].EventID] = true
	}
	for _, it := range events {
		if !stored[it.EventID] {
			continue
		}
		delete(stored, it.EventID)
		// A watcher that misses one can query: live is best effort.
		_ = l.bus.Broadcast(subjectLive, it.encode())
	}
}
