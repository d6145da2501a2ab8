package telephony

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/seal"
)

// wallClock is a clock that a test sets.
type wallClock struct{ at atomic.Int64 }

func clockAt(t *testing.T, text string) *wallClock {
	t.Helper()
	c := &wallClock{}
	c.set(t, text)
	return c
}

func (c *wallClock) set(t *testing.T, text string) {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	c.at.Store(at.UnixNano())
}

func (c *wallClock) now() time.Time { return time.Unix(0, c.at.Load()).UTC() }

// happens posts an event of a call: its type without "call.", and what it tells.
func happens(t *testing.T, p *apptest.Product, at, kind, call string, tells ...string) {
	t.Helper()
	if !strings.Contains(kind, ".") {
		kind = "call." + kind
	}
	e := map[string]string{"type": kind, "timestamp": at}
	if call != "" {
		e["call_id"] = call
	}
	for i := 0; i+1 < len(tells); i += 2 {
		e[tells[i]] = tells[i+1]
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	post(t, p, string(text))
}

// playDay posts five calls of 2026-03-10 and one of the day before.
func playDay(t *testing.T, p *apptest.Product) {
	t.Helper()
	const day = "2026-03-10T"
	ann, bob := []string{"actor", "ann@example.com", "number", "200", "queue", "900"}, []string{"actor", "bob@example.com", "number", "201", "queue", "901"}
	// Answered after 10 s, 30 s long; bob did not come.
	happens(t, p, day+"10:00:00Z", "waiting", "a", "queue", "900", "their_number", "11999990001")
	happens(t, p, day+"10:00:02Z", "actor.ringing", "a", "actor", "bob@example.com", "number", "201", "queue", "900")
	happens(t, p, day+"10:00:05Z", "actor.noanswer", "a", "actor", "bob@example.com", "number", "201", "queue", "900")
	happens(t, p, day+"10:00:06Z", "actor.ringing", "a", ann...)
	happens(t, p, day+"10:00:10Z", "actor.entered", "a", ann...)
	happens(t, p, day+"10:00:10Z", "ongoing", "a")
	happens(t, p, day+"10:00:40Z", "actor.left", "a", ann...)
	happens(t, p, day+"10:00:40Z", "finished", "a")
	// Given up after 40 s.
	happens(t, p, day+"10:59:30Z", "waiting", "b", "queue", "900", "their_number", "11999990002")
	happens(t, p, day+"11:00:10Z", "queue-abandon", "b", "queue", "900")
	happens(t, p, day+"11:00:10Z", "finished", "b")
	// Answered after 50 s, which is late, and 20 s long.
	happens(t, p, day+"11:00:00Z", "waiting", "c", "queue", "901", "their_number", "11999990003")
	happens(t, p, day+"11:00:50Z", "actor.entered", "c", bob...)
	happens(t, p, day+"11:00:50Z", "ongoing", "c")
	happens(t, p, day+"11:01:10Z", "actor.left", "c", bob...)
	happens(t, p, day+"11:01:10Z", "finished", "c")
	// Came to no queue.
	happens(t, p, day+"11:10:00Z", "new", "d", "their_number", "11999990004")
	happens(t, p, day+"11:10:05Z", "finished", "d")
	// Sent on.
	happens(t, p, day+"11:20:00Z", "waiting", "e", "queue", "900", "their_number", "11999990005")
	happens(t, p, day+"11:20:00.5Z", "overflow", "e", "queue", "900")
	happens(t, p, day+"11:20:01Z", "finished", "e")
	// Yesterday, exactly at the end of the hour.
	happens(t, p, "2026-03-09T10:59:59.999999Z", "waiting", "f", "queue", "900", "their_number", "11999990006")
}

// statPage is a page of statistics as text: a row is its groups and figures.
type statPage struct {
	From  string           `json:"from"`
	To    string           `json:"to"`
	Total map[string]any   `json:"total"`
	Items []map[string]any `json:"items"`
	Next  *string          `json:"next"`
}

// figuresOf shows a row: groups, then figures that are not zero.
func figuresOf(row map[string]any) string {
	var groups, figures []string
	for _, name := range []string{"hour", "queue", "actor"} {
		if v, ok := row[name]; ok {
			text := fmt.Sprint(v)
			if name == "hour" {
				text = strings.TrimSuffix(text, ":00:00.000000Z")
			}
			groups = append(groups, text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(row)) {
		switch v := row[name].(type) {
		case float64:
			if v != 0 {
				figures = append(figures, fmt.Sprintf("%s=%.3g", name, v))
			}
		case map[string]any:
			if v["total"] != 0.0 || v["average"] != nil {
				figures = append(figures, fmt.Sprintf("%s=%v/%v", name, v["total"], v["average"]))
			}
		}
	}
	return strings.TrimSpace(strings.Join(groups, " ") + ": " + strings.Join(figures, " "))
}

// statsOf reads all pages.
func statsOf(t *testing.T, p *apptest.Product, q url.Values, limit int) (rows []string, total string, first statPage) {
	t.Helper()
	q = maps.Clone(q)
	q.Set("limit", fmt.Sprint(limit))
	for {
		var page statPage
		if status := p.Call(http.MethodGet, "/telephony/stats?"+q.Encode(), nil, &page); status != http.StatusOK {
			t.Fatalf("%v: %d", q, status)
		}
		if first.From == "" {
			first, total = page, figuresOf(page.Total)
		}
		if figuresOf(page.Total) != total || page.From != first.From || page.To != first.To {
			t.Errorf("%v: the total or the range differs between pages", q)
		}
		for _, row := range page.Items {
			rows = append(rows, figuresOf(row))
		}
		if page.Next == nil {
			return rows, total, first
		}
		q.Set("cursor", *page.Next)
	}
}

func TestStatisticsSumWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, start func(...apptest.Option) *apptest.Product) {
		now := clockAt(t, "2026-03-10T12:30:00Z")
		p := start(apptest.Now(now.now))
		playDay(t, p)
		const (
			all = ": abandon_rate=0.25 abandoned=1 answered=2 answered_in_time=1 calls=5 offered=4 overflowed=1 service_level=0.25 " +
				"talk_seconds=50/25 unanswered=1 wait_seconds=101/25.25"
			of10  = ": abandon_rate=0.5 abandoned=1 answered=1 answered_in_time=1 calls=2 offered=2 service_level=0.5 talk_seconds=30/30 wait_seconds=50/25"
			of11  = ": answered=1 calls=3 offered=2 overflowed=1 talk_seconds=20/20 unanswered=1 wait_seconds=51/25.5"
			of901 = ": answered=1 calls=1 offered=1 talk_seconds=20/20 wait_seconds=50/50"
			of900 = ": abandon_rate=0.333 abandoned=1 answered=1 answered_in_time=1 calls=3 offered=3 overflowed=1 service_level=0.333 talk_seconds=30/30 wait_seconds=51/17"
		)
		for _, c := range []struct {
			query, total string
			rows         []string
		}{
			{"", all, []string{all}},
			{"by=hour", all, []string{"2026-03-10T10" + of10, "2026-03-10T11" + of11}},
			{"by=queue", all, []string{": calls=1 unanswered=1", "900" + of900, "901" + of901}},
			{"by=queue&queue=901", of901, []string{"901" + of901}},
			{"by=queue,hour", all, []string{
				"2026-03-10T10 900" + of10, "2026-03-10T11 : calls=1 unanswered=1", "2026-03-10T11 900: calls=1 offered=1 overflowed=1 wait_seconds=1/1", "2026-03-10T11 901" + of901}},
			{"by=hour&from=2026-03-10T12:00:00Z", ":", nil},
			{"by=hour&from=2026-03-10T10:30:00Z&to=2026-03-10T11:00:00Z", of10, []string{"2026-03-10T10" + of10}},
			{"by=hour&from=2026-03-10T10:30:00Z&to=2026-03-10T11:00:00.1Z", all, []string{"2026-03-10T10" + of10, "2026-03-10T11" + of11}},
			{"from=2026-03-01T00:00:00-03:00&queue=900", "", nil}, // totals below
			{"actor=bob@example.com", "bob@example.com: answered=1 calls=2 no_answers=1 rings=1 talk_seconds=20/20",
				[]string{"bob@example.com: answered=1 calls=2 no_answers=1 rings=1 talk_seconds=20/20"}},
			{"actor=bob@example.com&by=queue", "bob@example.com: answered=1 calls=2 no_answers=1 rings=1 talk_seconds=20/20",
				[]string{"900 bob@example.com: calls=1 no_answers=1 rings=1", "901 bob@example.com: answered=1 calls=1 talk_seconds=20/20"}},
			{"actor=nobody", "nobody:", []string{"nobody:"}},
			{"actor=nobody&by=actor", "nobody:", nil},
		} {
			q, err := url.ParseQuery(c.query)
			if err != nil {
				t.Fatal(err)
			}
			for _, limit := range []int{1, 2, 1000} {
				rows, total, _ := statsOf(t, p, q, limit)
				if c.total == "" {
					if len(rows) != 1 || !strings.Contains(rows[0], "calls=4") {
						t.Errorf("%s: %q", c.query, rows)
					}
					continue
				}
				if !slices.Equal(rows, c.rows) || total != c.total {
					t.Errorf("%s by %d:\ngot  %q %q\nwant %q %q", c.query, limit, rows, total, c.rows, c.total)
				}
			}
		}
		// Actors are in the order of their index.
		for _, limit := range []int{1, 2} {
			rows, total, first := statsOf(t, p, url.Values{"by": {"actor"}}, limit)
			slices.Sort(rows)
			want := []string{"ann@example.com: answered=1 calls=1 rings=1 talk_seconds=30/30", "bob@example.com: answered=1 calls=2 no_answers=1 rings=1 talk_seconds=20/20"}
			if !slices.Equal(rows, want) || total != all {
				t.Errorf("by actor:\ngot  %q %q\nwant %q", rows, total, want)
			}
			if first.From != "2026-03-09T12:00:00.000000Z" || first.To != "2026-03-10T13:00:00.000000Z" {
				t.Errorf("from %s to %s", first.From, first.To)
			}
		}
	})
}

