package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"switchboard/platform/errs"
)

const migrationTable = `create table if not exists schema_migrations (
	version bigint primary key,
	name text not null,
	checksum text not null,
	applied_at bigint not null
)`

type migration struct {
	version  int64
	name     string // without the engine's suffix
	checksum string
	text     string
}

var migrationFile = regexp.MustCompile(`^(\d{4})_([a-z0-9_]+)(\.sqlite|\.postgres)?\.sql$`)

// loadMigrations reads the files of one engine in order of their versions.
func loadMigrations(fsys fs.FS, engine Engine) ([]migration, error) {
	if fsys == nil {
		return nil, nil
	}
	entries, err := fs.ReadDir(fsys, "migrations")
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "list migrations")
	}
	var list []migration
	engines := map[string]int{} // of a version: 1 for SQLite, 2 for PostgreSQL
	for _, entry := range entries {
		part := migrationFile.FindStringSubmatch(entry.Name())
		if part == nil {
			return nil, errs.New(errs.Invalid, "migration %s: want a name like 0001_calls.sql, 0001_calls.sqlite.sql or 0001_calls.postgres.sql", entry.Name())
		}
		serves := map[string]int{"": 3, ".sqlite": 1, ".postgres": 2}[part[3]]
		if engines[part[1]]&serves != 0 {
			return nil, errs.New(errs.Invalid, "migration %s: there is another file with number %s", entry.Name(), part[1])
		}
		engines[part[1]] |= serves
		if serves&(1<<engine) == 0 {
			continue
		}
		raw, err := fs.ReadFile(fsys, "migrations/"+entry.Name())
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "read migration %s", entry.Name())
		}
		version, _ := strconv.ParseInt(part[1], 10, 64)
		text := strings.ReplaceAll(string(raw), "\r\n", "\n") // as a checkout may have it
		sum := sha256.Sum256([]byte(text))
		list = append(list, migration{version, part[1] + "_" + part[2], hex.EncodeToString(sum[:]), text})
	}
	for number, serves := range engines {
		if serves != 3 {
			return nil, errs.New(errs.Invalid, "migration %s has a file for one engine only", number)
		}
	}
	slices.SortFunc(list, func(a, b migration) int { return cmp.Compare(a.version, b.version) })
	return list, nil
}

// migrate applies what is pending in one transaction: either the database is
// as new as the program or it is as it was.
func migrate(ctx context.Context, pool *sql.DB, engine Engine, name string, fsys fs.FS) error {
	list, err := loadMigrations(fsys, engine)
	if err != nil {
		return errs.Wrap(errs.KindOf(err), err, "database %s", name)
	}
	tx, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "open database %s", name)
	}
	defer func() { _ = tx.Rollback() }()
	err = func() error {
		if engine == Postgres {
			if err := prepareSchema(ctx, tx, name); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, migrationTable); err != nil {
			return err
		}
		if err := applyMigrations(ctx, tx, list); err != nil {
			return err
		}
		return tx.Commit()
	}()
	if err == nil {
		return nil
	}
	err = classify(err)
	return errs.Wrap(errs.KindOf(err), err, "migrate database %s", name)
}

// Pending gives the names of the migrations that Open would apply to a database,
// in order: all of them where there is no database yet. It changes nothing. Its
// errors are those of Open.
func Pending(ctx context.Context, cfg Config, name string, migrations fs.FS) (pending []string, err error) {
	if err := cfg.check(name); err != nil {
		return nil, err
	}
	engine := SQLite
	if cfg.URL != "" {
		engine = Postgres
	}
	list, err := loadMigrations(migrations, engine)
	if err != nil {
		return nil, errs.Wrap(errs.KindOf(err), err, "database %s", name)
	}
	last, err := lastApplied(ctx, cfg, engine, name, list)
	if err != nil {
		err = classify(err)
		return nil, errs.Wrap(errs.KindOf(err), err, "open database %s", name)
	}
	for _, m := range list {
		if m.version > last {
			pending = append(pending, m.name)
		}
	}
	return pending, nil
}

// lastApplied gives the version of a database, 0 if it has none, and makes
// nothing.
func lastApplied(ctx context.Context, cfg Config, engine Engine, name string, list []migration) (last int64, err error) {
	var pool *sql.DB
	there := `select count(*) from sqlite_master where type = 'table' and name = 'schema_migrations'`
	if engine == Postgres {
		settings, _, err := postgresSettings(cfg, name)
		if err != nil {
			return 0, err
		}
		pool = sql.OpenDB(connector{stdlib.GetConnector(*settings), false})
		there = `select count(*) from pg_tables where schemaname = current_schema() and tablename = 'schema_migrations'`
	} else {
		path := filepath.Join(cfg.Dir, name+".db")
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		if pool, err = poolSQLite(path, "deferred", "busy_timeout(5000)", "query_only(1)"); err != nil {
			return 0, err
		}
	}
	defer pool.Close()
	tx, err := pool.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }()
	tables := 0
	if err := tx.QueryRowContext(ctx, there).Scan(&tables); err != nil || tables == 0 {
		return 0, err
	}
	return checkApplied(ctx, tx, list)
}

func applyMigrations(ctx context.Context, tx *sql.Tx, list []migration) error {
	last, err := checkApplied(ctx, tx, list)
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.version <= last {
			continue
		}
		if _, err := tx.ExecContext(ctx, m.text); err != nil {
			return errs.Wrap(errs.KindOf(err), err, "migration %s", m.name)
		}
		if _, err := tx.ExecContext(ctx, `insert into schema_migrations (version, name, checksum, applied_at) values ($1, $2, $3, $4)`,
			m.version, m.name, m.checksum, int64(MicrosOf(time.Now()))); err != nil {
			return err
		}
	}
	return nil
}

// checkApplied compares what was applied with the files and gives the last
// applied version.
func checkApplied(ctx context.Context, tx *sql.Tx, list []migration) (last int64, err error) {
	known := map[int64]migration{}
	for _, m := range list {
		known[m.version] = m
	}
	rows, err := tx.QueryContext(ctx, `select version, name, checksum from schema_migrations order by version`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	applied := map[int64]bool{}
	for rows.Next() {
		var was migration
		if err := rows.Scan(&was.version, &was.name, &was.checksum); err != nil {
			return 0, err
		}
		is, ok := known[was.version]
		switch {
		case !ok && (len(list) == 0 || was.version > list[len(list)-1].version):
			return 0, errs.New(errs.Conflict, "migration %s was applied by a newer program: use that one, or restore a backup", was.name)
		case !ok:
			return 0, errs.New(errs.Conflict, "migration %s was applied and its file is gone", was.name)
		case is.checksum != was.checksum:
			return 0, errs.New(errs.Conflict, "migration %s was changed after it was applied: undo that and add a new file", was.name)
		}
		applied[was.version], last = true, was.version
	}
	for _, m := range list {
		if m.version < last && !applied[m.version] {
			return 0, errs.New(errs.Conflict, "migration %s comes before one that is applied already: give it a higher number", m.name)
		}
	}
	return last, errors.Join(rows.Err(), rows.Close())
}
