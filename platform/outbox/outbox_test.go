package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/outbox"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

const wait = 30 * time.Second

var stream = bus.Stream{Name: "FACTS", Subjects: []string{"facts.>"}, MaxBytes: 64 << 20}

func openBus(ctx context.Context, dir string) (*bus.Bus, error) {
	return bus.Open(ctx, bus.Config{Dir: dir}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

func newBus(t *testing.T, streams ...bus.Stream) *bus.Bus {
	t.Helper()
	b, err := openBus(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, s := range streams {
		if err := b.Declare(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// relay runs a relay until stop is called or the test ends.
func relay(t *testing.T, db *store.DB, b *bus.Bus) (r *outbox.Relay, stop func()) {
	t.Helper()
	return relayAt(t, db, b, time.Now)
}

func relayAt(t *testing.T, db *store.DB, b *bus.Bus, now func() time.Time) (r *outbox.Relay, stop func()) {
	t.Helper()
	r = outbox.NewRelay(db, b, now, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return r, stop
}

// inbox gathers what a stream delivers.
type inbox struct {
	sync.Mutex
	msgs []bus.Message
}

func newInbox(t *testing.T, b *bus.Bus) *inbox {
	t.Helper()
	in := &inbox{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Consume(ctx, bus.Consumer{Stream: stream.Name, Name: "reader", Batch: 100, Workers: 1},
			func(_ context.Context, msgs []bus.Message) error {
				in.Lock()
				defer in.Unlock()
				in.msgs = append(in.msgs, msgs...)
				return nil
			})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return in
}

// ids gives the different ids in the order of their first arrival.
func (in *inbox) ids() (list []string) {
	in.Lock()
	defer in.Unlock()
	seen := map[string]bool{}
	for _, m := range in.msgs {
		if !seen[m.ID] {
			seen[m.ID] = true
			list = append(list, m.ID)
		}
	}
	return list
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(wait); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", wait, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func publish(t *testing.T, db *store.DB, msgs ...bus.Message) {
	t.Helper()
	if err := db.Tx(t.Context(), func(tx store.Querier) error { return outbox.Publish(t.Context(), tx, msgs...) }); err != nil {
		t.Error(err)
	}
}

func fact(id string) bus.Message {
	return bus.Message{Subject: "facts.x", ID: id, Data: []byte("data of " + id)}
}

func each(t *testing.T, fn func(t *testing.T, db *store.DB)) {
	t.Helper()
	storetest.Each(t, nil, func(t *testing.T, db *store.DB) {
		t.Parallel()
		for range 2 {
			if err := outbox.Ensure(t.Context(), db); err != nil {
				t.Fatal(err)
			}
		}
		fn(t, db)
	})
}

func TestMessageArrivesAsItWasWritten(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, stream)
		in := newInbox(t, b)
		r, _ := relay(t, db, b)
		sent := bus.Message{Subject: "facts.a.b", ID: "one", Header: map[string]string{"Kind": "é"}, Data: []byte{0, 0xff, 1}}
		publish(t, db, sent, bus.Message{Subject: "facts.empty", ID: "two"})
		r.Wake()
		eventually(t, "both messages", func() bool { return len(in.ids()) == 2 })
		got := in.msgs[0]
		if got.Subject != sent.Subject || got.ID != sent.ID || got.Header["Kind"] != "é" || !slices.Equal(got.Data, sent.Data) {
			t.Errorf("got %+v", got)
		}
		if len(in.msgs[1].Data) != 0 {
			t.Errorf("got %+v", in.msgs[1])
		}
		eventually(t, "an empty outbox", func() bool {
			waiting, refused, err := r.Backlog(t.Context())
			return err == nil && waiting+refused == 0
		})
	})
}

func TestNothingIsToldOfAFailedTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, stream)
		in := newInbox(t, b)
		r, _ := relay(t, db, b)
		cause := errors.New("no")
		if err := db.Tx(t.Context(), func(tx store.Querier) error {
			return errors.Join(outbox.Publish(t.Context(), tx, fact("lie")), cause)
		}); !errors.Is(err, cause) {
			t.Fatal(err)
		}
		publish(t, db, fact("truth"))
		r.Wake()
		eventually(t, "the truth", func() bool { return len(in.ids()) > 0 })
		if got := in.ids(); !slices.Equal(got, []string{"truth"}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestMessageWithoutSubjectOrIDIsInvalid(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		for _, m := range []bus.Message{{Subject: "facts.x"}, {ID: "x"}} {
			if err := db.Tx(t.Context(), func(tx store.Querier) error { return outbox.Publish(t.Context(), tx, m) }); errs.KindOf(err) != errs.Invalid {
				t.Errorf("%+v: %v", m, err)
			}
		}
	})
}

func TestWritersKeepTheirOrder(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, stream)
		in := newInbox(t, b)
		r, _ := relay(t, db, b)
		const writers, turns = 5, 20
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for n := range turns {
					publish(t, db, fact(fmt.Sprintf("%d/%03d/a", w, n)), fact(fmt.Sprintf("%d/%03d/b", w, n)))
					r.Wake()
				}
			})
		}
		all.Wait()
		eventually(t, "all messages", func() bool { return len(in.ids()) == 2*writers*turns })
		last := map[byte]string{}
		for _, id := range in.ids() {
			if id < last[id[0]] {
				t.Errorf("%s came after %s", id, last[id[0]])
			}
			last[id[0]] = id
		}
	})
}

