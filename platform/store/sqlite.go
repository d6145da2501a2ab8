package store

import (
	"context"
	"database/sql"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/semaphore"
	"modernc.org/sqlite"

	"switchboard/platform/errs"
)

const (
	maxReaders = 4
	// idleReader is how long an unused reader keeps its connection, whose page
	// cache is most of what an idle database costs.
	idleReader = 30 * time.Second
	// cacheSize is of one connection, in KiB. The driver's memory comes in powers
	// of two, and a page with its header is more than 4 KiB: it takes twice as
	// much. More made nothing faster that could be told from noise, for what a
	// cache lacks the kernel has.
	cacheSize = "cache_size(-1024)"
)

func openSQLite(ctx context.Context, cfg Config, name string, migrations fs.FS) (*DB, error) {
	path, err := createFile(cfg.Dir, name)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "open database %s", name)
	}
	synchronous := "synchronous(full)"
	if cfg.Sync == "normal" {
		synchronous = "synchronous(normal)"
	}
	db := &DB{name: name, engine: SQLite, path: path, turns: semaphore.NewWeighted(1), size: 1}
	db.writer, err = poolSQLite(path, "immediate", "busy_timeout(5000)", "journal_mode(wal)", synchronous,
		"foreign_keys(1)", "secure_delete(1)", "temp_store(memory)", cacheSize, "wal_autocheckpoint(4000)", "journal_size_limit(16777216)")
	if err != nil {
		return nil, err
	}
	// One connection: SQLite has one writer, and waiting for a turn here is
	// fair and cheap where waiting for its lock is neither.
	db.writer.SetMaxOpenConns(1)
	if err := migrate(ctx, db.writer, SQLite, name, migrations); err != nil {
		_ = db.writer.Close()
		return nil, err
	}
	db.reader, err = poolSQLite(path, "deferred", "busy_timeout(5000)", "query_only(1)", "temp_store(memory)", cacheSize)
	if err != nil {
		_ = db.writer.Close()
		return nil, err
	}
	db.reader.SetMaxOpenConns(maxReaders)
	db.reader.SetMaxIdleConns(maxReaders)
	db.reader.SetConnMaxIdleTime(idleReader)
	return db, nil
}

// createFile makes the file readable by its owner only; SQLite gives the log
// beside it the same mode.
func createFile(dir, name string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name+".db")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if os.IsExist(err) {
		return path, os.Chmod(path, 0o600)
	}
	if err != nil {
		return "", err
	}
	return path, syncFile(file)
}

// syncFile writes a new file, its entry in the folder too, to disk and closes it.
func syncFile(file *os.File) error {
	err := file.Sync()
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file.Name()))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func poolSQLite(path, lock string, pragmas ...string) (*sql.DB, error) {
	// The path is escaped as SQLite's own URI syntax has it: it may hold ? # %.
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + url.Values{"_txlock": {lock}, "_pragma": pragmas}.Encode()
	raw, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "open %s", path)
	}
	return sql.OpenDB(connector{raw, true}), nil
}
