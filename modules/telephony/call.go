package telephony

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// state is how far a call has got. A call never moves back: its state is the
// highest one that any of its events implies. The numbers are stored.
type state int

const (
	stateNew state = iota + 1
	stateStandby
	stateWaiting
	stateOngoing
	stateFinished
)

var stateNames = [...]string{stateNew: "NEW", stateStandby: "STANDBY", stateWaiting: "WAITING", stateOngoing: "ONGOING", stateFinished: "FINISHED"}

func (s state) String() string { return stateNames[s] }

// parseState gives 0 for what is no state.
func parseState(name string) state { return state(max(slices.Index(stateNames[:], name), 0)) }

// implies is the state that an event of a call implies; what actors do implies
// nothing but that there is a call.
func (k kind) implies() state {
	switch k {
	case kindStandby:
		return stateStandby
	case kindWaiting, kindOverflow, kindQueueAbandon:
		return stateWaiting
	case kindOngoing:
		return stateOngoing
	case kindFinished:
		return stateFinished
	}
	return stateNew
}

// outcome is what came of a call. The numbers are stored.
type outcome int

const (
	outcomeNone       outcome = iota // it is not over yet
	outcomeAnswered                  // somebody talked to the caller
	outcomeAbandoned                 // the caller hung up while waiting
	outcomeOverflow                  // the queue was full or the wait too long, and nobody answered elsewhere
	outcomeForwarded                 // it followed somebody to another number
	outcomeUnanswered                // it ended before it came to a queue
)

var outcomeNames = [...]string{"", "answered", "abandoned", "overflow", "forwarded", "unanswered"}

func (o outcome) String() string { return outcomeNames[o] }

// direction of a call. The numbers are stored.
type direction int

const (
	directionUnknown direction = iota
	directionInbound
	directionOutbound
)

var directionNames = [...]string{"", "inbound", "outbound"}

func (d direction) String() string { return directionNames[d] }

// parseDirection gives directionUnknown for what is none.
func parseDirection(name string) direction {
	return direction(max(slices.Index(directionNames[:], name), 0))
}

// person is the blind index of somebody.
type person [16]byte

// stamp orders events: by the platform's time, then by their place in the log.
type stamp struct {
	At int64 // microseconds of UTC since 1970
	ID int64
}

func (s stamp) compare(o stamp) int { return cmp.Or(cmp.Compare(s.At, o.At), cmp.Compare(s.ID, o.ID)) }

// mark is an event that figures are made of.
type mark struct {
	stamp
	Kind  kind
	Queue string
	Actor person // zero: nobody
}

// maxMarks bounds what is remembered of one call: its first events. A call that
// a person has makes a dozen.
const maxMarks = 256

// facts are what a call is folded into. The result depends on the set of the
// call's events and their order in the log, not on the order of their arrival
// at this function in batches.
type facts struct {
	Events        int64
	State         state
	First, Last   int64 // times of the earliest and the latest event
	Finished      int64 // time of the latest call.finished; 0: none
	Direction     direction
	DirectionSaid stamp // by which event
	PrivateSaid   stamp // which event said whose number it is
	PrivateKnown  int64 // which of the private fields are filled in, a bit each
	Marks         []mark
}

// add takes an event into account.
func (f *facts) add(m mark, d direction) {
	if f.Events == 0 {
		f.First, f.Last = m.At, m.At
	}
	f.Events++
	f.First, f.Last = min(f.First, m.At), max(f.Last, m.At)
	f.State = max(f.State, m.Kind.implies())
	if m.Kind == kindFinished && (f.Finished == 0 || m.At > f.Finished) {
		f.Finished = m.At
	}
	if d != directionUnknown && (f.Direction == directionUnknown || m.compare(f.DirectionSaid) > 0) {
		f.Direction, f.DirectionSaid = d, m.stamp
	}
	switch m.Kind {
	case kindStandby, kindWaiting, kindOngoing, kindOverflow, kindFollowMe, kindQueueAbandon, kindEntered, kindLeft, kindRinging, kindNoAnswer:
	default:
		return
	}
	at, _ := slices.BinarySearchFunc(f.Marks, m, func(a, b mark) int { return a.compare(b.stamp) })
	if at == maxMarks {
		return
	}
	f.Marks = slices.Insert(f.Marks, at, m)
	f.Marks = f.Marks[:min(len(f.Marks), maxMarks)]
}

// figures are what the facts of a call come to.
type figures struct {
	Outcome outcome
	Queue   string
	Waited  bool          // there was a wait, and it is over
	Wait    time.Duration // from the queue (or standing by) to the answer or the end
	Offered bool          // it was in a queue
	// Whether it overflowed or was forwarded on its way, whatever the outcome,
	// and from which queue.
	Overflowed, Forwarded bool
	OverflowedFrom        string
	Talked                bool          // it was answered and is over
	Talk                  time.Duration // from the first call.ongoing to call.finished
	Actors                map[person]*actorFigures
}

