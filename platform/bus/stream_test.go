package bus_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/errs"
)

func TestAFullQueueRefusesAndAStreamForgets(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true, MaxBytes: 100_000})
		declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}, MaxBytes: 100_000})
		data := make([]byte, 10_000)
		var full error
		for i := 0; i < 20 && full == nil; i++ {
			_, full = b.Publish(t.Context(), bus.Message{Subject: "q", Data: data})
		}
		if errs.KindOf(full) != errs.Unavailable {
			t.Errorf("a full queue gave %v", full)
		}
		if b.Ready() != nil {
			t.Errorf("one full queue stops everything: %v", b.Ready())
		}
		for range 20 {
			publish(t, b, bus.Message{Subject: "a", Data: data})
		}
		// Once it is worked off there is room again.
		start(t, func(ctx context.Context) error {
			return b.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c"}, func(context.Context, []bus.Message) error { return nil })
		})
		within(t, 5*time.Second, "the queue takes more", func() bool {
			_, err := b.Publish(t.Context(), bus.Message{Subject: "q", Data: data})
			return err == nil
		})
	})
}

func TestStreamsAreAdaptedAndKeepTheirMessages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() *bus.Bus {
		b, err := bus.Open(t.Context(), bus.Config{Dir: dir}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open()
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
	first := publish(t, b, bus.Message{Subject: "a", Data: []byte("1")})
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a", "b"}, MaxAge: time.Hour, MaxBytes: 1 << 20})
	if second := publish(t, b, bus.Message{Subject: "b", Data: []byte("2")}); second != first+1 {
		t.Errorf("sequences %d and %d", first, second)
	}
	for name, s := range map[string]bus.Stream{
		"becomes a queue":  {Name: "A", Subjects: []string{"a", "b"}, Queue: true},
		"no subjects":      {Name: "B"},
		"overlap":          {Name: "B", Subjects: []string{"a"}},
		"bad name":         {Name: "B.C", Subjects: []string{"c"}},
		"larger than disk": {Name: "B", Subjects: []string{"c"}, MaxBytes: 1 << 40},
	} {
		if err := b.Declare(t.Context(), s); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open()
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a", "b"}, MaxAge: time.Hour, MaxBytes: 1 << 20})
	got := make(chan bus.Message, 2)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- b.Consume(ctx, bus.Consumer{Stream: "A", Name: "c"}, func(_ context.Context, m []bus.Message) error {
			got <- m[0]
			return nil
		})
	}()
	if m := <-got; m.Seq != first || string(m.Data) != "1" {
		t.Errorf("after a restart: %+v", m)
	}
	<-got
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(b.Alarms()) > 0 {
		t.Errorf("false alarms %v", b.Alarms())
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.Publish(t.Context(), bus.Message{Subject: "a"}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("a closed bus gave %v", err)
	}
	if errs.KindOf(b.Ready()) != errs.Unavailable || errs.KindOf(b.Run(t.Context())) != errs.Unavailable {
		t.Error("a closed bus calls itself ready or runs")
	}
}

func TestASecondMessageWithTheSameIDIsDropped(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
		one := publish(t, b, bus.Message{Subject: "a", ID: "x"})
		two := publish(t, b, bus.Message{Subject: "a", ID: "x"})
		three := publish(t, b, bus.Message{Subject: "a"})
		if two != one || three != one+1 {
			t.Errorf("sequences %d, %d, %d", one, two, three)
		}
	})
}

func TestPublishNeedsAStream(t *testing.T) {
	t.Parallel()
	b := bustest.Open(t, bus.Config{Dir: t.TempDir(), PublishTimeout: 2 * time.Second})
	if _, err := b.Publish(t.Context(), bus.Message{Subject: "nowhere"}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("got %v", err)
	}
	if _, err := b.Publish(t.Context(), bus.Message{}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestWatchersSeeEachMessageFromNowOn(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		a, b := open(), open()
		declare(t, a, bus.Stream{Name: "A", Subjects: []string{"a.>"}})
		publish(t, a, bus.Message{Subject: "a.x", Data: []byte("old")})
		var watchers []func() []string
		var ready [2]atomic.Bool
		for i, x := range []*bus.Bus{a, b} {
			got := make(chan string, 1000)
			start(t, func(ctx context.Context) error {
				return x.Watch(ctx, "A", "a.x", func(m bus.Message) {
					if string(m.Data) == "ready?" {
						ready[i].Store(true)
						return
					}
					got <- string(m.Data)
				})
			})
			watchers = append(watchers, func() []string {
				var out []string
				for range 100 {
					out = append(out, <-got)
				}
				return out
			})
		}
		within(t, 5*time.Second, "both watch", func() bool {
			publish(t, a, bus.Message{Subject: "a.x", Data: []byte("ready?")})
			return ready[0].Load() && ready[1].Load()
		})
		for i := range 100 {
			publish(t, b, bus.Message{Subject: "a.x", Data: fmt.Append(nil, i)})
			publish(t, b, bus.Message{Subject: "a.y", Data: []byte("other subject")})
		}
		for _, w := range watchers {
			for i, s := range w() {
				if s != fmt.Sprint(i) {
					t.Fatalf("message %d is %q", i, s)
				}
			}
		}
	})
}

func TestAQueueCannotBeWatched(t *testing.T) {
	t.Parallel()
	b := bustest.Embedded(t)
	declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
	if err := b.Watch(t.Context(), "Q", "", func(bus.Message) {}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("got %v", err)
	}
}

