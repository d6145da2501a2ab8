package gateway

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/web"
)

// partOf is a module that serves only some routes.
func partOf(routes func(p app.Platform, r *web.Router) error) app.Module {
	return app.Module{Name: "gateway", Doc: "a part of the gateway", Config: func() any { return &struct{}{} }, Migrations: os.DirFS("."),
		New: func(p app.Platform) (app.Service, error) { return part{p, routes}, nil }}
}

type part struct {
	p      app.Platform
	routes func(p app.Platform, r *web.Router) error
}

func (s part) Routes(r *web.Router) error    { return s.routes(s.p, r) }
func (part) Start(context.Context) error     { return nil }
func (part) Run(ctx context.Context) error   { <-ctx.Done(); return nil }
func (part) Ready(ctx context.Context) error { return nil }

// tokensAlone is the product with the routes of tokens.
func tokensAlone(t *testing.T, options ...apptest.Option) (p *apptest.Product, tokens func() *tokenService) {
	t.Helper()
	var s *tokenService
	p = apptest.Start(t, []app.Module{partOf(func(p app.Platform, r *web.Router) error {
		s = newTokenService(p.DB, p.Seal, p.Guard, tokenLimits{}, p.Now)
		(&tokenHTTP{s}).routes(r)
		return nil
	})}, options...)
	return p, func() *tokenService { return s }
}

type tokenAnswer struct {
	ID        string    `json:"id"`
	Token     string    `json:"token"`
	Rooms     []string  `json:"rooms"`
	User      string    `json:"user"`
	ExpiresAt time.Time `json:"expires_at"`
	Detail    string    `json:"detail"`
	Errors    []struct {
		Location string `json:"location"`
	} `json:"errors"`
}

func TestTokensAreIssuedAndRevokedOverHTTP(t *testing.T) {
	t.Parallel()
	p, tokens := tokensAlone(t)
	var got tokenAnswer
	if status := p.Call(http.MethodPost, "/gateway/tokens", `{"rooms":["orders.17"],"ttl":"90m","user":"Zoë Quux"}`, &got); status != http.StatusCreated {
		t.Fatalf("%d %+v", status, got)
	}
	if got.ID == "" || strings.Join(got.Rooms, " ") != "orders.17" || got.User != "Zoë Quux" || time.Until(got.ExpiresAt).Round(time.Minute) != 90*time.Minute {
		t.Errorf("issued %+v", got)
	}
	g, err := tokens().authenticate(t.Context(), got.Token, "", "")
	if err != nil || g.TokenID != got.ID || !g.ExpiresAt.Equal(got.ExpiresAt) {
		t.Errorf("%+v %v", g, err)
	}
	p.Restart()
	if _, err := tokens().authenticate(t.Context(), got.Token, "", ""); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	for range 2 {
		if status := p.Call(http.MethodDelete, "/gateway/tokens/"+got.ID, nil, nil); status != http.StatusNoContent {
			t.Errorf("revoke: %d", status)
		}
	}
	if got := refusal(t, tokens(), got.Token, ""); got != "token revoked" {
		t.Errorf("refused with %q", got)
	}
	if status := p.Call(http.MethodDelete, "/gateway/tokens/nosuch", nil, nil); status != http.StatusNotFound {
		t.Errorf("revoke an unknown token: %d", status)
	}
	p.Stop()
	if hits := apptest.Hits(t, p.Dir, p.Log.String(), "Zoë", "Quux", "orders.17", got.Token); len(hits) > 0 {
		t.Errorf("in the clear: %v", hits)
	}
}

func TestTokenRequestsAreRepeatedByTheirKey(t *testing.T) {
	t.Parallel()
	p, _ := tokensAlone(t)
	var answers [2]string
	for i := range answers {
		req := p.Request(p.Key, http.MethodPost, "/gateway/tokens", `{"rooms":["a"]}`)
		req.Header.Set("Idempotency-Key", "one")
		resp, text := p.Exchange(req)
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s", resp.Status, text)
		}
		answers[i] = string(text)
	}
	if answers[0] != answers[1] {
		t.Error("a repeated request made another token")
	}
}

func TestTokenRequestsAreRefused(t *testing.T) {
	t.Parallel()
	p, _ := tokensAlone(t)
	publisher := p.NewKey(map[string]any{"scopes": []string{"gateway:publish"}})
	reader := p.NewKey(map[string]any{"scopes": []string{"gateway:connect", "gateway:read"}})
	browser := p.NewKey(map[string]any{"scopes": []string{"gateway:publish"}, "origins": []string{"https://shop.example"}})
	for _, c := range []struct {
		name, key, body string
		status          int
		at              string
	}{
		{"a good one", publisher, `{"rooms":["a"]}`, 201, ""},
		{"no rooms at all", publisher, `{"rooms":[]}`, 201, ""},
		{"no credential", "", `{"rooms":["a"]}`, 401, ""},
		{"no scope", reader, `{"rooms":["a"]}`, 403, ""},
		{"a browser's key", browser, `{"rooms":["a"]}`, 403, ""},
		{"rooms left out", publisher, `{}`, 422, "body"},
		{"an unknown field", publisher, `{"rooms":["a"],"scope":"all"}`, 422, "body.scope"},
		{"an empty room", publisher, `{"rooms":["a",""]}`, 422, "body.rooms[1]"},
		{"no duration", publisher, `{"rooms":["a"],"ttl":"soon"}`, 422, "body.ttl"},
		{"nothing", publisher, `{"rooms":["a"],"ttl":"0s"}`, 422, "body.ttl"},
		{"too long", publisher, `{"rooms":["a"],"ttl":"721h"}`, 422, "body.ttl"},
		{"too many rooms", publisher, `{"rooms":["a"` + strings.Repeat(`,"a"`, 1000) + `]}`, 422, "body.rooms"},
	} {
		var got tokenAnswer
		status := p.CallAs(c.key, http.MethodPost, "/gateway/tokens", c.body, &got)
		at := ""
		if len(got.Errors) > 0 {
			at = got.Errors[0].Location
		}
		if status != c.status || at != c.at {
			t.Errorf("%s: %d at %q: %s", c.name, status, at, got.Detail)
		}
	}
}

func TestOwnPagesHaveNoForeignOrigin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ origin, host, want string }{
		{"", "app.example", ""},
		{"https://app.example", "app.example", ""},
		{"http://APP.example:8080", "app.example:8080", ""},
		{"http://app.example:8081", "app.example:8080", "http://app.example:8081"},
		{"https://app.example.evil", "app.example", "https://app.example.evil"},
		{"null", "app.example", "null"},
		{"null", "", "null"},
	} {
		if got := foreignOrigin(c.origin, c.host); got != c.want {
			t.Errorf("%q at %q: %q, want %q", c.origin, c.host, got, c.want)
		}
	}
}
