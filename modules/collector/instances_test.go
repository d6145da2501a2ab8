package collector_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/store/storetest"
)

// pair starts two instances on one bus and one PostgreSQL.
func pair(t *testing.T) (a, b *apptest.Product) {
	t.Helper()
	env := apptest.Env("APP_NATS_URL="+bustest.External(t), "APP_DATABASE_URL="+storetest.Postgres(t),
		"APP_MASTER_KEY=a master key of two instances", "APP_ADMIN_KEY=the-admin-key-of-both")
	a = start(t, env)
	b = start(t, env)
	a.Key, b.Key = "the-admin-key-of-both", "the-admin-key-of-both"
	return a, b
}

// Whatever instance an event comes through: it is stored once, in its place in
// the session, and seen by all.
func TestTwoInstancesAreOneCollector(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	instances := []*apptest.Product{a, b}
	seen := watch(t, b, b.Key, "?session_id=s-1")

	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			e := pageview("s-1", fields{"id": fmt.Sprint("e-", i), "name": fmt.Sprintf("n%02d", i), "timestamp": fmt.Sprintf("2021-01-01 00:00:%02d", i)})
			// Through one, and once more through the other.
			for _, p := range []*apptest.Product{instances[i%2], instances[1-i%2]} {
				if status := p.Call(http.MethodPost, "/collector/events", e, nil); status != http.StatusAccepted {
					t.Errorf("event %d: %d", i, status)
				}
			}
		})
	}
	wg.Wait()
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprintf("n%02d", i))
	}
	for _, p := range instances {
		if got := names(stored(t, p, 40)); got != strings.Join(want, " ") {
			t.Errorf("got %s", got)
		}
		if s := list[session](t, p, "/collector/sessions"); len(s.Items) != 1 || s.Items[0].Events != 40 {
			t.Errorf("sessions: %+v", s.Items)
		}
	}
	got := map[string]bool{}
	for len(got) < 40 {
		got[seen.next().Name] = true
	}

	// One time, alternating: arrival decides.
	want = nil
	for i := range 10 {
		post(t, instances[i%2], pageview("s-2", fields{"name": fmt.Sprint("m", i)}))
		want = append(want, fmt.Sprint("m", i))
	}
	if got := names(stored(t, a, 10, "session_id", "s-2")); got != strings.Join(want, " ") {
		t.Errorf("of one time: %s", got)
	}
}

func TestSchemaOfOneInstanceSoonHoldsForTheOther(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	const path = "/collector/schemas/page%20interaction/pageview"
	until := func(p *apptest.Product, want int) {
		t.Helper()
		apptest.Eventually(t, func() string {
			if status := p.Call(http.MethodPost, "/collector/events", pageview("s-1"), nil); status != want {
				return fmt.Sprintf("%d, not %d", status, want)
			}
			return ""
		})
	}
	a.Call(http.MethodPut, path, `false`, nil)
	until(b, http.StatusUnprocessableEntity)
	b.Call(http.MethodPut, path, `true`, nil)
	until(a, http.StatusAccepted)
	b.Call(http.MethodPut, path, `false`, nil)
	until(a, http.StatusUnprocessableEntity)
	a.Call(http.MethodDelete, path, nil, nil)
	until(b, http.StatusAccepted)
}

// The queries that strange text makes, on the engine that is stricter with it.
func TestPostgresTakesNoTextForAnErrorOfOurs(t *testing.T) {
	t.Parallel()
	p := start(t, apptest.Env("APP_DATABASE_URL="+storetest.Postgres(t)))
	strangeQueries(t, p)
	for _, name := range []string{"%00", "%ff"} {
		if status := p.Call(http.MethodPut, "/collector/schemas/a/"+name, `{}`, nil); status != http.StatusUnprocessableEntity {
			t.Errorf("PUT schema %s: %d", name, status)
		}
		if status := p.Call(http.MethodDelete, "/collector/schemas/a/"+name, nil, nil); status != http.StatusNotFound && status != http.StatusUnprocessableEntity {
			t.Errorf("DELETE schema %s: %d", name, status)
		}
	}
	post(t, p, eventText("data", `{"a":"\u0000","b":1e999}`, "session_id", `"ä🦊"`))
	stored(t, p, 1, "session_id", "ä🦊")
}
