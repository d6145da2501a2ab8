package collector_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// session is a session as it is given back.
type session struct {
	SessionID  string   `json:"session_id"`
	FirstAt    string   `json:"first_at"`
	LastAt     string   `json:"last_at"`
	Events     int      `json:"events"`
	Apps       []string `json:"apps"`
	Categories []string `json:"categories"`
}

func TestSessionSumsUpItsEvents(t *testing.T) {
	t.Parallel()
	p := start(t)
	shop := p.NewKey(fields{"app": "shop", "scopes": []string{"collector:write"}})
	blog := p.NewKey(fields{"app": "blog", "scopes": []string{"collector:write"}})
	at := func(day int) fields { return fields{"timestamp": fmt.Sprintf("2021-01-%02d 12:00:00", day)} }
	postAs(t, p, shop, []fields{pageview("s-1", at(5)), pageview("s-1", at(3), fields{"category": "form"}), pageview("s-2", at(9))})
	postAs(t, p, blog, []fields{pageview("s-1", at(4)), pageview("s-1", at(7)), pageview("s-1", at(7))})
	stored(t, p, 6)
	check := func(got session, id string, first, last, events int, apps, categories string) {
		t.Helper()
		day := func(n int) string { return fmt.Sprintf("2021-01-%02dT12:00:00.000000Z", n) }
		if got.SessionID != id || got.FirstAt != day(first) || got.LastAt != day(last) || got.Events != events ||
			strings.Join(got.Apps, ",") != apps || strings.Join(got.Categories, ",") != categories {
			t.Errorf("got %+v", got)
		}
	}
	all := list[session](t, p, "/collector/sessions").Items
	if len(all) != 2 {
		t.Fatalf("%d sessions", len(all))
	}
	check(all[0], "s-2", 9, 9, 1, "shop", "page interaction") // newest first
	check(all[1], "s-1", 3, 7, 5, "blog,shop", "form,page interaction")

	var one struct {
		session
		page[event]
	}
	if status := p.Call(http.MethodGet, "/collector/sessions/s-1", nil, &one); status != http.StatusOK {
		t.Fatalf("one session: %d", status)
	}
	check(one.session, "s-1", 3, 7, 5, "blog,shop", "form,page interaction")
	var days []string
	for _, e := range one.Items {
		days = append(days, e.Timestamp[8:10])
	}
	if !slices.Equal(days, []string{"03", "04", "05", "07", "07"}) || one.Next != nil {
		t.Errorf("its events are of %v", days)
	}
	p.Restart()
	postAs(t, p, blog, pageview("s-1", at(1)))
	stored(t, p, 7)
	if status := p.Call(http.MethodGet, "/collector/sessions/s-1", nil, &one); status != http.StatusOK {
		t.Fatalf("one session: %d", status)
	}
	check(one.session, "s-1", 1, 7, 6, "blog,shop", "form,page interaction")
}

func TestSessionsAreListedByPagesAndTime(t *testing.T) {
	t.Parallel()
	p := start(t)
	var batch []fields
	var want []string
	for i := range 30 {
		id := fmt.Sprintf("s %02d/ä", i)
		// Three at each second, so that a page ends among equals.
		batch = append(batch, pageview(id, fields{"timestamp": fmt.Sprintf("2021-01-01 00:00:%02d", i/3)}))
		want = append(want, id)
	}
	post(t, p, batch)
	stored(t, p, 30)
	var got, seconds []string
	for _, s := range walk[session](t, p, "/collector/sessions?limit=4") {
		got = append(got, s.SessionID)
		seconds = append(seconds, s.FirstAt)
	}
	if !sameSet(got, want) || !slices.IsSortedFunc(seconds, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Errorf("got %v at %v", got, seconds)
	}
	for _, c := range []struct {
		filters []string
		want    int
	}{
		{[]string{"from", "2021-01-01 00:00:08"}, 6},
		{[]string{"to", "2021-01-01T00:00:00Z"}, 3},
		{[]string{"from", "2021-01-01T00:00:03Z", "to", "2021-01-01T00:00:04Z"}, 6},
		{[]string{"from", "2021-01-01T00:00:00.000001Z", "to", "2021-01-01T00:00:00.999999Z"}, 0},
	} {
		if n := len(walk[session](t, p, "/collector/sessions"+query(append(c.filters, "limit", "4")...))); n != c.want {
			t.Errorf("%v: %d sessions, want %d", c.filters, n, c.want)
		}
	}
	for _, id := range want[:3] {
		if status := p.Call(http.MethodGet, "/collector/sessions/"+url.PathEscape(id), nil, nil); status != http.StatusOK {
			t.Errorf("session %q: %d", id, status)
		}
	}
}

func TestWhatIsPastItsRetentionGoes(t *testing.T) {
	t.Parallel()
	now := newClock()
	p := start(t, apptest.Now(now.now), apptest.Env("APP_COLLECTOR_RETENTION=48h", "APP_COLLECTOR_REJECT_RETENTION=24h"))
	here := func(session string) fields {
		return pageview(session, fields{"timestamp": now.now().Format(time.RFC3339)})
	}
	post(t, p, []any{here("old"), here("old"), here("long")})
	p.Call(http.MethodPost, "/collector/events", `{}`, nil)
	stored(t, p, 3)
	kept(t, p, 1)

	now.advance(25 * time.Hour) // the reject is past it, the events are not
	apptest.Eventually(t, func() string {
		if n := len(walk[reject](t, p, "/collector/rejects")); n > 0 {
			return fmt.Sprintf("%d rejects are there", n)
		}
		return ""
	})
	p.Call(http.MethodPost, "/collector/events", `{"name":"new"}`, nil)
	post(t, p, []any{here("long"), here("new")})
	stored(t, p, 5)

	now.advance(24 * time.Hour) // now the first events are
	apptest.Eventually(t, func() string {
		if n := len(walk[event](t, p, "/collector/events")); n > 2 {
			return fmt.Sprintf("%d events are there", n)
		}
		if n := len(walk[session](t, p, "/collector/sessions")); n > 2 {
			return fmt.Sprintf("%d sessions are there", n)
		}
		return ""
	})
	stored(t, p, 1, "session_id", "long")
	stored(t, p, 1, "session_id", "new")
	if r := kept(t, p, 1); r[0].Name != "new" {
		t.Errorf("the wrong reject went: %+v", r[0])
	}
	if status := p.Call(http.MethodGet, "/collector/sessions/old", nil, nil); status != http.StatusNotFound {
		t.Errorf("the old session: %d", status)
	}
	// A session of that name can begin anew.
	post(t, p, here("old"))
	stored(t, p, 1, "session_id", "old")
	var again session
	if status := p.Call(http.MethodGet, "/collector/sessions/old", nil, &again); status != http.StatusOK || again.Events != 1 {
		t.Errorf("begun anew: %d %+v", status, again)
	}
}

func TestRetentionOfZeroKeepsForEver(t *testing.T) {
	t.Parallel()
	now := newClock()
	p := start(t, apptest.Now(now.now), apptest.Env("APP_COLLECTOR_RETENTION=0", "APP_COLLECTOR_REJECT_RETENTION=1h"))
	post(t, p, pageview("s-1"))
	p.Call(http.MethodPost, "/collector/events", `{}`, nil)
	stored(t, p, 1)
	kept(t, p, 1)
	now.advance(10 * 365 * 24 * time.Hour)
	apptest.Eventually(t, func() string { // the sweep has been
		if n := len(walk[reject](t, p, "/collector/rejects")); n > 0 {
			return fmt.Sprintf("%d rejects are there", n)
		}
		return ""
	})
	stored(t, p, 1)
}
