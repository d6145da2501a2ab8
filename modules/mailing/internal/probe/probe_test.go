package probe_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"switchboard/modules/mailing/internal/probe"
	"switchboard/platform/apptest"
)

// Nothing may run after the tests.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// provider is a probe that listens.
type provider struct {
	*probe.Probe
	t      testing.TB
	url    string
	client *http.Client
}

func start(t testing.TB, o probe.Options) *provider {
	t.Helper()
	p := &provider{Probe: probe.New(o), t: t, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	t.Cleanup(p.Close)
	t.Cleanup(p.client.CloseIdleConnections)
	var err error
	if p.url, err = p.Listen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	return p
}

type reply struct {
	status int // 0 if there was none
	body   string
	header http.Header
	err    error
}

func (p *provider) ask(ctx context.Context, method, path, token, body string) reply {
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, strings.TrimSpace(string(text)), resp.Header, err}
}

func (p *provider) send(id int64) reply {
	return p.ask(p.t.Context(), http.MethodPost, fmt.Sprintf("/send/%d", id), "Bearer x", message(id, 79160000000+id, "hello"))
}

func (p *provider) call(method, path, body string) reply {
	p.t.Helper()
	r := p.ask(p.t.Context(), method, path, "", body)
	if r.err != nil {
		p.t.Fatal(r.err)
	}
	return r
}

func message(id, phone int64, text string) string {
	return fmt.Sprintf(`{"id":%d,"phone":%d,"text":%q}`, id, phone, text)
}

const accepted = `{"code":0,"message":"OK"}`

