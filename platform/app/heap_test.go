package app

import (
	"testing"
	"time"
)

func TestTheHeapGrowsByMoreUnderLoad(t *testing.T) {
	t.Parallel()
	const live = 10 << 20
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	p := &heapPace{at: now, percent: heapShare}
	collect := func(n int, every time.Duration, live uint64) int {
		for range n {
			now = now.Add(every)
			p.collected(now, live)
		}
		return p.percent
	}
	for _, step := range []struct {
		name  string
		n     int
		every time.Duration
		live  uint64
		want  int
	}{
		{"a start", 1, time.Second, live, heapShare},
		{"idle", 5, time.Minute, live, heapShare},
		{"one collection soon after another", 1, time.Millisecond, live, 60},
		{"many", 20, 10 * time.Millisecond, live, 240},
		{"they come as often as they should", 20, collectEvery, live, 240},
		{"a large heap may not grow by more", 1, 10 * time.Millisecond, 100 << 20, heapShare},
		{"it is small again", 20, 10 * time.Millisecond, live, 240},
		{"the load has gone", 1, time.Minute, live, heapShare},
		{"nothing lives", 1, time.Millisecond, 0, heapShare},
	} {
		if got := collect(step.n, step.every, step.live); got != step.want {
			t.Errorf("%s: the heap may grow by %d %%, want %d", step.name, got, step.want)
		}
	}
}
