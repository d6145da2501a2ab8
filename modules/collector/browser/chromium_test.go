package browser_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// wait is how long a page may take for what a test asks of it, browser start
// included, on a machine that does other things as well.
const wait = 60 * time.Second

// site serves client.js and a test's pages, and takes what they report.
type site struct {
	*httptest.Server
	reports chan string

	mu    sync.Mutex
	pages map[string]string
}

// newSite starts a site with one page per path. A page is the body of an async
// function that may use createClient, from client.js on the same site, and
// report(value), which gives a string or JSON to the test.
func newSite(t *testing.T, pages map[string]string) *site {
	t.Helper()
	s := &site{reports: make(chan string, 100), pages: pages}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /client.js", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		http.ServeFile(w, r, "client.js")
	})
	mux.HandleFunc("POST /report", func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the page went away while it spoke
		}
		s.reports <- string(body)
	})
	mux.HandleFunc("GET /", s.page)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *site) page(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	script, ok := s.pages[r.URL.Path]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, `<!doctype html><title>test</title><link rel="icon" href="data:,"><script type="module">
import { createClient } from '/client.js'
const report = value => fetch('/report', { method: 'POST', keepalive: true, body: typeof value === 'string' ? value : JSON.stringify(value) })
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
addEventListener('error', e => report('error: ' + e.message))
addEventListener('unhandledrejection', e => report('error: ' + e.reason))
try {
`+script+`
} catch (e) { report('error: ' + e.stack) }
</script>`)
}

// next is the pages' next report.
func (s *site) next(t *testing.T) string {
	t.Helper()
	select {
	case r := <-s.reports:
		return r
	case <-time.After(wait):
		t.Fatal("no report from the page")
		return ""
	}
}

// want is the pages' next report, which must be this.
func (s *site) want(t *testing.T, want string) {
	t.Helper()
	if got := s.next(t); got != want {
		t.Fatalf("the page reports %s, want %s", got, want)
	}
}

// until waits for a condition that a page brings about.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(wait); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %s", what)
		}
	}
}
