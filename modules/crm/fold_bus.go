package crm

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/bus"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	subjectEvents = "crm.events"
	streamEvents  = "CRM_EVENTS"
	// frameItems is how many events one bus message holds at most; the order of
	// events counts in steps of it.
	frameItems = 1000
	// eventsAge bounds how long an event may wait to be folded. It is far beyond
	// any outage of the tables that nobody would notice.
	eventsAge = 30 * 24 * time.Hour
	// deadAge is how long what an event held that could not be understood can be
	// read.
	deadAge = 90 * 24 * time.Hour
)

// What is sealed says what it is, so that one blob cannot pass for another.
const (
	sealUser = "crm.user"
	sealTrip = "crm.trip"
	sealCopy = "crm.copy"
)

// folder takes events from the bus and folds them into what the CRM should show.
// It is idempotent: an event that was folded before changes nothing.
type folder struct {
	store   *foldStore
	keys    *seal.Keyring
	transit *seal.Transit // of frames
	dead    *seal.Transit // of events that could not be understood
	metrics *metrics
	logged  eventlog.Logger
	now     func() time.Time
	changed func() // there is something to send
}

// handle folds the events of some messages.
func (f *folder) handle(ctx context.Context, msgs []bus.Message) error {
	events, err := f.open(msgs)
	if err != nil {
		return err
	}
	return f.fold(ctx, events)
}

// open gives the events of messages. One without a place in its log gets that on
// our stream.
func (f *folder) open(msgs []bus.Message) (events []rawEvent, err error) {
	for _, m := range msgs {
		items, err := bus.OpenFrame(m.Data, f.transit.Open)
		if err != nil {
			return nil, fmt.Errorf("open frame: %w", err)
		}
		for i, item := range items {
			e, err := decodeRaw(item)
			if err != nil {
				return nil, bus.Permanent(fmt.Errorf("frame %d: %w", m.Seq, err))
			}
			if e.Seq < 0 {
				e.Seq = int64(m.Seq)*frameItems + int64(i)
			}
			events = append(events, e)
		}
	}
	return events, nil
}

// parsed is an event that was understood.
type parsed struct {
	raw     *rawEvent
	place   place
	user    *userEvent
	booking *bookingEvent
	person  int // its alias
}

// fold folds events, in any order.
func (f *folder) fold(ctx context.Context, events []rawEvent) error {
	if len(events) == 0 {
		return nil
	}
	now := f.now()
	batch := &folded{users: map[seal.Index]userRow{}, trips: map[seal.Index]tripRow{}, positions: map[string]position{}}
	var list []parsed
	var aliases []seal.Alias
	known := map[seal.Alias]int{}
	for i := range events {
		e := &events[i]
		p := batch.positions[e.Log]
		if p.Log, p.FoldedAt = e.Log, store.MicrosOf(now); p.Events == 0 || e.Seq > p.Seq {
			p.Seq, p.At = e.Seq, store.MicrosOf(e.At)
		}
		p.Events++
		batch.positions[e.Log] = p
		user, booking, err := parseEvent(e.Topic, e.Value)
		if err != nil {
			if err := f.bury(batch, e, err.Error(), now); err != nil {
				return err
			}
			continue
		}
		alias := seal.Alias{Kind: "user_id"}
		switch {
		case user != nil:
			alias.Value = user.ID
		case booking.UserID != nil:
			alias.Value = *booking.UserID
		default: // nobody's: a person of its own
			alias = seal.Alias{Kind: "trip_id", Value: booking.ID}
		}
		n, ok := known[alias]
		if !ok {
			n = len(aliases)
			known[alias], aliases = n, append(aliases, alias)
		}
		list = append(list, parsed{e, place{e.Log, e.Seq, store.MicrosOf(e.At)}, user, booking, n})
	}
	subjects, err := f.keys.Subjects(ctx, aliases)
	if err != nil {
		return fmt.Errorf("find subjects: %w", err)
	}
	ciphers, err := f.keys.Ciphers(ctx, subjects)
	if err != nil {
		return fmt.Errorf("find keys: %w", err)
	}
	for i := range list {
		f.add(batch, &list[i], aliases, ciphers)
	}
	if _, err := f.store.apply(ctx, batch, now); err != nil {
		return fmt.Errorf("fold events: %w", err)
	}
	f.changed()
	f.tell(ctx, list, ciphers, batch, now)
	return nil
}

