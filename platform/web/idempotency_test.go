package web_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/auth"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
	"switchboard/platform/web"
)

// creator counts how often it has created something.
type creator struct {
	made    atomic.Int64
	status  atomic.Int64
	hold    chan struct{} // closed = does not wait
	entered chan struct{}
}

func newCreator() *creator {
	c := &creator{hold: make(chan struct{}), entered: make(chan struct{}, 100)}
	c.status.Store(201)
	return c
}

func (c *creator) mount(r *web.Router) {
	things(r)
	h := func(w http.ResponseWriter, r *http.Request) {
		c.entered <- struct{}{}
		<-c.hold
		n := c.made.Add(1)
		w.Header().Set("Location", fmt.Sprint("/x/", n))
		web.WriteJSON(w, int(c.status.Load()), map[string]any{"n": n, "key": web.IdempotencyKey(r.Context())})
	}
	for _, path := range []string{"/x/one", "/x/two/{id}"} {
		id := "x-create-" + strings.Trim(strings.NewReplacer("/", "-", "{", "", "}", "").Replace(path), "-")
		r.Handle(web.Op{ID: id, Method: "POST", Path: path, Summary: "Create", Scope: "collector:write", Creates: true}, http.HandlerFunc(h))
	}
	r.Handle(web.Op{ID: "x-panics", Method: "POST", Path: "/x/panics", Summary: "Create", Scope: "collector:write", Creates: true}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		c.made.Add(1)
		panic("on the way")
	}))
	r.Handle(web.Op{ID: "x-huge", Method: "POST", Path: "/x/huge", Summary: "Create", Scope: "collector:write", Creates: true}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c.made.Add(1)
		for range 3 {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
		}
	}))
}

func TestSameKeyAndBodyGiveTheFirstAnswerAgain(t *testing.T) {
	t.Parallel()
	storetest.Each(t, web.Migrations(), func(t *testing.T, db *store.DB) {
		c := newCreator()
		close(c.hold)
		var clock atomic.Int64
		clock.Store(time.Now().UnixMicro())
		now := func() time.Time { return time.UnixMicro(clock.Load()) }
		p := start(t, setup{db: db, now: now}, c.mount)
		post := func(path, body, key string, more ...string) answer {
			t.Helper()
			return p.do("POST", path, body, append([]string{"Idempotency-Key", key}, more...)...)
		}
		expect := func(what string, a answer, status int, body string, replayed bool) {
			t.Helper()
			if a.status != status || !strings.Contains(a.body, body) || (a.header.Get("Idempotency-Replayed") == "true") != replayed {
				t.Errorf("%s: %d %s replayed=%q", what, a.status, a.body, a.header.Get("Idempotency-Replayed"))
			}
		}

		first := post("/x/one", `{"a":1}`, "k1")
		expect("first", first, 201, `"n":1`, false)
		if !strings.Contains(first.body, `"key":"k1"`) {
			t.Errorf("the handler does not see the key: %s", first.body)
		}
		expect("again, with a slash", post("/x/one/", `{"a":1}`, "k1"), 201, `"n":1`, true)
		again := post("/x/one", `{"a":1}`, "k1")
		expect("again", again, 201, `"n":1`, true)
		for _, name := range []string{"Content-Type", "Location"} {
			if first.header.Get(name) == "" || first.header.Get(name) != again.header.Get(name) {
				t.Errorf("%s: %q, then %q", name, first.header.Get(name), again.header.Get(name))
			}
		}
		expect("gzip of the same body", post("/x/one", zipped(t, `{"a":1}`), "k1", "Content-Encoding", "gzip"), 201, `"n":1`, true)

		other := post("/x/one", `{"a":2}`, "k1")
		expect("another body", other, 422, "Idempotency-Key", false)
		other.problem(t)
		expect("another key", post("/x/one", `{"a":1}`, "k2"), 201, `"n":2`, false)
		expect("another route", post("/x/two/7", `{"a":1}`, "k1"), 201, `"n":3`, false)
		expect("another path of that route", post("/x/two/8", `{"a":1}`, "k1"), 422, "", false)
		writer := p.key(auth.NewKey{Name: "app", Scopes: []string{"collector:write"}})
		expect("another caller", post("/x/one", `{"a":1}`, "k1", "Authorization", "Bearer "+writer), 201, `"n":4`, false)
		expect("no key", p.do("POST", "/x/one", `{"a":1}`), 201, `"n":5`, false)
		for _, bad := range []string{strings.Repeat("x", 256), "two words", "ümlaut"} {
			expect("a bad key", post("/x/one", `{"a":1}`, bad), 422, "Idempotency-Key", false)
		}

		c.status.Store(503)
		expect("a failure", post("/x/one", `{}`, "k3"), 503, `"n":6`, false)
		c.status.Store(201)
		expect("is not kept", post("/x/one", `{}`, "k3"), 201, `"n":7`, false)
		c.status.Store(409)
		expect("a refusal", post("/x/one", `{}`, "k4"), 409, `"n":8`, false)
		expect("is kept", post("/x/one", `{}`, "k4"), 409, `"n":8`, true)
		c.status.Store(201)

		expect("a panic", post("/x/panics", `{}`, "k5"), 500, "", false)
		expect("frees the key", post("/x/panics", `{}`, "k5"), 500, "", false)
		if a := post("/x/huge", `{}`, "k6"); a.status != 200 || len(a.body) != 3<<20 {
			t.Errorf("a huge answer: %d, %d bytes", a.status, len(a.body))
		}
		made := c.made.Load()
		post("/x/huge", `{}`, "k6")
		if c.made.Load() != made+1 {
			t.Error("a huge answer was kept")
		}

		expect("huma, first", post("/collector/things", `{"name":"a"}`, "k1"), 201, `"name":"a"`, false)
		expect("huma, again", post("/collector/things", `{"name":"a"}`, "k1"), 201, `"name":"a"`, true)
		expect("huma, invalid", post("/collector/things", `{"name":""}`, "k7"), 422, `body.name`, false)
		expect("huma, invalid again", post("/collector/things", `{"name":""}`, "k7"), 422, `body.name`, true)

		clock.Add((23 * time.Hour).Microseconds())
		expect("after 23 hours", post("/x/one", `{"a":1}`, "k1"), 201, `"n":1`, true)
		clock.Add((61 * time.Minute).Microseconds())
		if a := post("/x/one", `{"a":1}`, "k1"); a.status != 201 || a.header.Get("Idempotency-Replayed") != "" {
			t.Errorf("after a day: %d %s", a.status, a.body)
		}
	})
}

func TestConcurrentTwinsCreateOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, web.Migrations(), func(t *testing.T, db *store.DB) {
		c := newCreator()
		// Two instances on one database.
		a := start(t, setup{db: db}, c.mount)
		const twins = 12
		answers := make([]answer, twins)
		var wg sync.WaitGroup
		for i := range twins {
			wg.Go(func() { answers[i] = a.do("POST", "/x/one", `{"a":1}`, "Idempotency-Key", "twin") })
		}
		<-c.entered
		close(c.hold)
		wg.Wait()
		replayed := 0
		for _, got := range answers {
			if got.status != 201 || !strings.Contains(got.body, `"n":1`) {
				t.Errorf("%d %s", got.status, got.body)
			}
			if got.header.Get("Idempotency-Replayed") != "" {
				replayed++
			}
		}
		if c.made.Load() != 1 || replayed != twins-1 {
			t.Errorf("created %d times, replayed %d", c.made.Load(), replayed)
		}
	})
}

func TestTwinOfASlowRequestIsToldToWait(t *testing.T) {
	t.Parallel()
	c := newCreator()
	p := start(t, setup{}, c.mount)
	first := make(chan answer, 1)
	go func() { first <- p.do("POST", "/x/one", `{}`, "Idempotency-Key", "slow") }()
	<-c.entered
	twin := p.do("POST", "/x/one", `{}`, "Idempotency-Key", "slow")
	twin.problem(t)
	if twin.status != 409 || twin.header.Get("Retry-After") == "" {
		t.Errorf("twin: %d %v", twin.status, twin.header)
	}
	if other := p.do("POST", "/x/one", `{"b":1}`, "Idempotency-Key", "slow"); other.status != 422 {
		t.Errorf("another body meanwhile: %d", other.status)
	}
	close(c.hold)
	if a := <-first; a.status != 201 {
		t.Errorf("first: %d", a.status)
	}
}

func TestClientThatLeftFindsItsAnswer(t *testing.T) {
	t.Parallel()
	c := newCreator()
	p := start(t, setup{}, c.mount)
	req := must[*http.Request](t)(http.NewRequest("POST", p.url+"/x/one", strings.NewReader(`{}`)))
	req.Header.Set("Authorization", "Bearer "+p.admin)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", "impatient")
	own := &http.Client{Transport: &http.Transport{}, Timeout: 100 * time.Millisecond}
	if res, err := own.Do(req); err == nil {
		_ = res.Body.Close()
		t.Fatal("the request did not time out")
	}
	close(c.hold)
	if a := p.do("POST", "/x/one", `{}`, "Idempotency-Key", "impatient"); a.status != 201 || a.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestKeptAnswersAreSealedAndSweptWhenExpired(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := must[*store.DB](t)(store.Open(t.Context(), store.Config{Dir: dir}, "web", web.Migrations()))
	t.Cleanup(func() { _ = db.Close() })
	past := time.Now().Add(-48 * time.Hour)
	p := start(t, setup{db: db, now: func() time.Time { return past }}, things)
	const canary = "canary-8413"
	p.do("POST", "/collector/things", `{"name":"`+canary+`"}`, "Idempotency-Key", "key-"+canary)
	p.stop()
	rows := func() (n int) {
		if err := db.Read().QueryRowContext(t.Context(), `select count(*) from idempotency`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if rows() != 1 {
		t.Fatalf("%d rows", rows())
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte("canary")) {
			t.Errorf("%s holds the answer or the key in the clear", filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	start(t, setup{db: db}, nil) // sweeps when it begins to serve
	eventually(t, "the expired row is deleted", func() bool { return rows() == 0 })
}
