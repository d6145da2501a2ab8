package bus_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
)

// BenchmarkConsume measures messages of 300 bytes through a handler that does nothing.
func BenchmarkConsume(bench *testing.B) {
	for _, c := range []struct{ batch, workers int }{{1, 1}, {1, 4}, {100, 1}, {1000, 1}} {
		bench.Run(fmt.Sprintf("batch=%d/workers=%d", c.batch, c.workers), func(bench *testing.B) {
			b := bustest.Open(bench, bus.Config{Dir: bench.TempDir(), Sync: "1m"})
			if err := b.Declare(bench.Context(), bus.Stream{Name: "A", Subjects: []string{"a"}}); err != nil {
				bench.Fatal(err)
			}
			for range bench.N {
				if _, err := b.Publish(bench.Context(), bus.Message{Subject: "a", Data: make([]byte, 300)}); err != nil {
					bench.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var left atomic.Int64
			left.Store(int64(bench.N))
			bench.ReportAllocs()
			bench.ResetTimer()
			err := b.Consume(ctx, bus.Consumer{Stream: "A", Name: "c", Batch: c.batch, Workers: c.workers}, func(_ context.Context, m []bus.Message) error {
				if left.Add(-int64(len(m))) <= 0 {
					cancel()
				}
				return nil
			})
			if err != nil {
				bench.Fatal(err)
			}
			bench.ReportMetric(float64(bench.N)/bench.Elapsed().Seconds(), "msgs/s")
		})
	}
}
