package collector

import (
	"context"
	"sync"
	"time"
)

const (
	// storeEvery is how often a worker commits while events keep coming: rarely
	// enough that a commit pays for many events, and far below what a person
	// notices.
	storeEvery = 20 * time.Millisecond
	// longestRest bounds how long a worker stands back for requests, and in a flood
	// how late it notices that the flood has ended.
	longestRest = 100 * time.Millisecond
	// floodRequests that wait for the disk at once are more than a machine with
	// time to spare lets gather; so are floodBatches with floodEvents in them.
	floodRequests = 32
	floodBatches  = 8
	floodEvents   = 800
	// floodRests is how much longer than its work a worker rests in a flood, and
	// floodTime how long a flood may hold storing back.
	floodRests = 99
	floodTime  = 10 * time.Second
)

// flood decides how much of its time storing takes. Answering goes first: the
// bus keeps what was accepted, and a peak can be stored after it. So storing
// takes all its time when no events come in, about a third while they do, and a
// hundredth in a flood, for at most floodTime of it: then it catches up before it
// stands back again. It is safe for concurrent use.
type flood struct {
	mu       sync.Mutex
	requests int       // that wait for the disk now
	events   int       // in them
	rose     time.Time // when they were a flood last
	answered time.Time // when one of them ended last
	since    time.Time // when the flood began that is not stored yet
}

// enter and leave enclose the time in which a request of so many events waits
// for the disk.
func (f *flood) enter(events int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests++
	f.events += events
	if f.requests >= floodRequests || f.requests >= floodBatches && f.events >= floodEvents {
		f.rose = time.Now()
	}
}

func (f *flood) leave(events int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests--
	f.events -= events
	f.answered = time.Now()
}

// rest returns when a worker may go on after a batch that took so long, full or
// not, or when ctx ends.
func (f *flood) rest(ctx context.Context, took time.Duration, full bool) {
	began := time.Now()
	f.mark(began, full)
	for now := began; ; now = time.Now() {
		left := f.due(now, took, full) - now.Sub(began)
		if left <= 0 {
			return
		}
		select {
		case <-time.After(min(left, longestRest)):
		case <-ctx.Done():
			return
		}
	}
}

// mark notes where a flood begins, and where all of it is stored.
func (f *flood) mark(now time.Time, full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch much := f.high(now); {
	case much && f.since.IsZero():
		f.since = now
	case !much && !full:
		f.since = time.Time{}
	}
}

// due is how long a worker rests if things stay as they are now.
func (f *flood) due(now time.Time, took time.Duration, full bool) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.requests == 0 && now.Sub(f.answered) > storeEvery:
		return 0
	case f.high(now) && now.Sub(f.since) < floodTime:
		return floodRests * took
	case full:
		return min(2*took, longestRest)
	}
	return max(storeEvery-took, min(2*took, longestRest))
}

func (f *flood) high(now time.Time) bool { return now.Sub(f.rose) < longestRest }
