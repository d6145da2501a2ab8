package auth

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

const (
	listDefault = 50
	listMax     = 1000
	// maxOverlap is the longest time for which a rotated secret stays good.
	maxOverlap = 30 * 24 * time.Hour
	// signingContext is what signing secrets are sealed as.
	signingContext = "auth.signing.v1 "
)

// Create makes a key. Its credential and, for a Signed one, its signing secret
// are returned this once: the credential is stored as a hash, the signing
// secret sealed. The error is errs.Invalid with the fields at fault.
func (g *Guard) Create(ctx context.Context, n NewKey) (key Key, secret, signingSecret string, err error) {
	now := g.now()
	if n, err = n.validate(now); err != nil {
		return Key{}, "", "", err
	}
	r := row{source: fromAPI, key: Key{
		ID: newID(), Name: n.Name, Scopes: n.Scopes, App: n.App, Origins: n.Origins, Signed: n.Signed,
		CreatedAt: store.MicrosOf(now).Time(),
	}}
	if n.ExpiresAt != nil {
		r.key.ExpiresAt = optional(store.MicrosOf(*n.ExpiresAt))
	}
	if n.Signed {
		signingSecret = random(secretAlphabet, secretLength)
		r.signing = g.ring.System().Seal(nil, []byte(signingSecret), signingContext+r.key.ID)
	}
	secret = newCredential(r.key.ID)
	r.hash = hashOf(secret)
	if err := g.db.Tx(ctx, func(tx store.Querier) error { return insertKey(ctx, tx, r) }); err != nil {
		return Key{}, "", "", fmt.Errorf("create key: %w", err)
	}
	g.changed(r.key.ID) // an id that someone tried before may be cached as absent
	return r.key, secret, signingSecret, nil
}

// List gives keys, the oldest first, revoked ones included. after is the id of
// the last key of the page before, "" for the first; limit is 1 to 1,000, 0
// means 50.
func (g *Guard) List(ctx context.Context, after string, limit int) ([]Key, error) {
	if limit <= 0 {
		limit = listDefault
	}
	keys, err := selectKeys(ctx, g.db.Read(), after, min(limit, listMax))
	for i := range keys {
		g.addUse(&keys[i])
	}
	return keys, err
}

// Get gives one key; errs.NotFound if there is none.
func (g *Guard) Get(ctx context.Context, id string) (Key, error) {
	r, err := selectKey(ctx, g.db.Read(), id)
	g.addUse(&r.key)
	return r.key, err
}

// addUse adds the last use here that is not stored yet.
func (g *Guard) addUse(k *Key) {
	counter, ok := g.used.Load(k.ID)
	if !ok {
		return
	}
	if at := optional(store.Micros(counter.(interface{ Load() int64 }).Load())); at != nil && (k.LastUsedAt == nil || at.After(*k.LastUsedAt)) {
		k.LastUsedAt = at
	}
}

// Rotate gives a key a new secret. The one before stays good for overlap (0 to
// 30 days), one that is older ends at once. The signing secret stays. It fails
// with errs.Conflict for a key that is revoked, expired or preset.
func (g *Guard) Rotate(ctx context.Context, id string, overlap time.Duration) (key Key, secret string, err error) {
	if overlap < 0 || overlap > maxOverlap {
		return Key{}, "", errs.InvalidFields("the key cannot be rotated",
			errs.Field{Location: "body.overlap", Message: fmt.Sprintf("want 0 to %s", maxOverlap)})
	}
	secret = newCredential(id)
	hash := hashOf(secret)
	err = g.db.Tx(ctx, func(tx store.Querier) error {
		now := g.now()
		r, err := selectKey(ctx, tx, id)
		if err != nil {
			return err
		}
		switch {
		case r.source == fromPreset:
			return errs.New(errs.Conflict, "this key is preset by APP_ADMIN_KEY: change it there")
		case r.key.RevokedAt != nil:
			return errs.New(errs.Conflict, "key %s has been revoked", id)
		case r.key.ExpiresAt != nil && !now.Before(*r.key.ExpiresAt):
			return errs.New(errs.Conflict, "key %s has expired", id)
		}
		old, until := r.hash, int64(store.MicrosOf(now.Add(overlap)))
		if overlap == 0 {
			old, until = [sha256.Size]byte{}, 0
		}
		key = r.key
		_, err = tx.ExecContext(ctx, `update auth_key set hash = $1, old_hash = $2, old_until = $3 where id = $4`, hash[:], old[:], until, id)
		return err
	})
	if err != nil {
		return Key{}, "", wrapText(err, "rotate key")
	}
	g.changed(id)
	g.addUse(&key)
	return key, secret, nil
}

// Revoke ends a key for ever; here at once, in other instances as soon as the
// bus tells them. Revoking it again changes nothing.
func (g *Guard) Revoke(ctx context.Context, id string) error {
	err := g.db.Tx(ctx, func(tx store.Querier) error {
		if _, err := selectKey(ctx, tx, id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `update auth_key set revoked_at = $1, old_until = 0 where id = $2 and revoked_at = 0`, int64(store.MicrosOf(g.now())), id)
		return err
	})
	if err != nil {
		return wrapText(err, "revoke key")
	}
	g.changed(id)
	return nil
}

// SigningSecret gives the secret by which requests with a key are signed: the
// HMAC key is these bytes. It fails with errs.NotFound for a key without one.
func (g *Guard) SigningSecret(ctx context.Context, keyID string) ([]byte, error) {
	now := g.now()
	e, fresh := g.cached(keyID, now)
	if !fresh {
		var err error
		if e, err = g.read(ctx, keyID, now); err != nil {
			return nil, err
		}
	}
	if e.absent || len(e.row.signing) == 0 {
		return nil, errs.New(errs.NotFound, "key %q has no signing secret", keyID)
	}
	secret, err := g.ring.System().Open(nil, e.row.signing, signingContext+keyID)
	return secret, wrapText(err, "open a signing secret")
}

func wrapText(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
