package mailing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/modules/mailing/internal/probe"
	"switchboard/platform/apptest"
	"switchboard/platform/breaker"
)

// stormy is a provider in bad health. Of the requests that hang, are cut or are
// answered with garbage one half had no effect, and the other half had: only its
// answer is lost.
var stormy = probe.Faults{Latency: 5 * time.Millisecond, Jitter: 10 * time.Millisecond, Fail: 0.2,
	Hang: 0.025, HangAfter: 0.025, Garbage: 0.025, GarbageAfter: 0.025, Reset: 0.025, ResetAfter: 0.025}

// away and locked are the same provider while it is away, and while it refuses
// the token.
func away() probe.Faults   { f := stormy; f.Outages = []probe.Window{{}}; return f }
func locked() probe.Faults { f := stormy; f.Unauthorized = []probe.Window{{}}; return f }

// witness notes what a provider accepts, in order. Beyond a number of
// acceptances answers wait for release, so that a campaign cannot be over before
// the test has done to it what it wants.
type witness struct {
	end  <-chan struct{}
	mu   sync.Mutex
	ids  []int64
	most int
	free chan struct{}
}

func newWitness(t *testing.T, most int) *witness {
	return &witness{end: t.Context().Done(), most: most, free: make(chan struct{})}
}

// sees is the provider's OnAccept.
func (w *witness) sees(id int64, _, _ string, _ time.Time) {
	w.mu.Lock()
	w.ids = append(w.ids, id)
	free, waits := w.free, len(w.ids) > w.most
	w.mu.Unlock()
	if waits {
		select {
		case <-free:
		case <-w.end:
		}
	}
}

func (w *witness) seen() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ids
}

// awaits returns when an answer waits.
func (w *witness) awaits(t *testing.T) {
	t.Helper()
	apptest.Within(t, time.Minute, func() string {
		if n := len(w.seen()); n <= w.most {
			return fmt.Sprintf("%d messages of %d are accepted", n, w.most)
		}
		return ""
	})
}

// release lets answers go, and further ones wait beyond that many acceptances.
func (w *witness) release(most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.free)
	w.most, w.free = most, make(chan struct{})
}

// needless gives the messages that a provider accepted again although it had
// not kept the answer to itself, and how often.
func needless(t *testing.T, p *probe.Probe) map[int64]int {
	t.Helper()
	again := map[int64]int{}
	p.EachAccepted(func(id int64, _ uint64, n, lost int) {
		switch {
		case n == lost: // nothing but an answer makes a message sent
			t.Errorf("message %d was accepted %d times, and no answer said so", id, n)
		case n > lost+1:
			again[id] = n - lost - 1
		}
	})
	return again
}

// impatience is how often the product gave up waiting, by its metrics, when the
// provider did not hang: what that was about goes again, on a busy machine.
func impatience(s probe.Summary, timeouts int) int {
	return max(timeouts-int(s.ByFault[probe.Hang.String()]+s.ByFault[probe.HangAfter.String()]), 0)
}

// counters reads metrics.
func counters(text string) map[string]int {
	values := map[string]int{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] = int(n)
		}
	}
	return values
}

const timeoutsCounter = `mailing_attempts_total{result="timeout"}`

// suffers changes over HTTP what the provider does wrong.
func (f *office) suffers(faults probe.Faults) {
	f.Helper()
	text, err := json.Marshal(faults)
	if err != nil {
		f.Fatal(err)
	}
	req, err := http.NewRequestWithContext(f.Context(), http.MethodPut, f.service().cfg.SenderURL+"/faults", bytes.NewReader(text))
	if err != nil {
		f.Fatal(err)
	}
	if resp, text := f.product.Exchange(req); resp.StatusCode != http.StatusOK {
		f.Fatalf("%s %s", resp.Status, text)
	}
}

// rests waits until the breaker is in a state.
func (f *office) rests(want breaker.State) {
	f.Helper()
	apptest.Within(f, time.Minute, func() string {
		if state, _ := f.service().dispatch.breaker.State(); state != want {
			return fmt.Sprintf("the breaker is %v", state)
		}
		return ""
	})
}

// A provider fails, hangs, cuts connections and talks nonsense, is away for a
// while and refuses the token for a while: everybody gets the message, nobody
// two, and none is sent again that the provider had said it accepted.
func TestAStormLeavesNobodyOutAndGivesNobodyTwo(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		const clients = 1000
		w := newWitness(t, clients/4)
		f := newOffice(t, probe.Options{Seed: 11, OnAccept: w.sees}, append(options, apptest.Env("APP_MAILING_SENDER_TIMEOUT=1s"))...)
		f.suffers(stormy)
		var csv strings.Builder
		csv.WriteString("phone_number,tag,timezone\n")
		for n := range clients {
			fmt.Fprintf(&csv, "7916%07d,vip,Asia/Omsk\n", n)
		}
		if resp, text := f.product.Exchange(f.product.Request(f.product.Key, http.MethodPost, "/mailing/clients/import?format=csv", csv.String())); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s", resp.Status, text)
		}
		now := time.Now()
		c := f.campaign(newCampaign{StartAt: now, EndAt: now.Add(time.Hour)})

		w.awaits(t)
		f.suffers(away())
		w.release(clients / 2)
		f.rests(breaker.Open)
		f.suffers(stormy)

		w.awaits(t)
		f.suffers(locked())
		w.release(math.MaxInt)
		f.rests(breaker.Unauthorized)
		if got := f.counts(c.ID); got[messageSent] == 0 || got[messageFailed] != 0 || got[messageSent] == clients {
			t.Errorf("while the token is refused: %v", got)
		}
		f.suffers(stormy)

		apptest.Within(t, 5*time.Minute, func() string {
			if got := f.counts(c.ID); got[messageSent] < clients {
				return fmt.Sprint(got)
			}
			return ""
		})
		if got := f.becomes(c.ID, campaignFinished); got[messageSent] != clients {
			t.Errorf("%v", got)
		}
		f.once(clients)
		s := f.probe.Summary()
		if s.DistinctIDs != clients || s.ChangedIDs != 0 || s.NotRemembered != 0 {
			t.Errorf("%+v", s)
		}
		for _, fault := range []probe.Fault{probe.Fail, probe.Hang, probe.HangAfter, probe.Garbage, probe.GarbageAfter, probe.Reset, probe.ResetAfter, probe.Outage, probe.Unauthorized} {
			if s.ByFault[fault.String()] == 0 {
				t.Errorf("there was no %s: %v", fault, s.ByFault)
			}
		}
		_, text := f.product.Exchange(f.product.Request(f.product.Key, http.MethodGet, "/metrics", nil))
		m := counters(string(text))
		// A machine that stands still for seconds lets the bus take a worker for dead.
		if n, most := sum(needless(t, f.probe)), impatience(s, m[timeoutsCounter])+m["mailing_resent_total"]; n > most {
			t.Errorf("accepted messages went again %d times, and only %d answers were not waited for or counted", n, most)
		}
		if m[`mailing_messages_total{status="sent"}`] != clients || m["mailing_sender_state"] != int(breaker.Closed) {
			t.Errorf("%v", m)
		}
		t.Logf("%d requests, %d accepted: %v", s.Requests, s.Accepted, s.ByFault)
	})
}

func sum(numbers map[int64]int) (total int) {
	for _, n := range numbers {
		total += n
	}
	return total
}
