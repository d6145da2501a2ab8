package collector_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

func TestRejectsTellWhatWasRefusedAndWhy(t *testing.T) {
	t.Parallel()
	now := newClock()
	p := start(t, apptest.Now(now.now))
	putSchemas(t, p)
	shop := p.NewKey(fields{"app": "shop", "scopes": []string{"collector:write"}})
	blog := p.NewKey(fields{"app": "blog", "scopes": []string{"collector:write"}})
	bodies := []string{
		eventText("data", `{"host":"h","path":"/", "element":"chat <b>"}`),
		eventText("session_id", "7", "name", `"cta click"`),
		`[{"name":"x","category":"y"},5]`,
	}
	begin := now.now()
	for i, key := range []string{shop, blog, shop} {
		if status := p.CallAs(key, http.MethodPost, "/collector/events", bodies[i], nil); status != http.StatusUnprocessableEntity {
			t.Fatalf("event %d: %d", i, status)
		}
		kept(t, p, []int{1, 2, 4}[i])
		now.advance(time.Minute)
	}
	all := kept(t, p, 4)
	// Newest first; the two of one request in any order.
	schema, shape := all[3], all[2]
	if schema.App != "shop" || schema.Category != "page interaction" || schema.Name != "pageview" || schema.Reason != "schema" ||
		locations(schema.Errors) != "body.data.element" || !sameJSON(schema.Payload, []byte(bodies[0])) || schema.RetriedAt != "" {
		t.Errorf("got %+v, payload %s", schema, schema.Payload)
	}
	if at := begin.Format("2006-01-02T15:04:05.000000Z"); schema.ReceivedAt != at {
		t.Errorf("received at %s, want %s", schema.ReceivedAt, at)
	}
	if shape.App != "blog" || shape.Reason != "shape" || locations(shape.Errors) != "body.session_id" || !sameJSON(shape.Payload, []byte(bodies[1])) {
		t.Errorf("got %+v, payload %s", shape, shape.Payload)
	}
	payloads := []string{string(all[0].Payload), string(all[1].Payload)}
	if !sameSet(payloads, []string{`{"name":"x","category":"y"}`, "5"}) {
		t.Errorf("payloads %v", payloads)
	}
	minute := func(n int) string { return begin.Add(time.Duration(n) * time.Minute).Format(time.RFC3339) }
	for _, c := range []struct {
		filters []string
		want    int
	}{
		{[]string{"app", "shop"}, 3},
		{[]string{"app", "shop", "reason", "shape"}, 2},
		{[]string{"reason", "schema"}, 1},
		{[]string{"category", "page interaction"}, 2},
		{[]string{"category", "y", "name", "x"}, 1},
		{[]string{"name", "cta click"}, 1},
		{[]string{"from", minute(1)}, 3},
		{[]string{"to", minute(1)}, 2},
		{[]string{"from", minute(1), "to", minute(1)}, 1},
		{[]string{"app", "nobody"}, 0},
	} {
		if got := walk[reject](t, p, "/collector/rejects"+query(append(c.filters, "limit", "1")...)); len(got) != c.want {
			t.Errorf("%v: %d rejects, want %d", c.filters, len(got), c.want)
		}
	}
	p.Restart()
	kept(t, p, 4)
}

func TestRejectIsAcceptedAfterItsSchemaWasMended(t *testing.T) {
	t.Parallel()
	p := start(t)
	putSchemas(t, p)
	shop := p.NewKey(fields{"app": "shop", "scopes": []string{"collector:write"}})
	if status := p.CallAs(shop, http.MethodPost, "/collector/events", pageview("s-1", fields{"data": fields{"url": "/"}, "user_id": "u-1"}), nil); status != http.StatusUnprocessableEntity {
		t.Fatalf("the event: %d", status)
	}
	path := "/collector/rejects/" + kept(t, p, 1)[0].ID + "/retry"

	// Not yet: nothing has changed.
	got := refused(t, p, p.Request(p.Key, http.MethodPost, path, nil))
	if got.Status != http.StatusUnprocessableEntity || !sameSet(strings.Fields(locations(got.Errors)), []string{"body.data.host", "body.data.path", "body.data.url"}) {
		t.Errorf("too early: %+v", got)
	}
	if r := kept(t, p, 1)[0]; r.RetriedAt != "" {
		t.Errorf("retried at %s", r.RetriedAt)
	}

	p.Call(http.MethodPut, "/collector/schemas/page%20interaction/pageview", `{"required":["url"]}`, nil)
	var first, second receipt
	if status := p.Call(http.MethodPost, path, nil, &first); status != http.StatusAccepted || first.Accepted != 1 || len(first.IDs) != 1 {
		t.Fatalf("retry: %d %+v", status, first)
	}
	if status := p.Call(http.MethodPost, path, nil, &second); status != http.StatusAccepted || len(second.IDs) != 1 || second.IDs[0] != first.IDs[0] {
		t.Errorf("retry again: %d %+v, want %+v", status, second, first)
	}
	// A marker behind both: whatever was stored twice would be there by now.
	post(t, p, pageview("s-2", fields{"data": fields{"url": "/"}}))
	stored(t, p, 1, "session_id", "s-2")
	e := stored(t, p, 1, "session_id", "s-1")[0]
	if e.App != "shop" || e.ID != first.IDs[0] || e.UserID != "u-1" || string(e.Data) != `{"url":"/"}` {
		t.Errorf("stored as %+v", e)
	}
	if r := kept(t, p, 1)[0]; r.RetriedAt == "" {
		t.Error("the reject does not say that it was accepted after all")
	}
}

