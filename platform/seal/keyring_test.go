package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/platform/bus/bustest"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

func TestSubjectsAreMadeOnceAndFoundAgain(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		m := masterOf(t, t.TempDir())
		k := openRing(t, db, nil, m, newClock().now)
		var aliases []seal.Alias
		for i := range 700 {
			aliases = append(aliases, seal.Alias{Kind: "session_id", Value: fmt.Sprint("s", i%500)})
		}
		first, err := k.Subjects(t.Context(), aliases)
		if err != nil {
			t.Fatal(err)
		}
		different := map[seal.Subject]bool{}
		for i, s := range first {
			if s.IsZero() || s != first[i%500] {
				t.Fatalf("alias %d: %s", i, s)
			}
			different[s] = true
		}
		if len(different) != 500 {
			t.Errorf("%d subjects, want 500", len(different))
		}
		for name, ring := range map[string]*seal.Keyring{"cached": k, "reopened": openRing(t, db, nil, m, newClock().now)} {
			again, err := ring.Subjects(t.Context(), aliases)
			if err != nil {
				t.Fatal(err)
			}
			for i := range again {
				if again[i] != first[i] {
					t.Fatalf("%s: alias %d means %s, was %s", name, i, again[i], first[i])
				}
			}
		}
		if subjectOf(t, k, "user_id", "s0") == first[0] {
			t.Error("the same value of another kind is the same person")
		}
	})
}

func TestSubjectsRefusesAnAliasWithoutValue(t *testing.T) {
	t.Parallel()
	k := openRing(t, storetest.Open(t, store.Config{Dir: t.TempDir()}, "keys", seal.Migrations()), nil, masterOf(t, t.TempDir()), newClock().now)
	for _, a := range []seal.Alias{{Kind: "phone"}, {Value: "7916"}} {
		if _, err := k.Subjects(t.Context(), []seal.Alias{a}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%v: %v", a, err)
		}
	}
}

func TestInstancesAgreeOnSubjects(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		m := masterOf(t, t.TempDir())
		var rings []*seal.Keyring
		for range 2 {
			rings = append(rings, openRing(t, db, nil, m, newClock().now))
		}
		const callers, rounds = 8, 10
		got := make([][][]seal.Subject, callers)
		var all sync.WaitGroup
		for c := range callers {
			all.Go(func() {
				for r := range rounds {
					var aliases []seal.Alias
					for i := range 40 { // each caller in another order
						aliases = append(aliases, seal.Alias{Kind: "phone", Value: fmt.Sprint(r, "-", (i*7+c*11)%40)})
					}
					found, err := rings[c%2].Subjects(t.Context(), aliases)
					if err != nil {
						t.Error(err)
						return
					}
					sorted := make([]seal.Subject, 40)
					for i, s := range found {
						sorted[(i*7+c*11)%40] = s
					}
					got[c] = append(got[c], sorted)
				}
			})
		}
		all.Wait()
		if t.Failed() {
			return
		}
		for c := range callers {
			for r := range rounds {
				for i := range 40 {
					if got[c][r][i] != got[0][r][i] {
						t.Fatalf("caller %d, round %d, alias %d: %s and %s", c, r, i, got[c][r][i], got[0][r][i])
					}
				}
			}
		}
		// No key without an alias is left behind by the slower one.
		var keys int
		if err := db.Read().QueryRowContext(t.Context(), `select count(*) from keys_subject`).Scan(&keys); err != nil || keys != rounds*40 {
			t.Errorf("%d keys, %v; want %d", keys, err, rounds*40)
		}
	})
}

func TestInstancesThatStartTogetherShareTheIndexKey(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		m := masterOf(t, t.TempDir())
		indexes := make([]seal.Index, 6)
		sealed := make([][]byte, 6)
		rings := make([]*seal.Keyring, 6)
		var all sync.WaitGroup
		for i := range indexes {
			all.Go(func() {
				rings[i] = openRing(t, db, nil, m, newClock().now)
				indexes[i] = rings[i].Index("phone", "79161234567")
				sealed[i] = rings[i].System().Seal(nil, []byte("secret"), "test")
			})
		}
		all.Wait()
		for i := range indexes {
			if indexes[i] != indexes[0] {
				t.Errorf("instance %d has another index key", i)
			}
			if plain, err := rings[0].System().Open(nil, sealed[i], "test"); err != nil || string(plain) != "secret" {
				t.Errorf("instance %d has another system key: %v", i, err)
			}
		}
	})
}

