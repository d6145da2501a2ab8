package collector_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// watcher reads /collector/live.
type watcher struct {
	t      *testing.T
	events chan event
	ended  chan struct{}
	stop   func()
}

// watch begins to watch; what is stored after it returned is seen.
func watch(t *testing.T, p *apptest.Product, key, filters string) *watcher {
	t.Helper()
	w := &watcher{t: t, events: make(chan event, 1000), ended: make(chan struct{})}
	req := p.Request(key, http.MethodGet, "/collector/live"+filters, nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if media := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || media != "text/event-stream" {
		t.Fatalf("watch: %s %s", resp.Status, media)
	}
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != ": watching\n" {
		t.Fatalf("it begins with %q, %v", line, err)
	}
	go func() {
		defer close(w.ended)
		kind := ""
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch {
			case field == "event":
				kind = value
			case field == "data" && kind == "event":
				var e event
				if json.Unmarshal([]byte(value), &e) == nil {
					w.events <- e
				}
			}
		}
	}()
	w.stop = func() { _ = resp.Body.Close(); <-w.ended }
	t.Cleanup(w.stop)
	return w
}

// next waits for the next event.
func (w *watcher) next() event {
	w.t.Helper()
	select {
	case e := <-w.events:
		return e
	case <-w.ended:
		w.t.Fatal("the stream ended")
	case <-time.After(30 * time.Second):
		w.t.Fatal("no event came")
	}
	return event{}
}

func TestWatchersSeeWhatIsStoredAsTheyAskedFor(t *testing.T) {
	t.Parallel()
	p := start(t)
	shop := p.NewKey(fields{"app": "shop", "scopes": []string{"collector:write"}})
	reader := p.NewKey(fields{"name": "desk", "scopes": []string{"collector:read"}})
	all := watch(t, p, p.Key, "")
	byKey := watch(t, p, "", "?key="+reader)
	watchers := map[string]*watcher{
		"?session_id=s-1":               watch(t, p, reader, "?session_id=s-1"),
		"?category=form":                watch(t, p, reader, "?category=form"),
		"?name=click&app=shop":          watch(t, p, reader, "?name=click&app=shop"),
		"?app=admin&category=form":      watch(t, p, reader, "?app=admin&category=form"),
		"?session_id=nobody":            watch(t, p, reader, "?session_id=nobody"),
		"?session_id=s-1&category=form": watch(t, p, reader, "?session_id=s-1&category=form"),
	}
	ids := postAs(t, p, shop, []fields{
		pageview("s-1", fields{"name": "click", "user_id": "u-1", "data": fields{"text": "line\nbreak"}}),
		pageview("s-2", fields{"category": "form", "id": "e-1"}),
	}).IDs
	stored(t, p, 2)
	ids = append(ids, post(t, p, pageview("s-1", fields{"category": "form"})).IDs...)
	// Neither refused events nor repeated ones are seen; the last one ends the wait.
	p.Call(http.MethodPost, "/collector/events", `{}`, nil)
	postAs(t, p, shop, pageview("s-2", fields{"category": "form", "id": "e-1"}))
	last := post(t, p, pageview("s-1", fields{"category": "form", "name": "last"})).IDs[0]
	stored(t, p, 4)

	for name, w := range map[string]*watcher{"header": all, "query": byKey} {
		for _, want := range append(ids, last) {
			if got := w.next(); got.ID != want {
				t.Errorf("key in %s: saw %+v, want %s", name, got, want)
			}
		}
	}
	for filters, want := range map[string][]string{
		"?session_id=s-1": {ids[0], ids[2], last}, "?category=form": {ids[1], ids[2], last}, "?name=click&app=shop": {ids[0]},
		"?app=admin&category=form": {ids[2], last}, "?session_id=nobody": nil, "?session_id=s-1&category=form": {ids[2], last},
	} {
		for _, id := range want {
			if got := watchers[filters].next(); got.ID != id {
				t.Errorf("%s: saw %s, want %s", filters, got.ID, id)
			}
		}
	}
	// What a watcher sees is what a query gives.
	more := watch(t, p, p.Key, "")
	id := postAs(t, p, shop, pageview("s-9", fields{"user_id": "u-1", "data": fields{"text": "line\nbreak", "n": 1.50}})).IDs[0]
	seen, found := more.next(), stored(t, p, 1, "session_id", "s-9")[0]
	if seen.ID != id || seen.App != "shop" || seen.UserID != "u-1" || seen.Timestamp != found.Timestamp || seen.ReceivedAt != found.ReceivedAt || !sameJSON(seen.Data, found.Data) {
		t.Errorf("seen %+v, found %+v", seen, found)
	}
	for filters, w := range watchers {
		w.stop()
		select {
		case e := <-w.events:
			t.Errorf("%s: saw %+v too", filters, e)
		default:
		}
	}
}

func TestWatchersDoNotHoldUpAStop(t *testing.T) {
	t.Parallel()
	p := start(t)
	w := watch(t, p, p.Key, "")
	begin := time.Now()
	p.Stop()
	<-w.ended
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the stop took %s", took)
	}
}
