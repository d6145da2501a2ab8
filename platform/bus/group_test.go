package bus_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/errs"
)

// frames collects the items of every frame of stream A, in order.
func frames(t *testing.T, b *bus.Bus, open func([]byte) ([]byte, error)) (items func() []string, sizes func() []int) {
	t.Helper()
	var mu sync.Mutex
	var got []string
	var lens []int
	start(t, func(ctx context.Context) error {
		return b.Consume(ctx, bus.Consumer{Stream: "A", Name: "frames", Batch: 100}, func(_ context.Context, msgs []bus.Message) error {
			mu.Lock()
			defer mu.Unlock()
			for _, m := range msgs {
				its, err := bus.OpenFrame(m.Data, open)
				if err != nil {
					return bus.Permanent(err)
				}
				for _, it := range its {
					got = append(got, string(it))
				}
				lens = append(lens, len(its))
			}
			return nil
		})
	})
	return func() []string { mu.Lock(); defer mu.Unlock(); return append([]string(nil), got...) },
		func() []int { mu.Lock(); defer mu.Unlock(); return append([]int(nil), lens...) }
}

func TestGroupKeepsTheOrderOfEachCallerAndLosesNothing(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
		items, _ := frames(t, b, nil)
		// Small frames make calls span several of them.
		g := b.Group(bus.GroupConfig{Subject: "a", MaxItems: 7, MaxBytes: 200})
		start(t, g.Run)
		const callers, calls, each = 16, 20, 5
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				for k := range calls {
					var its [][]byte
					for i := range each {
						its = append(its, fmt.Appendf(nil, "%d %d", c, k*each+i))
					}
					if err := g.Publish(context.Background(), its); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		within(t, 10*time.Second, "all items arrive", func() bool { return len(items()) >= callers*calls*each })
		next := map[int]int{}
		for _, it := range items() {
			var c, k int
			if _, err := fmt.Sscanf(it, "%d %d", &c, &k); err != nil {
				t.Fatal(err)
			}
			if k != next[c] {
				t.Fatalf("caller %d: item %d where %d was due", c, k, next[c])
			}
			next[c]++
		}
	})
}

func TestConcurrentCallsShareFrames(t *testing.T) {
	t.Parallel()
	b := bustest.Embedded(t)
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
	items, sizes := frames(t, b, nil)
	g := b.Group(bus.GroupConfig{Subject: "a", MaxItems: 100})
	const n = 1000
	var wg sync.WaitGroup
	for i := range n { // before Run, so that they gather
		wg.Go(func() {
			if err := g.Publish(context.Background(), [][]byte{fmt.Append(nil, i)}); err != nil {
				t.Error(err)
			}
		})
	}
	start(t, g.Run)
	wg.Wait()
	within(t, 10*time.Second, "all items arrive", func() bool { return len(items()) == n })
	if len(sizes()) > n/2 {
		t.Errorf("%d items took %d frames", n, len(sizes()))
	}
	for _, k := range sizes() {
		if k > 100 {
			t.Errorf("a frame of %d items", k)
		}
	}
}

func TestGroupTakesTheLargestItemAndNoLarger(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
		items, sizes := frames(t, b, nil)
		g := b.Group(bus.GroupConfig{Subject: "a"})
		start(t, g.Run)
		if b.MaxItem() < 8<<20+64<<10 {
			t.Errorf("MaxItem is %d", b.MaxItem())
		}
		large := bytes.Repeat([]byte{'L'}, b.MaxItem())
		if err := g.Publish(t.Context(), [][]byte{{'a'}, large, {'b'}}); err != nil {
			t.Fatal(err)
		}
		within(t, 10*time.Second, "all items arrive", func() bool { return len(items()) == 3 })
		if its := items(); its[0] != "a" || its[1] != string(large) || its[2] != "b" || len(sizes()) != 3 {
			t.Errorf("frames of %v items", sizes())
		}
		if err := g.Publish(t.Context(), [][]byte{append(large, 'x')}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("a larger one gave %v", err)
		}
		if _, err := b.Publish(t.Context(), bus.Message{Subject: "a", Data: append(large, 'x')}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("a larger message gave %v", err)
		}
	})
}

