package eventlog_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/store"
)

func sqlOnly() eventlog.Config { return eventlog.Config{Strategies: []string{eventlog.SQL}} }

func TestWhatIsFoundIsWhatWasLogged(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p *place) {
		l := p.open(sqlOnly(), outputs{})
		id := func(b byte) string {
			return base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat(string(rune(b)), 15)))
		}
		want := []eventlog.Entry{
			{ID: "0190163d-8694-739b-aea5-966c26f8ad91", Event: "order.created", Text: "orderId: 7", Refs: []eventlog.Ref{{Kind: "room", ID: "r"}, {Kind: "order", ID: "7"}},
				Targets: []string{id(1), id(2), id(3)}, TargetKind: "socket", Data: json.RawMessage(`{"a":[1]}`)},
			{ID: "other", Event: "x", Targets: []string{"", "short", "a longer one", "💡"}},
			{ID: "none", Event: "x", Text: "a\x00b"},
		}
		for i := range want {
			want[i].Module, want[i].Time = "shop", p.now().Add(-time.Duration(i)*time.Second)
			l.log(want[i])
		}
		l.flush()
		if diff := cmp.Diff(want, l.all(eventlog.Query{})); diff != "" {
			t.Error(diff)
		}
		if made := func() eventlog.Entry {
			l.log(eventlog.Entry{Event: "made"})
			l.flush()
			return l.find(eventlog.Query{Event: "made"}).Entries[0]
		}(); len(made.ID) != 36 || !made.Time.Equal(p.now()) || made.Module != "shop" {
			t.Errorf("%+v", made)
		}
	})
}

// However the pages are cut, each entry that fits comes once, newest first.
func TestFindFiltersAndPages(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p *place) {
		l := p.open(sqlOnly(), outputs{})
		const n = 350
		start := p.now()
		for i := range n {
			l.log(eventlog.Entry{ID: fmt.Sprintf("%03d", i), Event: fmt.Sprint("e", i%3), Time: start.Add(time.Duration(i/4) * time.Second), // four at a time
				Refs: []eventlog.Ref{{Kind: "room", ID: fmt.Sprint(i % 5)}, eventlog.SerialRef("shelf", int64(i%5))}, Targets: []string{fmt.Sprint("t", i%7), "all"}})
		}
		l.flush()
		rapid.Check(t, func(r *rapid.T) {
			q := eventlog.Query{Limit: rapid.IntRange(1, 120).Draw(r, "limit")}
			var event, room, target, from, to = -1, -1, -1, 0, n
			if rapid.Bool().Draw(r, "by event") {
				event = rapid.IntRange(0, 3).Draw(r, "event")
				q.Event = fmt.Sprint("e", event)
			}
			if rapid.Bool().Draw(r, "by room") {
				room = rapid.IntRange(0, 5).Draw(r, "room")
				q.Ref = eventlog.Ref{Kind: "room", ID: fmt.Sprint(room)}
				if rapid.Bool().Draw(r, "by serial number") {
					q.Ref = eventlog.SerialRef("shelf", int64(room))
				}
			}
			if rapid.Bool().Draw(r, "by target") {
				target = rapid.IntRange(0, 7).Draw(r, "target")
				q.Target = fmt.Sprint("t", target)
			}
			if rapid.Bool().Draw(r, "by time") {
				from = rapid.IntRange(0, n/4).Draw(r, "from")
				to = rapid.IntRange(from, n/4).Draw(r, "to")
				q.From, q.To = start.Add(time.Duration(from)*time.Second), start.Add(time.Duration(to)*time.Second)
			}
			want := map[string]bool{}
			for i := range n {
				if (event < 0 || i%3 == event) && (room < 0 || i%5 == room) && (target < 0 || i%7 == target) && i/4 >= from && i/4 <= to {
					want[fmt.Sprintf("%03d", i)] = true
				}
			}
			var last time.Time
			for pages := 0; ; pages++ {
				page, err := l.Find(t.Context(), q)
				if err != nil || len(page.Entries) > q.Limit || pages > n+1 {
					r.Fatalf("page %d of %d entries: %v", pages, len(page.Entries), err)
				}
				for _, e := range page.Entries {
					if !want[e.ID] {
						r.Fatalf("%s came again, or does not fit", e.ID)
					}
					delete(want, e.ID)
					if !last.IsZero() && e.Time.After(last) {
						r.Fatal("not newest first")
					}
					last = e.Time
				}
				if q.After = page.Next; q.After == "" {
					break
				}
			}
			if len(want) > 0 {
				r.Fatalf("did not come: %v", want)
			}
		})
	})
}

