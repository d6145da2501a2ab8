package telephony

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/store/storetest"
)

// sequence is what a phone platform posts of one call.
func sequence(t testing.TB, file string) (lines []string, callID string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "sequences", file+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines = strings.Split(strings.TrimSpace(string(text)), "\n")
	var first struct {
		CallID string `json:"call_id"`
	}
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil {
		t.Fatal(err)
	}
	return lines, first.CallID
}

// onBoth runs a test with the product on SQLite and on PostgreSQL.
func onBoth(t *testing.T, test func(t *testing.T, start func(options ...apptest.Option) *apptest.Product)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, func(options ...apptest.Option) *apptest.Product {
			return apptest.Start(t, []app.Module{Module}, options...)
		})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := storetest.Postgres(t)
		test(t, func(options ...apptest.Option) *apptest.Product {
			return apptest.Start(t, []app.Module{Module}, append(options, apptest.Args("--database-url="+url))...)
		})
	})
}

func post(t testing.TB, p *apptest.Product, body string) EventReceipt {
	t.Helper()
	var got EventReceipt
	if status := p.Call(http.MethodPost, "/telephony/webhook", body, &got); status != http.StatusOK {
		t.Fatalf("%s: %d", body, status)
	}
	return got
}

// what of a call depends on its events alone.
type finally struct {
	State, Outcome, Direction, OurNumber, TheirNumber, Queue, CreatedAt, UpdatedAt string
	Wait, Talk                                                                     float64 // -1: none
	Events                                                                         int
}

func finallyOf(t testing.TB, p *apptest.Product, callID string) finally {
	t.Helper()
	var c Call
	if status := p.Call(http.MethodGet, "/telephony/calls/"+callID, nil, &c); status != http.StatusOK {
		t.Fatalf("call %s: %d", callID, status)
	}
	f := finally{c.State, c.Outcome, c.Direction, c.OurNumber, c.TheirNumber, c.Queue, c.CreatedAt.String(), c.UpdatedAt.String(), -1, -1, int(c.Events)}
	if c.WaitSeconds != nil {
		f.Wait = *c.WaitSeconds
	}
	if c.TalkSeconds != nil {
		f.Talk = *c.TalkSeconds
	}
	return f
}

var endings = map[string]finally{
	"duplicate-and-out-of-order":  {"FINISHED", "answered", "inbound", "0800000000", "11999990000", "900", "2019-10-15T00:30:00.000000Z", "2019-10-15T00:31:00.000000Z", 10, 20, 7},
	"inbound-abandoned":           {"FINISHED", "abandoned", "inbound", "0800000000", "11999990000", "900", "2019-10-15T00:30:00.000000Z", "2019-10-15T00:31:00.000000Z", 30, -1, 7},
	"inbound-full-with-recording": {"FINISHED", "answered", "inbound", "0800000000", "11999990000", "900", "2019-10-15T00:30:00.000000Z", "2019-10-15T00:31:10.000000Z", 10, 20, 8},
	"inbound-full":                {"FINISHED", "answered", "inbound", "0800000000", "11999990000", "900", "2019-10-15T00:30:00.000000Z", "2019-10-15T00:31:00.000000Z", 10, 20, 7},
	"outbound-simulator":          {"FINISHED", "answered", "outbound", "1130900000", "11999990000", "", "2019-10-15T00:10:26.000000Z", "2019-10-15T00:10:51.000000Z", 5, 10, 6},
	"sandbox-four":                {"FINISHED", "answered", "inbound", "0800000000", "11999990000", "", "2017-01-01T00:00:00.000000Z", "2017-01-01T00:00:30.000000Z", 10, 10, 4},
}

// stateOf is the state that a call has after its events so far.
var stateOf = map[string]state{"call.new": stateNew, "call.standby": stateStandby, "call.waiting": stateWaiting, "call.ongoing": stateOngoing, "call.finished": stateFinished}

func TestSequencesOfThePlatformAsTheyAre(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, start func(...apptest.Option) *apptest.Product) {
		p := start()
		for file, want := range endings {
			lines, callID := sequence(t, file)
			reached := stateNew
			var order []string
			seen := map[string]EventReceipt{}
			for _, line := range lines {
				var said struct{ Type string }
				if err := json.Unmarshal([]byte(line), &said); err != nil {
					t.Fatal(err)
				}
				got := post(t, p, line)
				first, again := seen[line]
				if got.Duplicate != again || again && (got.ID != first.ID || got.UUID != first.UUID) || got.Status != "ok" || got.ID == 0 {
					t.Errorf("%s: %+v, posted before: %v", line, got, again)
				}
				if !again {
					seen[line] = got
					order = append(order, line)
				}
				reached = max(reached, stateOf[said.Type])
				if f := finallyOf(t, p, callID); f.State != reached.String() || f.Events != len(order) {
					t.Errorf("%s: after %s the call is %s with %d events", file, said.Type, f.State, f.Events)
				}
			}
			if diff := cmp.Diff(want, finallyOf(t, p, callID)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
			var page struct{ Items []LoggedEvent }
			p.Call(http.MethodGet, "/telephony/calls/"+callID+"/events?limit=1000", nil, &page)
			if len(page.Items) != len(order) {
				t.Fatalf("%s: %d events, want %d", file, len(page.Items), len(order))
			}
			for i, e := range page.Items {
				if string(e.Event) != order[i] || e.UUID != seen[order[i]].UUID || e.ID != seen[order[i]].ID {
					t.Errorf("%s: event %d is %s", file, i, e.Event)
				}
			}
		}
	})
}