func code(t *testing.T, body string) int {
	t.Helper()
	var e struct {
		Code    *int
		Message string
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.Code == nil || e.Message == "" {
		t.Fatalf("no error with a code and a message: %q", body)
	}
	return *e.Code
}

func TestPublishedExchangesAreAnsweredTheSame(t *testing.T) {
	t.Parallel()
	p := start(t, probe.Options{})
	raw, err := os.ReadFile("testdata/exchanges.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	for line := range bytes.Lines(raw) {
		var x struct {
			Case, Method, Path string
			Authorization      *string
			Body, Status       json.RawMessage
			Response           *struct {
				Code    int
				Message string
			}
		}
		if err := json.Unmarshal(line, &x); err != nil {
			t.Fatal(err)
		}
		token := ""
		if x.Authorization != nil {
			token = *x.Authorization
		}
		got := p.ask(t.Context(), x.Method, x.Path, token, string(x.Body))
		want, err := strconv.Atoi(string(x.Status))
		if err != nil {
			want = http.StatusBadRequest // not documented: refused with a reason
		} else {
			known++
		}
		if got.status != want {
			t.Errorf("%s: %d %s", x.Case, got.status, got.body)
		}
		if x.Response != nil && got.body != fmt.Sprintf(`{"code":%d,"message":%q}`, x.Response.Code, x.Response.Message) {
			t.Errorf("%s: %s", x.Case, got.body)
		}
		if want != http.StatusOK && code(t, got.body) != want {
			t.Errorf("%s: %s", x.Case, got.body)
		}
	}
	if known < 3 {
		t.Errorf("only %d exchanges have a known status", known)
	}
}

func TestInvalidRequestsAreRefusedWithAReason(t *testing.T) {
	t.Parallel()
	p := start(t, probe.Options{Token: "right"})
	for _, c := range []struct {
		name, method, path, token, body string
		status                          int
		says                            string
	}{
		{"fine", "POST", "/send/5", "Bearer right", message(5, 79160000000, "a"), 200, "OK"},
		{"fine under v1, unknown names, another case", "POST", "/v1/send/6", "bearer right", `{"x":[1,{}],"text":"\u00e9","phone":1,"id":6}`, 200, "OK"},
		{"a negative id", "POST", "/send/-6", "Bearer right", message(-6, 79160000000, "a"), 200, "OK"},
		{"another token", "POST", "/send/5", "Bearer wrong", message(5, 79160000000, "a"), 401, "Bearer"},
		{"no token behind the scheme", "POST", "/send/5", "Bearer ", message(5, 79160000000, "a"), 401, "Bearer"},
		{"another scheme", "POST", "/send/5", "Basic right", message(5, 79160000000, "a"), 401, "Bearer"},
		{"another method", "GET", "/send/5", "Bearer right", "", 405, "POST"},
		{"a path that is no number", "POST", "/send/five", "Bearer right", message(5, 79160000000, "a"), 400, "msgId is not an integer"},
		{"no body", "POST", "/send/5", "Bearer right", "", 400, "not a JSON object"},
		{"no object", "POST", "/send/5", "Bearer right", "[]", 400, "not a JSON object"},
		{"half an object", "POST", "/send/5", "Bearer right", `{"id":5,"phone":1`, 400, "not a JSON object"},
		{"two objects", "POST", "/send/5", "Bearer right", message(5, 1, "a") + message(5, 1, "a"), 400, "not a JSON object"},
		{"a name twice", "POST", "/send/5", "Bearer right", `{"id":5,"id":5,"phone":1,"text":"a"}`, 400, "not a JSON object"},
		{"another id", "POST", "/send/5", "Bearer right", message(4, 1, "a"), 400, "id is not the msgId"},
		{"an id as text", "POST", "/send/5", "Bearer right", `{"id":"5","phone":1,"text":"a"}`, 400, "id is not an integer"},
		{"no id", "POST", "/send/5", "Bearer right", `{"msgId":5,"phone":1,"text":"a"}`, 400, "id is required"},
		{"a phone as text", "POST", "/send/5", "Bearer right", `{"id":5,"phone":"79160000000","text":"a"}`, 400, "phone is not a positive integer"},
		{"a phone with an exponent", "POST", "/send/5", "Bearer right", `{"id":5,"phone":7.9e10,"text":"a"}`, 400, "phone is not a positive integer"},
		{"phone 0", "POST", "/send/5", "Bearer right", message(5, 0, "a"), 400, "phone is not a positive integer"},
		{"no phone", "POST", "/send/5", "Bearer right", `{"id":5,"text":"a"}`, 400, "phone is required"},
		{"no text", "POST", "/send/5", "Bearer right", `{"id":5,"phone":1}`, 400, "text is required"},
		{"an empty text", "POST", "/send/5", "Bearer right", message(5, 1, ""), 400, "text is empty"},
		{"a text that is a number", "POST", "/send/5", "Bearer right", `{"id":5,"phone":1,"text":5}`, 400, "text is not a string"},
		{"a body that is too large", "POST", "/send/5", "Bearer right", message(5, 1, strings.Repeat("a", 70_000)), 400, "larger than"},
	} {
		got := p.ask(t.Context(), c.method, c.path, c.token, c.body)
		if got.status != c.status || !strings.Contains(got.body, c.says) {
			t.Errorf("%s: %d %s", c.name, got.status, got.body)
		}
		if c.status != 200 && code(t, got.body) != c.status {
			t.Errorf("%s: %s", c.name, got.body)
		}
	}
	if s := p.Summary(); s.Accepted != 3 || s.Refused != 20 || s.Requests != 23 {
		t.Errorf("%+v", s)
	}
}

func TestEachFaultHappensAndIsCounted(t *testing.T) {
	t.Parallel()
	status := func(want ...int) func(reply) bool {
		return func(r reply) bool {
			for _, s := range want {
				if r.status == s {
					return strings.Contains(r.body, fmt.Sprintf(`"code":%d`, s))
				}
			}
			return false
		}
	}
	reset := func(r reply) bool { return errors.Is(r.err, syscall.ECONNRESET) }
	garbage := func(r reply) bool { return r.status == http.StatusOK && r.body != accepted && r.err == nil }
	for _, c := range []struct {
		fault  probe.Fault
		faults probe.Faults
		effect bool
		is     func(reply) bool
	}{
		{probe.Fail, probe.Faults{Fail: 1}, false, status(500, 502, 503, 504)},
		{probe.Reset, probe.Faults{Reset: 1}, false, reset},
		{probe.ResetAfter, probe.Faults{ResetAfter: 1}, true, reset},
		{probe.Garbage, probe.Faults{Garbage: 1}, false, garbage},
		{probe.GarbageAfter, probe.Faults{GarbageAfter: 1}, true, garbage},
		{probe.Rejected, probe.Faults{Rejected: 1}, false, func(r reply) bool { return r.status == 200 && strings.Contains(r.body, `"code":1`) }},
		{probe.BadRequest, probe.Faults{BadRequest: 1}, false, status(400)},
		{probe.Denied, probe.Faults{Denied: 1}, false, status(401)},
		{probe.Forbidden, probe.Faults{Forbidden: 1}, false, status(403)},
		{probe.Busy, probe.Faults{Busy: 1}, false, status(429)},
		{probe.Outage, probe.Faults{Outages: []probe.Window{{}}}, false, status(503)},
		{probe.Outage, probe.Faults{Outages: []probe.Window{{}}, OutageReset: true}, false, reset},
		{probe.Unauthorized, probe.Faults{Unauthorized: []probe.Window{{}}}, false, status(401)},
	} {
		t.Run(c.fault.String(), func(t *testing.T) {
			t.Parallel()
			p := start(t, probe.Options{Faults: c.faults})
			const n = 40
			for id := range int64(n) {
				if r := p.send(id); !c.is(r) {
					t.Errorf("message %d: %d %q %v", id, r.status, r.body, r.err)
				}
				if want := map[bool]int{true: 1}[c.effect]; p.Accepted(id) != want {
					t.Errorf("message %d: accepted %d times", id, p.Accepted(id))
				}
			}
			if diff := cmp.Diff(map[string]int64{c.fault.String(): n}, p.Summary().ByFault); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHangsHoldUntilTheClientLeaves(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		faults   probe.Faults
		accepted int
	}{{probe.Faults{Hang: 1}, 0}, {probe.Faults{HangAfter: 1}, 1}} {
		p := start(t, probe.Options{Faults: c.faults})
		ctx, leave := context.WithCancel(t.Context())
		done := make(chan reply, 1)
		go func() { done <- p.ask(ctx, "POST", "/send/1", "Bearer x", message(1, 2, "a")) }()
		apptest.Eventually(t, func() string { return unless(p.Held() == 1, "nothing hangs") })
		leave()
		if r := <-done; !errors.Is(r.err, context.Canceled) {
			t.Errorf("%+v", r)
		}
		apptest.Eventually(t, func() string { return unless(p.Held() == 0, "it still hangs") })
		if p.Accepted(1) != c.accepted {
			t.Errorf("%+v: accepted %d times", c.faults, p.Accepted(1))
		}
	}
}

func unless(ok bool, whyNot string) string {
	if ok {
		return ""
	}
	return whyNot
}

func TestHangsEnd(t *testing.T) {
	t.Parallel()
	p := start(t, probe.Options{Faults: probe.Faults{Hang: 1}, HangFor: time.Millisecond})
	if r := p.send(1); !errors.Is(r.err, syscall.ECONNRESET) {
		t.Errorf("%+v", r)
	}
}

func TestTheEndOfTheContextAndCloseLeaveNothing(t *testing.T) {
	t.Parallel()
	for _, byClose := range []bool{false, true} {
		p := probe.New(probe.Options{Faults: probe.Faults{Hang: 1}})
		ctx, end := context.WithCancel(t.Context())
		defer end()
		url, err := p.Listen(ctx, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		x := &provider{Probe: p, t: t, url: url, client: &http.Client{}}
		done := make(chan reply, 1)
		go func() { done <- x.send(1) }()
		apptest.Eventually(t, func() string { return unless(p.Held() == 1, "nothing hangs") })
		if !byClose {
			end()
			if r := <-done; r.err == nil {
				t.Errorf("%+v", r)
			}
		}
		p.Close()
		if byClose {
			if r := <-done; r.err == nil {
				t.Errorf("%+v", r)
			}
		}
		if p.Held() != 0 {
			t.Error("a request hangs after Close")
		}
		if r := x.send(2); r.err == nil {
			t.Errorf("it still listens: %+v", r)
		}
		if _, err := p.Listen(t.Context(), "127.0.0.1:0"); err == nil {
			t.Error("it listens after Close")
		}
	}
}

func TestAMessageWhoseClientDoesNotWaitForTheLatencyIsAccepted(t *testing.T) {
	t.Parallel()
	p := start(t, probe.Options{Faults: probe.Faults{Latency: time.Hour, Jitter: time.Hour}})
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan reply, 1)
	go func() { done <- p.ask(ctx, "POST", "/send/1", "Bearer x", message(1, 2, "a")) }()
	apptest.Eventually(t, func() string { return unless(p.Attempts(1) == 1, "it has not come") })
	if p.Accepted(1) != 0 {
		t.Error("it was accepted at once")
	}
	leave()
	<-done
	apptest.Eventually(t, func() string { return unless(p.Accepted(1) == 1, "it was not accepted") })

	p.Set(probe.Faults{Latency: 20 * time.Millisecond, Jitter: 5 * time.Millisecond})
	begun := time.Now()
	if r := p.send(2); r.body != accepted || time.Since(begun) < 20*time.Millisecond {
		t.Errorf("after %s: %+v", time.Since(begun), r)
	}
}

// clock is one that tests move.
type clock struct{ us atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.us.Store(time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC).UnixMicro())
	return c
}

func (c *clock) now() time.Time          { return time.UnixMicro(c.us.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.us.Add(d.Microseconds()) }

func TestWindowsAndTheRateFollowTheClock(t *testing.T) {
	t.Parallel()
	c := newClock()
	p := start(t, probe.Options{Now: c.now, Faults: probe.Faults{
		Outages: []probe.Window{{30 * time.Second, 90 * time.Second}}, Unauthorized: []probe.Window{{120 * time.Second, 150 * time.Second}}}})
	at := time.Duration(0)
	for _, step := range []struct {
		at     time.Duration
		status int
	}{{0, 200}, {29*time.Second + 999*time.Millisecond, 200}, {30 * time.Second, 503}, {89 * time.Second, 503}, {90 * time.Second, 200},
		{120 * time.Second, 401}, {149 * time.Second, 401}, {150 * time.Second, 200}} {
		c.advance(step.at - at)
		at = step.at
		if r := p.send(1); r.status != step.status {
			t.Errorf("after %s: %d %s", step.at, r.status, r.body)
		}
	}

	p.Set(probe.Faults{Rate: 3})
	for second := range 3 {
		var got []int
		for range 5 {
			got = append(got, p.send(2).status)
		}
		if diff := cmp.Diff([]int{200, 200, 200, 429, 429}, got); diff != "" {
			t.Errorf("second %d: %s", second, diff)
		}
		c.advance(time.Second)
	}
	if n := p.Attempts(2); n != 9 {
		t.Errorf("what the rate turned away counts as attempts: %d", n)
	}
	if n := p.Summary().ByFault["rate"]; n != 6 {
		t.Errorf("%d", n)
	}
}

func TestRetryAfterComesInSecondsOrAsADate(t *testing.T) {
	t.Parallel()
	c := newClock() // 12:00:00.25
	p := start(t, probe.Options{Now: c.now, Seed: 1})
	for _, x := range []struct {
		faults probe.Faults
		want   string
	}{
		{probe.Faults{Busy: 1}, "1"},
		{probe.Faults{Busy: 1, RetryAfter: 1500 * time.Millisecond}, "2"},
		{probe.Faults{Busy: 1, RetryAfter: 2 * time.Minute, RetryAfterDate: true}, "Sun, 01 Mar 2026 12:02:01 GMT"},
		{probe.Faults{Fail: 1, RetryAfter: 2 * time.Minute}, ""},
		{probe.Faults{Fail: 1, RetryAfter: 2 * time.Minute, RetryAfterOn5xx: true}, "120"},
		{probe.Faults{Outages: []probe.Window{{}}, RetryAfterOn5xx: true}, "1"},
	} {
		p.Set(x.faults)
		if got := p.send(1).header.Get("Retry-After"); got != x.want {
			t.Errorf("%+v: %q", x.faults, got)
		}
	}
}

func TestFaultsChangeOverHTTPWhileItRuns(t *testing.T) {
	t.Parallel()
	p := start(t, probe.Options{})
	if r := p.send(1); r.body != accepted {
		t.Errorf("%+v", r)
	}
	const sick = `{"fail":0.25,"garbage":0.75,"jitter":"5ms","outages":["30s-90s","2h-"],"rate":100000}`
	want := probe.Faults{Fail: 0.25, Garbage: 0.75, Jitter: 5 * time.Millisecond, Rate: 100_000, Outages: []probe.Window{{30 * time.Second, 90 * time.Second}, {From: 2 * time.Hour}}}
	put := p.call("PUT", "/faults", sick)
	var got probe.Faults
	if err := json.Unmarshal([]byte(put.body), &got); put.status != 200 || err != nil {
		t.Fatalf("%d %s", put.status, put.body)
	}
	if diff := cmp.Diff(want, p.Faults()); diff != "" {
		t.Error(diff)
	}
	if r := p.call("GET", "/faults", ""); r.body != put.body || !strings.Contains(r.body, `"outages":["30s-1m30s","2h0m0s-"]`) {
		t.Errorf("%s", r.body)
	}
	if r := p.send(2); r.body == accepted || p.Accepted(2) != 0 {
		t.Errorf("%+v", r)
	}
	for body, says := range map[string]string{
		`{"fail":1.5}`:              "fail is a share",
		`{"fail":0.6,"hang":0.6}`:   "add up",
		`{"outages":["90s-30s"]}`:   "ends before it begins",
		`{"unauthorized":["soon"]}`: "no window",
		`{"latency":"fast"}`:        "duration",
		`{"latency":"-1s"}`:         "latency is not between",
		`{"rate":-1}`:               "rate is not between",
		`{"fial":0.5}`:              "fial",
		`{} {}`:                     "after top-level value",
		``:                          "unexpected end",
	} {
		if r := p.call("PUT", "/faults", body); r.status != 400 || !strings.Contains(r.body, says) {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
	if diff := cmp.Diff(want, p.Faults()); diff != "" {
		t.Errorf("a refused change changed something: %s", diff)
	}
	if r := p.call("DELETE", "/faults", ""); r.status != 204 {
		t.Errorf("%+v", r)
	}
	if r := p.send(2); r.body != accepted || p.Accepted(2) != 1 {
		t.Errorf("%+v", r)
	}
	if r := p.call("GET", "/healthz", ""); r.status != 200 {
		t.Errorf("%+v", r)
	}
}

// fates sends some attempts at each of some messages and tells what came back.
func fates(p *probe.Probe, ids []int64, attempts int) map[int64]string {
	out := map[int64]string{}
	for range attempts {
		for _, id := range ids {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("POST", fmt.Sprintf("/send/%d", id), strings.NewReader(message(id, id+1, "a")))
			r.Header.Set("Authorization", "Bearer x")
			func() {
				defer func() {
					if recover() != nil { // a recorder has no connection that could be cut
						w.Code = 0
					}
				}()
				p.ServeHTTP(w, r)
			}()
			out[id] += fmt.Sprintf("%d %s\n", w.Code, w.Body)
		}
	}
	return out
}

func TestTheSeedDecidesWhateverTheOrder(t *testing.T) {
	t.Parallel()
	faults := probe.Faults{Fail: 0.2, Reset: 0.1, ResetAfter: 0.1, Garbage: 0.1, GarbageAfter: 0.1, Busy: 0.1}
	var up, down []int64
	for id := range int64(200) {
		up, down = append(up, id), append([]int64{id}, down...)
	}
	p := probe.New(probe.Options{Seed: 7, Faults: faults})
	defer p.Close()
	first := fates(p, up, 5)
	p.Clear()
	if diff := cmp.Diff(first, fates(p, down, 5)); diff != "" {
		t.Error(diff)
	}
	other := probe.New(probe.Options{Seed: 8, Faults: faults})
	defer other.Close()
	if cmp.Equal(first, fates(other, up, 5)) {
		t.Error("another seed brings the same")
	}
	// Each share is about what was asked for.
	s := p.Summary()
	for name, share := range map[string]float64{"fail": 0.2, "reset": 0.1, "reset_after": 0.1, "garbage": 0.1, "garbage_after": 0.1, "busy": 0.1} {
		if n := float64(s.ByFault[name]); n < 1000*share*0.6 || n > 1000*share*1.4 {
			t.Errorf("%s: %v of 1000", name, n)
		}
	}
}

func TestAFunctionDecidesTheFate(t *testing.T) {
	t.Parallel()
	p := start(t, probe.Options{Fate: func(id int64, attempt int) probe.Fault {
		if id == 1 && attempt < 3 {
			return probe.Fail
		}
		return probe.None
	}})
	var got []bool
	for range 4 {
		got = append(got, p.send(1).body == accepted)
	}
	if diff := cmp.Diff([]bool{false, false, true, true}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheLedgerIsExactUnderConcurrency(t *testing.T) {
	t.Parallel()
	var told sync.Map
	p := start(t, probe.Options{Seed: 3, Faults: probe.Faults{Fail: 0.2, ResetAfter: 0.1, Reset: 0.1, Garbage: 0.1, GarbageAfter: 0.1},
		OnAccept: func(id int64, phone, text string, at time.Time) {
			n, _ := told.LoadOrStore(id, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			if phone != strconv.FormatInt(79160000000+id, 10) || text != "hello" || at.IsZero() {
				t.Errorf("%d %s %s %s", id, phone, text, at)
			}
		}})
	const ids, workers = 200, 8
	var requests atomic.Int64
	var wg sync.WaitGroup
	for range workers { // all send every message until it is confirmed to them
		wg.Go(func() {
			for id := range int64(ids) {
				for requests.Add(1); p.send(id).body != accepted; requests.Add(1) {
				}
			}
		})
	}
	wg.Wait()
	s := p.Summary()
	total, unheard, seen := int64(0), int64(0), 0
	p.EachAccepted(func(id int64, phone uint64, n, lost int) {
		want, _ := told.Load(id)
		if w, ok := want.(*atomic.Int64); !ok || int64(n) != w.Load() || n < workers || n != p.Accepted(id) || phone != uint64(79160000000+id) {
			t.Errorf("message %d to %d: accepted %d times, told of %v", id, phone, n, want)
		}
		if n-lost != workers { // each heard of it once
			t.Errorf("message %d: accepted %d times, %d answers were lost", id, n, lost)
		}
		total += int64(n)
		unheard += int64(lost)
		seen++
	})
	if seen != ids || s.Accepted != total || s.Requests != requests.Load() || s.DistinctIDs != ids || s.DistinctPhones != ids ||
		s.RepeatedIDs != ids || s.ChangedIDs != 0 || s.PhonesWithTwoIDs != 0 || s.Refused != 0 {
		t.Errorf("%d ids, %d times in %d requests: %+v", seen, total, requests.Load(), s)
	}
	if unheard != s.ByFault["reset_after"]+s.ByFault["garbage_after"] {
		t.Errorf("%d answers were lost: %+v", unheard, s)
	}
	lost := s.ByFault["fail"] + s.ByFault["reset"] + s.ByFault["garbage"]
	if s.Requests != s.Accepted+lost {
		t.Errorf("%+v", s)
	}
}

func TestTheLedgerTellsWhatWasAccepted(t *testing.T) {
	t.Parallel()
	c := newClock()
	p := start(t, probe.Options{Now: c.now})
	if r := p.call("GET", "/ledger/summary", ""); !strings.Contains(r.body, `"last_at":null`) {
		t.Errorf("%s", r.body)
	}
	send := func(id, phone int64, text string) {
		t.Helper()
		if r := p.ask(t.Context(), "POST", fmt.Sprintf("/send/%d", id), "Bearer x", message(id, phone, text)); r.body != accepted {
			t.Errorf("%+v", r)
		}
	}
	for id := int64(30); id > 0; id-- {
		send(id, 100+id, "a")
	}
	send(7, 107, "a") // again
	send(8, 108, "b") // another text
	send(9, 110, "a") // another phone, which got message 10
	send(31, 101, "a")
	send(32, 101, "a")
	c.advance(time.Minute)
	if r := p.ask(t.Context(), "POST", "/send/33", "Bearer x", message(33, 0, "a")); r.status != 400 {
		t.Errorf("%+v", r)
	}
	at, last := c.now().Add(-time.Minute), c.now()
	want := probe.Summary{Requests: 36, Accepted: 35, Refused: 1, DistinctIDs: 32, DistinctPhones: 30, RepeatedIDs: 3, ChangedIDs: 2, PhonesWithTwoIDs: 2,
		ByFault: map[string]int64{}, LastAt: &last, LastAcceptedAt: &at}
	var got probe.Summary
	if err := json.Unmarshal([]byte(p.call("GET", "/ledger/summary", "").body), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	var all []probe.Entry
	for after, pages := "", 0; ; pages++ {
		r := p.call("GET", "/ledger?limit=5&after="+after, "")
		lines := strings.Fields(r.body)
		for _, line := range lines {
			var e probe.Entry
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
			after = strconv.FormatInt(e.ID, 10)
		}
		if len(lines) < 5 {
			break
		}
	}
	if len(all) != 32 {
		t.Errorf("%d entries", len(all))
	}
	for i, e := range all {
		if e.ID != int64(i+1) || e.Phone == "" || e.Text == "" || e.Accepted != map[bool]uint32{false: 1, true: 2}[e.ID >= 7 && e.ID <= 9] || e.Changed != (e.ID == 8 || e.ID == 9) {
			t.Errorf("%+v", e)
		}
	}
	if all[0].Phone != all[30].Phone || all[0].Phone == all[1].Phone {
		t.Error("a hash of a phone does not tell it from others")
	}
	for path, status := range map[string]int{"/ledger/7": 200, "/ledger/33": 200, "/ledger/34": 404, "/ledger/x": 400, "/ledger?limit=0": 400, "/ledger?after=x": 400} {
		if r := p.call("GET", path, ""); r.status != status {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	if r := p.call("DELETE", "/ledger", ""); r.status != 204 {
		t.Errorf("%+v", r)
	}
	if s := p.Summary(); s.Requests != 0 || s.DistinctIDs != 0 || s.LastAt != nil || p.Accepted(7) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestTheLedgerHasABound(t *testing.T) {
	t.Parallel()
	p := start(t, probe.Options{Remember: 10})
	for id := range int64(15) {
		if r := p.send(id); r.body != accepted {
			t.Errorf("%+v", r)
		}
	}
	if s := p.Summary(); s.Accepted != 15 || s.DistinctIDs != 10 || s.NotRemembered != 5 {
		t.Errorf("%+v", s)
	}
}

// discard is a ResponseWriter that costs nothing.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func TestAMessageTakesLessThan100Bytes(t *testing.T) {
	// Not parallel: it measures the heap.
	p := probe.New(probe.Options{})
	defer p.Close()
	before := heap()
	r := httptest.NewRequest("POST", "/send/1", nil)
	r.Header.Set("Authorization", "Bearer x")
	body := bytes.NewReader(nil)
	r.Body = io.NopCloser(body)
	w := discard{http.Header{}}
	const n = 250_000
	for id := range int64(n) {
		body.Reset([]byte(message(id, 79160000000+id, "hello")))
		r.URL.Path = "/send/" + strconv.FormatInt(id, 10)
		p.ServeHTTP(w, r)
	}
	used := int64(heap()) - int64(before)
	if s := p.Summary(); s.DistinctIDs != n || s.DistinctPhones != n {
		t.Fatalf("%+v", s)
	}
	if used > 100*n {
		t.Errorf("%d messages take %d bytes", n, used)
	}
	w2 := httptest.NewRecorder()
	p.ServeHTTP(w2, httptest.NewRequest("GET", "/ledger?limit=3&after=199999", nil))
	if ids := strings.Count(w2.Body.String(), "\n"); ids != 3 || !strings.HasPrefix(w2.Body.String(), `{"id":200000,`) {
		t.Errorf("%s", w2.Body)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkSend(b *testing.B) {
	p := start(b, probe.Options{})
	var id atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if r := p.send(id.Add(1)); r.status != http.StatusOK {
				b.Errorf("%+v", r)
			}
		}
	})
}
