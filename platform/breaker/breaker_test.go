package breaker

import (
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// opened gives a breaker that so many failures in a row have opened at noon.
func opened(t *testing.T, failures int) *Breaker {
	t.Helper()
	b := &Breaker{}
	for range failures {
		b.Leave(noon, Failure, 0)
	}
	if state, _ := b.State(); state != Open {
		t.Fatalf("after %d failures it is %v", failures, state)
	}
	return b
}

func enters(t *testing.T, b *Breaker, at time.Time, want bool) time.Duration {
	t.Helper()
	ok, wait := b.Enter(at)
	if ok != want || ok != (wait == 0) {
		t.Fatalf("at %v: %v, wait %v; want %v", at.Sub(noon), ok, wait, want)
	}
	return wait
}

func TestASuccessBetweenKeepsItClosed(t *testing.T) {
	b := &Breaker{}
	for range 100 {
		for range failuresToOpen - 1 {
			b.Leave(noon, Failure, 0)
		}
		b.Leave(noon, Success, 0)
	}
	enters(t, b, noon, true)
}

func TestOneTrialDecides(t *testing.T) {
	b := opened(t, failuresToOpen)
	if wait := enters(t, b, noon, false); wait != firstRest {
		t.Errorf("it rests for %v", wait)
	}
	later := noon.Add(firstRest)
	enters(t, b, later, true)
	if wait := enters(t, b, later, false); wait != firstRest { // not as long as a trial may take
		t.Errorf("others wait %v", wait)
	}
	if state, changed := b.Leave(later, Failure, 0); state != Open || !changed {
		t.Errorf("after a trial that failed: %v", state)
	}
	enters(t, b, later, false)
	_, until := b.State()
	enters(t, b, until, true)
	if state, changed := b.Leave(until, Success, 0); state != Closed || !changed {
		t.Errorf("after a trial that went well: %v", state)
	}
	enters(t, b, until, true)
	enters(t, b, until, true)
}

func TestATrialOfWhichNothingIsHeardGivesWay(t *testing.T) {
	b := opened(t, failuresToOpen)
	enters(t, b, noon.Add(firstRest), true)
	enters(t, b, noon.Add(firstRest+trialTime), true)
}

func TestWhatLeftBeforeItOpenedChangesNothing(t *testing.T) {
	b := opened(t, failuresToOpen+100)
	if _, until := b.State(); until.Sub(noon) != firstRest {
		t.Errorf("it rests for %v", until.Sub(noon))
	}
	b = &Breaker{}
	b.Leave(noon, Denial, 0)
	if state, changed := b.Leave(noon, Success, 0); state != Unauthorized || changed {
		t.Errorf("a late success made it %v", state)
	}
	enters(t, b, noon.Add(denialRest-1), false)
}

func TestItRestsLongerEachTimeUpToABound(t *testing.T) {
	b, now := opened(t, failuresToOpen), noon
	var rests []time.Duration
	for range 7 {
		_, until := b.State()
		rests = append(rests, until.Sub(now))
		now = until
		enters(t, b, now, true)
		b.Leave(now, Failure, 0)
	}
	for i, want := range []time.Duration{1, 2, 4, 8, 15, 15, 15} {
		if rests[i] != want*time.Second {
			t.Fatalf("%v", rests)
		}
	}
}

func TestAPauseThatTheServiceAsksForIsKept(t *testing.T) {
	for _, outcome := range []Outcome{Throttle, Failure} {
		b := &Breaker{}
		if state, changed := b.Leave(noon, outcome, 7*time.Second); state != Throttled || !changed {
			t.Fatalf("%v", state)
		}
		if !b.Rests(noon.Add(6 * time.Second)) {
			t.Error("it does not rest")
		}
		if wait := enters(t, b, noon.Add(5*time.Second), false); wait != 2*time.Second {
			t.Errorf("wait %v", wait)
		}
		enters(t, b, noon.Add(7*time.Second), true)
		enters(t, b, noon.Add(7*time.Second), true) // all go
	}
}

func TestADenialRestsUntilOneIsAccepted(t *testing.T) {
	b := &Breaker{}
	b.Leave(noon, Denial, 0)
	enters(t, b, noon, false)
	enters(t, b, noon.Add(denialRest), true)
	enters(t, b, noon.Add(denialRest), false)
	if state, _ := b.Leave(noon.Add(denialRest), Denial, 0); state != Unauthorized {
		t.Errorf("%v", state)
	}
}