// Pages without a range of their own are all of the range of the first.
func TestPagesOfStatisticsDoNotMoveWithTheClock(t *testing.T) {
	t.Parallel()
	now := clockAt(t, "2026-03-10T12:30:00Z")
	p := apptest.Start(t, []app.Module{Module}, apptest.Now(now.now))
	playDay(t, p)
	var first, second statPage
	p.Call(http.MethodGet, "/telephony/stats?by=hour&limit=1", nil, &first)
	now.set(t, "2026-03-11T11:30:00Z")
	p.Call(http.MethodGet, "/telephony/stats?by=hour&limit=1&cursor="+*first.Next, nil, &second)
	if first.From != second.From || first.To != second.To || len(second.Items) != 1 || second.Items[0]["hour"] != "2026-03-10T11:00:00.000000Z" || second.Next != nil {
		t.Errorf("%+v", second)
	}
}

// The queue that sent a call on is named, although the call is another's now.
func TestAQueueOfOverflowsAloneIsShown(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, start func(...apptest.Option) *apptest.Product) {
		p := start(apptest.Now(clockAt(t, "2026-03-10T12:30:00Z").now))
		happens(t, p, "2026-03-10T12:00:00Z", "waiting", "a", "queue", "900")
		happens(t, p, "2026-03-10T12:00:10Z", "overflow", "a", "destination", "910")
		happens(t, p, "2026-03-10T12:00:11Z", "waiting", "a", "queue", "910")
		rows, total, _ := statsOf(t, p, url.Values{"by": {"queue"}}, 1)
		if !slices.Equal(rows, []string{"900: overflowed=1", "910: calls=1 offered=1"}) || total != ": calls=1 offered=1 overflowed=1" {
			t.Errorf("%q %s", rows, total)
		}
		if got := queuesOf(t, p, "", 1); len(got) != 2 || !strings.HasPrefix(got[0], "900: wait 0/0") || !strings.HasPrefix(got[1], "910: wait 1/1800") {
			t.Errorf("%q", got)
		}
	})
}

