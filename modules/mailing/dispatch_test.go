package mailing

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"switchboard/modules/mailing/internal/probe"
	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/store/storetest"
)

// wallClock is a clock that a test sets.
type wallClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *wallClock) set(at time.Time) {
	c.mu.Lock()
	c.at = at
	c.mu.Unlock()
}

// office is mailing at work, with a provider.
type office struct {
	*testing.T
	product *apptest.Product
	probe   *probe.Probe
	clock   *wallClock // nil: the real one
	mu      sync.Mutex
	s       *service
}

// newOffice starts the module on its own. Pauses are short.
func newOffice(t *testing.T, o probe.Options, options ...apptest.Option) *office {
	t.Helper()
	f := &office{T: t, probe: probe.New(o)}
	t.Cleanup(f.probe.Close)
	address, err := f.probe.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	module := Module
	module.New = func(p app.Platform) (app.Service, error) {
		s, err := newService(p)
		if err == nil {
			f.mu.Lock()
			f.s = s.(*service)
			f.mu.Unlock()
		}
		return s, err
	}
	options = append([]apptest.Option{apptest.Env("APP_MAILING_SENDER_URL="+address, "APP_MAILING_SENDER_TOKEN=t", "APP_MAILING_RETRY_MIN=20ms", "APP_MAILING_RETRY_MAX=200ms",
		"APP_MAILING_LINGER=0s", "APP_MAILING_SENDER_TIMEOUT=300ms")}, options...)
	f.product = apptest.Start(t, []app.Module{module}, options...)
	return f
}

// atNoon starts an office whose clock stands at a time. The provider has long to
// answer: while the clock stands nothing is tried again.
func atNoon(t *testing.T, at time.Time, o probe.Options, options ...apptest.Option) *office {
	c := &wallClock{at: at}
	f := newOffice(t, o, append([]apptest.Option{apptest.Env("APP_MAILING_SENDER_TIMEOUT=30s"), apptest.Now(c.now)}, options...)...)
	f.clock = c
	return f
}

func (f *office) service() *service {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.s
}

// add makes clients, the first with this number among all.
func (f *office) add(first, n int, tag, zone string) {
	f.Helper()
	for i := range n {
		f.addOne(first+i, tag, zone)
	}
}

func (f *office) addOne(n int, tag, zone string) (id int64) {
	f.Helper()
	var made struct{ ID int64 }
	status := f.product.Call("POST", "/mailing/clients", map[string]any{"phone_number": fmt.Sprintf("7916%07d", n), "tag": tag, "timezone": zone}, &made)
	if status != 201 {
		f.Fatalf("make a client: %d", status)
	}
	return made.ID
}

func (f *office) campaign(c newCampaign) *campaign {
	f.Helper()
	if c.Text == "" {
		c.Text = "hello"
	}
	made, err := f.service().campaigns.create(f.Context(), c)
	if err != nil {
		f.Fatal(err)
	}
	return made
}

// counts gives the counters of a campaign.
func (f *office) counts(id int64) map[messageStatus]int64 {
	f.Helper()
	counts, err := f.service().campaigns.counts(f.Context(), []int64{id})
	if err != nil {
		f.Fatal(err)
	}
	return counts[id]
}

// becomes waits until a campaign has a status and gives its counters, which
// must be what its rows say.
func (f *office) becomes(id int64, want campaignStatus) map[messageStatus]int64 {
	f.Helper()
	apptest.Within(f, 30*time.Second, func() string {
		c, err := f.service().campaigns.get(f.Context(), id)
		if err != nil {
			f.Fatal(err)
		}
		if c.Status != want {
			return fmt.Sprintf("the campaign is %s: %v", c.Status, f.counts(id))
		}
		return ""
	})
	apptest.Eventually(f, func() string { // they are read one after the other, while messages move
		off := f.counts(id)
		list, err := f.service().dispatch.messages.list(f.Context(), messageQuery{Campaign: &id, Limit: 100_000})
		if err != nil {
			f.Fatal(err)
		}
		for _, m := range list {
			off[m.Status]--
		}
		maps.DeleteFunc(off, func(_ messageStatus, n int64) bool { return n == 0 })
		if len(off) > 0 {
			return fmt.Sprintf("the counters are off by %v", off)
		}
		return ""
	})
	return f.counts(id)
}

// once checks that the provider accepted one message for each number.
func (f *office) once(n int) {
	f.Helper()
	s := f.probe.Summary()
	if int(s.DistinctPhones) != n || s.PhonesWithTwoIDs != 0 {
		f.Errorf("%+v, want %d numbers", s, n)
	}
}

