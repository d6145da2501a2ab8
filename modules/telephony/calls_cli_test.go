package telephony

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/spf13/cobra"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
)

// callsLine runs "app calls …" against a server, and tells what was printed.
func callsLine(t *testing.T, server string, args ...string) (out, complaint string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := &cobra.Command{Use: "app", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().Bool("json", false, "")
	root.AddCommand(callsCommand())
	root.SetArgs(append([]string{"calls", "--server", server}, args...))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

// oneAnswer is a server that gives one answer to everything, and notes what was
// asked.
func oneAnswer(t *testing.T, status int, answer string) (url string, asked func() string) {
	t.Helper()
	var mu sync.Mutex
	var all []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body)))
		mu.Unlock()
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(all, "\n")
	}
}

func TestCallsCommandsAskAndPrint(t *testing.T) {
	t.Parallel()
	const (
		calls = `{"items":[{"id":7,"call_id":"1.2","state":"FINISHED","outcome":"answered","direction":"inbound","our_number":"0800","their_number":"119","queue":"900",` +
			`"created_at":"2026-01-02T03:04:05.000006Z","updated_at":"2026-01-02T03:05:05.000006Z","wait_seconds":9.96,"talk_seconds":65,"events":3},` +
			`{"id":9,"call_id":"\u001b[2Jx","state":"NEW","our_number":"","their_number":"","created_at":"2026-01-02T03:04:05.000006Z","updated_at":"2026-01-02T03:05:05.000006Z","events":1}],"next":null}`
		stats = `{"from":"2026-01-01T03:00:00.000000Z","to":"2026-01-02T04:00:00.000000Z","total":{"calls":5,"offered":4,"answered":2,"abandoned":1,"abandon_rate":0.25,` +
			`"service_level":null,"wait_seconds":{"total":0,"average":null},"talk_seconds":{"total":7300,"average":3650}},` +
			`"items":[{"queue":"","calls":1,"offered":0,"answered":0,"abandoned":0,"abandon_rate":null,"service_level":null,"wait_seconds":{"total":0,"average":null},"talk_seconds":{"total":0,"average":null}}],"next":null}`
		actors = `{"total":{},"items":[{"hour":"2026-01-02T03:00:00.000000Z","actor":null,"calls":3,"answered":2,"rings":4,"no_answers":1,"talk_seconds":{"total":90,"average":45}}],"next":null}`
	)
	for _, c := range []struct {
		name, answer string
		args         []string
		asked, want  string
	}{
		{"list", calls, []string{"list", "--state", "finished", "--their-number", "119", "--active=false"}, `GET /telephony/calls?active=false&limit=50&state=FINISHED&their_number=119`,
			`^CALL +STATE +OUTCOME +DIRECTION +THEIR NUMBER +QUEUE +CREATED +WAIT +TALK\n1\.2 +FINISHED +answered +inbound +119 +900 +2026-01-02T03:04:05Z +10\.0s +1m05s\n·\[2Jx +NEW +- +- +- +- +\S+ +- +-\n$`},
		{"list for scripts", calls, []string{"list", "--json", "--limit", "1", "--queue", "a b", "--from", "2026-01-01T00:00:00Z"}, `GET /telephony/calls?from=2026-01-01T00%3A00%3A00Z&limit=1&queue=a+b`, `^\{"id":7,.*\}\n$`},
		{"delegate", `{"status":"ok","call_id":"a/b","state":"delegated","destination":"901","extra":{"x":1}}`, []string{"delegate", "a/b", "901"},
			`POST /telephony/calls/a%2Fb/delegate {"destination":"901"}`, `^status +ok\ncall id +a/b\nstate +delegated\ndestination +901\n$`},
		{"dial", `{"status":"ok"}`, []string{"dial", "5511", "5512", "--destination", "100", "--type", "peer", "--retries", "1", "--retry-gap", "10s"},
			`POST /telephony/dial {"destination":"100","destination_type":"peer","numbers":["5511","5512"],"retries":"1","retry_gap":"10s"}`, `^status +ok\n$`},
		{"dial for scripts", "{\"status\":\"ok\"}\n", []string{"dial", "5511", "--destination", "100", "--json"}, `POST /telephony/dial {"destination":"100","numbers":["5511"]}`, `^\{"status":"ok"\}\n$`},
		{"rebuild", "{\"done\":1,\"total\":2}\n{\"done\":2,\"total\":2,\"seconds\":0.5,\"events_per_second\":4}\n", []string{"rebuild"}, `POST /telephony/calls/rebuild`, `^rebuilt from 2 events in 0\.5s, 4 events/s\n$`},
		{"rebuild for scripts", "{\"done\":1,\"total\":2}\n{\"done\":2,\"total\":2,\"seconds\":0.5,\"events_per_second\":4}\n", []string{"rebuild", "--json"}, `POST /telephony/calls/rebuild`, `^\{"done":1,"total":2\}\n\{"done":2.*\}\n$`},
		{"stats", stats, []string{"stats", "--queue", "900"}, "GET /telephony/stats?queue=900\nGET /telephony/stats?by=queue&from=2026-01-01T03%3A00%3A00.000000Z&limit=1000&queue=900&to=2026-01-02T04%3A00%3A00.000000Z",
			`^QUEUE +CALLS +OFFERED +ANSWERED +ABANDONED +ABANDON RATE +SERVICE LEVEL +WAIT +TALK\n\(none\) +1 +0 +0 +0 +- +- +- +-\ntotal +5 +4 +2 +1 +25\.0% +- +- +1h00m\n$`},
		{"stats for scripts", actors, []string{"stats", "--by", "actor,hour", "--json"}, `GET /telephony/stats?by=actor%2Chour&limit=1000`, `^\{"hour":.*\}\n$`},
	} {
		url, asked := oneAnswer(t, http.StatusOK, c.answer)
		out, _, err := callsLine(t, url, append([]string{"--key", "k"}, c.args...)...)
		if err != nil || asked() != c.asked || !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("%s: %v\nasked %s\nwant  %s\nprinted %q", c.name, err, asked(), c.asked, out)
		}
	}
	url, _ := oneAnswer(t, http.StatusOK, actors)
	out, _, err := callsLine(t, url, "--key", "k", "stats", "--by", "hour", "--by", "actor")
	if want := `^HOUR +ACTOR +CALLS +ANSWERED +RINGS +NO ANSWER +TALK +TALKED IN ALL\n2026-01-02T03:00:00Z +\(erased\) +3 +2 +4 +1 +45s +1m30s\n$`; err != nil || !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("%v %q", err, out)
	}
}

func TestCallsCommandsTellWhatWentWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		answer string
		args   []string
		want   string
	}{
		{http.StatusNotFound, `{"title":"Not Found","detail":"no such call"}`, []string{"show", "x"}, "no such call (404)"},
		{http.StatusConflict, `{"detail":"a rebuild runs already"}`, []string{"rebuild"}, "a rebuild runs already (409)"},
		{http.StatusOK, "{\"done\":1,\"total\":2}\n{\"done\":1,\"total\":2,\"error\":\"disk \\u001b[1m full\"}\n", []string{"rebuild"}, "rebuild failed: disk ·[1m full"},
		{http.StatusOK, "{\"done\":1,\"total\":2}\n", []string{"rebuild"}, "broke off"},
		{http.StatusOK, "{\"done\":1,\"total\":2}\n", []string{"rebuild", "--json"}, "broke off"},
		{http.StatusOK, "<html>\n", []string{"rebuild"}, "read the progress"},
		{http.StatusOK, "", []string{"stats", "--by", "week"}, `--by takes hour, queue and actor, not "week"`},
		{http.StatusOK, "", []string{"dial", "5511"}, `required flag(s) "destination" not set`},
		{http.StatusUnauthorized, `{"detail":"no such key"}`, []string{"tail"}, "no such key (401)"},
		{http.StatusBadGateway, "", []string{"tail"}, "the server answered 502 Bad Gateway"},
	} {
		url, _ := oneAnswer(t, c.status, c.answer)
		_, _, err := callsLine(t, url, append([]string{"--key", "k"}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %s", c.args, err, c.want)
		}
	}
}

func TestAllCallsCommandsHaveExamples(t *testing.T) {
	t.Parallel()
	for _, cmd := range callsCommand().Commands() {
		if cmd.Example == "" || !strings.Contains(cmd.Example, "app calls "+cmd.Name()) {
			t.Errorf("%s has no example of its own", cmd.Name())
		}
	}
}

