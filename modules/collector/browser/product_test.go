package browser_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	collectormodule "switchboard/modules/collector"
	"switchboard/platform/app"
	"switchboard/platform/apptest"
)

// TestPageOfAnotherOriginReachesTheRealCollector loads the client from the
// product, sends from a page of another origin, leaves that page, and finds
// every event once, in order, in one session.
func TestPageOfAnotherOriginReachesTheRealCollector(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{collectormodule.Module})
	s := newSite(t, nil)
	bound := p.NewKey(map[string]any{"app": "shop", "scopes": []string{"collector:write"}, "origins": []string{s.URL}})
	create := fmt.Sprintf(`
const { createClient: create } = await import(%q)
const client = create({ url: %q, key: %q, session: 'visit 1', onError: e => report('error: ' + e.message) })
`, p.URL+"/collector/client.js", p.URL, bound)
	s.mu.Lock()
	s.pages = map[string]string{
		"/": create + `
			client.track('page interaction', 'pageview', { path: '/' })
			await client.flush()
			client.track('page interaction', 'cta click', { element: 'buy button' })
			location.href = '/next'`,
		"/next": create + `
			client.track('page interaction', 'pageview', { path: '/next' })
			report({ left: await client.flush() })`,
	}
	s.mu.Unlock()
	apptest.Chromium(t, s.URL)
	s.want(t, `{"left":0}`)
	apptest.Eventually(t, func() string {
		var got struct {
			Events int
			Apps   []string
			Items  []struct{ Name string }
		}
		if status := p.Call(http.MethodGet, "/collector/sessions/"+url.PathEscape("visit 1"), nil, &got); status != http.StatusOK {
			return fmt.Sprint("status ", status)
		}
		if fmt.Sprint(got.Events, got.Apps, got.Items) != "3 [shop] [{pageview} {cta click} {pageview}]" {
			return fmt.Sprint("got ", got)
		}
		return ""
	})
}

// TestPageOfAForeignOriginIsRefused shows that a key is of no use to a page
// whose origin it does not list.
func TestPageOfAForeignOriginIsRefused(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{collectormodule.Module})
	bound := p.NewKey(map[string]any{"app": "shop", "scopes": []string{"collector:write"}, "origins": []string{"https://shop.example"}})
	s := newSite(t, map[string]string{"/": fmt.Sprintf(`
		const answer = await fetch(%q, { method: 'POST', headers: { Authorization: 'Bearer %s' }, body: '{}' }).then(r => r.status, () => 'blocked')
		report(answer)`, p.URL+"/collector/events", bound)})
	apptest.Chromium(t, s.URL)
	s.want(t, "blocked")
}
