package seal

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

const (
	transitV1       = 2 // first byte of data sealed in transit
	transitIDSize   = 8 // bytes of a key's id, in the clear after it
	transitOverhead = 1 + transitIDSize + nonceSize + tagSize

	// transitTimeout bounds the reading or making of a key inside Seal and Open.
	transitTimeout = 10 * time.Second

	// longestPeriod keeps a period's messages far below the 2^32 for which
	// random nonces are good.
	longestPeriod = 24 * time.Hour
)

// ErrExpired says that the key of sealed data has been destroyed, because its
// retention has ended.
var ErrExpired = errs.New(errs.NotFound, "the retention of this data has ended")

// Transit seals data whose person is not known, under a key per period that is
// destroyed once the data's retention has passed. It is safe for concurrent use.
type Transit struct {
	ring   *Keyring
	scope  string
	keep   time.Duration
	period time.Duration

	current atomic.Pointer[transitKey]
	rotate  sync.Mutex // one goroutine makes a key, the others wait
	mu      sync.RWMutex
	keys    map[transitID]*transitKey
}

type transitID [transitIDSize]byte

type transitKey struct {
	id                  transitID
	start, end, expires time.Time
	aead                cipher.AEAD
	aad                 []byte
}

func (t *transitKey) holds(now time.Time) bool { return !now.Before(t.start) && now.Before(t.end) }

// Transit gives the sealer of a scope, such as "gateway.frames". Data sealed by
// it can be opened for at least keep and at most keep plus a period, which is
// keep/8, at most a day. Asking again for a scope gives the same Transit; with
// another keep it is errs.Invalid. Another keep after a restart counts for keys
// made from then on.
func (k *Keyring) Transit(ctx context.Context, scope string, keep time.Duration) (*Transit, error) {
	if scope == "" || keep < 8*time.Millisecond {
		return nil, errs.New(errs.Invalid, "transit %q: needs a scope and a time to keep, not %s", scope, keep)
	}
	k.mu.Lock()
	t, ok := k.transits[scope]
	if !ok {
		t = &Transit{
			ring: k, scope: scope, keep: keep,
			period: min(keep/8, longestPeriod).Truncate(time.Microsecond), // as times are stored
			keys:   map[transitID]*transitKey{},
		}
		k.transits[scope] = t
	}
	k.mu.Unlock()
	if t.keep != keep {
		return nil, errs.New(errs.Invalid, "transit %q keeps %s, not %s", scope, t.keep, keep)
	}
	_, err := t.keyFor(ctx, k.now())
	return t, err
}

// Seal gives the sealed form of plain, 37 bytes longer. It reads no database
// except where a period begins whose key Run has not made ahead of time; then
// it can fail with errs.Unavailable.
func (t *Transit) Seal(plain []byte) ([]byte, error) {
	key := t.current.Load()
	// A clock that was set back goes on with the newest key.
	if now := t.ring.now(); key == nil || !now.Before(key.end) {
		ctx, cancel := context.WithTimeout(context.Background(), transitTimeout)
		defer cancel()
		var err error
		if key, err = t.keyFor(ctx, now); err != nil {
			return nil, err
		}
	}
	out := make([]byte, 0, len(plain)+transitOverhead)
	out = append(out, transitV1)
	out = append(out, key.id[:]...)
	return key.aead.Seal(out, nil, plain, key.aad), nil
}

// Open gives the plain form of sealed. It fails with ErrExpired when the key
// has been destroyed, and otherwise when sealed is damaged or of another scope.
func (t *Transit) Open(sealed []byte) ([]byte, error) {
	if len(sealed) < transitOverhead || sealed[0] != transitV1 {
		return nil, errDamaged
	}
	id := transitID(sealed[1 : 1+transitIDSize])
	t.mu.RLock()
	key := t.keys[id]
	t.mu.RUnlock()
	if key == nil {
		ctx, cancel := context.WithTimeout(context.Background(), transitTimeout)
		defer cancel()
		var err error
		if key, err = t.read(ctx, `id = $1 and scope = $2`, id[:], t.scope); err != nil {
			return nil, err
		}
		if key == nil {
			return nil, ErrExpired
		}
	}
	if !t.ring.now().Before(key.expires) {
		return nil, ErrExpired
	}
	plain, err := key.aead.Open(nil, nil, sealed[1+transitIDSize:], key.aad)
	if err != nil {
		return nil, errDamaged
	}
	return plain, nil
}

// keyFor gives the key of the period that holds now, and makes it the current
// one. Instances agree on it: the first row of a period stays.
func (t *Transit) keyFor(ctx context.Context, now time.Time) (*transitKey, error) {
	t.rotate.Lock()
	defer t.rotate.Unlock()
	if key := t.current.Load(); key != nil && key.holds(now) {
		return key, nil
	}
	key, err := t.ensure(ctx, now)
	if err == nil {
		t.current.Store(key)
	}
	return key, err
}

