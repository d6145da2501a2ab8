package bus

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/errs"
)

// ErrNoSpace is in the chain of the errors that a full disk, or a bus that may
// grow no further, causes. Their kind is errs.Unavailable.
var ErrNoSpace = errors.New("no space left for the bus")

// errClosed is the answer of a bus that was closed.
var errClosed = errs.New(errs.Unavailable, "the bus is closed")

// Bus is a connection to the messages of the product. Its methods may be
// called from any goroutine.
type Bus struct {
	cfg  Config
	log  *slog.Logger
	m    *instruments
	lock *os.File
	addr string // where the embedded server listens; written only by newLink

	link    atomic.Pointer[link]    // nil while there is none
	refusal atomic.Pointer[refusal] // why publishing is refused; nil when it is not
	guard   guard

	mu       sync.Mutex
	linked   chan struct{} // closed and replaced when a link is set
	rejoined chan struct{} // closed and replaced when the connection came back
	streams  map[string]Stream
	ledger   *ledger
	watched  map[*Consumer]struct{} // consumers running here, for their metrics
	groups   []*Group
	ended    bool // every blocking call has returned

	base      context.Context // ends with Close
	endBase   context.CancelFunc
	closed    chan struct{} // Close has begun
	closeOnce sync.Once
	running   sync.WaitGroup
}

type refusal struct{ err error }

// Open starts the embedded server (or connects to the external one, waiting
// for it at most 15 s) and returns when the bus takes messages. log and reg may be
// nil. Errors are of kind Invalid (settings), Conflict (directory in use) or
// Unavailable.
func Open(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Bus, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m, err := newInstruments(reg)
	if err != nil {
		return nil, err
	}
	b := &Bus{
		cfg: cfg.withDefaults(), log: log, m: m, addr: cfg.Listen,
		linked: make(chan struct{}), rejoined: make(chan struct{}), closed: make(chan struct{}),
		streams: map[string]Stream{}, watched: map[*Consumer]struct{}{},
	}
	b.base, b.endBase = context.WithCancel(context.WithoutCancel(ctx))
	b.guard.kick = make(chan struct{}, 1)
	if err := b.open(ctx); err != nil {
		b.endBase()
		m.unregister()
		if b.lock != nil {
			_ = b.lock.Close()
		}
		return nil, err
	}
	return b, nil
}

