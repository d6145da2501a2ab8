package mailing

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"switchboard/platform/apptest"
)

// permutations calls try with the items in every order.
func permutations(items []string, try func([]string)) {
	var walk func(int)
	walk = func(k int) {
		if k == len(items) {
			try(slices.Clone(items))
			return
		}
		for i := k; i < len(items); i++ {
			items[k], items[i] = items[i], items[k]
			walk(k + 1)
			items[k], items[i] = items[i], items[k]
		}
	}
	walk(0)
}

func tell(t *testing.T, p *apptest.Product, body string) string {
	t.Helper()
	var answer json.RawMessage
	if status := p.Call(http.MethodPost, "/mailing/callbacks", body, &answer); status != http.StatusOK {
		t.Fatalf("%s: %d", body, status)
	}
	return strings.TrimSpace(string(answer))
}

func TestCallbacksTellWhatBecameOfMessages(t *testing.T) {
	t.Parallel()
	onDesks(t, func(t *testing.T, d *journalDesk, p *apptest.Product) {
		numbers := map[int64]string{}
		for id := int64(1); id <= 6; id++ {
			numbers[id] = fmt.Sprintf("7916000000%d", id)
			d.message(t, id, d.client(t, numbers[id]), numbers[id], messageSent, "")
		}
		d.message(t, 7, d.client(t, "79160000007"), "79160000007", messageRetrying, "timeout")
		for _, c := range []struct{ body, want string }{
			{`{"id":1,"status":"delivered","at":"2026-03-01T12:00:00+03:00"}`, `{"accepted":1,"unknown":[]}`},
			{`[{"id":2,"status":"failed","reason":"Absent-Subscriber 27"},{"id":99,"status":"failed"},{"id":3,"status":"failed","reason":"no 79160000003, sorry"},{"id":98,"status":"unsubscribed"}]`,
				`{"accepted":2,"unknown":[98,99]}`},
			{`[{"id":4,"status":"unsubscribed"}, {"id":4,"status":"delivered"}, {"id":7,"status":"failed","reason":"busy"}]`, `{"accepted":3,"unknown":[]}`},
			{`[]`, `{"accepted":0,"unknown":[]}`},
		} {
			for range 2 { // the second time changes nothing
				if got := tell(t, p, c.body); got != c.want {
					t.Errorf("%s: %s", c.body, got)
				}
			}
		}
		for id, want := range map[int64]string{1: "delivered/", 2: "failed/absent-subscriber 27", 3: "failed/failed", 4: "unsubscribed/", 5: "/", 7: "failed/timeout"} {
			if got := d.told(t, id); got != want {
				t.Errorf("%d: %s, want %s", id, got, want)
			}
		}
		if got := suppressedNumbers(t, p, 50); !slices.Equal(got, []string{"79160000004 unsubscribed"}) {
			t.Errorf("suppressed: %q", got)
		}
		if got := logged(t, p, "/mailing/messages/1/log", 1); !slices.Equal(got, []string{`callback.delivered {"at":"2026-03-01T09:00:00Z"}`}) {
			t.Errorf("log: %q", got)
		}
		if got := logged(t, p, "/mailing/campaigns/102/log", 1); !slices.Equal(got, []string{`callback.failed {"reason":"absent-subscriber 27"}`}) {
			t.Errorf("log: %q", got)
		}
		// What is told again is logged once.
		got := logged(t, p, "/mailing/messages/4/log", 3)
		slices.Sort(got)
		if want := []string{`callback.delivered`, `callback.unsubscribed`, `suppression.added {"reason":"unsubscribed"}`}; !slices.Equal(got, want) {
			t.Errorf("log: %q", got)
		}
		if found := apptest.Hits(t, p.Dir, p.Log.String(), "79160000003", "sorry", "9160000004"); len(found) > 0 {
			t.Errorf("in the clear: %q", found)
		}
	}, apptest.Now(ticks()))
}

func TestCallbacksComeInAnyOrder(t *testing.T) {
	t.Parallel()
	onDesks(t, func(t *testing.T, d *journalDesk, p *apptest.Product) {
		next := int64(0)
		for _, c := range []struct {
			told []string
			want string
		}{
			{[]string{"failed", "delivered"}, "delivered/"},
			{[]string{"failed", "unsubscribed"}, "unsubscribed/"},
			{[]string{"failed", "delivered", "unsubscribed"}, "unsubscribed/"},
		} {
			permutations(c.told, func(order []string) {
				next++
				number := fmt.Sprintf("791600001%02d", next)
				d.message(t, next, d.client(t, number), number, messageSent, "")
				for _, status := range order {
					tell(t, p, fmt.Sprintf(`{"id":%d,"status":%q,"reason":"x"}`, next, status))
				}
				if got := d.told(t, next); got != c.want {
					t.Errorf("%q: %s", order, got)
				}
				alias, _ := suppressionAlias(number, "")
				_, err := d.suppressions.store.get(t.Context(), d.p.DB.Read(), d.p.Seal.Index(alias.Kind, alias.Value))
				if slices.Contains(order, "unsubscribed") != (err == nil) {
					t.Errorf("%q: suppressed: %v", order, err)
				}
			})
		}
	})
}

