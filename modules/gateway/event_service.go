package gateway

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
)

// eventService accepts events and tells how many sockets got them.
type eventService struct {
	self    [8]byte
	group   *bus.Group
	hub     *hub
	cluster *cluster
	metrics *metrics
	now     func() time.Time

	mu      sync.Mutex
	ref     uint64
	pending map[uint64]*pending
}

// Sent is what became of an event.
type Sent struct {
	ID         string  `json:"id"`
	Event      string  `json:"event"`
	Room       *string `json:"room" pii:"room" nullable:"true" doc:"null if the event went to all."`
	Recipients int     `json:"recipients" doc:"Sockets, on all instances, for which the event was queued."`
}

// pending is a request whose events are on their way.
type pending struct {
	counts []int
	left   map[string]int // events not reported yet, by instance
	done   chan struct{}
}

// emit makes the events durable, in this order, and waits until every instance
// has handed them to its sockets. An instance that does not answer is not
// waited for long: its sockets get the events when it is back, uncounted.
// Errors: Invalid naming the fields, Unavailable.
func (s *eventService) emit(ctx context.Context, emits []Emit, at func(i int) string) ([]Sent, error) {
	var fields []errs.Field
	for i := range emits {
		fields = append(fields, emits[i].faults(at(i))...)
	}
	if len(fields) > 0 {
		return nil, errs.InvalidFields("validation failed", fields...)
	}
	ref, p := s.expect(len(emits))
	defer s.forget(ref)
	sent := make([]Sent, len(emits))
	items := make([][]byte, len(emits))
	for i := range emits {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, err
		}
		it := item{ID: id, Origin: s.self, Ref: ref, Index: uint32(i), Emit: emits[i]}
		if len(it.Data) == 0 {
			it.Data = []byte("null")
		}
		items[i] = it.encode()
		sent[i] = Sent{ID: id.String(), Event: emits[i].Event}
		if emits[i].Room != "" {
			sent[i].Room = &emits[i].Room
		}
	}
	if err := s.group.Publish(ctx, items); err != nil {
		return nil, fmt.Errorf("accept events: %w", err)
	}
	s.metrics.emits.Add(float64(len(emits)))
	s.await(ctx, p)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range sent {
		sent[i].Recipients = p.counts[i]
	}
	return sent, nil
}

// expect opens the book for a request's reports.
func (s *eventService) expect(n int) (ref uint64, p *pending) {
	p = &pending{counts: make([]int, n), left: map[string]int{s.cluster.self: n}, done: make(chan struct{})}
	for _, instance := range s.cluster.others() {
		p.left[instance] = n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ref++
	s.pending[s.ref] = p
	return s.ref, p
}

func (s *eventService) forget(ref uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, ref)
}

// await returns when all have reported, or time is up: sooner for the others
// than for this instance, which is at work for sure.
func (s *eventService) await(ctx context.Context, p *pending) {
	const ownWithin = 10 * time.Second
	late, never := time.NewTimer(answerWithin), time.NewTimer(ownWithin)
	defer late.Stop()
	defer never.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-ctx.Done():
			return
		case <-never.C:
			return
		case <-late.C:
			s.mu.Lock()
			for instance := range p.left {
				if instance != s.cluster.self {
					s.cluster.doubt(instance)
					s.settle(p, instance, p.left[instance])
				}
			}
			s.mu.Unlock()
		}
	}
}

// settle takes n reports of an instance off what is missing.
func (s *eventService) settle(p *pending, instance string, n int) {
	left, ok := p.left[instance]
	if !ok {
		return
	}
	if p.left[instance] = left - n; left <= n {
		delete(p.left, instance)
	}
	if len(p.left) == 0 {
		close(p.done)
	}
}

// report says that an instance gave an event of a request to n sockets.
func (s *eventService) report(instance string, r report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pending[r.Ref]
	if p == nil || int(r.Index) >= len(p.counts) {
		return
	}
	p.counts[r.Index] += r.N
	s.settle(p, instance, 1)
}

// entries of the log: the emit by the instance that accepted it, the
// deliveries by each.
func (s *eventService) entries(e *entry, accepted bool, ids []string) (out []eventlog.Entry) {
	var refs []eventlog.Ref
	if e.room != "" {
		refs = []eventlog.Ref{{Kind: "room", ID: e.room}}
	}
	id := uuid.UUID(e.id).String()
	if accepted {
		out = append(out, eventlog.Entry{ID: id, Time: e.at, Module: tag, Event: e.event, Text: subjectOf(e.data), Refs: refs})
	}
	if len(ids) > 0 {
		out = append(out, eventlog.Entry{ID: id + "." + s.cluster.self, Time: s.now(), Module: tag, Event: e.event, Refs: refs, Targets: ids, TargetKind: "socket"})
	}
	return out
}

// eventID is the event's id in that of one of its entries.
func eventID(entry string) string {
	id, _, _ := strings.Cut(entry, ".")
	return id
}
