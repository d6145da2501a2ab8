package bus

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"switchboard/platform/errs"
)

// GroupConfig says how a Group makes its frames.
type GroupConfig struct {
	// Subject on which the frames are published.
	Subject string
	// MaxItems in a frame; at most 1000, which is also the default.
	MaxItems int
	// MaxBytes of a frame, 512 KiB by default; a larger item has a frame of its own.
	MaxBytes int
	// Seal encrypts a frame as a whole; nil leaves it as it is. It may be called
	// by two goroutines at once and must return a slice of its own.
	Seal func(plain []byte) ([]byte, error)
}

const (
	maxGroupItems     = 1000
	defaultGroupBytes = 512 << 10
	// maxGroupWaiting bounds the memory of all items that wait in one group.
	maxGroupWaiting = 64 << 20
	// groupPublishers is how many frames are on their way at once. A second one
	// lets the next frame be sealed and copied while the disk writes the first.
	groupPublishers = 2
	// gatherTurns is how often all else that can run is let go first.
	gatherTurns = 2
)

// Group is a group commit: the items of concurrent calls share messages, so
// that one write to the disk pays for all of them. There is no timer: a
// publisher takes whatever has gathered while the frame before was on its way.
type Group struct {
	b   *Bus
	cfg GroupConfig
	id  string        // begins the message ids
	seq atomic.Uint64 // ends them

	mu       sync.Mutex
	work     sync.Cond // a frame to take, an end of a flight, a stop
	queue    []*frame  // the last one still takes items
	inflight int
	waiting  int // bytes of all frames in the queue and in flight
	stopped  bool
	ended    bool      // with the bus
	spare    sync.Pool // *[]byte of past frames
}

// frame is a message in the making. Its result is read after done is closed.
type frame struct {
	buf   []byte
	items int
	after bool // continues the frame before: it must have landed first
	born  time.Time
	done  chan struct{}
	err   error
}

// Group makes a group commit on one subject. It publishes while its Run runs.
func (b *Bus) Group(cfg GroupConfig) *Group {
	if cfg.MaxItems <= 0 || cfg.MaxItems > maxGroupItems {
		cfg.MaxItems = maxGroupItems
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = defaultGroupBytes
	}
	g := &Group{b: b, cfg: cfg, id: nuid.Next() + "."}
	g.work.L = &g.mu
	b.mu.Lock()
	defer b.mu.Unlock()
	g.ended = b.ended
	b.groups = append(b.groups, g)
	return g
}

// end refuses what no Run took, and all that comes.
func (g *Group) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	for _, f := range g.queue {
		f.err = errClosed
		close(f.done)
	}
	g.queue = nil
}

// Publish returns nil once all items are durable. They keep their order among
// themselves, and a call that begins after another has returned comes after it. The items
// are copied: the caller may reuse them even when ctx ended first, in which case they
// may or may not be stored. Errors: Invalid (an item above Bus.MaxItem),
// Unavailable (refusing, too much waiting, no answer, shutting down, ctx ended).
func (g *Group) Publish(ctx context.Context, items [][]byte) error {
	if len(items) == 0 {
		return nil
	}
	if err := g.b.refused(); err != nil {
		return err
	}
	largest := g.b.MaxItem()
	size := 0
	for _, it := range items {
		if len(it) > largest {
			return errs.New(errs.Invalid, "bus: an item of %d bytes is too large, the limit is %d", len(it), largest)
		}
		size += itemSize(it)
	}
	var few [4]*frame
	frames, err := g.put(few[:0], items, size, min(g.cfg.MaxBytes, largest))
	if err != nil {
		return err
	}
	for _, f := range frames {
		select {
		case <-f.done:
			if f.err != nil {
				return f.err
			}
		case <-ctx.Done():
			return errs.Wrap(errs.Unavailable, ctx.Err(), "publish")
		}
	}
	return nil
}

