package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"switchboard/platform/errs"
)

// IsUnique tells whether err is a collision with a unique index or a primary key.
func IsUnique(err error) bool {
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		switch lite.Code() {
		case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID:
			return true
		}
	}
	return pgCode(err) == "23505"
}

// IsNotFound tells whether err says that a query for one row found none.
func IsNotFound(err error) bool { return errors.Is(err, sql.ErrNoRows) }

func pgCode(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// collided tells whether the transaction failed only because of what else was
// going on, and was rolled back: it may be run again.
func collided(err error) bool {
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		code := lite.Code() & 0xff
		return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
	}
	switch pgCode(err) {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock not available
		return true
	case "0A000": // another instance migrated a table that a prepared statement reads
		return strings.Contains(err.Error(), "cached plan")
	}
	return false
}

// classify gives an error of the engine its kind, and leaves all others alone.
func classify(err error) error {
	var known *errs.Error
	switch {
	case err == nil, err == io.EOF, errors.As(err, &known):
		return err
	case unavailable(err):
		return errs.Wrap(errs.Unavailable, err, "database unavailable")
	case pgCode(err) == "22021":
		// SQLite keeps a zero byte in a text, PostgreSQL never will.
		return errs.Wrap(errs.Invalid, err, "text that cannot be stored")
	}
	return err
}

func unavailable(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, sql.ErrConnDone) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ENOSPC) {
		return true
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		switch lite.Code() & 0xff {
		case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM,
			sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT:
			return true
		}
		return false
	}
	if code := pgCode(err); code != "" {
		switch code[:2] {
		case "08", "53", "58": // connection, out of disk, memory or connections, I/O
			return true
		}
		switch code {
		case "57014", "57P01", "57P02", "57P03", "57P05", // cancelled, shut down, crashed, starting, idle too long
			"25006", "25P03", "25P04", // a standby; time-outs
			"40001", "40P01", "55P03":
			return true
		}
		// A refused log-in is wrapped by the connection error below: it may be
		// a password that is just being changed.
	}
	var connect *pgconn.ConnectError
	var network net.Error
	if errors.As(err, &connect) || errors.As(err, &network) {
		return true
	}
	text := err.Error() // neither has a value to compare with
	return text == "sql: database is closed" || strings.Contains(text, "conn closed")
}
