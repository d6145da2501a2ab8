package bus_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/errs"
)

func TestBroadcastsReachEveryInstance(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		a, b := open(), open()
		var heard [2]atomic.Int64
		for i, x := range []*bus.Bus{a, b} {
			start(t, func(ctx context.Context) error {
				return x.Listen(ctx, "keys.dropped", func(data []byte) {
					if string(data) == "k1" {
						heard[i].Add(1)
					}
				})
			})
		}
		within(t, 5*time.Second, "both hear it", func() bool {
			if err := a.Broadcast("keys.dropped", []byte("k1")); err != nil {
				t.Fatal(err)
			}
			return heard[0].Load() > 0 && heard[1].Load() > 0
		})
	})
}

func TestRequestsAreServedAndErrorsKeepTheirKind(t *testing.T) {
	t.Parallel()
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		a, b := open(), open()
		if _, err := a.Request(t.Context(), "svc.nobody", nil); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("nobody there: %v", err)
		}
		start(t, func(ctx context.Context) error {
			return b.Serve(ctx, "svc.echo", "q", func(_ context.Context, data []byte) ([]byte, error) {
				switch string(data) {
				case "notfound":
					return nil, errs.New(errs.NotFound, "no such\nthing")
				case "plain":
					return nil, errors.New("oops")
				case "panic":
					panic("oh")
				}
				return data, nil
			})
		})
		within(t, 5*time.Second, "it is served", func() bool {
			got, err := a.Request(t.Context(), "svc.echo", []byte("hi"))
			return err == nil && string(got) == "hi"
		})
		for data, kind := range map[string]errs.Kind{"notfound": errs.NotFound, "plain": errs.Internal, "panic": errs.Internal} {
			if _, err := a.Request(t.Context(), "svc.echo", []byte(data)); err == nil || errs.KindOf(err) != kind {
				t.Errorf("%s: %v", data, err)
			}
		}
	})
}
