package store

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"

	"switchboard/platform/errs"
)

// Bounds of the retries of one transaction.
const (
	maxAttempts  = 30
	freeAttempts = 3 // after these it runs while no other of this process does
	maxRetrying  = 15 * time.Second
	firstPause   = 2 * time.Millisecond
	longPause    = 200 * time.Millisecond
)

// Tx runs fn in one write transaction and commits if fn returns nil; an error
// or a panic of fn rolls back. If the database is busy or the transaction
// collided with another, it is rolled back and fn runs again, up to 30 times
// with growing, random pauses, some seconds in all; after that the error is
// Unavailable. fn must therefore set, not add to, what it hands out. It must use
// only tx: a Read or a second Tx inside may wait for itself.
func (db *DB) Tx(ctx context.Context, fn func(tx Querier) error) error {
	opts := &sql.TxOptions{}
	if db.engine == Postgres {
		opts.Isolation = sql.LevelSerializable
	}
	return db.retry(ctx, func(n int) error {
		share := int64(1)
		if n > freeAttempts {
			share = db.size
		}
		if err := db.turns.Acquire(ctx, share); err != nil {
			return err
		}
		defer db.turns.Release(share)
		return transact(ctx, db.writer, opts, fn)
	})
}

// ReadTx runs fn on one unchanging state of the database. Long ones keep
// SQLite's log from being emptied.
func (db *DB) ReadTx(ctx context.Context, fn func(tx Querier) error) error {
	opts := &sql.TxOptions{ReadOnly: true}
	if db.engine == Postgres {
		opts.Isolation = sql.LevelRepeatableRead
	}
	return db.retry(ctx, func(int) error { return transact(ctx, db.reader, opts, fn) })
}

func transact(ctx context.Context, pool *sql.DB, opts *sql.TxOptions, fn func(tx Querier) error) error {
	tx, err := pool.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	// Also for a panic and for runtime.Goexit; after a commit it does nothing.
	defer func() { _ = tx.Rollback() }()
	if err = fn(tx); err == nil {
		err = tx.Commit()
	}
	if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
		return ctx.Err() // database/sql rolled back when ctx ended
	}
	return err
}

func (db *DB) retry(ctx context.Context, attempt func(n int) error) error {
	start, pause := time.Now(), firstPause
	for n := 1; ; n++ {
		err := attempt(n)
		if err == nil {
			return nil
		}
		if !collided(err) {
			return classify(err)
		}
		if n == maxAttempts || time.Since(start) > maxRetrying {
			return errs.Wrap(errs.Unavailable, err, "database %s still busy after %d attempts", db.name, n)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
			return classify(ctx.Err())
		}
		pause = min(2*pause, longPause)
	}
}
