// Package maas plays the mobility platform: it makes the same events as the
// platform's own producer, with its statistics and its defects.
package maas

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Topics of the platform.
const (
	TopicUser    = "internal_user_updated"
	TopicBooking = "internal_booking_updated"
)

// Event is a record as it goes out.
type Event struct {
	Topic string
	Key   []byte // the counter of the topic, 4 bytes, big-endian
	Value []byte
	// New tells that its user or booking was not there before.
	New bool
}

// Options of a Platform.
type Options struct {
	Seed uint64           // 0 is random
	Now  func() time.Time // time.Now by default; its zone is that of the dates
	// RestartAfter that many events the producer begins anew; 0 never.
	RestartAfter int
}

// Platform makes events. It is not safe for concurrent use.
type Platform struct {
	o    Options
	rand *rand.Rand

	users    []user
	bookings []booking
	counters map[string]int
	due      map[string]time.Duration // when each topic has its next event
	clock    time.Duration
	sent     int
	restarts int
}

type user struct {
	ID        string  `json:"Id"`
	LastName  *string `json:"LastName"`
	FirstName *string `json:"FirstName"`
	Email     *string `json:"Email"`
}

type booking struct {
	ID        string  `json:"Id"`
	UserID    *string `json:"UserId"`
	From      *string `json:"From"`
	To        *string `json:"To"`
	Type      int     `json:"Type"`
	StartDate string  `json:"StartDate"`
	EndDate   *string `json:"EndDate"`
	Price     float64 `json:"Price"`
}

type envelope struct {
	Event any
	ID    int `json:"Id"`
}

// New makes a platform without users.
func New(o Options) *Platform {
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Platform{o: o, rand: rand.New(rand.NewPCG(o.Seed, 0))}
	p.begin()
	return p
}

// begin is what a start of the producer does: it knows nothing and counts from 0.
func (p *Platform) begin() {
	p.users, p.bookings, p.counters = nil, nil, map[string]int{}
	p.due = map[string]time.Duration{TopicUser: p.clock, TopicBooking: p.clock}
}

// Restarts tells how often the producer began anew.
func (p *Platform) Restarts() int { return p.restarts }

// Next makes the next event of both topics and tells how long after the one
// before it comes: each topic has one every 1, 2, 3 or 4 s.
func (p *Platform) Next() (Event, time.Duration) {
	if p.o.RestartAfter > 0 && p.sent > 0 && p.sent%p.o.RestartAfter == 0 {
		p.begin()
		p.restarts++
	}
	p.sent++
	topic := TopicUser // the first of all, so that a booking has a user
	if p.due[TopicBooking] < p.due[TopicUser] {
		topic = TopicBooking
	}
	pause := p.due[topic] - p.clock
	p.clock = p.due[topic]
	p.due[topic] += time.Duration(1+p.rand.IntN(4)) * time.Second
	if topic == TopicUser {
		return p.user(), pause
	}
	return p.booking(), pause
}

func (p *Platform) user() Event {
	if len(p.users) == 0 || p.rand.IntN(10) == 0 {
		email := p.name() + "@trafi.com"
		u := user{p.id(), p.maybe(p.name), p.maybe(p.name), &email}
		p.users = append(p.users, u)
		return p.event(TopicUser, u, true)
	}
	// The first version is kept for ever: an update forgets the one before.
	u := p.users[p.pick()]
	if p.chance(0.4) {
		name := p.name()
		u.LastName = &name
	}
	if p.chance(0.4) {
		name := p.name()
		u.FirstName = &name
	}
	return p.event(TopicUser, u, false)
}

func (p *Platform) booking() Event {
	now := p.o.Now()
	// The bound is the number of users, where that of bookings was meant: only
	// the first bookings are ever updated, and past the end there is a new one.
	if p.chance(0.3) {
		if i := p.pick(); i < len(p.bookings) {
			b := p.bookings[i]
			p.draw(&b, now)
			return p.event(TopicBooking, b, false)
		}
	}
	b := booking{ID: p.id(), UserID: &p.users[p.pick()].ID, From: p.maybe(p.name), Type: p.rand.IntN(3), StartDate: date(now)} // 3 never occurs: an upper bound that is exclusive
	p.draw(&b, now)
	p.bookings = append(p.bookings, b)
	return p.event(TopicBooking, b, true)
}

// pick gives a user. The last one is never picked unless it is the only one.
func (p *Platform) pick() int { return p.rand.IntN(max(1, len(p.users)-1)) }

// draw fills in what each version of a booking has anew.
func (p *Platform) draw(b *booking, now time.Time) {
	b.To = p.maybe(p.name)
	b.EndDate = p.maybe(func() string { return date(now.Add(time.Duration(p.rand.IntN(31*24*60)) * time.Minute)) })
	b.Price = 0
	if p.chance(0.4) {
		b.Price = p.rand.Float64()
	}
}

func (p *Platform) event(topic string, of any, fresh bool) Event {
	n := p.counters[topic]
	p.counters[topic]++
	value, err := json.Marshal(envelope{of, n + 1})
	if err != nil { // texts and finite numbers
		panic(err)
	}
	return Event{topic, binary.BigEndian.AppendUint32(nil, uint32(n)), value, fresh}
}

func (p *Platform) chance(share float64) bool { return p.rand.Float64() < share }

// maybe is null in 60 of 100 cases.
func (p *Platform) maybe(make func() string) *string {
	if p.chance(0.6) {
		return nil
	}
	s := make()
	return &s
}

func (p *Platform) id() string {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], p.rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], p.rand.Uint64())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id.String()
}

var (
	consonants = strings.Fields("b c d f g h j k l m n p q r s t v w x z sh zh")
	vowels     = strings.Fields("a e i o u y ae")
)

// name is a word of 10 to 14 letters, or a few more.
func (p *Platform) name() string {
	length := 10 + p.rand.IntN(5)
	var b strings.Builder
	for b.Len() < length {
		b.WriteString(consonants[p.rand.IntN(len(consonants))])
		b.WriteString(vowels[p.rand.IntN(len(vowels))])
	}
	s := b.String()
	return strings.ToUpper(s[:1]) + s[1:]
}

// date writes a time as the platform does: with its offset, and steps of 100 ns.
func date(t time.Time) string {
	return t.Truncate(100 * time.Nanosecond).Format("2006-01-02T15:04:05.9999999-07:00")
}
