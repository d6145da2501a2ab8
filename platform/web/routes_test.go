package web_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/auth"
	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// thing is what the test routes take.
type thing struct {
	Name  string `json:"name" minLength:"1" maxLength:"20"`
	Count int    `json:"count,omitempty" maximum:"10"`
	Phone string `json:"phone,omitempty" pattern:"^[0-9]+$" pii:"phone"`
}

type thingInput struct {
	Body thing
}

type thingOutput struct {
	Location string `header:"Location"`
	Body     thing
}

func echo(_ context.Context, in *thingInput) (*thingOutput, error) {
	return &thingOutput{Location: "/collector/things/" + in.Body.Name, Body: in.Body}, nil
}

// things mounts the same creation as a huma operation and as a plain handler.
func things(r *web.Router) {
	web.Register(r, web.Op{ID: "collector-create-thing", Method: "POST", Path: "/collector/things", Summary: "Create a thing", Scope: "collector:write", Status: 201, Creates: true}, echo)
	r.Handle(web.Op{ID: "collector-create-plain", Method: "POST", Path: "/collector/plain", Summary: "Create a thing", Scope: "collector:write", Creates: true, KeyInQuery: true},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var in thing
			if err := web.ReadJSON(w, r, 0, &in); err != nil {
				web.Fail(w, r, err)
				return
			}
			w.Header().Set("Location", "/collector/things/"+in.Name)
			web.WriteJSON(w, 201, in)
		}))
	web.Register(r, web.Op{ID: "collector-get-thing", Method: "GET", Path: "/collector/things/{id}", Summary: "One thing", Scope: "collector:read"},
		func(_ context.Context, in *struct {
			ID    string `path:"id"`
			Limit int    `query:"limit" maximum:"1000"`
		}) (*thingOutput, error) {
			return &thingOutput{Body: thing{Name: in.ID, Count: in.Limit}}, nil
		})
	r.Handle(web.Op{Path: "/sub/", Public: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.URL.Path)
	}))
}

func TestEveryPathIsAnsweredWithOrWithoutItsLastSlash(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, things)
	for _, c := range []struct {
		method, path string
		status       int
		want         string // in the body, or the Allow header of a 405
	}{
		{"GET", "/collector/things/a", 200, `"name":"a"`},
		{"GET", "/collector/things/a/", 200, `"name":"a"`},
		{"GET", "/collector/things/a%2Fb/", 200, `"name":"a/b"`},
		{"GET", "/collector/things/a//", 404, ""},
		{"GET", "/collector//things/a", 404, ""},
		{"GET", "/collector/things/../things/a", 404, ""},
		{"GET", "/collector/things/x/y", 404, ""},
		{"GET", "/nowhere", 404, ""},
		{"GET", "/nowhere/", 404, ""},
		{"GET", "/", 404, ""},
		{"GET", "/collector/things", 405, "POST"},
		{"DELETE", "/collector/things/", 405, "POST"},
		{"PATCH", "/collector/things/a/", 405, "GET, HEAD"},
		{"BREW", "/collector/things/a", 405, "GET, HEAD"},
		{"HEAD", "/collector/things/a/", 200, ""},
		{"GET", "/sub", 200, "/sub/"},
		{"GET", "/sub/", 200, "/sub/"},
		{"PUT", "/sub/x/y/", 200, "/sub/x/y/"},
		{"GET", "/healthz/", 200, `{"status":"ok"}`},
	} {
		a := p.do(c.method, c.path, "")
		if a.status != c.status {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, a.status, c.status, a.body)
			continue
		}
		if id := a.header.Get("X-Request-Id"); id == "" {
			t.Errorf("%s %s: no request id", c.method, c.path)
		}
		switch {
		case c.status == 405:
			a.problem(t)
			if a.header.Get("Allow") != c.want {
				t.Errorf("%s %s: Allow %q, want %q", c.method, c.path, a.header.Get("Allow"), c.want)
			}
		case c.status == 404:
			a.problem(t)
		case !strings.Contains(a.body, c.want):
			t.Errorf("%s %s: %q lacks %q", c.method, c.path, a.body, c.want)
		}
		if a.header.Get("Location") != "" {
			t.Errorf("%s %s: redirects to %s", c.method, c.path, a.header.Get("Location"))
		}
	}
}

