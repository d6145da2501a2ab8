package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// TestKilledFiveTimesItKeepsEveryAcknowledgedEventOnce kills the server under
// load, sometimes also while it starts again.
func TestKilledFiveTimesItKeepsEveryAcknowledgedEventOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := apptest.Exec(t, dir, nil)
	c := newCrowd(t, 8)
	c.sendTo(server{p.URL, p.Key})
	c.start()
	var restarts []time.Duration
	for round := range 5 {
		apptest.Within(t, time.Minute, c.more(200+rand.Int64N(1500)))
		p.Kill()
		if round%2 == 1 { // once more, before it is back
			half := apptest.Launch(t, dir, nil)
			c.pause(time.Duration(rand.IntN(200)) * time.Millisecond)
			half.Kill()
		}
		p = apptest.Exec(t, dir, nil)
		restarts = append(restarts, p.Took)
		c.sendTo(server{p.URL, p.Key})
	}
	apptest.Within(t, time.Minute, c.more(200))
	c.halt()
	s := server{p.URL, p.Key}
	c.audit(s, c.settle(s))
	slices.Sort(restarts)
	t.Logf("ready again after a kill: median %s, longest %s", restarts[len(restarts)/2].Round(time.Millisecond), slices.Max(restarts).Round(time.Millisecond))
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestStoppedUnderLoadLeavesNothingUnclear stops the server in order: what was
// begun is answered, so that each event is either acknowledged or not stored.
func TestStoppedUnderLoadLeavesNothingUnclear(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := apptest.Exec(t, dir, nil)
	c := newCrowd(t, 8)
	c.sendTo(server{p.URL, p.Key})
	c.start()
	for range 3 {
		apptest.Within(t, time.Minute, c.more(200+rand.Int64N(800)))
		if code := p.Terminate(); code != 0 {
			t.Errorf("exit code %d\n%s", code, p.Log)
		}
		p = apptest.Exec(t, dir, nil)
		c.sendTo(server{p.URL, p.Key})
	}
	apptest.Within(t, time.Minute, c.more(200))
	c.halt()
	s := server{p.URL, p.Key}
	h := c.settle(s)
	c.audit(s, h)
	if acked := c.acked.Load(); int64(len(h.events)) != acked {
		t.Errorf("%d events are stored, %d were acknowledged", len(h.events), acked)
	}
}
