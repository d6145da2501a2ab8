package telephony

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
	"switchboard/platform/web"
)

// actorsOf reads all pages of actors as text, sorted.
func actorsOf(t *testing.T, p *apptest.Product, query string, limit int) (out []string) {
	t.Helper()
	seen := ""
	for cursor := ""; ; {
		var page struct {
			Items []Actor `json:"items"`
			Next  *string `json:"next"`
		}
		path := fmt.Sprintf("/telephony/actors?limit=%d&%s%s", limit, query, cursor)
		if status := p.Call(http.MethodGet, path, nil, &page); status != http.StatusOK {
			t.Fatalf("%s: %d", path, status)
		}
		for _, a := range page.Items {
			out = append(out, actorText(&a))
			if strings.Contains(seen, *a.Actor) {
				t.Errorf("%s comes twice", *a.Actor)
			}
			seen += *a.Actor
		}
		if page.Next == nil {
			slices.Sort(out)
			return out
		}
		cursor = "&cursor=" + *page.Next
	}
}

// actorText shows an actor: name, number, what he does and since when, queues.
func actorText(a *Actor) string {
	words := []string{*a.Actor + "/" + a.Number}
	for word, holds := range map[string]bool{"in": a.LoggedIn, "paused": a.Paused, "call=" + a.CallID: a.OnCall} {
		if holds {
			words = append(words, word)
		}
	}
	slices.Sort(words[1:])
	clock := func(at *web.Time) string {
		if at == nil {
			return "never"
		}
		return time.Time(*at).Format("15:04:05")
	}
	words = append(words, clock(a.Since))
	for _, q := range a.Queues {
		text := q.Queue
		if q.LoggedIn || q.LoggedInAt != nil {
			text += fmt.Sprintf(" in %s", clock(q.LoggedInAt))
		}
		if q.Paused || q.PausedAt != nil {
			text += fmt.Sprintf(" paused %s", clock(q.PausedAt))
		}
		words = append(words, "["+text+"]")
	}
	return strings.Join(words, " ")
}