func TestRequestIDIsTakenOverIfItIsOne(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, things)
	for given, taken := range map[string]bool{
		"abc-123":                true,
		strings.Repeat("x", 128): true,
		strings.Repeat("x", 129): false,
		"two words":              false,
		"umläut":                 false,
		"":                       false,
	} {
		got := p.do("GET", "/healthz", "", "X-Request-Id", given).header.Get("X-Request-Id")
		if (got == given) != taken || got == "" {
			t.Errorf("given %q, answered %q", given, got)
		}
	}
	a, b := p.do("GET", "/nope", ""), p.do("GET", "/nope", "")
	if a.header.Get("X-Request-Id") == b.header.Get("X-Request-Id") {
		t.Error("two requests share an id")
	}
}

func TestAnswersBearSecurityHeaders(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, things)
	for _, path := range []string{"/healthz", "/collector/things/a", "/nope"} {
		h := p.do("GET", path, "").header
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" ||
			!strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%s: %v", path, h)
		}
	}
	if cc := p.do("GET", "/collector/things/a", "").header.Get("Cache-Control"); cc != "no-store" {
		t.Errorf("Cache-Control %q", cc)
	}
}

func TestMistakesInRoutesAreFoundBeforeServing(t *testing.T) {
	t.Parallel()
	ok := web.Op{ID: "x-ok", Method: "GET", Path: "/x/ok", Summary: "Ok", Public: true}
	with := func(change func(*web.Op)) web.Op { op := ok; change(&op); return op }
	for want, op := range map[string]web.Op{
		"needs a Scope, or Public":          with(func(o *web.Op) { o.Public = false }),
		"both a Scope and Public":           with(func(o *web.Op) { o.Scope = "admin" }),
		`scope "x:none" does not exist`:     with(func(o *web.Op) { o.Public, o.Scope = false, "x:none" }),
		"begin with a slash":                with(func(o *web.Op) { o.Path = "x" }),
		"is not of the form":                with(func(o *web.Op) { o.ID = "Not An ID" }),
		"needs a Summary":                   with(func(o *web.Op) { o.Summary = "" }),
		"an Idempotency-Key belongs to a k": with(func(o *web.Op) { o.Creates = true }),
		"conflicts with pattern":            with(func(o *web.Op) { o.ID, o.Path = "x-same", "/healthz" }),
		"duplicate operation ID":            with(func(o *web.Op) { o.ID, o.Path = "system-health", "/x/other" }),
	} {
		server := must[*web.Server](t)(web.New(web.Config{}, web.Deps{}))
		web.Register(server.Router(), op, func(context.Context, *struct{}) (*struct{}, error) { return nil, nil })
		if err := server.Router().Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Register: %v, want %q", err, want)
		}
		server = must[*web.Server](t)(web.New(web.Config{}, web.Deps{}))
		server.Router().Handle(op, http.NotFoundHandler())
		if err := server.Router().Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Handle: %v, want %q", err, want)
		}
	}
}

// secretText must never be seen by a client.
const secretText = "sql: password=hunter2"

var failures = map[string]struct {
	err    error
	status int
	detail string
}{
	"invalid":     {errs.InvalidFields("the thing is bad", errs.Field{Location: "body.name", Message: "taken", Value: 3}), 422, "the thing is bad"},
	"notfound":    {errs.New(errs.NotFound, "no such thing"), 404, "no such thing"},
	"conflict":    {errs.New(errs.Conflict, "it is running"), 409, "it is running"},
	"denied":      {errs.New(errs.Denied, "not yours"), 403, "not yours"},
	"unavailable": {errs.Wrap(errs.Unavailable, errors.New(secretText), "the disk is full"), 503, "the disk is full"},
	"nested":      {fmt.Errorf("load %s: %w", secretText, errs.Wrap(errs.NotFound, errs.New(errs.NotFound, "no row"), "no thing")), 404, "no thing: no row"},
	"limit":       {&auth.LimitError{RetryAfter: 1500e6}, 429, "too many"},
	"internal":    {errors.New(secretText), 500, "an internal error"},
	"wrapped":     {errs.Wrap(errs.Internal, errors.New("x"), secretText), 500, "an internal error"},
}

