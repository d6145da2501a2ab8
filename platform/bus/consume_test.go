package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/errs"
)

func TestUnavailableIsRetriedForEver(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
		var calls atomic.Int64
		done := make(chan int, 1)
		start(t, func(ctx context.Context) error {
			return b.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c", MaxDeliver: 1}, func(_ context.Context, m []bus.Message) error {
				if calls.Add(1) < 4 {
					return errs.New(errs.Unavailable, "database away")
				}
				done <- m[0].Delivered
				return nil
			})
		})
		publish(t, b, bus.Message{Subject: "q", Data: []byte("x")})
		if n := <-done; n != 4 {
			t.Errorf("handled at delivery %d", n)
		}
		dead, err := b.DeadLetters(t.Context(), bus.DeadLetterQuery{})
		if err != nil || len(dead) != 0 {
			t.Errorf("dead letters %v, %v", dead, err)
		}
	})
}

func TestOnlyTheCulpritOfABatchBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fail  func() error
		calls int // of the culprit alone, besides those in a batch
	}{
		"permanent":             {func() error { return bus.Permanent(errors.New("cannot be read")) }, 1},
		"permanent unavailable": {func() error { return bus.Permanent(errs.New(errs.Unavailable, "cannot be read")) }, 1},
		"other error":           {func() error { return errors.New("cannot be read") }, 3},
		"invalid":               {func() error { return errs.New(errs.Invalid, "cannot be read") }, 3},
		"panic":                 {func() error { panic("cannot be read") }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
				b := open()
				declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q.*"}, Queue: true})
				for i := range 10 {
					publish(t, b, bus.Message{Subject: "q.x", ID: fmt.Sprint("id", i), Header: map[string]string{"k": "v"}, Data: fmt.Append(nil, i)})
				}
				var mu sync.Mutex
				good := map[string]int{}
				alone := 0
				start(t, func(ctx context.Context) error {
					return b.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c", Batch: 10, MaxDeliver: 3}, func(_ context.Context, msgs []bus.Message) error {
						mu.Lock()
						defer mu.Unlock()
						for _, m := range msgs {
							if string(m.Data) == "4" {
								if len(msgs) == 1 {
									alone++
								}
								return c.fail()
							}
						}
						for _, m := range msgs {
							good[string(m.Data)]++
						}
						return nil
					})
				})
				var dead []bus.DeadLetter
				within(t, 20*time.Second, "there is a dead letter", func() bool {
					var err error
					if dead, err = b.DeadLetters(t.Context(), bus.DeadLetterQuery{Consumer: "c"}); err != nil {
						t.Fatal(err)
					}
					return len(dead) > 0
				})
				within(t, 5*time.Second, "the others are handled", func() bool { mu.Lock(); defer mu.Unlock(); return len(good) == 9 })
				mu.Lock()
				defer mu.Unlock()
				if len(good) != 9 || alone != c.calls {
					t.Errorf("good ones %v, the culprit alone %d times", good, alone)
				}
				d := dead[0]
				if len(dead) != 1 || d.Consumer != "c" || d.Stream != "Q" || d.Error == "" || d.Failures != c.calls || time.Since(d.At) > time.Minute {
					t.Errorf("dead letters %+v", dead)
				}
				if m := d.Message; m.Subject != "q.x" || string(m.Data) != "4" || m.ID != "id4" || len(m.Header) != 1 || m.Header["k"] != "v" || m.Seq == 0 || time.Since(m.Time) > time.Minute {
					t.Errorf("the message in it: %+v", m)
				}
			})
		})
	}
}

func TestDeadLettersAreRedrivenOrDiscarded(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
		var well atomic.Bool
		got := make(chan string, 10)
		start(t, func(ctx context.Context) error {
			return b.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c"}, func(_ context.Context, m []bus.Message) error {
				if !well.Load() {
					return bus.Permanent(errors.New("bad day"))
				}
				got <- string(m[0].Data)
				return nil
			})
		})
		for i := range 5 {
			publish(t, b, bus.Message{Subject: "q", Data: fmt.Append(nil, i)})
		}
		list := func(q bus.DeadLetterQuery) []bus.DeadLetter {
			d, err := b.DeadLetters(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		within(t, 10*time.Second, "five dead letters", func() bool { return len(list(bus.DeadLetterQuery{})) == 5 })
		first := list(bus.DeadLetterQuery{Limit: 2})
		rest := list(bus.DeadLetterQuery{After: first[1].Seq})
		if len(first) != 2 || len(rest) != 3 || string(rest[0].Message.Data) != "2" {
			t.Fatalf("pages of %d and %d", len(first), len(rest))
		}
		if d := list(bus.DeadLetterQuery{Consumer: "other"}); len(d) != 0 {
			t.Errorf("another consumer has %d", len(d))
		}
		if err := b.DiscardDead(t.Context(), first[0].Seq); err != nil {
			t.Fatal(err)
		}
		well.Store(true)
		if err := b.Redrive(t.Context(), first[1].Seq); err != nil {
			t.Fatal(err)
		}
		if m := <-got; m != "1" {
			t.Errorf("redriven %q", m)
		}
		if d := list(bus.DeadLetterQuery{}); len(d) != 3 {
			t.Errorf("%d dead letters are left", len(d))
		}
		for _, err := range []error{b.Redrive(t.Context(), first[0].Seq), b.DiscardDead(t.Context(), first[1].Seq), b.Redrive(t.Context(), 1)} {
			if errs.KindOf(err) != errs.NotFound {
				t.Errorf("one that is gone gave %v", err)
			}
		}
	})
}

