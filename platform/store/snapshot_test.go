package store_test

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"switchboard/platform/config"
	"switchboard/platform/errs"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

func TestSnapshotIsConsistentWhileRowsArrive(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Config{Dir: t.TempDir()}, "copied", notes)
	ctx := t.Context()
	done := make(chan struct{})
	started := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for id := 0; ; id += 2 { // always in pairs
			if err := exec(ctx, db, `insert into notes (id, body) values ($1, $3), ($2, $3)`, id, id+1, make([]byte, 100)); err != nil {
				t.Error(err)
			}
			if id == 200 {
				close(started)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	<-started
	dir := t.TempDir()
	path := filepath.Join(dir, "copy it's.db")
	if err := db.Snapshot(ctx, path); err != nil {
		t.Error(err)
	}
	if err := db.Snapshot(ctx, path); errs.KindOf(err) != errs.Conflict {
		t.Errorf("twice: %v", err)
	}
	close(done)
	wait.Wait()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if err := os.Rename(path, filepath.Join(dir, "copied.db")); err != nil {
		t.Fatal(err)
	}
	restored := storetest.Open(t, store.Config{Dir: dir}, "copied", notes)
	if n := count(t, restored, `select count(*) from notes`); n < 200 || n%2 != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestSnapshotOfPostgresIsForPgDump(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Config{URL: config.Secret(storetest.Postgres(t))}, "dumped", notes)
	if err := db.Snapshot(t.Context(), filepath.Join(t.TempDir(), "x")); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
}

func TestScrubWorksBesideReadersAndWriters(t *testing.T) {
	t.Parallel()
	storetest.Each(t, notes, func(t *testing.T, db *store.DB) {
		t.Parallel()
		ctx := t.Context()
		done := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() {
			for id := 100; ; id++ {
				select {
				case <-done:
					return
				default:
				}
				if err := exec(ctx, db, `insert into notes (id) values ($1)`, id); err != nil {
					t.Error(err)
				}
				_ = count(t, db, `select count(*) from notes`)
			}
		})
		for range 5 {
			if err := db.Scrub(ctx); err != nil {
				t.Error(err)
			}
		}
		close(done)
		wait.Wait()
	})
}

func TestScrubbedRowIsGoneFromTheFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := storetest.Open(t, store.Config{Dir: dir}, "clean", notes)
	secret := []byte("canary-4711-canary")
	if err := exec(t.Context(), db, `insert into notes (id, body) values (1, $1)`, secret); err != nil {
		t.Fatal(err)
	}
	if !holds(t, dir, secret) {
		t.Fatal("the test looks in the wrong place")
	}
	if err := exec(t.Context(), db, `delete from notes`); err != nil {
		t.Fatal(err)
	}
	if err := db.Scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	if holds(t, dir, secret) {
		t.Error("the deleted row is still on disk")
	}
}

func holds(t *testing.T, dir string, what []byte) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, what) {
			return true
		}
	}
	return false
}
