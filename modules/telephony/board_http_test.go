package telephony

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
)

// A page that does what the public client of this protocol does, unchanged by
// anything of ours.
func TestThePublicClientsPageShowsCalls(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("testdata/board-client.html")
	if err != nil {
		t.Fatal(err)
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page)
	}))
	defer site.Close()
	p, beside := startBoards(t)
	post(t, p, eventOf("new", "70.1", "2020-01-01T10:00:00Z"))
	b := openTab(t, site.URL+"/?board="+url.QueryEscape(beside))
	defer func() { b.until("faults.join()", "") }()
	lane := func(state string) string {
		return `[...document.querySelectorAll('#` + state + ` li')].map(e => e.textContent).join()`
	}
	b.until(lane("NEW"), "70.1")
	kinds := map[string]string{"STANDBY": "standby", "WAITING": "waiting", "ONGOING": "ongoing", "FINISHED": "finished"}
	for _, state := range stateNames[2:] {
		post(t, p, eventOf(kinds[state], "70.1", "2020-01-01T10:00:01Z"))
		b.until(lane(state), "70.1")
	}
	for i := range 40 {
		post(t, p, eventOf("new", fmt.Sprint("71.", i), "2020-01-01T10:00:02Z"))
	}
	b.until(`document.querySelectorAll('#NEW li').length`, "40")
	b.value(`document.querySelector('#FINISHED li').click()`)
	b.until(`[...document.querySelectorAll('#events p')].map(e => e.textContent.match(/type=(\S+)/)[1]).join()`, "call.new,call.standby,call.waiting,call.ongoing,call.finished")
	if got := b.value(`document.querySelector('#events p').textContent`); got != "70.1 type=call.new call_id=70.1 direction=inbound our_number=0800000000 their_number=11999990000 timestamp=2020-01-01T10:00:00Z" {
		t.Errorf("an event: %s", got)
	}
	b.until(`counts.ListCalls`, b.value(`1 + counts.DataChanged`))
}

func TestBoardPageIsOnePageUnderAStrictPolicy(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module})
	key := p.NewKey(map[string]any{"scopes": []string{"telephony:read"}})
	resp, page := p.Exchange(p.Request("", http.MethodGet, "/telephony/board?key="+key, nil))
	policy := resp.Header.Get("Content-Security-Policy")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	for _, want := range []string{"default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "connect-src 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy lacks %s: %s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is open: %s", policy)
	}
	// What the policy would block: handlers and styles in attributes, and files.
	if bad := regexp.MustCompile(`(?i)<[^>]*\s(on[a-z]+|style|src|srcset)=|<link rel="stylesheet"|https?://[^w]`).FindAll(page, -1); len(bad) > 0 {
		t.Errorf("the page is not self-contained: %q", bad)
	}
	if strings.Contains(string(page), key) || strings.Contains(p.Log.String(), key) {
		t.Error("the key is in the page or the log")
	}
	for name, want := range map[string]int{"": http.StatusUnauthorized, p.NewKey(map[string]any{"scopes": []string{"telephony:write"}}): http.StatusForbidden} {
		if status := p.CallAs(name, http.MethodGet, "/telephony/board", nil, nil); status != want {
			t.Errorf("%d, want %d", status, want)
		}
	}
}

func TestTheBoardShowsCallsAsTheyMove(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module})
	key := p.NewKey(map[string]any{"scopes": []string{"telephony:read"}})
	post(t, p, eventOf("new", "80.1", time.Now().Add(-90*time.Second).UTC().Format(time.RFC3339)))
	address, cut := relay(t, strings.TrimPrefix(p.URL, "http://"))
	b := openTab(t, "http://"+address+"/telephony/board?key="+key+"&wall=1")
	lane := func(state string) string {
		return `[...document.querySelectorAll('[data-state=` + state + `] li')].map(e => e.querySelector('b').textContent).join()`
	}
	b.until(lane("NEW"), "80.1")
	if got := b.value("location.search"); got != "?wall=1" {
		t.Errorf("the address is %s", got)
	}
	if got := b.value(`document.querySelector('.age').textContent`); !strings.HasPrefix(got, "1:3") {
		t.Errorf("the call is %s old", got)
	}
	b.until(`document.getElementById('linkText').textContent`, "Live")
	kinds := map[string]string{"STANDBY": "standby", "WAITING": "waiting", "ONGOING": "ongoing", "FINISHED": "finished"}
	b.value(`document.querySelector('.call').click()`)
	for i, state := range stateNames[2:] {
		post(t, p, eventOf(kinds[state], "80.1", "2020-01-01T10:00:01Z"))
		b.until(lane(state), "80.1")
		b.until(`document.getElementById('panelNote').textContent`, fmt.Sprintf("%s · %d events", state, i+2))
		b.until(`document.querySelectorAll('li .call').length`, "1")
		b.until(`document.querySelector('[data-state=`+state+`] .count').textContent`, "1")
	}
	b.until(`[...document.querySelectorAll('#events b')].map(e => e.textContent).join()`, "call.new,call.standby,call.waiting,call.ongoing,call.finished")
	if got := b.value(`document.querySelector('#events pre').textContent`); !strings.Contains(got, `"their_number": "11999990000"`) {
		t.Errorf("an event: %s", got)
	}
	// A reload by its key shows the page again.
	b.value(`dispatchEvent(new KeyboardEvent('keydown', { key: 'F5' })), window.before = true`)
	b.call("Page.reload", map[string]any{})
	b.until("String(window.before)", "undefined")
	b.until(lane("FINISHED"), "80.1")
	b.until("location.search", "?wall=1")

	// It comes back by itself, and shows what happened meanwhile.
	cut(true)
	b.until(`document.getElementById('link').dataset.is`, "wait")
	cut(false)
	post(t, p, eventOf("new", "80.2", "2020-01-01T10:00:02Z"))
	b.until(lane("NEW"), "80.2")

	postMany(t, p, 1000)
	b.until(`document.querySelector('[data-state=WAITING] .count').textContent`, "1,000")
	b.until(`document.getElementById('total').textContent`, "1,000 active of 1,000 newest calls")
}