// onBoth runs a test with SQLite and with PostgreSQL.
func onBoth(t *testing.T, test func(t *testing.T, options ...apptest.Option)) {
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); test(t) })
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, apptest.Args("--database-url="+storetest.Postgres(t)))
	})
}

func TestACampaignReachesEveryClientOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := newOffice(t, probe.Options{}, append(options, apptest.Env("APP_MAILING_SENDER_TIMEOUT=30s"))...)
		f.add(0, 150, "vip", "Europe/Moscow")
		f.add(1000, 20, "other", "Asia/Omsk")
		now := time.Now()
		c := f.campaign(newCampaign{StartAt: now, EndAt: now.Add(time.Hour), Filter: filter{Tag: []string{"vip"}}, Text: "hi {{.tag}}"})
		if got := f.becomes(c.ID, campaignFinished); got[messageSent] != 150 {
			t.Errorf("%v", got)
		}
		f.once(150)
		if n := f.probe.Summary().Accepted; n != 150 {
			t.Errorf("accepted %d times", n)
		}
	})
}

// The provider fails in every way; nobody gets it twice under two ids, and
// everybody gets it.
func TestACampaignSurvivesAProviderThatFails(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := newOffice(t, probe.Options{Seed: 7, Faults: probe.Faults{Fail: 0.2, Hang: 0.03, Garbage: 0.05, Reset: 0.05, ResetAfter: 0.03, Rejected: 0.05, GarbageAfter: 0.02}}, options...)
		f.add(0, 300, "vip", "Europe/Moscow")
		now := time.Now()
		c := f.campaign(newCampaign{StartAt: now, EndAt: now.Add(time.Hour)})
		if got := f.becomes(c.ID, campaignFinished); got[messageSent] != 300 {
			t.Errorf("%v", got)
		}
		f.once(300)
	})
}

func TestACampaignWaitsForItsStartAndEndsInTime(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	f := atNoon(t, noon, probe.Options{Faults: probe.Faults{Fail: 1}})
	f.add(0, 20, "vip", "Europe/Moscow")
	c := f.campaign(newCampaign{StartAt: noon.Add(time.Hour), EndAt: noon.Add(2 * time.Hour)})
	f.clock.set(noon.Add(59 * time.Minute))
	f.becomes(c.ID, campaignScheduled)
	if n := f.probe.Summary().Requests; n != 0 {
		t.Errorf("%d requests before the start", n)
	}
	f.clock.set(noon.Add(time.Hour))
	f.becomes(c.ID, campaignRunning)
	apptest.Eventually(t, func() string {
		if n := f.counts(c.ID)[messageRetrying]; n == 0 {
			return "nothing is tried"
		}
		return ""
	})
	// The end comes while all of them are to be tried again.
	f.clock.set(noon.Add(2 * time.Hour))
	if got := f.becomes(c.ID, campaignFinished); got[messageExpired] != 20 {
		t.Errorf("%v", got)
	}
	f.probe.Set(probe.Faults{})
	if n := f.probe.Summary().Accepted; n != 0 {
		t.Errorf("%d went after the end", n)
	}
}

// A campaign whose whole time went by while nothing ran is accounted for.
func TestACampaignThatWasMissedExpires(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	f := atNoon(t, noon, probe.Options{})
	f.add(0, 5, "vip", "Europe/Moscow")
	c := f.campaign(newCampaign{StartAt: noon.Add(-2 * time.Hour), EndAt: noon.Add(-time.Hour)})
	if got := f.becomes(c.ID, campaignFinished); got[messageExpired] != 5 {
		t.Errorf("%v", got)
	}
}

