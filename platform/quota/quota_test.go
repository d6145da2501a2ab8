package quota

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that is set by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// start runs a quota until stop, which waits for its end.
func start(t *testing.T, b *bus.Bus, name string, perSecond float64, now func() time.Time) (q *Quota, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	q = New(b, name, perSecond, now)
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return q, stop
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !is() {
		select {
		case <-look.C:
		case <-late:
			t.Fatalf("not after 30 s: %s", what)
		}
	}
}

func part(t *testing.T, q *Quota, want float64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%g calls per second", want), func() bool { return float64(q.limit.Limit()) == want })
}

func TestInstancesShareARate(t *testing.T) {
	t.Parallel()
	url := bustest.External(t)
	open := func() *bus.Bus { return bustest.Open(t, bus.Config{URL: url}) }
	c := &clock{at: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}

	first, _ := start(t, open(), "crm", 90, c.now)
	part(t, first, 90)
	second, stopSecond := start(t, open(), "crm", 90, c.now)
	other, _ := start(t, open(), "mailing", 10, c.now)
	part(t, first, 45)
	part(t, second, 45)
	third, _ := start(t, open(), "crm", 90, c.now)
	for _, q := range []*Quota{first, second, third} {
		part(t, q, 30)
	}
	part(t, other, 10)

	stopSecond()
	part(t, first, 45)
	part(t, third, 45)

	// One that was killed says nothing.
	first.hear([]byte("killed"))
	part(t, first, 30)
	c.advance(goneAfter + time.Second)
	part(t, first, 45)
}

func TestThePartsStayWhileTheBusIsAway(t *testing.T) {
	t.Parallel()
	server := bustest.NewServer(t)
	c := &clock{at: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	b := bustest.Open(t, bus.Config{URL: server.URL})
	q, _ := start(t, b, "crm", 10, c.now)
	q.hear([]byte("another"))
	part(t, q, 5)
	server.Stop()
	eventually(t, "the bus is away", func() bool { return b.Ready() != nil })
	c.advance(time.Hour)
	q.beat()
	part(t, q, 5)
	server.Start()
	eventually(t, "the bus is back", func() bool { return b.Ready() == nil })
	c.advance(goneAfter + time.Second)
	part(t, q, 10)
}

func TestNoLimit(t *testing.T) {
	t.Parallel()
	q, _ := start(t, bustest.Embedded(t), "crm", 0, time.Now)
	for range 10_000 {
		if err := q.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALimitHolds(t *testing.T) {
	t.Parallel()
	q := New(bustest.Embedded(t), "crm", 20, time.Now)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	n := 0
	for q.Wait(ctx) == nil {
		n++
	}
	if n < 2 || n > 22 {
		t.Errorf("%d calls in a second at 20", n)
	}
}
