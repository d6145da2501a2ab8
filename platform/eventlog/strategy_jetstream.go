package eventlog

import (
	"context"
	"encoding/json"
	"strings"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
)

// The stream of all modules' entries.
const (
	streamName    = "EVENTLOG"
	subjectPrefix = "eventlog."
)

// streamStrategy puts each entry on the bus, sealed, its id as the message's.
type streamStrategy struct {
	module  string
	bus     *bus.Bus
	transit *seal.Transit
}

func (s *streamStrategy) start(transit *seal.Transit) { s.transit = transit }

func (s *streamStrategy) close() {}

func (s *streamStrategy) write(ctx context.Context, batch []*record) (int, error) {
	for i, r := range batch {
		plain, err := json.Marshal(&r.Entry)
		if err != nil {
			return i, errs.Wrap(errs.Invalid, err, "encode an entry")
		}
		sealed, err := s.transit.Seal(plain)
		if err != nil {
			return i, err
		}
		if _, err := s.bus.Publish(ctx, bus.Message{Subject: subjectPrefix + s.module, ID: r.ID, Data: sealed}); err != nil {
			return i, err
		}
	}
	return len(batch), nil
}

// Decode gives the entry of a message of the stream EVENTLOG, for its
// consumers, in a process in which the module logs to jetstream. The strategy
// promises at-least-once: they should know an entry again by its id.
func (s *Service) Decode(m bus.Message) (Entry, error) {
	module, _ := strings.CutPrefix(m.Subject, subjectPrefix)
	var transit *seal.Transit
	if l := s.log(module); l != nil {
		for _, w := range l.workers {
			if to, ok := w.to.(*streamStrategy); ok {
				transit = to.transit
			}
		}
	}
	if transit == nil {
		return Entry{}, errs.New(errs.Unavailable, "event log: no module logs to %s here", m.Subject)
	}
	plain, err := transit.Open(m.Data)
	if err != nil {
		return Entry{}, err
	}
	var e Entry
	return e, json.Unmarshal(plain, &e)
}
