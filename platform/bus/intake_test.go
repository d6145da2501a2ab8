package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/errs"
)

// shelf is what an intake handed over.
type shelf struct {
	mu      sync.Mutex
	got     []string
	largest int
	fail    error
	hold    chan struct{} // if set, a hand-over waits for it
	tries   int
}

func (s *shelf) put(ctx context.Context, msgs []bus.Message) error {
	s.mu.Lock()
	hold := s.hold
	s.tries++
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.largest = max(s.largest, len(msgs))
	for _, m := range msgs {
		s.got = append(s.got, m.Subject+" "+string(m.Data))
	}
	return nil
}

func (s *shelf) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (s *shelf) failing(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *shelf) tried() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries
}

// takeIn runs an intake on an embedded bus that listens, and connects a stock
// client to it.
func takeIn(t *testing.T, s *shelf) (b *bus.Bus, nc *nats.Conn, stop func()) {
	t.Helper()
	b = bustest.Open(t, bus.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	stop = start(t, func(ctx context.Context) error { return b.Intake(ctx, "MAAS", "maas.>", s.put) })
	nc, err := nats.Connect(b.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	within(t, 5*time.Second, "somebody listens", func() bool {
		_, err := nc.Request("maas.hello", nil, time.Second)
		return err == nil
	})
	s.mu.Lock()
	s.got = nil
	s.mu.Unlock()
	return b, nc, stop
}

func TestAnIntakeIsAStreamForThosePublishing(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	_, nc, _ := takeIn(t, s)
	old, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for i := range 50 {
		ack, err := old.Publish("maas.a", fmt.Appendf(nil, "%d", i))
		if err != nil || ack.Stream != "MAAS" || ack.Sequence <= last {
			t.Fatalf("%d: %+v, %v", i, ack, err)
		}
		last = ack.Sequence
		if got := s.all(); len(got) != i+1 {
			t.Fatalf("acknowledged %d, handed over %d", i+1, len(got))
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var acks []jetstream.PubAckFuture
	for i := range 3000 {
		f, err := js.PublishAsync("maas.b", fmt.Appendf(nil, "%d", i))
		if err != nil {
			t.Fatal(err)
		}
		acks = append(acks, f)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(20 * time.Second):
		t.Fatal("not all were answered")
	}
	for i, f := range acks {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			t.Fatalf("%d: %v", i, err)
		}
	}
	for i := range 100 {
		if err := nc.Publish("maas.c", fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 10*time.Second, "those without a reply come too", func() bool { return len(s.all()) == 3150 })
	var want []string
	for _, of := range []struct {
		subject string
		n       int
	}{{"a", 50}, {"b", 3000}, {"c", 100}} {
		for i := range of.n {
			want = append(want, fmt.Sprintf("maas.%s %d", of.subject, i))
		}
	}
	if !slices.Equal(s.all(), want) {
		t.Error("the order is not that of publishing")
	}
	if s.largest < 2 || s.largest > 1000 {
		t.Errorf("the largest batch had %d", s.largest)
	}
}

func TestAnIntakeAnswersAfterTheHandlerAndTellsOfItsFailure(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	_, nc, _ := takeIn(t, s)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	s.mu.Lock()
	s.hold = hold
	before := s.tries
	s.mu.Unlock()
	f, err := js.PublishAsync("maas.a", []byte("slow"))
	if err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "it is in hand", func() bool { return s.tried() > before })
	select {
	case <-f.Ok():
		t.Error("answered before the handler returned")
	default:
	}
	close(hold)
	within(t, 5*time.Second, "it is answered", func() bool {
		select {
		case <-f.Ok():
			return true
		default:
			return false
		}
	})

	s.failing(errs.New(errs.Unavailable, "full"))
	_, err = js.Publish(t.Context(), "maas.a", []byte("refused"))
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.Code != 503 || strings.Contains(api.Description, "full") {
		t.Errorf("a failure is answered with %v", err)
	}
	if err := nc.Publish("maas.a", []byte("silent")); err != nil {
		t.Fatal(err)
	}
	before = s.tried()
	within(t, 5*time.Second, "it is tried again", func() bool { return s.tried() > before+2 })
	s.failing(nil)
	within(t, 10*time.Second, "it is taken in the end", func() bool {
		return slices.Equal(s.all(), []string{"maas.a slow", "maas.a silent"})
	})
}

func TestAnIntakeKnowsDuplicatesAndExpectations(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	_, nc, _ := takeIn(t, s)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	first, err := js.Publish(t.Context(), "maas.a", []byte("one"), jetstream.WithMsgID("m1"), jetstream.WithExpectStream("MAAS"))
	if err != nil || first.Duplicate {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := js.Publish(t.Context(), "maas.a", []byte("one"), jetstream.WithMsgID("m1"))
	if err != nil || !second.Duplicate || second.Sequence != first.Sequence {
		t.Errorf("%+v, %v", second, err)
	}
	if _, err := js.Publish(t.Context(), "maas.a", []byte("x"), jetstream.WithExpectStream("OTHER")); err == nil {
		t.Error("another stream was expected")
	}
	if _, err := js.Publish(t.Context(), "maas.a", []byte("x"), jetstream.WithExpectLastSequence(7)); err == nil {
		t.Error("a last sequence was expected")
	}
	if got := s.all(); !slices.Equal(got, []string{"maas.a one"}) {
		t.Errorf("handed over: %q", got)
	}
}

func TestAnIntakeHoldsABoundedAmount(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	_, nc, stop := takeIn(t, s)
	hold := make(chan struct{})
	s.mu.Lock()
	s.hold = hold
	s.mu.Unlock()
	answers, err := nc.SubscribeSync("answers")
	if err != nil {
		t.Fatal(err)
	}
	const size, many = 1 << 20, 60
	for i := range many {
		if err := nc.PublishRequest("maas.a", "answers", append(fmt.Appendf(nil, "%d ", i), make([]byte, size)...)); err != nil {
			t.Fatal(err)
		}
	}
	answer := func() (out struct {
		Error *struct{ Code int }
		Seq   uint64
	}) {
		t.Helper()
		m, err := answers.NextMsg(20 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(m.Data, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	// All but about 32 MiB are refused while the handler has not returned.
	refused, taken := 0, 0
	for ; refused < many-40; refused++ {
		if a := answer(); a.Error == nil || a.Error.Code != 503 {
			t.Fatalf("%+v", a)
		}
	}
	close(hold)
	for refused+taken < many {
		if a := answer(); a.Error != nil {
			refused++
		} else {
			taken++
		}
	}
	if held := len(s.all()); held != taken || taken < 30 {
		t.Errorf("%d taken, %d refused, %d handed over", taken, refused, held)
	}
	// What waits at the end is still answered.
	if err := nc.PublishRequest("maas.a", "answers", []byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	stop()
	if a := answer(); a.Error != nil {
		t.Errorf("%+v", a)
	}
}

func TestABusKnowsWhereItsStreamsLie(t *testing.T) {
	t.Parallel()
	here := bustest.Open(t, bus.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	guest := bustest.Open(t, bus.Config{URL: here.ClientURL()})
	outside := bustest.Open(t, bus.Config{URL: bustest.External(t)})
	for name, c := range map[string]struct {
		b                  *bus.Bus
		embedded, external bool
	}{"here": {here, true, false}, "guest": {guest, false, false}, "outside": {outside, false, true}} {
		if c.b.Embedded() != c.embedded || c.b.External() != c.external {
			t.Errorf("%s: embedded %v, external %v", name, c.b.Embedded(), c.b.External())
		}
	}
	if _, err := outside.StreamState(t.Context(), "MAAS"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("no stream: %v", err)
	}
	if err := outside.Ensure(t.Context(), bus.Stream{Name: "MAAS", Subjects: []string{"maas.>"}}); err != nil {
		t.Fatal(err)
	}
	made, err := outside.StreamState(t.Context(), "MAAS")
	if err != nil || made.Created.IsZero() {
		t.Fatalf("%+v, %v", made, err)
	}
	// It is left as it is.
	if err := outside.Ensure(t.Context(), bus.Stream{Name: "MAAS", Subjects: []string{"other.>"}, MaxAge: time.Hour}); err != nil {
		t.Fatal(err)
	}
	seq := publish(t, outside, bus.Message{Subject: "maas.a", Data: []byte("x")})
	if again, err := outside.StreamState(t.Context(), "MAAS"); err != nil || again.Created != made.Created || again.Last != seq {
		t.Errorf("%+v, %v", again, err)
	}
}
