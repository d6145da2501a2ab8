package eventlog_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"switchboard/platform/bus"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is what an event log stands on, and outlives it.
type place struct {
	t    testing.TB
	cfg  store.Config
	bus  *bus.Bus
	keys *seal.Keyring
	db   *store.DB // what the last log opened

	mu sync.Mutex
	at time.Time
}

func (p *place) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

func (p *place) advance(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = p.at.Add(d)
}

func newPlace(t testing.TB, cfg store.Config, b *bus.Bus) *place {
	t.Helper()
	p := &place{t: t, cfg: cfg, bus: b, at: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	master, _, err := seal.LoadMaster(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	p.keys, err = seal.Open(t.Context(), storetest.Open(t, cfg, "keys", seal.Migrations()), nil, master, p.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// each runs fn on both engines, without a bus.
func each(t *testing.T, fn func(t *testing.T, p *place)) {
	t.Helper()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		fn(t, newPlace(t, cfg, nil))
	})
}

// logging is a log at work.
type logging struct {
	*eventlog.Log
	service *eventlog.Service
	t       testing.TB
	reg     *prometheus.Registry
	stop    func() // and wait
}

type outputs struct {
	console io.Writer
	records slog.Handler
	drain   time.Duration
}

func (p *place) open(cfg eventlog.Config, out outputs) *logging {
	p.t.Helper()
	l := p.wire(cfg, out)
	l.run()
	return l
}

// wire opens a log that does not run yet.
func (p *place) wire(cfg eventlog.Config, out outputs) *logging {
	p.t.Helper()
	l := &logging{t: p.t, reg: prometheus.NewRegistry()}
	d := eventlog.Deps{Bus: p.bus, Keyring: p.keys, Console: out.console, Metrics: l.reg, Now: p.now, Drain: out.drain,
		OpenDB: func(_ context.Context, name string, migrations fs.FS) (*store.DB, error) {
			p.db = storetest.Open(p.t, p.cfg, name, migrations)
			return p.db, nil
		}}
	if out.records != nil {
		d.Log = slog.New(out.records)
	}
	l.service = eventlog.New(d)
	var err error
	if l.Log, err = l.service.Open("shop", cfg); err != nil {
		p.t.Fatal(err)
	}
	if err := l.service.Start(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	return l
}

func (l *logging) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.service.Run(ctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(l.stop)
}

func (l *logging) log(e eventlog.Entry) {
	l.t.Helper()
	if err := l.Log.Log(l.t.Context(), e); err != nil {
		l.t.Fatal(err)
	}
}

func (l *logging) flush() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	if err := l.Flush(ctx); err != nil {
		l.t.Fatal(err)
	}
}

func (l *logging) find(q eventlog.Query) eventlog.Page {
	l.t.Helper()
	page, err := l.Find(l.t.Context(), q)
	if err != nil {
		l.t.Fatal(err)
	}
	return page
}

// all follows the pages to the end.
func (l *logging) all(q eventlog.Query) (all []eventlog.Entry) {
	l.t.Helper()
	for {
		page := l.find(q)
		all = append(all, page.Entries...)
		if q.After = page.Next; q.After == "" {
			return all
		}
	}
}

// figures of one strategy.
type figures struct{ written, missed, waiting int }

func (l *logging) figures(strategy string) (f figures) {
	l.t.Helper()
	families, err := l.reg.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			for _, label := range m.Label {
				if label.GetValue() != strategy {
					continue
				}
				switch family.GetName() {
				case "eventlog_entries_total":
					f.written = int(m.GetCounter().GetValue())
				case "eventlog_missed_total":
					f.missed = int(m.GetCounter().GetValue())
				case "eventlog_queue":
					f.waiting = int(m.GetGauge().GetValue())
				}
			}
		}
	}
	return f
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// screen is a console that can be told to fail, or to block until told to go on.
type screen struct {
	mu      sync.Mutex
	text    bytes.Buffer
	failing bool
	blocked chan struct{}
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	blocked, failing := s.blocked, s.failing
	s.mu.Unlock()
	if blocked != nil {
		<-blocked
	}
	if failing {
		return 0, io.ErrClosedPipe
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) set(failing, blocked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = failing
	if s.blocked != nil {
		close(s.blocked)
		s.blocked = nil
	}
	if blocked {
		s.blocked = make(chan struct{})
	}
}

func (s *screen) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Split(strings.TrimSuffix(s.text.String(), "\n"), "\n")
}

// ids are the ids of entries, in their order.
func ids(entries []eventlog.Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprint(&b, e.ID, " ")
	}
	return strings.TrimSpace(b.String())
}

// streamed gives the entries of the stream so far, n of them at least.
func (p *place) streamed(l *logging, n int) (all []eventlog.Entry) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	defer cancel()
	var mu sync.Mutex
	done := make(chan error, 1)
	go func() {
		done <- p.bus.Consume(ctx, bus.Consumer{Stream: "EVENTLOG", Name: fmt.Sprintf("reader-%d", time.Now().UnixNano()), Subject: "eventlog.shop", Batch: 256},
			func(_ context.Context, msgs []bus.Message) error {
				mu.Lock()
				defer mu.Unlock()
				for _, m := range msgs {
					e, err := l.service.Decode(m)
					if err != nil {
						return err
					}
					if m.ID != e.ID {
						p.t.Errorf("message %s holds the entry %s", m.ID, e.ID)
					}
					all = append(all, e)
				}
				return nil
			})
	}()
	eventually(p.t, "the stream has them", func() bool { mu.Lock(); defer mu.Unlock(); return len(all) >= n })
	cancel()
	if err := <-done; err != nil {
		p.t.Error(err)
	}
	return all
}
