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
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	w := &watch{b: b, stream: stream, subject: subject, fn: fn}
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
