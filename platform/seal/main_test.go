package seal_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchboard/platform/bus"
	"switchboard/platform/seal"
	"switchboard/platform/store"
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

// masterOf gives the master key of a folder.
func masterOf(t testing.TB, dir string) seal.Master {
	t.Helper()
	m, _, err := seal.LoadMaster(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func openRing(t testing.TB, db *store.DB, b *bus.Bus, m seal.Master, now func() time.Time) *seal.Keyring {
	t.Helper()
	k, err := seal.Open(t.Context(), db, b, m, now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// run runs a keyring until the test ends.
func run(t testing.TB, k *seal.Keyring) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func subjectOf(t testing.TB, k *seal.Keyring, kind, value string) seal.Subject {
	t.Helper()
	got, err := k.Subjects(t.Context(), []seal.Alias{{Kind: kind, Value: value}})
	if err != nil {
		t.Fatal(err)
	}
	return got[0]
}

func cipherOf(t testing.TB, k *seal.Keyring, s seal.Subject) *seal.Cipher {
	t.Helper()
	got, err := k.Ciphers(t.Context(), []seal.Subject{s})
	if err != nil {
		t.Fatal(err)
	}
	return got[0]
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(2 * time.Millisecond) // between two looks, not instead of one
	}
}
