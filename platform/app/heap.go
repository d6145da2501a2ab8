package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// heapShare is how much the heap may grow before it is collected, as a share
	// in per cent of what lives. Much of that is caches of the bus: letting the
	// heap double would double them.
	heapShare = 50
	// heapRoom is how much it may grow in any case. A small heap would be collected
	// many times a second under load, at a tenth of the CPU.
	heapRoom = 24 << 20
)

// paceCollector has the garbage collector follow these two. GOGC has the say if
// it is set.
func paceCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapShare)
		paceNext(heapShare)
	}
}

// paceNext sets the percentage anew after each collection: an object that nobody
// holds ends with one.
func paceNext(percent int) {
	type mark struct{ _ *byte } // holds a pointer, so that it shares its block with no other object
	runtime.AddCleanup(&mark{}, func(was int) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		next := heapPercent(live[0].Value.Uint64())
		if next != was {
			debug.SetGCPercent(next)
		}
		paceNext(next)
	}, percent)
}

// heapPercent is the percentage for a heap of which so much lives, in coarse
// steps, for setting it stops the world.
func heapPercent(live uint64) int {
	percent := int(heapRoom * 100 / max(live, 1<<20))
	return max(percent-percent%10, heapShare)
}
