package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"switchboard/platform/auth"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// testClock is a time that stands still until it is told to go on.
type testClock struct {
	mu sync.Mutex
	at time.Time
}

func newTestClock() *testClock {
	return &testClock{at: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// house is the platform that instances of a test share.
type house struct {
	*testClock
	db   *store.DB
	keys *seal.Keyring
	auth *store.DB
}

func eachHouse(t *testing.T, fn func(t *testing.T, h house)) {
	t.Helper()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		h := house{testClock: newTestClock(), db: storetest.Open(t, cfg, "gateway", os.DirFS(".")), auth: storetest.Open(t, cfg, "auth", auth.Migrations())}
		master, _, err := seal.LoadMaster(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		if h.keys, err = seal.Open(t.Context(), storetest.Open(t, cfg, "keys", seal.Migrations()), nil, master, h.now, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		fn(t, h)
	})
}

func (h house) guard(t *testing.T) *auth.Guard {
	t.Helper()
	g, err := auth.Open(t.Context(), h.auth, h.keys, nil, auth.Config{FailedAttempts: 60}, h.now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// tokens is one instance.
func (h house) tokens(t *testing.T) *tokenService {
	t.Helper()
	return newTokenService(h.db, h.keys, h.guard(t), tokenLimits{}, h.now)
}

// newKey makes an API key and gives its holder and its credential.
func newKey(t *testing.T, s *tokenService, n auth.NewKey) (*auth.Principal, string) {
	t.Helper()
	n.Name = "test"
	if n.Scopes == nil {
		n.Scopes = []string{"gateway:publish", "gateway:connect"}
	}
	_, secret, _, err := s.guard.Create(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.guard.Authenticate(t.Context(), secret, "")
	if err != nil {
		t.Fatal(err)
	}
	return p, secret
}

func issued(t *testing.T, s *tokenService, by *auth.Principal, r tokenRequest) (string, *Grant) {
	t.Helper()
	token, g, err := s.issue(by, r)
	if err != nil {
		t.Fatal(err)
	}
	return token, g
}

// refusal wants a credential to be refused and gives the text.
func refusal(t *testing.T, s *tokenService, credential, origin string) string {
	t.Helper()
	g, err := s.authenticate(t.Context(), credential, "192.0.2.1", origin)
	if err == nil {
		t.Errorf("let in with %+v", g)
		return ""
	}
	if errs.KindOf(err) != errs.Denied {
		t.Errorf("%v is not Denied", err)
	}
	return err.Error()
}

func TestTokenLetsInOnEveryInstance(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		one, two := h.tokens(t), h.tokens(t)
		by, _ := newKey(t, one, auth.NewKey{})
		token, want := issued(t, one, by, tokenRequest{Rooms: []string{"orders.*", "lobby"}, User: "zoe@example.com"})
		got, err := two.authenticate(t.Context(), token, "192.0.2.1", "https://anywhere.example")
		if err != nil {
			t.Fatal(err)
		}
		if got.TokenID != want.TokenID || got.KeyID != by.Key.ID || got.User != "zoe@example.com" || got.AllRooms ||
			!got.May("orders.1") || !got.May("lobby") || got.May("secret") || !got.ExpiresAt.Equal(h.now().Add(time.Hour)) {
			t.Errorf("granted %+v", got)
		}
	})
}

func TestTokenExpires(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.tokens(t)
		by, _ := newKey(t, s, auth.NewKey{})
		token, g := issued(t, s, by, tokenRequest{TTL: time.Minute})
		h.advance(time.Minute + 4*time.Second)
		if _, err := s.verify(t.Context(), token); err != nil {
			t.Errorf("within the leeway: %v", err)
		}
		h.advance(time.Second)
		if got := refusal(t, s, token, ""); got != "token expired" {
			t.Errorf("refused with %q", got)
		}
		if err := s.check(t.Context(), g); !errors.Is(err, errTokenExpired) {
			t.Errorf("check: %v", err)
		}
	})
}

func TestTokenOfAClockAheadIsGoodWithinTheLeeway(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.tokens(t)
		by, _ := newKey(t, s, auth.NewKey{})
		h.advance(5 * time.Second)
		ahead, _ := issued(t, s, by, tokenRequest{})
		h.advance(time.Second)
		far, _ := issued(t, s, by, tokenRequest{})
		h.advance(-6 * time.Second)
		if _, err := s.verify(t.Context(), ahead); err != nil {
			t.Errorf("5 s ahead: %v", err)
		}
		if got := refusal(t, s, far, ""); got != "bad token" {
			t.Errorf("6 s ahead: %q", got)
		}
	})
}

