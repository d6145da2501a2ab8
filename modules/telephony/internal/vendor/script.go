package vendor

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// event is an event of the platform; its fields stand in the platform's order.
type event struct {
	Type            string         `json:"type"`
	CallID          string         `json:"call_id,omitempty"`
	Code            string         `json:"code,omitempty"`
	Direction       string         `json:"direction,omitempty"`
	OurNumber       string         `json:"our_number,omitempty"`
	TheirNumber     string         `json:"their_number,omitempty"`
	TheirNumberType string         `json:"their_number_type,omitempty"`
	Queue           string         `json:"queue,omitempty"`
	Destination     string         `json:"destination,omitempty"`
	RingTime        int            `json:"ringtime,omitempty"`
	Actor           string         `json:"actor,omitempty"`
	Number          string         `json:"number,omitempty"`
	AMDStatus       string         `json:"amd_status,omitempty"`
	Reason          string         `json:"reason,omitempty"`
	Tag             string         `json:"tag,omitempty"`
	Data            string         `json:"data,omitempty"`
	URL             string         `json:"url,omitempty"`
	Details         map[string]any `json:"details,omitempty"`
	Timestamp       string         `json:"timestamp"`
}

// step is one event of a call that is yet to be played. What only shows while
// it is played, the queue, the agent, the id and the time, is filled in then.
type step struct {
	event
	pause time.Duration // before it
	// standby waits for a delegate after the event.
	standby bool
	// queued events bear the call's queue.
	queued bool
	agent  agentUse
	pick   int // which agent
	// late: posted only after the next one. again, againLate: posted twice.
	late, again, againLate bool
}

// agentUse is what an event means for the call's agent.
type agentUse int

const (
	agentNone  agentUse = iota
	agentTake           // rings
	agentKeep           // answers
	agentLeave          // is free again
)

// script is a whole call. It depends on nothing but the source of its content.
type script struct {
	steps []step
	talk  time.Duration
	// queue is where the call goes if nobody delegates it.
	queue string
	// peer is the extension that is called instead of a queue, which is empty then.
	peer string
	// breaks says that an agent, onBreak, takes a break or comes back from one.
	breaks  bool
	onBreak int
}

// maker writes a script.
type maker struct {
	*rand.Rand
	s    script
	base event // of call events: code, direction, numbers
}

// Mix is the shares of the kinds of calls. They are weights: they need not add
// up to 1.
type Mix struct {
	Answered   float64 // by an agent
	Abandoned  float64 // the caller gives up
	Overflowed float64 // goes to another queue, and is answered there
	Forwarded  float64 // follows an agent to another phone
	Outbound   float64 // dialed by the platform
}

// DefaultMix is that of an ordinary day.
var DefaultMix = Mix{Answered: 0.68, Abandoned: 0.12, Overflowed: 0.05, Forwarded: 0.03, Outbound: 0.12}

type kind int

const (
	answered kind = iota
	abandoned
	overflowed
	forwarded
	outbound
)

// draw gives the kind of a call: the first number of its source.
func (m Mix) draw(r *rand.Rand) kind {
	weights := []float64{m.Answered, m.Abandoned, m.Overflowed, m.Forwarded, m.Outbound}
	total := 0.0
	for _, w := range weights {
		total += w
	}
	p := r.Float64() * total
	for k, w := range weights {
		if p -= w; p < 0 {
			return kind(k)
		}
	}
	return answered
}

// casting makes the scripts of the calls of one play. The same seed, options
// and number make the same call.
type casting struct {
	seed uint64
	o    PlayOptions
}

func (c casting) script(n uint64) script {
	r := newRand(c.seed, n)
	k := c.o.Mix.draw(r)
	number, kindOfNumber := c.caller(n)
	m := &maker{Rand: r, s: script{queue: queueNew}, base: event{OurNumber: pick(r, ourNumbers), TheirNumber: number}}
	m.s.breaks, m.s.onBreak = m.chance(0.04), m.IntN(1<<20)
	if k == outbound {
		m.base.Direction, m.base.Code = "outbound", fmt.Sprintf("campaign-%d", 1+m.IntN(5))
		m.add(0, event{Type: "dialer.attempt", Number: "55" + number, Code: m.base.Code})
		m.outbound("55" + number)
	} else {
		m.base.Direction, m.base.Code = "inbound", fmt.Sprintf("%06d", m.IntN(1_000_000))
		m.inbound(k, kindOfNumber)
	}
	if k != abandoned && m.chance(c.o.Recordings) {
		m.add(m.seconds(3, 20), event{Type: "call.recording-available"})
	}
	m.disturb(c.o)
	return m.s
}

