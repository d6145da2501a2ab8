package bus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"switchboard/platform/errs"
)

// Publish stores a message and returns its place in the stream once it is
// durable. It is repeated with the same message id while no answer comes, until
// ctx or Config.PublishTimeout ends. Errors: Invalid (too large, no subject),
// Unavailable (refusing, stream full, no answer: then the message may still
// have been stored).
func (b *Bus) Publish(ctx context.Context, m Message) (seq uint64, err error) {
	if m.Subject == "" {
		return 0, errs.New(errs.Invalid, "bus: a message needs a subject")
	}
	if len(m.Data) > b.MaxItem() {
		return 0, errs.New(errs.Invalid, "bus: a message of %d bytes is too large, the limit is %d", len(m.Data), b.MaxItem())
	}
	if m.ID == "" {
		m.ID = nuid.Next()
	}
	return b.publish(ctx, m.nats(), b.cfg.PublishTimeout)
}

// publish sends msg, which must have an id, until it is acknowledged.
func (b *Bus) publish(ctx context.Context, msg *nats.Msg, timeout time.Duration) (uint64, error) {
	start := time.Now()
	if err := b.refused(); err != nil {
		b.m.publishes.WithLabelValues("refused").Inc()
		return 0, err
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for try := 1; ; try++ {
		l, err := b.attach(ctx)
		if err == nil {
			var ack *jetstream.PubAck
			if ack, err = b.send(ctx, l, msg); err == nil {
				b.guard.answered()
				b.m.publishes.WithLabelValues("ok").Inc()
				b.m.latency.Observe(time.Since(start).Seconds())
				return ack.Sequence, nil
			}
		}
		final := b.finalError(err, msg.Subject)
		if final == nil {
			final = b.refused()
		}
		if final == nil && ctx.Err() != nil {
			final = errs.Wrap(errs.Unavailable, err, "the bus did not confirm a message in time")
		}
		if outer.Err() != nil {
			final = errs.Wrap(errs.Unavailable, outer.Err(), "publish")
		}
		if final != nil {
			b.m.publishes.WithLabelValues("failed").Inc()
			return 0, final
		}
		b.m.retries.Inc()
		// The time-out of a try has been long enough a wait; the other errors
		// come at once.
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
			pause(ctx, min(time.Duration(try)*20*time.Millisecond, 250*time.Millisecond))
		}
	}
}

// send is one try.
func (b *Bus) send(ctx context.Context, l *link, msg *nats.Msg) (*jetstream.PubAck, error) {
	try, cancel := context.WithTimeout(ctx, b.cfg.PublishTimeout/3)
	defer cancel()
	ack, err := l.js.PublishMsg(try, msg)
	// A caller in a hurry says nothing about the server.
	if err != nil && try.Err() != nil && ctx.Err() == nil {
		b.guard.silent()
	}
	return ack, err
}

// finalError gives the error of a publish that a repeat cannot help, else nil.
func (b *Bus) finalError(err error, subject string) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, errClosed):
		return errClosed
	case errors.Is(err, nats.ErrMaxPayload):
		return errs.Wrap(errs.Invalid, err, "bus: publish")
	case errors.Is(err, nats.ErrBadSubject):
		return errs.Wrap(errs.Invalid, err, "bus: publish")
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		if !b.embedded() { // perhaps its streams are still being recovered
			return nil
		}
		return errs.New(errs.Unavailable, "bus: no stream stores %q", subject)
	case !errors.As(err, &api):
		return nil
	case api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return errs.Wrap(errs.Invalid, err, "bus: publish")
	case api.ErrorCode == 10023 || api.ErrorCode == 10047:
		return errs.Wrap(errs.Unavailable, errors.Join(ErrNoSpace, err), "bus: publish")
	case api.ErrorCode == 10077: // a queue's limit
		return errs.Wrap(errs.Unavailable, err, "bus: the stream of %q is full", subject)
	case api.Code == 400:
		return errs.Wrap(errs.Internal, err, "bus: publish on %q", subject)
	}
	return nil
}