// actorFigures are an actor's part in a call.
type actorFigures struct {
	Rings, NoAnswers, Answers int64
	Talks                     int64         // that are over
	Talk                      time.Duration // from each actor.entered to actor.left
	entered                   int64
}

func (f *facts) figures() figures {
	var out figures
	first := map[kind]int64{}
	said := map[kind]bool{}
	waitQueue := ""
	for _, m := range f.Marks {
		if !said[m.Kind] {
			said[m.Kind], first[m.Kind] = true, m.At
		}
		if m.Queue != "" {
			out.Queue = m.Queue
			if m.Kind == kindWaiting {
				waitQueue = m.Queue
			}
		}
		if m.Kind == kindOverflow && !out.Overflowed {
			out.Overflowed, out.OverflowedFrom = true, cmp.Or(m.Queue, waitQueue)
		}
		if m.Actor != (person{}) {
			out.actor(m)
		}
	}
	if waitQueue != "" {
		out.Queue = waitQueue
	}
	over := f.State == stateFinished
	for _, a := range out.Actors {
		if over && a.entered != 0 { // nobody said that he left: then it was at the end
			a.Talks++
			a.Talk += span64(a.entered, f.Finished)
		}
	}
	answered := said[kindEntered] || said[kindOngoing]
	switch {
	case answered:
		out.Outcome = outcomeAnswered
	case said[kindQueueAbandon]:
		out.Outcome = outcomeAbandoned
	case said[kindOverflow]:
		out.Outcome = outcomeOverflow
	case said[kindFollowMe]:
		out.Outcome = outcomeForwarded
	case over && said[kindWaiting]:
		out.Outcome = outcomeAbandoned
	case over:
		out.Outcome = outcomeUnanswered
	}
	out.Forwarded = said[kindFollowMe]
	out.Offered = said[kindWaiting] || said[kindQueueAbandon] || said[kindOverflow]

	from, waits := first[kindWaiting], said[kindWaiting]
	if !waits {
		from, waits = first[kindStandby], said[kindStandby]
	}
	var end int64
	switch {
	case said[kindEntered] && said[kindOngoing]:
		end = min(first[kindEntered], first[kindOngoing])
	case answered:
		end = first[kindEntered] + first[kindOngoing] // one of the two
	case said[kindQueueAbandon]:
		end = first[kindQueueAbandon]
	case over:
		end = f.Finished
	default:
		waits = false
	}
	if waits {
		out.Waited, out.Wait = true, span64(from, end)
	}
	if answered && over {
		start := first[kindOngoing]
		if !said[kindOngoing] {
			start = first[kindEntered]
		}
		out.Talked, out.Talk = true, span64(start, f.Finished)
	}
	return out
}

// actor counts a mark for its actor.
func (out *figures) actor(m mark) {
	if out.Actors == nil {
		out.Actors = map[person]*actorFigures{}
	}
	a := out.Actors[m.Actor]
	if a == nil {
		a = &actorFigures{}
		out.Actors[m.Actor] = a
	}
	switch m.Kind {
	case kindRinging:
		a.Rings++
	case kindNoAnswer:
		a.NoAnswers++
	case kindEntered:
		a.Answers++
		a.entered = m.At
	case kindLeft:
		if a.Answers > 0 && a.entered != 0 {
			a.Talks++
			a.Talk += span64(a.entered, m.At)
			a.entered = 0
		}
	}
}

// span64 is the time between two moments in microseconds, 0 if it is negative.
func span64(from, to int64) time.Duration {
	return time.Duration(max(to-from, 0)) * time.Microsecond
}

// counterKey says what is counted together: calls of a queue, or what an actor
// did, in an hour.
type counterKey struct {
	Hour  int64 // its beginning, in microseconds of UTC
	Queue string
	Actor person // zero for the queue's own row
}

// counter is what is counted. It can be added and taken away.
type counter struct {
	Calls, Offered, Answered, InTime, Abandoned, Overflowed, Forwarded, Unanswered int64
	Waits, WaitUS, Talks, TalkUS                                                   int64
	Rings, NoAnswers                                                               int64
}

func (c *counter) fields() [14]*int64 {
	return [...]*int64{&c.Calls, &c.Offered, &c.Answered, &c.InTime, &c.Abandoned, &c.Overflowed, &c.Forwarded, &c.Unanswered,
		&c.Waits, &c.WaitUS, &c.Talks, &c.TalkUS, &c.Rings, &c.NoAnswers}
}

