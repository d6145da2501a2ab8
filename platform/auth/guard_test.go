package auth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"switchboard/platform/auth"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/errs"
	"switchboard/platform/store"
)

const home = "192.0.2.1"

func denied(t testing.TB, g *auth.Guard, credential, text string) {
	t.Helper()
	p, err := g.Authenticate(t.Context(), credential, home)
	var limit *auth.LimitError
	if p != nil || errs.KindOf(err) != errs.Denied || errors.As(err, &limit) || !strings.Contains(err.Error(), text) {
		t.Errorf("want it denied with %q, got %v, %v", text, p, err)
	}
	if err != nil && len(credential) > 4 && strings.Contains(err.Error(), credential) {
		t.Error("the error shows the credential")
	}
}

func allowed(t testing.TB, g *auth.Guard, credential string) *auth.Principal {
	t.Helper()
	p, err := g.Authenticate(t.Context(), credential, home)
	if err != nil {
		t.Errorf("denied: %v", err)
		return &auth.Principal{}
	}
	return p
}

func TestKeyOpensWhatItsScopesSay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		g := p.guard(t, defaults)
		ends := p.now().Add(time.Hour)
		key, secret := create(t, g, auth.NewKey{
			Name: "Shop", Scopes: []string{"collector:read", "collector:write", "collector:read"}, App: "shop",
			Origins: []string{"https://Shop.Example:443/", "http://shop.example:8080"}, ExpiresAt: &ends,
		})
		if !regexp.MustCompile(`^sb_[0-9a-z]{12}_[0-9A-Za-z]{43}$`).MatchString(secret) || !strings.HasPrefix(secret, "sb_"+key.ID+"_") {
			t.Errorf("credential %s of key %s", secret, key.ID)
		}
		who := allowed(t, g, secret)
		if !who.Has("collector:read") || !who.Has("collector:write") || who.Has("crm:read") || who.Has("admin") || who.Has("") {
			t.Errorf("scopes %v", who.Key.Scopes)
		}
		if !who.Allows("https://shop.example") || who.Allows("http://shop.example") || who.Allows("null") || who.Allows("") {
			t.Errorf("origins %v", who.Key.Origins)
		}
		stored, err := g.Get(t.Context(), key.ID)
		if err != nil {
			t.Fatal(err)
		}
		used := p.now()
		key.LastUsedAt = &used
		if !reflect.DeepEqual(stored, key) {
			t.Errorf("stored %+v\nmade   %+v", stored, key)
		}
		if want := []string{"collector:write", "collector:read"}; !slices.Equal(key.Scopes, want) {
			t.Errorf("scopes %v, want %v", key.Scopes, want)
		}
	})
}

func TestWrongCredentialsAreDenied(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		g := p.guard(t, defaults)
		key, secret := create(t, g, auth.NewKey{})
		for _, bad := range []string{
			secret + "x", secret[:len(secret)-1], strings.ToUpper(secret), strings.Replace(secret, key.ID, "000000000000", 1),
			"sb_" + key.ID + "_", "sb_" + key.ID, "sb__" + secret, "sb_", "x", strings.Repeat("x", 10_000), "sb_\x00_" + strings.Repeat("a", 43),
			"' or 1=1 --",
		} {
			denied(t, g, bad, "not valid")
		}
		denied(t, g, "", "needed")
		allowed(t, g, secret)
	})
}

func TestExpiredAndRevokedKeysAreDenied(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		g := p.guard(t, defaults)
		ends := p.now().Add(2 * time.Second)
		_, short := create(t, g, auth.NewKey{ExpiresAt: &ends})
		long, secret := create(t, g, auth.NewKey{})
		allowed(t, g, short)
		allowed(t, g, secret)
		p.advance(2 * time.Second) // while it is still cached
		denied(t, g, short, "expired")
		for range 2 {
			if err := g.Revoke(t.Context(), long.ID); err != nil {
				t.Fatal(err)
			}
			denied(t, g, secret, "revoked")
			p.advance(time.Second)
		}
		if got, err := g.Get(t.Context(), long.ID); err != nil || got.RevokedAt == nil || !got.RevokedAt.Equal(ends) {
			t.Errorf("%+v, %v", got, err)
		}
		if _, _, err := g.Rotate(t.Context(), long.ID, 0); errs.KindOf(err) != errs.Conflict {
			t.Errorf("rotate a revoked key: %v", err)
		}
		for _, id := range []string{"nobody", "", "a\x00", "\xff", strings.Repeat("x", 1000)} {
			if err := g.Revoke(t.Context(), id); errs.KindOf(err) != errs.NotFound {
				t.Errorf("revoke the unknown key %q: %v", id, err)
			}
		}
	})
}