func TestProgressIsDrawn(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"[..............................]   0%  0 of 10 events":             progressBar(0, 10, 0),
		"[###############...............]  50%  5 of 10 events, 1m00s left": progressBar(5, 10, time.Minute),
		"[##############################] 100%  10 of 10 events":            progressBar(10, 10, time.Minute),
		"[##############################] 100%  0 of 0 events":              progressBar(0, 0, time.Minute),
		"[##############################] 100%  12 of 10 events":            progressBar(12, 10, time.Minute),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	var out, bar bytes.Buffer
	lines := "{\"done\":1,\"total\":2}\n\n{\"done\":2,\"total\":2,\"seconds\":61,\"events_per_second\":4}\n"
	if err := followRebuild(strings.NewReader(lines), &out, &bar, false); err != nil || out.String() != "rebuilt from 2 events in 1m01s, 4 events/s\n" {
		t.Errorf("%v %q", err, out.String())
	}
	if !strings.HasPrefix(bar.String(), "\r[###############...............]  50%") || !strings.HasSuffix(bar.String(), "\r\x1b[K") {
		t.Errorf("%q", bar.String())
	}
}

func TestCallsCommandsOnARunningServer(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module}, apptest.Now(clockAt(t, "2019-10-15T01:00:00Z").now))
	lines, callID := sequence(t, "inbound-full-with-recording")
	for _, line := range lines {
		post(t, p, line)
	}
	run := func(args ...string) string {
		t.Helper()
		out, complaint, err := callsLine(t, p.URL, append(args, "--key", p.Key)...)
		if err != nil || complaint != "" {
			t.Fatalf("%v: %v %s", args, err, complaint)
		}
		return out
	}
	if out := run("list", "--state", "finished", "--queue", "900"); !regexp.MustCompile(`\n` + callID + ` +FINISHED +answered +inbound +11999990000 +900 +2019-10-15T00:30:00Z +10s +20s\n$`).MatchString(out) {
		t.Errorf("list: %s", out)
	}
	out := run("show", callID)
	for _, want := range []string{`(?m)^state +FINISHED, answered$`, `(?m)^their number 11999990000$`, `(?m)^waited +10s$`, `(?m)^actor +user.name@email.com: rang 0, did not answer 0, answered 1, talked 20s$`,
		`(?m)^\+0.0s +call.new +inbound  from 11999990000$`, `(?m)^\+30.0s +actor.entered +queue 900  user.name@email.com  at 200$`, `(?m)^\+70.0s +call.recording-available +https://\S+\.wav$`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("show lacks %s:\n%s", want, out)
		}
	}
	if !regexp.MustCompile(`(?m)^recording +https://\S+\.wav$`).MatchString(out) {
		t.Errorf("show has no recording:\n%s", out)
	}
	if out := run("show", callID, "--json"); strings.Count(out, "\n") != 1+len(lines) || !strings.HasPrefix(out, `{"id":1,"call_id":`) {
		t.Errorf("show --json:\n%s", out)
	}
	if out := run("stats", "--by", "hour,queue"); !regexp.MustCompile(`^HOUR +QUEUE .*\n2019-10-15T00:00:00Z +900 +1 +1 +1 +0 +0\.0% +100\.0% +10s +20s\ntotal +1 +1 +1 `).MatchString(out) {
		t.Errorf("stats: %s", out)
	}
	if out := run("stats", "--by", "actor"); !regexp.MustCompile(`\nuser.name@email.com +1 +1 +0 +0 +20s +20s\n$`).MatchString(out) {
		t.Errorf("stats of actors: %s", out)
	}
	if out := run("rebuild"); !regexp.MustCompile(fmt.Sprintf(`^rebuilt from %d events in \S+, \d+ events/s\n$`, len(lines))).MatchString(out) {
		t.Errorf("rebuild: %s", out)
	}
}