func TestIndexTellsKindsAndValuesApart(t *testing.T) {
	t.Parallel()
	k := openRing(t, storetest.Open(t, store.Config{Dir: t.TempDir()}, "keys", seal.Migrations()), nil, masterOf(t, t.TempDir()), newClock().now)
	seen := map[seal.Index]string{}
	for _, a := range [][2]string{{"a", "bc"}, {"ab", "c"}, {"a", "b"}, {"", "abc"}, {"abc", ""}, {"a\x00b", "c"}, {"a", "\x00bc"}, {"a", strings.Repeat("x", 1000)}} {
		x := k.Index(a[0], a[1])
		if other, ok := seen[x]; ok {
			t.Errorf("%q and %q share an index", a, other)
		}
		if x != k.Index(a[0], a[1]) {
			t.Errorf("%q has two indexes", a)
		}
		seen[x] = a[0] + " " + a[1]
	}
}

func TestAnotherMasterIsRefused(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		openRing(t, db, nil, masterOf(t, t.TempDir()), newClock().now)
		_, err := seal.Open(t.Context(), db, nil, masterOf(t, t.TempDir()), newClock().now, nil)
		if errs.KindOf(err) != errs.Invalid || strings.Contains(err.Error(), "\n") {
			t.Fatalf("want one clear line, got %v", err)
		}
	})
}

func TestSealedDataOpensOnlyInItsPlace(t *testing.T) {
	t.Parallel()
	k := openRing(t, storetest.Open(t, store.Config{Dir: t.TempDir()}, "keys", seal.Migrations()), nil, masterOf(t, t.TempDir()), newClock().now)
	a, b := cipherOf(t, k, subjectOf(t, k, "phone", "1")), cipherOf(t, k, subjectOf(t, k, "phone", "2"))
	plain := []byte("Anna Karenina")
	sealed := a.Seal([]byte("before"), plain, "crm.user.name")
	if string(sealed[:6]) != "before" || len(sealed) != 6+len(plain)+seal.Overhead || bytes.Contains(sealed, []byte("Anna")) {
		t.Fatalf("sealed: %q", sealed)
	}
	sealed = sealed[6:]
	if got, err := a.Open([]byte("x"), sealed, "crm.user.name"); err != nil || string(got) != "xAnna Karenina" {
		t.Errorf("open: %q, %v", got, err)
	}
	if bytes.Equal(sealed, a.Seal(nil, plain, "crm.user.name")) {
		t.Error("sealing twice gives the same bytes")
	}
	damaged := bytes.Clone(sealed)
	damaged[20] ^= 1
	for name, c := range map[string]struct {
		cipher  *seal.Cipher
		sealed  []byte
		context string
	}{
		"another person":  {b, sealed, "crm.user.name"},
		"the system":      {k.System(), sealed, "crm.user.name"},
		"another context": {a, sealed, "crm.user.email"},
		"damaged":         {a, damaged, "crm.user.name"},
		"cut":             {a, sealed[:28], "crm.user.name"},
		"empty":           {a, nil, "crm.user.name"},
		"an erased one":   {nil, sealed, "crm.user.name"},
	} {
		if got, err := c.cipher.Open(nil, c.sealed, c.context); err == nil || len(got) > 0 {
			t.Errorf("%s: opened %q", name, got)
		}
	}
	if got := (*seal.Cipher)(nil).Seal([]byte("x"), plain, ""); string(got) != "x" {
		t.Errorf("something of an erased person was kept: %q", got)
	}
}

func TestLinkBindsManyToMany(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		c := newClock()
		k := openRing(t, db, nil, masterOf(t, t.TempDir()), c.now)
		anna, boris := subjectOf(t, k, "user_id", "1"), subjectOf(t, k, "user_id", "2")
		mail, home := seal.Alias{Kind: "email", Value: "a@example.com"}, seal.Alias{Kind: "phone", Value: "7495"}
		for range 2 {
			err := k.Link(t.Context(), []seal.Alias{mail, home, home, mail}, []seal.Subject{anna, anna, boris, {}})
			if err != nil {
				t.Fatal(err)
			}
			c.advance(time.Second)
		}
		for alias, want := range map[seal.Alias][]seal.Subject{
			mail:                          {anna},
			home:                          {anna, boris},
			{Kind: "user_id", Value: "2"}: {boris},
			{Kind: "user_id", Value: "3"}: nil,
		} {
			got, err := k.Find(t.Context(), alias)
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%#v: %v, %v; want %v", alias, got, err, want)
			}
		}
		if got := subjectOf(t, k, home.Kind, home.Value); got != anna {
			t.Errorf("the shared phone means %s, want the first, %s", got, anna)
		}
		if err := k.Link(t.Context(), []seal.Alias{mail}, nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("one alias, no subject: %v", err)
		}
	})
}

