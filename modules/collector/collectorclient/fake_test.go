package collectorclient_test

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchboard/modules/collector/collectorclient"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	goleak.VerifyTestMain(m)
}

const key = "sb_web_0123456789abcdef"

type event struct {
	ID        string          `json:"id"`
	SessionID string          `json:"session_id"`
	UserID    string          `json:"user_id"`
	Category  string          `json:"category"`
	Name      string          `json:"name"`
	Data      json.RawMessage `json:"data"`
	Timestamp string          `json:"timestamp"`
}

// request is what one attempt looked like on the wire.
type request struct {
	at     time.Time
	header http.Header
	size   int // as sent
	events []event
}

// collector answers POST /collector/events as CONTRACTS.md says. An event
// whose data holds "bad" is rejected.
type collector struct {
	key      string
	secret   string // of signatures
	maxBytes int    // inflated; 413 above

	mu       sync.Mutex
	script   []http.HandlerFunc // answers for the next requests; nil: the usual one
	always   http.HandlerFunc   // answer for all of them, if not nil
	requests []request
	stored   []event // once each, in order of arrival
	ids      map[string]bool
}

func newCollector() *collector {
	return &collector{key: key, maxBytes: 8 << 20, ids: map[string]bool{}}
}

// RoundTrip lets the collector stand in for a network, so that a test can run
// on a fake clock.
func (c *collector) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	if err := c.serve(w, r); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c.serve(w, r) != nil {
		panic(http.ErrAbortHandler)
	}
}

// lost is a scripted answer: the connection breaks before one comes.
func lost(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(499) }

// storedButLost stores the batch and breaks the connection then.
func storedButLost(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(498) }

func (c *collector) serve(w http.ResponseWriter, r *http.Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	body := raw
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return err
		}
		if body, err = io.ReadAll(z); err != nil {
			return err
		}
	}
	var in struct {
		Events []event `json:"events"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	badBody := d.Decode(&in)
	c.requests = append(c.requests, request{at: time.Now(), header: r.Header.Clone(), size: len(raw), events: in.Events})
	answer := c.always
	if len(c.script) > 0 {
		answer, c.script = c.script[0], c.script[1:]
	}
	if answer != nil {
		return c.scripted(answer, w, r, in.Events)
	}
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/collector/events":
		problem(w, 404, "no such route")
	case r.Header.Get("Authorization") != "Bearer "+c.key:
		problem(w, 401, "bad key")
	case c.secret != "" && !signed(c.secret, r.Header.Get("X-Signature"), raw):
		problem(w, 401, "bad signature")
	case len(body) > c.maxBytes || len(in.Events) > 1000:
		problem(w, 413, "too large")
	case badBody != nil:
		problem(w, 422, badBody.Error())
	default:
		c.take(w, in.Events)
	}
	return nil
}

func (c *collector) scripted(answer http.HandlerFunc, w http.ResponseWriter, r *http.Request, events []event) error {
	probe := httptest.NewRecorder()
	answer(probe, r)
	switch probe.Code {
	case 498:
		c.take(httptest.NewRecorder(), events)
		return io.ErrUnexpectedEOF
	case 499:
		return io.ErrUnexpectedEOF
	}
	answer(w, r)
	return nil
}

func (c *collector) take(w http.ResponseWriter, events []event) {
	type detail struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	}
	type rejected struct {
		Index  int      `json:"index"`
		Errors []detail `json:"errors"`
	}
	rejects, ids := []rejected{}, []string{}
	var all []detail
	for i, e := range events {
		ids = append(ids, e.ID)
		if strings.Contains(string(e.Data), `"bad"`) {
			rejects = append(rejects, rejected{i, []detail{{"data.bad", "unexpected property"}}})
			all = append(all, detail{fmt.Sprintf("body.events[%d].data.bad", i), "unexpected property"})
			continue
		}
		if !c.ids[e.ID] {
			c.ids[e.ID] = true
			c.stored = append(c.stored, e)
		}
	}
	if len(rejects) == len(events) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(422)
		_ = json.NewEncoder(w).Encode(map[string]any{"title": "Unprocessable Entity", "status": 422, "detail": "none acceptable", "errors": all})
		return
	}
	w.WriteHeader(202)
	_ = json.NewEncoder(w).Encode(map[string]any{"accepted": len(events) - len(rejects), "rejected": rejects, "ids": ids})
}

func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"title": http.StatusText(status), "status": status, "detail": detail})
}

// says makes a scripted answer; header is name, value, …
func says(status int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		problem(w, status, "scripted")
	}
}

func signed(secret, header string, body []byte) bool {
	t, v1, _ := strings.Cut(header, ",")
	t = strings.TrimPrefix(t, "t=")
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(t + "." + string(body)))
	return v1 == "v1="+hex.EncodeToString(mac.Sum(nil))
}

// names gives the names of what is stored, in order of arrival.
func (c *collector) names() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.stored {
		names = append(names, e.Name)
	}
	return names
}

func (c *collector) got() []request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]request(nil), c.requests...)
}

func (c *collector) says(always http.HandlerFunc, next ...http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.always, c.script = always, next
}

// reports gathers what OnError is told.
type reports struct {
	mu   sync.Mutex
	list []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, err)
}

func (r *reports) all() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.list...)
}

// start makes a client of the collector without a network between them.
func start(t *testing.T, c *collector, set func(*collectorclient.Options)) (*collectorclient.Client, *reports) {
	t.Helper()
	errs := &reports{}
	o := collectorclient.Options{
		URL: "http://collector.test", Key: key,
		HTTPClient: &http.Client{Transport: c},
		OnError:    errs.add,
	}
	if set != nil {
		set(&o)
	}
	client, err := collectorclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return client, errs
}

func track(t *testing.T, c *collectorclient.Client, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := c.Track("s1", "page interaction", n, map[string]any{"path": "/"}); err != nil {
			t.Fatalf("track %s: %v", n, err)
		}
	}
}

func numbered(from, to int) (names []string) {
	for i := from; i < to; i++ {
		names = append(names, fmt.Sprintf("e%03d", i))
	}
	return names
}
