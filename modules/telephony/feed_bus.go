package telephony

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"switchboard/platform/bus"
)

// subjectStored tells other instances where the call log ends now: eight bytes,
// big-endian.
const subjectStored = "telephony.stored"

const (
	// feedLook is how often the log is looked at where other instances write it
	// too: a broadcast may get lost.
	feedLook = time.Second
	// feedPage is how many events are read at once.
	feedPage = 256
	// A listener that falls further behind than this is let go.
	feedQueue      = 256
	feedQueueBytes = 16 << 20
)

// feed tells listeners here what is stored on any instance. What it tells, it
// reads from the log by id: in one order everywhere, and nothing is missed.
type feed struct {
	bus    *bus.Bus
	events *eventService
	log    *slog.Logger
	wake   chan struct{}
	own    atomic.Int64 // end of the log as this instance wrote it
	known  atomic.Int64 // end of the log as far as it is known here

	mu        sync.Mutex
	listeners map[*listener]bool
	readers   int   // of the listeners, those that want events
	told      int64 // up to here listeners know that something was stored
	position  int64 // up to here events were handed out

	endMu   sync.Mutex
	endNext *endRead // those who wait for the next look at the end of the log
	looking sync.Mutex
}

func newFeed(b *bus.Bus, events *eventService, log *slog.Logger) *feed {
	return &feed{bus: b, events: events, log: log, wake: make(chan struct{}, 1), listeners: map[*listener]bool{}}
}

// listener hears of what is stored.
type listener struct {
	// changed gets one when something was stored since it was last read.
	changed chan struct{}
	// queue has the stored events in order, if they were asked for.
	queue chan *liveEvent
	// behind is closed when the queue was full: the listener gets no more.
	behind chan struct{}

	// Guarded by the feed's mutex.
	wantsEvents bool
	call        string // only events of this call, all if empty
	after       int64  // only events behind this place
	bytes       atomic.Int64
}

// liveEvent is an event that was stored, and its frame, which all listeners share.
type liveEvent struct {
	id    int64
	frame []byte
}

// took says that an event of the queue is dealt with.
func (l *listener) took(e *liveEvent) { l.bytes.Add(-int64(len(e.frame))) }