// Whatever order and however often: the same end, and the same statistics.
func TestSequencesInAnyOrderEndTheSame(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, start func(...apptest.Option) *apptest.Product) {
		p := start()
		for round := range 5 {
			type posting struct{ line, callID string }
			var all []posting
			ends := map[string]string{}
			for file := range endings {
				lines, callID := sequence(t, file)
				own := fmt.Sprintf("%s.%d", callID, round)
				ends[own] = file
				for _, line := range lines {
					line = strings.Replace(line, `"`+callID+`"`, `"`+own+`"`, 1)
					for range 1 + rand.IntN(3) {
						all = append(all, posting{line, own})
					}
				}
			}
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			reached := map[string]state{}
			for _, one := range all {
				post(t, p, one.line)
				f := finallyOf(t, p, one.callID)
				if now := parseState(f.State); now < reached[one.callID] {
					t.Errorf("%s went back to %s", one.callID, f.State)
				} else {
					reached[one.callID] = now
				}
			}
			for own, file := range ends {
				if diff := cmp.Diff(endings[file], finallyOf(t, p, own)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", file, diff)
				}
			}
		}
	})
}

func TestAWebhookTakesTheKeyInAnyPlace(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module})
	key := p.NewKey(map[string]any{"scopes": []string{"telephony:webhook"}})
	reader := p.NewKey(map[string]any{"scopes": []string{"telephony:read"}})
	body := func(n int) string {
		return fmt.Sprintf(`{"type":"call.new","call_id":"%d","timestamp":"2017-01-01T00:00:00Z"}`, n)
	}
	for i, c := range []struct {
		path string
		set  func(*http.Request)
		want int
	}{
		{"/telephony/webhook", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key) }, 200},
		{"/webhook", func(r *http.Request) { r.Header.Set("X-API-Key", key) }, 200},
		{"/webhook/", func(r *http.Request) { r.Header.Set("X-API-Key", key) }, 200},
		{"/telephony/webhook?key=" + key, func(*http.Request) {}, 200},
		{"/webhook", func(r *http.Request) { r.SetBasicAuth("whoever", key) }, 200},
		{"/webhook", func(r *http.Request) { r.SetBasicAuth(key, "") }, 401},
		{"/webhook", func(*http.Request) {}, 401},
		{"/webhook", func(r *http.Request) { r.SetBasicAuth("x", reader) }, 403},
		{"/telephony/calls", func(r *http.Request) { r.Method = http.MethodGet; r.SetBasicAuth("x", reader) }, 401},
	} {
		req := p.Request("", http.MethodPost, c.path, body(i))
		c.set(req)
		if resp, text := p.Exchange(req); resp.StatusCode != c.want {
			t.Errorf("%d %s: %s %s", i, c.path, resp.Status, text)
		}
	}
	if status := p.CallAs(key, http.MethodGet, "/telephony/calls", nil, nil); status != http.StatusForbidden {
		t.Errorf("the webhook's key reads calls: %d", status)
	}
}

func TestABadWebhookIsAProblemThatNamesTheField(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module})
	for body, field := range map[string]string{
		``:         "body",
		`not JSON`: "body",
		`[]`:       "body",
		`{}`:       "body.type",
		`{"type":"call.new","timestamp":"2017-01-01T00:00:00Z"}`: "body.call_id",
		`{"type":"call.new","call_id":"1"}`:                      "body.timestamp",
	} {
		resp, text := p.Exchange(p.Request(p.Key, http.MethodPost, "/webhook", body))
		var problem struct {
			Status int
			Errors []struct{ Location, Message string }
		}
		if err := json.Unmarshal(text, &problem); err != nil || resp.StatusCode != http.StatusUnprocessableEntity || problem.Status != 422 ||
			resp.Header.Get("Content-Type") != "application/problem+json" || len(problem.Errors) == 0 || problem.Errors[0].Location != field {
			t.Errorf("%q: %s %s", body, resp.Status, text)
		}
	}
	if resp, text := p.Exchange(p.Request(p.Key, http.MethodPost, "/webhook", bytes.Repeat([]byte(" "), 2<<20))); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("2 MiB: %s %s", resp.Status, text)
	}
	var page struct{ Items []Call }
	if p.Call(http.MethodGet, "/telephony/calls", nil, &page); len(page.Items) != 0 {
		t.Errorf("calls came of it: %+v", page.Items)
	}
}