func TestSealedFramesOpenOnlyWithTheirKey(t *testing.T) {
	t.Parallel()
	b := bustest.Embedded(t)
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
	flip := func(in []byte) ([]byte, error) {
		out := make([]byte, len(in))
		for i, c := range in {
			out[i] = c ^ 0x5a
		}
		return out, nil
	}
	items, _ := frames(t, b, flip)
	raw := make(chan []byte, 1)
	start(t, func(ctx context.Context) error {
		return b.Consume(ctx, bus.Consumer{Stream: "A", Name: "raw"}, func(_ context.Context, m []bus.Message) error {
			raw <- m[0].Data
			return nil
		})
	})
	g := b.Group(bus.GroupConfig{Subject: "a", Seal: flip})
	start(t, g.Run)
	if err := g.Publish(t.Context(), [][]byte{[]byte("secret"), {}}); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "the items arrive", func() bool { return len(items()) == 2 })
	if its := items(); its[0] != "secret" || its[1] != "" {
		t.Errorf("items %q", its)
	}
	data := <-raw
	if bytes.Contains(data, []byte("secret")) {
		t.Error("the frame is not sealed")
	}
	if _, err := bus.OpenFrame(data, nil); errs.KindOf(err) != errs.Invalid {
		t.Errorf("without a key: %v", err)
	}
	broken := errors.New("key destroyed")
	if _, err := bus.OpenFrame(data, func([]byte) ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("the opener's error became %v", err)
	}
	// A seal that fails reaches the caller.
	g = b.Group(bus.GroupConfig{Subject: "a", Seal: func([]byte) ([]byte, error) { return nil, broken }})
	start(t, g.Run)
	if err := g.Publish(t.Context(), [][]byte{{1}}); !errors.Is(err, broken) {
		t.Errorf("a failing seal gave %v", err)
	}
}

func TestGroupIsBoundedAndLetsCallersGo(t *testing.T) {
	t.Parallel()
	b := bustest.Embedded(t)
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
	g := b.Group(bus.GroupConfig{Subject: "a"}) // without Run everything waits
	ctx, cancel := context.WithCancel(t.Context())
	item := make([]byte, 8<<20)
	var wg sync.WaitGroup
	over := make(chan error, 20)
	for range 20 {
		wg.Go(func() {
			if err := g.Publish(ctx, [][]byte{item}); err != nil {
				over <- err
			}
		})
	}
	err := <-over
	if errs.KindOf(err) != errs.Unavailable || errors.Is(err, context.Canceled) {
		t.Errorf("160 MiB waiting gave %v", err)
	}
	late := make(chan error)
	go func() { late <- b.Group(bus.GroupConfig{Subject: "a"}).Publish(context.Background(), [][]byte{{1}}) }()
	cancel()
	wg.Wait() // callers whose context ended are gone although nothing ran
	for len(over) > 0 {
		if err := <-over; errs.KindOf(err) != errs.Unavailable {
			t.Errorf("a caller that gave up got %v", err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-late; errs.KindOf(err) != errs.Unavailable {
		t.Errorf("a call that nobody ever took got %v", err)
	}
}

func TestGroupDrainsAndThenRefuses(t *testing.T) {
	t.Parallel()
	b := bustest.Embedded(t)
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
	g := b.Group(bus.GroupConfig{Subject: "a", MaxItems: 10})
	var wg sync.WaitGroup
	results := make(chan error, 200)
	for i := range 200 {
		wg.Go(func() { results <- g.Publish(context.Background(), [][]byte{fmt.Append(nil, i)}) })
	}
	stop := start(t, g.Run)
	first := <-results
	stop()
	wg.Wait()
	if first != nil {
		t.Error(first)
	}
	for range 199 {
		if err := <-results; err != nil && errs.KindOf(err) != errs.Unavailable {
			t.Errorf("an item got %v", err)
		}
	}
	if err := g.Publish(t.Context(), [][]byte{{1}}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

func TestOpenFrameRefusesDamage(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"empty":           {},
		"unknown version": {9, 1, 'a'},
		"cut off":         {1, 3, 'a'},
		"length too long": append([]byte{1}, bytes.Repeat([]byte{0xff}, 11)...),
		"huge length":     binary.AppendUvarint([]byte{1}, 1<<63),
		"half a length":   {1, 0x80},
	} {
		if _, err := bus.OpenFrame(data, nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzOpenFrame(f *testing.F) {
	f.Add([]byte{1, 1, 'a', 0})
	f.Add([]byte{2, 1, 'a'})
	f.Fuzz(func(t *testing.T, data []byte) {
		items, err := bus.OpenFrame(data, func(s []byte) ([]byte, error) { return s, nil })
		total := 0
		for _, it := range items {
			total += len(it) + 1
		}
		if err == nil && total > len(data) {
			t.Errorf("%d bytes of items in %d", total, len(data))
		}
	})
}
