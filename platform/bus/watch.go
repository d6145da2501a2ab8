package bus

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/errs"
)

// Watch calls fn with each message that is stored in stream from now on and
// matches subject ("" for all), one after another and in order, in every
// instance that watches. It catches up after a reconnect or a restart of the
// embedded server. It returns nil when ctx ends. A stream that is missing is
// waited for. Queues cannot be watched: Invalid.
func (b *Bus) Watch(ctx context.Context, stream, subject string, fn func(Message)) error {
	return b.WatchFrom(ctx, stream, subject, 0, fn)
}

// WatchFrom is Watch that begins with the sequence next, such as Replay
// returned it; 0 begins with what is stored from now on.
func (b *Bus) WatchFrom(ctx context.Context, stream, subject string, next uint64, fn func(Message)) error {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	w := &watch{b: b, stream: stream, subject: subject, fn: fn}
	w.next.Store(next)
	for {
		l, err := b.attach(ctx)
		if err != nil {
			return nil // ctx or the bus ended
		}
		err = w.on(ctx, l)
		if ctx.Err() != nil {
			return nil
		}
		if errs.KindOf(err) == errs.Invalid {
			return err
		}
		if err != nil {
			b.log.Warn("bus watch interrupted, trying again", "stream", stream, "error", err)
			pause(ctx, jitter(100*time.Millisecond))
		}
	}
}

type watch struct {
	b               *Bus
	stream, subject string
	fn              func(Message)
	next            atomic.Uint64 // sequence to go on from, 0 before the first attachment
}

func (w *watch) on(ctx context.Context, l *link) error {
	setup, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	st, err := l.js.Stream(setup, w.stream)
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "bus: watch %s", w.stream)
	}
	info := st.CachedInfo()
	if isQueue(info.Config) {
		return errs.New(errs.Invalid, "bus: %s is a queue and cannot be watched", w.stream)
	}
	if w.next.Load() == 0 {
		w.next.Store(info.State.LastSeq + 1)
	}
	cfg := jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: w.next.Load(),
		InactiveThreshold: time.Minute,
	}
	if w.subject != "" {
		cfg.FilterSubjects = []string{w.subject}
	}
	cons, err := st.OrderedConsumer(setup, cfg)
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "bus: watch %s", w.stream)
	}
	lost := atomic.Bool{}
	broken := make(chan struct{})
	run, err := cons.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil {
			return
		}
		func() {
			var err error
			defer w.b.rescue(&err, "watch "+w.stream)
			w.fn(fromNATS(m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream, meta.Timestamp))
		}()
		w.next.Store(meta.Sequence.Stream + 1)
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		// Missing heartbeats are dealt with by the client; these are not.
		if errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
			if lost.CompareAndSwap(false, true) {
				close(broken)
			}
		}
	}))
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "bus: watch %s", w.stream)
	}
	defer func() {
		run.Stop()
		<-run.Closed()
	}()
	select {
	case <-ctx.Done():
	case <-l.gone:
	case <-run.Closed():
	case <-broken:
		return errs.New(errs.Unavailable, "the consumer is away")
	}
	return nil
}

// Replay calls fn with each message that stream has stored since then and that
// matches subject ("" for all), in order, up to those that are there now. It
// returns the sequence with which WatchFrom goes on. Errors: Invalid for a
// queue, Unavailable when the bus or the stream is away or ctx ends.
func (b *Bus) Replay(ctx context.Context, stream, subject string, since time.Time, fn func(Message)) (next uint64, err error) {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	l, err := b.attach(ctx)
	if err != nil {
		return 0, errClosed
	}
	wrap := func(err error) error { return errs.Wrap(errs.Unavailable, err, "bus: replay %s", stream) }
	st, err := l.js.Stream(ctx, stream)
	if err != nil {
		return 0, wrap(err)
	}
	info := st.CachedInfo()
	if isQueue(info.Config) {
		return 0, errs.New(errs.Invalid, "bus: %s is a queue and cannot be replayed", stream)
	}
	next = info.State.LastSeq + 1
	if info.State.Msgs == 0 || info.State.LastTime.Before(since) {
		return next, nil
	}
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since, InactiveThreshold: time.Minute}
	if subject != "" {
		cfg.FilterSubjects = []string{subject}
	}
	cons, err := st.OrderedConsumer(ctx, cfg)
	if err != nil {
		return 0, wrap(err)
	}
	messages, err := cons.Messages()
	if err != nil {
		return 0, wrap(err)
	}
	defer messages.Stop()
	if first, err := cons.Info(ctx); err != nil {
		return 0, wrap(err)
	} else if first.NumPending == 0 && first.Delivered.Consumer == 0 {
		return next, nil
	}
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return 0, wrap(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return 0, wrap(err)
		}
		fn(fromNATS(m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream, meta.Timestamp))
		if meta.NumPending == 0 {
			return max(next, meta.Sequence.Stream+1), nil
		}
	}
}