func TestErrorsBecomeProblemsAndOursStayInTheLog(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, func(r *web.Router) {
		r.Handle(web.Op{ID: "x-plain", Method: "GET", Path: "/x/plain/{kind}", Summary: "Fails", Public: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=9")
			web.Fail(w, r, failures[r.PathValue("kind")].err)
		}))
		web.Register(r, web.Op{ID: "x-huma", Method: "GET", Path: "/x/huma/{kind}", Summary: "Fails", Public: true}, func(_ context.Context, in *struct {
			Kind string `path:"kind"`
		}) (*struct{}, error) {
			return nil, failures[in.Kind].err
		})
		// Mounted with huma's own Register, as its helpers do.
		op := web.Op{ID: "x-direct", Method: "GET", Path: "/x/direct/{kind}", Summary: "Fails", Public: true}
		huma.Register(r.API, op.Operation(r), func(_ context.Context, in *struct {
			Kind string `path:"kind"`
		}) (*struct{}, error) {
			return nil, failures[in.Kind].err
		})
		r.Handle(web.Op{ID: "x-json", Method: "GET", Path: "/x/json", Summary: "Fails", Public: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Seen", web.RequestID(r.Context()))
			web.WriteJSON(w, 200, map[string]any{"f": func() {}})
		}))
	})
	for kind, want := range failures {
		for _, path := range []string{"/x/plain/", "/x/huma/", "/x/direct/"} {
			a := p.do("GET", path+kind, "")
			doc := a.problem(t)
			if a.status != want.status || !strings.HasPrefix(doc.Detail, want.detail) {
				t.Errorf("%s%s: %d %q, want %d %q", path, kind, a.status, doc.Detail, want.status, want.detail)
			}
			if strings.Contains(a.body, "hunter2") {
				t.Errorf("%s%s shows %s", path, kind, a.body)
			}
			if retry := a.header.Get("Retry-After") != ""; retry != (want.status == 503 || want.status == 429) {
				t.Errorf("%s%s: Retry-After %q", path, kind, a.header.Get("Retry-After"))
			}
			if kind == "invalid" && (len(doc.Errors) != 1 || doc.Errors[0].Location != "body.name" || doc.Errors[0].Message != "taken") {
				t.Errorf("%s%s: %+v", path, kind, doc.Errors)
			}
			if kind == "internal" {
				if lines := p.log.lines(a.header.Get("X-Request-Id")); len(lines) != 1 || !strings.Contains(lines[0], "hunter2") || !strings.Contains(lines[0], `"level":"ERROR"`) {
					t.Errorf("%s: logged %q", path, lines)
				}
			}
		}
	}
	broken := p.do("GET", "/x/json", "")
	broken.problem(t)
	if broken.status != 500 || len(p.log.lines(broken.header.Get("X-Seen"), "unsupported type")) != 1 {
		t.Errorf("no JSON form: %d, log %s", broken.status, p.log)
	}
	if got := p.do("GET", "/x/plain/limit", "").header.Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After %q for 1.5 s", got)
	}
}

