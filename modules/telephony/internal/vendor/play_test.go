package vendor_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/modules/telephony/internal/vendor"
)

func TestAPlayedMixMakesSense(t *testing.T) {
	t.Parallel()
	h := listen(t, nil)
	p := start(t, vendor.Options{Seed: 7, Webhook: h.URL, Key: "sb_x_y"})
	var mu sync.Mutex
	told := 0
	tally, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 400, Recordings: 0.5, Duplicates: 0.1, Unknown: 0.05, Returning: 0.4,
		OnEvent: func(string, []byte, int) { mu.Lock(); told++; mu.Unlock() }})
	if err != nil {
		t.Fatal(err)
	}
	events := h.got()
	calls := byCall(events)
	if tally.Calls != 400 || len(calls) != 400 || tally.Events != len(events) || told != len(events) || tally.Retries+tally.Refused != 0 || p.Tally() != tally {
		t.Errorf("%+v of %d events and %d calls, told of %d", tally, len(events), len(calls), told)
	}
	if share := float64(tally.Duplicates) / float64(tally.Events); share < 0.05 || share > 0.15 {
		t.Errorf("%d duplicates of %d", tally.Duplicates, tally.Events)
	}
	distinct := map[string]bool{}
	seen := map[string]int{}
	for _, e := range events {
		distinct[e.body] = true
		seen[e.Type]++
	}
	if len(distinct) != tally.Events-tally.Duplicates {
		t.Errorf("%d distinct events, %d of %d were repeated", len(distinct), tally.Duplicates, tally.Events)
	}
	stood := 0
	for id, call := range calls {
		makesSense(t, id, call)
		if slices.Contains(types(call), "call.standby") {
			stood++
		}
	}
	if tally.Delegated != 0 || tally.Undelegated != stood {
		t.Errorf("%+v, but %d calls stood by", tally, stood)
	}
	for _, kind := range []string{"call.queue-abandon", "call.overflow", "call.follow-me", "call.recording-available", "dialer.success", "dialer.attempt",
		"actor.noanswer", "actor.logged-in", "actor.paused", "actor.logged-out", "call.on-hold"} {
		if seen[kind] == 0 {
			t.Errorf("no %s among %v", kind, seen)
		}
	}
	if seen["actor.logged-in"] < 48 || h.auth != "Bearer sb_x_y" {
		t.Errorf("%d logged in; the credential was %q", seen["actor.logged-in"], h.auth)
	}
}

// makesSense checks the order of a call's events.
func makesSense(t *testing.T, id string, call []received) {
	t.Helper()
	kinds := types(call)
	if kinds[0] != "call.new" {
		t.Fatalf("call %s begins with %s: %v", id, kinds[0], kinds)
	}
	last := kinds
	if last[len(last)-1] == "call.recording-available" {
		last = last[:len(last)-1]
	}
	if last[len(last)-1] != "call.finished" {
		t.Fatalf("call %s ends with %v", id, kinds)
	}
	if !slices.IsSortedFunc(call, func(a, b received) int { return strings.Compare(a.Timestamp, b.Timestamp) }) {
		t.Fatalf("the times of call %s go backwards", id)
	}
	at := func(kind string) int { return slices.Index(kinds, kind) }
	for _, pair := range [][2]string{{"call.standby", "call.waiting"}, {"call.waiting", "actor.entered"}, {"actor.entered", "call.ongoing"}, {"call.ongoing", "actor.left"},
		{"call.waiting", "call.queue-abandon"}, {"call.waiting", "call.overflow"}, {"actor.noanswer", "call.follow-me"}} {
		if i, j := at(pair[0]), at(pair[1]); i >= 0 && j >= 0 && i > j {
			t.Fatalf("call %s has %s before %s", id, pair[1], pair[0])
		}
	}
	if at("call.ongoing") >= 0 == (at("call.queue-abandon") >= 0) && len(kinds) > 2 {
		t.Fatalf("call %s is neither answered nor abandoned: %v", id, kinds)
	}
}

