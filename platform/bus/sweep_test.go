package bus_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
)

func TestAQueueKeepsOnlyWhatSomeConsumerHasBeforeIt(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
		start(t, b.Run)
		for _, text := range []string{"first-message", "second-message", "third-message"} {
			publish(t, b, bus.Message{Subject: "q", Data: []byte(text)})
		}
		holds := func(text string) bool {
			var out bytes.Buffer
			if err := b.Export(t.Context(), &out); err != nil {
				t.Fatal(err)
			}
			return bytes.Contains(out.Bytes(), []byte(text))
		}
		if !holds("first-message") {
			t.Fatal("gone before anyone consumed it")
		}
		release := make(chan struct{})
		start(t, func(ctx context.Context) error {
			return b.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c"}, func(ctx context.Context, m []bus.Message) error {
				if string(m[0].Data) == "second-message" {
					select {
					case <-release:
					case <-ctx.Done():
					}
				}
				return nil
			})
		})
		within(t, 15*time.Second, "the first is swept", func() bool { return !holds("first-message") })
		if !holds("second-message") || !holds("third-message") {
			t.Error("what is not acknowledged was swept")
		}
		close(release)
		within(t, 15*time.Second, "all are swept", func() bool { return !holds("third-message") })
	})
}
