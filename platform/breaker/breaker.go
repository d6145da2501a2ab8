// Package breaker keeps a client from hurting a service that is away,
// overloaded, or does not know its credential any more.
package breaker

import (
	"sync"
	"time"
)

// Breaker is a circuit breaker (Nygard, Release It!, "Circuit Breaker"). It
// opens after so many failures in a row, and for as long as the service asks to
// be left alone. After failures it lets one call through then, whose outcome
// decides. Time is given to it. The zero value is closed.
type Breaker struct {
	mu       sync.Mutex
	failures int       // in a row
	until    time.Time // open until then
	trial    bool      // one call is on its way to try
	state    State
	rest     time.Duration // of the next opening by failures
}

// State is what a Breaker does, and why.
type State int

const (
	Closed       State = iota // all goes
	HalfOpen                  // one call is tried
	Open                      // too many failures in a row
	Throttled                 // the service asked for a pause
	Unauthorized              // the service does not accept the credential
)

var stateNames = [...]string{"closed", "half_open", "open", "throttled", "unauthorized"}

func (s State) String() string { return stateNames[s] }

// Outcome is what became of a call.
type Outcome int

const (
	Success  Outcome = iota // also a refusal of this one call
	Failure                 // no answer, or one that says that the service fails
	Throttle                // the service asks for a pause
	Denial                  // the service does not accept the credential
)

const (
	failuresToOpen = 25
	firstRest      = time.Second
	longestRest    = 15 * time.Second
	denialRest     = 10 * time.Second
	trialTime      = 30 * time.Second // a trial of which nothing was heard
)

// Enter tells whether a call may go now, and else how long to wait. Who enters
// must leave.
func (b *Breaker) Enter(now time.Time) (ok bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.state == Closed:
		return true, 0
	case b.trial && now.Before(b.until): // its outcome will be known soon
		return false, firstRest
	case now.Before(b.until):
		return false, b.until.Sub(now)
	case b.state == Throttled: // it asked for a pause, and had it
		b.state = Closed
		return true, 0
	}
	b.trial, b.state, b.until = true, HalfOpen, now.Add(trialTime)
	return true, 0
}

// Leave notes the outcome of a call, and for how long the service asked to be
// left alone. It tells the state since, and whether that is new.
func (b *Breaker) Leave(now time.Time, outcome Outcome, after time.Duration) (state State, changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.state
	if was != Closed && was != HalfOpen && outcome != Denial && outcome != Throttle {
		return was, false // it had left before this opened
	}
	b.trial = false
	switch outcome {
	case Denial:
		b.state, b.until = Unauthorized, now.Add(denialRest)
	case Throttle:
		b.state, b.until = Throttled, now.Add(max(after, firstRest))
	case Failure:
		b.failures++
		if after > 0 {
			b.state, b.until = Throttled, now.Add(after)
		} else if b.failures >= failuresToOpen {
			b.rest = min(max(2*b.rest, firstRest), longestRest)
			b.state, b.until = Open, now.Add(b.rest)
		}
	default:
		b.failures, b.rest, b.state = 0, 0, Closed
	}
	if was == HalfOpen && b.state == HalfOpen { // a trial that failed in a way that alone would not open it
		b.state, b.until = Open, now.Add(max(b.rest, firstRest))
	}
	return b.state, was != b.state
}

// State tells what it does, and until when.
func (b *Breaker) State() (State, time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state, b.until
}

// Rests tells whether it makes no sense to bring calls now.
func (b *Breaker) Rests(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state != Closed && (now.Before(b.until) || b.trial)
}
