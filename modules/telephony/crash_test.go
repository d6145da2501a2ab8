package telephony

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/modules/telephony/internal/vendor"
	"switchboard/platform/apptest"
)

// ledger remembers what was acknowledged.
type ledger struct {
	mu    sync.Mutex
	acked map[string]map[string]bool // by call, then by body
	n     int
}

func (l *ledger) note(callID string, body []byte, status int) {
	if status != http.StatusOK || !bytes.Contains(body, []byte(`"call_id"`)) {
		return // not taken, or of no call
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked == nil {
		l.acked = map[string]map[string]bool{}
	}
	if l.acked[callID] == nil {
		l.acked[callID] = map[string]bool{}
	}
	l.acked[callID][string(body)] = true
	l.n++
}

// more waits until so many more events were acknowledged.
func (l *ledger) more(n int) func() string {
	l.mu.Lock()
	until := l.n + n
	l.mu.Unlock()
	return func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.n < until {
			return fmt.Sprintf("%d of %d events are acknowledged", l.n, until)
		}
		return ""
	}
}

// get asks the server whose key this is.
func get(t *testing.T, url, key, path string, out any) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode
}

// audit compares what a server has with what it acknowledged: each event once,
// and each call as far as its events say.
func (l *ledger) audit(t *testing.T, address, key string) (delegated int) {
	t.Helper()
	for callID, acked := range l.acked {
		var page struct{ Items []LoggedEvent }
		var c CallDetail
		path := "/telephony/calls/" + url.PathEscape(callID)
		apptest.Eventually(t, func() string { // an event whose sender was stopped may still come in
			page.Items, c = nil, CallDetail{}
			status := get(t, address, key, path+"/events?limit=1000", &page)
			if get(t, address, key, path, &c); int(c.Events) != len(page.Items) || status != http.StatusOK {
				return fmt.Sprintf("call %s with %d acknowledged events: %d, %d events, %d in the log", callID, len(acked), status, c.Events, len(page.Items))
			}
			return ""
		})
		times := map[string]int{}
		reached := stateNew
		for _, e := range page.Items {
			times[string(e.Event)]++
			var said struct{ Type string }
			if err := json.Unmarshal(e.Event, &said); err != nil {
				t.Fatal(err)
			}
			reached = max(reached, kinds[said.Type].implies())
		}
		for body := range acked {
			if times[body] == 0 {
				t.Errorf("lost: %s", body)
			}
		}
		for body, n := range times {
			if n > 1 {
				t.Errorf("%d times: %s", n, body)
			}
		}
		if c.State != reached.String() {
			t.Errorf("call %s is %s; its %d events say %s", callID, c.State, len(page.Items), reached)
		}
		if c.Delegation != nil && c.Delegation.State == "delegated" {
			delegated++
		}
	}
	return delegated
}

// TestKilledUnderLoadItKeepsEveryEventOnceAndDelegatesOnce kills the server
// while a phone platform plays calls, each of which waits to be delegated.
func TestKilledUnderLoadItKeepsEveryEventOnceAndDelegatesOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fake := vendor.New(vendor.Options{User: "u", Password: "p"})
	defer fake.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	provider, err := fake.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"APP_TELEPHONY_PROVIDER_URL=" + provider, "APP_TELEPHONY_PROVIDER_USER=u", "APP_TELEPHONY_PROVIDER_PASSWORD=p"}
	p := apptest.Exec(t, dir, env, "--modules=telephony")
	fake.SetWebhook(p.URL+"/webhook", p.Key)

	var l ledger
	played := make(chan error, 1)
	playing, halt := context.WithCancel(ctx)
	defer halt()
	go func() {
		_, err := fake.Play(playing, vendor.PlayOptions{For: time.Hour, Parallel: 16, Returning: 0.3, OutOfOrder: 0.2, Duplicates: 0.1, Unknown: 0.05, Recordings: 0.2,
			AwaitDelegate: true, DelegateWait: 10 * time.Second, OnEvent: l.note})
		played <- err
	}()
	for range 4 {
		apptest.Within(t, time.Minute, l.more(300+rand.IntN(300)))
		p.Kill()
		p = apptest.Exec(t, dir, env, "--modules=telephony")
		fake.SetWebhook(p.URL+"/webhook", p.Key)
	}
	apptest.Within(t, time.Minute, l.more(300))
	halt()
	<-played

	delegated := l.audit(t, p.URL, p.Key)
	accepted := map[string]int{}
	for _, a := range fake.Actions() {
		if a.Accepted {
			accepted[a.CallID]++
		}
	}
	for callID, n := range accepted {
		if n > 1 {
			t.Errorf("call %s was delegated %d times", callID, n)
		}
	}
	if delegated == 0 || len(accepted) < delegated {
		t.Errorf("%d calls count as delegated, the platform was asked for %d", delegated, len(accepted))
	}
	t.Logf("%d events of %d calls acknowledged, %d calls delegated", l.n, len(l.acked), len(accepted))
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A standby that was acknowledged just before a kill is delegated after it,
// within the platform's ten seconds.
func TestAKillBetweenStandbyAndDelegateDelaysItAtMost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fake := vendor.New(vendor.Options{})
	defer fake.Close()
	provider, err := fake.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"APP_TELEPHONY_PROVIDER_URL=" + provider}
	p := apptest.Exec(t, dir, env, "--modules=telephony")
	fake.Fail(http.StatusServiceUnavailable, "down") // so that the kill comes before it is done
	req, err := http.NewRequest(http.MethodPost, p.URL+"/webhook?key="+p.Key, strings.NewReader(`{"type":"call.standby","call_id":"1.1","direction":"inbound","their_number":"11999990000","timestamp":"2019-10-15T00:30:10Z"}`))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	p.Kill()
	fake.Heal()
	p = apptest.Exec(t, dir, env, "--modules=telephony")
	apptest.Within(t, 15*time.Second, func() string {
		if len(fake.Accepted("1.1")) == 0 {
			return "the call is not delegated"
		}
		return ""
	})
	took := time.Since(began)
	if a := fake.Accepted("1.1"); len(a) != 1 || a[0].Destination != "900" || took > 10*time.Second {
		t.Errorf("%+v after %s", a, took)
	}
	t.Logf("delegated %s after the standby, over a kill", took.Round(time.Millisecond))
}
