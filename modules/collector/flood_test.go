package collector

import (
	"testing"
	"time"
)

func TestStoringStandsBackForRequests(t *testing.T) {
	t.Parallel()
	const took = 10 * time.Millisecond
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	var f flood
	requests := func(n, events int, at time.Time) {
		for range n {
			f.enter(events)
		}
		for range n {
			f.leave(events, at)
		}
	}
	for _, step := range []struct {
		name     string
		requests int
		events   int // of each
		after    time.Duration
		full     bool
		want     time.Duration
	}{
		{"nothing came yet", 0, 0, 0, false, 0},
		{"a request came, the batch was small", 1, 1, 0, false, 2 * took},
		{"a request came, the batch was full", 1, 1000, 0, true, 2 * took},
		{"a few large ones", floodBatches - 1, 1000, 0, true, 2 * took},
		{"many small ones", floodRequests - 1, 1, 0, true, 2 * took},
		{"a flood of batches", floodBatches, 100, 0, true, floodRests * took},
		{"a flood", floodRequests, 1, 0, true, floodRests * took},
		{"the flood goes on", floodRequests, 1, floodTime - time.Millisecond, true, floodRests * took},
		{"it has held storing back long enough", floodRequests, 1, floodTime, true, 2 * took},
		{"a pause with a backlog does not begin another", 1, 1, floodTime, true, 2 * took},
		{"nor does the next wave", floodRequests, 1, floodTime, true, 2 * took},
		{"the backlog is stored", 1, 1, floodTime, false, 2 * took},
		{"another flood", floodRequests, 1, floodTime, true, floodRests * took},
	} {
		at := start.Add(step.after)
		requests(step.requests, step.events, at)
		if got := f.rest(at, took, step.full); got != step.want {
			t.Errorf("%s: rests %s, want %s", step.name, got, step.want)
		}
	}
	if got := f.rest(start.Add(time.Minute), took, true); got != 0 {
		t.Errorf("rests %s when nothing comes in any more", got)
	}
}