func TestActorsAreWhatTheirLastEventsSay(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, start func(...apptest.Option) *apptest.Product) {
		p := start(apptest.Now(clockAt(t, "2026-03-10T12:30:00Z").now))
		const day = "2026-03-10T"
		does := func(at, what, name, queue string, more ...string) {
			t.Helper()
			tells := append([]string{"actor", name, "number", "2" + name[:1], "queue", queue}, more...)
			call := ""
			if i := slices.Index(tells, "call"); i >= 0 {
				call = tells[i+1]
			}
			happens(t, p, day+at+"Z", "actor."+what, call, tells...)
		}
		// In two queues, paused in one of them.
		does("09:00:00", "logged-in", "1ann", "900")
		does("09:01:00", "logged-in", "1ann", "901")
		does("09:30:00", "paused", "1ann", "901")
		// Paused in all that he is in; the pause of a queue that he left does not count.
		does("09:00:00", "logged-in", "2bob", "900")
		does("09:10:00", "paused", "2bob", "900")
		does("09:00:00", "logged-in", "2bob", "901")
		does("09:20:00", "logged-out", "2bob", "901")
		// Paused, and then in again.
		does("09:00:00", "logged-in", "3cid", "900")
		does("09:10:00", "paused", "3cid", "900")
		does("09:40:00", "logged-in", "3cid", "900")
		// The pause came before the login, but is told after it; and at one moment the log decides.
		does("09:05:00", "logged-in", "4dan", "900")
		does("09:04:00", "paused", "4dan", "900")
		does("09:00:00", "logged-in", "5eve", "900")
		does("09:00:00", "paused", "5eve", "900")
		// Out, and the login before it comes late.
		does("09:50:00", "logged-out", "6fay", "900")
		does("09:00:00", "logged-in", "6fay", "900")
		// On a call; back from one; on one that is over; on a call without a login.
		does("09:00:00", "logged-in", "7gus", "900")
		happens(t, p, day+"10:00:00Z", "ongoing", "call-7", "their_number", "11999990007")
		does("10:00:00", "entered", "7gus", "900", "call", "call-7")
		does("09:00:00", "logged-in", "8hal", "900")
		does("10:00:00", "entered", "8hal", "900", "call", "call-8")
		does("10:05:00", "left", "8hal", "900", "call", "call-8")
		does("09:00:00", "logged-in", "9ivy", "900")
		does("10:00:00", "entered", "9ivy", "900", "call", "call-9")
		happens(t, p, day+"10:09:00Z", "finished", "call-9")
		does("10:00:00", "entered", "0joe", "902", "call", "call-0")
		// Paused and back again.
		does("09:00:00", "logged-in", "akim", "901")
		does("09:10:00", "paused", "akim", "901")
		does("09:15:00", "unpaused", "akim", "901")

		ann, bob, cid, dan, eve := "1ann/21 in 09:00:00 [900 in 09:00:00] [901 in 09:01:00 paused 09:30:00]", "2bob/22 in paused 09:10:00 [900 in 09:00:00 paused 09:10:00] [901]",
			"3cid/23 in 09:40:00 [900 in 09:40:00]", "4dan/24 in 09:05:00 [900 in 09:05:00]", "5eve/25 in paused 09:00:00 [900 in 09:00:00 paused 09:00:00]"
		fay, gus, hal, ivy := "6fay/26 09:50:00 [900]", "7gus/27 call=call-7 in 10:00:00 [900 in 09:00:00]", "8hal/28 in 10:05:00 [900 in 09:00:00]", "9ivy/29 in 10:00:00 [900 in 09:00:00]"
		joe, kim := "0joe/20 call=call-0 10:00:00", "akim/2a in 09:15:00 [901 in 09:00:00]"
		for query, want := range map[string][]string{
			"":                              {joe, ann, bob, cid, dan, eve, fay, gus, hal, ivy, kim},
			"logged_in=true":                {ann, bob, cid, dan, eve, gus, hal, ivy, kim},
			"logged_in=false":               {joe, fay},
			"on_call=true":                  {joe, gus},
			"on_call=true&logged_in=true":   {gus},
			"on_call=false&logged_in=false": {fay},
			"queue=901":                     {ann, bob, kim},
			"queue=901&logged_in=true":      {ann, kim},
			"queue=901&logged_in=false":     {bob},
			"queue=900&on_call=true":        {gus},
			"queue=nowhere":                 nil,
			"queue=nowhere&logged_in=false": nil,
		} {
			for _, limit := range []int{1, 3, 1000} {
				if got := actorsOf(t, p, query, limit); !slices.Equal(got, want) {
					t.Errorf("%s by %d:\ngot  %s\nwant %s", query, limit, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
				}
			}
		}
		_, raw := p.Exchange(p.Request(p.Key, http.MethodGet, "/telephony/actors?queue=902", nil))
		if string(raw) != "{\"items\":[],\"next\":null}\n" {
			t.Errorf("%s", raw)
		}
	})
}

// queuesOf reads all pages of queues as text.
func queuesOf(t *testing.T, p *apptest.Product, query string, limit int) (out []string) {
	t.Helper()
	for cursor := ""; ; {
		var page struct {
			Items []Queue `json:"items"`
			Next  *string `json:"next"`
		}
		path := fmt.Sprintf("/telephony/queues?limit=%d&%s%s", limit, query, cursor)
		if status := p.Call(http.MethodGet, path, nil, &page); status != http.StatusOK {
			t.Fatalf("%s: %d", path, status)
		}
		for _, q := range page.Items {
			rate := func(f *float64) string {
				if f == nil {
					return "null"
				}
				return fmt.Sprintf("%.4g", *f)
			}
			out = append(out, fmt.Sprintf("%s: wait %d/%v ongoing %d agents %v since %s calls %d offered %d answered %d/%d abandoned %d/%s level %s waits %v/%s talks %v/%s",
				q.Queue, q.Waiting, q.LongestWait, q.Ongoing, q.Agents, q.From.String()[8:16], q.Calls, q.Offered, q.Answered, q.AnsweredInTime, q.Abandoned, rate(q.AbandonRate),
				rate(q.ServiceLevel), q.Wait.Total, rate(q.Wait.Average), q.Talk.Total, rate(q.Talk.Average)))
		}
		if page.Next == nil {
			return out
		}
		cursor = "&cursor=" + *page.Next
	}
}