func TestMessagesWaitForTheBus(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t)
		r, _ := relay(t, db, b)
		publish(t, db, fact("1"), fact("2"))
		r.Wake()
		if waiting, _, err := r.Backlog(t.Context()); err != nil || waiting != 2 {
			t.Errorf("%d waiting, %v", waiting, err)
		}
		if err := b.Declare(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
		in := newInbox(t, b)
		eventually(t, "both messages", func() bool { return len(in.ids()) == 2 })
	})
}

func TestRefusedMessageLetsOthersPass(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, stream)
		in := newInbox(t, b)
		r, _ := relay(t, db, b)
		large := fact("large")
		large.Data = make([]byte, b.MaxItem()+1)
		publish(t, db, fact("1"), large, fact("2"))
		r.Wake()
		eventually(t, "the others", func() bool { return slices.Equal(in.ids(), []string{"1", "2"}) })
		eventually(t, "a record of the refusal", func() bool {
			waiting, refused, err := r.Backlog(t.Context())
			return err == nil && waiting == 0 && refused == 1
		})
	})
}

func TestMessagePublishedBeforeACrashComesAgainWithItsID(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, stream)
		in := newInbox(t, b)
		// The relay publishes and never gets to delete.
		run(t, db, map[store.Engine]string{
			store.SQLite: `create trigger stuck before delete on outbox begin select raise(abort, 'crash'); end`,
			store.Postgres: `create function crash() returns trigger language plpgsql as $$ begin raise 'crash'; end $$;
				create trigger stuck before delete on outbox for each row execute function crash()`,
		}[db.Engine()])
		r, stop := relay(t, db, b)
		publish(t, db, fact("1"), fact("2"))
		r.Wake()
		eventually(t, "the messages on the bus", func() bool { return len(in.ids()) == 2 })
		stop()
		if waiting, _, err := r.Backlog(t.Context()); err != nil || waiting != 2 {
			t.Fatalf("%d waiting, %v", waiting, err)
		}
		run(t, db, map[store.Engine]string{store.SQLite: `drop trigger stuck`, store.Postgres: `drop trigger stuck on outbox`}[db.Engine()])
		publish(t, db, fact("3"))
		// Later, when the turn of the dead one has ended by itself.
		r, _ = relayAt(t, db, b, func() time.Time { return time.Now().Add(time.Minute) })
		eventually(t, "an empty outbox", func() bool {
			waiting, _, err := r.Backlog(t.Context())
			return err == nil && waiting == 0
		})
		eventually(t, "the third message", func() bool { return slices.Equal(in.ids(), []string{"1", "2", "3"}) })
	})
}

func run(t *testing.T, db *store.DB, statement string) {
	t.Helper()
	if err := db.Tx(t.Context(), func(tx store.Querier) error {
		_, err := tx.ExecContext(t.Context(), statement)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestRelaysOfTwoInstancesTakeTurns(t *testing.T) {
	t.Parallel()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		if cfg.URL == "" {
			t.Skip("a SQLite file has one instance")
		}
		b := newBus(t, stream)
		in := newInbox(t, b)
		const messages = 600
		var all sync.WaitGroup
		written := make(chan struct{})
		for n := range 3 {
			db := storetest.Open(t, cfg, "shared", nil)
			if err := outbox.Ensure(t.Context(), db); err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				all.Go(func() {
					defer close(written)
					for m := 0; m < messages; m += 3 {
						publish(t, db, fact(fmt.Sprintf("%04d", m)), fact(fmt.Sprintf("%04d", m+1)), fact(fmt.Sprintf("%04d", m+2)))
					}
				})
			}
			all.Go(func() {
				for { // instances come and go
					r, stop := relay(t, db, b)
					for range 10 {
						r.Wake()
						select {
						case <-time.After(time.Duration(7*(n+1)) * time.Millisecond):
						case <-written:
							return // with its relay at work
						}
					}
					stop()
				}
			})
		}
		all.Wait()
		eventually(t, "all messages", func() bool { return len(in.ids()) == messages })
		if got := in.ids(); !slices.IsSorted(got) {
			t.Errorf("out of order: %v", got)
		}
	})
}
