package crm

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/kafka"
)

// States of a source.
const (
	sourceReading = "reading"
	sourceWaiting = "waiting" // for something that is not there yet
	sourceFailing = "failing"
)

// sourceStatus tells how a source is.
type sourceStatus struct {
	Source     string            `json:"source"`
	State      string            `json:"state"`
	Reason     string            `json:"reason,omitempty"`
	Partitions []partitionStatus `json:"partitions"`
}

// partitionStatus tells how far one sequence of events has been read. Position
// is the place of the next event, End that of the next one to come.
type partitionStatus struct {
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Position  int64     `json:"position"`
	End       int64     `json:"end"`
	Lag       int64     `json:"lag"`
	At        time.Time `json:"at,omitzero"` // of the last event
}

func comparePartitions(a, b partitionStatus) int {
	return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

// sources bring the platform's events onto our bus. An event may come several
// times, always under the same name.
type sources struct {
	kafka *kafkaSource // nil without brokers
	nats  *natsSource  // nil if it is switched off
}

// deliverFunc puts events on our bus, for as long as it takes. It calls stuck,
// if there is one, after each failure.
type deliverFunc func(ctx context.Context, board *sourceBoard, events []rawEvent, stuck func()) error

// newSources makes the sources that the configuration asks for. publish returns
// nil when the events are durable.
func newSources(cfg *Config, cluster kafka.Config, b *bus.Bus, publish func(context.Context, []rawEvent) error, log *slog.Logger, now func() time.Time) *sources {
	d := &delivery{bus: b, publish: publish, log: log}
	s := &sources{}
	if cluster.On() {
		s.kafka = &kafkaSource{cfg: cluster, group: cfg.KafkaGroup, log: log, board: newSourceBoard("kafka", now), deliver: d.deliver, every: observeEvery}
	}
	if cfg.NATSSource {
		s.nats = &natsSource{bus: b, log: log, now: now, board: newSourceBoard("nats", now), delivery: d, every: observeEvery}
	}
	return s
}

// observeEvery is the time between two looks at how far a source is.
const observeEvery = 5 * time.Second

// start finds out whether the sources can be read at all. One that is away is
// no error: it is waited for.
func (s *sources) start(context.Context) error {
	if s.kafka == nil {
		return nil
	}
	cl, err := s.kafka.cfg.Open()
	if err == nil {
		cl.Close()
	}
	return err
}

// run reads until ctx ends.
func (s *sources) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if s.kafka != nil {
		g.Go(func() error { return s.kafka.run(ctx) })
	}
	if s.nats != nil {
		g.Go(func() error { return s.nats.run(ctx) })
	}
	return g.Wait()
}

// status tells how the sources are, as of a few seconds ago.
func (s *sources) status() []sourceStatus {
	out := []sourceStatus{}
	if s.kafka != nil {
		out = append(out, s.kafka.board.status())
	}
	if s.nats != nil {
		out = append(out, s.nats.board.status())
	}
	return out
}

// backfill publishes again what the sources hold from a time on, or all of it,
// up to what is there now. Reading goes on meanwhile. Errors: Unavailable.
func (s *sources) backfill(ctx context.Context, from time.Time) error {
	if s.kafka != nil {
		if err := s.kafka.backfill(ctx, from); err != nil {
			return err
		}
	}
	if s.nats != nil {
		return s.nats.backfill(ctx, from)
	}
	return nil
}

// delivery puts events on our bus.
type delivery struct {
	bus     *bus.Bus
	publish func(context.Context, []rawEvent) error
	log     *slog.Logger
}

// once tries once.
func (d *delivery) once(ctx context.Context, board *sourceBoard, events []rawEvent) error {
	limit := d.bus.MaxItem() - eventSlack
	for i := range events {
		events[i].Value = cut(events[i].Value, limit)
	}
	err := d.publish(ctx, events)
	board.published(err)
	return err
}

// deliver tries until it is done or ctx ends.
func (d *delivery) deliver(ctx context.Context, board *sourceBoard, events []rawEvent, stuck func()) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := d.once(ctx, board, events)
		if err == nil {
			return nil
		}
		if stuck != nil {
			stuck()
		}
		if wait == 100*time.Millisecond && ctx.Err() == nil {
			d.log.WarnContext(ctx, "events wait for the bus", "source", board.source, "events", len(events), "error", err)
		}
		select {
		case <-ctx.Done():
			return errs.Wrap(errs.Unavailable, err, "publish events")
		case <-time.After(wait):
		}
	}
}

const (
	// eventSlack is what an event may grow by on its way onto the bus.
	eventSlack = 2 << 10
	// eventRest is how much is kept of a value that does not fit: enough to see
	// what it was.
	eventRest = 64 << 10
)

// cut shortens a value that does not fit on the bus. What is left is no JSON, so
// that it ends as a dead letter.
func cut(value []byte, limit int) []byte {
	if len(value) <= limit {
		return value
	}
	return fmt.Appendf(append([]byte(nil), value[:min(eventRest, limit/2)]...), "… cut: %d bytes", len(value))
}

// sourceBoard is what is known of a source.
type sourceBoard struct {
	source string
	now    func() time.Time

	mu         sync.Mutex
	partitions []partitionStatus
	missing    []string
	waits      string
	lookErr    error
	readErr    error
	readErrAt  time.Time
	publishErr error
}

func newSourceBoard(source string, now func() time.Time) *sourceBoard {
	return &sourceBoard{source: source, now: now, waits: "has not begun"}
}

func (b *sourceBoard) status() sourceStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := sourceStatus{Source: b.source, State: sourceReading, Partitions: append([]partitionStatus{}, b.partitions...)}
	switch {
	case b.publishErr != nil:
		s.State, s.Reason = sourceFailing, "the bus takes no events: "+b.publishErr.Error()
	case b.lookErr != nil:
		s.State, s.Reason = sourceFailing, b.lookErr.Error()
	case b.readErr != nil:
		s.State, s.Reason = sourceFailing, b.readErr.Error()
	case len(b.missing) > 0:
		s.State, s.Reason = sourceWaiting, "not there yet: "+strings.Join(b.missing, ", ")
	case b.waits != "":
		s.State, s.Reason = sourceWaiting, b.waits
	}
	return s
}

// set notes how far everything is, and what is missing.
func (b *sourceBoard) set(partitions []partitionStatus, missing []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.partitions, b.missing, b.waits = partitions, missing, ""
}

// waiting notes that there is nothing to read for a reason that is no failure.
func (b *sourceBoard) waiting(why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waits = why
}

// looked notes what became of a look at the source. An error of reading that
// did not come again for a while is over.
func (b *sourceBoard) looked(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lookErr = err
	if err == nil && b.now().Sub(b.readErrAt) > readErrorLasts {
		b.readErr = nil
	}
}

const readErrorLasts = 15 * time.Second

func (b *sourceBoard) readFailed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readErr, b.readErrAt = err, b.now()
}

func (b *sourceBoard) published(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.publishErr = err
	if err == nil {
		b.readErr = nil
	}
}
