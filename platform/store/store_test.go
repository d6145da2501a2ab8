package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"switchboard/platform/config"
	"switchboard/platform/errs"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// files makes migrations out of names and texts.
func files(pairs ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		fsys["migrations/"+pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fsys
}

var notes = files("0001_notes.sql", `
	create table notes (id bigint primary key, body blob, label text not null default '', done boolean not null default false, at bigint);
	create unique index notes_label on notes (label) where label <> '';`)

func exec(ctx context.Context, db *store.DB, query string, args ...any) error {
	return db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	})
}

func count(t *testing.T, db *store.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := db.Read().QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOneTextServesBothEngines(t *testing.T) {
	t.Parallel()
	storetest.Each(t, notes, func(t *testing.T, db *store.DB) {
		t.Parallel()
		ctx := t.Context()
		at := time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.FixedZone("here", 7200))
		body := []byte{0, 1, 0xff, '\\', 'x'}
		if err := exec(ctx, db, `insert into notes (id, body, label, done, at) values `+store.Values(2, 5, 1)+` on conflict do nothing`,
			1, body, "a", true, store.MicrosOf(at), 2, nil, "b", false, nil); err != nil {
			t.Fatal(err)
		}
		var gotBody []byte
		var done bool
		var gotAt store.Micros
		// Placeholders count by their number, not by their place.
		if err := db.Read().QueryRowContext(ctx, `select body, done, at from notes where label = $2 and id = $1 and body = $3`, 1, "a", body).
			Scan(&gotBody, &done, &gotAt); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(gotBody, body) || !done || !gotAt.Time().Equal(at.Truncate(time.Microsecond)) || gotAt.Time().Location() != time.UTC {
			t.Errorf("got %q, %v, %v", gotBody, done, gotAt.Time())
		}
		var none sql.Null[store.Micros]
		if err := db.Read().QueryRowContext(ctx, `select body, at from notes where id = $1`, 2).Scan(&gotBody, &none); err != nil {
			t.Fatal(err)
		}
		if gotBody != nil || none.Valid {
			t.Errorf("null came back as %q, %v", gotBody, none)
		}
		err := db.Read().QueryRowContext(ctx, `select id from notes where id = $1`, 3).Scan(new(int))
		if !store.IsNotFound(err) || errs.KindOf(err) != errs.Internal {
			t.Errorf("no row: %v", err)
		}
		if _, err := db.Read().ExecContext(ctx, `delete from notes`); errs.KindOf(err) != errs.Invalid {
			t.Errorf("a reader wrote: %v", err)
		}
		if err := db.Ping(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestUniqueCollisionIsRecognised(t *testing.T) {
	t.Parallel()
	storetest.Each(t, notes, func(t *testing.T, db *store.DB) {
		t.Parallel()
		for _, row := range [][]any{{1, "a"}, {1, "b"}, {2, "a"}} {
			err := exec(t.Context(), db, `insert into notes (id, label) values ($1, $2)`, row...)
			if want := row[0] != 1 || row[1] != "a"; store.IsUnique(err) != want {
				t.Errorf("%v: %v", row, err)
			}
		}
		if err := exec(t.Context(), db, `insert into notes (id, label) values (3, null)`); err == nil || store.IsUnique(err) {
			t.Errorf("null label: %v", err)
		}
	})
}

func TestTxLeavesNothingBehindWhenItFails(t *testing.T) {
	t.Parallel()
	storetest.Each(t, notes, func(t *testing.T, db *store.DB) {
		t.Parallel()
		ctx := t.Context()
		insert := func(tx store.Querier, id int) error {
			_, err := tx.ExecContext(ctx, `insert into notes (id) values ($1)`, id)
			return err
		}
		cause := errors.New("no")
		if err := db.Tx(ctx, func(tx store.Querier) error {
			return errors.Join(insert(tx, 1), cause)
		}); !errors.Is(err, cause) {
			t.Errorf("error: %v", err)
		}
		func() {
			defer func() {
				if recover() != "boom" {
					t.Error("the panic was lost")
				}
			}()
			_ = db.Tx(ctx, func(tx store.Querier) error {
				if err := insert(tx, 2); err != nil {
					t.Error(err)
				}
				panic("boom")
			})
		}()
		if err := db.Tx(ctx, func(tx store.Querier) error {
			if err := insert(tx, 3); err != nil {
				return err
			}
			if err := insert(tx, 3); !store.IsUnique(err) {
				t.Errorf("double: %v", err)
			}
			if err := insert(tx, 4); err == nil {
				t.Error("a failed transaction went on")
			}
			return nil
		}); err == nil {
			t.Error("a failed transaction was committed")
		}
		if n := count(t, db, `select count(*) from notes`); n != 0 {
			t.Errorf("%d rows were left", n)
		}
		if err := exec(ctx, db, `insert into notes (id) values (5)`); err != nil {
			t.Errorf("the connection does not recover: %v", err)
		}
	})
}

func TestConcurrentTransactionsLoseNoUpdate(t *testing.T) {
	t.Parallel()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		ctx := t.Context()
		instances := []*store.DB{storetest.Open(t, cfg, "counted", notes)}
		if cfg.URL != "" {
			instances = append(instances, storetest.Open(t, cfg, "counted", notes), storetest.Open(t, cfg, "counted", notes))
		}
		if err := exec(ctx, instances[0], `insert into notes (id, at) values (1, 0)`); err != nil {
			t.Fatal(err)
		}
		const workers, turns = 12, 20
		var wait sync.WaitGroup
		for w := range workers {
			db := instances[w%len(instances)]
			wait.Go(func() {
				for range turns {
					if err := db.Tx(ctx, func(tx store.Querier) error {
						var n int
						if err := tx.QueryRowContext(ctx, `select at from notes where id = 1`).Scan(&n); err != nil {
							return err
						}
						_, err := tx.ExecContext(ctx, `update notes set at = $1 where id = 1`, n+1)
						return err
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wait.Wait()
		if n := count(t, instances[0], `select at from notes`); n != workers*turns {
			t.Errorf("%d of %d updates", n, workers*turns)
		}
	})
}

func TestReadTxSeesOneState(t *testing.T) {
	t.Parallel()
	storetest.Each(t, notes, func(t *testing.T, db *store.DB) {
		t.Parallel()
		ctx := t.Context()
		if err := db.ReadTx(ctx, func(tx store.Querier) error {
			var before, after int
			if err := tx.QueryRowContext(ctx, `select count(*) from notes`).Scan(&before); err != nil {
				return err
			}
			if err := exec(ctx, db, `insert into notes (id) values (1)`); err != nil {
				return err
			}
			if err := tx.QueryRowContext(ctx, `select count(*) from notes`).Scan(&after); err != nil {
				return err
			}
			if before != 0 || after != 0 {
				t.Errorf("saw %d, then %d rows", before, after)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.ReadTx(ctx, func(tx store.Querier) error {
			_, err := tx.ExecContext(ctx, `insert into notes (id) values (2)`)
			return err
		}); err == nil {
			t.Error("a read transaction wrote")
		}
	})
}

func TestEndedContextIsUnavailable(t *testing.T) {
	t.Parallel()
	storetest.Each(t, notes, func(t *testing.T, db *store.DB) {
		t.Parallel()
		held := make(chan struct{})
		release := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() {
			_ = db.Tx(t.Context(), func(tx store.Querier) error {
				_, err := tx.ExecContext(t.Context(), `insert into notes (id) values (1)`)
				close(held)
				<-release
				return err
			})
		})
		<-held
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		// Waits for the other: for its turn on SQLite, for its row on PostgreSQL.
		if err := exec(ctx, db, `insert into notes (id) values (1)`); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("waiting: %v", err)
		}
		if err := exec(ctx, db, `insert into notes (id) values (2)`); errs.KindOf(err) != errs.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("late: %v", err)
		}
		close(release)
		wait.Wait()
		if err := exec(t.Context(), db, `insert into notes (id) values (3)`); err != nil {
			t.Error(err)
		}
	})
}

func TestSQLiteTransactionsComeInTurn(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Config{Dir: t.TempDir(), Sync: "normal"}, "fair", notes)
	const workers = 32
	counts := make([]int, workers)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			for ctx.Err() == nil {
				if err := exec(t.Context(), db, `insert into notes (id) values ($1)`, w*1_000_000+counts[w]); err != nil {
					t.Error(err)
					return
				}
				counts[w]++
			}
		})
	}
	wait.Wait()
	low, high := counts[0], counts[0]
	for _, n := range counts {
		low, high = min(low, n), max(high, n)
	}
	if low == 0 || high > 2*low+5 {
		t.Errorf("between %d and %d transactions a worker", low, high)
	}
}

func TestFullDiskIsUnavailableAndPasses(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Config{Dir: t.TempDir()}, "full", notes)
	ctx := t.Context()
	if err := exec(ctx, db, `pragma max_page_count = 20`); err != nil {
		t.Fatal(err)
	}
	err := exec(ctx, db, `insert into notes (id, body) values (1, $1)`, make([]byte, 1<<20))
	if errs.KindOf(err) != errs.Unavailable {
		t.Errorf("full: %v", err)
	}
	if err := exec(ctx, db, `pragma max_page_count = 100000`); err != nil {
		t.Fatal(err)
	}
	if err := exec(ctx, db, `insert into notes (id, body) values (1, $1)`, make([]byte, 1<<20)); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

func TestPostgresErrorsGetTheirKind(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Config{URL: config.Secret(storetest.Postgres(t))}, "kinds", notes)
	for code, want := range map[string]errs.Kind{
		"53100": errs.Unavailable, // disk full
		"53300": errs.Unavailable, // too many connections
		"58030": errs.Unavailable, // I/O error
		"57P01": errs.Unavailable, // shutting down
		"25006": errs.Unavailable, // standby
		"08006": errs.Unavailable, // connection failure
		"23514": errs.Internal,    // check violation
		"42P01": errs.Internal,    // no such table
	} {
		raise := fmt.Sprintf(`do $$ begin raise exception 'x' using errcode = '%s'; end $$`, code)
		if err := exec(t.Context(), db, raise); err == nil || errs.KindOf(err) != want {
			t.Errorf("%s: %v", code, err)
		}
	}
	if err := exec(t.Context(), db, `insert into notes (id, label) values (1, $1)`, "a\x00b"); errs.KindOf(err) != errs.Invalid {
		t.Errorf("zero byte: %v", err)
	}
	if err := exec(t.Context(), db, `select pg_terminate_backend(pg_backend_pid())`); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("terminated: %v", err)
	}
	if err := exec(t.Context(), db, `insert into notes (id) values (1)`); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestCollisionIsRunAgainAndThenUnavailable(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Config{URL: config.Secret(storetest.Postgres(t))}, "again", notes)
	for code, want := range map[string]int{"40001": 30, "40P01": 30, "23514": 1} {
		runs := 0
		err := db.Tx(t.Context(), func(tx store.Querier) error {
			runs++
			_, err := tx.ExecContext(t.Context(), fmt.Sprintf(`do $$ begin raise exception 'x' using errcode = '%s'; end $$`, code))
			return err
		})
		if runs != want || (errs.KindOf(err) == errs.Unavailable) != (want > 1) {
			t.Errorf("%s: ran %d times: %v", code, runs, err)
		}
	}
}

func TestOpenRefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	occupied := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(occupied, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		cfg  store.Config
		want errs.Kind
	}{
		{"../x", store.Config{Dir: t.TempDir()}, errs.Invalid},
		{"pg_x", store.Config{Dir: t.TempDir()}, errs.Invalid},
		{"x", store.Config{Dir: t.TempDir(), Sync: "off"}, errs.Invalid},
		{"x", store.Config{Dir: occupied}, errs.Unavailable},
		{"x", store.Config{URL: "postgres://u:hunter2@127.0.0.1:bad/x"}, errs.Invalid},
		{"x", store.Config{URL: "postgres://u:hunter2@127.0.0.1:1/x?sslmode=disable"}, errs.Unavailable},
	} {
		_, err := store.Open(t.Context(), c.cfg, c.name, nil)
		if errs.KindOf(err) != c.want || err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s %+v: %v", c.name, c.cfg, err)
		}
	}
}

func TestSQLiteFilesAreTheOwnersOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "odd ?#%41 name")
	db := storetest.Open(t, store.Config{Dir: dir}, "files", notes)
	if err := exec(t.Context(), db, `insert into notes (id) values (1)`); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || info.Mode().Perm() != 0o600 || !strings.HasPrefix(entry.Name(), "files.db") {
			t.Errorf("%s: %v, %v", entry.Name(), info.Mode(), err)
		}
	}
}

func TestSQLiteSettingsHoldOnEveryConnection(t *testing.T) {
	t.Parallel()
	for sync, want := range map[string]string{"": "2", "full": "2", "normal": "1"} {
		db := storetest.Open(t, store.Config{Dir: t.TempDir(), Sync: sync}, "settings", nil)
		for pragma, want := range map[string]string{
			"synchronous": want, "journal_mode": "wal", "secure_delete": "1", "foreign_keys": "1",
			"temp_store": "2", "busy_timeout": "5000", "mmap_size": "0",
		} {
			var got string
			if err := db.Tx(t.Context(), func(tx store.Querier) error {
				return tx.QueryRowContext(t.Context(), `pragma `+pragma).Scan(&got)
			}); err != nil || got != want {
				t.Errorf("%s = %s, %v", pragma, got, err)
			}
		}
		if n := count(t, db, `pragma query_only`); n != 1 {
			t.Error("a reader may write")
		}
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rows, cols, first int
		want              string
	}{{1, 1, 1, "($1)"}, {2, 2, 1, "($1,$2),($3,$4)"}, {2, 1, 9, "($9),($10)"}, {0, 3, 1, ""}} {
		for range 2 {
			if got := store.Values(c.rows, c.cols, c.first); got != c.want {
				t.Errorf("%v: %s", c, got)
			}
		}
	}
}

func TestKnownValuesCostNothing(t *testing.T) { // not parallel: it counts allocations
	if n := testing.AllocsPerRun(100, func() { store.Values(100, 10, 1) }); n != 0 {
		t.Errorf("%v allocations for a known text", n)
	}
}
