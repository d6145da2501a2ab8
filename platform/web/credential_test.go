package web_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
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

// hooks mounts a route for clients that can send a Basic credential and no
// other, and one for which ?key= is another way.
func hooks(r *web.Router) {
	things(r)
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	r.Handle(web.Op{ID: "collector-hook", Method: "POST", Path: "/collector/hook", Summary: "Hook", Scope: "collector:write", Status: 204, KeyInBasic: true}, ok)
	r.Handle(web.Op{ID: "collector-hook-any", Method: "POST", Path: "/collector/hook/any", Summary: "Hook", Scope: "collector:write", Status: 204, KeyInBasic: true, KeyInQuery: true}, ok)
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestAKeyMayComeAsThePasswordOfBasicWhereAllowed(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, hooks)
	writer := p.key(auth.NewKey{Name: "platform", Scopes: []string{"collector:write"}})
	reader := p.key(auth.NewKey{Name: "dashboard", Scopes: []string{"collector:read"}})
	const hook, either, elsewhere = "/collector/hook", "/collector/hook/any", "/collector/plain"
	both := []string{`Bearer realm="switchboard"`, `Basic realm="switchboard"`}
	invalid := []string{both[0] + `, error="invalid_token"`, both[1]}
	lacks := []string{both[0] + `, error="insufficient_scope", scope="collector:write"`}
	for _, c := range []struct {
		name, path string
		headers    []string
		status     int
		challenges []string
		detail     string
	}{
		{"password", hook, []string{"Authorization", basic("vendor", writer)}, 204, nil, ""},
		{"no user", hook, []string{"Authorization", basic("", writer)}, 204, nil, ""},
		{"lower case scheme", hook, []string{"Authorization", strings.Replace(basic("x", writer), "Basic", "basic", 1)}, 204, nil, ""},
		{"two spaces", hook, []string{"Authorization", strings.Replace(basic("x", writer), " ", "  ", 1)}, 204, nil, ""},
		{"bearer still", hook, []string{"Authorization", "Bearer " + writer}, 204, nil, ""},
		{"header still", hook, []string{"Authorization", "", "X-API-Key", writer}, 204, nil, ""},
		{"header before a proxy's Basic", hook, []string{"Authorization", basic("proxy", "x"), "X-API-Key", writer}, 204, nil, ""},
		{"query before a proxy's Basic", either + "?key=" + writer, []string{"Authorization", basic("proxy", "x")}, 204, nil, ""},
		{"password beside an empty query", either + "?key=", []string{"Authorization", basic("vendor", writer)}, 204, nil, ""},
		{"password where the query is another way", either, []string{"Authorization", basic("vendor", writer)}, 204, nil, ""},
		{"query where Basic is another way", either + "?key=" + writer, []string{"Authorization", ""}, 204, nil, ""},
		{"query where only Basic is", hook + "?key=" + writer, []string{"Authorization", ""}, 401, both, "password"},
		{"none", hook, []string{"Authorization", ""}, 401, both, "password of Basic"},
		{"key as the user", hook, []string{"Authorization", basic(writer, "")}, 401, both, "no password"},
		{"no colon", hook, []string{"Authorization", "Basic eA=="}, 401, both, "no password"},
		{"not base64", hook, []string{"Authorization", "Basic !!"}, 401, both, "no password"},
		{"nothing after the scheme", hook, []string{"Authorization", "Basic"}, 401, both, "no password"},
		{"another scheme", hook, []string{"Authorization", "Digest x"}, 401, both, "Bearer or Basic"},
		{"wrong", hook, []string{"Authorization", basic("vendor", "sb_aaaaaaaaaaaa_bbbb")}, 401, invalid, ""},
		{"colons in the password", hook, []string{"Authorization", basic("vendor", "a:"+writer)}, 401, invalid, ""},
		{"lacks scope", hook, []string{"Authorization", basic("vendor", reader)}, 403, lacks, "collector:write"},
		{"elsewhere", elsewhere, []string{"Authorization", basic("vendor", writer)}, 401, both[:1], "use Bearer"},
	} {
		a := p.do("POST", c.path, "{}", c.headers...)
		if a.status != c.status {
			t.Errorf("%s: %d, want %d: %s", c.name, a.status, c.status, a.body)
			continue
		}
		if got := a.header.Values("WWW-Authenticate"); !slices.Equal(got, c.challenges) {
			t.Errorf("%s: challenges %q, want %q", c.name, got, c.challenges)
		}
		if a.status >= 400 && !strings.Contains(a.problem(t).Detail, c.detail) {
			t.Errorf("%s: %s", c.name, a.body)
		}
		if strings.Contains(a.body+p.log.String(), writer) {
			t.Errorf("%s: the key shows", c.name)
		}
	}
}

func TestGuessingByBasicIsSlowedDown(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, hooks)
	writer := p.key(auth.NewKey{Name: "platform", Scopes: []string{"collector:write"}})
	post := func(password string) answer {
		return p.do("POST", "/collector/hook", "{}", "Authorization", basic("vendor", password))
	}
	if a := post(writer); a.status != 204 { // from now on the key is known
		t.Fatalf("%d %s", a.status, a.body)
	}
	var last answer
	for range 200 {
		if last = post("sb_aaaaaaaaaaaa_wrong"); last.status == 429 {
			break
		}
	}
	if last.status != 429 || last.header.Get("Retry-After") == "" {
		t.Errorf("%d %v", last.status, last.header)
	}
	if a := post(writer); a.status != 204 {
		t.Errorf("a good key from the same address: %d", a.status)
	}
}

func TestBasicIsDescribedWhereItIsTaken(t *testing.T) {
	t.Parallel()
	describe := func(mount func(*web.Router)) document {
		r := must[*web.Server](t)(web.New(web.Config{}, web.Deps{})).Router()
		mount(r)
		data, _, err := r.OpenAPI()
		if err = errors.Join(err, r.Validate()); err != nil {
			t.Fatal(err)
		}
		var doc document
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		return doc
	}
	scope := []string{"collector:write"}
	doc := describe(hooks)
	for path, schemes := range map[string][]string{
		"/collector/hook":     {"bearer", "apiKey", "basic"},
		"/collector/hook/any": {"bearer", "apiKey", "apiKeyQuery", "basic"},
		"/collector/plain":    {"bearer", "apiKey", "apiKeyQuery"},
	} {
		var want []map[string][]string
		for _, scheme := range schemes {
			want = append(want, map[string][]string{scheme: scope})
		}
		if got := doc.Paths[path]["post"].Security; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if doc.Components.SecuritySchemes["basic"] == nil {
		t.Error("no security scheme basic")
	}
	if without := describe(things); without.Components.SecuritySchemes["basic"] != nil {
		t.Error("a scheme that no operation takes is described")
	}
	r := must[*web.Server](t)(web.New(web.Config{}, web.Deps{})).Router()
	r.Handle(web.Op{ID: "x-y", Method: "POST", Path: "/x", Summary: "X", Scope: scope[0], KeyInBasic: true, CORS: true}, http.NotFoundHandler())
	if err := r.Validate(); err == nil || !strings.Contains(err.Error(), "KeyInBasic") {
		t.Errorf("Basic for browsers of other origins: %v", err)
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
