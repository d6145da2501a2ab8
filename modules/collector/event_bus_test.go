package collector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// bench is a storer with all that it stands on, and a service to read with.
type bench struct {
	*storer
	events *eventService
	bus    *bus.Bus
	group  *bus.Group
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ctx := t.Context()
	dir := t.TempDir()
	b := bustest.Embedded(t)
	master, _, err := seal.LoadMaster(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Open(ctx, storetest.Open(t, store.Config{Dir: dir}, "keys", seal.Migrations()), b, master, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	transit, err := keys.Transit(ctx, "collector.ingest", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	refused, err := keys.Transit(ctx, "collector.reject", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	db := storetest.Open(t, store.Config{Dir: dir}, "collector", migrations)
	m := newMetrics(prometheus.NewRegistry())
	out := &bench{bus: b, group: b.Group(bus.GroupConfig{Subject: subjectIngest, Seal: transit.Seal})}
	out.storer = &storer{store: &eventStore{db: db}, rejects: &rejectStore{db}, keys: keys, transit: transit, refused: refused, live: &live{bus: b, now: time.Now}, metrics: m, now: time.Now}
	out.events = &eventService{store: out.store, keys: keys, metrics: m, now: time.Now}
	if err := b.Declare(ctx, bus.Stream{Name: streamIngest, Subjects: []string{subjectIngest}, Queue: true, MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	join(t, keys.Run)
	join(t, out.group.Run)
	return out
}

// join runs a part until the test ends.
func join(t *testing.T, part func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// frame puts items on the bus and takes the message that carries them.
func (b *bench) frame(t *testing.T, items ...*item) bus.Message {
	t.Helper()
	var encoded [][]byte
	for _, it := range items {
		encoded = append(encoded, it.encode())
	}
	if err := b.group.Publish(t.Context(), encoded); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got bus.Message
	err := b.bus.Consume(ctx, bus.Consumer{Stream: streamIngest, Name: "test", Subject: subjectIngest}, func(_ context.Context, msgs []bus.Message) error {
		got = msgs[0]
		cancel()
		return nil
	})
	if err != nil || got.Seq == 0 {
		t.Fatalf("no frame: %v", err)
	}
	return got
}

// list gives the ids of all events that can be read.
func (b *bench) list(t *testing.T) (ids []string) {
	t.Helper()
	page, _, _, err := b.events.findPage(t.Context(), eventQuery{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range page {
		ids = append(ids, f.ID)
	}
	return ids
}

func testItem(id, session, user string) *item {
	return &item{Event: Event{ID: id, SessionID: session, UserID: user, Category: "c", Name: "n", Data: json.RawMessage(`{"a":1}`), Timestamp: time.Unix(1_600_000_000, 0).UTC()},
		EventID: key16(id), App: "shop", ReceivedAt: time.Now()}
}

func testReject() *item {
	it := testItem("", "", "")
	it.Reject = &refusal{Reason: reasonShape, Errors: []byte(`[{"message":"m"}]`)}
	return it
}

func TestFrameThatComesAgainIsStoredOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.frame(t, testItem("a", "s-1", "u"), testReject(), testItem("b", "s-2", ""))
	two := b.frame(t, testItem("c", "s-1", "u"), testItem("a", "s-9", ""))
	for _, msgs := range [][]bus.Message{{one}, {one}, {one, two}, {two, one}, {two}} {
		if err := b.handle(t.Context(), msgs); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(b.list(t)); got != "[a b c]" {
		t.Errorf("stored: %s", got)
	}
	tally(t, b.store.db, 3)
	if n := number(t, b.store.db, `select count(*) from collector_reject`); n != 1 {
		t.Errorf("%d rejects", n)
	}
}

func TestFrameThatCannotBeReadStoresNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	good := b.frame(t, testItem("a", "s-1", ""))
	damaged := good
	damaged.Data = append([]byte{}, good.Data...)
	damaged.Data[len(damaged.Data)-1] ^= 1
	for name, data := range map[string][]byte{"damaged": damaged.Data, "empty": {}, "of another kind": []byte("x"), "of noise": append([]byte{2}, make([]byte, 100)...)} {
		bad := good
		bad.Data = data
		if err := b.handle(t.Context(), []bus.Message{bad}); err == nil {
			t.Errorf("a frame that is %s is taken", name)
		}
		if err := b.handle(t.Context(), []bus.Message{good, bad}); err == nil {
			t.Errorf("a frame that is %s is taken beside a good one", name)
		}
	}
	if got := b.list(t); len(got) != 0 {
		t.Errorf("stored: %v", got)
	}
	if err := b.handle(t.Context(), []bus.Message{good}); err != nil || len(b.list(t)) != 1 {
		t.Errorf("the good one alone: %v", err)
	}
}

// Events of an erased person are not stored any more, and those that are
// cannot be read; the others are not touched.
func TestEventsOfErasedPersonsAreDropped(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.handle(t.Context(), []bus.Message{b.frame(t, testItem("a", "s-1", "u-1"), testItem("b", "s-2", "u-2"), testItem("c", "s-1", "u-1"))}); err != nil {
		t.Fatal(err)
	}
	// A session is found by its user.
	subjects, err := b.keys.Find(t.Context(), seal.Alias{Kind: "user_id", Value: "u-1"})
	if err != nil || len(subjects) != 1 {
		t.Fatalf("subjects of the user: %v, %v", subjects, err)
	}
	if err := b.keys.Erase(t.Context(), subjects[0]); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(b.list(t)); got != "[b]" {
		t.Errorf("can be read: %s", got)
	}
	if err := b.handle(t.Context(), []bus.Message{b.frame(t, testItem("d", "s-1", ""), testItem("e", "s-2", "u-2"))}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(b.list(t)); got != "[b e]" {
		t.Errorf("can be read: %s", got)
	}
	if n := number(t, b.store.db, `select count(*) from collector_event`); n != 4 { // a and c are unreadable rests
		t.Errorf("%d events are stored", n)
	}
	if _, err := b.events.findSession(t.Context(), "s-1"); err == nil {
		t.Error("the session of the erased person is found")
	}
	page, _, _, err := b.events.findSessions(t.Context(), sessionQuery{Limit: 10})
	if err != nil || len(page) != 1 || page[0].SessionID != "s-2" {
		t.Errorf("sessions: %+v, %v", page, err)
	}
	// A frame of nobody but the erased is done with.
	if err := b.handle(t.Context(), []bus.Message{b.frame(t, testItem("f", "s-1", ""))}); err != nil {
		t.Error(err)
	}
}

func TestStoringGoesOnAfterTheDatabaseWasAway(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	m := b.frame(t, testItem("a", "s-1", ""), testReject())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.handle(ctx, []bus.Message{m}); !errors.Is(err, context.Canceled) {
		t.Errorf("while it is away: %v", err)
	}
	if err := b.handle(t.Context(), []bus.Message{m}); err != nil {
		t.Fatal(err)
	}
	if got := b.list(t); len(got) != 1 {
		t.Errorf("stored: %v", got)
	}
}
