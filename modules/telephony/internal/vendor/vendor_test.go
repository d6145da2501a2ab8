package vendor_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchboard/modules/telephony/internal/vendor"
)

// Nothing may run after the tests: plays end with their contexts.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// platform is a fake that listens.
type platform struct {
	*vendor.Fake
	t   *testing.T
	url string
}

func start(t *testing.T, o vendor.Options) *platform {
	t.Helper()
	p := &platform{Fake: vendor.New(o), t: t}
	t.Cleanup(p.Close)
	var err error
	if p.url, err = p.Listen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	return p
}

// ask sends a request and gives the answer; the status is 0 if there was none.
func (p *platform) ask(method, path, body string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(text))
}

func (p *platform) act(body string) (int, string) {
	p.t.Helper()
	return p.ask(http.MethodPost, "/actions", body)
}

// client keeps no connection, so that none outlives a test.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// received is an event as it came to a webhook.
type received struct {
	Type, Direction, Queue, Destination, Actor, Number, Code, URL, Reason, Timestamp string
	CallID                                                                           string `json:"call_id"`
	TheirNumber                                                                      string `json:"their_number"`
	body                                                                             string
}

// webhook is a server that takes events.
type webhook struct {
	*httptest.Server
	mu       sync.Mutex
	requests int
	events   []received
	// before may answer instead of taking the event, with another status than 200.
	before func(n int, e received) int
	auth   string
}

func listen(t *testing.T, before func(n int, e received) int) *webhook {
	h := &webhook{before: before}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var e received
	if err := json.Unmarshal(body, &e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.body = string(body)
	h.mu.Lock()
	h.requests++
	n := h.requests
	h.auth = r.Header.Get("Authorization")
	h.mu.Unlock()
	if h.before != nil {
		if status := h.before(n, e); status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
	}
	h.mu.Lock()
	h.events = append(h.events, e)
	h.mu.Unlock()
	_, _ = io.WriteString(w, `{"status":"ok"}`)
}

func (h *webhook) got() []received {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events)
}

// byCall gives the events of each call as they came, but for repetitions.
func byCall(events []received) map[string][]received {
	calls, seen := map[string][]received{}, map[string]bool{}
	for _, e := range events {
		if e.CallID != "" && !seen[e.body] {
			seen[e.body] = true
			calls[e.CallID] = append(calls[e.CallID], e)
		}
	}
	return calls
}

func types(events []received) (list []string) {
	for _, e := range events {
		list = append(list, e.Type)
	}
	return list
}