func TestAWindowIsOfTheClientsDay(t *testing.T) {
	t.Parallel()
	// 04:00 UTC is 07:00 in Moscow and 10:00 in Omsk.
	early := time.Date(2026, 3, 2, 4, 0, 0, 0, time.UTC)
	f := atNoon(t, early, probe.Options{})
	f.add(0, 3, "vip", "Europe/Moscow")
	f.add(100, 4, "vip", "Asia/Omsk")
	c := f.campaign(newCampaign{StartAt: early, EndAt: early.Add(10 * time.Hour), Window: &window{9 * 60, 21 * 60}})
	late := f.campaign(newCampaign{StartAt: early, EndAt: early.Add(time.Hour), Window: &window{9 * 60, 21 * 60}})
	apptest.Eventually(t, func() string {
		for _, id := range []int64{c.ID, late.ID} {
			if got := f.counts(id); got[messageSent] != 4 {
				return fmt.Sprint(got)
			}
		}
		return ""
	})
	if got := f.counts(c.ID); got[messagePending] != 3 {
		t.Errorf("%v", got)
	}
	f.clock.set(early.Add(2 * time.Hour))
	if got := f.becomes(c.ID, campaignFinished); got[messageSent] != 7 {
		t.Errorf("%v", got)
	}
	if got := f.becomes(late.ID, campaignFinished); got[messageSent] != 4 || got[messageExpired] != 3 {
		t.Errorf("the window that never opens before the end: %v", got)
	}
}

func TestPauseResumeAndCancel(t *testing.T) {
	t.Parallel()
	f := newOffice(t, probe.Options{}, apptest.Env("APP_MAILING_RATE=40"))
	f.add(0, 100, "vip", "Europe/Moscow")
	now := time.Now()
	ctx := t.Context()
	c := f.campaign(newCampaign{StartAt: now, EndAt: now.Add(time.Hour)})
	apptest.Eventually(t, func() string {
		if f.counts(c.ID)[messageSent] == 0 {
			return "nothing is sent"
		}
		return ""
	})
	if _, err := f.service().campaigns.pause(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, func() string {
		if n := f.counts(c.ID)[messageSending]; n > 0 {
			return fmt.Sprintf("%d are being sent", n)
		}
		return ""
	})
	paused := f.probe.Summary().Accepted
	if paused == 100 {
		t.Error("the pause came too late to be seen")
	}
	if _, err := f.service().campaigns.resume(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, func() string {
		if f.probe.Summary().Accepted == paused {
			return "it does not go on"
		}
		return ""
	})
	if _, err := f.service().campaigns.cancel(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, func() string {
		got := f.counts(c.ID)
		if got[messageSent]+got[messageCanceled] != 100 {
			return fmt.Sprint(got)
		}
		return ""
	})
	f.once(int(f.counts(c.ID)[messageSent]))
}

// A client that is deleted gets nothing more; one that is added meanwhile gets
// it too.
func TestClientsComeAndGoWhileACampaignRuns(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	f := atNoon(t, noon, probe.Options{})
	gone := f.addOne(0, "vip", "UTC")
	f.add(1, 4, "vip", "UTC")
	c := f.campaign(newCampaign{StartAt: noon, EndAt: noon.Add(10 * time.Hour), Window: &window{13 * 60, 14 * 60}})
	apptest.Eventually(t, func() string {
		if n := f.counts(c.ID)[messagePending]; n != 5 {
			return fmt.Sprintf("%d wait", n)
		}
		return ""
	})
	if status := f.product.Call("DELETE", fmt.Sprintf("/mailing/clients/%d", gone), nil, nil); status != 204 {
		t.Fatalf("delete: %d", status)
	}
	f.add(10, 2, "vip", "UTC")
	f.addOne(0, "vip", "UTC") // the number of the one that is gone: it had its message
	apptest.Eventually(t, func() string {
		if got := f.counts(c.ID); got[messagePending] != 6 || got[messageCanceled] != 1 {
			return fmt.Sprint(got)
		}
		return ""
	})
	f.clock.set(noon.Add(time.Hour))
	if got := f.becomes(c.ID, campaignFinished); got[messageSent] != 6 || got[messageCanceled] != 1 {
		t.Errorf("%v", got)
	}
	f.once(6)
}

// 401 pauses the sender and loses nothing; 400 is for good; 429 is obeyed.
func TestWhatTheProviderSaysCounts(t *testing.T) {
	t.Parallel()
	refused := map[int64]bool{}
	var mu sync.Mutex
	f := newOffice(t, probe.Options{Fate: func(id int64, n int) probe.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case id%10 == 0:
			refused[id] = true
			return probe.BadRequest
		case id == 7 && n < 3:
			return probe.Busy
		}
		return probe.None
	}})
	f.add(0, 60, "vip", "UTC")
	now := time.Now()
	c := f.campaign(newCampaign{StartAt: now, EndAt: now.Add(time.Hour)})
	got := f.becomes(c.ID, campaignFinished)
	if int(got[messageFailed]) != len(refused) || int(got[messageSent]) != 60-len(refused) {
		t.Errorf("%v, refused %d", got, len(refused))
	}
}
