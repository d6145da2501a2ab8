package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"switchboard/platform/errs"
)

// Bounds of Scrub's wait for readers that hold the log of a SQLite file. It
// holds the writer only while it tries.
const (
	maxScrub   = 30 * time.Second
	scrubPause = 50 * time.Millisecond
)

// Snapshot writes a consistent copy of a SQLite database to a new file at
// path, mode 0600, while the database is in use. The copy holds nothing that
// was deleted. A file that exists is refused as Conflict. On PostgreSQL it is
// Invalid: pg_dump does that.
func (db *DB) Snapshot(ctx context.Context, path string) error {
	if db.engine == Postgres {
		return errs.New(errs.Invalid, "database %s is on PostgreSQL: use pg_dump", db.name)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return errs.Wrap(errs.Invalid, err, "snapshot of database %s", db.name)
	}
	// SQLite fills an empty file, so the copy never has a wider mode.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if os.IsExist(err) {
		return errs.New(errs.Conflict, "snapshot of database %s: %s exists", db.name, path)
	}
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "snapshot of database %s", db.name)
	}
	err = db.copyTo(ctx, path)
	if serr := syncFile(file); err == nil && serr != nil {
		err = errs.Wrap(errs.Unavailable, serr, "snapshot of database %s", db.name)
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

func (db *DB) copyTo(ctx context.Context, path string) error {
	// Readers may not write, not even another file, and the writer must not wait.
	pool, err := poolSQLite(db.path, "deferred", "busy_timeout(5000)", "cache_size(-2048)")
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.ExecContext(ctx, `vacuum into $1`, path); err != nil {
		return errs.Wrap(errs.KindOf(err), err, "snapshot of database %s", db.name)
	}
	return nil
}

// Scrub removes from disk what was deleted before. On SQLite it moves the log
// into the file and empties it; deleted content in the file was overwritten
// when it was deleted. It waits up to 30 s for readers that need the log and
// is Unavailable after that. On PostgreSQL it vacuums the tables of the schema.
// What must not be readable at all was sealed: see platform/seal.
func (db *DB) Scrub(ctx context.Context) error {
	if db.engine == Postgres {
		return db.vacuum(ctx)
	}
	for start := time.Now(); ; {
		busy, err := db.checkpoint(ctx)
		if err == nil && !busy {
			return nil
		}
		if err != nil && !collided(err) {
			return classify(err)
		}
		if time.Since(start) > maxScrub {
			return errs.New(errs.Unavailable, "database %s: a long read keeps the log from being emptied", db.name)
		}
		select {
		case <-time.After(scrubPause):
		case <-ctx.Done():
			return classify(ctx.Err())
		}
	}
}

// checkpoint empties the log once, and tells if readers were in the way.
func (db *DB) checkpoint(ctx context.Context) (busy bool, err error) {
	if err := db.turns.Acquire(ctx, db.size); err != nil {
		return false, err
	}
	defer db.turns.Release(db.size)
	conn, err := db.writer.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	// Writers wait meanwhile: better to come again than to stand in the way.
	if _, err := conn.ExecContext(ctx, `pragma busy_timeout = 20`); err != nil {
		return false, err
	}
	var log, moved int
	err = conn.QueryRowContext(ctx, `pragma wal_checkpoint(truncate)`).Scan(&busy, &log, &moved)
	if _, rerr := conn.ExecContext(context.WithoutCancel(ctx), `pragma busy_timeout = 5000`); err == nil {
		err = rerr
	}
	return busy, err
}

func (db *DB) vacuum(ctx context.Context) error {
	tables, err := db.tables(ctx)
	if err != nil || len(tables) == 0 {
		return err
	}
	_, err = db.writer.ExecContext(ctx, fmt.Sprintf(`vacuum %s`, strings.Join(tables, ", ")))
	return classify(err)
}

func (db *DB) tables(ctx context.Context) (list []string, err error) {
	rows, err := db.Read().QueryContext(ctx, `select tablename from pg_tables where schemaname = current_schema() order by tablename`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var table sql.NullString
		if err := rows.Scan(&table); err != nil {
			return nil, err
		}
		list = append(list, pgx.Identifier{db.name, table.String}.Sanitize())
	}
	return list, rows.Err()
}
