package auth_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"switchboard/platform/auth"
	"switchboard/platform/config"
	"switchboard/platform/errs"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// ensure calls EnsureAdmin and gives what the file holds.
func ensure(t testing.TB, g *auth.Guard, dir string, preset config.Secret) string {
	t.Helper()
	path, err := g.EnsureAdmin(t.Context(), dir, preset)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || path != filepath.Join(dir, "admin.key") || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v", path, info, err)
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Count(string(text), "\n") != 1 {
		t.Errorf("%q, %v", text, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
	return strings.TrimSpace(string(text))
}

func TestFirstStartWritesAnAdminKey(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		dir := filepath.Join(t.TempDir(), "data")
		g := p.guard(t, defaults)
		key := ensure(t, g, dir, "")
		for _, scope := range auth.Scopes() {
			if !allowed(t, g, key).Has(scope) {
				t.Errorf("the admin lacks %s", scope)
			}
		}
		if again := ensure(t, p.guard(t, defaults), dir, ""); again != key {
			t.Error("the second start changed the key")
		}
		if keys, err := g.List(t.Context(), "", 0); err != nil || len(keys) != 1 {
			t.Errorf("%v, %v", keys, err)
		}
		if err := os.Chmod(filepath.Join(dir, "admin.key"), 0o644); err != nil {
			t.Fatal(err)
		}
		if again := ensure(t, g, dir, ""); again != key {
			t.Error("a change of mode changed the key")
		}
	})
}

func TestALostAdminFileIsWrittenAnew(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		dir := t.TempDir()
		g := p.guard(t, defaults)
		first := ensure(t, g, dir, "")
		allowed(t, g, first)
		if err := os.Remove(filepath.Join(dir, "admin.key")); err != nil {
			t.Fatal(err)
		}
		second := ensure(t, g, dir, "")
		if second == first {
			t.Error("the same key again")
		}
		allowed(t, g, second)
		if p.db.Engine() == store.SQLite {
			denied(t, g, first, "revoked")
		} else {
			allowed(t, g, first) // it may be another instance's
		}
		if err := os.WriteFile(filepath.Join(dir, "admin.key"), []byte("nonsense\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		allowed(t, g, ensure(t, g, dir, ""))
	})
}

func TestARevokedAdminKeyIsReplacedAtTheNextStart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		dir := t.TempDir()
		g := p.guard(t, defaults)
		first := ensure(t, g, dir, "")
		if err := g.Revoke(t.Context(), allowed(t, g, first).Key.ID); err != nil {
			t.Fatal(err)
		}
		allowed(t, g, ensure(t, g, dir, ""))
		denied(t, g, first, "revoked")
	})
}

func TestPresetAdminKey(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		dir := t.TempDir()
		g := p.guard(t, defaults)
		own := ensure(t, g, dir, "")
		presets := []string{
			"plain-words-from-a-person", "other-words-from-a-person", "sb_ops1_0123456789abcdefghij", "sb_ops1_another-secret-of-ops",
			"sb_ops2_0123456789abcdefghij", "sb_short_but-no-key", "plain-words-from-a-person",
		}
		for i, preset := range presets {
			for range 2 {
				if got := ensure(t, g, dir, config.Secret(preset+"\n")); got != preset {
					t.Fatalf("%s: the file holds %s", preset, got)
				}
			}
			if !allowed(t, g, preset).Has("admin") {
				t.Errorf("%s is no admin", preset)
			}
			if i > 0 {
				if _, err := g.Authenticate(t.Context(), presets[i-1], home); errs.KindOf(err) != errs.Denied {
					t.Errorf("%s still opens after %s", presets[i-1], preset)
				}
			}
		}
		denied(t, g, own, "revoked")
		last := presets[len(presets)-1]
		if got := ensure(t, g, dir, ""); got != last {
			t.Error("without the preset the file lost a key that works")
		}
		if _, _, err := g.Rotate(t.Context(), "admin", 0); errs.KindOf(err) != errs.Conflict {
			t.Errorf("rotate the preset: %v", err)
		}
	})
}

func TestBadPresetIsRefused(t *testing.T) {
	t.Parallel()
	p := newPlace(t, store.Config{Dir: t.TempDir()})
	g := p.guard(t, defaults)
	key, _ := create(t, g, auth.NewKey{})
	for preset, kind := range map[string]errs.Kind{
		"fifteen-letters":                    errs.Invalid,
		"words with spaces inside":           errs.Invalid,
		"sixteen-l\u00e9tters-x":             errs.Invalid,
		"sb_" + key.ID + "_0123456789abcdef": errs.Conflict,
	} {
		_, err := g.EnsureAdmin(t.Context(), t.TempDir(), config.Secret(preset))
		if errs.KindOf(err) != kind || strings.Contains(err.Error(), preset) {
			t.Errorf("%s: %v", preset, err)
		}
	}
}

func TestInstancesWithOwnFoldersShareADatabase(t *testing.T) {
	t.Parallel()
	p := newPlace(t, store.Config{URL: config.Secret(storetest.Postgres(t))})
	keys := make([]string, 4)
	var all sync.WaitGroup
	for i := range keys {
		dir, g := t.TempDir(), p.guard(t, defaults)
		all.Go(func() { keys[i] = ensure(t, g, dir, "") })
	}
	all.Wait()
	g := p.guard(t, defaults)
	for i, key := range keys {
		allowed(t, g, key)
		if i > 0 && key == keys[0] {
			t.Error("two instances share a key")
		}
	}
	for i := range keys {
		dir, g := t.TempDir(), p.guard(t, defaults)
		all.Go(func() { keys[i] = ensure(t, g, dir, "the-same-preset-for-all") })
	}
	all.Wait()
	allowed(t, g, "the-same-preset-for-all")
}
