package collector

import (
	"sync"
	"time"
)

const (
	// storeEvery is how often a worker commits while events keep coming: rarely
	// enough that a commit pays for many events, and far below what a person
	// notices.
	storeEvery = 20 * time.Millisecond
	// longestRest bounds how long a worker stands back for requests.
	longestRest = 100 * time.Millisecond
	// floodRequests that wait for the disk at once are more than a machine with
	// time to spare lets gather; so are floodBatches with floodEvents in them.
	floodRequests = 32
	floodBatches  = 8
	floodEvents   = 800
	// floodRests is how much longer than its work a worker rests in a flood,
	// floodRest bounds one rest, and floodTime how long a flood may hold storing
	// back.
	floodRests = 99
	floodRest  = time.Second
	floodTime  = 10 * time.Second
)

// flood decides how much of its time storing takes. Answering goes first: the
// bus keeps what was accepted, and a peak can be stored after it. So storing
// takes all its time when no events come in, about a third while they do, and a
// hundredth in a flood, for at most floodTime of it: then it catches up before it
// stands back again. It is safe for concurrent use.
type flood struct {
	mu       sync.Mutex
	requests int  // that wait for the disk now
	events   int  // in them
	much     bool // they were a flood since the last rest
	at       time.Time
	since    time.Time // when the flood began that is not stored yet
}

// enter and leave enclose the time in which a request of so many events waits
// for the disk.
func (f *flood) enter(events int) {
	f.mu.Lock()
	f.requests++
	f.events += events
	f.much = f.much || f.rises()
	f.mu.Unlock()
}

func (f *flood) leave(events int, now time.Time) {
	f.mu.Lock()
	f.requests--
	f.events -= events
	f.at = now
	f.mu.Unlock()
}

func (f *flood) rises() bool {
	return f.requests >= floodRequests || f.requests >= floodBatches && f.events >= floodEvents
}

// rest is how long a worker rests after a batch that took so long, full or not.
func (f *flood) rest(now time.Time, took time.Duration, full bool) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	much := f.much
	f.much = f.rises()
	if f.requests == 0 && now.Sub(f.at) > storeEvery {
		return 0
	}
	switch {
	case much && f.since.IsZero():
		f.since = now
	case !much && !full:
		f.since = time.Time{}
	}
	if much && now.Sub(f.since) < floodTime {
		return min(floodRests*took, floodRest)
	}
	if full {
		return min(2*took, longestRest)
	}
	return max(storeEvery-took, min(2*took, longestRest))
}