func TestASeedRepeatsTheCalls(t *testing.T) {
	t.Parallel()
	noon := time.Date(2021, 3, 4, 12, 0, 0, 0, time.UTC)
	play := func(seed uint64) (bodies []string) {
		h := listen(t, nil)
		p := start(t, vendor.Options{Seed: seed, Webhook: h.URL, Now: func() time.Time { return noon }})
		_, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 60, Parallel: 1, Returning: 0.3, Recordings: 0.5, RecordingBase: "https://platform.example/",
			OutOfOrder: 0.2, Duplicates: 0.1, Unknown: 0.1})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range h.got() {
			bodies = append(bodies, e.body)
		}
		return bodies
	}
	first, again, other := play(3), play(3), play(4)
	if !slices.Equal(first, again) {
		t.Error("the same seed plays something else")
	}
	if slices.Equal(first, other) {
		t.Error("another seed plays the same")
	}
	if !strings.Contains(first[len(first)/2], `"timestamp":"2021-03-04T12:0`) {
		t.Errorf("not by the clock: %s", first[len(first)/2])
	}
}

func TestEventsOutOfOrder(t *testing.T) {
	t.Parallel()
	h := listen(t, nil)
	p := start(t, vendor.Options{Seed: 9, Webhook: h.URL})
	tally, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 100, OutOfOrder: 1, NoStaff: true, Mix: vendor.Mix{Answered: 1, Abandoned: 1, Forwarded: 1}})
	if err != nil {
		t.Fatal(err)
	}
	calls := byCall(h.got())
	if len(calls) != 100 || tally.Calls != 100 {
		t.Errorf("%d calls, %+v", len(calls), tally)
	}
	for id, call := range calls {
		byTime := func(a, b received) int { return strings.Compare(a.Timestamp, b.Timestamp) }
		if slices.IsSortedFunc(call, byTime) {
			t.Errorf("call %s is in order: %v", id, types(call))
		}
		slices.SortFunc(call, byTime)
		makesSense(t, id, call)
	}
}

func TestADelegatedCallGoesToItsQueue(t *testing.T) {
	t.Parallel()
	var p *platform
	var twice sync.Map
	h := listen(t, func(_ int, e received) int {
		if e.Type == "call.standby" {
			body := `{"type":"delegate","call_id":"` + e.CallID + `","destination":"901"}`
			if status, answer := p.act(body); status != 200 {
				t.Errorf("delegate: %d %s", status, answer)
			}
			if status, answer := p.act(body); status != 400 || answer != `{"error":"call is not standing by"}` {
				t.Errorf("second delegate: %d %s", status, answer)
			}
			twice.Store(e.CallID, true)
		}
		if e.Type == "call.new" {
			if status, _ := p.act(`{"type":"delegate","call_id":"` + e.CallID + `","destination":"901"}`); status != 400 {
				t.Errorf("a new call was delegated: %d", status)
			}
		}
		return http.StatusOK
	})
	p = start(t, vendor.Options{Seed: 11})
	p.SetWebhook(h.URL, "")
	tally, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 30, AwaitDelegate: true, NoStaff: true, OutOfOrder: 0.5, Mix: vendor.Mix{Answered: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if tally.Delegated != 30 || tally.Undelegated != 0 {
		t.Errorf("%+v", tally)
	}
	for id, call := range byCall(h.got()) {
		for _, e := range call {
			if e.Queue != "" && e.Queue != "901" {
				t.Errorf("call %s is in queue %s: %s", id, e.Queue, e.body)
			}
		}
		if got := p.Accepted(id); len(got) != 1 || got[0].Destination != "901" {
			t.Errorf("call %s: %+v", id, got)
		}
		if status, _ := p.act(`{"type":"delegate","call_id":"` + id + `","destination":"900"}`); status != 400 {
			t.Errorf("a finished call was delegated: %d", status)
		}
	}
}

func TestACallThatNobodyDelegatesGoesOnByItself(t *testing.T) {
	t.Parallel()
	h := listen(t, nil)
	p := start(t, vendor.Options{Seed: 13, Webhook: h.URL})
	tally, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 5, Parallel: 5, AwaitDelegate: true, DelegateWait: 10 * time.Millisecond, NoStaff: true, Mix: vendor.Mix{Answered: 1}})
	if err != nil || tally.Undelegated != 5 || tally.Delegated != 0 {
		t.Errorf("%+v, %v", tally, err)
	}
	for _, e := range h.got() {
		if e.Type == "call.waiting" && e.Queue != "900" {
			t.Errorf("%s", e.body)
		}
	}
}