func TestRatesOfNothingAreNull(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module})
	_, raw := p.Exchange(p.Request(p.Key, http.MethodGet, "/telephony/stats", nil))
	for _, want := range []string{`"abandon_rate":null`, `"service_level":null`, `"average":null`, `"calls":0`, `"next":null`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s is not in %s", want, raw)
		}
	}
	if strings.Contains(string(raw), "rings") || strings.Contains(string(raw), "actor") {
		t.Errorf("figures of actors among those of calls: %s", raw)
	}
}

func TestBadQueriesOfStatisticsNameTheField(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module})
	for query, field := range map[string]string{
		"stats?from=yesterday":                                    "query.from",
		"stats?to=2026-13-01T00:00:00Z":                           "query.to",
		"stats?from=2026-03-10T00:00:00Z&to=2026-03-10T00:00:00Z": "query.to",
		"stats?from=2025-03-09T00:00:00Z&to=2026-03-10T00:00:01Z": "query.from",
		"stats?by=week":                    "query.by[0]",
		"stats?limit=1001":                 "query.limit",
		"stats?cursor=x":                   "query.cursor",
		"actors?logged_in=maybe":           "query.logged_in",
		"actors?on_call=1":                 "query.on_call",
		"actors?cursor=e30":                "query.cursor",
		"queues?from=2999-01-01T00:00:00Z": "query.from",
		"queues?from=2001-01-01T00:00:00Z": "query.from",
		"queues?cursor=%22":                "query.cursor",
	} {
		var problem struct {
			Errors []struct {
				Location string `json:"location"`
			} `json:"errors"`
		}
		status := p.Call(http.MethodGet, "/telephony/"+query, nil, &problem)
		if status != http.StatusUnprocessableEntity || len(problem.Errors) == 0 || problem.Errors[0].Location != field {
			t.Errorf("%s: %d %+v, want %s", query, status, problem, field)
		}
	}
	key := p.NewKey(map[string]any{"scopes": []string{"telephony:webhook"}})
	for _, path := range []string{"stats", "actors", "queues"} {
		if status := p.CallAs(key, http.MethodGet, "/telephony/"+path, nil, nil); status != http.StatusForbidden {
			t.Errorf("%s: %d", path, status)
		}
		if status := p.CallAs("", http.MethodGet, "/telephony/"+path, nil, nil); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, status)
		}
	}
}

