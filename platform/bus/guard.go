package bus

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/platform/errs"
)

const (
	guardEvery    = 500 * time.Millisecond
	ledgerEvery   = 10 * time.Second
	pendingEvery  = 5 * time.Second
	restartAtMost = 3 * time.Second // longest pause between two restarts

	// probeSize must be writable before a failed server is started again.
	probeSize = 1 << 20

	// silentTries is how many tries in a row must have gone unanswered, and
	// silentFor for how long, before a server that calls itself healthy is
	// restarted. A slow disk is no reason.
	silentTries = 6
	silentFor   = 15 * time.Second
)

// guard is what publishers tell the loop in Run.
type guard struct {
	kick      chan struct{}
	unheard   atomic.Int64 // tries without an answer since the last answer
	firstTime atomic.Int64 // of them, unix nanoseconds
	making    atomic.Int64 // streams that are being declared now
}

// answered notes that the server works.
func (g *guard) answered() {
	if g.unheard.Load() != 0 {
		g.unheard.Store(0)
	}
}

// silent notes a try without an answer and has the guard look at once.
func (g *guard) silent() {
	if g.unheard.Add(1) == 1 {
		g.firstTime.Store(time.Now().UnixNano())
	}
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// mute tells whether the server has been silent for too long.
func (g *guard) mute() bool {
	return g.unheard.Load() >= silentTries && time.Since(time.Unix(0, g.firstTime.Load())) > silentFor
}

// Run guards the bus until ctx ends, then returns nil: it watches the embedded
// server's health and the free space, refuses publishers and restarts the
// server as needed, keeps the ledger and the figures. It must run as long as
// the bus is used.
func (b *Bus) Run(ctx context.Context) error {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	check := time.NewTicker(guardEvery)
	defer check.Stop()
	record := time.NewTicker(ledgerEvery)
	defer record.Stop()
	figures := time.NewTicker(pendingEvery)
	defer figures.Stop()
	var sweeper sync.WaitGroup
	defer sweeper.Wait()
	sweeper.Go(func() { b.sweeping(ctx) })
	var r restarts
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-check.C:
			b.check(ctx, &r)
		case <-b.guard.kick:
			b.check(ctx, &r)
		case <-record.C:
			if l := b.link.Load(); l != nil && b.refused() == nil {
				b.saveLedger(ctx, l, false)
			}
		case <-figures.C:
			if l := b.link.Load(); l != nil && (!b.embedded() || b.broken() == nil) {
				b.collect(ctx, l)
			}
		}
	}
}

// restarts spaces the attempts out.
type restarts struct {
	next time.Time
	wait time.Duration
	seen bool // the fault was there at the check before
}

// check looks at the server and the disk and acts.
func (b *Bus) check(ctx context.Context, r *restarts) {
	if !b.embedded() {
		ready := 0.0
		if b.Ready() == nil {
			ready = 1
		}
		b.m.ready.Set(ready)
		return
	}
	free := freeSpace(b.cfg.Dir)
	b.m.free.Set(float64(free))
	need := int64(b.cfg.MinFree)
	if b.refused() != nil {
		need += need / 4 // not back and forth at the edge
	}
	low := free >= 0 && free < need
	broken := b.broken()
	// A stream that is just being made looks like one that could not be
	// recovered: what no publisher has felt must be there twice, and once nobody
	// makes one, which takes long on a slow disk.
	if broken != nil && (!r.seen || b.guard.making.Load() > 0 && unrecovered(broken)) && b.refused() == nil && b.guard.unheard.Load() == 0 {
		r.seen = true
		broken = nil
	} else {
		r.seen = broken != nil
	}
	switch {
	case broken == nil && !low:
		b.refuse(nil)
		*r = restarts{seen: r.seen}
		return
	case broken == nil:
		b.refuse(errs.Wrap(errs.Unavailable, ErrNoSpace, "the bus takes no messages (%d MiB free)", free>>20))
		return
	case low || noSpace(broken):
		b.refuse(errs.Wrap(errs.Unavailable, ErrNoSpace, "the bus takes no messages (%d MiB free)", free>>20))
	default:
		b.refuse(errs.Wrap(errs.Unavailable, broken, "the bus is failing"))
	}
	// A server that failed for want of space would fail again.
	if low || time.Now().Before(r.next) {
		return
	}
	err := probeDisk(b.cfg.Dir)
	if err != nil {
		if noSpace(err) {
			err = errors.Join(ErrNoSpace, err)
		}
		b.refuse(errs.Wrap(errs.Unavailable, err, "the bus cannot write to its disk"))
		r.next = time.Now().Add(guardEvery)
		return
	}
	err = b.restart(ctx)
	if err == nil && b.broken() == nil {
		b.refuse(nil)
		*r = restarts{}
		return
	}
	if err != nil {
		b.log.Error("bus restart failed, trying again", "error", err)
	}
	r.wait = min(max(2*r.wait, 500*time.Millisecond), restartAtMost)
	r.next = time.Now().Add(r.wait)
}

// probeDisk tries what the server is about to do: free space alone does not
// tell of quotas and of disks that fail.
func probeDisk(dir string) error {
	f, err := os.CreateTemp(dir, "probe.*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(make([]byte, probeSize))
	return errors.Join(err, f.Sync(), f.Close())
}

// broken is what is wrong with the embedded server.
func (b *Bus) broken() error {
	l := b.link.Load()
	if l == nil {
		return errors.New("the embedded server is down")
	}
	if err := health(l.srv); err != nil {
		return err
	}
	if b.guard.mute() {
		return errors.New("the embedded server does not answer")
	}
	return nil
}

// restart puts a new server and connection in the place of the present ones.
// The loops of Consume, Watch, Listen and Serve see the old link go and attach
// themselves to the new one.
func (b *Bus) restart(ctx context.Context) error {
	b.log.Warn("bus guard restarts the embedded server")
	b.m.restarts.Inc()
	if old := b.dropLink(); old != nil {
		old.close()
	}
	b.guard.unheard.Store(0)
	l, err := b.newLink(ctx)
	if err != nil {
		return err
	}
	for _, s := range b.declared() {
		if err := b.declareOn(ctx, l, s); err != nil {
			l.close()
			return err
		}
	}
	b.compareLedger(ctx, l)
	b.setLink(l)
	return nil
}

// collect sets the figures that must be asked for.
func (b *Bus) collect(ctx context.Context, l *link) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	b.mu.Lock()
	consumers := make([]Consumer, 0, len(b.watched))
	for c := range b.watched {
		consumers = append(consumers, *c)
	}
	b.mu.Unlock()
	for _, c := range consumers {
		cons, err := l.js.Consumer(ctx, c.Stream, c.Name)
		if err != nil {
			continue
		}
		info := cons.CachedInfo()
		b.m.pending.WithLabelValues(c.Stream, c.Name).Set(float64(info.NumPending))
		b.m.unacked.WithLabelValues(c.Stream, c.Name).Set(float64(info.NumAckPending))
	}
	for _, s := range b.declared() {
		if st, err := l.js.Stream(ctx, s.Name); err == nil {
			b.m.streamBytes.WithLabelValues(s.Name).Set(float64(st.CachedInfo().State.Bytes))
		}
	}
}
