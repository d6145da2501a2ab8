package store_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"switchboard/platform/errs"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// open opens and closes a database and tells what came of it.
func open(t *testing.T, cfg store.Config, fsys fstest.MapFS) error {
	t.Helper()
	db, err := store.Open(t.Context(), cfg, "moves", fsys)
	if err != nil {
		return err
	}
	return db.Close()
}

func TestMigrationsAreAppliedOnceAndGoForward(t *testing.T) {
	t.Parallel()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		one := []string{"0001_a.sql", "create table a (id bigint primary key);\ninsert into a (id) values (1);"}
		two := append(one, "0002_b.sqlite.sql", "insert into a (id) values (20);", "0002_b.postgres.sql", "insert into a (id) values (21);")
		// A checkout may have other line ends; that is no change.
		crlf := append([]string{"0001_a.sql", strings.ReplaceAll(one[1], "\n", "\r\n")}, two[2:]...)
		for _, pairs := range [][]string{one, one, two, two, crlf} {
			if err := open(t, cfg, files(pairs...)); err != nil {
				t.Fatal(err)
			}
		}
		for name, c := range map[string]struct {
			pairs []string
			want  string
		}{
			"changed":      {append([]string{"0001_a.sql", one[1] + " "}, two[2:]...), "changed"},
			"newer":        {one, "newer"},
			"gone":         {two[2:], "gone"},
			"out of order": {append([]string{"0000_z.sql", "select 1"}, two...), "higher number"},
		} {
			err := open(t, cfg, files(c.pairs...))
			if errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		db := storetest.Open(t, cfg, "moves", files(two...))
		if n := count(t, db, `select sum(id) from a`); n != map[store.Engine]int{store.SQLite: 21, store.Postgres: 22}[db.Engine()] {
			t.Errorf("sum %d", n)
		}
	})
}

func TestPendingMigrationsAreNamedAndNotApplied(t *testing.T) {
	t.Parallel()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		one := []string{"0001_a.sql", "create table a (id bigint primary key)"}
		two := append(one, "0002_b.sqlite.sql", "create table b (id bigint)", "0002_b.postgres.sql", "create table b (id bigint)")
		cfg.Dir = filepath.Join(cfg.Dir, "none") // not even that is made
		pending := func(want ...string) {
			t.Helper()
			for range 2 {
				if have, err := store.Pending(t.Context(), cfg, "moves", files(two...)); err != nil || !slices.Equal(have, want) {
					t.Errorf("pending %v, want %v: %v", have, want, err)
				}
			}
		}
		pending("0001_a", "0002_b")
		if _, err := os.Stat(cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("looking made the directory: %v", err)
		}
		if err := open(t, cfg, files(one...)); err != nil {
			t.Fatal(err)
		}
		pending("0002_b")
		if err := open(t, cfg, files(two...)); err != nil {
			t.Fatal(err)
		}
		pending()
		if _, err := store.Pending(t.Context(), cfg, "moves", files(one...)); errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), "newer") {
			t.Errorf("of an older program: %v", err)
		}
		if _, err := store.Pending(t.Context(), cfg, "no name", nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("a bad name: %v", err)
		}
	})
}

func TestFailedMigrationChangesNothing(t *testing.T) {
	t.Parallel()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		err := open(t, cfg, files("0001_a.sql", "create table a (id bigint)", "0002_b.sql", "create table b (id bigint); nonsense"))
		if err == nil || !strings.Contains(err.Error(), "0002_b") {
			t.Fatalf("nonsense: %v", err)
		}
		if err := open(t, cfg, files("0001_a.sql", "create table a (id bigint)", "0002_b.sql", "create table b (id bigint)")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBadMigrationFilesAreRefused(t *testing.T) {
	t.Parallel()
	cfg := store.Config{Dir: t.TempDir()}
	for name, fsys := range map[string]fstest.MapFS{
		"name":   files("first.sql", ""),
		"double": files("0001_a.sql", "", "0001_b.sql", ""),
		"both":   files("0001_a.sql", "", "0001_a.sqlite.sql", ""),
		"half":   files("0001_a.sqlite.sql", ""),
		"none":   {},
	} {
		if err := open(t, cfg, fsys); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestManyInstancesMayStartAtOnce(t *testing.T) {
	t.Parallel()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		fsys := files("0001_a.sql", "create table a (id bigint)", "0002_b.sql", "insert into a (id) values (1)")
		var wait sync.WaitGroup
		for range 8 {
			wait.Go(func() {
				if err := open(t, cfg, fsys); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		if n := count(t, storetest.Open(t, cfg, "moves", fsys), `select count(*) from a`); n != 1 {
			t.Errorf("applied %d times", n)
		}
	})
}

func TestModulesDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		user := storetest.Open(t, cfg, "user", notes) // a reserved word
		other := storetest.Open(t, cfg, "other", notes)
		if err := exec(t.Context(), user, `insert into notes (id, body) values (1, $1)`, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if n := count(t, other, `select count(*) from notes`); n != 0 {
			t.Errorf("%d rows of another module", n)
		}
		if user.Name() != "user" {
			t.Error(user.Name())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := store.Open(ctx, cfg, "late", notes); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("cancelled: %v", err)
		}
	})
}
