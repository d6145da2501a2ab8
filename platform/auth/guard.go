package auth

import (
	"context"
	"crypto/subtle"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	dropSubject = "auth.drop"
	cacheAge    = 5 * time.Second
	cacheKeys   = 10_000
	flushEvery  = 10 * time.Second
	readTimeout = 5 * time.Second
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations makes the tables of the database "auth".
func Migrations() fs.FS { return migrations }

// Guard checks credentials and manages keys. It is safe for concurrent use, by
// any number of instances on one database.
type Guard struct {
	db   *store.DB
	ring *seal.Keyring
	bus  *bus.Bus // nil: one process alone
	now  func() time.Time
	log  *slog.Logger

	limit *limiter
	reads singleflight.Group
	used  sync.Map // key id → *atomic.Int64: last use that is not stored yet, in Micros

	mu    sync.Mutex
	gen   uint64 // grows at every drop, so that a read begun before it is not kept
	cache *simplelru.LRU[string, *entry]
}

// entry is what the cache knows of a key id. It does not change.
type entry struct {
	row       row
	principal *Principal
	used      *atomic.Int64
	loaded    time.Time
	absent    bool
}

// Open opens the guard on db, which has this package's migrations. b may be nil
// where there is only one process. now is the clock; log hears of admin keys
// made, never of secrets.
func Open(_ context.Context, db *store.DB, k *seal.Keyring, b *bus.Bus, cfg Config, now func() time.Time, log *slog.Logger) (*Guard, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	limit, err := newLimiter(cfg.FailedAttempts)
	if err != nil {
		return nil, err
	}
	cache, err := simplelru.NewLRU[string, *entry](cacheKeys, nil)
	if err != nil {
		return nil, err
	}
	return &Guard{db: db, ring: k, bus: b, now: now, log: log, limit: limit, cache: cache}, nil
}

// Run stores the times of last use every ten seconds and once at its end, and
// listens for changes that other instances made. It returns when ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if g.bus != nil {
		group.Go(func() error {
			return g.bus.Listen(ctx, dropSubject, func(id []byte) { g.forget(string(id)) })
		})
	}
	group.Go(func() error {
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := g.Flush(ctx); err != nil && ctx.Err() == nil {
					g.log.Warn("last use of keys will be stored later", "error", err)
				}
			case <-ctx.Done():
				last, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
				defer cancel()
				if err := g.Flush(last); err != nil {
					return fmt.Errorf("store the last use of keys: %w", err)
				}
				return nil
			}
		}
	})
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// Authenticate gives the caller of a credential. It fails with errs.Denied when
// the credential is missing, wrong, expired or revoked, with *LimitError (also
// Denied) when the address has sent too many wrong ones, and with
// errs.Unavailable when the database does not answer. remoteIP is the address
// of the client; "" counts as one address of its own.
//
// An address over its limit is still let in with a key that is known and right:
// such a key cannot be guessed, and many clients may share an address. A preset
// that was made up by a person is refused unseen.
func (g *Guard) Authenticate(ctx context.Context, credential, remoteIP string) (*Principal, error) {
	if credential == "" {
		return nil, errs.New(errs.Denied, "a key is needed")
	}
	now := g.now()
	id := idOf(credential)
	e, fresh := g.cached(id, now)
	if e == nil || e.guessable() {
		if over := g.limit.exceeded(remoteIP, now); over != nil {
			return nil, over
		}
	}
	if !fresh {
		var err error
		if e, err = g.read(ctx, id, now); err != nil {
			return nil, err
		}
	}
	if !e.matches(credential, now) {
		if over := g.limit.exceeded(remoteIP, now); over != nil {
			return nil, over
		}
		g.limit.failed(remoteIP, now)
		return nil, errs.New(errs.Denied, "the key is not valid")
	}
	switch k := &e.row.key; {
	case k.RevokedAt != nil:
		return nil, errs.New(errs.Denied, "the key has been revoked")
	case k.ExpiresAt != nil && !now.Before(*k.ExpiresAt):
		return nil, errs.New(errs.Denied, "the key has expired")
	}
	e.used.Store(int64(store.MicrosOf(now)))
	return e.principal, nil
}

// matches compares in a time that does not depend on where the hashes differ.
func (e *entry) matches(credential string, now time.Time) bool {
	hash := hashOf(credential)
	right := subtle.ConstantTimeCompare(hash[:], e.row.hash[:])
	old := subtle.ConstantTimeCompare(hash[:], e.row.oldHash[:])
	if !now.Before(e.row.oldUntil) {
		old = 0
	}
	return right|old == 1 && !e.absent
}

// guessable tells whether wrong credentials for this id must not be tried
// without end: there is no key, or a person has made its secret up.
func (e *entry) guessable() bool { return e.absent || e.row.source == fromPreset }

// cached gives what is remembered of an id, nil if nothing, and whether it is
// young enough to be believed.
func (g *Guard) cached(id string, now time.Time) (e *entry, fresh bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e, ok := g.cache.Get(id)
	if !ok {
		return nil, false
	}
	age := now.Sub(e.loaded)
	return e, age >= 0 && age < cacheAge
}

// read reads a key for the cache; concurrent calls for one id share a query.
func (g *Guard) read(ctx context.Context, id string, now time.Time) (*entry, error) {
	g.mu.Lock()
	gen := g.gen
	g.mu.Unlock()
	// The generation is part of the name: whoever comes after a change must
	// not join a query from before it.
	got, err, _ := g.reads.Do(fmt.Sprint(gen, " ", id), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		r, err := selectKey(ctx, g.db.Read(), id)
		e := &entry{row: r, loaded: now}
		switch {
		case errs.KindOf(err) == errs.NotFound:
			e.absent = true
		case err != nil:
			return nil, err
		default:
			e.principal = newPrincipal(r.key)
			counter, _ := g.used.LoadOrStore(id, new(atomic.Int64))
			e.used = counter.(*atomic.Int64)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.gen == gen {
			g.cache.Add(id, e)
		}
		return e, nil
	})
	if err != nil {
		return nil, err
	}
	return got.(*entry), nil
}

// forget drops what is cached of a key.
func (g *Guard) forget(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gen++
	g.cache.Remove(id)
}

// changed drops a key from the caches of all instances; here at once. A
// broadcast that fails is only logged: the others drop it within five seconds.
func (g *Guard) changed(id string) {
	g.forget(id)
	if g.bus == nil {
		return
	}
	if err := g.bus.Broadcast(dropSubject, []byte(id)); err != nil {
		g.log.Warn("other instances learn of a changed key a few seconds late", "key", id, "error", err)
	}
}

// Flush stores the times of last use now.
func (g *Guard) Flush(ctx context.Context) error {
	type use struct {
		id      string
		at      int64
		counter *atomic.Int64
	}
	var uses []use
	g.used.Range(func(id, counter any) bool {
		c := counter.(*atomic.Int64)
		if at := c.Swap(0); at != 0 {
			uses = append(uses, use{id.(string), at, c})
		}
		return true
	})
	if len(uses) == 0 {
		return nil
	}
	err := g.db.Tx(ctx, func(tx store.Querier) error {
		for _, u := range uses {
			if _, err := tx.ExecContext(ctx, `update auth_key set last_used_at = $1 where id = $2 and last_used_at < $1`, u.at, u.id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		for _, u := range uses {
			u.counter.CompareAndSwap(0, u.at) // unless used again meanwhile
		}
	}
	return err
}