// A look-up for a target that is nowhere ends its pages with a cursor, and
// comes to an end.
func TestALookUpIsBounded(t *testing.T) {
	t.Parallel()
	p := newPlace(t, store.Config{Dir: t.TempDir()}, nil)
	l := p.open(sqlOnly(), outputs{})
	for i := range 12_000 {
		l.log(eventlog.Entry{ID: fmt.Sprint(i), Event: "x", Targets: []string{"a"}})
		if i%5000 == 0 {
			l.flush()
		}
	}
	l.flush()
	pages := 0
	for q := (eventlog.Query{Target: "b"}); ; pages++ {
		page := l.find(q)
		if len(page.Entries) != 0 {
			t.Fatalf("%+v", page)
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	if pages != 2 {
		t.Errorf("%d pages with a cursor, want 2", pages)
	}
}

func TestAQueryThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	l := newPlace(t, store.Config{Dir: t.TempDir()}, nil).open(sqlOnly(), outputs{})
	for name, q := range map[string]eventlog.Query{
		"cursor": {After: "??"}, "short cursor": {After: "AAAA"}, "limit": {Limit: 1001}, "negative": {Limit: -1},
		"ref without an id": {Ref: eventlog.Ref{Kind: "room"}}, "ref without a kind": {Ref: eventlog.Ref{ID: "7"}},
	} {
		if _, err := l.Find(t.Context(), q); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.Find(t.Context(), eventlog.Query{Module: "crm"}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("a module that is not here: %v", err)
	}
}

// Two modules keep apart, even where their ids and rooms are the same.
func TestModulesKeepApart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p *place) {
		l := p.wire(sqlOnly(), outputs{})
		crm, err := l.service.Open("crm", sqlOnly())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.service.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.run()
		const id = "0190163d-8694-739b-aea5-966c26f8ad91"
		room := eventlog.Ref{Kind: "room", ID: "7"}
		l.log(eventlog.Entry{ID: id, Event: "x", Text: "shop's", Refs: []eventlog.Ref{room}})
		if err := crm.Log(t.Context(), eventlog.Entry{ID: id, Event: "x", Text: "crm's", Refs: []eventlog.Ref{room}}); err != nil {
			t.Fatal(err)
		}
		l.flush()
		if err := crm.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for module, text := range map[string]string{"shop": "shop's", "crm": "crm's", "": "shop's"} {
			if got := l.all(eventlog.Query{Module: module, Ref: room}); len(got) != 1 || got[0].Text != text {
				t.Errorf("%s: %+v", module, got)
			}
		}
	})
}

// What is past its retention is not found any more, and soon not there.
func TestRetention(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p *place) {
		l := p.open(eventlog.Config{Strategies: []string{eventlog.SQL}, Retention: time.Hour}, outputs{})
		for i := range 450 {
			l.log(eventlog.Entry{ID: fmt.Sprint(i), Event: "old", Refs: []eventlog.Ref{{Kind: "room", ID: "7"}}})
		}
		l.flush()
		p.advance(50 * time.Minute)
		l.log(eventlog.Entry{ID: "young", Event: "x", Refs: []eventlog.Ref{{Kind: "room", ID: "7"}}})
		l.flush()
		p.advance(20 * time.Minute)
		eventually(t, "the sweep", func() bool {
			var entries, refs int
			for table, n := range map[string]*int{"eventlog_entry": &entries, "eventlog_ref": &refs} {
				if err := p.db.Read().QueryRowContext(t.Context(), `select count(*) from `+table).Scan(n); err != nil {
					t.Fatal(err)
				}
			}
			return entries == 1 && refs == 1
		})
		if got := ids(l.all(eventlog.Query{Ref: eventlog.Ref{Kind: "room", ID: "7"}})); got != "young" {
			t.Error(got)
		}
	})
}

// An id that comes again, even with another time and other refs, changes
// nothing: the first stays.
func TestTheFirstOfAnIDStays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p *place) {
		l := p.open(sqlOnly(), outputs{})
		first, second := eventlog.Ref{Kind: "room", ID: "1"}, eventlog.Ref{Kind: "room", ID: "2"}
		l.log(eventlog.Entry{ID: "a", Event: "x", Text: "first", Refs: []eventlog.Ref{first}})
		l.flush()
		p.advance(time.Hour)
		l.log(eventlog.Entry{ID: "a", Event: "x", Text: "second", Refs: []eventlog.Ref{first, second}})
		l.flush()
		if got := l.all(eventlog.Query{Ref: first}); len(got) != 1 || got[0].Text != "first" {
			t.Errorf("by the first room: %+v", got)
		}
		if got := l.all(eventlog.Query{Ref: second}); len(got) != 0 {
			t.Errorf("by the second room: %+v", got)
		}
	})
}