func TestRejectWithTheClientsIDIsStoredOnceEvenIfSentAgain(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.Call(http.MethodPut, "/collector/schemas/page%20interaction/pageview", `false`, nil)
	e := pageview("s-1", fields{"id": "e-1"})
	p.Call(http.MethodPost, "/collector/events", e, nil)
	id := kept(t, p, 1)[0].ID
	p.Call(http.MethodDelete, "/collector/schemas/page%20interaction/pageview", nil, nil)
	post(t, p, e)
	if status := p.Call(http.MethodPost, "/collector/rejects/"+id+"/retry", nil, nil); status != http.StatusAccepted {
		t.Errorf("retry: %d", status)
	}
	post(t, p, pageview("s-2"))
	stored(t, p, 1, "session_id", "s-2")
	stored(t, p, 1, "session_id", "s-1")
}

func TestRejectThatWasTooEarlyIsAcceptedOnceItsTimeHasCome(t *testing.T) {
	t.Parallel()
	now := newClock()
	p := start(t, apptest.Now(now.now))
	body := pageview("s-1", fields{"timestamp": now.now().Add(time.Hour).Format(time.RFC3339)})
	p.Call(http.MethodPost, "/collector/events", body, nil)
	path := "/collector/rejects/" + kept(t, p, 1)[0].ID + "/retry"
	if status := p.Call(http.MethodPost, path, nil, nil); status != http.StatusUnprocessableEntity {
		t.Errorf("too early: %d", status)
	}
	now.advance(55 * time.Minute)
	if status := p.Call(http.MethodPost, path, nil, nil); status != http.StatusAccepted {
		t.Errorf("in time: %d", status)
	}
	stored(t, p, 1)
}

func TestWhatIsNoEventStaysRefused(t *testing.T) {
	t.Parallel()
	p := start(t)
	bad := []string{`5`, `null`, `"x"`, `[` + eventText() + `]`, `{"events":[` + eventText() + `]}`, `{}`,
		eventText("data", nested(600)), eventText("data", `{"a":"`+strings.Repeat("x", 70<<10)+`"}`, "extra", "1")}
	if status := p.Call(http.MethodPost, "/collector/events", "["+strings.Join(bad, ",")+"]", nil); status != http.StatusUnprocessableEntity {
		t.Fatalf("the batch: %d", status)
	}
	for _, r := range kept(t, p, len(bad)) {
		if len(r.Payload) > 64<<10 {
			t.Errorf("%d bytes of payload are kept", len(r.Payload))
		}
		got := refused(t, p, p.Request(p.Key, http.MethodPost, "/collector/rejects/"+r.ID+"/retry", nil))
		if got.Status != http.StatusUnprocessableEntity {
			t.Errorf("retry of %.50s: %d", r.Payload, got.Status)
		}
	}
	for id, want := range map[string]int{"00000000-0000-0000-0000-000000000000": 404, "nobody": 422} {
		if got := refused(t, p, p.Request(p.Key, http.MethodPost, "/collector/rejects/"+id+"/retry", nil)); got.Status != want {
			t.Errorf("retry of %s: %d", id, got.Status)
		}
	}
	post(t, p, pageview("s-1"))
	stored(t, p, 1)
	kept(t, p, len(bad))
}

func TestRejectsAreListedByPages(t *testing.T) {
	t.Parallel()
	p := start(t)
	var batch []int
	for i := range 25 {
		batch = append(batch, i)
	}
	p.Call(http.MethodPost, "/collector/events", batch, nil) // all received at one time
	p.Call(http.MethodPost, "/collector/events", batch, nil)
	kept(t, p, 50)
	seen := map[string]int{}
	for _, r := range walk[reject](t, p, "/collector/rejects?limit=7") {
		seen[r.ID]++
	}
	if len(seen) != 50 {
		t.Errorf("%d rejects were seen", len(seen))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was seen %d times", id, n)
		}
	}
}

// A full desk loses its oldest entries and no more.
func TestOldestRejectsGoWhenThereAreTooMany(t *testing.T) {
	t.Parallel()
	now := newClock()
	p := start(t, apptest.Now(now.now), apptest.Env("APP_COLLECTOR_MAX_REJECTS=5"))
	for round := range 2 { // each of one time
		p.Call(http.MethodPost, "/collector/events", []fields{{"name": fmt.Sprint(round)}, {"name": fmt.Sprint(round)}, {"name": fmt.Sprint(round)}, {"name": fmt.Sprint(round)}}, nil)
		kept(t, p, 4*(round+1))
		now.advance(time.Second)
	}
	now.advance(time.Hour)
	apptest.Eventually(t, func() string {
		if n := len(walk[reject](t, p, "/collector/rejects")); n > 5 {
			return fmt.Sprintf("%d rejects are there", n)
		}
		return ""
	})
	if kept(t, p, 5); len(kept(t, p, 4, "name", "1")) != 4 {
		t.Error("the newest went")
	}
}
