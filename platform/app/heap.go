package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// heapShare is how much the heap may grow before it is collected, as a share
	// in per cent of what lives. Much of that is caches of the bus: letting the
	// heap double would double them.
	heapShare = 50
	// A small heap under load would be collected dozens of times a second, at a
	// tenth of the CPU. So it may grow by more, up to heapRoom bytes, where
	// collections follow each other sooner than collectEvery.
	heapRoom     = 24 << 20
	collectEvery = 200 * time.Millisecond
)

// heapPace is how much the heap may grow from one collection to the next.
type heapPace struct {
	at      time.Time // of the last collection
	room    float64   // bytes
	percent int       // for the collector
}

// paceCollector has the garbage collector work at that pace, if GOGC does not
// say otherwise.
func paceCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapShare)
		(&heapPace{at: time.Now(), percent: heapShare}).wait()
	}
}

// wait has collected called after the next collection: it ends an object that
// nobody holds.
func (p *heapPace) wait() {
	type mark struct{ _ *byte } // with a pointer, for small objects without one share a block
	runtime.AddCleanup(&mark{}, func(p *heapPace) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		if p.collected(time.Now(), live[0].Value.Uint64()) {
			debug.SetGCPercent(p.percent)
		}
		p.wait()
	}, p)
}

// collected sets the pace after a collection that left so much alive, and tells
// whether the percentage has changed: in steps, for setting it stops the world.
func (p *heapPace) collected(now time.Time, live uint64) bool {
	took := max(now.Sub(p.at), time.Millisecond)
	share := float64(live) * heapShare / 100
	// What grows in that time, but not much more than before: a start is no load.
	room := min(p.room*float64(collectEvery)/float64(took), p.room*5/4, heapRoom)
	p.at, p.room = now, max(room, share)
	percent := heapShare
	if live > 0 {
		percent = max(int(p.room*100/float64(live))/10*10, heapShare)
	}
	changed := percent != p.percent
	p.percent = percent
	return changed
}
