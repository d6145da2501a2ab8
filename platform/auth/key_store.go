package auth

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

// Where a key came from.
const (
	fromAPI    = "api"
	fromAdmin  = "admin"  // made by EnsureAdmin
	fromPreset = "preset" // APP_ADMIN_KEY
)

// row is a key as it is stored.
type row struct {
	key      Key
	source   string
	hash     [sha256.Size]byte
	oldHash  [sha256.Size]byte
	oldUntil time.Time
	signing  []byte // sealed
}

const columns = `id, name, scopes, app, origins, source, hash, old_hash, old_until, signing, created_at, expires_at, last_used_at, revoked_at`

func scanRow(scan func(...any) error) (row, error) {
	var r row
	var scopes, origins string
	var hash, oldHash []byte
	var oldUntil, created, expires, used, revoked store.Micros
	k := &r.key
	err := scan(&k.ID, &k.Name, &scopes, &k.App, &origins, &r.source, &hash, &oldHash, &oldUntil, &r.signing, &created, &expires, &used, &revoked)
	if err != nil {
		return row{}, err
	}
	if len(hash) != len(r.hash) || len(oldHash) != len(r.oldHash) {
		return row{}, fmt.Errorf("key %s: stored hash of %d and %d bytes", k.ID, len(hash), len(oldHash))
	}
	copy(r.hash[:], hash)
	copy(r.oldHash[:], oldHash)
	k.Scopes, k.Origins = strings.Fields(scopes), strings.Fields(origins)
	k.Signed = len(r.signing) > 0
	r.oldUntil, k.CreatedAt = oldUntil.Time(), created.Time()
	k.ExpiresAt, k.LastUsedAt, k.RevokedAt = optional(expires), optional(used), optional(revoked)
	return r, nil
}

func optional(m store.Micros) *time.Time {
	if m == 0 {
		return nil
	}
	t := m.Time()
	return &t
}

func micros(t *time.Time) int64 {
	if t == nil {
		return 0
	}
	return int64(store.MicrosOf(*t))
}

// selectKey gives a key; errs.NotFound if there is none.
func selectKey(ctx context.Context, q store.Querier, id string) (row, error) {
	if !validID(id) {
		return row{}, errs.New(errs.NotFound, "there is no such key")
	}
	r, err := scanRow(q.QueryRowContext(ctx, `select `+columns+` from auth_key where id = $1`, id).Scan)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return row{}, errs.New(errs.NotFound, "there is no key %q", id)
	case err != nil:
		return row{}, errs.Wrap(errs.Unavailable, err, "read key %s", id)
	}
	return r, nil
}

func selectKeys(ctx context.Context, q store.Querier, after string, limit int) ([]Key, error) {
	query, args := `select `+columns+` from auth_key order by created_at, id limit $1`, []any{limit}
	if after != "" {
		query = `select ` + columns + ` from auth_key where (created_at, id) > (select created_at, id from auth_key where id = $2) order by created_at, id limit $1`
		args = append(args, after)
	}
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	defer rows.Close()
	keys := []Key{}
	for rows.Next() {
		r, err := scanRow(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("list keys: %w", err)
		}
		keys = append(keys, r.key)
	}
	return keys, errs.Wrap(errs.Unavailable, errors.Join(rows.Err(), rows.Close()), "list keys")
}

func insertKey(ctx context.Context, tx store.Querier, r row) error {
	k := r.key
	if r.signing == nil {
		r.signing = []byte{}
	}
	_, err := tx.ExecContext(ctx, `insert into auth_key (`+columns+`) values ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10, $11, 0, 0)`,
		k.ID, k.Name, strings.Join(k.Scopes, " "), k.App, strings.Join(k.Origins, " "), r.source,
		r.hash[:], r.oldHash[:], r.signing, int64(store.MicrosOf(k.CreatedAt)), micros(k.ExpiresAt))
	return err
}