// bury makes a dead letter of an event.
func (f *folder) bury(batch *folded, e *rawEvent, reason string, now time.Time) error {
	sealed, err := f.dead.Seal(encodeRaw(*e))
	if err != nil {
		return fmt.Errorf("seal a dead letter: %w", err)
	}
	batch.dead = append(batch.dead, deadLetter{ID: uuid.Must(uuid.NewV7()), Kind: deadEvent, Topic: knownTopic(e.Topic), Log: e.Log, Seq: e.Seq, Reason: reason, Sealed: sealed, CreatedAt: now, At: e.At})
	return nil
}

// knownTopic keeps what a stranger chose out of where it lies in the clear.
func knownTopic(topic string) string {
	if topic == topicUser || topic == topicBooking {
		return topic
	}
	return "unknown"
}

// add puts an event into its batch if it is the newest there of its user or
// trip. What is about a person who was erased is dropped.
func (f *folder) add(batch *folded, p *parsed, aliases []seal.Alias, ciphers []*seal.Cipher) {
	cipher := ciphers[p.person]
	if cipher == nil {
		return
	}
	person := f.keys.Index(aliases[p.person].Kind, aliases[p.person].Value)
	if p.user != nil {
		if was, ok := batch.users[person]; !ok || p.place.newerThan(was.place) {
			text, _ := json.Marshal(p.user) // texts alone
			batch.users[person] = userRow{p.place, person, cipher.Subject(), cipher.Seal(nil, text, sealUser)}
		}
		return
	}
	entity := f.keys.Index("trip_id", p.booking.ID)
	if was, ok := batch.trips[entity]; ok && !p.place.newerThan(was.place) {
		return
	}
	text, _ := json.Marshal(p.booking)         // texts and finite numbers
	start, _ := parseDate(p.booking.StartDate) // parsed before
	batch.trips[entity] = tripRow{userRow{p.place, entity, cipher.Subject(), cipher.Seal(nil, text, sealTrip)}, person, ticks(start)}
}

// receivedData tells in the log which event it was.
type receivedData struct {
	At  time.Time `json:"at"`
	Log string    `json:"log"`
	Seq int64     `json:"seq"`
}

// tell counts and logs what came.
func (f *folder) tell(ctx context.Context, list []parsed, ciphers []*seal.Cipher, batch *folded, now time.Time) {
	for i := range batch.dead {
		f.metrics.events.WithLabelValues(batch.dead[i].Topic, "dead").Inc()
	}
	for i := range list {
		p := &list[i]
		cipher := ciphers[p.person]
		if cipher == nil {
			f.metrics.events.WithLabelValues(p.raw.Topic, "erased").Inc()
			continue
		}
		f.metrics.events.WithLabelValues(p.raw.Topic, "folded").Inc()
		f.metrics.folding.Observe(now.Sub(p.raw.At).Seconds())
		entry := eventlog.Entry{ID: entryID(p.raw), Time: now, Event: "crm.user.received", Refs: []eventlog.Ref{{Kind: refUser, ID: cipher.Subject().String()}}}
		if p.booking != nil {
			entry.Event = "crm.trip.received"
			entry.Refs = append(entry.Refs, eventlog.Ref{Kind: refTrip, ID: f.keys.Index("trip_id", p.booking.ID).String()})
		}
		entry.Data, _ = json.Marshal(receivedData{p.raw.At, p.raw.Log, p.raw.Seq})
		// What cannot be logged is counted there.
		_ = f.logged.Log(ctx, entry)
	}
}

// entryID is the same each time an event comes. It is a UUID of version 7 (RFC
// 9562 section 5.7), by the time of the event: entries lie in that order.
func entryID(e *rawEvent) string {
	sum := sha256.Sum256([]byte(e.Log + "/" + strconv.FormatInt(e.Seq, 10)))
	id := uuid.UUID(sum[:16])
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(max(e.At.UnixMilli(), 0)))
	copy(id[:6], ms[2:])
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id.String()
}