func TestActionsAreAnsweredAsThePlatformDoes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body string
		status     int
		answer     string
	}{
		{"delegate", `{"type":"delegate","call_id":"12.345","destination":"100"}`, 200, `{"status":"ok"}`},
		{"destination as a number", `{"type":"delegate","call_id":"12.345","destination":900}`, 200, `{"status":"ok"}`},
		{"delegate without destination", `{"type":"delegate","call_id":"12.345"}`, 400, `{"error":"destination is required"}`},
		{"delegate without call", `{"type":"delegate","destination":"900"}`, 400, `{"error":"call_id is required"}`},
		{"dialer", `{"type":"dialer","numbers":["5511999998888"],"destination":"100","destination_type":"peer","code":"happy-peer-100","retries":"1","retry_gap":"10s","ttl":"5m"}`, 200, `{"status":"ok"}`},
		{"dialer without destination", `{"type":"dialer","numbers":["5511999998888"]}`, 400, `{"error":"destination is required"}`},
		{"dialer without numbers", `{"type":"dialer","destination":"900"}`, 400, `{"error":"numbers are required"}`},
		{"unknown type", `{"type":"hang-up","call_id":"12.345"}`, 400, `{"error":"unknown type"}`},
		{"no JSON", `delegate`, 400, `{"error":"invalid body"}`},
		{"no body", ``, 400, `{"error":"invalid body"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, vendor.Options{})
			if status, answer := p.act(c.body); status != c.status || answer != c.answer {
				t.Errorf("got %d %s", status, answer)
			}
			actions := p.Actions()
			if len(actions) != 1 || actions[0].Status != c.status || actions[0].Accepted != (c.status == 200) {
				t.Errorf("remembered %+v", actions)
			}
		})
	}
}

func TestActionsAskForCredentials(t *testing.T) {
	t.Parallel()
	p := start(t, vendor.Options{User: "ana", Password: "secret"})
	body := `{"type":"delegate","call_id":"12.345","destination":"100"}`
	if status, answer := p.act(body); status != 401 || answer != "Unauthorized" {
		t.Errorf("without credentials: %d %s", status, answer)
	}
	bare := p.url
	p.url = strings.Replace(bare, "://", "://ana:wrong@", 1)
	if status, answer := p.act(body); status != 401 || answer != "Unauthorized" {
		t.Errorf("with a wrong password: %d %s", status, answer)
	}
	p.url = strings.Replace(bare, "://", "://ana:secret@", 1)
	if status, _ := p.act(body); status != 200 {
		t.Errorf("with the password: %d", status)
	}
	if accepted := p.Accepted("12.345"); len(accepted) != 1 || accepted[0].Destination != "100" {
		t.Errorf("accepted %+v", accepted)
	}
	if n := p.ActionCount(); n != 3 {
		t.Errorf("%d actions", n)
	}
}

func TestTheLastActionsAreRemembered(t *testing.T) {
	t.Parallel()
	p := start(t, vendor.Options{Remember: 3})
	for _, id := range []string{"1.1", "1.2", "1.1", "1.3", "1.4"} {
		p.act(`{"type":"delegate","call_id":"` + id + `","destination":"900"}`)
	}
	if got := p.Actions(); len(got) != 3 || got[0].CallID != "1.1" || got[2].CallID != "1.4" || p.ActionCount() != 5 {
		t.Errorf("remembers %+v of %d", got, p.ActionCount())
	}
	for id, n := range map[string]int{"1.1": 1, "1.2": 0, "1.3": 1, "1.4": 1} {
		if got := p.Accepted(id); len(got) != n {
			t.Errorf("of call %s: %+v", id, got)
		}
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	p := start(t, vendor.Options{})
	delegate := func(id string) (int, string) {
		return p.act(`{"type":"delegate","call_id":"` + id + `","destination":"900"}`)
	}
	expect := func(id string, status int, answer string, accepted int) {
		t.Helper()
		if s, a := delegate(id); s != status || a != answer {
			t.Errorf("%s: got %d %s", id, s, a)
		}
		if got := p.Accepted(id); len(got) != accepted {
			t.Errorf("%s: accepted %+v", id, got)
		}
	}
	const ok = `{"status":"ok"}`
	p.Fail(503, "down")
	expect("fail.1", 503, "down", 0)
	expect("fail.2", 503, "down", 0)
	p.Heal()
	expect("fail.3", 200, ok, 1)

	p.FailNext(1, 500)
	p.FailNext(1, 429)
	expect("next.1", 500, `{"error":"Internal Server Error"}`, 0)
	expect("next.2", 429, `{"error":"Too Many Requests"}`, 0)
	expect("next.3", 200, ok, 1)

	p.LoseNext(1)
	expect("lose.1", 0, "", 1)
	expect("lose.2", 200, ok, 1)

	p.Slow(30 * time.Millisecond)
	began := time.Now()
	expect("slow.1", 200, ok, 1)
	if took := time.Since(began); took < 30*time.Millisecond {
		t.Errorf("a slow platform answered within %v", took)
	}
	p.Heal()

	p.Hang()
	answered := make(chan int)
	go func() {
		status, _ := delegate("hang.1")
		answered <- status
	}()
	eventually(t, func() bool { return p.Held() == 1 })
	if got := p.Accepted("hang.1"); len(got) != 0 {
		t.Errorf("a held request had its effect: %+v", got)
	}
	p.Heal()
	if status := <-answered; status != 200 {
		t.Errorf("a held request was answered with %d", status)
	}
}

func TestAClientThatLeavesAHangingPlatformHasNoEffect(t *testing.T) {
	t.Parallel()
	p := start(t, vendor.Options{})
	leave := &http.Client{Timeout: 50 * time.Millisecond, Transport: client.Transport}
	body := `{"type":"delegate","call_id":"1.1","destination":"900"}`
	p.Hang()
	if _, err := leave.Post(p.url+"/actions", "application/json", strings.NewReader(body)); err == nil {
		t.Fatal("there was an answer")
	}
	eventually(t, func() bool { return p.ActionCount() == 1 })
	if got := p.Actions()[0]; got.Accepted || got.Status != 0 {
		t.Errorf("remembered %+v", got)
	}
	p.Heal()
	p.Slow(time.Hour)
	if _, err := leave.Post(p.url+"/actions", "application/json", strings.NewReader(body)); err == nil {
		t.Fatal("there was an answer")
	}
	eventually(t, func() bool { return len(p.Accepted("1.1")) == 1 })
}

func TestPeersAndRecordingsAndCalls(t *testing.T) {
	t.Parallel()
	p := start(t, vendor.Options{Agents: 3})
	if status, answer := p.ask("GET", "/peers", ""); status != 200 || answer != `{"size":"3","list":[{"name":"Ana","number":"100"},{"name":"André","number":"101"},{"name":"Iara","number":"102"}]}` {
		t.Errorf("peers: %d %s", status, answer)
	}
	status, wav := p.ask("GET", "/recording/1463669263.30033.wav", "")
	if status != 200 || len(wav) < 16_000 || !strings.HasPrefix(wav, "RIFF") || wav[8:16] != "WAVEfmt " || wav[36:40] != "data" {
		t.Errorf("recording: %d, %d bytes", status, len(wav))
	}
	if status, _ := p.ask("GET", "/recording/1463669263.30033.mp3", ""); status != 404 {
		t.Errorf("no recording: %d", status)
	}
	if status, _ := p.ask("GET", "/calls/1463669263.30033", ""); status != 404 {
		t.Errorf("unknown call: %d", status)
	}
	h := listen(t, nil)
	p.SetWebhook(h.URL, "")
	if _, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 1, Mix: vendor.Mix{Answered: 1}, NoStaff: true, Recordings: 1}); err != nil {
		t.Fatal(err)
	}
	events := h.got()
	last := events[len(events)-1]
	if last.Type != "call.recording-available" || last.URL != p.url+"/recording/"+last.CallID+".wav" {
		t.Errorf("the last event is %s", last.body)
	}
	var call struct {
		TalkTime string `json:"talk_time"`
	}
	status, answer := p.ask("GET", "/calls/"+last.CallID, "")
	if err := json.Unmarshal([]byte(answer), &call); err != nil || status != 200 || len(call.TalkTime) < 2 {
		t.Errorf("call: %d %s", status, answer)
	}
}

// The fields of played events are those of the samples of the real ones.
func TestEventsHaveTheFieldsOfThePlatform(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/events.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{}
	for line := range bytes.Lines(text) {
		var e received
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		want[e.Type] = keys(t, line)
	}
	h := listen(t, nil)
	reasons := []string{"", "busy"}
	p := start(t, vendor.Options{Seed: 5, Webhook: h.URL, DialFailure: func(number string) string { return reasons[number[0]-'0'] }})
	if _, err := p.Play(t.Context(), vendor.PlayOptions{Calls: 300, Recordings: 1}); err != nil {
		t.Fatal(err)
	}
	p.act(`{"type":"dialer","numbers":["1"],"destination":"900","code":"c","ttl":"1ms","retries":1,"retry_gap":"1s"}`)
	p.act(`{"type":"dialer","numbers":["1"],"destination":"900","code":"c"}`)
	seen := map[string]bool{}
	eventually(t, func() bool {
		for _, e := range h.got() {
			seen[e.Type] = true
		}
		return seen["dialer.expired"] && seen["dialer.exceeded"]
	})
	for _, e := range h.got() {
		if e.Type == "call.new" && e.Direction == "outbound" {
			continue // it has no their_number_type
		}
		if got := keys(t, []byte(e.body)); !slices.Equal(want[e.Type], got) {
			t.Fatalf("%s has %v and not %v", e.Type, got, want[e.Type])
		}
	}
	if len(seen) != len(want) {
		t.Errorf("played %d types of %d: %v", len(seen), len(want), seen)
	}
}

func keys(t *testing.T, object []byte) []string {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name, value := range fields {
		names = append(names, fmt.Sprintf("%s:%v", name, bytes.HasPrefix(value, []byte(`"`))))
	}
	slices.Sort(names)
	return names
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it did not happen")
		}
	}
}