// inbound writes a call from outside.
func (m *maker) inbound(k kind, kindOfNumber string) {
	m.call("call.new", 0).TheirNumberType = kindOfNumber
	if k == abandoned && m.chance(0.1) { // before anyone could help
		m.call("call.finished", m.seconds(1, 4))
		return
	}
	m.provide()
	m.call("call.standby", m.seconds(1, 4)).standby = true
	m.call("call.waiting", m.seconds(0.2, 1)).queued = true
	switch k {
	case abandoned:
		if m.chance(0.5) {
			m.noAnswer()
		}
		m.add(m.around(40), event{Type: "call.queue-abandon"}).queued = true
		m.call("call.finished", m.seconds(0.1, 0.5))
		return
	case overflowed:
		m.noAnswer()
		m.call("call.overflow", m.seconds(5, 30)).Destination = queueOverflow
		m.call("call.waiting", m.seconds(0.1, 0.5)).queued = true
	case forwarded:
		m.noAnswer()
		m.call("call.follow-me", m.seconds(0.1, 0.5)).Code = ""
		m.call("call.ongoing", m.seconds(5, 20))
		m.talk()
		m.call("call.finished", m.s.talk)
		return
	default:
		if m.chance(0.15) {
			m.noAnswer()
		}
	}
	m.ring(m.around(15))
	m.converse(m.seconds(2, 8))
}

// outbound writes a call to outside from the moment at which it is taken.
func (m *maker) outbound(number string) {
	m.call("call.new", m.seconds(3, 12))
	m.add(m.seconds(0.5, 2), event{Type: "dialer.success", Number: number, Code: m.base.Code, AMDStatus: pick(m.Rand, []string{"human", "human", "human", "human", "notsure", "machine"})})
	m.call("call.waiting", m.seconds(0.1, 0.5)).queued = true
	m.ring(m.seconds(0.5, 5))
	m.converse(m.seconds(1, 5))
}

// converse writes a call from the moment at which an agent answers.
func (m *maker) converse(ringing time.Duration) {
	m.actor("actor.entered", ringing, agentKeep)
	m.call("call.ongoing", m.seconds(0.1, 0.5))
	m.talk()
	m.actor("actor.left", m.s.talk, agentLeave)
	m.call("call.finished", m.seconds(0.1, 0.5))
}

func (m *maker) talk() { m.s.talk = min(10*time.Second+m.around(170), 20*time.Minute) }

func (m *maker) ring(wait time.Duration) {
	m.actor("actor.ringing", wait, agentTake)
	if m.chance(0.2) {
		m.add(0, event{Type: "peer.ringing"}).agent = agentKeep
	}
}

func (m *maker) noAnswer() {
	m.actor("actor.ringing", m.around(10), agentTake)
	const ringTime = 15
	m.actor("actor.noanswer", ringTime*time.Second, agentLeave).RingTime = ringTime
}

// provide writes what some callers type in before they stand by.
func (m *maker) provide() {
	switch p := m.Float64(); {
	case p < 0.06:
		m.add(m.seconds(3, 10), event{Type: "call.cpf-provided", Data: cpf(m.Rand)})
	case p < 0.08:
		m.add(m.seconds(3, 10), event{Type: "call.cnpj-provided", Data: cnpj(m.Rand)})
	case p < 0.12:
		m.add(m.seconds(3, 10), event{Type: "call.data-provided", Tag: "dialed_phone", Data: m.base.TheirNumber})
	}
}

// call adds a call event.
func (m *maker) call(kind string, after time.Duration) *step {
	e := m.base
	e.Type = kind
	return m.add(after, e)
}

// actor adds an event of the call's agent.
func (m *maker) actor(kind string, after time.Duration, use agentUse) *step {
	s := m.add(after, event{Type: kind, Code: m.base.Code})
	s.agent, s.queued = use, true
	return s
}

func (m *maker) add(after time.Duration, e event) *step {
	m.s.steps = append(m.s.steps, step{event: e, pause: after, pick: m.IntN(1 << 20)})
	return &m.s.steps[len(m.s.steps)-1]
}

// disturb puts in what goes wrong on the way: unknown types, the wrong order,
// events that come twice.
func (m *maker) disturb(o PlayOptions) {
	end := 0 // of the call itself: nothing unknown comes after it
	for i, s := range m.s.steps {
		if s.Type == "call.finished" {
			end = i
		}
	}
	steps := make([]step, 0, len(m.s.steps)+2)
	for i, s := range m.s.steps {
		steps = append(steps, s)
		if i < end && s.Type != "dialer.attempt" && m.chance(o.Unknown) {
			steps = append(steps, step{event: event{Type: pick(m.Rand, unknownTypes), Details: map[string]any{"score": m.IntN(100), "source": map[string]any{"stage": s.Type}}}})
		}
	}
	m.s.steps = steps
	if m.chance(o.OutOfOrder) {
		for range 1 + m.IntN(2) {
			i := m.IntN(len(steps) - 1)
			if steps[i].standby && o.AwaitDelegate {
				i-- // nobody delegates what has not come: the event before it comes late instead
			}
			steps[i].late = true
		}
	}
	for i := range steps {
		if m.chance(o.Duplicates) {
			steps[i].again, steps[i].againLate = true, m.chance(0.5)
		}
	}
}

func (m *maker) chance(p float64) bool { return m.Float64() < p }

func (m *maker) seconds(from, to float64) time.Duration {
	return time.Duration((from + m.Float64()*(to-from)) * float64(time.Second))
}

// around gives times as people take them: often short, seldom long.
func (m *maker) around(mean float64) time.Duration {
	return time.Duration(min(m.ExpFloat64()*mean, 6*mean) * float64(time.Second))
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }
