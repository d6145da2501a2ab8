package auth_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchboard/platform/auth"
	"switchboard/platform/bus"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that stands still until it is told to go on.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)} }

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

var defaults = auth.Config{FailedAttempts: 60}

// place is where the guards of one product live.
type place struct {
	db   *store.DB
	ring *seal.Keyring
	bus  *bus.Bus
	*clock
}

// each runs fn on both engines.
func each(t *testing.T, fn func(t *testing.T, p place)) {
	t.Helper()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		fn(t, newPlace(t, cfg))
	})
}

func newPlace(t testing.TB, cfg store.Config) place {
	t.Helper()
	c := newClock()
	master, _, err := seal.LoadMaster(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	ring, err := seal.Open(t.Context(), storetest.Open(t, cfg, "keys", seal.Migrations()), nil, master, c.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return place{storetest.Open(t, cfg, "auth", auth.Migrations()), ring, nil, c}
}

// guard opens one instance's guard.
func (p place) guard(t testing.TB, cfg auth.Config) *auth.Guard {
	t.Helper()
	g, err := auth.Open(t.Context(), p.db, p.ring, p.bus, cfg, p.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// run runs a guard until stop is called, or the test ends.
func run(t testing.TB, g *auth.Guard) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func create(t testing.TB, g *auth.Guard, n auth.NewKey) (auth.Key, string) {
	t.Helper()
	if n.Name == "" {
		n.Name = "test"
	}
	if n.Scopes == nil {
		n.Scopes = []string{"collector:write"}
	}
	key, secret, _, err := g.Create(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return key, secret
}