func TestASlowHandlerKeepsItsMessages(t *testing.T) {
	t.Parallel()
	b := bustest.Embedded(t)
	declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
	var calls atomic.Int64
	done := make(chan struct{})
	start(t, func(ctx context.Context) error {
		return b.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c", Workers: 3, AckWait: 2 * time.Second}, func(context.Context, []bus.Message) error {
			if calls.Add(1) == 1 {
				<-time.After(5 * time.Second) // the work itself
				close(done)
			}
			return nil
		})
	})
	publish(t, b, bus.Message{Subject: "q"})
	<-done
	if n := calls.Load(); n != 1 {
		t.Errorf("handled %d times", n)
	}
}

func TestBatchesAreBoundedAndNeverWaitedFor(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
		var mu sync.Mutex
		var sizes []int
		total := 0
		begin := make(chan struct{})
		start(t, func(ctx context.Context) error {
			<-begin
			return b.Consume(ctx, bus.Consumer{Stream: "A", Name: "c", Batch: 8, BatchBytes: 5000}, func(_ context.Context, m []bus.Message) error {
				mu.Lock()
				defer mu.Unlock()
				sizes = append(sizes, len(m))
				total += len(m)
				return nil
			})
		})
		for range 20 {
			publish(t, b, bus.Message{Subject: "a", Data: make([]byte, 100)})
		}
		publish(t, b, bus.Message{Subject: "a", Data: make([]byte, 20_000)}) // more than a batch may hold
		for range 10 {
			publish(t, b, bus.Message{Subject: "a", Data: make([]byte, 2000)})
		}
		close(begin)
		within(t, 10*time.Second, "all are handled", func() bool { mu.Lock(); defer mu.Unlock(); return total == 31 })
		mu.Lock()
		if sizes[0] != 8 {
			t.Errorf("batches of %v", sizes)
		}
		mu.Unlock()
		// A lone message comes at once.
		publish(t, b, bus.Message{Subject: "a"})
		within(t, 10*time.Second, "a lone message is handled", func() bool { mu.Lock(); defer mu.Unlock(); return total == 32 })
	})
}

func TestInstancesShareAConsumer(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		a, b := open(), open()
		declare(t, a, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
		declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
		var mu sync.Mutex
		seen := map[string]int{}
		by := map[*bus.Bus]int{}
		run := func(x *bus.Bus) func() {
			return start(t, func(ctx context.Context) error {
				return x.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c", Workers: 2}, func(_ context.Context, m []bus.Message) error {
					mu.Lock()
					defer mu.Unlock()
					seen[string(m[0].Data)]++
					by[x]++
					return nil
				})
			})
		}
		stop := run(a)
		run(b)
		for i := range 300 {
			publish(t, a, bus.Message{Subject: "q", Data: fmt.Append(nil, i)})
			if i == 200 {
				stop() // the other takes over at once
			}
		}
		within(t, 10*time.Second, "all are handled", func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) == 300 })
		mu.Lock()
		defer mu.Unlock()
		for m, n := range seen {
			if n != 1 {
				t.Errorf("message %s was handled %d times", m, n)
			}
		}
		if by[a] == 0 || by[b] == 0 {
			t.Errorf("shares %d and %d", by[a], by[b])
		}
	})
}

func TestShutdownLetsHandlersFinish(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
		entered := make(chan struct{}, 10)
		var ended error
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- b.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c"}, func(hctx context.Context, _ []bus.Message) error {
				entered <- struct{}{}
				<-ctx.Done()
				<-time.After(200 * time.Millisecond) // the rest of the work
				ended = hctx.Err()
				return nil
			})
		}()
		publish(t, b, bus.Message{Subject: "q", Data: []byte("1")})
		publish(t, b, bus.Message{Subject: "q", Data: []byte("2")})
		<-entered
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if ended != nil {
			t.Errorf("the handler's context ended early: %v", ended)
		}
		// The first one is acknowledged, the second was not even taken.
		got := make(chan bus.Message, 2)
		start(t, func(ctx context.Context) error {
			return b.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c"}, func(_ context.Context, m []bus.Message) error {
				got <- m[0]
				return nil
			})
		})
		select {
		case m := <-got:
			if string(m.Data) != "2" {
				t.Errorf("message %q came again", m.Data)
			}
		case <-time.After(5 * time.Second):
			t.Error("the second message did not come")
		}
	})
}

func TestConsumersThatCannotBe(t *testing.T) {
	t.Parallel()
	b := bustest.Embedded(t)
	declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q.>"}, Queue: true})
	h := func(context.Context, []bus.Message) error { return nil }
	for name, c := range map[string]bus.Consumer{
		"no stream":   {Name: "c"},
		"no name":     {Stream: "Q"},
		"dotted name": {Stream: "Q", Name: "a.b"},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, 5*time.Second, "it is refused", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				return errs.KindOf(b.Consume(ctx, c, h)) == errs.Invalid
			})
		})
	}
}