func TestAnErasedPersonStaysErased(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		c, m := newClock(), masterOf(t, t.TempDir())
		k := openRing(t, db, nil, m, c.now)
		s, other := subjectOf(t, k, "phone", "1"), subjectOf(t, k, "phone", "2")
		if err := k.Link(t.Context(), []seal.Alias{{Kind: "email", Value: "e"}}, []seal.Subject{s}); err != nil {
			t.Fatal(err)
		}
		sealed := cipherOf(t, k, s).Seal(nil, []byte("name"), "c")
		for range 2 {
			if err := k.Erase(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		for name, k := range map[string]*seal.Keyring{"at once": k, "after a restart": openRing(t, db, nil, m, c.now)} {
			for _, a := range []seal.Alias{{Kind: "phone", Value: "1"}, {Kind: "email", Value: "e"}} {
				for range 2 { // the second time from the cache
					if got := subjectOf(t, k, a.Kind, a.Value); !got.IsZero() {
						t.Errorf("%s: %s means %s", name, a.Kind, got)
					}
				}
			}
			if _, err := cipherOf(t, k, s).Open(nil, sealed, "c"); !errors.Is(err, seal.ErrErased) {
				t.Errorf("%s: %v", name, err)
			}
			if cipherOf(t, k, other) == nil {
				t.Errorf("%s: another person was erased too", name)
			}
		}
		if err := k.Forget(t.Context(), []seal.Subject{s}); err != nil {
			t.Fatal(err)
		}
		if got := subjectOf(t, k, "phone", "1"); !got.IsZero() {
			t.Error("forgetting an erased person brought the alias back")
		}
	})
}

func TestErasingAnUnknownSubjectLeavesATombstone(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		k := openRing(t, db, nil, masterOf(t, t.TempDir()), newClock().now)
		s, err := seal.ParseSubject("019aa000-0000-7000-8000-000000000001")
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Erase(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if err := k.Link(t.Context(), []seal.Alias{{Kind: "phone", Value: "1"}}, []seal.Subject{s}); err != nil {
			t.Fatal(err)
		}
		if got := subjectOf(t, k, "phone", "1"); !got.IsZero() {
			t.Errorf("an alias of an erased subject means %s", got)
		}
		if err := k.Erase(t.Context(), seal.Subject{}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("erase nobody: %v", err)
		}
	})
}

func TestErasuresWhileTheSamePersonIsBusy(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		k := openRing(t, db, nil, masterOf(t, t.TempDir()), newClock().now)
		for round := range 10 {
			value := fmt.Sprint(round)
			s := subjectOf(t, k, "phone", value)
			stop := make(chan struct{})
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						if _, err := k.Subjects(t.Context(), []seal.Alias{{Kind: "phone", Value: value}}); err != nil {
							t.Error(err)
							return
						}
						if _, err := k.Ciphers(t.Context(), []seal.Subject{s}); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			if err := k.Erase(t.Context(), s); err != nil {
				t.Error(err)
			}
			// The clock stands still: a read from before the erasure that had
			// slipped into the cache would stay there.
			if cipherOf(t, k, s) != nil || !subjectOf(t, k, "phone", value).IsZero() {
				t.Error("the erased person is still in the cache")
			}
			close(stop)
			all.Wait()
		}
	})
}

func TestErasureReachesTheCachesOfOtherInstances(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		b, m := bustest.Embedded(t), masterOf(t, t.TempDir())
		here, there := openRing(t, db, b, m, newClock().now), openRing(t, db, b, m, newClock().now)
		run(t, there)
		n := 0
		eventually(t, "the other instance drops an erased key", func() bool {
			n++ // a broadcast before the other one listens is lost: try with another person
			value := fmt.Sprint(n)
			s := subjectOf(t, there, "phone", value)
			if cipherOf(t, there, s) == nil {
				t.Fatal("no key")
			}
			if err := here.Erase(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			for patience := time.Now().Add(200 * time.Millisecond); time.Now().Before(patience); time.Sleep(time.Millisecond) {
				if cipherOf(t, there, s) == nil && subjectOf(t, there, "phone", value).IsZero() {
					return true
				}
			}
			return false
		})
	})
}