// A client who was deleted, or has another number by now, is suppressed by the
// index of the number that was sent to.
func TestUnsubscribedAfterTheClientIsGone(t *testing.T) {
	t.Parallel()
	onDesks(t, func(t *testing.T, d *journalDesk, p *apptest.Product) {
		d.message(t, 1, 555, "79160000001", messageSent, "")
		d.message(t, 2, d.client(t, "79160000009"), "79160000002", messageSent, "")
		tell(t, p, `[{"id":1,"status":"unsubscribed"},{"id":2,"status":"unsubscribed"}]`)
		if got := suppressedNumbers(t, p, 1); !slices.Equal(got, []string{"? unsubscribed", "? unsubscribed"}) {
			t.Errorf("%q", got)
		}
		for number, want := range map[string]int{"79160000001": http.StatusOK, "79160000002": http.StatusOK, "79160000009": http.StatusCreated} {
			if status := p.Call(http.MethodPost, "/mailing/suppressions", map[string]string{"phone_number": number}, nil); status != want {
				t.Errorf("%s: %d", number, status)
			}
		}
	})
}

func TestCallbacksThatAreNone(t *testing.T) {
	t.Parallel()
	d := &journalDesk{}
	p := apptest.Start(t, modulesOf(d))
	d.message(t, 1, d.client(t, "79160000001"), "79160000001", messageSent, "")
	good := `{"id":1,"status":"delivered"}`
	for body, want := range map[string]string{
		`{"id":1}`:                                          "body.status",
		`{"status":"delivered"}`:                            "body.id",
		`{"id":"1","status":"delivered"}`:                   "body.id",
		`{"id":0,"status":"delivered"}`:                     "body.id",
		`{"id":1.5,"status":"delivered"}`:                   "body.id",
		`{"id":1,"status":"read"}`:                          "body.status",
		`{"id":1,"status":"delivered","at":"yesterday"}`:    "body.at",
		`{"id":1,"status":"failed","reason":5}`:             "body.reason",
		`{"id":1,"status":"failed","text":"hi"}`:            "body.text",
		`null`:                                              "body",
		`5`:                                                 "body",
		`[` + good + `,[]]`:                                 "body[1]",
		`[` + good + `,{"id":2,"status":""}]`:               "body[1].status",
		`[` + strings.Repeat(good+",", 1000) + good + `]`:   "body",
		`[` + strings.Repeat(`{},`, 500) + `{"id":1}` + `]`: "body[0].id",
	} {
		var problem struct {
			Errors []struct{ Location string }
		}
		if status := p.Call(http.MethodPost, "/mailing/callbacks", body, &problem); status != http.StatusUnprocessableEntity || len(problem.Errors) == 0 ||
			len(problem.Errors) > 100 || problem.Errors[0].Location != want {
			t.Errorf("%.80s: %d %v, want %s", body, status, problem.Errors[:min(2, len(problem.Errors))], want)
		}
	}
	for _, body := range []string{``, `{`, good + good} {
		if status := p.Call(http.MethodPost, "/mailing/callbacks", body, nil); status != http.StatusBadRequest {
			t.Errorf("%q: %d", body, status)
		}
	}
	if got := d.told(t, 1); got != "/" {
		t.Errorf("a batch with a fault was taken in part: %s", got)
	}
	if got := tell(t, p, `[`+strings.Repeat(good+",", 999)+good+`]`); got != `{"accepted":1000,"unknown":[]}` {
		t.Error(got)
	}
}

func TestCallbacksTakeTheKeyAnyWay(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, modulesOf(&journalDesk{}))
	key := p.NewKey(map[string]any{"scopes": []string{"mailing:write"}})
	reader := p.NewKey(map[string]any{"scopes": []string{"mailing:read"}})
	for name, c := range map[string]struct {
		key, path, password string
		want                int
	}{
		"a header":   {key, "", "", http.StatusOK},
		"the query":  {"", "?key=" + key, "", http.StatusOK},
		"basic":      {"", "", key, http.StatusOK},
		"none":       {"", "", "", http.StatusUnauthorized},
		"less scope": {reader, "", "", http.StatusForbidden},
	} {
		req := p.Request(c.key, http.MethodPost, "/mailing/callbacks"+c.path, `[]`)
		if c.password != "" {
			req.SetBasicAuth("provider", c.password)
		}
		if resp, _ := p.Exchange(req); resp.StatusCode != c.want {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	if strings.Contains(p.Log.String(), key) {
		t.Error("the key is in the log")
	}
}
