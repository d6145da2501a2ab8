package bus_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// within fails the test unless ok becomes true in time.
func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// start runs fn until the test ends and reports its error.
func start(t *testing.T, fn func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil {
			t.Errorf("a loop returned %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func declare(t *testing.T, b *bus.Bus, s bus.Stream) {
	t.Helper()
	if err := b.Declare(t.Context(), s); err != nil {
		t.Fatalf("declare: %v", err)
	}
}

func publish(t *testing.T, b *bus.Bus, m bus.Message) uint64 {
	t.Helper()
	seq, err := b.Publish(t.Context(), m)
	if err != nil {
		t.Fatalf("publish: %v", err)
	}
	return seq
}

// metric sums the values of a counter or gauge over its labels.
func metric(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func TestPublishedMessagesAreConsumedInOrder(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a.>"}})
		got := make(chan bus.Message, 100)
		start(t, func(ctx context.Context) error {
			return b.Consume(ctx, bus.Consumer{Stream: "A", Name: "c", Batch: 10}, func(_ context.Context, msgs []bus.Message) error {
				for _, m := range msgs {
					got <- m
				}
				return nil
			})
		})
		before := time.Now().Add(-time.Second)
		var last uint64
		for i := range 50 {
			last = publish(t, b, bus.Message{Subject: "a.x", Header: map[string]string{"n": fmt.Sprint(i)}, Data: fmt.Append(nil, i)})
		}
		if last < uint64(before.UnixMicro()) {
			t.Errorf("the sequence %d does not begin at the present time", last)
		}
		for i := range 50 {
			m := <-got
			if string(m.Data) != fmt.Sprint(i) || m.Header["n"] != fmt.Sprint(i) || m.Subject != "a.x" || m.Delivered != 1 || m.Time.Before(before) {
				t.Fatalf("message %d is %+v", i, m)
			}
		}
	})
}
