package collector_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

func TestEventWithTheSameIDFromTheSameApplicationIsStoredOnce(t *testing.T) {
	t.Parallel()
	p := start(t)
	shop := p.NewKey(fields{"app": "shop", "scopes": []string{"collector:write"}})
	till := p.NewKey(fields{"app": "shop", "scopes": []string{"collector:write"}}) // the same application by another key
	blog := p.NewKey(fields{"app": "blog", "scopes": []string{"collector:write"}})
	e := func(id, session string) fields { return pageview(session, fields{"id": id}) }

	// Within a batch; the first one counts.
	if got := postAs(t, p, shop, []fields{e("e-1", "s-1"), e("e-1", "s-2"), e("e-2", "s-1")}); !slices.Equal(got.IDs, []string{"e-1", "e-1", "e-2"}) {
		t.Errorf("ids %v", got.IDs)
	}
	stored(t, p, 2)
	// In later requests, with other content, by another key.
	postAs(t, p, shop, e("e-1", "s-1"))
	postAs(t, p, till, []fields{e("e-2", "s-9"), e("e-3", "s-1")})
	stored(t, p, 3)
	// Of another application it is another event.
	postAs(t, p, blog, []fields{e("e-1", "s-1"), e("e-2", "s-1")})
	stored(t, p, 5)
	p.Restart()
	postAs(t, p, shop, []fields{e("e-1", "s-1"), e("e-2", "s-1"), e("e-3", "s-1"), e("e-4", "s-1")})

	all := stored(t, p, 6)
	seen := map[string]int{}
	for _, e := range all {
		seen[e.App+" "+e.ID]++
		if e.SessionID != "s-1" {
			t.Errorf("%s lies in %s: the first one did not count", e.ID, e.SessionID)
		}
	}
	if len(seen) != 6 {
		t.Errorf("stored: %v", seen)
	}
	// Sessions and counters agree.
	if s := list[session](t, p, "/collector/sessions"); len(s.Items) != 1 || s.Items[0].Events != 6 {
		t.Errorf("sessions: %+v", s.Items)
	}
	total := 0
	for _, s := range walk[stat](t, p, "/collector/stats?bucket=day&from=2021-01-01T00:00:00Z&to=2021-01-02T00:00:00Z") {
		total += s.Events
	}
	if total != 6 {
		t.Errorf("the counters say %d", total)
	}
}

func TestEventsWithoutIDGetOneEachAndKeepIt(t *testing.T) {
	t.Parallel()
	p := start(t)
	got := post(t, p, []fields{pageview("s-1"), pageview("s-1"), pageview("s-1", fields{"id": "mine"})})
	again := post(t, p, pageview("s-1"))
	want := append(got.IDs, again.IDs...)
	var ids []string
	for _, e := range stored(t, p, 4) {
		ids = append(ids, e.ID)
	}
	if !slices.Equal(ids, want) || slices.Contains(ids, "") || ids[2] != "mine" {
		t.Errorf("stored %v, answered %v", ids, want)
	}
}

// repeat sends a request with an Idempotency-Key.
func repeat(t *testing.T, p *apptest.Product, credential, key string, body any) (*http.Response, receipt) {
	t.Helper()
	req := p.Request(credential, http.MethodPost, "/collector/events", body)
	req.Header.Set("Idempotency-Key", key)
	resp, text := p.Exchange(req)
	var r receipt
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatalf("%s: %s", resp.Status, text)
	}
	return resp, r
}

func TestRequestWithTheSameIdempotencyKeyGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	now := newClock()
	p := start(t, apptest.Now(now.now))
	batch := fields{"events": []any{pageview("s-1"), 5, pageview("s-1"), pageview("s-1", fields{"id": "mine"})}}
	resp, first := repeat(t, p, p.Key, "k-1", batch)
	if resp.StatusCode != http.StatusAccepted || first.Accepted != 3 || len(first.Rejected) != 1 || first.Rejected[0].Index != 1 {
		t.Fatalf("first: %s %+v", resp.Status, first)
	}
	again := func(when string) {
		t.Helper()
		if resp, got := repeat(t, p, p.Key, "k-1", batch); resp.StatusCode != http.StatusAccepted || !slices.Equal(got.IDs, first.IDs) {
			t.Errorf("%s: %s %+v, want %+v", when, resp.Status, got, first)
		}
	}
	again("at once")
	p.Restart()
	again("after a restart")
	now.advance(23 * time.Hour)
	again("almost a day later")
	if resp, _ := repeat(t, p, p.Key, "k-1", pageview("s-2")); resp.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("with another body: %s", resp.Status)
	}
	// Another credential has its own keys; another key is another request.
	other := p.NewKey(fields{"app": "other", "scopes": []string{"collector:write"}})
	if resp, got := repeat(t, p, other, "k-1", pageview("s-3")); resp.StatusCode != http.StatusAccepted || got.Accepted != 1 {
		t.Errorf("another credential: %s %+v", resp.Status, got)
	}
	if _, got := repeat(t, p, p.Key, "k-2", batch); got.IDs[0] == first.IDs[0] {
		t.Error("another key gave the same ids")
	}
	stored(t, p, 1, "session_id", "s-3")
	stored(t, p, 5, "session_id", "s-1") // 3 + 2: the one with an id of its own is known
	stored(t, p, 0, "session_id", "s-2")
	kept(t, p, 2)
}

// A day later the key is free again. Its new events are others than the first,
// though they have the same place under the same key.
func TestIdempotencyKeyMayBeUsedAnewAfterADay(t *testing.T) {
	t.Parallel()
	now := newClock()
	p := start(t, apptest.Now(now.now))
	_, first := repeat(t, p, p.Key, "daily", pageview("s-1"))
	now.advance(25 * time.Hour)
	resp, second := repeat(t, p, p.Key, "daily", pageview("s-2"))
	if resp.StatusCode != http.StatusAccepted || second.Accepted != 1 || second.IDs[0] == first.IDs[0] {
		t.Fatalf("a day later: %s %+v", resp.Status, second)
	}
	stored(t, p, 1, "session_id", "s-2")
}

func TestRefusalIsRepeatedForTheSameIdempotencyKey(t *testing.T) {
	t.Parallel()
	p := start(t)
	for range 2 {
		req := p.Request(p.Key, http.MethodPost, "/collector/events", `{}`)
		req.Header.Set("Idempotency-Key", "k")
		if got := refused(t, p, req); got.Status != http.StatusUnprocessableEntity || len(got.Errors) != 5 {
			t.Errorf("got %+v", got)
		}
	}
	kept(t, p, 1) // and rejected once
}

func TestConcurrentTwinsAreStoredOnce(t *testing.T) {
	t.Parallel()
	p := start(t)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			// Six requests with three keys, and six with ids, all twice.
			body := pageview("s-1")
			if i%2 == 0 {
				body["id"] = fmt.Sprint("e-", i%3)
			}
			req := p.Request(p.Key, http.MethodPost, "/collector/events", body)
			if i%2 == 1 {
				req.Header.Set("Idempotency-Key", fmt.Sprint("k-", i%3))
			}
			if resp, text := p.Exchange(req); resp.StatusCode != http.StatusAccepted {
				t.Errorf("%s: %s", resp.Status, text)
			}
		})
	}
	wg.Wait()
	post(t, p, pageview("s-2"))
	stored(t, p, 1, "session_id", "s-2")
	stored(t, p, 6, "session_id", "s-1")
}