func TestTokenRevokedHereIsRefusedEverywhere(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		one, two := h.tokens(t), h.tokens(t)
		var told []string
		one.onRevoke = func(id string) { told = append(told, id) }
		by, _ := newKey(t, one, auth.NewKey{})
		token, g := issued(t, one, by, tokenRequest{})
		other, _ := issued(t, one, by, tokenRequest{})
		for range 2 {
			if err := one.revoke(t.Context(), g.TokenID); err != nil {
				t.Fatal(err)
			}
		}
		if len(told) == 0 || told[0] != g.TokenID {
			t.Errorf("the hook heard of %v", told)
		}
		if got := refusal(t, two, token, ""); got != "token revoked" {
			t.Errorf("refused with %q", got)
		}
		alive, err := two.verify(t.Context(), other)
		if err != nil {
			t.Fatalf("another token: %v", err)
		}
		if gone, err := two.revokedOf(t.Context(), []string{alive.TokenID, g.TokenID, "no token"}); err != nil || len(gone) != 1 || gone[0] != g.TokenID {
			t.Errorf("of both %v is revoked (%v)", gone, err)
		}
		if err := one.revoke(t.Context(), "00112233445566778899aabbccddeeff"); errs.KindOf(err) != errs.NotFound {
			t.Errorf("an id that was never given out: %v", err)
		}

		h.advance(2 * time.Hour)
		if err := two.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := countRows(t, h.db, "gateway_token_revoked"); n != 0 {
			t.Errorf("%d revocations are left of expired tokens", n)
		}
		if err := one.revoke(t.Context(), g.TokenID); err != nil || countRows(t, h.db, "gateway_token_revoked") != 0 {
			t.Errorf("revoking an expired token: %v", err)
		}
		if got := refusal(t, one, token, ""); got != "token expired" {
			t.Errorf("refused with %q", got)
		}
	})
}