func TestShowTellsWhereRecordingsAre(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	entry, end := recordingLines("http://host/telephony/calls/1.2")(&out)
	for _, raw := range []string{`{"id":7,"url":"https://vendor/7.wav","state":"link"}`, `{"id":8,"url":"https://vendor/8.wav","state":"kept","size":1234}`,
		`{"id":9,"url":"https://vendor/9.wav","state":"failed","detail":"it is too\u001b large"}`} {
		if err := entry([]byte(raw)); err != nil {
			t.Error(err)
		}
	}
	want := "recording    https://vendor/7.wav\nrecording    kept, 1234 bytes: http://host/telephony/calls/1.2/recordings/8\nrecording    failed it is too· large https://vendor/9.wav\n"
	if err := end(); err != nil || out.String() != want {
		t.Errorf("%v %s", err, out.String())
	}
}

func TestTailOfARunningServer(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module})
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, _, err := callsLine(t, p.URL, "tail", "--key", p.Key, "--limit", "1")
		done <- result{out, err}
	}()
	// It may not listen yet when the first events come.
	apptest.Eventually(t, func() string {
		happens(t, p, time.Now().UTC().Format(time.RFC3339Nano), "new", "call-1", "their_number", "11999990000")
		select {
		case r := <-done:
			if r.err != nil || !strings.Contains(r.out, "  call.new                  call-1  from 11999990000\n") {
				t.Errorf("%v %q", r.err, r.out)
			}
			return ""
		default:
			return "tail has not ended"
		}
	})
}