func TestQueuesTellWhoWaitsAndWhoCouldAnswer(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, start func(...apptest.Option) *apptest.Product) {
		now := clockAt(t, "2026-03-10T12:30:00Z")
		p := start(apptest.Now(now.now))
		playDay(t, p) // f waits since yesterday 10:59, too long to be true
		const day = "2026-03-10T"
		// The one that began first came to the queue last.
		happens(t, p, day+"12:20:00Z", "new", "w1", "their_number", "11999990011")
		happens(t, p, day+"12:29:00Z", "waiting", "w1", "queue", "900", "their_number", "11999990011")
		happens(t, p, day+"12:25:00Z", "new", "w2", "their_number", "11999990012")
		happens(t, p, day+"12:26:30.5Z", "waiting", "w2", "queue", "900", "their_number", "11999990012")
		happens(t, p, day+"12:27:00Z", "waiting", "w3", "queue", "900", "their_number", "11999990013")
		happens(t, p, day+"12:00:00Z", "waiting", "w4", "queue", "910", "their_number", "11999990014")
		// Yesterday afternoon is within a day.
		happens(t, p, "2026-03-09T12:30:00Z", "waiting", "w5", "queue", "920", "their_number", "11999990015")
		for i, name := range []string{"ann@example.com", "bob@example.com", "cid@example.com"} {
			happens(t, p, day+"08:00:00Z", "actor.logged-in", "", "actor", name, "number", fmt.Sprint(200+i), "queue", "900")
		}
		happens(t, p, day+"12:00:00Z", "actor.paused", "", "actor", "bob@example.com", "number", "201", "queue", "900")
		happens(t, p, day+"12:10:00Z", "waiting", "o1", "queue", "901", "their_number", "11999990016")
		happens(t, p, day+"12:10:10Z", "ongoing", "o1")
		happens(t, p, day+"12:10:10Z", "actor.entered", "o1", "actor", "ann@example.com", "number", "200", "queue", "901")
		happens(t, p, "2026-03-08T00:00:00Z", "actor.logged-in", "", "actor", "dan@example.com", "number", "203", "queue", "990")

		const (
			q900 = "900: wait 3/209.5 ongoing 0 agents {3 1 1 1} since 10T00:00 calls 6 offered 6 answered 1/1 abandoned 1/0.1667 level 0.1667 waits 51/17 talks 30/30"
			q901 = "901: wait 0/0 ongoing 1 agents {0 0 1 0} since 10T00:00 calls 2 offered 2 answered 2/1 abandoned 0/0 level 0.5 waits 60/30 talks 20/20"
			q910 = "910: wait 1/1800 ongoing 0 agents {0 0 0 0} since 10T00:00 calls 1 offered 1 answered 0/0 abandoned 0/0 level 0 waits 0/null talks 0/null"
			q920 = "920: wait 1/86400 ongoing 0 agents {0 0 0 0} since 10T00:00 calls 0 offered 0 answered 0/0 abandoned 0/null level null waits 0/null talks 0/null"
			q990 = "990: wait 0/0 ongoing 0 agents {1 0 0 1} since 10T00:00 calls 0 offered 0 answered 0/0 abandoned 0/null level null waits 0/null talks 0/null"
		)
		for _, limit := range []int{1, 2, 1000} {
			if got, want := queuesOf(t, p, "", limit), []string{q900, q901, q910, q920, q990}; !slices.Equal(got, want) {
				t.Errorf("by %d:\ngot  %s\nwant %s", limit, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
			}
		}
		if got := queuesOf(t, p, "from="+day+"12:10:00Z", 1000); len(got) != 5 || !strings.Contains(got[0], "since 10T12:00 calls 3 offered 3") {
			t.Errorf("since noon: %q", got)
		}
		// A day later nobody waits, and the calls are not of the day.
		now.set(t, "2026-03-11T12:30:00Z")
		got := queuesOf(t, p, "", 1000)
		if len(got) != 2 || !strings.HasPrefix(got[0], "900: wait 0/0 ongoing 0 agents {3 1 1 1}") || !strings.HasPrefix(got[1], "990:") {
			t.Errorf("a day later: %q", got)
		}
	})
}
