package bus

import (
	"context"
	"errors"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"switchboard/platform/errs"
)

// Broadcast sends data to every Listen on subject in all instances, this one
// included. It is not stored: who is away misses it. Unavailable when the bus is away.
func (b *Bus) Broadcast(subject string, data []byte) error {
	l := b.link.Load()
	if l == nil {
		return errs.New(errs.Unavailable, "bus: broadcast: no connection")
	}
	return errs.Wrap(errs.Unavailable, l.nc.Publish(subject, data), "bus: broadcast")
}

// Listen calls fn with each broadcast on subject, one after another, until ctx
// ends; then it returns nil. What is broadcast while the bus restarts is missed:
// a cache that depends on it needs an age as well.
func (b *Bus) Listen(ctx context.Context, subject string, fn func(data []byte)) error {
	return b.subscribe(ctx, subject, "", func(_ context.Context, _ *link, m *nats.Msg) { fn(m.Data) })
}

const (
	headerKind  = "Bus-Error-Kind"
	headerError = "Bus-Error"
	// serveConcurrency bounds the requests one Serve handles at once.
	serveConcurrency = 16
)

// Request asks whoever serves subject and returns the answer. Without a
// deadline in ctx it waits Config.PublishTimeout. The errors of the one who
// serves keep their kind; Unavailable when nobody does or the time is up.
func (b *Bus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.cfg.PublishTimeout)
		defer cancel()
	}
	l, err := b.attach(ctx)
	if err != nil {
		return nil, err
	}
	m, err := l.nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "bus: request %s", subject)
	}
	if kind := m.Header.Get(headerKind); kind != "" {
		n, _ := strconv.Atoi(kind)
		if n < int(errs.Internal) || n > int(errs.Unavailable) {
			n = int(errs.Internal)
		}
		return nil, errs.New(errs.Kind(n), "%s", m.Header.Get(headerError))
	}
	return m.Data, nil
}

// Serve answers requests on subject, up to 16 at once, until ctx ends; then it
// finishes those it has begun and returns nil. Instances with the same queue
// share the requests; with an empty queue every one answers and the first
// answer counts.
func (b *Bus) Serve(ctx context.Context, subject, queue string, fn func(ctx context.Context, data []byte) ([]byte, error)) error {
	var busy sync.WaitGroup
	defer busy.Wait()
	slots := make(chan struct{}, serveConcurrency)
	return b.subscribe(ctx, subject, queue, func(ctx context.Context, l *link, m *nats.Msg) {
		slots <- struct{}{}
		busy.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
			defer cancel()
			b.answer(ctx, l, m, fn)
		})
	})
}

func (b *Bus) answer(ctx context.Context, l *link, m *nats.Msg, fn func(ctx context.Context, data []byte) ([]byte, error)) {
	out := &nats.Msg{Subject: m.Reply}
	err := func() (err error) {
		defer b.rescue(&err, "serve "+m.Subject)
		out.Data, err = fn(ctx, m.Data)
		return err
	}()
	if err != nil {
		out.Data = nil
		out.Header = nats.Header{headerKind: {strconv.Itoa(int(errs.KindOf(err)))}, headerError: {oneLine(err.Error())}}
	}
	if m.Reply == "" {
		return
	}
	if err := l.nc.PublishMsg(out); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		b.log.Warn("bus answer not sent", "subject", m.Subject, "error", err)
	}
}

// rescue turns a panic of a handler into an error.
func (b *Bus) rescue(err *error, what string) {
	if r := recover(); r != nil {
		b.log.Error("panic in a bus handler", "handler", what, "panic", r, "stack", string(debug.Stack()))
		*err = errs.New(errs.Internal, "panic in the handler of %s", what)
	}
}

// subscribe keeps a core subscription alive across restarts of the server. fn
// runs in this goroutine.
func (b *Bus) subscribe(ctx context.Context, subject, queue string, fn func(context.Context, *link, *nats.Msg)) error {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	for {
		l, err := b.attach(ctx)
		if err != nil {
			return nil // ctx or the bus ended
		}
		if err := b.receive(ctx, l, subject, queue, fn); err != nil {
			if errors.Is(err, nats.ErrBadSubject) || errors.Is(err, nats.ErrBadQueueName) {
				return errs.Wrap(errs.Invalid, err, "bus: subscribe to %q", subject)
			}
			b.log.Warn("bus subscription ended, trying again", "subject", subject, "error", err)
			pause(ctx, 100*time.Millisecond)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (b *Bus) receive(ctx context.Context, l *link, subject, queue string, fn func(context.Context, *link, *nats.Msg)) error {
	ch := make(chan *nats.Msg, 4096)
	sub, err := l.nc.ChanQueueSubscribe(subject, queue, ch)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		select {
		case m, ok := <-ch:
			if !ok {
				return nats.ErrConnectionClosed
			}
			err := func() (err error) {
				defer b.rescue(&err, subject)
				fn(ctx, l, m)
				return nil
			}()
			_ = err // logged by rescue
		case <-ctx.Done():
			return nil
		case <-l.gone:
			return nil
		}
	}
}