// boardServer speaks the boards' protocol: each connection is served by the next
// function, and the last one serves all that follow. GET gives calls.
func boardServer(t *testing.T, calls string, connections ...func(ctx context.Context, c *websocket.Conn)) *app.Client {
	t.Helper()
	var mu sync.Mutex
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer the-key" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path != "/telephony/ws" {
			if r.RequestURI != "/telephony/calls?active=true&limit=1000" {
				t.Errorf("asked for %s", r.RequestURI)
			}
			_, _ = io.WriteString(w, calls)
			return
		}
		mu.Lock()
		serve := connections[min(n, len(connections)-1)]
		n++
		mu.Unlock()
		if serve == nil {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"detail":"the key was revoked"}`)
			return
		}
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.CloseNow() }()
		say(r.Context(), c, `{"data":"Welcome","event":"Welcome","status":"Ok"}`)
		_, text, err := c.Read(r.Context())
		var asked struct {
			Event string `json:"event"`
		}
		if err != nil || json.Unmarshal(text, &asked) != nil || asked.Event != "Subscribe" {
			t.Errorf("asked %s, %v", text, err)
			return
		}
		serve(r.Context(), c)
	}))
	t.Cleanup(s.Close)
	return &app.Client{URL: s.URL, Key: "the-key", HTTP: s.Client()}
}

func say(ctx context.Context, c *websocket.Conn, frames ...string) {
	for _, frame := range frames {
		_ = c.Write(ctx, websocket.MessageText, []byte(frame)) // a client that went away is the test's end
	}
}

const (
	subscribed  = `{"data":{"success":true},"event":"Subscribe","status":"Ok"}`
	dataChanged = `{"data":{},"event":"DataChanged","status":"Ok"}`
)

// tellsOf is a frame that tells of an event.
func tellsOf(id int, kind, at string) string {
	return fmt.Sprintf(`{"data":{"id":%d,"aggregate_id":"1.%d","uuid":"be7d7b70-ec0f-81e9-90fb-0f172d2e84ac","event":{"type":%q,"call_id":"1.%d","direction":"inbound","their_number":11999990000,"queue":"9\u001b00","timestamp":%q}},"event":"CallEvent","status":"Ok"}`,
		id, id, kind, id, at)
}

// hastily makes a stream try again at once.
func hastily(c *app.Client) *callStream {
	s := newCallStream(c)
	s.pause = func(n int) time.Duration { return time.Duration(n+1) * time.Millisecond }
	return s
}

func TestTailPrintsEventsAndConnectsAgain(t *testing.T) {
	t.Parallel()
	c := boardServer(t, "", func(ctx context.Context, c *websocket.Conn) {
		say(ctx, c, subscribed, dataChanged, tellsOf(1, "call.new", "2019-10-15T00:30:00Z"), dataChanged, tellsOf(2, "strange.type", "never"))
		_ = c.Close(websocket.StatusGoingAway, "the server is stopping")
	}, func(ctx context.Context, c *websocket.Conn) {
		_ = c.CloseNow() // before it listened
	}, func(ctx context.Context, c *websocket.Conn) {
		say(ctx, c, subscribed, tellsOf(3, "call.finished", "2019-10-15T00:31:00.5Z"))
		<-ctx.Done()
	})
	var out, complaints bytes.Buffer
	if err := tailLines(t.Context(), hastily(c), &out, &complaints, false, 3); err != nil {
		t.Fatal(err)
	}
	want := "2019-10-15 00:30:00.000  call.new                  1.1  inbound  from 11999990000  queue 9·00\n" +
		"-  strange.type              1.2  inbound  from 11999990000  queue 9·00\n" +
		"2019-10-15 00:31:00.500  call.finished             1.3  inbound  from 11999990000  queue 9·00\n"
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
	told := strings.Split(strings.TrimSpace(complaints.String()), "\n")
	if len(told) != 3 || told[0] != "the server is stopping; trying again in 0s" || !strings.Contains(told[1], "; trying again in") || told[2] != "connected again; what was stored meanwhile is not shown" {
		t.Errorf("%q", told)
	}
	out.Reset()
	if err := tailLines(t.Context(), hastily(c), &out, io.Discard, true, 1); err != nil || !strings.HasPrefix(out.String(), `{"id":3,"aggregate_id":"1.3",`) || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%v %s", err, out.String())
	}
}

func TestTailEndsWhereAnotherConnectionWouldNotHelp(t *testing.T) {
	t.Parallel()
	well := func(ctx context.Context, c *websocket.Conn) { say(ctx, c, subscribed) }
	c := boardServer(t, "", well, nil)
	if err := tailLines(t.Context(), hastily(c), io.Discard, io.Discard, false, 0); err == nil || err.Error() != "the key was revoked (403)" {
		t.Errorf("%v", err)
	}
	c = boardServer(t, "", func(ctx context.Context, c *websocket.Conn) {
		say(ctx, c, `{"data":{"success":false,"error":"no"},"event":"Subscribe","status":"Failed"}`)
		<-ctx.Done()
	})
	if err := tailLines(t.Context(), hastily(c), io.Discard, io.Discard, false, 0); err == nil || !strings.Contains(err.Error(), "does not tell of events") {
		t.Errorf("%v", err)
	}
	// Interrupted while it waits to connect again.
	c = boardServer(t, "", well)
	ctx, cancel := context.WithCancel(t.Context())
	s := newCallStream(c)
	s.pause = func(int) time.Duration { cancel(); return time.Hour }
	if err := tailLines(ctx, s, io.Discard, io.Discard, false, 0); err != nil {
		t.Errorf("%v", err)
	}
	// What it writes to is gone.
	c = boardServer(t, "", func(ctx context.Context, c *websocket.Conn) {
		say(ctx, c, subscribed, tellsOf(1, "call.new", "2019-10-15T00:30:00Z"))
		<-ctx.Done()
	})
	if err := tailLines(t.Context(), hastily(c), failingWriter{}, io.Discard, false, 0); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A server that is there and says nothing is as bad as none.
func TestTailFindsADeadConnection(t *testing.T) {
	t.Parallel()
	c := boardServer(t, "", func(ctx context.Context, c *websocket.Conn) {
		say(ctx, c, subscribed)
		<-ctx.Done() // reads no ping, so answers none
	}, func(ctx context.Context, c *websocket.Conn) {
		say(ctx, c, subscribed, tellsOf(1, "call.new", "2019-10-15T00:30:00Z"))
		_, _, _ = c.Read(ctx) // answers pings
	})
	s := hastily(c)
	s.ping = 50 * time.Millisecond
	var complaints bytes.Buffer
	if err := tailLines(t.Context(), s, io.Discard, &complaints, true, 1); err != nil || !strings.Contains(complaints.String(), "the server does not answer any more") {
		t.Errorf("%v %s", err, complaints.String())
	}
}

func TestTailWaitsLongerEachTime(t *testing.T) {
	t.Parallel()
	for n, most := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second} {
		if d := tailPause(n); d > most || d < most*3/4 {
			t.Errorf("%d: %v", n, d)
		}
	}
	if d := tailPause(1 << 40); d > 15*time.Second || d < 11*time.Second {
		t.Errorf("%v", d)
	}
}

// screen collects what a board draws.
type screen struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(b)
}

// last is what stands on the screen now.
func (s *screen) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.all.String()
	return text[strings.LastIndex(text, screenHome)+1:]
}

func TestBoardShowsActiveCallsUntilQ(t *testing.T) {
	t.Parallel()
	calls := fmt.Sprintf(`{"items":[{"call_id":"1.1","state":"WAITING","their_number":"119\u001b[2J","queue":"900","created_at":%q,"updated_at":%q},`+
		`{"call_id":"1.2","state":"ONGOING","created_at":"2026-01-02T03:04:05Z"},{"call_id":"1.3","state":"WAITING","created_at":"2026-01-02T03:04:05Z"}],"next":"more"}`,
		time.Now().Format(time.RFC3339), time.Now().Format(time.RFC3339))
	lose := make(chan struct{})
	c := boardServer(t, calls, func(ctx context.Context, c *websocket.Conn) {
		say(ctx, c, subscribed, tellsOf(1, "call.new", "2019-10-15T00:30:00Z"), tellsOf(2, "call.finished", "2019-10-15T00:31:00Z"))
		<-lose
		_ = c.Close(websocket.StatusGoingAway, "the server is stopping")
	}, func(ctx context.Context, c *websocket.Conn) {
		say(ctx, c, subscribed)
		<-ctx.Done()
	})
	s := newCallStream(c)
	again := make(chan time.Duration)
	s.pause = func(int) time.Duration { return <-again }
	keys, ended, on := make(chan byte), make(chan error, 1), &screen{}
	go func() {
		ended <- runBoard(t.Context(), s, c, keys, on, func() (int, int) { return 70, 7 }, false, 0)
	}()
	shows := func(want ...string) {
		t.Helper()
		apptest.Eventually(t, func() string {
			for _, text := range want {
				if !regexp.MustCompile(text).MatchString(on.last()) {
					return fmt.Sprintf("%s is not on the screen: %q", text, on.last())
				}
			}
			return ""
		})
	}
	shows(`NEW 0   STANDBY 0   WAITING 2   ONGOING 1   finished 1 meanwhile   events 2`, `There are more; these are the newest 3\.`,
		`WAITING +1\.1 +119·\[2J +900 `, `ONGOING +1\.2 `, `WAITING +1\.3`, `q ends`)
	if n := strings.Count(on.last(), "\r\n"); n != 6 {
		t.Errorf("%d lines", n+1)
	}
	close(lose)
	keys <- 'x' // means nothing
	again <- time.Millisecond
	shows(`There are more`)
	keys <- 'q'
	if err := <-ended; err != nil {
		t.Error(err)
	}
	on.mu.Lock()
	defer on.mu.Unlock()
	if text := on.all.String(); !strings.HasPrefix(text, screenEnter) || !strings.HasSuffix(text, screenLeave) {
		t.Errorf("the terminal is not left as it was: %q", text[max(0, len(text)-40):])
	}
}

func TestBoardSaysThatItIsNotConnected(t *testing.T) {
	t.Parallel()
	b := newBoard()
	heard := b.heard(1)
	_ = heard(tailNote{Lost: errors.New("it broke"), Again: 2 * time.Second})
	if text := strings.Join(b.draw(time.Now(), 80, 24, true), "\n"); !strings.Contains(text, "not connected: it broke; trying again in 2s") || !strings.Contains(text, "No call is active.") {
		t.Errorf("%q", text)
	}
	_ = heard(tailNote{Up: true})
	if text := strings.Join(b.draw(time.Now(), 80, 3, true), "\n"); strings.Contains(text, "not connected") || strings.Count(text, "\n") != 2 {
		t.Errorf("%q", text)
	}
	if err := heard(tailNote{Event: []byte(`{"event":{"type":"call.new"}}`)}); err != io.EOF {
		t.Errorf("%v at the limit", err)
	}
	for _, height := range []int{1, 2, 24} {
		if lines := b.draw(time.Now(), 1, height, false); len(lines) > max(height, 2) {
			t.Errorf("%d lines on a screen of %d", len(lines), height)
		}
	}
}
