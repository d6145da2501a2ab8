package mailing

import (
	"sync"
	"time"
)

// gate keeps an instance from hurting a provider that is away, overloaded, or
// does not know its token any more. Time is given to it.
//
// It is closed after so many failures in a row, and for as long as the provider
// asks to be left alone. After failures it lets one message through then, whose
// fate decides.
type gate struct {
	mu       sync.Mutex
	failures int       // in a row
	until    time.Time // closed until then
	trial    bool      // one message is on its way to try
	why      gateState
	rest     time.Duration // of the next closing by failures
}

// gateState is why nothing goes.
type gateState int

const (
	gateOpen         gateState = iota // all goes
	gateTrying                        // one message is tried
	gateFailing                       // too many failures in a row
	gateThrottled                     // the provider asked for a pause
	gateUnauthorized                  // the provider does not accept the token
)

const (
	gateFailures  = 25 // in a row close it
	gateRest      = time.Second
	gateMostRest  = 15 * time.Second
	gatePause     = 10 * time.Second // after 401 or 403
	gateTrialTime = 30 * time.Second // a trial of which nothing was heard
)

// enter tells whether a message may go now, and else how long to wait. Who
// enters must leave.
func (g *gate) enter(now time.Time) (ok bool, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.why == gateOpen:
		return true, 0
	case now.Before(g.until):
		return false, g.until.Sub(now)
	case g.why == gateThrottled: // it asked for a pause, and had it
		g.why = gateOpen
		return true, 0
	case g.trial:
		return false, gateRest
	}
	g.trial, g.why, g.until = true, gateTrying, now.Add(gateTrialTime)
	return true, 0
}

// leave notes what became of an attempt. It tells what the gate is since, and
// whether that is new.
func (g *gate) leave(now time.Time, a attempt) (state gateState, changed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.why
	g.trial = false
	switch a.result {
	case attemptUnauthorized:
		g.why, g.until = gateUnauthorized, now.Add(gatePause)
	case attemptThrottled:
		g.why, g.until = gateThrottled, now.Add(max(a.after, gateRest))
	case attemptServerError, attemptTimeout, attemptReset, attemptGarbage:
		g.failures++
		if a.after > 0 {
			g.why, g.until = gateThrottled, now.Add(a.after)
		} else if g.failures >= gateFailures {
			g.rest = min(max(2*g.rest, gateRest), gateMostRest)
			g.why, g.until = gateFailing, now.Add(g.rest)
		}
	default:
		g.failures, g.rest, g.why = 0, 0, gateOpen
	}
	if was == gateTrying && g.why == gateTrying { // a trial that failed in a way that alone would not close it
		g.why, g.until = gateFailing, now.Add(max(g.rest, gateRest))
	}
	return g.why, was != g.why
}

// state tells why nothing goes, and until when.
func (g *gate) state() (gateState, time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why, g.until
}

// closed tells whether it makes no sense to bring messages now.
func (g *gate) closed(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why != gateOpen && (now.Before(g.until) || g.trial)
}
