package seal

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/store"
)

const (
	dropSubject = "seal.drop"
	sweepEvery  = 30 * time.Second

	stateLive   = 2 // both take one byte in SQLite, unlike 0 and 1, which take none
	stateErased = 3

	// chunk is the number of rows of one statement. SQLite looks each $n up by
	// name when it prepares, so that the cost of a statement grows with their square.
	chunk = 32
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations makes the tables of the database "keys".
func Migrations() fs.FS { return migrations }

// Keyring holds the keys of all people. It is safe for concurrent use, by any
// number of instances on one database.
type Keyring struct {
	db  *store.DB
	bus *bus.Bus // nil: one process alone
	now func() time.Time
	log *slog.Logger

	wrap    wrapper
	index   *indexer
	system  *Cipher
	scratch *sync.Pool
	cache   *cache
	maker   maker

	mu       sync.Mutex
	transits map[string]*Transit
}

// Open opens the keyring in db, which has this package's migrations. At the
// first opening it makes the index and system keys. It fails with errs.Invalid
// if the keys were made under another master. b may be nil where there is only
// one process. now is the clock; log hears of destroyed keys, by count.
func Open(ctx context.Context, db *store.DB, b *bus.Bus, master Master, now func() time.Time, log *slog.Logger) (*Keyring, error) {
	wrap, err := newWrapper(master)
	if err != nil {
		return nil, err
	}
	entries, err := newCache()
	if err != nil {
		return nil, err
	}
	k := &Keyring{
		db: db, bus: b, now: now, log: log,
		wrap: wrap, scratch: newScratch(), cache: entries,
		transits: map[string]*Transit{},
	}
	if err := k.loadOwnKeys(ctx, master); err != nil {
		return nil, err
	}
	// A process that died between the destruction of a key and the scrub left a mark.
	return k, k.scrub(ctx, false)
}

// loadOwnKeys reads the index and system keys, or makes them. All of it is one
// transaction that begins with an insert of the same row: of two instances that
// start at once, the second waits for the first and then finds its keys.
func (k *Keyring) loadOwnKeys(ctx context.Context, master Master) error {
	_, indexKey := k.wrap.newKey([]byte("index"))
	_, systemKey := k.wrap.newKey([]byte("system"))
	fresh := []struct {
		name  string
		value []byte
	}{{"fingerprint", []byte(master.Fingerprint())}, {"index_key", indexKey}, {"system_key", systemKey}}

	found := map[string][]byte{}
	err := k.db.Tx(ctx, func(tx store.Querier) error {
		clear(found)
		for _, row := range fresh {
			if _, err := tx.ExecContext(ctx, `insert into keys_meta (name, value) values ($1, $2) on conflict do nothing`, row.name, row.value); err != nil {
				return err
			}
		}
		return each(ctx, tx, `select name, value from keys_meta`, nil, func(scan func(...any) error) error {
			var name string
			var value []byte
			err := scan(&name, &value)
			found[name] = value
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("open the keyring: %w", err)
	}
	if have := string(found["fingerprint"]); have != master.Fingerprint() {
		return errs.New(errs.Invalid, "the master key is not the one these keys were made with (its fingerprint is %s, the keys want %s): set APP_MASTER_KEY, or put the right %s back", master.Fingerprint(), have, masterFile)
	}
	key, err := k.wrap.unwrap(found["index_key"], []byte("index"))
	if err != nil {
		return fmt.Errorf("open the index key: %w", err)
	}
	k.index = newIndexer(key)
	aead, err := k.wrap.open(found["system_key"], []byte("system"))
	if err != nil {
		return fmt.Errorf("open the system key: %w", err)
	}
	k.system = &Cipher{aead: aead, scratch: k.scratch}
	return nil
}

// System gives the cipher for secrets that are nobody's personal data: signing
// secrets, credentials of foreign systems, stored answers. It lives as long as
// the keyring and is never erased.
func (k *Keyring) System() *Cipher { return k.system }

// Index gives the blind index of a value. It costs no look-up.
func (k *Keyring) Index(kind, value string) Index { return k.index.index(kind, value) }

// Run listens for erasures of other instances, ages the cache, makes the next
// transit keys ahead of time and destroys the expired ones. It returns when ctx ends.
func (k *Keyring) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if k.bus != nil {
		group.Go(func() error {
			return k.bus.Listen(ctx, dropSubject, k.dropped)
		})
	}
	group.Go(func() error {
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			if err := k.Sweep(ctx); err != nil && ctx.Err() == nil {
				k.log.Warn("destroying expired transit keys will be tried again", "error", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// Sweep does now what Run does every half minute: it ages the cache, makes the
// transit keys that will soon be needed, destroys those that have expired, and
// repeats a scrub that was interrupted.
func (k *Keyring) Sweep(ctx context.Context) error {
	k.cache.age(k.now())
	return errors.Join(k.sweepTransits(ctx), k.scrub(ctx, false))
}

// dropped handles a broadcast: the ids of subjects, one after another.
func (k *Keyring) dropped(data []byte) {
	var subjects []Subject
	for ; len(data) >= len(Subject{}); data = data[len(Subject{}):] {
		subjects = append(subjects, Subject(data[:len(Subject{})]))
	}
	k.cache.drop(subjects...)
}

// drop takes subjects out of the caches of all instances; here at once.
func (k *Keyring) drop(subjects ...Subject) error {
	k.cache.drop(subjects...)
	if k.bus == nil || len(subjects) == 0 {
		return nil
	}
	const most = 10_000 // ids in one message
	var err error
	for len(subjects) > 0 {
		n := min(len(subjects), most)
		data := make([]byte, 0, n*len(Subject{}))
		for _, s := range subjects[:n] {
			data = append(data, s[:]...)
		}
		err = errors.Join(err, k.bus.Broadcast(dropSubject, data))
		subjects = subjects[n:]
	}
	return errs.Wrap(errs.Unavailable, err, "tell the other instances of destroyed keys")
}

// markScrub notes, in the transaction that destroys keys, that their old bytes
// may still lie in the write-ahead log.
func markScrub(ctx context.Context, tx store.Querier) error {
	var token [8]byte
	rand.Read(token[:])
	_, err := tx.ExecContext(ctx, `insert into keys_meta (name, value) values ('scrub', $1)
		on conflict (name) do update set value = excluded.value`, token[:])
	return err
}

// scrub drives destroyed bytes out of the files if a mark asks for it, or in
// any case when always is set.
func (k *Keyring) scrub(ctx context.Context, always bool) error {
	var token []byte
	err := k.db.Read().QueryRowContext(ctx, `select value from keys_meta where name = 'scrub'`).Scan(&token)
	if errors.Is(err, sql.ErrNoRows) {
		if !always {
			return nil
		}
	} else if err != nil {
		return errs.Wrap(errs.Unavailable, err, "look for an interrupted scrub")
	}
	if err := k.db.Scrub(ctx); err != nil {
		return fmt.Errorf("scrub destroyed keys: %w", err)
	}
	if token == nil {
		return nil
	}
	return k.db.Tx(ctx, func(tx store.Querier) error {
		// Only the mark that was seen: a later one has its scrub before it.
		_, err := tx.ExecContext(ctx, `delete from keys_meta where name = 'scrub' and value = $1`, token)
		return err
	})
}

// each runs a query and calls row for every row of its result.
func each(ctx context.Context, q store.Querier, query string, args []any, row func(scan func(...any) error) error) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return errs.Wrap(errs.Unavailable, errors.Join(rows.Err(), rows.Close()), "read rows")
}
