package bus_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
)

// BenchmarkGroupPublish measures calls of Group.Publish on the embedded server
// with SyncAlways: callers at once, items of 300 bytes in a call.
func BenchmarkGroupPublish(bench *testing.B) {
	for _, c := range []struct{ callers, items int }{{1, 1}, {8, 1}, {64, 1}, {256, 1}, {1, 100}, {8, 100}, {16, 100}, {64, 100}} {
		bench.Run(fmt.Sprintf("callers=%d/items=%d", c.callers, c.items), func(bench *testing.B) {
			b := bustest.Embedded(bench)
			if err := b.Declare(bench.Context(), bus.Stream{Name: "A", Subjects: []string{"a"}}); err != nil {
				bench.Fatal(err)
			}
			g := b.Group(bus.GroupConfig{Subject: "a"})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			ran := make(chan struct{})
			go func() { defer close(ran); _ = g.Run(ctx) }()
			items := make([][]byte, c.items)
			for i := range items {
				items[i] = bytes.Repeat([]byte{'x'}, 300)
			}
			bench.ReportAllocs()
			bench.ResetTimer()
			var left atomic.Int64
			left.Store(int64(bench.N))
			var wg sync.WaitGroup
			for range c.callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := g.Publish(context.Background(), items); err != nil {
							bench.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			bench.StopTimer()
			bench.ReportMetric(float64(bench.N)/bench.Elapsed().Seconds(), "calls/s")
			bench.ReportMetric(float64(bench.N*c.items)/bench.Elapsed().Seconds(), "items/s")
			cancel()
			<-ran
		})
	}
}
