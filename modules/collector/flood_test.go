package collector

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// wave lets so many requests of so many events wait for the disk, again and
// again for a time. It goes on by itself until the test ends.
func (f *flood) wave(t *testing.T, requests, events int, d time.Duration) {
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		f.waves(requests, events, d)
	}()
	time.Sleep(50 * time.Millisecond)
}

func (f *flood) waves(requests, events int, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for range requests {
			f.enter(events)
		}
		time.Sleep(4 * time.Millisecond)
		for range requests {
			f.leave(events)
		}
	}
}

// rested is how long a worker rests.
func (f *flood) rested(took time.Duration, full bool) time.Duration {
	began := time.Now()
	f.rest(context.Background(), took, full)
	return time.Since(began)
}

func TestStoringStandsBackForRequests(t *testing.T) {
	t.Parallel()
	const took = 10 * time.Millisecond
	for name, c := range map[string]struct {
		requests int
		events   int // of each
		full     bool
		want     time.Duration
	}{
		"nothing comes":                 {0, 0, false, 0},
		"nothing comes, with a backlog": {0, 0, true, 0},
		"a request, the batch small":    {1, 1, false, 2 * took},
		"a request, the batch full":     {1, 1000, true, 2 * took},
		"a few large ones":              {floodBatches - 1, 1000, true, 2 * took},
		"many small ones":               {floodRequests - 1, 1, true, 2 * took},
		"a flood of batches":            {floodBatches, 100, true, floodRests * took},
		"a flood":                       {floodRequests, 1, true, floodRests * took},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var f flood
				f.wave(t, c.requests, c.events, 2*time.Second)
				if got := f.rested(took, c.full); got < c.want || got > c.want+10*time.Millisecond {
					t.Errorf("rests %s, want %s", got, c.want)
				}
			})
		})
	}
}

func TestTheEndOfAFloodEndsTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var f flood
		f.wave(t, floodRequests, 1, time.Second)
		if got := f.rested(time.Minute, true); got < 900*time.Millisecond || got > time.Second+2*longestRest {
			t.Errorf("rests %s in a flood of one second", got)
		}
	})
}

func TestAFloodHoldsStoringBackOnlySoLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var f flood
		const took = 20 * time.Millisecond
		stop, began := time.Minute, time.Now()
		f.wave(t, floodRequests, 1, stop)
		for time.Since(began) < floodTime+longestRest {
			if got := f.rested(took, true); time.Since(began) < floodTime && got < floodRests*took {
				t.Fatalf("rests %s, %s after the begin of the flood", got, time.Since(began))
			}
		}
		// From here to the end of the backlog, whatever comes.
		for time.Since(began) < stop {
			if got := f.rested(took, true); got > longestRest {
				t.Fatalf("rests %s, %s after the begin of the flood", got, time.Since(began))
			}
		}
		f.rest(context.Background(), took, true)
		f.wave(t, floodRequests, 1, time.Second)
		if got := f.rested(took, true); got > longestRest {
			t.Errorf("rests %s for the next flood, before the one before was stored", got)
		}
		time.Sleep(2 * time.Second)
		f.rest(context.Background(), took, false) // it is stored
		f.wave(t, floodRequests, 1, stop)
		if got := f.rested(took, true); got < floodRests*took {
			t.Errorf("rests %s for the next flood", got)
		}
	})
}
