package browser_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const key = "sb_web_0123456789abcdef"

type event struct {
	ID        string         `json:"id"`
	SessionID string         `json:"session_id"`
	UserID    string         `json:"user_id"`
	Category  string         `json:"category"`
	Name      string         `json:"name"`
	Data      map[string]any `json:"data"`
	Timestamp time.Time      `json:"timestamp"`
}

// request is one attempt as it looked on the wire.
type request struct {
	at          time.Time
	preflight   bool
	beacon      bool // the key was in the address
	contentType string
	size        int
	events      []event
}

func (r request) names() (names []string) {
	for _, e := range r.events {
		names = append(names, e.Name)
	}
	return names
}

// collector answers POST /collector/events as CONTRACTS.md says, on an origin
// of its own. An event whose data holds "bad" is rejected.
type collector struct {
	url     string
	allowed string // origin; empty: all

	mu       sync.Mutex
	script   []func(w http.ResponseWriter) bool // for the next POSTs: false goes on as usual
	requests []request
	stored   []event // once each, in order of arrival
}

// newCollector starts one.
func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	c.url = srv.URL
	return c
}

// newCollectorDown is one that refuses connections until up is called.
func newCollectorDown(t *testing.T) (c *collector, up func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c = &collector{url: "http://" + address}
	return c, func() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: c, ReadHeaderTimeout: time.Second}}
		srv.Start()
		t.Cleanup(srv.Close)
	}
}

// says scripts the next answers.
func (c *collector) says(answers ...func(w http.ResponseWriter) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.script = append(c.script, answers...)
}

// status is a scripted answer; header is name, value, …
func status(code int, header ...string) func(w http.ResponseWriter) bool {
	return func(w http.ResponseWriter) bool {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, `{"title":"scripted"}`)
		return true
	}
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if origin := r.Header.Get("Origin"); c.allowed == "" || origin == c.allowed {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Expose-Headers", "Retry-After")
		w.Header().Set("Vary", "Origin")
	}
	if r.Method == http.MethodOptions {
		c.requests = append(c.requests, request{at: time.Now(), preflight: true})
		w.Header().Set("Access-Control-Allow-Methods", "POST")
		w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
		w.Header().Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	body, err := io.ReadAll(r.Body)
	var in struct {
		Events []event `json:"events"`
	}
	if err != nil || json.Unmarshal(body, &in) != nil || r.Method != http.MethodPost || r.URL.Path != "/collector/events" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	c.requests = append(c.requests, request{
		at: time.Now(), beacon: r.URL.Query().Has("key"), contentType: r.Header.Get("Content-Type"), size: len(body), events: in.Events,
	})
	if r.URL.Query().Get("key") != key && r.Header.Get("Authorization") != "Bearer "+key {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if len(c.script) > 0 {
		answer := c.script[0]
		c.script = c.script[1:]
		if answer(w) {
			return
		}
	}
	c.take(w, in.Events)
}

func (c *collector) take(w http.ResponseWriter, events []event) {
	type detail map[string]any
	rejected, all := []detail{}, []detail{}
	for i, e := range events {
		if e.Data["bad"] != nil {
			errs := []detail{{"location": "data.bad", "message": "unexpected"}}
			rejected = append(rejected, detail{"index": i, "errors": errs})
			all = append(all, errs...)
		} else if !slices.ContainsFunc(c.stored, func(s event) bool { return s.ID == e.ID }) {
			c.stored = append(c.stored, e)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if len(rejected) == len(events) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(detail{"status": 422, "title": "none acceptable", "errors": all})
		return
	}
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(detail{"accepted": len(events) - len(rejected), "rejected": rejected, "ids": []string{}})
}

// posts gives the requests but for preflights.
func (c *collector) posts() (posts []request) {
	for _, r := range c.all() {
		if !r.preflight {
			posts = append(posts, r)
		}
	}
	return posts
}

func (c *collector) events() []event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.stored)
}

func (c *collector) all() []request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// names gives the names of what is stored, in order of arrival, in one string.
func (c *collector) names() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(request{events: c.stored}.names(), " ")
}
