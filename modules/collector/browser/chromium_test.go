package browser_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// wait is how long a page may take for what a test asks of it, browser start
// included, on a machine that does other things as well.
const wait = 60 * time.Second

// openBrowser opens a page in a Chromium of its own, with an empty profile,
// for the duration of the test. Without Chromium the test is skipped, in CI it
// fails. Nothing but the page is needed to talk to it: see site.
func openBrowser(t *testing.T, url string) {
	t.Helper()
	path := program(t, "chromium", "chromium", "chromium-browser", "google-chrome")
	profile, err := os.MkdirTemp("", "chromium") // t.TempDir would fail on files that appear while it is removed
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-dev-shm-usage", "--disable-popup-blocking",
		"--user-data-dir="+profile, url)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // all its processes end with it
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // killed
		_ = os.RemoveAll(profile)
		if t.Failed() {
			t.Logf("chromium: %s", output.Bytes())
		}
	})
}

// program finds the first of these names; in CI it has to be there.
func program(t *testing.T, what string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("no %s", what)
	}
	t.Skipf("no %s", what)
	return ""
}

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
