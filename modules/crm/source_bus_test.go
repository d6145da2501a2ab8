package crm

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/apptest"
	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/errs"
	"switchboard/platform/kafka"
)

// dial gives a stock client of a NATS server.
func dial(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// publishLines publishes events of the platform once somebody takes them.
func publishLines(t *testing.T, js jetstream.JetStream, list []line) {
	t.Helper()
	for _, l := range list {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if _, err := js.Publish(ctx, "maas."+l.Topic, []byte(l.Value), jetstream.WithRetryAttempts(200), jetstream.WithRetryWait(50*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
}

// equalLines wants these events in their order.
func equalLines(t *testing.T, got []rawEvent, want []line) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d events of %d", len(got), len(want))
	}
	for i, e := range got {
		if e.Topic != want[i].Topic || string(e.Value) != want[i].Value {
			t.Fatalf("%d: %s %s, want %s %s", i, e.Topic, e.Value, want[i].Topic, want[i].Value)
		}
		if e.At.IsZero() {
			t.Fatalf("%d has no time", i)
		}
	}
}

func TestEventsOnAnExternalNATSServerAreReadFromItsStream(t *testing.T) {
	t.Parallel()
	url := bustest.External(t)
	b := bustest.Open(t, bus.Config{URL: url})
	s := source(t, Config{NATSSource: true}, kafka.Config{}, b, &intray{})
	js := dial(t, url)
	list := lines(t, "events.jsonl", "edge-cases.jsonl")
	publishLines(t, js, list)
	apptest.Within(t, 20*time.Second, s.in.has(len(list)))
	equalLines(t, s.in.all(), list)
	logs := perLog(s.in.all())
	if len(logs) != 1 || !strings.HasPrefix(s.in.all()[0].Log, "nats/MAAS@") {
		t.Errorf("logs %v", logs)
	}
	apptest.Within(t, 20*time.Second, s.lags("nats", 0))
	apptest.Within(t, 20*time.Second, s.is("nats", sourceReading, ""))

	// Nothing is acknowledged before it is on the bus, whatever the error is.
	s.in.failing(errs.New(errs.Invalid, "no"))
	more := numbered(topicUser, 0, 10)
	publishLines(t, js, more)
	apptest.Within(t, 20*time.Second, s.is("nats", sourceFailing, "no"))
	apptest.Within(t, 20*time.Second, s.lags("nats", 10))
	s.stop()
	s.in.failing(nil)
	s = source(t, Config{NATSSource: true}, kafka.Config{}, b, s.in)
	apptest.Within(t, 40*time.Second, s.in.has(len(list)+10))
	apptest.Within(t, 20*time.Second, s.lags("nats", 0))

	// All of it again, under the same names.
	before := byPlace(s.in.all())
	s.in.forget()
	if err := s.backfill(t.Context(), time.Time{}); err != nil {
		t.Fatal(err)
	}
	equalLines(t, s.in.all(), append(list, more...))
	for name := range byPlace(s.in.all()) {
		if _, ok := before[name]; !ok {
			t.Errorf("%s has another name now", name)
		}
	}
}

func TestAStreamOfSomebodyElseIsReadAndLeftAsItIs(t *testing.T) {
	t.Parallel()
	url := bustest.External(t)
	js := dial(t, url)
	make := func() {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MAAS", Subjects: []string{"maas.*", "other"}, MaxMsgs: 1000, Storage: jetstream.MemoryStorage}); err != nil {
			t.Fatal(err)
		}
	}
	make()
	publishLines(t, js, numbered(topicUser, 0, 5))
	b := bustest.Open(t, bus.Config{URL: url})
	s := source(t, Config{NATSSource: true}, kafka.Config{}, b, &intray{})
	apptest.Within(t, 20*time.Second, s.in.has(5))
	st, err := js.Stream(t.Context(), "MAAS")
	if err != nil {
		t.Fatal(err)
	}
	if cfg := st.CachedInfo().Config; cfg.MaxMsgs != 1000 || cfg.Storage != jetstream.MemoryStorage || len(cfg.Subjects) != 2 {
		t.Errorf("%+v", cfg)
	}
	apptest.Within(t, 20*time.Second, s.lags("nats", 0))
	s.stop()
	// Made anew it counts from 1 again, as another log.
	if err := js.DeleteStream(t.Context(), "MAAS"); err != nil {
		t.Fatal(err)
	}
	make()
	publishLines(t, js, numbered(topicUser, 5, 8))
	s = source(t, Config{NATSSource: true}, kafka.Config{}, b, s.in)
	apptest.Within(t, 20*time.Second, s.in.has(8))
	if logs := perLog(s.in.all()); len(logs) != 2 {
		t.Errorf("logs %v", logs)
	}
}

func TestEventsOnTheEmbeddedServerAreAnsweredWhenTheyAreOnTheBus(t *testing.T) {
	t.Parallel()
	b := bustest.Open(t, bus.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	s := source(t, Config{NATSSource: true}, kafka.Config{}, b, &intray{})
	js := dial(t, b.ClientURL())
	list := lines(t, "events.jsonl")
	publishLines(t, js, list)
	equalLines(t, s.in.all(), list)
	for _, e := range s.in.all() {
		if e.Log != "nats/MAAS" || e.Seq != -1 {
			t.Fatalf("%s %d", e.Log, e.Seq)
		}
	}
	apptest.Within(t, 10*time.Second, s.is("nats", sourceReading, ""))
	if st := s.status()[0].Partitions; len(st) != 1 || st[0].Position != int64(len(list)) || st[0].Lag != 0 {
		t.Errorf("%+v", st)
	}
	if _, err := js.Stream(t.Context(), "MAAS"); err == nil {
		t.Error("there is a stream in the clear")
	}
	s.in.failing(errs.New(errs.Unavailable, "full"))
	if _, err := js.Publish(t.Context(), "maas."+topicUser, []byte("{}")); err == nil {
		t.Error("acknowledged what was not published")
	}
	apptest.Within(t, 10*time.Second, s.is("nats", sourceFailing, "full"))
	s.in.failing(nil)

	// Another process on this bus leaves it to the one that keeps it.
	guest := source(t, Config{NATSSource: true}, kafka.Config{}, bustest.Open(t, bus.Config{URL: b.ClientURL()}), &intray{})
	apptest.Within(t, 10*time.Second, guest.is("nats", sourceWaiting, "keeps the bus"))
	publishLines(t, js, numbered(topicUser, 0, 3))
	if n := len(s.in.all()); n != len(list)+3 || len(guest.in.all()) != 0 {
		t.Errorf("%d here, %d at the guest", n, len(guest.in.all()))
	}
	if err := s.backfill(t.Context(), time.Time{}); err != nil {
		t.Error(err)
	}
}

func TestSourcesAreThoseOfTheConfiguration(t *testing.T) {
	t.Parallel()
	b := bustest.Embedded(t)
	for name, c := range map[string]struct {
		cfg     Config
		cluster kafka.Config
	}{"": {}, "nats": {cfg: Config{NATSSource: true}}, "kafka": {cluster: kafka.Config{Brokers: []string{"127.0.0.1:1"}}}} {
		s := source(t, c.cfg, c.cluster, b, &intray{})
		got := ""
		for _, st := range s.status() {
			got += st.Source
		}
		if got != name {
			t.Errorf("%q, want %q", got, name)
		}
		s.stop()
	}
	s := newSources(&Config{}, kafka.Config{Brokers: []string{"127.0.0.1:1"}, TLS: true, CAFile: "missing.pem"}, b, nil, nil, time.Now)
	if err := s.start(t.Context()); errs.KindOf(err) != errs.Invalid || !strings.Contains(fmt.Sprint(err), "kafka.ca_file") {
		t.Errorf("a file that is missing: %v", err)
	}
}
