package mailing

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/modules/mailing/internal/probe"
	"switchboard/platform/apptest"
	"switchboard/platform/store"
)

// shown gives the counters of a campaign in words.
func shown(counts map[messageStatus]int64) string {
	var parts []string
	for s, name := range messageStatusNames {
		if n := counts[messageStatus(s)]; n != 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, name))
		}
	}
	return strings.Join(parts, ", ")
}

// is waits until the messages of a campaign are so many in each status.
func (f *office) is(id int64, want string) {
	f.Helper()
	apptest.Within(f, 30*time.Second, func() string {
		if got := shown(f.counts(id)); got != want {
			return fmt.Sprintf("campaign %d: %s; want %s", id, got, want)
		}
		return ""
	})
}

// finishes waits until a campaign is finished with so many in each status.
func (f *office) finishes(id int64, want string) {
	f.Helper()
	if got := shown(f.becomes(id, campaignFinished)); got != want {
		f.Errorf("campaign %d: %s; want %s", id, got, want)
	}
}

// at sets the clock and waits until the dispatcher has looked at all campaigns
// since: campaigns for nobody have come and gone.
func (f *office) at(now time.Time) {
	f.Helper()
	f.clock.set(now)
	for range 2 {
		c := f.campaign(newCampaign{StartAt: now.Add(-2 * time.Hour), EndAt: now.Add(-time.Hour), Filter: filter{Tag: []string{"nobody"}}})
		f.becomes(c.ID, campaignFinished)
	}
}

// edit changes a campaign and gives the status of the answer with the fields
// that are wrong.
func (f *office) edit(id int64, body string) string {
	f.Helper()
	var p struct{ Errors []struct{ Location string } }
	out := fmt.Sprint(f.product.Call(http.MethodPatch, fmt.Sprintf("/mailing/campaigns/%d", id), body, &p))
	for _, e := range p.Errors {
		out += " " + e.Location
	}
	return out
}

// edited is an edit that must be taken.
func (f *office) edited(id int64, format string, args ...any) {
	f.Helper()
	if got := f.edit(id, fmt.Sprintf(format, args...)); got != "200" {
		f.Fatalf("%s: %s", format, got)
	}
}

// stamp is a time in JSON.
func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// messagesOf gives all messages of a campaign.
func (f *office) messagesOf(id int64) []message {
	f.Helper()
	list, err := f.service().messages.list(f.Context(), messageQuery{Campaign: &id, Limit: 100_000})
	if err != nil {
		f.Fatal(err)
	}
	return list
}

// entries counts the events of the log of a campaign.
func (f *office) entries(id int64) map[string]int {
	f.Helper()
	out := map[string]int{}
	for cursor := ""; ; {
		var page struct {
			Items []LogEntry `json:"items"`
			Next  *string    `json:"next"`
		}
		if status := f.product.Call(http.MethodGet, fmt.Sprintf("/mailing/campaigns/%d/log?limit=1000&cursor=%s", id, cursor), nil, &page); status != http.StatusOK {
			f.Fatal(status)
		}
		for _, e := range page.Items {
			out[e.Event]++
		}
		if page.Next == nil {
			return out
		}
		cursor = *page.Next
	}
}

// logs waits until the log of a campaign has an event so many times.
func (f *office) logs(id int64, event string, want int) {
	f.Helper()
	apptest.Within(f, 30*time.Second, func() string {
		if n := f.entries(id)[event]; n != want {
			return fmt.Sprintf("%s is logged %d times, want %d", event, n, want)
		}
		return ""
	})
}

// hears waits until a counter of messages that became final is so high.
func (f *office) hears(status messageStatus, want int) {
	f.Helper()
	apptest.Within(f, 30*time.Second, func() string {
		_, raw := f.product.Exchange(f.product.Request(f.product.Key, http.MethodGet, "/metrics", nil))
		line := fmt.Sprintf("mailing_messages_total{status=%q} %d\n", status.String(), want)
		if !strings.Contains(string(raw), line) {
			return "not in the metrics: " + line
		}
		return ""
	})
}

