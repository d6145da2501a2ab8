package gateway

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
)

const (
	streamEmits    = "GATEWAY"
	subjectEmit    = "gateway.emit"
	subjectReports = "gateway.reports." // followed by the instance that accepted the events
	// frameItems is the most events in a message of the bus: places are its
	// sequence times this and the place in it.
	frameItems = 1000
)

// report is how many sockets of an instance an event of a request went to.
type report struct {
	Ref   uint64 `json:"r"`
	Index uint32 `json:"i"`
	N     int    `json:"n"`
}

type reports struct {
	Instance string   `json:"instance"`
	Reports  []report `json:"reports"`
}

// eventBus hands accepted events to the sockets here, and tells the instance
// that accepted them to how many.
type eventBus struct {
	bus     *bus.Bus
	events  *eventService
	transit *seal.Transit
	logged  *eventlog.Log // nil: nothing is logged
	log     *slog.Logger
	next    uint64 // where the history ended
}

// replay fills the history with what was accepted before this instance began.
func (b *eventBus) replay(ctx context.Context, since time.Time) error {
	next, err := b.bus.Replay(ctx, streamEmits, subjectEmit, since, func(m bus.Message) {
		b.open(m, func(e *entry, _ *item) { b.events.hub.remember(e) })
	})
	if err != nil {
		return err
	}
	b.next = next
	b.events.hub.begin(next*frameItems - 1)
	return nil
}

// run delivers until ctx ends.
func (b *eventBus) run(ctx context.Context) error {
	return b.bus.WatchFrom(ctx, streamEmits, subjectEmit, b.next, func(m bus.Message) { b.handle(ctx, m) })
}

// listen takes the reports of other instances.
func (b *eventBus) listen(ctx context.Context) error {
	return b.bus.Listen(ctx, subjectReports+b.events.cluster.self, func(data []byte) {
		var in reports
		if json.Unmarshal(data, &in) != nil {
			return
		}
		for _, r := range in.Reports {
			b.events.report(in.Instance, r)
		}
	})
}

// open reads the events of a message.
func (b *eventBus) open(m bus.Message, fn func(*entry, *item)) {
	items, err := bus.OpenFrame(m.Data, b.transit.Open)
	if err != nil {
		b.log.Error("cannot read accepted events", "sequence", m.Seq, "error", err)
		return
	}
	for i, raw := range items {
		it, err := decodeItem(raw)
		if err != nil {
			b.log.Error("cannot read an accepted event", "sequence", m.Seq, "error", err)
			continue
		}
		fn(&entry{pos: m.Seq*frameItems + uint64(i), at: m.Time, id: it.ID, event: it.Event, room: it.Room, data: it.Data}, it)
	}
}

func (b *eventBus) handle(ctx context.Context, m bus.Message) {
	s := b.events
	var elsewhere map[[8]byte][]report
	b.open(m, func(e *entry, it *item) {
		ids, n := s.hub.deliver(e, b.logged != nil)
		s.metrics.deliveries.Add(float64(n))
		r := report{Ref: it.Ref, Index: it.Index, N: n}
		if it.Origin == s.self {
			s.report(s.cluster.self, r)
		} else {
			if elsewhere == nil {
				elsewhere = map[[8]byte][]report{}
			}
			elsewhere[it.Origin] = append(elsewhere[it.Origin], r)
		}
		if b.logged == nil {
			return
		}
		for _, entry := range s.entries(e, it.Origin == s.self, ids) {
			// What a strategy cannot take it counts itself.
			if err := b.logged.Log(ctx, entry); err != nil {
				b.log.Error("cannot log an event", "error", err)
			}
		}
	})
	for origin, list := range elsewhere {
		data, err := json.Marshal(reports{s.cluster.self, list})
		if err == nil {
			_ = b.bus.Broadcast(subjectReports+hex.EncodeToString(origin[:]), data)
		}
	}
}
