package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"switchboard/platform/auth"
	"switchboard/platform/bus"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// product is a server with the real parts it stands on.
type product struct {
	t      *testing.T
	url    string
	server *web.Server
	guard  *auth.Guard
	log    *journal
	stop   func() // begins the shutdown and waits for its end
	admin  string // a key with the scope admin
}

// journal keeps what was logged.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// lines gives the log lines that hold all of parts.
func (j *journal) lines(parts ...string) []string {
	var found []string
line:
	for line := range strings.Lines(j.String()) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue line
			}
		}
		found = append(found, line)
	}
	return found
}

type setup struct {
	cfg      web.Config
	now      func() time.Time
	db       *store.DB // of the idempotency keys; an own SQLite without
	shutdown time.Duration
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// parts opens everything a server needs.
func parts(t testing.TB, s setup) (web.Deps, *journal) {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	if s.now == nil {
		s.now = time.Now
	}
	open := func(name string, opened *store.DB, err error) *store.DB {
		if err != nil {
			t.Fatalf("open %s: %v", name, err)
		}
		t.Cleanup(func() { _ = opened.Close() })
		return opened
	}
	cfg := store.Config{Dir: dir, Sync: "normal"}
	db, err := store.Open(ctx, cfg, "keys", seal.Migrations())
	keys := open("keys", db, err)
	db, err = store.Open(ctx, cfg, "auth", auth.Migrations())
	authDB := open("auth", db, err)
	if s.db == nil {
		db, err = store.Open(ctx, cfg, "web", web.Migrations())
		s.db = open("web", db, err)
	}
	log := &journal{}
	logger := slog.New(slog.NewJSONHandler(log, nil))
	b := must[*bus.Bus](t)(bus.Open(ctx, bus.Config{Dir: filepath.Join(dir, "bus"), Sync: "1m"}, logger, prometheus.NewRegistry()))
	t.Cleanup(func() { _ = b.Close() })
	master, _, err := seal.LoadMaster(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	keyring := must[*seal.Keyring](t)(seal.Open(ctx, keys, b, master, s.now, logger))
	guard := must[*auth.Guard](t)(auth.Open(ctx, authDB, keyring, b, auth.Config{FailedAttempts: 60}, s.now, logger))
	return web.Deps{Guard: guard, Keyring: keyring, DB: s.db, Log: logger, Now: s.now, Title: "Switchboard", Version: "1.2.3"}, log
}

// start serves on a port of its own until the test ends.
func start(t *testing.T, s setup, mount func(r *web.Router)) *product {
	t.Helper()
	deps, log := parts(t, s)
	server := must[*web.Server](t)(web.New(s.cfg, deps))
	if mount != nil {
		mount(server.Router())
	}
	if s.shutdown == 0 {
		s.shutdown = 5 * time.Second
	}
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l, s.shutdown) }()
	p := &product{t: t, url: "http://" + l.Addr().String(), server: server, guard: deps.Guard, log: log}
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { p.stop(); http.DefaultClient.CloseIdleConnections() })
	p.admin = p.key(auth.NewKey{Name: "admin", Scopes: []string{"admin"}})
	return p
}

func (p *product) key(n auth.NewKey) string {
	p.t.Helper()
	_, secret, _, err := p.guard.Create(p.t.Context(), n)
	if err != nil {
		p.t.Fatal(err)
	}
	return secret
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// problem reads the body as a problem.
func (a answer) problem(t *testing.T) web.ProblemDocument {
	t.Helper()
	var doc web.ProblemDocument
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
		t.Fatalf("%d is no problem: %q", a.status, a.body)
	}
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("problem as %q", ct)
	}
	if doc.Status != a.status || doc.Type == "" || doc.Title == "" {
		t.Errorf("incomplete problem for %d: %+v", a.status, doc)
	}
	return doc
}

// do sends a request as the admin. Headers are pairs; an empty value takes a
// header away.
func (p *product) do(method, path, body string, headers ...string) answer {
	p.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req := must[*http.Request](p.t)(http.NewRequest(method, p.url+path, in))
	req.Header.Set("Authorization", "Bearer "+p.admin)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Del(headers[i])
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	return p.send(req)
}

var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func (p *product) send(req *http.Request) answer {
	p.t.Helper()
	res, err := client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

// eventually polls until ok, at most for five seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
