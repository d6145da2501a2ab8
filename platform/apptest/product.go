package apptest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/platform/app"
)

// Product is the whole product, running in this process.
type Product struct {
	// URL of the server, without a slash at its end.
	URL string
	// Key is the admin key.
	Key string
	// Dir is the data directory.
	Dir string
	// Log is what it has written to its log.
	Log *Log

	t       testing.TB
	options app.Options
	stop    context.CancelFunc
	done    chan error
}

// Option changes how a product is started.
type Option func(*app.Options)

// Args gives flags of "app serve".
func Args(args ...string) Option {
	return func(o *app.Options) { o.Args = append(o.Args, args...) }
}

// Env gives variables of the environment, as NAME=value.
func Env(env ...string) Option { return func(o *app.Options) { o.Env = append(o.Env, env...) } }

// Now gives the clock.
func Now(now func() time.Time) Option { return func(o *app.Options) { o.Now = now } }

// Start runs the product on a fresh data directory and a free port, and stops
// it at the end of the test.
func Start(t testing.TB, modules []app.Module, options ...Option) *Product {
	t.Helper()
	p := &Product{Dir: t.TempDir(), Log: &Log{}, t: t}
	p.options = app.Options{Modules: modules, Stdout: io.Discard, Stderr: p.Log, Now: time.Now,
		Args: []string{"--listen=127.0.0.1:0", "--data-dir=" + p.Dir}}
	for _, o := range options {
		o(&p.options)
	}
	p.start()
	t.Cleanup(p.Stop)
	return p
}

func (p *Product) start() {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan string, 1)
	o := p.options
	o.Ready = func(url string) { ready <- url }
	p.stop, p.done = cancel, make(chan error, 1)
	go func() { p.done <- app.Serve(ctx, o) }()
	select {
	case p.URL = <-ready:
	case err := <-p.done:
		cancel()
		p.stop = nil
		p.t.Fatalf("the product did not start: %v\n%s", err, p.Log)
	}
	key, err := os.ReadFile(filepath.Join(p.Dir, "admin.key"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.Key = strings.TrimSpace(string(key))
}

// Stop stops the product and fails the test if it does not end well. A second
// call does nothing.
func (p *Product) Stop() {
	if p.stop == nil {
		return
	}
	p.stop()
	p.stop = nil
	if err := <-p.done; err != nil {
		p.t.Errorf("the product did not stop well: %v\n%s", err, p.Log)
	}
	http.DefaultClient.CloseIdleConnections()
}

// Restart stops the product and starts it again on the same data directory.
func (p *Product) Restart() {
	p.t.Helper()
	p.Stop()
	p.start()
}

// Call sends a request with the admin key and reads the answer into out unless
// that is nil. body is sent as it is if it is a string, []byte or io.Reader,
// else as JSON. It gives the status.
func (p *Product) Call(method, path string, body, out any) int {
	p.t.Helper()
	return p.CallAs(p.Key, method, path, body, out)
}

// CallAs is Call with another key; an empty one sends none.
func (p *Product) CallAs(key, method, path string, body, out any) int {
	p.t.Helper()
	resp, text := p.Exchange(p.Request(key, method, path, body))
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			p.t.Fatalf("%s %s: %s: %v: %s", method, path, resp.Status, err, text)
		}
	}
	return resp.StatusCode
}

// Request makes a request for Exchange.
func (p *Product) Request(key, method, path string, body any) *http.Request {
	p.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	case io.Reader:
		r = b
	default:
		text, err := json.Marshal(b)
		if err != nil {
			p.t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, p.URL+path, r)
	if err != nil {
		p.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req
}

// Exchange sends a request and gives the answer with its whole body.
func (p *Product) Exchange(req *http.Request) (*http.Response, []byte) {
	p.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		p.t.Fatal(err)
	}
	return resp, text
}

// NewKey makes a key; fields are those of POST /admin/keys.
func (p *Product) NewKey(fields map[string]any) string {
	p.t.Helper()
	if fields["name"] == nil {
		fields["name"] = "test"
	}
	var k struct {
		Key string `json:"key"`
	}
	if status := p.Call(http.MethodPost, "/admin/keys", fields, &k); status != http.StatusCreated {
		p.t.Fatalf("make a key: %d", status)
	}
	return k.Key
}

// patience is how long Eventually waits: far longer than anything takes.
const patience = 30 * time.Second

// Eventually waits until the condition holds; it gives the reason why not yet,
// or nothing.
func Eventually(t testing.TB, condition func() (whyNot string)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		why := condition()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not after %s: %s", patience, why)
		}
		time.Sleep(pause)
	}
}

// Log collects what a product writes.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Hits counts how often each text stands in the files under dir and in the
// log, as it is; the names of the files come with it. It is the canary test's
// eye.
func Hits(t testing.TB, dir, log string, texts ...string) []string {
	t.Helper()
	var hits []string
	look := func(name string, content []byte) {
		for _, text := range texts {
			if n := bytes.Count(content, []byte(text)); n > 0 {
				hits = append(hits, fmt.Sprintf("%q stands %d times in %s", text, n, name))
			}
		}
	}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil // the product that runs has removed it since
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		look(strings.TrimPrefix(path, dir), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	look("the log", []byte(log))
	return hits
}