func TestPanicIsAnsweredAndLoggedOnce(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, func(r *web.Router) {
		r.Handle(web.Op{ID: "x-panic", Method: "GET", Path: "/x/panic", Summary: "Panics", Public: true}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			panic(secretText)
		}))
		web.Register(r, web.Op{ID: "x-huma-panic", Method: "GET", Path: "/x/huma-panic", Summary: "Panics", Public: true}, func(context.Context, *struct{}) (*struct{}, error) {
			panic(secretText)
		})
		r.Handle(web.Op{ID: "x-late", Method: "GET", Path: "/x/late", Summary: "Panics", Public: true}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("begun"))
			_ = http.NewResponseController(w).Flush()
			panic(secretText)
		}))
	})
	for _, path := range []string{"/x/panic", "/x/huma-panic"} {
		a := p.do("GET", path, "")
		a.problem(t)
		if a.status != 500 || strings.Contains(a.body, "hunter2") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		if lines := p.log.lines("panicked", a.header.Get("X-Request-Id")); len(lines) != 1 || !strings.Contains(lines[0], "routes_test.go") {
			t.Errorf("%s: logged %q", path, lines)
		}
	}
	res := must[*http.Response](t)(client.Get(p.url + "/x/late"))
	defer func() { _ = res.Body.Close() }()
	if body, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("a broken answer looks whole: %q", body)
	}
	if lines := p.log.lines("panicked", res.Header.Get("X-Request-Id")); len(lines) != 1 {
		t.Errorf("logged %q", lines)
	}
}

func TestLogHoldsPatternsAndNoPathsQueriesOrAddresses(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]int{"failed": 2, "all": 3, "off": 0} {
		p := start(t, setup{cfg: web.Config{AccessLog: mode}}, things)
		p.do("GET", "/collector/things/5511999990000?limit=5", "")
		p.do("GET", "/collector/things/5511999990000?limit=5511888880000", "")
		p.do("GET", "/secret/5511999990000?phone=5511777770000", "")
		p.stop()
		if lines := p.log.lines(`"msg":"request"`); len(lines) != want {
			t.Errorf("%s: %d lines, want %d: %s", mode, len(lines), want, p.log)
		}
		if mode != "off" && len(p.log.lines(`"route":"/collector/things/{id}"`, `"status":422`, `"key":`, `"duration":`, `"request_id":`, `"bytes":`, `"module":"web"`)) != 1 {
			t.Errorf("%s: no line for the route: %s", mode, p.log)
		}
		for _, leak := range []string{"5511", "127.0.0.1", "secret", "phone"} {
			if strings.Contains(p.log.String(), leak) {
				t.Errorf("%s: %q got into the log: %s", mode, leak, p.log)
			}
		}
	}
}

func TestMetricsAreByPatternAndMayNeedAKey(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, things)
	p.do("GET", "/collector/things/a", "")
	p.do("GET", "/collector/things/b/", "")
	p.do("GET", "/nope/1", "")
	text := p.do("GET", "/metrics", "", "Authorization", "").body
	for _, want := range []string{
		`http_requests_total{class="2xx",method="GET",route="/collector/things/{id}"} 2`,
		`http_requests_total{class="4xx",method="any",route="unmatched"} 1`,
		`http_request_duration_seconds_count{method="GET",route="/collector/things/{id}"} 2`,
		`http_requests_in_flight 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s:\n%s", want, text)
		}
	}
	closed := start(t, setup{cfg: web.Config{MetricsRequireKey: true}}, nil)
	if got := closed.do("GET", "/metrics", "", "Authorization", "").status; got != 401 {
		t.Errorf("metrics without a key: %d", got)
	}
	reader := closed.key(auth.NewKey{Name: "prometheus", Scopes: []string{"metrics:read"}})
	if got := closed.do("GET", "/metrics", "", "Authorization", "Bearer "+reader).status; got != 200 {
		t.Errorf("metrics with a key: %d", got)
	}
	if got := closed.do("GET", "/debug/pprof/", "", "Authorization", "Bearer "+reader).status; got != 403 {
		t.Errorf("pprof without admin: %d", got)
	}
	if got := closed.do("GET", "/debug/pprof", ""); got.status != 200 || !strings.Contains(got.body, "goroutine") {
		t.Errorf("pprof: %d", got.status)
	}
}
