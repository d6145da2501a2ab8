package seal_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// hits counts how often any of the needles occurs in the files of a folder.
func hits(t testing.TB, dir string, needles ...[]byte) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, needle := range needles {
			n += bytes.Count(data, needle)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// forms gives the ways in which a value may lie in a file.
func forms(value string) [][]byte {
	var wide []byte
	for _, c := range []byte(value) {
		wide = append(wide, c, 0)
	}
	return [][]byte{
		[]byte(value), wide,
		[]byte(hex.EncodeToString([]byte(value))),
		[]byte(base64.StdEncoding.EncodeToString([]byte(value))[:len(value)/3*4]),
	}
}

// wrappedKeys reads the wrapped keys as they are stored.
func wrappedKeys(t testing.TB, db *store.DB, query string) map[string][]byte {
	t.Helper()
	rows, err := db.Read().QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := map[string][]byte{}
	for rows.Next() {
		var id, wrapped []byte
		if err := rows.Scan(&id, &wrapped); err != nil {
			t.Fatal(err)
		}
		out[string(id)] = wrapped
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFilesHoldNoNamesAndNoErasedKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := storetest.Open(t, store.Config{Dir: dir}, "keys", seal.Migrations())
	c := newClock()
	k := openRing(t, db, nil, masterOf(t, t.TempDir()), c.now)
	var aliases []seal.Alias
	var canaries [][]byte
	for i := range 2000 {
		value := fmt.Sprintf("canary%06dxyz", i)
		aliases = append(aliases, seal.Alias{Kind: "phone", Value: value})
		if i%20 == 0 {
			canaries = append(canaries, forms(value)...)
		}
	}
	var subjects []seal.Subject
	for i := 0; i < len(aliases); i += 50 {
		part, err := k.Subjects(t.Context(), aliases[i:i+50])
		if err != nil {
			t.Fatal(err)
		}
		subjects = append(subjects, part...)
	}
	if n := hits(t, dir, canaries...); n != 0 {
		t.Fatalf("aliases lie in the clear %d times", n)
	}

	keys := wrappedKeys(t, db, `select subject, wrapped from keys_subject`)
	wrapped := func(s seal.Subject) []byte { return keys[string(s[:])] }
	if len(wrapped(subjects[0])) != 60 || hits(t, dir, wrapped(subjects[0])) == 0 {
		t.Fatal("the scan does not find a key that is there")
	}
	// Some people are forgotten in between, which moves rows about.
	var erased [][]byte
	for i, s := range subjects {
		switch {
		case i%7 == 3:
			if err := k.Forget(t.Context(), []seal.Subject{s}); err != nil {
				t.Fatal(err)
			}
			erased = append(erased, wrapped(s))
		case i%10 == 0:
			if err := k.Erase(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			erased = append(erased, wrapped(s))
		}
	}
	left := 0
	for _, key := range erased {
		// The half of it: what is cut by a page is found too.
		if hits(t, dir, key[:30], key[30:]) > 0 {
			left++
		}
	}
	if left > 0 {
		t.Errorf("of %d destroyed keys %d are still in the files", len(erased), left)
	}
	if hits(t, dir, wrapped(subjects[1])) == 0 {
		t.Error("the key of another person is gone")
	}
}

func TestFilesHoldNoExpiredTransitKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := storetest.Open(t, store.Config{Dir: dir}, "keys", seal.Migrations())
	c := newClock()
	k := openRing(t, db, nil, masterOf(t, t.TempDir()), c.now)
	var gone [][]byte
	for scope := range 40 {
		sealTransit(t, transitOf(t, k, fmt.Sprint("scope", scope), time.Hour), "x")
	}
	for _, key := range wrappedKeys(t, db, `select id, wrapped from keys_transit`) {
		gone = append(gone, key)
	}
	if hits(t, dir, gone...) < 40 {
		t.Fatal("the scan does not find keys that are there")
	}
	c.advance(2 * time.Hour)
	if err := k.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := hits(t, dir, gone...); n != 0 {
		t.Errorf("expired keys are in the files %d times", n)
	}
}

func TestAScrubThatWasCutOffIsRepeatedAtTheNextStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := storetest.Open(t, store.Config{Dir: dir}, "keys", seal.Migrations())
	c, m := newClock(), masterOf(t, t.TempDir())
	k := openRing(t, db, nil, m, c.now)
	s := subjectOf(t, k, "phone", "1")
	key := wrappedKeys(t, db, `select subject, wrapped from keys_subject`)[string(s[:])]
	// A reader keeps the log from being emptied while the process "dies".
	err := db.ReadTx(t.Context(), func(tx store.Querier) error {
		var n int
		if err := tx.QueryRowContext(t.Context(), `select count(*) from keys_subject`).Scan(&n); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := k.Erase(ctx, s); err == nil {
			t.Error("erased with a reader in the way")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if cipherOf(t, k, s) != nil {
		t.Error("the key is not destroyed")
	}
	if hits(t, dir, key) == 0 {
		t.Error("the test does not cut the scrub off")
	}
	openRing(t, db, nil, m, c.now)
	if n := hits(t, dir, key); n != 0 {
		t.Errorf("after a restart the key is still in the files %d times", n)
	}
}