func countRows(t *testing.T, db *store.DB, table string) (n int) {
	t.Helper()
	if err := db.Read().QueryRowContext(t.Context(), `select count(*) from `+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTokenDiesWithItsKey(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.tokens(t)
		end := h.now().Add(30*time.Minute + 500*time.Millisecond)
		short, _ := newKey(t, s, auth.NewKey{ExpiresAt: &end})
		_, g := issued(t, s, short, tokenRequest{TTL: time.Hour})
		if !g.ExpiresAt.Equal(end.Truncate(time.Second)) {
			t.Errorf("the token outlives its key: %s", g.ExpiresAt)
		}

		by, credential := newKey(t, s, auth.NewKey{})
		token, g := issued(t, s, by, tokenRequest{})
		ofKey, err := s.authenticate(t.Context(), credential, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.verify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		if err := s.guard.Revoke(t.Context(), by.Key.ID); err != nil {
			t.Fatal(err)
		}
		h.advance(issuerAge)
		if got := refusal(t, s, token, ""); got != "token revoked" {
			t.Errorf("refused with %q", got)
		}
		if err := s.check(t.Context(), g); !errors.Is(err, errTokenRevoked) {
			t.Errorf("check of the token: %v", err)
		}
		if err := s.check(t.Context(), ofKey); !errors.Is(err, errKeyRevoked) {
			t.Errorf("check of the key: %v", err)
		}

		gone := *by
		gone.Key.ID = "nosuchkey"
		token, _ = issued(t, s, &gone, tokenRequest{})
		if got := refusal(t, s, token, ""); got != "token revoked" {
			t.Errorf("a token of an unknown key: %q", got)
		}
	})
}

func TestForgedTokensAreRefused(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.tokens(t)
		by, _ := newKey(t, s, auth.NewKey{})
		good, g := issued(t, s, by, tokenRequest{Rooms: []string{"a"}})
		head, rest, _ := strings.Cut(good, ".")
		body, signature, _ := strings.Cut(rest, ".")
		claims := func(change func(*tokenClaims)) tokenClaims {
			c := tokenClaims{KeyID: by.Key.ID, Rooms: []string{"a"}, RegisteredClaims: jwt.RegisteredClaims{
				ID: g.TokenID, Issuer: tokenIssuer, Audience: jwt.ClaimStrings{tokenAudience}, ExpiresAt: jwt.NewNumericDate(g.ExpiresAt),
			}}
			change(&c)
			return c
		}
		signed := func(method jwt.SigningMethod, key any, change func(*tokenClaims)) string {
			token, err := jwt.NewWithClaims(method, claims(change)).SignedString(key)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		same := func(*tokenClaims) {}
		if _, err := s.verify(t.Context(), signed(jwt.SigningMethodHS256, s.key(), same)); err != nil {
			t.Fatalf("the forger's tools do not work: %v", err)
		}
		var wider map[string]any
		raw, err := base64.RawURLEncoding.DecodeString(body)
		if err = errors.Join(err, json.Unmarshal(raw, &wider)); err != nil {
			t.Fatal(err)
		}
		wider["rooms"] = []string{"*"}
		raw, err = json.Marshal(wider)
		if err != nil {
			t.Fatal(err)
		}
		for name, token := range map[string]string{
			"other rooms":       head + "." + base64.RawURLEncoding.EncodeToString(raw) + "." + signature,
			"no signature":      head + "." + body + ".",
			"algorithm none":    signed(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, same),
			"another algorithm": signed(jwt.SigningMethodHS512, s.key(), same),
			"another key":       signed(jwt.SigningMethodHS256, []byte(strings.Repeat("k", 32)), same),
			"another issuer":    signed(jwt.SigningMethodHS256, s.key(), func(c *tokenClaims) { c.Issuer = "x" }),
			"another audience":  signed(jwt.SigningMethodHS256, s.key(), func(c *tokenClaims) { c.Audience = jwt.ClaimStrings{"x"} }),
			"no end":            signed(jwt.SigningMethodHS256, s.key(), func(c *tokenClaims) { c.ExpiresAt = nil }),
			"no id":             signed(jwt.SigningMethodHS256, s.key(), func(c *tokenClaims) { c.ID = "" }),
			"garbage":           "ey.ey.ey",
			"far too long":      "ey." + strings.Repeat("a", maxToken) + ".a",
		} {
			if got := refusal(t, s, token, ""); got != "bad token" {
				t.Errorf("%s: %q", name, got)
			}
		}
		if got := refusal(t, s, "", ""); got == "" {
			t.Error("nothing is a credential")
		}
	})
}

func TestKeysLetInByScopeAndOrigin(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.tokens(t)
		_, plain := newKey(t, s, auth.NewKey{})
		_, bound := newKey(t, s, auth.NewKey{Origins: []string{"https://shop.example"}})
		_, reader := newKey(t, s, auth.NewKey{Scopes: []string{"gateway:read"}})
		for _, c := range []struct {
			name, credential, origin, refusal string
			forbidden                         bool
		}{
			{"a key", plain, "", "", false},
			{"a key of no browser from a page", plain, "https://shop.example", "the key does not list this origin", true},
			{"a browser's key from its page", bound, "https://shop.example", "", false},
			{"a browser's key from another page", bound, "https://evil.example", "the key does not list this origin", true},
			{"a key without the scope", reader, "", "missing scope gateway:connect", true},
			{"a wrong key", plain + "x", "", "the key is not valid", false},
		} {
			g, err := s.authenticate(context.Background(), c.credential, "192.0.2.1", c.origin)
			switch {
			case err == nil && c.refusal == "":
				if !g.AllRooms || g.KeyID == "" || g.TokenID != "" {
					t.Errorf("%s: granted %+v", c.name, g)
				}
			case err == nil:
				t.Errorf("%s: let in", c.name)
			case err.Error() != c.refusal || forbidden(err) != c.forbidden:
				t.Errorf("%s: %v, forbidden %v", c.name, err, forbidden(err))
			}
		}
	})
}
