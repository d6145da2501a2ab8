package collector_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// stat is a counter as it is given back.
type stat struct {
	Bucket   string  `json:"bucket"`
	Category *string `json:"category"`
	Name     *string `json:"name"`
	App      *string `json:"app"`
	Events   int     `json:"events"`
}

func (s stat) String() string {
	out := strings.TrimSuffix(s.Bucket, ":00.000000Z")
	for _, part := range []*string{s.Category, s.Name, s.App} {
		if part != nil {
			out += " " + *part
		}
	}
	return fmt.Sprint(out, "=", s.Events)
}

func TestStatsCountPerBucketAndGroup(t *testing.T) {
	t.Parallel()
	p := start(t)
	shop := p.NewKey(fields{"app": "shop", "scopes": []string{"collector:write"}})
	blog := p.NewKey(fields{"app": "blog", "scopes": []string{"collector:write"}})
	e := func(at, category, name string) fields {
		return pageview("s-1", fields{"timestamp": "2021-01-" + at, "category": category, "name": name})
	}
	postAs(t, p, shop, []fields{
		e("01 00:00:00.000000", "page", "view"), e("01 00:00:59.999999", "page", "view"),
		e("01 00:01:00.000000", "page", "click"), e("01 23:59:59.999999", "form", "send"),
	})
	postAs(t, p, blog, []fields{e("01 00:00:30", "page", "view"), e("02 00:00:00", "page", "view")})
	stored(t, p, 6)
	const two = "&from=2021-01-01T00:00:00Z&to=2021-01-03T00:00:00Z"
	for query, want := range map[string]string{
		"bucket=minute&by=name":                          "2021-01-01T00:00 view=3, 2021-01-01T00:01 click=1, 2021-01-01T23:59 send=1, 2021-01-02T00:00 view=1",
		"bucket=hour&by=category":                        "2021-01-01T00:00 page=4, 2021-01-01T23:00 form=1, 2021-01-02T00:00 page=1",
		"bucket=day&by=app":                              "2021-01-01T00:00 blog=1, 2021-01-01T00:00 shop=4, 2021-01-02T00:00 blog=1",
		"bucket=day&by=category,app":                     "2021-01-01T00:00 form shop=1, 2021-01-01T00:00 page blog=1, 2021-01-01T00:00 page shop=3, 2021-01-02T00:00 page blog=1",
		"bucket=day":                                     "2021-01-01T00:00 form send shop=1, 2021-01-01T00:00 page click shop=1, 2021-01-01T00:00 page view blog=1, 2021-01-01T00:00 page view shop=2, 2021-01-02T00:00 page view blog=1",
		"bucket=day&by=name&app=shop":                    "2021-01-01T00:00 click=1, 2021-01-01T00:00 send=1, 2021-01-01T00:00 view=2",
		"bucket=day&by=name&category=page&name=view":     "2021-01-01T00:00 view=3, 2021-01-02T00:00 view=1",
		"bucket=day&by=name&app=nobody":                  "",
		"bucket=hour&by=app&to=2021-01-01T22:00:00Z":     "2021-01-01T00:00 blog=1, 2021-01-01T00:00 shop=3",
		"bucket=day&by=app&to=2021-01-01T12:00:00Z":      "2021-01-01T00:00 blog=1, 2021-01-01T00:00 shop=4",
		"bucket=minute&by=app&from=2021-01-01T00:01:30Z": "2021-01-01T00:01 shop=1, 2021-01-01T23:59 shop=1, 2021-01-02T00:00 blog=1",
	} {
		path := "/collector/stats?" + query
		for _, bound := range strings.Split(two[1:], "&") {
			if name, _, _ := strings.Cut(bound, "="); !strings.Contains(query, name+"=") {
				path += "&" + bound
			}
		}
		for _, limit := range []int{1, 2, 1000} {
			var got []string
			for _, s := range walk[stat](t, p, fmt.Sprint(path, "&limit=", limit)) {
				got = append(got, s.String())
			}
			if text := strings.Join(got, ", "); text != want {
				t.Errorf("%s by %d:\n     %s\nwant %s", path, limit, text, want)
			}
		}
	}
}

func TestStatsCoverTheRecentPastByDefault(t *testing.T) {
	t.Parallel()
	now := newClock()
	now.at = time.Date(now.at.Year(), now.at.Month(), now.at.Day(), 12, 30, 30, 0, time.UTC)
	p := start(t, apptest.Now(now.now))
	for _, back := range []time.Duration{0, 59 * time.Minute, 61 * time.Minute, 23 * time.Hour, 26 * time.Hour, 29 * 24 * time.Hour, 32 * 24 * time.Hour} {
		post(t, p, pageview("s-1", fields{"timestamp": now.now().Add(-back).Format(time.RFC3339)}))
	}
	stored(t, p, 7)
	for bucket, want := range map[string]int{"minute": 2, "hour": 4, "day": 6} {
		total := 0
		for _, s := range walk[stat](t, p, "/collector/stats?bucket="+bucket) {
			total += s.Events
		}
		if total != want {
			t.Errorf("%s: %d events, want %d", bucket, total, want)
		}
	}
}

func TestStatsAreOrderedByBucketThenGroup(t *testing.T) {
	t.Parallel()
	p := start(t)
	for i := range 5 {
		key := p.NewKey(fields{"app": fmt.Sprint("app", 4-i), "scopes": []string{"collector:write"}})
		postAs(t, p, key, []fields{pageview("s-1"), pageview("s-1", fields{"timestamp": "2021-01-02 00:00:00"})})
	}
	stored(t, p, 10)
	var got []string
	for _, s := range walk[stat](t, p, "/collector/stats?bucket=day&by=app&limit=3&from=2021-01-01T00:00:00Z&to=2021-01-02T00:00:00Z") {
		got = append(got, s.String())
	}
	if len(got) != 10 || !slices.IsSorted(got) {
		t.Errorf("got %v", got)
	}
}