func TestStartAndEndCountFromTheMomentTheyAreSetFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		start, end time.Duration // from noon on
		at         time.Duration // when it is looked at
		want       string
	}{
		{"a start in the past is made up for", -time.Hour, time.Hour, 0, "3 sent"},
		{"a start that is now counts", 0, time.Hour, 0, "3 sent"},
		{"before a start in the future nothing goes", time.Hour, 2 * time.Hour, time.Hour - time.Microsecond, ""},
		{"at the start it goes", time.Hour, 2 * time.Hour, time.Hour, "3 sent"},
		{"just before the end it still goes", -time.Hour, time.Microsecond, 0, "3 sent"},
		{"at the end nothing goes any more", -time.Hour, 0, 0, "3 expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := atNoon(t, noon, probe.Options{})
			f.add(0, 3, "vip", "UTC")
			made := f.campaign(newCampaign{StartAt: noon.Add(c.start), EndAt: noon.Add(c.end)})
			f.at(noon.Add(c.at))
			if c.want == "" {
				f.becomes(made.ID, campaignScheduled)
			} else {
				f.finishes(made.ID, c.want)
			}
			if n := f.probe.Summary().Requests; (n == 3) != (c.want == "3 sent") {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestWhatADowntimeMissedIsMadeUpForOrExpires(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := atNoon(t, noon, probe.Options{}, options...)
		f.add(0, 5, "vip", "UTC")
		missedStart := f.campaign(newCampaign{StartAt: noon.Add(time.Hour), EndAt: noon.Add(4 * time.Hour)})
		missedAll := f.campaign(newCampaign{StartAt: noon.Add(time.Hour), EndAt: noon.Add(2 * time.Hour)})
		began := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(2 * time.Hour), Window: &window{13 * 60, 14 * 60}})
		opens := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour), Window: &window{13 * 60, 16 * 60}})
		f.is(began.ID, "5 pending")
		f.is(opens.ID, "5 pending")
		f.product.Stop()
		f.clock.set(noon.Add(3 * time.Hour))
		f.product.Restart()
		f.finishes(missedStart.ID, "5 sent")
		f.finishes(missedAll.ID, "5 expired")
		f.finishes(began.ID, "5 expired")
		f.finishes(opens.ID, "5 sent")
	})
}

// The end comes while a request is under way and others wait for a retry: its
// answer counts, and no other request is made.
func TestAtTheEndNoRetryLeaves(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]probe.Fault{"accepted": probe.None, "busy": probe.Busy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			f := atNoon(t, noon, probe.Options{Fate: func(id int64, n int) probe.Fault {
				if id == 1 {
					<-release
					return answer
				}
				return probe.Fail
			}}, apptest.Env("APP_MAILING_RETRY_MIN=30m", "APP_MAILING_RETRY_MAX=30m"))
			f.add(0, 4, "vip", "UTC")
			c := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(time.Minute)})
			f.is(c.ID, "1 sending, 3 retrying")
			f.clock.set(noon.Add(time.Minute))
			f.is(c.ID, "1 sending, 3 expired")
			requests := f.probe.Summary().Requests
			close(release)
			f.finishes(c.ID, map[string]string{"accepted": "1 sent, 3 expired", "busy": "4 expired"}[name])
			if n := f.probe.Summary().Requests; n != requests {
				t.Errorf("%d requests, %d of them after the end", n, n-requests)
			}
		})
	}
}