func (b *Bus) open(ctx context.Context) error {
	if b.embedded() {
		if b.cfg.Dir == "" {
			return errs.New(errs.Invalid, "bus: dir is needed for the embedded server")
		}
		if err := os.MkdirAll(b.cfg.Dir, 0o700); err != nil {
			return errs.Wrap(errs.Unavailable, err, "bus: make the directory")
		}
		var err error
		if b.lock, err = lockDir(b.cfg.Dir); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	l, err := b.newLink(ctx)
	if err != nil {
		return err
	}
	b.setLink(l)
	if err := b.openLedger(ctx, l); err != nil {
		l.close()
		return err
	}
	if err := b.Declare(ctx, deadStream); err != nil {
		l.close()
		return err
	}
	return nil
}

func (b *Bus) embedded() bool { return b.cfg.URL == "" }

// ClientURL is where other processes reach the embedded server, "" when it
// does not listen or the server is external.
func (b *Bus) ClientURL() string {
	if l := b.link.Load(); l != nil && l.srv != nil && b.cfg.Listen != "" {
		return l.srv.ClientURL()
	}
	return ""
}

// Shared tells whether other processes can be on this bus.
func (b *Bus) Shared() bool { return !b.embedded() || b.cfg.Listen != "" }

// Ready is nil when the bus takes messages, else an error of kind
// errs.Unavailable with the reason (ErrNoSpace in its chain on a full disk).
// Publish and Group.Publish return the same error at once.
func (b *Bus) Ready() error {
	select {
	case <-b.closed:
		return errClosed
	default:
	}
	if err := b.refused(); err != nil {
		return err
	}
	l := b.link.Load()
	if l == nil || !l.nc.IsConnected() {
		return errs.New(errs.Unavailable, "the bus is not connected")
	}
	return nil
}

// refused is the reason for which nothing is published now.
func (b *Bus) refused() error {
	if r := b.refusal.Load(); r != nil {
		return r.err
	}
	return nil
}

// refuse sets or, with nil, takes back the reason.
func (b *Bus) refuse(err error) {
	old := b.refusal.Load()
	if err == nil {
		if old != nil {
			b.refusal.Store(nil)
			b.log.Info("bus takes messages again")
		}
		b.m.ready.Set(1)
		return
	}
	if old == nil || old.err.Error() != err.Error() {
		b.log.Error("bus refuses messages", "error", err)
	}
	b.refusal.Store(&refusal{err})
	b.m.ready.Set(0)
}

// MaxItem is the largest item in bytes that Group.Publish takes and the
// largest Data of Publish: on the embedded server somewhat below 10 MiB.
func (b *Bus) MaxItem() int {
	if b.embedded() {
		return maxPayload - payloadSlack
	}
	if l := b.link.Load(); l != nil {
		if n := int(l.nc.MaxPayload()); n > 2*payloadSlack {
			return n - payloadSlack
		}
	}
	return 1<<20 - payloadSlack // the default of a NATS server
}

func (b *Bus) setLink(l *link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.link.Store(l)
	close(b.linked)
	b.linked = make(chan struct{})
}

// dropLink takes the present link away from everybody and returns it.
func (b *Bus) dropLink() *link {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.link.Load()
	if l != nil {
		b.link.Store(nil)
		close(l.gone)
	}
	return l
}

// attach gives the present link, waiting for one while the server restarts.
func (b *Bus) attach(ctx context.Context) (*link, error) {
	for {
		b.mu.Lock()
		l, linked := b.link.Load(), b.linked
		b.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-linked:
		case <-ctx.Done():
			return nil, errs.Wrap(errs.Unavailable, ctx.Err(), "wait for the bus")
		case <-b.closed:
			return nil, errClosed
		}
	}
}

// reconnected tells everybody that the connection came back: open pull
// requests were lost with the old one.
func (b *Bus) reconnected() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.rejoined)
	b.rejoined = make(chan struct{})
}

func (b *Bus) rejoin() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rejoined
}

// Close writes the ledger, drains the connection and stops the embedded
// server. Blocking calls return; those who end their context first lose
// nothing of what their handlers were doing. Later calls do nothing.
func (b *Bus) Close() error {
	var err error
	b.closeOnce.Do(func() {
		b.mu.Lock() // no blocking call enters any more
		close(b.closed)
		b.mu.Unlock()
		b.endBase()
		b.running.Wait() // Run and the subscriptions let go of the link first
		b.mu.Lock()
		b.ended = true
		groups := b.groups
		b.mu.Unlock()
		for _, g := range groups {
			g.end()
		}
		if l := b.link.Load(); l != nil {
			drain(l.nc)
			b.sweep(context.Background(), l)
			b.saveLedger(context.Background(), l, true)
			b.dropLink()
			l.close()
		}
		b.m.unregister()
		if b.lock != nil {
			err = b.lock.Close()
		}
	})
	return err
}

// drain flushes what was published and acknowledged. The connection itself is
// closed by the link: subscriptions have ended already.
func drain(nc *nats.Conn) {
	if nc.IsConnected() {
		_ = nc.FlushTimeout(2 * time.Second)
	}
}

// enter counts a blocking call in, so that Close can wait for it. The returned
// context ends with ctx or with the bus.
func (b *Bus) enter(ctx context.Context) (context.Context, func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.closed:
		return nil, nil, errClosed
	default:
	}
	b.running.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(b.base, cancel)
	return ctx, func() {
		unhook()
		cancel()
		b.running.Done()
	}, nil
}

// pause waits for d or the end of ctx; it tells whether d passed.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