// add adds o, times times.
func (c *counter) add(o counter, times int64) {
	to, from := c.fields(), o.fields()
	for i := range to {
		*to[i] += times * *from[i]
	}
}

// shrinks tells whether it takes something away.
func (c counter) shrinks() bool {
	for _, n := range c.fields() {
		if *n < 0 {
			return true
		}
	}
	return false
}

const hour = int64(time.Hour / time.Microsecond)

// count gives what the call adds to the statistics: level is the longest wait
// of a call that was answered in time.
func (f *facts) count(level time.Duration, add func(counterKey, counter)) {
	if f.Events == 0 {
		return
	}
	at := f.First - ((f.First%hour)+hour)%hour
	g := f.figures()
	c := counter{Calls: 1, Offered: count(g.Offered), Answered: count(g.Outcome == outcomeAnswered), Abandoned: count(g.Outcome == outcomeAbandoned),
		Forwarded: count(g.Forwarded), Unanswered: count(g.Outcome == outcomeUnanswered),
		InTime: count(g.Offered && g.Outcome == outcomeAnswered && g.Waited && g.Wait <= level), Waits: count(g.Waited), WaitUS: g.Wait.Microseconds(),
		Talks: count(g.Talked), TalkUS: g.Talk.Microseconds()}
	if g.Overflowed && g.OverflowedFrom != g.Queue {
		add(counterKey{at, g.OverflowedFrom, person{}}, counter{Overflowed: 1})
	} else if g.Overflowed {
		c.Overflowed = 1
	}
	add(counterKey{at, g.Queue, person{}}, c)
	for who, a := range g.Actors {
		add(counterKey{at, g.Queue, who}, counter{Calls: 1, Answered: count(a.Answers > 0), Rings: a.Rings, NoAnswers: a.NoAnswers, Talks: a.Talks, TalkUS: a.Talk.Microseconds()})
	}
}

func count(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

var errFacts = errors.New("telephony: the facts of a call are damaged")

// encode writes the facts for the table of calls. They name nobody.
func (f *facts) encode() []byte {
	b := make([]byte, 0, 64+16*len(f.Marks))
	b = append(b, 1, byte(f.State), byte(f.Direction))
	for _, n := range [...]int64{f.Events, f.First, f.Last, f.Finished, f.DirectionSaid.At, f.DirectionSaid.ID, f.PrivateSaid.At, f.PrivateSaid.ID, f.PrivateKnown, int64(len(f.Marks))} {
		b = binary.AppendVarint(b, n)
	}
	for _, m := range f.Marks {
		b = append(b, byte(m.Kind))
		b = binary.AppendVarint(b, m.At-f.First)
		b = binary.AppendVarint(b, m.ID)
		b = binary.AppendUvarint(b, uint64(len(m.Queue)))
		b = append(b, m.Queue...)
		if m.Actor == (person{}) {
			b = append(b, 0)
		} else {
			b = append(append(b, 1), m.Actor[:]...)
		}
	}
	return b
}

// decodeFacts reads what encode wrote.
func decodeFacts(b []byte) (*facts, error) {
	if len(b) < 3 || b[0] != 1 || b[1] < byte(stateNew) || b[1] > byte(stateFinished) || b[2] > byte(directionOutbound) {
		return nil, errFacts
	}
	f := &facts{State: state(b[1]), Direction: direction(b[2])}
	r := factReader{b: b[3:]}
	var marks int64
	for _, to := range [...]*int64{&f.Events, &f.First, &f.Last, &f.Finished, &f.DirectionSaid.At, &f.DirectionSaid.ID, &f.PrivateSaid.At, &f.PrivateSaid.ID, &f.PrivateKnown, &marks} {
		*to = r.varint()
	}
	if r.bad || marks < 0 || marks > maxMarks {
		return nil, errFacts
	}
	f.Marks = make([]mark, marks, marks+2)
	for i := range f.Marks {
		m := &f.Marks[i]
		m.Kind = kind(r.byte())
		m.At = f.First + r.varint()
		m.ID = r.varint()
		m.Queue = string(r.take(int(r.length())))
		if r.byte() == 1 {
			copy(m.Actor[:], r.take(16))
		}
	}
	if r.bad || len(r.b) > 0 {
		return nil, errFacts
	}
	return f, nil
}

// factReader reads numbers and texts; bad tells that something was missing.
type factReader struct {
	b   []byte
	bad bool
}

func (r *factReader) varint() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

// length reads a length.
func (r *factReader) length() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > uint64(len(r.b)) {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *factReader) byte() byte {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *factReader) take(n int) []byte {
	if n > len(r.b) {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}