// postMany posts a waiting call n times, many at once.
func postMany(t testing.TB, p *apptest.Product, n int) {
	var parts sync.WaitGroup
	for w := range 20 {
		parts.Go(func() {
			for i := w; i < n; i += 20 {
				resp, text := p.Exchange(p.Request(p.Key, http.MethodPost, "/telephony/webhook", eventOf("waiting", fmt.Sprint("81.", i), "2020-01-01T10:00:02Z")))
				if resp.StatusCode != http.StatusOK {
					t.Errorf("%s %s", resp.Status, text)
				}
			}
		})
	}
	parts.Wait()
}

// relay passes connections on to an address until it is cut; then it closes
// them, and every new one until it is mended.
func relay(t testing.TB, to string) (address string, cut func(bool)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var away bool
	var open []net.Conn
	keep := func(conns ...net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, conns...)
		return !away
	}
	cut = func(now bool) {
		mu.Lock()
		defer mu.Unlock()
		away = now
		for _, c := range open {
			_ = c.Close()
		}
		open = nil
	}
	var parts sync.WaitGroup
	parts.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil || !keep(in, out) {
				_ = in.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				parts.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = in.Close()
					_ = out.Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cut(true)
		parts.Wait()
	})
	return l.Addr().String(), cut
}

// shortOf is the module with other limits for sockets.
func shortOf(limits wsLimits, made func(*service)) app.Module {
	m := Module
	m.New = func(p app.Platform) (app.Service, error) {
		s, err := newService(p)
		if err == nil {
			s.(*service).sockets.limits = limits
			made(s.(*service))
		}
		return s, err
	}
	return m
}

func TestSocketsThatDoNotReadOrAnswerAreCut(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]wsLimits{
		"does not read":   {PushEvery: time.Millisecond, PingEvery: time.Hour, PingWithin: time.Hour, WriteWithin: 300 * time.Millisecond},
		"does not answer": {PushEvery: time.Hour, PingEvery: 50 * time.Millisecond, PingWithin: 300 * time.Millisecond, WriteWithin: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limits.CloseWithin, limits.MaxMessage, limits.RequestRate, limits.RequestBurst = boardLimits.CloseWithin, boardLimits.MaxMessage, 20, 40
			var s *service
			p := apptest.Start(t, []app.Module{shortOf(limits, func(made *service) { s = made })}, apptest.Env("APP_TELEPHONY_BOARD_LISTEN=127.0.0.1:0"))
			healthy := dialBoard(t, besideOf(t, p))
			conn, _, err := websocket.Dial(t.Context(), besideOf(t, p), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"event":"Subscribe"}`)); err != nil {
				t.Fatal(err)
			}
			for n := 0; s.sockets.connected() != 1; n++ { // the healthy one stays
				if n == 400 {
					t.Fatal("the socket is still there")
				}
				post(t, p, fmt.Sprintf(`{"type":"call.new","call_id":"90.%d","filler":"%s","timestamp":"2020-01-01T10:00:00Z"}`, n, strings.Repeat("x", 60_000)))
			}
			if f := healthy.ask(`{"event":"?"}`); f != string(frameInvalidEvent) {
				t.Errorf("the healthy one got %s", f)
			}
			s.feed.mu.Lock()
			defer s.feed.mu.Unlock()
			if s.feed.readers != 0 {
				t.Errorf("%d listeners for events are left", s.feed.readers)
			}
		})
	}
}

func TestALostBroadcastIsMadeUpFor(t *testing.T) {
	t.Parallel()
	deaf := shortOf(boardLimits, func(s *service) { s.events.onStored = nil })
	p := apptest.Start(t, []app.Module{deaf}, apptest.Env("APP_NATS_URL="+bustest.External(t), "APP_TELEPHONY_BOARD_LISTEN=127.0.0.1:0"))
	c := dialBoard(t, besideOf(t, p))
	if got := c.ask(`{"event":"Subscribe"}`); got != string(frameSubscribed) {
		t.Fatal(got)
	}
	post(t, p, eventOf("new", "97.1", "2020-01-01T10:00:00Z"))
	// The two are told by different hands, in any order.
	if first := c.next(); first == string(frameChanged) {
		c.events(1)
	} else {
		c.want(string(frameChanged))
	}
}

func TestAListenerThatFallsBehindIsToldSo(t *testing.T) {
	t.Parallel()
	var s *service
	p := apptest.Start(t, []app.Module{shortOf(boardLimits, func(made *service) { s = made })})
	slow, _, err := s.feed.listen(t.Context(), true, "")
	if err != nil {
		t.Fatal(err)
	}
	fast, end, err := s.feed.listen(t.Context(), true, "")
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	var posting sync.WaitGroup
	defer posting.Wait()
	posting.Go(func() { postMany(t, p, feedQueue+1) })
	for i := range feedQueue + 1 {
		select {
		case e := <-fast.queue:
			if fast.took(e); e.id != int64(i+1) {
				t.Fatalf("event %d, want %d", e.id, i+1)
			}
		case <-time.After(boardsPatience):
			t.Fatal("nothing came")
		}
	}
	select {
	case <-slow.behind:
	case <-time.After(boardsPatience):
		t.Fatal("nobody told the slow one")
	}
	if len(slow.queue) != feedQueue || fast.bytes.Load() != 0 {
		t.Errorf("%d events wait, %d bytes", len(slow.queue), fast.bytes.Load())
	}
}
