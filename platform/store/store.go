package store

import (
	"context"
	"database/sql"
	"io/fs"
	"regexp"
	"strings"

	"golang.org/x/sync/semaphore"

	"switchboard/platform/config"
	"switchboard/platform/errs"
)

// Config says where the databases of a product are.
type Config struct {
	// Dir is the folder of the SQLite files; it is made if absent.
	Dir string `key:"dir" doc:"Folder of the SQLite files."`
	// URL names a PostgreSQL database to use instead of SQLite files. Its
	// parameter pool_max_conns is the number of connections per module (6).
	URL config.Secret `key:"url" secret:"true" doc:"PostgreSQL to use instead of SQLite files, as postgres://user:password@host/database."`
	// Sync is "full" (the default: a commit is on disk when it returns) or
	// "normal" (faster; a power cut may take the last commits, never part of one).
	Sync string `key:"sync" default:"full" enum:"full,normal" doc:"full: a commit is on disk when it returns; normal: a power cut may take the last commits."`
}

// Engine is the kind of database behind a DB.
type Engine int

// The engines.
const (
	SQLite Engine = iota
	Postgres
)

// String gives "sqlite" or "postgres".
func (e Engine) String() string {
	if e == Postgres {
		return "postgres"
	}
	return "sqlite"
}

// Querier runs statements: a DB's readers, or an open transaction. Its methods
// are those of database/sql. Rows must be closed before the next statement of
// the same transaction.
type Querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// DB is one module's open database. It is safe for concurrent use.
type DB struct {
	name   string
	engine Engine
	path   string // SQLite: the file

	writer *sql.DB // SQLite: a pool of one connection; PostgreSQL: the pool
	reader *sql.DB // SQLite: query_only connections; PostgreSQL: the same pool

	// turns lets as many transactions write at once as there are connections,
	// in the order they asked; database/sql would pick one at random.
	turns *semaphore.Weighted
	size  int64
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)

// Open opens the database of one module, makes it if it does not exist, and
// applies the pending migrations; migrations may be nil. name is lowercase
// letters, digits and underscores. The error is Invalid for a bad setting,
// Conflict for migrations that do not fit the database, Unavailable if the
// database cannot be reached now.
func Open(ctx context.Context, cfg Config, name string, migrations fs.FS) (*DB, error) {
	if err := cfg.check(name); err != nil {
		return nil, err
	}
	if cfg.URL != "" {
		return openPostgres(ctx, cfg, name, migrations)
	}
	return openSQLite(ctx, cfg, name, migrations)
}

// check tells whether a database of that name can be opened at all.
func (cfg *Config) check(name string) error {
	if !validName.MatchString(name) || strings.HasPrefix(name, "pg_") {
		return errs.New(errs.Invalid, "store: %q cannot name a database", name)
	}
	if cfg.Sync != "" && cfg.Sync != "full" && cfg.Sync != "normal" {
		return errs.New(errs.Invalid, "store: sync must be full or normal, not %q", cfg.Sync)
	}
	return nil
}

// Name gives the name the database was opened with.
func (db *DB) Name() string { return db.name }

// Engine tells which engine is behind the database.
func (db *DB) Engine() Engine { return db.engine }

// Ping tells whether the database answers; the error is Unavailable if not.
func (db *DB) Ping(ctx context.Context) error {
	var one int
	return classify(db.reader.QueryRowContext(ctx, `select 1`).Scan(&one))
}

// Close waits for running statements and closes every connection.
func (db *DB) Close() error {
	err := db.reader.Close()
	if db.writer != db.reader {
		// Last, because the last connection to leave a SQLite file empties its log.
		if werr := db.writer.Close(); err == nil {
			err = werr
		}
	}
	return err
}

// Read gives the readers: SQLite has a few connections that cannot write,
// PostgreSQL the pool. Statements run apart from each other; use ReadTx where
// several must see the same state, and close the rows of one query before the
// next: there are few connections. ExecContext is refused.
func (db *DB) Read() Querier { return reader{db.reader} }

type reader struct{ pool *sql.DB }

func (r reader) ExecContext(context.Context, string, ...any) (sql.Result, error) {
	return nil, errs.New(errs.Invalid, "store: statements that write belong in Tx")
}

func (r reader) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	rows, err := r.pool.QueryContext(ctx, query, args...)
	return rows, classify(err)
}

func (r reader) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return r.pool.QueryRowContext(ctx, query, args...)
}