// Nobody knows the type; it is kept as it is, with a call or without.
func TestUnknownTypesAreKeptAsTheyAre(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module})
	bodies := []string{
		`{"type":"call.teleported","call_id":77,"to":{"planet":"Mars","floors":[1,2.50,null]},"timestamp":"2017-01-01T00:00:00Z"}`,
		`{"type":"weather.changed","timestamp":"2017-01-01T00:00:01Z","degrees":12345678901234567890}`,
	}
	for _, body := range bodies {
		post(t, p, body)
	}
	var page struct{ Items []LoggedEvent }
	p.Call(http.MethodGet, "/telephony/calls/77/events", nil, &page)
	if len(page.Items) != 1 || string(page.Items[0].Event) != bodies[0] {
		t.Errorf("%+v", page.Items)
	}
	p.Call(http.MethodGet, "/telephony/events", nil, &page)
	if len(page.Items) != 2 || string(page.Items[0].Event) != bodies[1] {
		t.Errorf("%+v", page.Items)
	}
	if f := finallyOf(t, p, "77"); f.State != "NEW" || f.Events != 1 {
		t.Errorf("%+v", f)
	}
}

func TestCallsAreFoundByWhatTheyAre(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, start func(...apptest.Option) *apptest.Product) {
		p := start(apptest.Env("APP_TELEPHONY_COUNTRY_CODE=55"))
		for i, said := range []string{
			`"type":"call.new","direction":"inbound","their_number":"11999990000","our_number":"0800000000"`,
			`"type":"call.standby","direction":"inbound","their_number":"+55 (11) 99999-0000","our_number":"0800111111"`,
			`"type":"call.waiting","direction":"inbound","their_number":"21988887777","our_number":"0800000000","queue":"900"`,
			`"type":"call.waiting","direction":"inbound","their_number":"anonymous","our_number":"0800000000","queue":"910"`,
			`"type":"call.ongoing","direction":"outbound","their_number":"21988887777","our_number":"1130900000"`,
			`"type":"call.finished","direction":"outbound","their_number":"21988887777","our_number":"1130900000"`,
		} {
			post(t, p, fmt.Sprintf(`{%s,"call_id":"%d","timestamp":"2019-10-15T00:00:0%dZ"}`, said, i, i))
		}
		for query, want := range map[string]string{
			"":                                 "5 4 3 2 1 0",
			"state=NEW":                        "0",
			"state=FINISHED":                   "5",
			"direction=outbound":               "5 4",
			"their_number=5511999990000":       "1 0",
			"their_number=%2B55+11+99999-0000": "1 0",
			"their_number=anonymous":           "3",
			"our_number=0800000000":            "3 2 0",
			"queue=910":                        "3",
			"active=true":                      "4 3 2 1 0",
			"active=false":                     "5",
			"active=true&state=FINISHED":       "",
			"active=false&state=NEW":           "",
			"active=true&direction=outbound":   "4",
			"from=2019-10-15T00:00:03Z":        "5 4 3",
			"to=2019-10-15T00:00:01Z":          "1 0",
			"from=2019-10-15T00:00:01Z&to=2019-10-15T00:00:03Z&direction=inbound&queue=900": "2",
		} {
			for _, limit := range []string{"1000", "1", "2"} {
				if got := strings.Join(callIDs(t, p, query+"&limit="+limit), " "); got != want {
					t.Errorf("%s, pages of %s: %q, want %q", query, limit, got, want)
				}
			}
		}
		for _, query := range []string{"state=ASLEEP", "direction=up", "limit=0", "limit=1001", "cursor=x", "from=yesterday", "active=maybe"} {
			if status := p.Call(http.MethodGet, "/telephony/calls?"+query, nil, nil); status != http.StatusUnprocessableEntity {
				t.Errorf("%s: %d", query, status)
			}
		}
		if status := p.Call(http.MethodGet, "/telephony/calls/nosuch", nil, nil); status != http.StatusNotFound {
			t.Errorf("%d", status)
		}
	})
}

// callIDs goes through all pages of a query.
func callIDs(t *testing.T, p *apptest.Product, query string) (ids []string) {
	t.Helper()
	for cursor := ""; ; {
		var page struct {
			Items []Call
			Next  *string
		}
		if status := p.Call(http.MethodGet, "/telephony/calls?"+query+"&cursor="+cursor, nil, &page); status != http.StatusOK {
			t.Fatalf("%s: %d", query, status)
		}
		for _, c := range page.Items {
			ids = append(ids, c.CallID)
		}
		if page.Next == nil || len(ids) > 100 {
			return ids
		}
		cursor = *page.Next
	}
}

// What is acknowledged is there after a restart, and known as a duplicate.
func TestTheLogSurvivesARestart(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module})
	lines, callID := sequence(t, "inbound-full")
	var ids []int64
	for _, line := range lines {
		ids = append(ids, post(t, p, line).ID)
	}
	if !slices.IsSorted(ids) {
		t.Errorf("%v", ids)
	}
	before := finallyOf(t, p, callID)
	p.Restart()
	if diff := cmp.Diff(before, finallyOf(t, p, callID)); diff != "" {
		t.Error(diff)
	}
	for i, line := range lines {
		if got := post(t, p, line); !got.Duplicate || got.ID != ids[i] {
			t.Errorf("%+v, want the receipt of %d", got, ids[i])
		}
	}
}
