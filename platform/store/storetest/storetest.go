package storetest

import (
	"context"
	"io/fs"
	"testing"
	"time"

	"switchboard/platform/config"
	"switchboard/platform/store"
)

// Each runs fn twice, as subtests "sqlite" and "postgres", each time with a
// fresh database named "test" to which the migrations were applied (nil means
// none). fn may call t.Parallel. The database is closed when the subtest ends.
func Each(t *testing.T, migrations fs.FS, fn func(t *testing.T, db *store.DB)) {
	t.Helper()
	EachConfig(t, func(t *testing.T, cfg store.Config) {
		fn(t, Open(t, cfg, "test", migrations))
	})
}

// EachConfig is Each for tests that open databases themselves: fn gets the
// settings of an empty place for them.
func EachConfig(t *testing.T, fn func(t *testing.T, cfg store.Config)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		fn(t, store.Config{Dir: t.TempDir()})
	})
	t.Run("postgres", func(t *testing.T) {
		fn(t, store.Config{URL: config.Secret(Postgres(t))})
	})
}

// Open opens a database that is closed when the test ends.
func Open(t testing.TB, cfg store.Config, name string, migrations fs.FS) *store.DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	db, err := store.Open(ctx, cfg, name, migrations)
	if err != nil {
		t.Fatalf("open database %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close database %s: %v", name, err)
		}
	})
	return db
}