func TestWithoutABroadcastTheCacheIsBelievedForAMinute(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		c, m := newClock(), masterOf(t, t.TempDir())
		here, there := openRing(t, db, nil, m, c.now), openRing(t, db, nil, m, c.now)
		s := subjectOf(t, there, "phone", "1")
		if err := here.Erase(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		c.advance(time.Minute)
		if cipherOf(t, there, s) != nil || !subjectOf(t, there, "phone", "1").IsZero() {
			t.Error("an erased key lives longer than a minute")
		}
	})
}

func TestForgottenPeopleStartAnew(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		k := openRing(t, db, nil, masterOf(t, t.TempDir()), newClock().now)
		before, kept := subjectOf(t, k, "session_id", "1"), subjectOf(t, k, "session_id", "2")
		if err := k.Forget(t.Context(), []seal.Subject{before, {}}); err != nil {
			t.Fatal(err)
		}
		if got, err := k.Find(t.Context(), seal.Alias{Kind: "session_id", Value: "1"}); err != nil || len(got) != 0 {
			t.Errorf("found %v, %v", got, err)
		}
		if cipherOf(t, k, before) != nil {
			t.Error("the key is still there")
		}
		if after := subjectOf(t, k, "session_id", "1"); after == before || after.IsZero() {
			t.Errorf("was %s, is %s", before, after)
		}
		if got := subjectOf(t, k, "session_id", "2"); got != kept {
			t.Errorf("another person changed from %s to %s", kept, got)
		}
	})
}

func TestSubjectText(t *testing.T) {
	t.Parallel()
	const text = "019aa000-0102-7000-8000-0000000000ff"
	s, err := seal.ParseSubject(text)
	if err != nil || s.String() != text {
		t.Fatalf("%s, %v", s, err)
	}
	if again, err := seal.ParseSubject(strings.ReplaceAll(text, "-", "")); err != nil || again != s {
		t.Errorf("without dashes: %s, %v", again, err)
	}
	for _, bad := range []string{"", "x", text[1:], text + "0", strings.Replace(text, "0", "g", 1), strings.Replace(text, "-", "0", 1)} {
		if _, err := seal.ParseSubject(bad); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestWhoIsReadOnceIsNotKept(t *testing.T) {
	t.Parallel()
	storetest.Each(t, seal.Migrations(), func(t *testing.T, db *store.DB) {
		t.Parallel()
		k := openRing(t, db, nil, masterOf(t, t.TempDir()), newClock().now)
		known := subjectOf(t, k, "phone", "known")
		aliases := []seal.Alias{{Kind: "phone", Value: "known"}, {Kind: "phone", Value: "new"}, {Kind: "phone", Value: "new"}}
		once := func() ([]seal.Subject, []*seal.Cipher) {
			t.Helper()
			subjects, ciphers, err := k.SubjectsOnce(t.Context(), aliases)
			if err != nil {
				t.Fatal(err)
			}
			return subjects, ciphers
		}
		var subjects []seal.Subject
		for range 2 { // makes one, and then finds both
			var ciphers []*seal.Cipher
			subjects, ciphers = once()
			if subjects[0] != known || subjects[1] != subjects[2] || subjects[1] == known || subjects[1].IsZero() {
				t.Fatal(subjects)
			}
			for i, c := range ciphers {
				if c == nil || c.Subject() != subjects[i] {
					t.Fatalf("cipher %d is not of %s", i, subjects[i])
				}
			}
		}
		if _, err := k.CiphersOnce(t.Context(), subjects); err != nil {
			t.Fatal(err)
		}
		// Behind the keyring's back, so that nothing is dropped: what it still has
		// is what it kept.
		if err := db.Tx(t.Context(), func(tx store.Querier) error {
			_, err := tx.ExecContext(t.Context(), `update keys_subject set state = 3`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		ciphers, err := k.CiphersOnce(t.Context(), subjects)
		if err != nil {
			t.Fatal(err)
		}
		if ciphers[0] == nil || ciphers[1] != nil {
			t.Errorf("who was asked for is kept: %t; who was read once is kept: %t", ciphers[0] != nil, ciphers[1] != nil)
		}
		if subjects, ciphers = once(); subjects[0] != known || ciphers[0] == nil || !subjects[1].IsZero() || ciphers[1] != nil {
			t.Errorf("afterwards: %v", subjects)
		}
	})
}
