package seal_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

func transitOf(t testing.TB, k *seal.Keyring, scope string, keep time.Duration) *seal.Transit {
	t.Helper()
	tr, err := k.Transit(t.Context(), scope, keep)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func sealTransit(t testing.TB, tr *seal.Transit, plain string) []byte {
	t.Helper()
	sealed, err := tr.Seal([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func transitKeys(t testing.TB, db *store.DB) (n int) {
	t.Helper()
	if err := db.Read().QueryRowContext(t.Context(), `select count(*) from keys_transit`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTransitDataLivesAsLongAsItsRetention(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		const keep = 8 * time.Hour
		c, m := newClock(), masterOf(t, t.TempDir())
		here, there := openRing(t, db, nil, m, c.now), openRing(t, db, nil, m, c.now)
		a, b := transitOf(t, here, "gateway.frames", keep), transitOf(t, there, "gateway.frames", keep)
		type message struct {
			sealed []byte
			at     time.Time
		}
		var messages []message
		for hour := range 30 {
			for _, tr := range []*seal.Transit{a, b} {
				messages = append(messages, message{sealTransit(t, tr, fmt.Sprint("hour ", hour)), c.now()})
			}
			c.advance(time.Hour)
			for _, k := range []*seal.Keyring{here, there} {
				if err := k.Sweep(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for i, message := range messages {
				for _, tr := range []*seal.Transit{a, b} {
					plain, err := tr.Open(message.sealed)
					switch age := c.now().Sub(message.at); {
					case age <= keep && (err != nil || string(plain) != fmt.Sprint("hour ", i/2)):
						t.Fatalf("after %s: %q, %v", age, plain, err)
					case age > keep+time.Hour && !errors.Is(err, seal.ErrExpired):
						t.Fatalf("after %s: %q, %v; want it expired", age, plain, err)
					}
				}
			}
		}
		if n := transitKeys(t, db); n > 11 {
			t.Errorf("%d keys are left", n)
		}
		c.advance(100 * time.Hour)
		if err := openRing(t, db, nil, m, c.now).Sweep(t.Context()); err != nil { // scopes it has not opened
			t.Fatal(err)
		}
		if n := transitKeys(t, db); n != 0 {
			t.Errorf("%d expired keys are left", n)
		}
	})
}

func TestTransitKeysAreMadeAheadOfTime(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Config{Dir: t.TempDir()}, "keys", seal.Migrations())
	c := newClock()
	k := openRing(t, db, nil, masterOf(t, t.TempDir()), c.now)
	tr := transitOf(t, k, "a", 8*time.Hour)
	c.advance(50 * time.Minute)
	if err := k.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	c.advance(20 * time.Minute)
	sealed := sealTransit(t, tr, "x") // the next period, without a database
	if plain, err := tr.Open(sealed); err != nil || string(plain) != "x" {
		t.Errorf("%q, %v", plain, err)
	}
	c.advance(2 * time.Hour)
	if _, err := tr.Seal(nil); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("without database and key: %v", err)
	}
}

func TestInstancesAgreeOnTransitKeys(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		c, m := newClock(), masterOf(t, t.TempDir())
		var all sync.WaitGroup
		for range 4 {
			k := openRing(t, db, nil, m, c.now)
			all.Go(func() {
				for scope := range 5 {
					if _, err := k.Transit(t.Context(), fmt.Sprint(scope), time.Hour); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if n := transitKeys(t, db); n != 5 {
			t.Errorf("%d keys for 5 scopes", n)
		}
	})
}

func TestALongerRetentionGetsItsOwnKey(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		c, m := newClock(), masterOf(t, t.TempDir())
		short := transitOf(t, openRing(t, db, nil, m, c.now), "a", 30*24*time.Hour)
		k := openRing(t, db, nil, m, c.now)
		long := transitOf(t, k, "a", 60*24*time.Hour)
		early, late := sealTransit(t, short, "early"), sealTransit(t, long, "late")
		if plain, err := long.Open(early); err != nil || string(plain) != "early" {
			t.Errorf("data of before the change: %q, %v", plain, err)
		}
		late2 := sealTransit(t, long, "late")
		c.advance(45 * 24 * time.Hour)
		for _, sealed := range [][]byte{late, late2} {
			if plain, err := long.Open(sealed); err != nil || string(plain) != "late" {
				t.Errorf("data of after the change: %q, %v", plain, err)
			}
		}
		if _, err := k.Transit(t.Context(), "a", time.Hour); errs.KindOf(err) != errs.Invalid {
			t.Errorf("two retentions at once: %v", err)
		}
	})
}

func TestTransitOpensOnlyItsOwn(t *testing.T) {
	t.Parallel()
	k := openRing(t, storetest.Open(t, store.Config{Dir: t.TempDir()}, "keys", seal.Migrations()), nil, masterOf(t, t.TempDir()), newClock().now)
	a, b := transitOf(t, k, "a", time.Hour), transitOf(t, k, "b", time.Hour)
	sealed := sealTransit(t, a, "plain")
	if got, err := b.Open(sealed); err == nil {
		t.Errorf("another scope opened %q", got)
	}
	for i := range sealed {
		bad := append([]byte(nil), sealed...)
		bad[i] ^= 1
		if got, err := a.Open(bad); err == nil {
			t.Errorf("byte %d changed: opened %q", i, got)
		}
		if got, err := a.Open(sealed[:i]); err == nil {
			t.Errorf("cut to %d bytes: opened %q", i, got)
		}
	}
	for _, bad := range []struct {
		scope string
		keep  time.Duration
	}{{"", time.Hour}, {"c", 0}, {"c", -time.Hour}} {
		if _, err := k.Transit(t.Context(), bad.scope, bad.keep); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestTransitSealsWhileItRotates(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		c := newClock()
		k := openRing(t, db, nil, masterOf(t, t.TempDir()), c.now)
		tr := transitOf(t, k, "a", 8*time.Minute)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 50 {
					sealed, err := tr.Seal([]byte("x"))
					if err != nil {
						t.Error(err)
						return
					}
					c.advance(time.Second)
					if plain, err := tr.Open(sealed); err != nil || string(plain) != "x" {
						t.Errorf("%q, %v", plain, err)
						return
					}
				}
			})
		}
		all.Go(func() {
			for range 10 {
				if err := k.Sweep(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
		all.Wait()
	})
}