func TestWindowsHoldOverMidnightAndWhenClocksChange(t *testing.T) {
	t.Parallel()
	type look struct{ at, want string }
	for _, c := range []struct {
		name, zone, from, to string
		start, end           string
		looks                []look
	}{
		{"across midnight it opens in the evening", "Europe/Moscow", "21:00", "06:00", "2026-06-01T12:00:00Z", "2026-06-03T00:00:00Z",
			[]look{{"2026-06-01T17:59:59Z", "1 pending"}, {"2026-06-01T18:00:00Z", "1 sent"}}},
		{"across midnight it is open in the night", "Europe/Moscow", "21:00", "06:00", "2026-06-02T02:59:59Z", "2026-06-03T00:00:00Z",
			[]look{{"2026-06-02T02:59:59Z", "1 sent"}}},
		{"across midnight it closes in the morning", "Europe/Moscow", "21:00", "06:00", "2026-06-02T03:00:00Z", "2026-06-03T00:00:00Z",
			[]look{{"2026-06-02T03:00:00Z", "1 pending"}, {"2026-06-02T18:00:00Z", "1 sent"}}},
		{"an end before the evening is too early", "Europe/Moscow", "21:00", "06:00", "2026-06-02T03:00:00Z", "2026-06-02T18:00:00Z",
			[]look{{"2026-06-02T03:00:00Z", "1 expired"}}},
		{"clocks put forward: it opens behind the gap", "Europe/Berlin", "02:30", "04:00", "2026-03-29T00:00:00Z", "2026-03-29T12:00:00Z",
			[]look{{"2026-03-29T00:59:59Z", "1 pending"}, {"2026-03-29T01:00:00Z", "1 sent"}}},
		{"clocks put forward: what the gap swallows is not made up for", "Europe/Berlin", "02:15", "02:45", "2026-03-29T00:00:00Z", "2026-03-29T23:00:00Z",
			[]look{{"2026-03-29T00:00:00Z", "1 expired"}}},
		{"clocks put forward: or on the next day", "Europe/Berlin", "02:15", "02:45", "2026-03-29T00:00:00Z", "2026-03-30T12:00:00Z",
			[]look{{"2026-03-29T01:30:00Z", "1 pending"}, {"2026-03-30T00:14:59Z", "1 pending"}, {"2026-03-30T00:15:00Z", "1 sent"}}},
		{"clocks put back: by the first of the two hours", "America/New_York", "01:15", "01:45", "2026-11-01T04:00:00Z", "2026-11-01T12:00:00Z",
			[]look{{"2026-11-01T05:14:59Z", "1 pending"}, {"2026-11-01T05:15:00Z", "1 sent"}}},
		{"clocks put back: by the second one", "America/New_York", "01:15", "01:45", "2026-11-01T05:45:00Z", "2026-11-01T12:00:00Z",
			[]look{{"2026-11-01T06:14:59Z", "1 pending"}, {"2026-11-01T06:15:00Z", "1 sent"}}},
		{"clocks put back: after both it is too late", "America/New_York", "01:15", "01:45", "2026-11-01T06:45:00Z", "2026-11-01T12:00:00Z",
			[]look{{"2026-11-01T06:45:00Z", "1 expired"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			start := instant(t, c.start)
			f := atNoon(t, start, probe.Options{})
			f.addOne(0, "vip", c.zone)
			made := f.campaign(newCampaign{StartAt: start, EndAt: instant(t, c.end), Window: mustWindow(t, c.from, c.to)})
			for _, l := range c.looks {
				f.at(instant(t, l.at))
				f.is(made.ID, l.want)
			}
		})
	}
}

func TestTenZonesEachGetItInTheirOwnMorning(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 3, 7, 15, 0, 0, 0, time.UTC) // New York puts its clocks forward in the night
	f := atNoon(t, begin, probe.Options{})
	zones := map[int64]*time.Location{}
	for i, name := range testZones {
		zones[f.addOne(i, "vip", name)] = mustZone(t, name)
	}
	c := f.campaign(newCampaign{StartAt: begin, EndAt: begin.Add(24 * time.Hour), Window: &window{9 * 60, 10 * 60}})
	reached := map[int64]bool{}
	for step := range 24*4 + 1 {
		now := begin.Add(time.Duration(step) * 15 * time.Minute)
		for client, zone := range zones {
			if wallInside("09:00", "10:00", now, zone) && step < 24*4 {
				reached[client] = true
			}
		}
		if step%2 == 1 && len(reached) == len(f.sentOf(c.ID)) {
			continue
		}
		f.at(now)
		apptest.Within(t, 30*time.Second, func() string {
			if got := f.sentOf(c.ID); !slices.Equal(got, slices.Sorted(maps.Keys(reached))) {
				return fmt.Sprintf("at %s it went to %v, not to %v", now, got, slices.Sorted(maps.Keys(reached)))
			}
			return ""
		})
	}
	if len(reached) != len(zones) {
		t.Errorf("%d of %d zones had a morning", len(reached), len(zones))
	}
	for _, m := range f.messagesOf(c.ID) {
		if !wallInside("09:00", "10:00", *m.SentAt, zones[m.ClientID]) {
			t.Errorf("client %d got it at %s", m.ClientID, m.SentAt.In(zones[m.ClientID]))
		}
	}
	f.becomes(c.ID, campaignFinished)
}

// sentOf gives the clients that a campaign went to.
func (f *office) sentOf(id int64) (clients []int64) {
	f.Helper()
	for _, m := range f.messagesOf(id) {
		if m.Status == messageSent {
			clients = append(clients, m.ClientID)
		}
	}
	slices.Sort(clients)
	return clients
}