// listen adds a listener until end is called. With events it gets those that
// are stored from now on.
func (f *feed) listen(ctx context.Context, events bool, call string) (l *listener, end func(), err error) {
	l = &listener{changed: make(chan struct{}, 1), wantsEvents: events, call: call}
	if events {
		l.queue, l.behind = make(chan *liveEvent, feedQueue), make(chan struct{})
		if l.after, err = f.end(ctx); err != nil {
			return nil, nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listeners[l] = true
	if events {
		if f.readers++; f.readers == 1 {
			f.position = l.after
		}
	}
	return l, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.drop(l)
	}, nil
}

// narrow makes the listener hear of one call alone, or of all.
func (f *feed) narrow(l *listener, call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l.call = call
}

func (f *feed) drop(l *listener) {
	if !f.listeners[l] {
		return
	}
	delete(f.listeners, l)
	if l.wantsEvents {
		f.readers--
	}
}

// stored is called after a commit here, with the end of the log. It never blocks.
func (f *feed) stored(last int64) {
	atLeast(&f.own, last)
	f.raise(last)
}

// raise makes known that the log reaches this far.
func (f *feed) raise(last int64) {
	if atLeast(&f.known, last) {
		select {
		case f.wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// atLeast raises a number and tells whether it was lower.
func atLeast(n *atomic.Int64, to int64) bool {
	for {
		was := n.Load()
		if was >= to {
			return false
		}
		if n.CompareAndSwap(was, to) {
			return true
		}
	}
}

// start finds where the log ends, so that listeners hear of what comes.
func (f *feed) start(ctx context.Context) error {
	last, err := f.events.head(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told, f.position = last, last
	atLeast(&f.known, last)
	atLeast(&f.own, last)
	return nil
}

// run tells listeners until ctx ends.
func (f *feed) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if f.bus.Shared() {
		g.Go(func() error { return f.bus.Listen(ctx, subjectStored, f.heard) })
		g.Go(func() error { return f.look(ctx) })
	}
	g.Go(func() error { return f.tell(ctx) })
	return g.Wait()
}

// heard takes what another instance says.
func (f *feed) heard(data []byte) {
	if len(data) == 8 {
		f.raise(int64(binary.BigEndian.Uint64(data))) //nolint:gosec // an id of the log
	}
}

// look looks at the end of the log now and then, which makes it known.
func (f *feed) look(ctx context.Context) error {
	tick := time.NewTicker(feedLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := f.end(ctx); err != nil && ctx.Err() == nil {
				f.log.Warn("the end of the call log cannot be read", "error", err)
			}
		}
	}
}

// tell wakes listeners and hands them events.
func (f *feed) tell(ctx context.Context) error {
	var said int64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
		if own := f.own.Load(); own > said && f.bus.Shared() {
			said = own
			// An instance that misses it looks by itself.
			_ = f.bus.Broadcast(subjectStored, binary.BigEndian.AppendUint64(nil, uint64(own))) //nolint:gosec // an id of the log
		}
		f.tellChanged()
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = f.hand(ctx); err != nil && ctx.Err() == nil {
				f.log.Warn("stored events cannot be read for listeners", "error", err)
				f.again(ctx)
				break
			}
		}
	}
}

// again has the feed look again in a while.
func (f *feed) again(ctx context.Context) {
	pause := time.NewTimer(feedLook)
	defer pause.Stop()
	select {
	case <-ctx.Done():
	case <-pause.C:
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// tellChanged tells every listener once that something was stored.
func (f *feed) tellChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.known.Load()
	if known <= f.told {
		return
	}
	f.told = known
	for l := range f.listeners {
		select {
		case l.changed <- struct{}{}:
		default: // it has yet to read the last one
		}
	}
}

// hand reads the next events for those who want them, and tells whether there
// may be more. Without such listeners nothing is read.
func (f *feed) hand(ctx context.Context) (more bool, err error) {
	f.mu.Lock()
	from, known, readers := f.position, f.known.Load(), f.readers
	f.mu.Unlock()
	if readers == 0 || from >= known {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, boardReadTime)
	defer cancel()
	page, more, err := f.events.find(ctx, eventQuery{After: from, Limit: feedPage})
	if err != nil {
		return false, err
	}
	// Ids have no gaps, so that a full page reaches this far even if events of
	// persons who were erased are missing at its end.
	reached := known
	if more {
		reached = from + feedPage
	}
	if len(page) > 0 {
		reached = max(reached, page[len(page)-1].ID)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.position = max(f.position, reached)
	for i := range page {
		f.handOut(&page[i])
	}
	return true, nil
}

// handOut puts an event into the queues of those who want it. It never waits
// for one.
func (f *feed) handOut(r *recorded) {
	var e *liveEvent
	for l := range f.listeners {
		if !l.wantsEvents || r.ID <= l.after || l.call != "" && l.call != r.CallID {
			continue
		}
		if e == nil {
			e = &liveEvent{r.ID, frameCallEvent(r)}
		}
		size := int64(len(e.frame))
		if waits := l.bytes.Add(size); waits > feedQueueBytes && waits > size {
			f.fallen(l)
			continue
		}
		select {
		case l.queue <- e:
		default:
			f.fallen(l)
		}
	}
}

// fallen lets a listener go that is too far behind.
func (f *feed) fallen(l *listener) {
	f.drop(l)
	close(l.behind)
}

// endRead is a look at the end of the log, for all who wait for it.
type endRead struct {
	done chan struct{}
	last int64
	err  error
}

// end gives the id of the last event of the log, read after the call: what was
// acknowledged before it, on any instance, is counted in. Those who ask while a
// look is under way share the next one.
func (f *feed) end(ctx context.Context) (int64, error) {
	f.endMu.Lock()
	r := f.endNext
	leads := r == nil
	if leads {
		r = &endRead{done: make(chan struct{})}
		f.endNext = r
	}
	f.endMu.Unlock()
	if leads {
		f.lookAt(ctx, r)
	}
	select {
	case <-r.done:
		return r.last, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (f *feed) lookAt(ctx context.Context, r *endRead) {
	f.looking.Lock()
	defer f.looking.Unlock()
	f.endMu.Lock()
	f.endNext = nil // who comes from here on needs another look
	f.endMu.Unlock()
	defer close(r.done)
	// Others wait for this too, whatever becomes of the one who asked first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), boardReadTime)
	defer cancel()
	if r.last, r.err = f.events.head(ctx); r.err == nil {
		f.raise(r.last)
	}
}
