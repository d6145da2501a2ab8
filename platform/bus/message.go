package bus

import (
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Message is what travels. Subject and Data are the sender's; Seq, Time and
// Delivered are filled in on the way.
type Message struct {
	// Subject such as "collector.events"; it lies on disk in the clear.
	Subject string
	// ID, when set, lets the stream drop a second message with it, within
	// seconds only. Without one each publish is a message of its own.
	ID string
	// Header holds a few short values beside Data; in the clear as well.
	Header map[string]string
	// Data must not be changed until Publish has returned. A handler may keep it.
	Data []byte
	// Seq is the position in the stream; it only grows.
	Seq uint64
	// Time is when the stream stored it (for an imported one: the first time).
	Time time.Time
	// Delivered counts the deliveries to this consumer, 1 for the first.
	Delivered int
}

// A message that is stored again (from a backup or from the dead letters) keeps
// its first id and time in these headers.
const (
	headerID   = "Bus-Id"
	headerTime = "Bus-Time"
)

// again gives the message for storing it once more, under dedup as the id that
// the stream looks at: its own might still be remembered there.
func (m Message) again(dedup string) *nats.Msg {
	id := m.ID
	m.ID = dedup
	out := m.nats()
	if id != "" {
		out.Header[headerID] = []string{id}
	}
	if !m.Time.IsZero() {
		out.Header[headerTime] = []string{m.Time.UTC().Format(time.RFC3339Nano)}
	}
	return out
}

func (m Message) nats() *nats.Msg {
	out := &nats.Msg{Subject: m.Subject, Data: m.Data}
	if m.ID != "" || len(m.Header) > 0 {
		out.Header = make(nats.Header, len(m.Header)+1)
		for k, v := range m.Header {
			out.Header[k] = []string{v}
		}
		if m.ID != "" {
			out.Header[jetstream.MsgIDHeader] = []string{m.ID}
		}
	}
	return out
}

func fromNATS(subject string, header nats.Header, data []byte, seq uint64, at time.Time) Message {
	m := Message{Subject: subject, Data: data, Seq: seq, Time: at.UTC()}
	for k, v := range header {
		switch {
		case len(v) == 0:
		case k == headerID:
			m.ID = v[0]
		case k == jetstream.MsgIDHeader:
			if header[headerID] == nil {
				m.ID = v[0]
			}
		case strings.HasPrefix(k, "Nats-"): // the server's remarks
		case k == headerTime:
			if t, err := time.Parse(time.RFC3339Nano, v[0]); err == nil {
				m.Time = t.UTC()
			}
		default:
			if m.Header == nil {
				m.Header = make(map[string]string, len(header))
			}
			m.Header[k] = v[0]
		}
	}
	return m
}