func TestReturningCallersHaveCalledBefore(t *testing.T) {
	t.Parallel()
	callers := func(share float64) (calls int, distinct int) {
		h := listen(t, nil)
		p := start(t, vendor.Options{Seed: 17, Webhook: h.URL})
		if _, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 300, Returning: share, NoStaff: true}); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, e := range h.got() {
			if e.Type == "call.new" && e.Direction == "inbound" {
				calls++
				seen[e.TheirNumber] = true
			}
		}
		return calls, len(seen)
	}
	if calls, distinct := callers(0); distinct != calls {
		t.Errorf("%d calls of %d callers", calls, distinct)
	}
	if calls, distinct := callers(0.5); distinct < calls*4/10 || distinct > calls*6/10 {
		t.Errorf("%d calls of %d callers", calls, distinct)
	}
	if _, distinct := callers(1); distinct != 1 {
		t.Errorf("%d callers", distinct)
	}
}

func TestAnEventIsPostedUntilItIsTaken(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	tries := map[string]int{}
	statuses := []int{500, 429, 503}
	h := listen(t, func(n int, e received) int {
		mu.Lock()
		defer mu.Unlock()
		tries[e.body]++
		if tries[e.body] == 1 {
			return statuses[n%3]
		}
		return http.StatusOK
	})
	p := start(t, vendor.Options{Webhook: h.URL})
	tally, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 8, NoStaff: true, Mix: vendor.Mix{Answered: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if tally.Retries != len(tries) || tally.Events != len(tries) || tally.Refused != 0 || h.requests != tally.Events+tally.Retries {
		t.Errorf("%+v of %d events and %d requests", tally, len(tries), h.requests)
	}
	for id, call := range byCall(h.got()) {
		makesSense(t, id, call)
	}
}

func TestARefusedEventIsCountedAndTheCallGoesOn(t *testing.T) {
	t.Parallel()
	h := listen(t, func(_ int, e received) int {
		if e.Type == "call.ongoing" {
			return http.StatusUnprocessableEntity
		}
		return http.StatusOK
	})
	p := start(t, vendor.Options{Webhook: h.URL, Key: "secret", BasicKey: true})
	refused := 0
	tally, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 4, Parallel: 1, NoStaff: true, Mix: vendor.Mix{Answered: 1}, OnEvent: func(_ string, _ []byte, status int) {
		if status == http.StatusUnprocessableEntity {
			refused++
		}
	}})
	if err != nil || tally.Refused != 4 || refused != 4 || tally.Calls != 4 {
		t.Errorf("%+v, %v, told of %d", tally, err, refused)
	}
	if !strings.HasPrefix(h.auth, "Basic ") {
		t.Errorf("the credential was %q", h.auth)
	}
}

func TestAPlayFindsAWebhookThatMoved(t *testing.T) {
	t.Parallel()
	gone := listen(t, func(int, received) int { panic(http.ErrAbortHandler) }) // answers nothing
	h := listen(t, nil)
	lines := make(chan string, 100)
	p := start(t, vendor.Options{Webhook: gone.URL, Log: func(format string, args ...any) { lines <- fmt.Sprintf(format, args...) }})
	done := make(chan error, 1)
	go func() {
		_, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 2, NoStaff: true})
		done <- err
	}()
	if line := <-lines; !strings.Contains(line, "does not take events") {
		t.Errorf("it says %q", line)
	}
	p.SetWebhook(h.URL, "")
	if err := <-done; err != nil || len(byCall(h.got())) != 2 {
		t.Errorf("%v, %d events", err, len(h.got()))
	}
	if line := <-lines; !strings.Contains(line, "takes events again") {
		t.Errorf("it says %q", line)
	}
}

func TestThePlayEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		options vendor.PlayOptions
		status  int
		fails   bool
	}{
		{"without a number of calls", vendor.PlayOptions{}, 200, false},
		{"with a number of calls", vendor.PlayOptions{Calls: 1_000_000}, 200, true},
		{"within pauses", vendor.PlayOptions{Speed: 1, Rate: 500, NoStaff: true}, 200, false},
		{"while it waits for delegates", vendor.PlayOptions{AwaitDelegate: true, DelegateWait: time.Hour, NoStaff: true}, 200, false},
		{"while it tries again", vendor.PlayOptions{Calls: 1}, 503, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			h := listen(t, func(n int, _ received) int {
				if n == 20 || c.status != 200 {
					cancel()
				}
				if n >= 8 && c.options.DelegateWait > 0 {
					cancel()
				}
				return c.status
			})
			p := start(t, vendor.Options{Webhook: h.URL})
			_, err := p.Play(ctx, c.options)
			if c.fails != errors.Is(err, context.Canceled) || !c.fails && err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestAPlayEndsAfterATimeWithItsCalls(t *testing.T) {
	t.Parallel()
	h := listen(t, nil)
	p := start(t, vendor.Options{Webhook: h.URL})
	tally, err := p.Play(t.Context(), vendor.PlayOptions{For: 60 * time.Millisecond, Rate: 100, Speed: 2000})
	if err != nil || tally.Calls == 0 {
		t.Fatalf("%+v, %v", tally, err)
	}
	for id, call := range byCall(h.got()) {
		makesSense(t, id, call)
	}
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	p := start(t, vendor.Options{Webhook: "http://127.0.0.1:1"})
	for _, o := range []vendor.PlayOptions{{Returning: 1.5}, {Unknown: -1}, {Rate: -1}, {Speed: -1}, {Calls: -1}, {Mix: vendor.Mix{Answered: -1}}} {
		o.Calls = min(o.Calls, 0)
		if _, err := p.Play(t.Context(), o); err == nil {
			t.Errorf("%+v was played", o)
		}
	}
	p.SetWebhook("", "")
	if _, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 1}); err == nil {
		t.Error("played to no webhook")
	}
}

func TestADialerActionIsPlayed(t *testing.T) {
	t.Parallel()
	h := listen(t, nil)
	p := start(t, vendor.Options{Webhook: h.URL, DialFailure: func(number string) string {
		if strings.HasSuffix(number, "0") {
			return "busy"
		}
		return ""
	}})
	if status, _ := p.act(`{"type":"dialer","numbers":["5511999990000","5511999998888"],"destination":"100","destination_type":"peer","code":"happy-peer-100"}`); status != 200 {
		t.Fatal(status)
	}
	eventually(t, func() bool { return p.Tally().Calls == 1 })
	events := h.got()
	want := []string{"dialer.attempt", "dialer.failure", "dialer.attempt", "call.new", "dialer.success", "call.waiting", "actor.ringing", "actor.entered", "call.ongoing", "actor.left", "call.finished"}
	if got := slices.DeleteFunc(types(events), func(kind string) bool { return kind == "peer.ringing" }); !slices.Equal(got, want) {
		t.Fatalf("played %v", got)
	}
	for _, e := range events {
		if e.Code != "happy-peer-100" && e.Type != "peer.ringing" {
			t.Errorf("the code is missing: %s", e.body)
		}
		if e.Type == "call.new" && (e.Direction != "outbound" || e.TheirNumber != "11999998888") || e.Type == "actor.entered" && e.Number != "100" || e.Type == "dialer.failure" && e.Reason != "busy" {
			t.Errorf("played %s", e.body)
		}
	}

	p.act(`{"type":"dialer","numbers":["10","20"],"destination":"900","code":"sad","retries":"1","retry_gap":"10s"}`)
	eventually(t, func() bool { return slices.Contains(types(h.got()), "dialer.exceeded") })
	if got := types(h.got()[len(events):]); len(got) != 2*2*2+1 {
		t.Errorf("played %v", got)
	}
}

// A webhook that is down keeps a dialer action busy until the fake is closed.
func TestCloseEndsWhatWasDialed(t *testing.T) {
	t.Parallel()
	tried := make(chan struct{}, 100)
	h := listen(t, func(int, received) int { tried <- struct{}{}; return http.StatusServiceUnavailable })
	p := start(t, vendor.Options{Webhook: h.URL})
	p.act(`{"type":"dialer","numbers":["1"],"destination":"900"}`)
	<-tried
	p.Close()
	if status, _ := p.act(`{}`); status != 0 {
		t.Errorf("a closed platform answers: %d", status)
	}
}
