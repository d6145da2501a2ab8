package bus_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/bus"
)

// TestConsumerGoesOnAfterItsStreamRolledBack makes what a power cut leaves when
// nothing is synced: a stream that ends earlier than its consumer remembers,
// and an empty description of the consumer.
func TestConsumerGoesOnAfterItsStreamRolledBack(t *testing.T) {
	t.Parallel()
	for name, damaged := range map[string]bool{"consumer described": false, "description empty": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var got atomic.Int64
			session := func(n int, consume bool) {
				b, err := bus.Open(t.Context(), bus.Config{Dir: filepath.Join(dir, "bus")}, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
				done := make(chan error, 2)
				go func() { done <- b.Run(ctx) }()
				if consume {
					go func() {
						done <- b.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c"}, func(context.Context, []bus.Message) error {
							got.Add(1)
							return nil
						})
					}()
				}
				for i := range n {
					publish(t, b, bus.Message{Subject: "q", Data: fmt.Appendf(nil, "%d", i)})
				}
				if consume {
					want := int64(n)
					within(t, 10*time.Second, "all new are handled", func() bool { return got.Load() >= want })
				}
				cancel()
				<-done
				if consume {
					<-done
				}
			}
			msgs := filepath.Join(dir, "bus", "jetstream", "$G", "streams", "Q", "msgs")
			meta := filepath.Join(dir, "bus", "jetstream", "$G", "streams", "Q", "obs", "c", "meta.inf")
			session(10, false)
			if err := os.CopyFS(filepath.Join(dir, "old"), os.DirFS(msgs)); err != nil {
				t.Fatal(err)
			}
			session(50, true)
			if err := os.RemoveAll(msgs); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(dir, "old"), msgs); err != nil {
				t.Fatal(err)
			}
			if damaged {
				if err := os.Truncate(meta, 0); err != nil {
					t.Fatal(err)
				}
			}
			got.Store(0)
			session(5, true)
		})
	}
}
