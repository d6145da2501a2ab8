package crm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
)

// The platform's stream, its subjects and our place in it.
const (
	maasStream   = "MAAS"
	maasSubject  = "maas."
	maasConsumer = "crm-source"
	maasLog      = "nats/MAAS"
)

// maasAge is how long events stay on a stream that we make.
const maasAge = 30 * 24 * time.Hour

// natsSource takes events from the platform's subjects. An external server keeps
// them on the stream MAAS, which is read like any other. On the embedded server
// there is no such stream, since what it keeps would lie in the clear in our data
// directory: publishers are answered when their event is on our own stream.
type natsSource struct {
	bus      *bus.Bus
	log      *slog.Logger
	now      func() time.Time
	board    *sourceBoard
	delivery *delivery
	every    time.Duration // between looks at the stream

	mu   sync.Mutex
	last partitionStatus
}

// run reads until ctx ends.
func (n *natsSource) run(ctx context.Context) error {
	for n.bus.Ready() != nil && !n.bus.Embedded() {
		if !n.rest(ctx) {
			return nil
		}
	}
	switch {
	case n.bus.Embedded():
		n.taken(0, time.Time{})
		return n.bus.Intake(ctx, maasStream, maasSubject+">", n.take)
	case n.bus.External():
		return n.consume(ctx)
	}
	n.board.waiting("the process that keeps the bus takes them")
	<-ctx.Done()
	return nil
}

func (n *natsSource) rest(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(n.every):
		return true
	}
}

// take puts what was published on the embedded server on our stream. Where it
// stands there is its place.
func (n *natsSource) take(ctx context.Context, msgs []bus.Message) error {
	now := n.now().UTC()
	events := make([]rawEvent, len(msgs))
	for i, m := range msgs {
		events[i] = rawEvent{Topic: maasTopic(m.Subject), Log: maasLog, Seq: -1, At: now, Value: m.Data}
	}
	if err := n.delivery.once(ctx, n.board, events); err != nil {
		return err
	}
	n.taken(len(events), now)
	return nil
}

func (n *natsSource) taken(events int, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last.Topic, n.last.At = maasStream, at
	n.last.Position += int64(events)
	n.last.End = n.last.Position
	n.board.set([]partitionStatus{n.last}, nil)
}

// consume reads the stream of an external server.
func (n *natsSource) consume(ctx context.Context) error {
	var looking sync.WaitGroup
	defer looking.Wait()
	looking.Go(func() { n.watch(ctx) })
	return n.bus.Consume(ctx, bus.Consumer{Stream: maasStream, Name: maasConsumer, Batch: 500, BatchBytes: 4 << 20}, n.read)
}

func (n *natsSource) read(ctx context.Context, msgs []bus.Message) error {
	st, err := n.bus.StreamState(ctx, maasStream)
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "read the platform's events")
	}
	events := make([]rawEvent, len(msgs))
	for i, m := range msgs {
		if m.Seq > st.Last {
			return errs.New(errs.Unavailable, "the stream %s was made anew", maasStream)
		}
		events[i] = natsEvent(m, st)
	}
	if err := n.delivery.once(ctx, n.board, events); err != nil {
		// Whatever it is, the events stay where they are.
		return errs.Wrap(errs.Unavailable, err, "publish events")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last.At = msgs[len(msgs)-1].Time
	return nil
}

// maasTopic gives the topic of a subject. What is longer than any of ours is cut.
func maasTopic(subject string) string {
	topic := strings.TrimPrefix(subject, maasSubject)
	return topic[:min(len(topic), 256)]
}

// natsEvent names the stream with the time it was made: one of the same name
// that is made anew counts from 1 again.
func natsEvent(m bus.Message, st bus.StreamState) rawEvent {
	return rawEvent{Topic: maasTopic(m.Subject), Log: fmt.Sprintf("%s@%08x", maasLog, uint32(st.Created.UnixMilli())), Seq: int64(m.Seq), At: m.Time, Value: m.Data}
}

// watch makes the stream if it is missing, and keeps the status.
func (n *natsSource) watch(ctx context.Context) {
	for {
		try, cancel := context.WithTimeout(ctx, max(n.every, 2*time.Second))
		err := n.bus.Ensure(try, bus.Stream{Name: maasStream, Subjects: []string{maasSubject + ">"}, MaxAge: maasAge})
		if err == nil {
			err = n.observe(try)
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		n.board.looked(err)
		if !n.rest(ctx) {
			return
		}
	}
}

func (n *natsSource) observe(ctx context.Context) error {
	st, err := n.bus.StreamState(ctx, maasStream)
	if err != nil {
		return err
	}
	acked, left, err := n.bus.ConsumerState(ctx, maasStream, maasConsumer)
	if errs.KindOf(err) == errs.NotFound { // it is being made
		return nil
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last.Topic = maasStream
	n.last.Position, n.last.End, n.last.Lag = int64(acked)+1, int64(st.Last)+1, int64(left)
	if left == 0 {
		n.last.Position = n.last.End
	}
	n.board.set([]partitionStatus{n.last}, nil)
	return nil
}

// backfill publishes what the stream of an external server holds from a time on.
func (n *natsSource) backfill(ctx context.Context, from time.Time) error {
	if !n.bus.External() {
		return nil
	}
	st, err := n.bus.StreamState(ctx, maasStream)
	if errs.KindOf(err) == errs.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var events []rawEvent
	bytes := 0
	flush := func() {
		if len(events) == 0 || ctx.Err() != nil {
			return
		}
		if err := n.delivery.deliver(ctx, n.board, events, nil); err != nil {
			stop(err)
		}
		events, bytes = nil, 0
	}
	if from.IsZero() {
		from = time.Unix(0, 0)
	}
	_, err = n.bus.Replay(ctx, maasStream, "", from, func(m bus.Message) {
		if m.Seq > st.Last {
			return
		}
		events, bytes = append(events, natsEvent(m, st)), bytes+len(m.Data)
		if len(events) >= 500 || bytes > 4<<20 {
			flush()
		}
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	if err != nil {
		return err
	}
	flush()
	return context.Cause(ctx)
}
