package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"switchboard/platform/config"
	"switchboard/platform/errs"
	"switchboard/platform/store"
)

// adminFile is the name of the admin key's file inside the data directory.
const adminFile = "admin.key"

// EnsureAdmin makes sure that the file admin.key in dataDir holds a credential
// that works and has the scope admin, and gives its path. The file has mode
// 0600 and is on disk when this returns.
//
// With a preset, that is the credential: any 16 or more printable characters.
// One of another form than sb_<id>_<secret> has the id "admin". A preset of
// before stops working, also for other instances on the same database, and so
// does the key that the file held.
//
// Without one, the file of before stays if its credential still works; else a
// new key is made. On SQLite, where no other instance can use them, the admin
// keys made before it are revoked.
func (g *Guard) EnsureAdmin(ctx context.Context, dataDir string, preset config.Secret) (path string, err error) {
	path = filepath.Join(dataDir, adminFile)
	held, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the admin key: %w", err)
	}
	absent := err != nil
	has := strings.TrimSpace(string(held))
	want := strings.TrimSpace(preset.Reveal())
	if want != "" {
		err = g.ensurePreset(ctx, want, has)
	} else {
		want, err = g.ensureOwn(ctx, has, absent)
	}
	if err != nil {
		return "", fmt.Errorf("ensure the admin key: %w", err)
	}
	if has == want && private(path) {
		return path, nil
	}
	if err := writeFile(path, want+"\n"); err != nil {
		return "", fmt.Errorf("write the admin key: %w", err)
	}
	return path, nil
}

// ensurePreset stores a preset as the only one, and revokes the key of this
// instance that the file has held until now.
func (g *Guard) ensurePreset(ctx context.Context, preset, has string) error {
	if err := validPreset(preset); err != nil {
		return err
	}
	id := idOf(preset)
	hash := hashOf(preset)
	var touched []string
	err := g.db.Tx(ctx, func(tx store.Querier) error {
		touched = nil
		now := store.MicrosOf(g.now())
		r, err := selectKey(ctx, tx, id)
		switch {
		case errs.KindOf(err) == errs.NotFound:
			r := row{source: fromPreset, hash: hash, key: Key{ID: id, Name: "admin", Scopes: []string{Admin}, CreatedAt: now.Time()}}
			if err := insertKey(ctx, tx, r); err != nil {
				return err
			}
			touched = append(touched, id)
		case err != nil:
			return err
		case r.source != fromPreset && !(r.source == fromAdmin && subtle.ConstantTimeCompare(r.hash[:], hash[:]) == 1):
			return errs.New(errs.Conflict, "admin_key: its id %s is that of another key", id)
		case subtle.ConstantTimeCompare(r.hash[:], hash[:]) == 0 || r.key.RevokedAt != nil || r.source != fromPreset:
			if _, err := tx.ExecContext(ctx, `update auth_key set hash = $1, old_until = 0, revoked_at = 0, source = $2 where id = $3`, hash[:], fromPreset, id); err != nil {
				return err
			}
			touched = append(touched, id)
		}
		others, err := idsOf(ctx, tx, fromPreset, id)
		if err != nil {
			return err
		}
		own, err := selectKey(ctx, tx, idOf(has))
		if held := hashOf(has); err == nil && own.source == fromAdmin && own.key.RevokedAt == nil && subtle.ConstantTimeCompare(own.hash[:], held[:]) == 1 {
			others = append(others, own.key.ID)
		} else if err != nil && errs.KindOf(err) != errs.NotFound {
			return err
		}
		touched = append(touched, others...)
		return revokeAll(ctx, tx, others, now)
	})
	if err != nil {
		return err
	}
	for _, id := range touched {
		g.changed(id)
	}
	if len(touched) > 0 {
		g.log.Info("the admin key is the preset one", "key", id)
	}
	return nil
}

// ensureOwn gives the credential in the file if it works, else a new one.
func (g *Guard) ensureOwn(ctx context.Context, has string, absent bool) (string, error) {
	if has != "" {
		works, err := g.worksAsAdmin(ctx, has)
		if err != nil || works {
			return has, err
		}
	}
	now := store.MicrosOf(g.now())
	id := newID()
	credential := newCredential(id)
	var before []string
	err := g.db.Tx(ctx, func(tx store.Querier) (err error) {
		if before, err = idsOf(ctx, tx, fromAdmin, id); err != nil {
			return err
		}
		if g.db.Engine() == store.SQLite {
			if err := revokeAll(ctx, tx, before, now); err != nil {
				return err
			}
		}
		return insertKey(ctx, tx, row{source: fromAdmin, hash: hashOf(credential), key: Key{
			ID: id, Name: "admin", Scopes: []string{Admin}, CreatedAt: now.Time(),
		}})
	})
	if err != nil {
		return "", err
	}
	g.changed(id)
	for _, id := range before {
		g.changed(id)
	}
	switch {
	case !absent:
		g.log.Warn("the admin key file held no working key: a new one was issued", "key", id)
	case len(before) > 0 && g.db.Engine() == store.SQLite:
		g.log.Warn("the admin key file was gone: a new key was issued and the one before revoked", "key", id)
	case len(before) > 0:
		g.log.Info("an admin key was issued for this instance; others exist, revoke those that no instance uses", "key", id, "others", len(before))
	default:
		g.log.Info("an admin key was issued", "key", id)
	}
	return credential, nil
}

// worksAsAdmin asks the database, past cache and limits.
func (g *Guard) worksAsAdmin(ctx context.Context, credential string) (bool, error) {
	now := g.now()
	id := idOf(credential)
	r, err := selectKey(ctx, g.db.Read(), id)
	if errs.KindOf(err) == errs.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	hash := hashOf(credential)
	k := r.key
	return subtle.ConstantTimeCompare(hash[:], r.hash[:]) == 1 && newPrincipal(k).admin &&
		k.RevokedAt == nil && (k.ExpiresAt == nil || now.Before(*k.ExpiresAt)), nil
}

// idsOf lists the working keys of a source, but for one.
func idsOf(ctx context.Context, tx store.Querier, source, except string) ([]string, error) {
	rows, err := tx.QueryContext(ctx, `select id from auth_key where source = $1 and revoked_at = 0 and id <> $2 order by id`, source, except)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, errors.Join(rows.Err(), rows.Close())
}

func revokeAll(ctx context.Context, tx store.Querier, ids []string, now store.Micros) error {
	for _, id := range ids {
		if _, err := tx.ExecContext(ctx, `update auth_key set revoked_at = $1, old_until = 0 where id = $2`, int64(now), id); err != nil {
			return err
		}
	}
	return nil
}

// private tells whether nobody but the owner can read the file.
func private(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Perm() == 0o600
}

// writeFile replaces a file at one stroke, with mode 0600 and on disk.
func writeFile(path, text string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, adminFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails once renamed
	_, err = tmp.WriteString(text)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