// TestAnExternalServerMayGoAndComeBack publishes, consumes and watches across
// a restart of the server.
func TestAnExternalServerMayGoAndComeBack(t *testing.T) {
	t.Parallel()
	srv := bustest.NewServer(t)
	b := bustest.Open(t, bus.Config{URL: srv.URL, PublishTimeout: 20 * time.Second})
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
	g := b.Group(bus.GroupConfig{Subject: "a"})
	start(t, g.Run)
	var watched, consumed atomic.Int64
	start(t, func(ctx context.Context) error {
		return b.Watch(ctx, "A", "", func(bus.Message) { watched.Add(1) })
	})
	start(t, func(ctx context.Context) error {
		return b.Consume(ctx, bus.Consumer{Stream: "A", Name: "c", AckWait: time.Second}, func(context.Context, []bus.Message) error {
			consumed.Add(1)
			return nil
		})
	})
	put := func() {
		if err := g.Publish(t.Context(), [][]byte{{1}}); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 5*time.Second, "the watch has begun", func() bool { put(); return watched.Load() > 0 })
	srv.Stop()
	within(t, 5*time.Second, "the bus notices", func() bool { return errs.KindOf(b.Ready()) == errs.Unavailable })
	during := make(chan error)
	go func() { during <- g.Publish(context.Background(), [][]byte{{2}}) }()
	srv.Start()
	if err := <-during; err != nil {
		t.Errorf("an item published while the server was away: %v", err)
	}
	before := watched.Load()
	for range 10 {
		put()
	}
	within(t, 15*time.Second, "the watch catches up", func() bool { return watched.Load() >= before+10 })
	within(t, 15*time.Second, "the consumer goes on", func() bool { return consumed.Load() >= before+10 })
}

func TestExportAndImport(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		a := open()
		declare(t, a, bus.Stream{Name: "A", Subjects: []string{"a.>"}})
		declare(t, a, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
		for i := range 100 {
			publish(t, a, bus.Message{Subject: "a.x", Header: map[string]string{"n": fmt.Sprint(i)}, Data: fmt.Append(nil, i)})
		}
		publish(t, a, bus.Message{Subject: "q", Data: bytes.Repeat([]byte{7}, 1<<20)})
		var file bytes.Buffer
		if err := a.Export(t.Context(), &file); err != nil {
			t.Fatal(err)
		}
		exported := time.Now()

		b := bustest.Open(t, bus.Config{Dir: filepath.Join(t.TempDir(), "new")})
		if err := b.Import(t.Context(), bytes.NewReader(file.Bytes())); err != nil {
			t.Fatal(err)
		}
		got := make(chan bus.Message, 1000) // the damaged imports below come too
		for _, s := range []string{"A", "Q"} {
			start(t, func(ctx context.Context) error {
				return b.Consume(ctx, bus.Consumer{Stream: s, Name: "c", Batch: 10}, func(_ context.Context, msgs []bus.Message) error {
					for _, m := range msgs {
						got <- m
					}
					return nil
				})
			})
		}
		next, queue := 0, 0
		for range 101 {
			m := <-got
			if m.Subject == "q" {
				queue += len(m.Data)
				continue
			}
			if string(m.Data) != fmt.Sprint(next) || m.Header["n"] != fmt.Sprint(next) || len(m.Header) != 1 || m.Time.After(exported) {
				t.Fatalf("message %d is %+v", next, m)
			}
			next++
		}
		if next != 100 || queue != 1<<20 {
			t.Errorf("%d messages, %d bytes from the queue", next, queue)
		}
		for name, data := range map[string][]byte{
			"empty":   nil,
			"other":   []byte("PK\x03\x04 something else entirely"),
			"cut off": file.Bytes()[:file.Len()-20],
			"no end":  file.Bytes()[:file.Len()-5],
		} {
			if err := b.Import(t.Context(), bytes.NewReader(data)); errs.KindOf(err) != errs.Invalid {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestReplayHandsOverToAWatchWithoutAGap(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a.>"}})
		replay := func(since time.Time) (out []string, next uint64) {
			next, err := b.Replay(t.Context(), "A", "a.x", since, func(m bus.Message) { out = append(out, string(m.Data)) })
			if err != nil {
				t.Fatal(err)
			}
			return out, next
		}
		if got, next := replay(time.Time{}); len(got) != 0 || next == 0 {
			t.Fatalf("an empty stream gives %q, next %d", got, next)
		}
		publish(t, b, bus.Message{Subject: "a.y", Data: []byte("other subject")})
		if got, _ := replay(time.Time{}); len(got) != 0 {
			t.Fatalf("another subject gives %q", got)
		}
		for i := range 300 {
			publish(t, b, bus.Message{Subject: "a.x", Data: fmt.Append(nil, i)})
		}
		got, next := replay(time.Now().Add(-time.Hour))
		if len(got) != 300 || got[0] != "0" || got[299] != "299" {
			t.Fatalf("replayed %d: %q", len(got), got)
		}
		if got, _ := replay(time.Now().Add(time.Hour)); len(got) != 0 {
			t.Fatalf("since the future: %q", got)
		}
		publish(t, b, bus.Message{Subject: "a.x", Data: []byte("between")})
		watched := make(chan string, 10)
		start(t, func(ctx context.Context) error {
			return b.WatchFrom(ctx, "A", "a.x", next, func(m bus.Message) { watched <- string(m.Data) })
		})
		if got := <-watched; got != "between" {
			t.Fatalf("the watch begins with %q", got)
		}
	})
}