func TestRotationOverlaps(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		g := p.guard(t, defaults)
		key, first := create(t, g, auth.NewKey{})
		rotate := func(overlap time.Duration) string {
			t.Helper()
			got, secret, err := g.Rotate(t.Context(), key.ID, overlap)
			if err != nil || got.ID != key.ID {
				t.Fatalf("%+v, %v", got, err)
			}
			return secret
		}
		allowed(t, g, first)
		second := rotate(time.Second)
		allowed(t, g, first)
		allowed(t, g, second)
		p.advance(time.Second)
		denied(t, g, first, "not valid")
		allowed(t, g, second)
		third := rotate(time.Hour)
		fourth := rotate(time.Hour)
		denied(t, g, second, "not valid")
		allowed(t, g, third)
		allowed(t, g, fourth)
		fifth := rotate(0)
		denied(t, g, third, "not valid")
		denied(t, g, fourth, "not valid")
		allowed(t, g, fifth)
		for _, overlap := range []time.Duration{-1, 31 * 24 * time.Hour} {
			if _, _, err := g.Rotate(t.Context(), key.ID, overlap); errs.KindOf(err) != errs.Invalid {
				t.Errorf("overlap %s: %v", overlap, err)
			}
		}
		if _, _, err := g.Rotate(t.Context(), "nobody", 0); errs.KindOf(err) != errs.NotFound {
			t.Errorf("rotate an unknown key: %v", err)
		}
	})
}

func TestBadKeysAreNotMade(t *testing.T) {
	t.Parallel()
	p := newPlace(t, store.Config{Dir: t.TempDir()})
	g := p.guard(t, defaults)
	past := p.now()
	ok := func() auth.NewKey { return auth.NewKey{Name: "n", Scopes: []string{"crm:read"}} }
	for want, change := range map[string]func(n *auth.NewKey){
		"body.name":       func(n *auth.NewKey) { n.Name = "" },
		"body.name ":      func(n *auth.NewKey) { n.Name = strings.Repeat("n", 101) },
		"body.name  ":     func(n *auth.NewKey) { n.Name = "a\nb" },
		"body.app":        func(n *auth.NewKey) { n.App = "a\x00" },
		"body.scopes":     func(n *auth.NewKey) { n.Scopes = nil },
		"body.scopes[1]":  func(n *auth.NewKey) { n.Scopes = []string{"admin", "root"} },
		"body.expires_at": func(n *auth.NewKey) { n.ExpiresAt = &past },
		"body.origins[1]": func(n *auth.NewKey) { n.Origins = []string{"https://a", "*"} },
		"body.origins":    func(n *auth.NewKey) { n.Origins = make([]string, 51) },
	} {
		n := ok()
		change(&n)
		_, _, _, err := g.Create(t.Context(), n)
		fields := errs.FieldsOf(err)
		if errs.KindOf(err) != errs.Invalid || len(fields) != 1 || fields[0].Location != strings.TrimSpace(want) {
			t.Errorf("%s: %v %v", want, err, fields)
		}
	}
	for _, origin := range []string{
		"", "shop.example", "ftp://shop.example", "https://", "https://a/b", "https://a?x", "https://a#", "https://a#x", "https://u@a", "https://a:", "https://a:0",
		"https://a:99999", "https://*.a", "https://a b", "https://a_\u00e9", "null", "https:a", "https://a..b", "https://[::1", "javascript:alert(1)",
	} {
		n := ok()
		n.Origins = []string{origin}
		if key, _, _, err := g.Create(t.Context(), n); err == nil {
			t.Errorf("origin %q was taken as %v", origin, key.Origins)
		}
	}
	n := ok()
	n.Origins = []string{"https://shop.example:8443", "http://[::1]:80", "http://127.0.0.1:5173", "https://xn--bcher-kva.example"}
	key, _, _, err := g.Create(t.Context(), n)
	want := []string{"https://shop.example:8443", "http://[::1]", "http://127.0.0.1:5173", "https://xn--bcher-kva.example"}
	if err != nil || !slices.Equal(key.Origins, want) {
		t.Errorf("%v, %v", key.Origins, err)
	}
}

