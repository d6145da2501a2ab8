package gateway_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"switchboard/platform/apptest"
)

func TestAnEventReachesItsRoomAndNobodyElse(t *testing.T) {
	t.Parallel()
	p := start(t)
	in, out := connect(t, p, "a", "b"), connect(t, p)
	s := emit(t, p, "order.created", "a", fields{"orderId": "1"})
	if s.Recipients != 1 || s.Event != "order.created" || s.Room != "a" || s.ID == "" {
		t.Errorf("answered %+v", s)
	}
	if f := in.event("order.created"); f.ID != s.ID || f.Room != "a" || string(f.Data) != `{"orderId":"1"}` || f.Offset == "" {
		t.Errorf("got %+v", f)
	}
	out.quiet()
	if s := emit(t, p, "hello", "", nil); s.Recipients != 2 {
		t.Errorf("a broadcast went to %d", s.Recipients)
	}
	in.event("hello")
	out.event("hello")
	if s := emit(t, p, "void", "nobody's", 1); s.Recipients != 0 {
		t.Errorf("an empty room has %d", s.Recipients)
	}
	if a := out.ask("join", "a"); !a.OK || a.Room != "a" {
		t.Errorf("join: %+v", a)
	}
	if a := in.ask("leave", "a"); !a.OK {
		t.Errorf("leave: %+v", a)
	}
	if s := emit(t, p, "again", "a", nil); s.Recipients != 1 {
		t.Errorf("went to %d", s.Recipients)
	}
	out.event("again")
	in.quiet()
}

func TestThePublishedBodiesArriveAsTheyAre(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := connect(t, p, "9d283b4a-c87f-4337-ac2e-fe71ad0c6c42")
	for _, name := range []string{"order.created", "order.paid", "customer.suscribed"} {
		body := string(sample(t, name+".json"))
		if status := p.Call(http.MethodPost, "/events", body, nil); status != http.StatusCreated {
			t.Fatalf("%s: %d", name, status)
		}
		f := c.event(name)
		if data := string(f.Data); !strings.Contains(body, data) || len(data) < 50 {
			t.Errorf("%s: the data came as %s", name, data)
		}
	}
	if status := p.Call(http.MethodPost, "/events", sample(t, "customer.suscribed.as-published-invalid.txt"), nil); status != http.StatusBadRequest {
		t.Errorf("a trailing comma: %d", status)
	}
	c.quiet()
}

func TestDataIsPassedOnUntouched(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := connect(t, p)
	for _, data := range []string{`{"z":1,"a":{"<&>":"\u2028"},"a":2}`, `1e400`, `"\ud800"`, `[ 1 ,  2 ]`, `null`, `"naïve 🦊"`, "{\n\t\"x\" : 1\r\n}", `12345678901234567890123`, `""`} {
		if status := p.Call(http.MethodPost, "/gateway/events/", `{"event":"e","data":`+data+`}`, nil); status != http.StatusCreated {
			t.Fatalf("%s: %d", data, status)
		}
		if f := c.event("e"); string(f.Data) != data {
			t.Errorf("%s came as %s", data, f.Data)
		}
	}
	if status := p.Call(http.MethodPost, "/events", `{"event":"no data"}`, nil); status != http.StatusCreated {
		t.Errorf("without data: %d", status)
	}
	if f := c.event("no data"); string(f.Data) != "null" {
		t.Errorf("no data came as %s", f.Data)
	}
}

