package web_test

import (
	"net/http"
	"strings"
	"testing"

	"switchboard/platform/auth"
	"switchboard/platform/web"
)

func TestCredentialsAreTakenFromEachPlace(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, things)
	writer := p.key(auth.NewKey{Name: "app", Scopes: []string{"collector:write"}})
	reader := p.key(auth.NewKey{Name: "dashboard", Scopes: []string{"collector:read"}})
	const things, plain, body = "/collector/things", "/collector/plain", `{"name":"a"}`
	for _, c := range []struct {
		name, path string
		headers    []string
		status     int
		challenge  string
	}{
		{"bearer", things, []string{"Authorization", "Bearer " + writer}, 201, ""},
		{"lower case bearer", things, []string{"Authorization", "bearer " + writer}, 201, ""},
		{"header", things, []string{"Authorization", "", "X-API-Key", writer}, 201, ""},
		{"admin", things, nil, 201, ""},
		{"query where allowed", plain + "?key=" + writer, []string{"Authorization", ""}, 201, ""},
		{"query elsewhere", things + "?key=" + writer, []string{"Authorization", ""}, 401, `Bearer realm="switchboard"`},
		{"none", things, []string{"Authorization", ""}, 401, `Bearer realm="switchboard"`},
		{"empty bearer", things, []string{"Authorization", "Bearer"}, 401, `Bearer realm="switchboard"`},
		{"basic", things, []string{"Authorization", "Basic YTpi"}, 401, `Bearer realm="switchboard"`},
		{"wrong", things, []string{"Authorization", "Bearer sb_aaaaaaaaaaaa_bbbb"}, 401, `error="invalid_token"`},
		{"wrong in query", plain + "?key=nope", []string{"Authorization", ""}, 401, `error="invalid_token"`},
		{"lacks scope", things, []string{"Authorization", "Bearer " + reader}, 403, `error="insufficient_scope", scope="collector:write"`},
	} {
		a := p.do("POST", c.path, body, c.headers...)
		if a.status != c.status {
			t.Errorf("%s: %d, want %d: %s", c.name, a.status, c.status, a.body)
			continue
		}
		if !strings.Contains(a.header.Get("WWW-Authenticate"), c.challenge) || (c.challenge == "") != (a.header.Get("WWW-Authenticate") == "") {
			t.Errorf("%s: WWW-Authenticate %q", c.name, a.header.Get("WWW-Authenticate"))
		}
		if a.status >= 400 {
			doc := a.problem(t)
			if a.status == 403 && !strings.Contains(doc.Detail, "collector:write") {
				t.Errorf("%s: %q does not name the scope", c.name, doc.Detail)
			}
		}
		if strings.Contains(a.body+p.log.String(), writer) {
			t.Errorf("%s: the key shows", c.name)
		}
	}
}

func TestGuessingKeysIsSlowedDownPerAddress(t *testing.T) {
	t.Parallel()
	p := start(t, setup{cfg: web.Config{TrustedProxies: []string{"127.0.0.0/8"}}}, things)
	guess := func(forwarded string) answer {
		return p.do("GET", "/collector/things/a", "", "Authorization", "Bearer sb_aaaaaaaaaaaa_wrong", "X-Forwarded-For", forwarded)
	}
	good := func() int {
		return p.do("GET", "/collector/things/a", "", "X-Forwarded-For", "198.51.100.7").status
	}
	good() // from now on the key is known
	var last answer
	for range 200 {
		if last = guess("203.0.113.9, 198.51.100.7"); last.status == 429 {
			break
		}
	}
	if last.status != 429 || last.header.Get("Retry-After") == "" {
		t.Fatalf("%d %v", last.status, last.header)
	}
	last.problem(t)
	if a := guess("198.51.100.7, 198.51.100.8"); a.status != 401 {
		t.Errorf("another address behind the same proxy: %d", a.status)
	}
	// What a client made up in front of its own address does not count.
	if a := guess("1.2.3.4, 198.51.100.7"); a.status != 429 {
		t.Errorf("a made-up hop: %d", a.status)
	}
	if got := good(); got != 200 {
		t.Errorf("a good key from the same address: %d", got)
	}
}

func TestBrowsersOfListedOriginsMayCall(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, func(r *web.Router) {
		ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) })
		r.Handle(web.Op{ID: "collector-send", Method: "POST", Path: "/collector/events", Summary: "Send", Scope: "collector:write", CORS: true, KeyInQuery: true}, ok)
		r.Handle(web.Op{ID: "collector-list", Method: "GET", Path: "/collector/events", Summary: "List", Scope: "collector:read"}, ok)
	})
	shop := p.key(auth.NewKey{Name: "shop", Scopes: []string{"collector:write"}, App: "shop", Origins: []string{"https://shop.example"}})
	server := p.key(auth.NewKey{Name: "server", Scopes: []string{"collector:write"}, App: "server"})

	pre := p.do("OPTIONS", "/collector/events", "", "Authorization", "", "Origin", "https://anyone.example",
		"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-api-key,content-type")
	if pre.status != 204 {
		t.Fatalf("preflight: %d %s", pre.status, pre.body)
	}
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin":  "https://anyone.example",
		"Access-Control-Allow-Methods": "POST",
		"Access-Control-Allow-Headers": "Authorization, X-API-Key, Content-Type, Content-Encoding, X-Signature, Idempotency-Key, X-Request-Id",
		"Access-Control-Max-Age":       "600",
		"Vary":                         "Origin",
	} {
		if got := pre.header.Get(name); got != want {
			t.Errorf("preflight %s: %q", name, got)
		}
	}
	if a := p.do("OPTIONS", "/healthz", "", "Origin", "https://shop.example"); a.status != 405 || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of a route without CORS: %d", a.status)
	}

	own := p.url
	for _, c := range []struct {
		name, key, origin string
		status            int
		allowed           string
	}{
		{"listed", shop, "https://shop.example", 202, "https://shop.example"},
		{"not listed", shop, "https://evil.example", 403, ""},
		{"null", shop, "null", 403, ""},
		{"port differs", shop, "https://shop.example:444", 403, ""},
		{"key without origins", server, "https://shop.example", 403, ""},
		{"same host", server, own, 202, ""},
		{"no browser", shop, "", 202, ""},
		{"bad key", "nope", "https://shop.example", 401, ""},
	} {
		for _, headers := range [][]string{{"Authorization", "Bearer " + c.key, "Origin", c.origin}, {"Authorization", "", "Origin", c.origin}} {
			path := "/collector/events"
			if headers[1] == "" {
				path += "?key=" + c.key
			}
			a := p.do("POST", path, "{}", headers...)
			if a.status != c.status || a.header.Get("Access-Control-Allow-Origin") != c.allowed {
				t.Errorf("%s: %d %q, want %d %q", c.name, a.status, a.header.Get("Access-Control-Allow-Origin"), c.status, c.allowed)
			}
		}
	}
}

func TestExpiredAndRevokedKeysAreRefused(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, things)
	key, secret, _, err := p.guard.Create(t.Context(), auth.NewKey{Name: "short", Scopes: []string{"collector:read"}})
	if err != nil {
		t.Fatal(err)
	}
	get := func() int {
		return p.do("GET", "/collector/things/a", "", "Authorization", "Bearer "+secret).status
	}
	if got := get(); got != 200 {
		t.Fatalf("before: %d", got)
	}
	if err := p.guard.Revoke(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	if got := get(); got != 401 {
		t.Errorf("after: %d", got)
	}
}