// ensure finds or makes the key of the period that holds at.
func (t *Transit) ensure(ctx context.Context, at time.Time) (*transitKey, error) {
	length := t.period.Microseconds()
	start := int64(store.MicrosOf(at)) / length * length
	end := start + length
	expires := end + t.keep.Microseconds()
	t.mu.RLock()
	for _, key := range t.keys {
		// Not a key of another keep, which would live too short.
		if key.holds(at) && int64(store.MicrosOf(key.expires)) == expires {
			t.mu.RUnlock()
			return key, nil
		}
	}
	t.mu.RUnlock()

	find := func() (*transitKey, error) {
		return t.read(ctx, `scope = $1 and period_start = $2 and period_end = $3 and expires_at = $4`, t.scope, start, end, expires)
	}
	key, err := find()
	if err != nil || key != nil {
		return key, err
	}
	var id transitID
	rand.Read(id[:])
	secret, wrapped := t.ring.wrap.newKey(t.owner(id))
	clear(secret)
	err = t.ring.db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, `insert into keys_transit (id, scope, period_start, period_end, expires_at, wrapped)
			values ($1, $2, $3, $4, $5, $6) on conflict do nothing`, id[:], t.scope, start, end, expires, wrapped)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a transit key of %s: %w", t.scope, err)
	}
	if key, err = find(); err == nil && key == nil {
		err = errs.New(errs.Unavailable, "the transit key of %s vanished while it was made", t.scope)
	}
	return key, err
}

// read opens the stored key that the condition names, and keeps it in memory;
// nil if there is none.
func (t *Transit) read(ctx context.Context, condition string, args ...any) (*transitKey, error) {
	var id, wrapped []byte
	var start, end, expires store.Micros
	err := t.ring.db.Read().QueryRowContext(ctx, `select id, period_start, period_end, expires_at, wrapped from keys_transit where `+condition, args...).
		Scan(&id, &start, &end, &expires, &wrapped)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "read a transit key of %s", t.scope)
	}
	if len(id) != transitIDSize {
		return nil, fmt.Errorf("transit key of %s: id of %d bytes", t.scope, len(id))
	}
	key := &transitKey{id: transitID(id), start: start.Time(), end: end.Time(), expires: expires.Time()}
	key.aad = t.owner(key.id)
	if key.aead, err = t.ring.wrap.open(wrapped, key.aad); err != nil {
		return nil, fmt.Errorf("transit key of %s: %w", t.scope, err)
	}
	t.mu.Lock()
	t.keys[key.id] = key
	t.mu.Unlock()
	return key, nil
}

// owner binds keys and data to their scope.
func (t *Transit) owner(id transitID) []byte {
	return append(append([]byte("transit "), id[:]...), t.scope...)
}

// prepare makes the key of the next period when it is near, and lets go of
// expired ones.
func (t *Transit) prepare(ctx context.Context) error {
	now := t.ring.now()
	t.mu.Lock()
	for id, key := range t.keys {
		if !now.Before(key.expires) {
			delete(t.keys, id)
		}
	}
	t.mu.Unlock()
	ahead := max(t.period/4, min(2*sweepEvery, t.period))
	if _, err := t.ensure(ctx, now.Add(ahead)); err != nil {
		return err
	}
	_, err := t.keyFor(ctx, now)
	return err
}

// sweepTransits prepares every open transit and destroys expired keys, those
// of scopes that nobody has opened too.
func (k *Keyring) sweepTransits(ctx context.Context) error {
	k.mu.Lock()
	open := make([]*Transit, 0, len(k.transits))
	for _, t := range k.transits {
		open = append(open, t)
	}
	k.mu.Unlock()
	slices.SortFunc(open, func(a, b *Transit) int { return strings.Compare(a.scope, b.scope) })
	var failed error
	for _, t := range open {
		failed = errors.Join(failed, t.prepare(ctx))
	}

	now := int64(store.MicrosOf(k.now()))
	var expired int
	if err := k.db.Read().QueryRowContext(ctx, `select count(*) from keys_transit where expires_at <= $1`, now).Scan(&expired); err != nil {
		return errors.Join(failed, errs.Wrap(errs.Unavailable, err, "look for expired transit keys"))
	}
	if expired == 0 {
		return failed
	}
	err := k.db.Tx(ctx, func(tx store.Querier) error {
		// Zeroed first: a deleted row may leave its bytes in the page.
		if _, err := tx.ExecContext(ctx, `update keys_transit set wrapped = $1 where expires_at <= $2`, make([]byte, wrappedSize), now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `delete from keys_transit where expires_at <= $1`, now); err != nil {
			return err
		}
		return markScrub(ctx, tx)
	})
	if err != nil {
		return errors.Join(failed, fmt.Errorf("destroy expired transit keys: %w", err))
	}
	k.log.Info("destroyed expired transit keys", "keys", expired)
	return errors.Join(failed, k.scrub(ctx, false))
}