func TestBadEmitsAreRefusedByName(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := connect(t, p)
	large := `"` + strings.Repeat("x", 1<<20) + `"`
	for _, bad := range []struct {
		name, body string
		status     int
		at         string
	}{
		{"no JSON", `{"event":`, 400, "body"},
		{"nothing", ``, 400, "body"},
		{"broken UTF-8", "{\"event\":\"\xff\"}", 400, "body"},
		{"an array", `[]`, 422, "body"},
		{"no event", `{"data":1}`, 422, "body.event"},
		{"an empty name", `{"event":""}`, 422, "body.event"},
		{"a long name", `{"event":"` + strings.Repeat("x", 257) + `"}`, 422, "body.event"},
		{"a name with a control character", `{"event":"a\u0000b"}`, 422, "body.event"},
		{"a number for a name", `{"event":5}`, 422, "body.event"},
		{"an unknown field", `{"event":"e","rooms":["a"]}`, 422, "body.rooms"},
		{"a long room", `{"event":"e","room":"` + strings.Repeat("x", 257) + `"}`, 422, "body.room"},
		{"too much data", `{"event":"e","data":` + large + `}`, 422, "body.data"},
		{"no events", `{"events":[]}`, 422, "body.events"},
		{"both shapes", `{"event":"e","events":[{"event":"e"}]}`, 422, "body.event"},
		{"too many", `{"events":[` + strings.Repeat(`{"event":"e"},`, 1000) + `{"event":"e"}]}`, 422, "body.events"},
		{"one bad of two", `{"events":[{"event":"e"},{"event":"disconnect"}]}`, 422, "body.events[1].event"},
		{"reserved", `{"event":"connect"}`, 422, "body.event"},
		{"reserved", `{"event":"connect_error"}`, 422, "body.event"},
		{"reserved", `{"event":"disconnecting"}`, 422, "body.event"},
		{"reserved", `{"event":"newListener"}`, 422, "body.event"},
		{"reserved", `{"event":"removeListener"}`, 422, "body.event"},
	} {
		var problem struct {
			Status int
			Errors []struct{ Location, Message string }
		}
		status := p.Call(http.MethodPost, "/events", bad.body, &problem)
		if status != bad.status || len(problem.Errors) == 0 || problem.Errors[0].Location != bad.at || problem.Errors[0].Message == "" {
			t.Errorf("%s: %d %+v, want %d at %s", bad.name, status, problem.Errors, bad.status, bad.at)
		}
	}
	c.quiet()
	for name, key := range map[string]string{"no key": "", "a wrong key": "sb_aaaaaaaaaaaa_" + strings.Repeat("a", 43)} {
		if status := p.CallAs(key, http.MethodPost, "/events", `{"event":"e"}`, nil); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, status)
		}
	}
	if status := p.CallAs(p.NewKey(fields{"scopes": []string{"gateway:read"}}), http.MethodPost, "/events", `{"event":"e"}`, nil); status != http.StatusForbidden {
		t.Errorf("a key without the scope: %d", status)
	}
}

func TestABatchKeepsItsOrder(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := connect(t, p, "r")
	var events []fields
	for i := range 1000 {
		e := fields{"event": "n", "data": i}
		if i%2 == 0 {
			e["room"] = "r"
		}
		events = append(events, e)
	}
	var answer struct{ Events []sent }
	if status := p.Call(http.MethodPost, "/events", fields{"events": events}, &answer); status != http.StatusCreated || len(answer.Events) != 1000 {
		t.Fatalf("%d, %d answers", status, len(answer.Events))
	}
	for i, s := range answer.Events {
		if s.Recipients != 1 {
			t.Fatalf("event %d went to %d", i, s.Recipients)
		}
		if f := c.event("n"); string(f.Data) != fmt.Sprint(i) || f.ID != s.ID {
			t.Fatalf("%d came as %+v", i, f)
		}
	}
}

func TestTheSameIdempotencyKeySendsOnce(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := connect(t, p)
	var first, second sent
	for _, out := range []*sent{&first, &second} {
		req := p.Request(p.Key, http.MethodPost, "/events", `{"event":"once"}`)
		req.Header.Set("Idempotency-Key", "k-1")
		resp, text := p.Exchange(req)
		if resp.StatusCode != http.StatusCreated || !decode(text, out) {
			t.Fatalf("%s: %s", resp.Status, text)
		}
	}
	if first != second {
		t.Errorf("answered %+v, then %+v", first, second)
	}
	c.event("once")
	c.quiet()
}

func TestEveryDeliveryCanBeFound(t *testing.T) {
	t.Parallel()
	p := start(t)
	a, b := connect(t, p, "r"), connect(t, p, "r")
	one := emit(t, p, "one", "r", nil)
	a.event("one")
	a.ask("leave", "r")
	emit(t, p, "two", "r", nil)
	emit(t, p, "three", "", nil)
	type delivery struct{ ID, Time, Event, Room, Socket string }
	find := func(query string) (out []string) {
		for _, d := range walk[delivery](t, p, "/gateway/deliveries?"+query) {
			who := "?"
			switch d.Socket {
			case a.id:
				who = "a"
			case b.id:
				who = "b"
			}
			if d.Time == "" || d.Event == "one" && d.ID != one.ID {
				t.Errorf("incomplete: %+v", d)
			}
			out = append(out, d.Event+" "+d.Room+" "+who)
		}
		slices.Sort(out)
		return out
	}
	apptest.Eventually(t, func() string {
		if got := find("limit=1"); len(got) < 5 {
			return fmt.Sprint(got)
		}
		return ""
	})
	for query, want := range map[string]string{
		"limit=2":                         "[one r a one r b three  a three  b two r b]",
		"socket=" + a.id:                  "[one r a three  a]",
		"room=r&socket=" + b.id:           "[one r b two r b]",
		"event=three":                     "[three  a three  b]",
		"event=none":                      "[]",
		"from=2100-01-01T00:00:00Z":       "[]",
		"to=2100-01-01T00:00:00Z&limit=3": "[one r a one r b three  a three  b two r b]",
	} {
		if got := fmt.Sprint(find(query)); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}