func TestSigningSecretIsShownOnceAndKeptSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := newPlace(t, store.Config{Dir: dir})
	g := p.guard(t, defaults)
	key, secret, signing, err := g.Create(t.Context(), auth.NewKey{Name: "n", Scopes: []string{"crm:read"}, Signed: true})
	if err != nil || !key.Signed || len(signing) < 43 {
		t.Fatalf("%+v %d %v", key, len(signing), err)
	}
	for range 2 {
		if got, err := g.SigningSecret(t.Context(), key.ID); err != nil || string(got) != signing {
			t.Errorf("%v", err)
		}
		if _, _, err := g.Rotate(t.Context(), key.ID, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	plain, _ := create(t, g, auth.NewKey{})
	for _, id := range []string{plain.ID, "nobody"} {
		if _, err := g.SigningSecret(t.Context(), id); errs.KindOf(err) != errs.NotFound {
			t.Errorf("%s: %v", id, err)
		}
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, canary := range []string{secret, secret[len(secret)-43:], signing} {
			if bytes.Contains(data, []byte(canary)) {
				t.Errorf("%s holds a secret", filepath.Base(path))
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestKeysAreListedInPages(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		g := p.guard(t, defaults)
		var want, got []string
		for i := range 7 {
			key, _ := create(t, g, auth.NewKey{Name: fmt.Sprint(i)})
			want = append(want, key.ID)
			p.advance(time.Millisecond)
		}
		after := ""
		for range 4 {
			page, err := g.List(t.Context(), after, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range page {
				got = append(got, k.ID)
				after = k.ID
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if page, err := g.List(t.Context(), after, 0); err != nil || page == nil || len(page) != 0 {
			t.Errorf("after the last: %v, %v", page, err)
		}
		if all, err := g.List(t.Context(), "", 0); err != nil || len(all) != 7 {
			t.Errorf("%d, %v", len(all), err)
		}
	})
}

func TestLastUseIsStoredNowAndThen(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		g, other := p.guard(t, defaults), p.guard(t, defaults)
		stop := run(t, g)
		key, secret := create(t, g, auth.NewKey{})
		if key.LastUsedAt != nil {
			t.Errorf("used at %s before its first use", key.LastUsedAt)
		}
		p.advance(time.Second)
		allowed(t, g, secret)
		used := p.now()
		if got, err := g.Get(t.Context(), key.ID); err != nil || got.LastUsedAt == nil || !got.LastUsedAt.Equal(used) {
			t.Errorf("here: %v, %v", got.LastUsedAt, err)
		}
		stop() // stores it
		got, err := other.Get(t.Context(), key.ID)
		if err != nil || got.LastUsedAt == nil || !got.LastUsedAt.Equal(used) {
			t.Errorf("elsewhere: %v, %v", got.LastUsedAt, err)
		}
	})
}

func TestWrongCredentialsAreLimitedPerAddress(t *testing.T) {
	t.Parallel()
	p := newPlace(t, store.Config{Dir: t.TempDir()})
	g := p.guard(t, auth.Config{FailedAttempts: 6})
	const preset = "a word of a person"
	if _, err := g.EnsureAdmin(t.Context(), t.TempDir(), "a-word-of-a-person"); err != nil {
		t.Fatal(err)
	}
	_, secret := create(t, g, auth.NewKey{})
	allowed(t, g, secret)
	try := func(credential, ip string) (*auth.LimitError, error) {
		_, err := g.Authenticate(t.Context(), credential, ip)
		var limit *auth.LimitError
		errors.As(err, &limit)
		return limit, err
	}
	for i := range 20 {
		if limit, _ := try("", home); limit != nil {
			t.Fatal("missing credentials count")
		}
		if limit, _ := try(secret, home); limit != nil {
			t.Fatal("right credentials count")
		}
		limit, err := try("sb_000000000000_"+strings.Repeat("x", 43), home)
		if errs.KindOf(err) != errs.Denied || (limit != nil) != (i >= 6) {
			t.Fatalf("attempt %d: %v", i+1, err)
		}
		if limit != nil && (limit.RetryAfter < time.Second || limit.RetryAfter > 10*time.Second) {
			t.Errorf("retry after %s", limit.RetryAfter)
		}
	}
	if limit, err := try(secret, home); err != nil {
		t.Errorf("a key that is known and right: %v %v", limit, err)
	}
	if limit, _ := try("a-word-of-a-person", home); limit == nil {
		t.Error("a preset can be guessed without end")
	}
	if limit, err := try("a-word-of-a-person", "192.0.2.2"); err != nil {
		t.Errorf("another address: %v %v", limit, err)
	}
	p.advance(10 * time.Second) // gives one attempt back
	if limit, err := try("a-word-of-a-person", home); err != nil {
		t.Errorf("after the wait: %v %v", limit, err)
	}
	if limit, _ := try(preset, home); limit != nil {
		t.Error("the attempt that came back is refused")
	}
	if limit, _ := try(preset, home); limit == nil {
		t.Error("two attempts came back")
	}
	// A host has a whole /64 of IPv6 addresses.
	for i := range 6 {
		_, _ = try("wrong", fmt.Sprintf("2001:db8::%x", i+1))
	}
	if limit, _ := try("wrong", "2001:db8::ffff"); limit == nil {
		t.Error("each IPv6 address counts for itself")
	}
	if limit, _ := try("wrong", "2001:db8:0:1::1"); limit != nil {
		t.Error("all IPv6 addresses count together")
	}
	free := p.guard(t, auth.Config{})
	for range 200 {
		if _, err := free.Authenticate(t.Context(), "wrong", home); errors.As(err, new(*auth.LimitError)) {
			t.Fatal("0 is a limit")
		}
	}
	if err := (auth.Config{FailedAttempts: -1}).Validate(); errs.KindOf(err) != errs.Invalid {
		t.Errorf("validate: %v", err)
	}
}

func TestChangesReachOtherInstances(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		p.bus = bustest.Embedded(t)
		here, there := p.guard(t, defaults), p.guard(t, defaults)
		run(t, there)
		deadline := time.Now().Add(20 * time.Second)
		for { // a broadcast before the other one listens is lost: try with another key
			key, secret := create(t, here, auth.NewKey{})
			allowed(t, there, secret)
			if err := here.Revoke(t.Context(), key.ID); err != nil {
				t.Fatal(err)
			}
			denied(t, here, secret, "revoked")
			for patience := time.Now().Add(200 * time.Millisecond); time.Now().Before(patience); time.Sleep(time.Millisecond) {
				if _, err := there.Authenticate(t.Context(), secret, home); err != nil {
					return // the clock stands still: it was not the cache's age
				}
			}
			if time.Now().After(deadline) {
				t.Fatal("the other instance does not drop a revoked key")
			}
		}
	})
}

func TestWithoutABroadcastAKeyIsBelievedForFiveSeconds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p place) {
		here, there := p.guard(t, defaults), p.guard(t, defaults)
		key, secret := create(t, here, auth.NewKey{})
		allowed(t, there, secret)
		if err := here.Revoke(t.Context(), key.ID); err != nil {
			t.Fatal(err)
		}
		allowed(t, there, secret)
		p.advance(5 * time.Second)
		denied(t, there, secret, "revoked")
	})
}

func TestContextCarriesThePrincipal(t *testing.T) {
	t.Parallel()
	if auth.From(context.Background()).Has("admin") {
		t.Error("nobody is admin")
	}
	p := &auth.Principal{Key: auth.Key{Scopes: []string{"crm:read"}}}
	if got := auth.From(auth.With(context.Background(), p)); got != p || !got.Has("crm:read") {
		t.Errorf("%v", got)
	}
}
