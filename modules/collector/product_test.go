package collector_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchboard/modules/collector"
	"switchboard/platform/app"
	"switchboard/platform/apptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs the product with the collector alone.
func start(t testing.TB, options ...apptest.Option) *apptest.Product {
	t.Helper()
	return apptest.Start(t, []app.Module{collector.Module}, options...)
}

// fields is a JSON object in the making.
type fields = map[string]any

// pageview is an event of a session as a client sends it, with some fields
// changed; a nil takes one out.
func pageview(session string, changes ...fields) fields {
	e := fields{
		"session_id": session, "category": "page interaction", "name": "pageview",
		"data": fields{"host": "www.consumeraffairs.com", "path": "/"}, "timestamp": "2021-01-01 09:15:27.243860",
	}
	for _, change := range changes {
		for name, value := range change {
			if e[name] = value; value == nil {
				delete(e, name)
			}
		}
	}
	return e
}

// event is an event as the contract gives it back.
type event struct {
	ID         string          `json:"id"`
	SessionID  string          `json:"session_id"`
	Category   string          `json:"category"`
	Name       string          `json:"name"`
	App        string          `json:"app"`
	UserID     string          `json:"user_id"`
	Data       json.RawMessage `json:"data"`
	Timestamp  string          `json:"timestamp"`
	ReceivedAt string          `json:"received_at"`
}

// fault is an entry of errors in a problem, a receipt or a reject.
type fault struct {
	Location string `json:"location"`
	Message  string `json:"message"`
	Value    any    `json:"value"`
}

type problem struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Detail string  `json:"detail"`
	Errors []fault `json:"errors"`
}

type receipt struct {
	Accepted int `json:"accepted"`
	Rejected []struct {
		Index  int     `json:"index"`
		Errors []fault `json:"errors"`
	} `json:"rejected"`
	IDs []string `json:"ids"`
}

type reject struct {
	ID         string          `json:"id"`
	App        string          `json:"app"`
	Category   string          `json:"category"`
	Name       string          `json:"name"`
	Reason     string          `json:"reason"`
	Errors     []fault         `json:"errors"`
	Payload    json.RawMessage `json:"payload"`
	ReceivedAt string          `json:"received_at"`
	RetriedAt  string          `json:"retried_at"`
}

type page[T any] struct {
	Items []T     `json:"items"`
	Next  *string `json:"next"`
}

// post sends events with the admin key and wants them all accepted.
func post(t testing.TB, p *apptest.Product, body any) receipt {
	t.Helper()
	return postAs(t, p, p.Key, body)
}

func postAs(t testing.TB, p *apptest.Product, key string, body any) receipt {
	t.Helper()
	var r receipt
	if status := p.CallAs(key, http.MethodPost, "/collector/events", body, &r); status != http.StatusAccepted {
		t.Fatalf("POST /collector/events: %d", status)
	}
	if len(r.IDs) != r.Accepted {
		t.Errorf("%d ids for %d accepted events", len(r.IDs), r.Accepted)
	}
	return r
}

// refused sends a request that must fail and gives its problem.
func refused(t testing.TB, p *apptest.Product, req *http.Request) problem {
	t.Helper()
	resp, body := p.Exchange(req)
	var got problem
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("%s: not a problem: %s", resp.Status, body)
	}
	if media := resp.Header.Get("Content-Type"); media != "application/problem+json" {
		t.Errorf("the problem comes as %q", media)
	}
	if got.Status != resp.StatusCode || got.Title == "" || got.Type == "" || got.Detail == "" {
		t.Errorf("the problem is not complete: %s", body)
	}
	if resp.Header.Get("X-Request-Id") == "" {
		t.Error("the answer has no X-Request-Id")
	}
	return got
}

// locations lists where faults are, "body.name body.data".
func locations(faults []fault) string {
	var at []string
	for _, f := range faults {
		at = append(at, f.Location)
	}
	return strings.Join(at, " ")
}

// query makes the query part of an address: query("session_id", "s 1").
func query(pairs ...string) string {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		q.Add(pairs[i], pairs[i+1])
	}
	return "?" + q.Encode()
}

// list reads one page and wants a 200.
func list[T any](t testing.TB, p *apptest.Product, path string) page[T] {
	t.Helper()
	var out page[T]
	if status := p.Call(http.MethodGet, path, nil, &out); status != http.StatusOK {
		t.Fatalf("GET %s: %d", path, status)
	}
	if out.Items == nil {
		t.Errorf("GET %s: items is null", path)
	}
	return out
}

// walk reads a list to its end, page by page.
func walk[T any](t testing.TB, p *apptest.Product, path string) (all []T) {
	t.Helper()
	join := "?"
	if strings.Contains(path, "?") {
		join = "&"
	}
	for at, pages := path, 0; ; pages++ {
		got := list[T](t, p, at)
		all = append(all, got.Items...)
		if got.Next == nil {
			return all
		}
		if len(got.Items) == 0 || pages > 1000 {
			t.Fatalf("GET %s does not end", path)
		}
		at = path + join + "cursor=" + url.QueryEscape(*got.Next)
	}
}

// stored waits until exactly n events match the query and gives them.
func stored(t testing.TB, p *apptest.Product, n int, pairs ...string) (events []event) {
	t.Helper()
	apptest.Eventually(t, func() string {
		events = walk[event](t, p, "/collector/events"+query(append(pairs, "limit", "1000")...))
		if len(events) < n {
			return fmt.Sprintf("%d of %d events are there", len(events), n)
		}
		return ""
	})
	if len(events) != n {
		t.Fatalf("%d events are there, want %d", len(events), n)
	}
	return events
}

// kept waits until exactly n refused events match the query and gives them.
func kept(t testing.TB, p *apptest.Product, n int, pairs ...string) (rejects []reject) {
	t.Helper()
	apptest.Eventually(t, func() string {
		rejects = walk[reject](t, p, "/collector/rejects"+query(append(pairs, "limit", "1000")...))
		if len(rejects) < n {
			return fmt.Sprintf("%d of %d rejects are there", len(rejects), n)
		}
		return ""
	})
	if len(rejects) != n {
		t.Fatalf("%d rejects are there, want %d", len(rejects), n)
	}
	return rejects
}

// names lists the names of events, "a b c".
func names(events []event) string {
	var out []string
	for _, e := range events {
		out = append(out, e.Name)
	}
	return strings.Join(out, " ")
}

// sameJSON tells whether two texts mean the same.
func sameJSON(a, b []byte) bool {
	var x, y any
	if errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)) != nil {
		return false
	}
	one, err1 := json.Marshal(x)
	two, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && string(one) == string(two)
}

// sample reads a file of testdata.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// putSchemas puts the schemas of testdata in place.
func putSchemas(t testing.TB, p *apptest.Product) {
	t.Helper()
	for path, file := range map[string]string{
		"page%20interaction/pageview":    "schemas/page-interaction.pageview.json",
		"page%20interaction/cta%20click": "schemas/page-interaction.cta-click.json",
		"form%20interaction/submit":      "schemas/form-interaction.submit.json",
	} {
		if status := p.Call(http.MethodPut, "/collector/schemas/"+path, sample(t, file), nil); status != http.StatusCreated {
			t.Fatalf("put schema %s: %d", path, status)
		}
	}
}

// clock is a time that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now().UTC().Truncate(time.Second)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// drain reads a body to its end.
func drain(t testing.TB, body io.ReadCloser) string {
	t.Helper()
	text, err := io.ReadAll(body)
	if err = errors.Join(err, body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(text)
}
