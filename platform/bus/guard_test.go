//go:build linux

package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/errs"
)

// fill writes a file that leaves only rest bytes of a small disk.
func fill(t *testing.T, path string, chunk int, more func() bool) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for more() {
		if _, err := f.Write(make([]byte, chunk)); err != nil {
			return // full
		}
	}
}

func TestLowSpaceRefusesPublishersUntilItIsBack(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 64<<20)
	b := bustest.Open(t, bus.Config{Dir: filepath.Join(dir, "bus"), MinFree: 16 << 20})
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
	publish(t, b, bus.Message{Subject: "a"})
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast, 1<<20, func() bool { return freeBytes(t, dir) > 8<<20 })
	within(t, 5*time.Second, "the bus refuses", func() bool { return b.Ready() != nil })
	err := b.Ready()
	if !errors.Is(err, bus.ErrNoSpace) || errs.KindOf(err) != errs.Unavailable {
		t.Fatalf("Ready is %v", err)
	}
	began := time.Now()
	if _, err := b.Publish(t.Context(), bus.Message{Subject: "a"}); !errors.Is(err, bus.ErrNoSpace) || time.Since(began) > 3*time.Second {
		t.Fatalf("Publish gave %v after %v", err, time.Since(began))
	}
	g := b.Group(bus.GroupConfig{Subject: "a"})
	if err := g.Publish(t.Context(), [][]byte{{1}}); !errors.Is(err, bus.ErrNoSpace) {
		t.Fatalf("Group.Publish gave %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "the bus takes messages again", func() bool { return b.Ready() == nil })
	publish(t, b, bus.Message{Subject: "a"})
}

// TestFullDiskLosesNothingAndHealsItself fills the disk under the server, which
// falls silent, gives the space back and expects every acknowledged item and
// working subscriptions.
func TestFullDiskLosesNothingAndHealsItself(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 96<<20)
	reg := prometheus.NewRegistry()
	b, err := bus.Open(t.Context(), bus.Config{Dir: filepath.Join(dir, "bus"), MinFree: 1, PublishTimeout: 1500 * time.Millisecond}, nil, reg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	start(t, b.Run)
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
	g := b.Group(bus.GroupConfig{Subject: "a"})
	start(t, g.Run)

	var seen sync.Map
	var watched, consumed atomic.Int64
	start(t, func(ctx context.Context) error {
		return b.Consume(ctx, bus.Consumer{Stream: "A", Name: "c", Batch: 50, AckWait: 2 * time.Second}, func(_ context.Context, msgs []bus.Message) error {
			for _, m := range msgs {
				items, err := bus.OpenFrame(m.Data, nil)
				if err != nil {
					return bus.Permanent(err)
				}
				for _, it := range items {
					seen.Store(string(it[:8]), true)
				}
			}
			consumed.Add(int64(len(msgs)))
			return nil
		})
	})
	start(t, func(ctx context.Context) error {
		return b.WatchFrom(ctx, "A", "", 1, func(bus.Message) { watched.Add(1) }) // from the first, however late it starts
	})
	start(t, func(ctx context.Context) error {
		return b.Serve(ctx, "svc.x", "q", func(_ context.Context, d []byte) ([]byte, error) { return d, nil })
	})
	heard := make(chan string, 1000)
	start(t, func(ctx context.Context) error {
		return b.Listen(ctx, "cast", func(d []byte) { heard <- string(d) })
	})

	var mu sync.Mutex
	var acked []string
	var n atomic.Int64
	put := func() error {
		name := fmt.Sprintf("%08d", n.Add(1))
		err := g.Publish(context.Background(), [][]byte{append([]byte(name), bytes.Repeat([]byte{'x'}, 2000)...)})
		if err == nil {
			mu.Lock()
			acked = append(acked, name)
			mu.Unlock()
		}
		return err
	}
	for range 500 {
		if err := put(); err != nil {
			t.Fatal(err)
		}
	}
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast, 64<<10, func() bool { return freeBytes(t, dir) > 256<<10 })
	var failure error
	within(t, 30*time.Second, "the disk is full", func() bool {
		var wg sync.WaitGroup
		var fail atomic.Pointer[error]
		for range 32 {
			wg.Go(func() {
				if err := put(); err != nil {
					fail.Store(&err)
				}
			})
		}
		wg.Wait()
		if p := fail.Load(); p != nil {
			failure = *p
		}
		return failure != nil
	})
	if errs.KindOf(failure) != errs.Unavailable {
		t.Fatalf("a full disk gave %v", failure)
	}
	within(t, 10*time.Second, "Ready tells of no space", func() bool { return errors.Is(b.Ready(), bus.ErrNoSpace) })
	began := time.Now()
	if err := put(); !errors.Is(err, bus.ErrNoSpace) || time.Since(began) > 3*time.Second {
		t.Fatalf("while full: %v after %v", err, time.Since(began))
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	freed := time.Now()
	within(t, 10*time.Second, "the bus accepts again", func() bool { return put() == nil })
	t.Logf("accepted again %v after the space came back", time.Since(freed).Round(time.Millisecond))
	for range 100 {
		if err := put(); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	within(t, 20*time.Second, "every acknowledged item is consumed", func() bool {
		for _, name := range acked {
			if _, ok := seen.Load(name); !ok {
				return false
			}
		}
		return true
	})
	within(t, 10*time.Second, "the watch goes on", func() bool { return watched.Load() >= consumed.Load()/2 && watched.Load() >= 600 })
	within(t, 5*time.Second, "requests are served again", func() bool {
		got, err := b.Request(t.Context(), "svc.x", []byte("hi"))
		return err == nil && string(got) == "hi"
	})
	within(t, 5*time.Second, "broadcasts are heard again", func() bool {
		if err := b.Broadcast("cast", []byte("x")); err != nil {
			return false
		}
		select {
		case <-heard:
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	if n := metric(t, reg, "bus_guard_restarts_total"); n != 1 {
		t.Errorf("the guard restarted the server %v times", n)
	}
	if alarms := b.Alarms(); len(alarms) > 0 {
		t.Errorf("false alarms: %v", alarms)
	}
	t.Logf("%d items acknowledged, all there", len(acked))
}