// withKeys is the module, and the keyring it got.
func withKeys(keys **seal.Keyring) app.Module {
	m := Module
	m.New = func(p app.Platform) (app.Service, error) {
		*keys = p.Seal
		return Module.New(p)
	}
	return m
}

func TestAnErasedActorHasNoName(t *testing.T) {
	t.Parallel()
	var keys *seal.Keyring
	now := clockAt(t, "2026-03-10T12:30:00Z")
	p := apptest.Start(t, []app.Module{withKeys(&keys)}, apptest.Now(now.now))
	playDay(t, p)
	subjects, err := keys.Find(context.Background(), actorAlias("bob@example.com"))
	if err != nil || len(subjects) != 1 {
		t.Fatal(subjects, err)
	}
	if err := keys.Erase(context.Background(), subjects[0]); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/telephony/stats?by=actor", "/telephony/actors"} {
		_, raw := p.Exchange(p.Request(p.Key, http.MethodGet, path, nil))
		var page struct {
			Items []map[string]any `json:"items"`
		}
		if err := json.Unmarshal(raw, &page); err != nil {
			t.Fatal(err)
		}
		nameless := 0
		for _, row := range page.Items {
			if name, ok := row["actor"]; ok && name == nil {
				nameless++
			}
		}
		if len(page.Items) != 2 || nameless != 1 || strings.Contains(string(raw), "bob") || !strings.Contains(string(raw), "ann@example.com") {
			t.Errorf("%s: %s", path, raw)
		}
	}
}