func TestBeforeTheStartEveryEditCounts(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]string{
		"name":     `{"name":"Summer"}`,
		"text":     `{"text":"new"}`,
		"start_at": fmt.Sprintf(`{"start_at":%q}`, stamp(noon.Add(30*time.Minute))),
		"end_at":   fmt.Sprintf(`{"end_at":%q}`, stamp(noon.Add(61*time.Minute))),
		"filter":   `{"filter":{"tag":"gold"}}`,
		"window":   `{"window":{"from":"12:00","to":"12:30"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var texts []string
			f := atNoon(t, noon, probe.Options{OnAccept: func(_ int64, _, text string, _ time.Time) {
				mu.Lock()
				texts = append(texts, text)
				mu.Unlock()
			}})
			f.add(0, 2, "vip", "UTC")
			f.add(10, 1, "gold", "UTC")
			c := f.campaign(newCampaign{Text: "old", StartAt: noon.Add(time.Hour), EndAt: noon.Add(2 * time.Hour), Filter: filter{Tag: []string{"vip"}}})
			f.edited(c.ID, "%s", edit)
			want := "2 sent"
			switch name {
			case "start_at":
				f.clock.set(noon.Add(30 * time.Minute))
			case "end_at":
				f.clock.set(noon.Add(61 * time.Minute))
				want = "2 expired"
			case "filter":
				f.clock.set(noon.Add(time.Hour))
				want = "1 sent"
			case "window":
				f.clock.set(noon.Add(time.Hour))
				want = "2 expired"
			default:
				f.clock.set(noon.Add(time.Hour))
			}
			f.finishes(c.ID, want)
			mu.Lock()
			defer mu.Unlock()
			if name == "text" && !slices.Equal(texts, []string{"new", "new"}) {
				t.Errorf("%q", texts)
			}
			if got, err := f.service().campaigns.get(t.Context(), c.ID); err != nil || (got.Name == "Summer") != (name == "name") {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestAfterTheStartOnlyEndTextAndWindowCanBeEdited(t *testing.T) {
	t.Parallel()
	f := atNoon(t, noon, probe.Options{})
	f.add(0, 2, "vip", "UTC")
	waits := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour), Window: &window{13 * 60, 14 * 60}})
	paused := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour), Window: &window{13 * 60, 14 * 60}})
	finished := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour)})
	canceled := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour), Window: &window{13 * 60, 14 * 60}})
	f.finishes(finished.ID, "2 sent")
	for _, id := range []int64{waits.ID, paused.ID, canceled.ID} {
		f.is(id, "2 pending")
	}
	if _, err := f.service().campaigns.pause(t.Context(), paused.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := f.service().campaigns.cancel(t.Context(), canceled.ID); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, body string
		open, over string
	}{
		{"the name", `{"name":"x"}`, "409 body.name", "409"},
		{"the start", fmt.Sprintf(`{"start_at":%q}`, stamp(noon.Add(time.Hour))), "409 body.start_at", "409"},
		{"the filter", `{"filter":{"tag":"x"}}`, "409 body.filter", "409"},
		{"all three as they are", fmt.Sprintf(`{"name":"","start_at":%q,"filter":{}}`, stamp(noon)), "200", "409"},
		{"the end", fmt.Sprintf(`{"end_at":%q}`, stamp(noon.Add(11*time.Hour))), "200", "409"},
		{"the text", `{"text":"new"}`, "200", "409"},
		{"the window", `{"window":{"from":"14:00","to":"15:00"}}`, "200", "409"},
	} {
		for id, want := range map[int64]string{waits.ID: c.open, paused.ID: c.open, finished.ID: c.over, canceled.ID: c.over} {
			if got := f.edit(id, c.body); got != want {
				t.Errorf("%s of campaign %d: %s, want %s", c.what, id, got, want)
			}
		}
	}
}

func TestAnEditCountsForWhatWaits(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		var mu sync.Mutex
		texts := map[string]int{}
		f := atNoon(t, noon, probe.Options{OnAccept: func(_ int64, _, text string, _ time.Time) {
			mu.Lock()
			texts[text]++
			mu.Unlock()
		}}, options...)
		f.add(0, 3, "vip", "UTC")
		f.add(100, 2, "vip", "Asia/Omsk") // six hours ahead
		evening := func(text string) int64 {
			c := f.campaign(newCampaign{Text: text, StartAt: noon, EndAt: noon.Add(48 * time.Hour), Window: &window{20 * 60, 21 * 60}})
			f.is(c.ID, "5 pending")
			return c.ID
		}
		rule := func(name string, check func(id int64)) {
			t.Helper()
			f.clock.set(noon)
			id := evening(name)
			check(id)
			if t.Failed() {
				t.Fatal(name)
			}
		}
		rule("a window that opens earlier lets them go earlier", func(id int64) {
			f.edited(id, `{"window":{"from":"12:00","to":"18:00"}}`)
			f.is(id, "2 pending, 3 sent")
			f.at(noon.Add(24*time.Hour - 6*time.Hour))
			f.finishes(id, "5 sent")
		})
		rule("no window at all lets them go at once", func(id int64) {
			f.edited(id, `{"window":null}`)
			f.finishes(id, "5 sent")
		})
		rule("a window that opens later keeps them", func(id int64) {
			f.edited(id, `{"window":{"from":"22:00","to":"23:00"}}`)
			f.at(noon.Add(8 * time.Hour))
			f.is(id, "5 pending")
			for _, m := range f.messagesOf(id) {
				if m.DueAt.Hour() != 22 && m.DueAt.Hour() != 16 {
					t.Errorf("due at %s", m.DueAt)
				}
			}
			f.at(noon.Add(10 * time.Hour))
			f.is(id, "2 pending, 3 sent")
		})
		rule("an end before the window expires them at once, and a later one brings them back", func(id int64) {
			f.edited(id, `{"end_at":%q}`, stamp(noon.Add(3*time.Hour)))
			f.is(id, "2 pending, 3 expired") // in Omsk it is 18:00
			f.edited(id, `{"end_at":%q}`, stamp(noon.Add(12*time.Hour)))
			f.is(id, "5 pending")
			f.logs(id, eventMessageExpired, 3)
			f.logs(id, eventMessageReopened, 3)
			f.at(noon.Add(2 * time.Hour))
			f.is(id, "3 pending, 2 sent")
			f.at(noon.Add(8 * time.Hour))
			f.finishes(id, "5 sent")
		})
		rule("what expired for the window comes back by the window", func(id int64) {
			late := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(time.Hour), Window: &window{20 * 60, 21 * 60}, Filter: filter{Tag: []string{"vip"}}})
			held := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(4 * time.Hour), Window: &window{20 * 60, 21 * 60}})
			f.finishes(late.ID, "5 expired")
			f.is(held.ID, "2 pending, 3 expired")
			f.edited(held.ID, `{"window":{"from":"13:00","to":"24:00"}}`)
			f.is(held.ID, "3 pending, 2 sent")
			f.at(noon.Add(time.Hour))
			f.finishes(held.ID, "5 sent")
		})
		rule("a text counts for what has not gone", func(id int64) {
			f.at(noon.Add(2 * time.Hour))
			f.is(id, "3 pending, 2 sent")
			f.edited(id, `{"text":"the new one"}`)
			f.at(noon.Add(8 * time.Hour))
			f.finishes(id, "5 sent")
			mu.Lock()
			defer mu.Unlock()
			if texts["the new one"] != 3 || texts["a text counts for what has not gone"] != 2 {
				t.Errorf("%v", texts)
			}
		})
		rule("an edit while it is paused counts when it goes on", func(id int64) {
			if _, err := f.service().campaigns.pause(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			f.edited(id, `{"window":null}`)
			f.at(noon.Add(time.Minute))
			f.is(id, "5 pending")
			if _, err := f.service().campaigns.resume(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			f.finishes(id, "5 sent")
		})
		rule("of a client who was deleted nothing comes back", func(id int64) {
			f.edited(id, `{"end_at":%q}`, stamp(noon.Add(3*time.Hour)))
			f.is(id, "2 pending, 3 expired")
			first := f.messagesOf(id)[0].ClientID
			if status := f.product.Call(http.MethodDelete, fmt.Sprintf("/mailing/clients/%d", first), nil, nil); status != http.StatusNoContent {
				t.Fatal(status)
			}
			f.edited(id, `{"end_at":%q}`, stamp(noon.Add(12*time.Hour)))
			f.is(id, "4 pending, 1 expired")
		})
	})
}

// The end passes while a message is under way. The others are expired, and come
// back when the end is moved; what waits for a retry keeps its attempts.
func TestALaterEndBringsBackWhatExpiredByTheOldOne(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		release := make(chan struct{})
		f := atNoon(t, noon, probe.Options{Fate: func(id int64, n int) probe.Fault {
			if n > 1 {
				return probe.None
			}
			if id == 1 {
				<-release
			}
			return probe.Fail
		}}, append(options, apptest.Env("APP_MAILING_RETRY_MIN=1m", "APP_MAILING_RETRY_MAX=1m"))...)
		f.add(0, 4, "vip", "UTC")
		c := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(time.Minute)})
		f.is(c.ID, "1 sending, 3 retrying")
		f.clock.set(noon.Add(time.Minute))
		f.is(c.ID, "1 sending, 3 expired")
		f.hears(messageExpired, 3)
		f.edited(c.ID, `{"end_at":%q}`, stamp(noon.Add(2*time.Hour)))
		f.is(c.ID, "1 sending, 3 sent")
		close(release)
		f.finishes(c.ID, "4 sent")
		for _, m := range f.messagesOf(c.ID) {
			if m.Attempts != 2 || m.LastError != "" {
				t.Errorf("%+v", m)
			}
		}
		f.once(4)
	})
}

// A worker has a message when the window is edited. What it writes down is by
// the window that it knew; the message is looked at again.
func TestAnEditCountsForWhatAWorkerHas(t *testing.T) {
	t.Parallel()
	f := atNoon(t, noon, probe.Options{})
	f.add(0, 2, "vip", "UTC")
	c := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour), Window: &window{20 * 60, 21 * 60}})
	f.is(c.ID, "2 pending")
	d, ctx := f.service().dispatch, t.Context()
	take := func(status messageStatus, due time.Time) {
		t.Helper()
		err := d.campaigns.db.Tx(ctx, func(tx store.Querier) error {
			if _, err := tx.ExecContext(ctx, `update mailing_message set status = $1, due_at = $2 where id = 1`, int64(status), store.MicrosOf(due)); err != nil {
				return err
			}
			moved := tally{}
			if status == messageSending {
				moved.move(c.ID, messagePending, messageSending)
			} else {
				moved.move(c.ID, messageSending, status)
			}
			return moved.save(ctx, tx)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	take(messageSending, noon.Add(lease))
	f.edited(c.ID, `{"window":{"from":"12:00","to":"14:00"}}`)
	f.is(c.ID, "1 sending, 1 sent")
	f.at(noon)
	take(messagePending, noon.Add(8*time.Hour))
	f.finishes(c.ID, "2 sent")
}

// The server stops in the middle of finding new times, and goes on where it was.
func TestAnEditOfManyMessagesSurvivesAStop(t *testing.T) {
	t.Parallel()
	const clients = 2*rescheduleChunk + 100
	f := atNoon(t, noon, probe.Options{})
	f.imports(clients, "vip")
	c := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour), Window: &window{20 * 60, 21 * 60}})
	f.is(c.ID, fmt.Sprintf("%d pending", clients))
	f.edited(c.ID, `{"window":{"from":"21:00","to":"22:00"}}`)
	f.product.Restart()
	apptest.Within(t, 30*time.Second, func() string {
		n := 0
		for _, m := range f.messagesOf(c.ID) {
			if m.DueAt.Equal(noon.Add(9 * time.Hour)) {
				n++
			}
		}
		if n != clients {
			return fmt.Sprintf("%d have their new time", n)
		}
		return ""
	})
	f.edited(c.ID, `{"window":null}`)
	f.product.Restart()
	f.finishes(c.ID, fmt.Sprintf("%d sent", clients))
	f.once(clients)
}

// imports makes clients by a file, whose numbers begin with the first.
func (f *office) imports(n int, tag string) {
	f.Helper()
	var csv strings.Builder
	csv.WriteString("phone_number,tag,timezone\n")
	for i := range n {
		fmt.Fprintf(&csv, "7916%07d,%s,UTC\n", i, tag)
	}
	req := f.product.Request(f.product.Key, http.MethodPost, "/mailing/clients/import", csv.String())
	req.Header.Set("Content-Type", "text/csv")
	if resp, raw := f.product.Exchange(req); resp.StatusCode != http.StatusOK || strings.Contains(string(raw), `"error"`) {
		f.Fatal(resp.Status, string(raw))
	}
}

func TestOneClientGetsACampaignOnceWhateverIsDone(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := atNoon(t, noon, probe.Options{Fate: func(id int64, n int) probe.Fault {
			if id == 1 && n == 1 {
				return probe.BadRequest
			}
			return probe.None
		}}, append(options, apptest.Env("APP_MAILING_LINGER=1h"))...)
		f.imports(4, "vip")
		c := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour), Filter: filter{Tag: []string{"vip", "gold"}}})
		const once = "3 sent, 1 failed"
		f.is(c.ID, once)
		ctx := t.Context()
		for _, step := range []struct {
			name string
			do   func()
		}{
			{"the same file again", func() { f.imports(4, "vip") }},
			{"the same numbers with another tag that fits", func() { f.imports(4, "gold") }},
			{"deleted and added again", func() {
				f.product.Call(http.MethodDelete, "/mailing/clients/2", nil, nil)
				f.addOne(1, "vip", "UTC")
			}},
			{"paused and resumed", func() {
				_, err := f.service().campaigns.pause(ctx, c.ID)
				if err == nil {
					_, err = f.service().campaigns.resume(ctx, c.ID)
				}
				if err != nil {
					t.Fatal(err)
				}
			}},
			{"edited", func() {
				f.edited(c.ID, `{"text":"again","window":{"from":"10:00","to":"20:00"},"end_at":%q}`, stamp(noon.Add(8*time.Hour)))
			}},
			{"restarted", func() { f.product.Restart() }},
		} {
			step.do()
			f.at(f.clock.now().Add(time.Minute))
			f.is(c.ID, once)
			if got := f.probe.Summary(); got.Accepted != 3 {
				t.Fatalf("%s: %+v", step.name, got)
			}
		}
		for range 2 { // only what failed goes again, and only once
			f.product.Call(http.MethodPost, fmt.Sprintf("/mailing/campaigns/%d/resend", c.ID), nil, nil)
			f.is(c.ID, "4 sent")
		}
		f.once(4)
		if n := f.probe.Summary().Accepted; n != 4 {
			t.Errorf("accepted %d times", n)
		}
	})
}

func TestFiltersPickWhoGetsIt(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := atNoon(t, noon, probe.Options{}, options...)
		for i, c := range []struct{ number, operator, tag string }{
			{"79161000001", "", "vip"}, {"79161000002", "", "gold"}, {"79261000003", "", "vip"}, {"79261000004", "916", "vip"}, {"79031000005", "", "none"},
		} {
			body := map[string]any{"phone_number": c.number, "tag": c.tag, "timezone": "UTC"}
			if c.operator != "" {
				body["operator_code"] = c.operator
			}
			if status := f.product.Call(http.MethodPost, "/mailing/clients", body, nil); status != http.StatusCreated {
				t.Fatal(i, status)
			}
		}
		for _, c := range []struct {
			filter string
			want   []int64
		}{
			{`{}`, []int64{1, 2, 3, 4, 5}},
			{`{"operator_code":"916"}`, []int64{1, 2, 4}},
			{`{"tag":"vip"}`, []int64{1, 3, 4}},
			{`{"operator_code":["916"],"tag":["vip"]}`, []int64{1, 4}},
			{`{"operator_code":["926","903"]}`, []int64{3, 5}},
			{`{"operator_code":["916","903"],"tag":["gold","none"]}`, []int64{2, 5}},
			{`{"operator_code":[],"tag":"gold"}`, []int64{2}},
			{`{"tag":"nobody"}`, nil},
		} {
			var made Campaign
			body := fmt.Sprintf(`{"text":"hi","start_at":%q,"end_at":%q,"filter":%s}`, stamp(noon), stamp(noon.Add(time.Hour)), c.filter)
			if status := f.product.Call(http.MethodPost, "/mailing/campaigns", body, &made); status != http.StatusCreated {
				t.Fatal(c.filter, status)
			}
			f.becomes(made.ID, campaignFinished)
			if got := f.sentOf(made.ID); !slices.Equal(got, c.want) {
				t.Errorf("%s: %v, want %v", c.filter, got, c.want)
			}
		}
	})
}

// A client who is edited while the campaign runs is sent to by what he is at
// the last moment; one that comes and does not fit gets nothing.
func TestWhoComesWhileItRunsIsFilteredToo(t *testing.T) {
	t.Parallel()
	f := atNoon(t, noon, probe.Options{})
	f.add(0, 1, "vip", "UTC")
	moved := f.addOne(1, "vip", "UTC")
	c := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(20 * time.Hour), Window: &window{13 * 60, 14 * 60}, Filter: filter{Tag: []string{"vip"}}})
	f.is(c.ID, "2 pending")
	f.add(10, 2, "gold", "UTC")
	f.add(20, 1, "vip", "UTC")
	if status := f.product.Call(http.MethodPatch, fmt.Sprintf("/mailing/clients/%d", moved), `{"timezone":"America/New_York"}`, nil); status != http.StatusOK {
		t.Fatal(status)
	}
	f.is(c.ID, "3 pending")
	f.at(noon.Add(time.Hour))
	f.is(c.ID, "1 pending, 2 sent") // in New York it is 09:00
	f.at(noon.Add(5 * time.Hour))
	f.finishes(c.ID, "3 sent")
	f.once(3)
}

func TestACampaignThatIsPausedBeforeItsStartEndsAtItsEnd(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := atNoon(t, noon, probe.Options{}, options...)
		f.add(0, 3, "vip", "UTC")
		var ids []int64
		for range 3 {
			c := f.campaign(newCampaign{StartAt: noon.Add(time.Hour), EndAt: noon.Add(2 * time.Hour)})
			ids = append(ids, c.ID)
		}
		pause := func(id int64) {
			t.Helper()
			if _, err := f.service().campaigns.pause(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		pause(ids[0])
		pause(ids[1])
		f.at(noon.Add(time.Hour))
		f.finishes(ids[2], "3 sent")
		f.becomes(ids[0], campaignPaused)
		f.edited(ids[1], `{"end_at":%q}`, stamp(noon.Add(4*time.Hour)))
		f.at(noon.Add(2 * time.Hour))
		f.finishes(ids[0], "3 expired")
		for _, m := range f.messagesOf(ids[0]) {
			if m.LastError != endedBefore {
				t.Errorf("%+v", m)
			}
		}
		f.becomes(ids[1], campaignPaused)
	})
}

// More campaigns than are read together run, sleep and end, beside one with far
// more clients than all others.
func TestManyCampaignsAllHaveTheirTurn(t *testing.T) {
	t.Parallel()
	const others = maxCampaigns + 50
	f := atNoon(t, noon, probe.Options{}, apptest.Env("APP_MAILING_MAX_IN_FLIGHT=400", "APP_MAILING_BATCH=40"))
	const crowd = 2000
	f.imports(crowd, "crowd")
	for i := range others {
		f.addOne(10_000+i, fmt.Sprint("t", i), "UTC")
	}
	huge := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(time.Hour), Filter: filter{Tag: []string{"crowd"}}})
	var ids []int64
	for i := range others {
		c := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(time.Hour), Filter: filter{Tag: []string{fmt.Sprint("t", i)}}, Window: &window{12 * 60, 12*60 + 30}})
		ids = append(ids, c.ID)
	}
	for _, id := range ids {
		f.finishes(id, "1 sent")
	}
	f.finishes(huge.ID, fmt.Sprint(crowd, " sent"))
	f.once(crowd + others)
}

func TestCampaignsWithNothingToDoKeepNoOthersWaiting(t *testing.T) {
	t.Parallel()
	const others = maxCampaigns + 50
	f := atNoon(t, noon, probe.Options{})
	f.add(0, 2, "vip", "UTC")
	var waiting, paused []int64
	for range others {
		c := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour), Window: &window{20 * 60, 21 * 60}})
		waiting = append(waiting, c.ID)
		p := f.campaign(newCampaign{StartAt: noon.Add(time.Hour), EndAt: noon.Add(2 * time.Hour)})
		if _, err := f.service().campaigns.pause(t.Context(), p.ID); err != nil {
			t.Fatal(err)
		}
		paused = append(paused, p.ID)
	}
	last := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour)})
	f.finishes(last.ID, "2 sent")
	for _, id := range waiting {
		f.is(id, "2 pending")
	}
	f.clock.set(noon.Add(2 * time.Hour))
	for _, id := range paused {
		f.finishes(id, "2 expired")
	}
	for _, id := range waiting {
		if _, err := f.service().campaigns.cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range waiting {
		f.is(id, "2 canceled")
	}
}

func TestWhatIsClosedTogetherIsLoggedAndCountedOneByOne(t *testing.T) {
	t.Parallel()
	f := atNoon(t, noon, probe.Options{})
	f.add(0, 30, "vip", "UTC")
	var ids []int64
	for range 2 {
		c := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(time.Hour), Window: &window{12*60 + 30, 13 * 60}})
		f.is(c.ID, "30 pending")
		ids = append(ids, c.ID)
	}
	if status := f.product.Call(http.MethodDelete, "/mailing/clients/1", nil, nil); status != http.StatusNoContent {
		t.Fatal(status)
	}
	f.logs(ids[0], eventMessageCanceled, 1)
	f.logs(ids[1], eventMessageCanceled, 1)
	f.hears(messageCanceled, 2)
	if _, err := f.service().campaigns.cancel(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	f.is(ids[0], "30 canceled")
	f.clock.set(noon.Add(time.Hour))
	f.finishes(ids[1], "29 expired, 1 canceled")
	f.logs(ids[0], eventMessageCanceled, 30)
	f.logs(ids[1], eventMessageExpired, 29)
	f.hears(messageCanceled, 31)
	f.hears(messageExpired, 29)
	m := f.messagesOf(ids[1])[7]
	var page struct {
		Items []LogEntry `json:"items"`
	}
	f.product.Call(http.MethodGet, fmt.Sprintf("/mailing/messages/%d/log", m.ID), nil, &page)
	if len(page.Items) != 1 || page.Items[0].Event != eventMessageExpired || page.Items[0].ClientID != m.ClientID || page.Items[0].CampaignID != ids[1] {
		t.Errorf("%+v", page.Items)
	}
}
