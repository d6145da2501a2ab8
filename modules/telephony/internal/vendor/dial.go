package vendor

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// dialing is a dialer action: its numbers are tried in turn, some rounds long,
// until one of them answers.
type dialing struct {
	numbers           []string
	code, destination string
	toPeer            bool
	rounds            int
	gap               time.Duration // between the rounds
	ttl               time.Duration // 0 is for ever
	rand              *rand.Rand
}

var dialReasons = []string{"noanswer", "noanswer", "busy", "unavailable", "invalid", "machine", "notsure"}

func newDialing(in *request, r *rand.Rand) *dialing {
	d := &dialing{numbers: in.numbers(), code: string(in.Code), destination: string(in.Destination), toPeer: in.DestinationType == "peer", rand: r}
	retries, _ := strconv.Atoi(string(in.Retries))
	d.rounds = 1 + min(max(retries, 0), 10)
	d.gap, _ = time.ParseDuration(string(in.RetryGap))
	d.ttl, _ = time.ParseDuration(string(in.TTL))
	return d
}

// dial plays a dialer action. Its ttl counts the pauses as if they were real.
func (p *performance) dial(ctx context.Context, d *dialing) {
	var spent time.Duration
	var last time.Time
	m := &maker{Rand: d.rand}
	post := func(e event) bool {
		e.Code, last = d.code, p.f.after(last)
		return p.post(ctx, e.CallID, e.at(last), false) != 0
	}
	for round := range d.rounds {
		if round > 0 {
			spent += d.gap
			if !p.wait(ctx, d.gap) {
				return
			}
		}
		for _, number := range d.numbers {
			if d.ttl > 0 && spent > d.ttl {
				post(event{Type: "dialer.expired"})
				return
			}
			ringing := m.seconds(3, 20)
			spent += ringing
			if !post(event{Type: "dialer.attempt", Number: number}) || !p.wait(ctx, ringing) {
				return
			}
			reason := p.f.dialFailure(number, d.rand)
			if reason == "" {
				p.perform(ctx, p.f.newID(), d.script(m, number), last)
				return
			}
			if !post(event{Type: "dialer.failure", CallID: p.f.newID(), Number: number, Reason: reason}) {
				return
			}
		}
	}
	post(event{Type: "dialer.exceeded"})
}

func (f *Fake) dialFailure(number string, r *rand.Rand) string {
	if f.o.DialFailure != nil {
		return f.o.DialFailure(number)
	}
	if r.Float64() < 0.2 {
		return pick(r, dialReasons)
	}
	return ""
}

// script writes the call with a number that answered.
func (d *dialing) script(m *maker, number string) script {
	theirs := number
	if len(number) > 11 {
		theirs = strings.TrimPrefix(number, "55") // the country
	}
	m.base = event{Code: d.code, Direction: "outbound", OurNumber: pick(m.Rand, ourNumbers), TheirNumber: theirs}
	m.s.queue = d.destination
	if d.toPeer {
		m.s.queue, m.s.peer = "", d.destination
	}
	m.outbound(number)
	return m.s
}