// put copies the items into frames and returns those frames.
func (g *Group) put(frames []*frame, items [][]byte, size, maxBytes int) ([]*frame, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return nil, errClosed
	}
	if g.stopped {
		return nil, errs.New(errs.Unavailable, "the bus is shutting down")
	}
	// One call is let in whatever its size as long as nothing else waits.
	if g.waiting > 0 && g.waiting+size > maxGroupWaiting {
		return nil, errs.New(errs.Unavailable, "the bus is overloaded: %d MiB are waiting to be stored", g.waiting>>20)
	}
	var f *frame
	if n := len(g.queue); n > 0 {
		f = g.queue[n-1]
	}
	// A call that fits in one frame gets one: frames that continue another
	// must wait for it.
	if f != nil && (f.items+len(items) > g.cfg.MaxItems || len(f.buf)+size > maxBytes) &&
		len(items) <= g.cfg.MaxItems && size < maxBytes {
		f = nil
	}
	for _, it := range items {
		if f == nil || f.items >= g.cfg.MaxItems || len(f.buf)+itemSize(it) > maxBytes {
			f = g.newFrame()
			f.after = len(frames) > 0
			g.queue = append(g.queue, f)
			g.work.Signal()
		}
		before := len(f.buf)
		f.buf = appendItem(f.buf, it)
		f.items++
		g.waiting += len(f.buf) - before
		if n := len(frames); n == 0 || frames[n-1] != f {
			frames = append(frames, f)
		}
	}
	return frames, nil
}

func (g *Group) newFrame() *frame {
	f := &frame{born: time.Now(), done: make(chan struct{})}
	if buf, ok := g.spare.Get().(*[]byte); ok {
		f.buf = (*buf)[:0]
	}
	return f
}

// Run publishes until ctx ends, then publishes what was taken, refuses more
// and returns nil.
func (g *Group) Run(ctx context.Context) error {
	ctx, leave, err := g.b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	g.mu.Lock()
	g.stopped = false
	g.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		g.mu.Lock()
		g.stopped = true
		g.mu.Unlock()
		g.work.Broadcast()
	})
	defer stop()
	var loops sync.WaitGroup
	for range groupPublishers {
		loops.Go(g.loop)
	}
	loops.Wait()
	return nil
}

func (g *Group) loop() {
	for f := g.take(); f != nil; f = g.take() {
		f.err = g.publish(f)
		g.mu.Lock()
		g.inflight--
		g.waiting -= len(f.buf)
		g.mu.Unlock()
		close(f.done)
		g.work.Broadcast()
		if cap(f.buf) <= 2*defaultGroupBytes {
			buf := f.buf
			g.spare.Put(&buf)
		}
	}
}

// take waits for the next frame; nil means that the group has stopped and
// nothing is left.
func (g *Group) take() *frame {
	g.mu.Lock()
	defer g.mu.Unlock()
	gathered := false
	for {
		switch {
		case len(g.queue) > 0 && g.mayFly(g.queue[0]):
			if g.inflight == 0 && !gathered {
				gathered = true
				g.gather()
				continue
			}
			f := g.queue[0]
			g.queue[0] = nil
			g.queue = g.queue[1:]
			g.inflight++
			return f
		case g.stopped && len(g.queue) == 0:
			return nil
		}
		g.work.Wait()
	}
}

// gather lets the requests that wait for the CPU into the next frame: on a busy
// machine they would miss it by microseconds and wait for two writes to the
// disk. On an idle one it returns at once. g.mu is held, but not meanwhile.
func (g *Group) gather() {
	g.inflight++ // no other publisher takes the frame
	g.mu.Unlock()
	for range gatherTurns {
		runtime.Gosched()
	}
	g.mu.Lock()
	g.inflight--
}

// mayFly tells whether f, the first in the queue, should be published now. Beside
// another in flight only a frame that is filled well goes: a small one gathers
// more meanwhile, which is what makes a group commit.
func (g *Group) mayFly(f *frame) bool {
	if g.inflight == 0 {
		return true
	}
	return !f.after && (len(g.queue) > 1 || len(f.buf) >= g.cfg.MaxBytes/4)
}

// publish stores one frame.
func (g *Group) publish(f *frame) error {
	left := g.b.cfg.PublishTimeout - time.Since(f.born)
	if left <= 0 {
		return errs.New(errs.Unavailable, "the bus is overloaded: the turn of these items did not come in time")
	}
	data := f.buf
	if g.cfg.Seal != nil {
		sealed, err := g.cfg.Seal(f.buf)
		if err != nil {
			return err
		}
		data = make([]byte, 1+len(sealed))
		data[0] = frameSealed
		copy(data[1:], sealed)
	}
	msg := &nats.Msg{Subject: g.cfg.Subject, Data: data, Header: nats.Header{
		jetstream.MsgIDHeader: {g.id + strconv.FormatUint(g.seq.Add(1), 36)},
	}}
	// The frame belongs to many callers: none of their contexts ends it.
	if _, err := g.b.publish(context.Background(), msg, left); err != nil {
		return err
	}
	g.b.m.frames.WithLabelValues(g.cfg.Subject).Inc()
	g.b.m.frameItems.WithLabelValues(g.cfg.Subject).Add(float64(f.items))
	return nil
}
