package socketio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a Server under test; what its Closed hook was told goes to closed.
type server struct {
	*Server
	url    string
	closed chan string
}

func newServer(t *testing.T, c Config, setup func(s *Server)) *server {
	t.Helper()
	s := &server{closed: make(chan string, 100)}
	c.Closed = func(transport, reason string) { s.closed <- transport + ": " + reason }
	s.Server = New(c)
	if setup != nil {
		setup(s.Server)
	}
	hs := httptest.NewServer(s.Server)
	s.url = hs.URL + "/socket.io/"
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
		hs.Close()
	})
	return s
}

func await[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("waited too long")
		panic("unreachable")
	}
}

// until waits for a condition that nothing announces.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

// client is a WebSocket client that speaks in packets.
type client struct {
	t *testing.T
	c *websocket.Conn
}

func (s *server) dial(t *testing.T, query string) *client {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), s.url+"?EIO=4&transport=websocket"+query, nil) //nolint:bodyclose // there is none
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(16 << 20)
	t.Cleanup(func() { _ = c.CloseNow() })
	return &client{t, c}
}

// connected is a client that has joined "/".
func (s *server) connected(t *testing.T) *client {
	t.Helper()
	c := s.dial(t, "")
	c.wantPrefix(`0{"sid":`)
	c.send("40")
	c.wantPrefix(`40{"sid":`)
	return c
}

func (c *client) send(packets ...string) {
	c.t.Helper()
	for _, p := range packets {
		typ := websocket.MessageText
		if strings.HasPrefix(p, "\x00") {
			typ = websocket.MessageBinary
		}
		if err := c.c.Write(c.t.Context(), typ, []byte(p)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *client) read() string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	_, b, err := c.c.Read(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

func (c *client) want(packets ...string) {
	c.t.Helper()
	for _, want := range packets {
		if got := c.read(); got != want {
			c.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func (c *client) wantPrefix(prefix string) string {
	c.t.Helper()
	got := c.read()
	if !strings.HasPrefix(got, prefix) {
		c.t.Fatalf("got %q, want %q…", got, prefix)
	}
	return got
}

// wantClosed reads until the server has closed the connection.
func (c *client) wantClosed() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	for {
		if _, _, err := c.c.Read(ctx); err != nil {
			if ctx.Err() != nil {
				c.t.Fatal("still open")
			}
			return
		}
	}
}

func (s *server) do(t *testing.T, method, query, body string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+query, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// open starts a polling session.
func (s *server) open(t *testing.T) (sid, query string) {
	t.Helper()
	status, body := s.do(t, "GET", "?EIO=4&transport=polling", "")
	var open struct{ SID string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(body, "0")), &open); err != nil || status != 200 {
		t.Fatalf("%d %q: %v", status, body, err)
	}
	return open.SID, "?EIO=4&transport=polling&sid=" + open.SID
}

// echoing answers "message" with "message-back", and acknowledges what asks for it.
func echoing(s *Server) {
	s.Of("/").OnConnect(func(k *Socket) {
		k.OnAny(func(event string, args Args, ack Ack) {
			if ack != nil {
				_ = ack(args)
				return
			}
			_ = k.Emit(event+"-back", args)
		})
	})
}

func TestAWebsocketClientEmitsAndAcknowledges(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{}, echoing)
	c := s.connected(t)
	c.send(`42["m",1,{"z":1, "a":"<ü>"}]`)
	c.want(`42["m-back",1,{"z":1, "a":"<ü>"}]`)
	c.send(`427["m","x"]`)
	c.want(`437["x"]`)
	c.send(`452-["m",{"_placeholder":true,"num":1},{"k":{"_placeholder":true,"num":0}}]`, "\x00one", "\x00two")
	c.want(`452-["m-back",{"_placeholder":true,"num":1},{"k":{"_placeholder":true,"num":0}}]`, "\x00one", "\x00two")
	c.send(`451-3["m",{"_placeholder":true,"num":0}]`, "\x00one")
	c.want(`461-3[{"_placeholder":true,"num":0}]`, "\x00one")
	c.send(`4399["nobody asked"]`, `43[]`, `42["m"]`)
	c.want(`42["m-back"]`)
	if err := c.c.Close(1000, ""); err != nil {
		t.Fatal(err)
	}
	if got := await(t, s.closed); got != "websocket: transport close" {
		t.Fatal(got)
	}
}

func TestAPollingClientEmitsAndAcknowledges(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{}, echoing)
	_, q := s.open(t)
	post := func(body string) {
		t.Helper()
		if status, answer := s.do(t, "POST", q, body); status != 200 || answer != "ok" {
			t.Fatalf("%d %q", status, answer)
		}
	}
	poll := func(want string) {
		t.Helper()
		if status, got := s.do(t, "GET", q, ""); status != 200 || !strings.HasPrefix(got, want) {
			t.Fatalf("%d %q, want %q", status, got, want)
		}
	}
	post("40")
	poll(`40{"sid":`)
	post(`42["m","ü"]` + "\x1e" + `421["m"]` + "\x1e" + `451-["m",{"_placeholder":true,"num":0}]` + "\x1ebAQIDBA==")
	poll(`42["m-back","ü"]` + "\x1e" + `431[]` + "\x1e" + `451-["m-back",{"_placeholder":true,"num":0}]` + "\x1ebAQIDBA==")
	polled := make(chan string, 1)
	go func() {
		_, body := s.do(t, "GET", q, "")
		polled <- body
	}()
	until(t, "the poll waits", func() bool { return s.waits(q) })
	post("1")
	if got := await(t, polled); got != "6" {
		t.Fatalf("the poll got %q", got)
	}
	if got := await(t, s.closed); got != "polling: transport close" {
		t.Fatal(got)
	}
	if status, _ := s.do(t, "GET", q, ""); status != 400 {
		t.Fatalf("status %d", status)
	}
}

// waits reports whether a poll of a session waits.
func (s *server) waits(query string) bool {
	_, sid, _ := strings.Cut(query, "&sid=")
	sess := s.session(sid)
	if sess == nil {
		return false
	}
	sess.mu.Lock()
	defer sess.mu.Unlock()
	return sess.poll != nil && sess.poll.wake != nil
}

func TestRequestsAtFaultAreAnsweredWithACode(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{MaxPayload: 100}, nil)
	_, q := s.open(t)
	for _, test := range []struct {
		method, query, body string
		status              int
		answer              string
	}{
		{"GET", "?EIO=4", "", 400, `{"code":0,"message":"Transport unknown"}`},
		{"GET", "?EIO=4&transport=webtransport", "", 400, `{"code":0,"message":"Transport unknown"}`},
		{"GET", "?EIO=4&transport=polling&sid=x", "", 400, `{"code":1,"message":"Session ID unknown"}`},
		{"GET", "?EIO=4&transport=websocket&sid=x", "", 400, `{"code":1,"message":"Session ID unknown"}`},
		{"POST", "?EIO=4&transport=polling", "", 400, `{"code":2,"message":"Bad handshake method"}`},
		{"PUT", "?EIO=4&transport=polling", "", 400, `{"code":2,"message":"Bad handshake method"}`},
		{"GET", "?EIO=4&transport=websocket", "", 400, `{"code":3,"message":"Bad request"}`},
		{"GET", "?EIO=3&transport=polling", "", 400, `{"code":5,"message":"Unsupported protocol version"}`},
		{"GET", "?transport=polling", "", 400, `{"code":5,"message":"Unsupported protocol version"}`},
		{"PUT", q, "", 400, `{"code":3,"message":"Bad request"}`},
		{"POST", q, strings.Repeat("4", 101), 413, `{"code":3,"message":"Payload too large"}`},
	} {
		status, answer := s.do(t, test.method, test.query, test.body)
		if status != test.status || strings.TrimSpace(answer) != test.answer {
			t.Errorf("%s %s: %d %s", test.method, test.query, status, answer)
		}
	}
}

func TestOriginsAreChecked(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{AllowOrigin: func(r *http.Request) bool { return r.Header.Get("Origin") == "https://good" }}, nil)
	same := newServer(t, Config{}, nil)
	get := func(url, method, origin string) *http.Response {
		r, _ := http.NewRequestWithContext(t.Context(), method, url+"?EIO=4&transport=polling", nil)
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Headers", "x-token")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp
	}
	if r := get(s.url, "GET", "https://good"); r.StatusCode != 200 || r.Header.Get("Access-Control-Allow-Origin") != "https://good" {
		t.Errorf("a good origin: %d %v", r.StatusCode, r.Header)
	}
	if r := get(s.url, "OPTIONS", "https://good"); r.StatusCode != 204 || r.Header.Get("Access-Control-Allow-Headers") != "x-token" {
		t.Errorf("preflight: %d %v", r.StatusCode, r.Header)
	}
	if r := get(s.url, "GET", "https://bad"); r.StatusCode != 403 || r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a bad origin: %d %v", r.StatusCode, r.Header)
	}
	if r := get(same.url, "GET", strings.TrimSuffix(same.url, "/socket.io/")); r.StatusCode != 200 {
		t.Errorf("the own origin: %d", r.StatusCode)
	}
	if r := get(same.url, "GET", "https://elsewhere"); r.StatusCode != 403 {
		t.Errorf("a foreign origin: %d", r.StatusCode)
	}
}

func TestGarbageEndsTheSession(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{}, echoing)
	for name, test := range map[string]struct {
		packets []string
		reason  string
	}{
		"an unknown packet type":          {[]string{"x"}, ReasonParseError},
		"an empty packet":                 {[]string{""}, ReasonParseError},
		"a ping from the client":          {[]string{"2"}, ReasonTransportError},
		"an unknown Socket.IO type":       {[]string{"4abc"}, ReasonParseError},
		"a second CONNECT":                {[]string{"40"}, ReasonParseError},
		"an event elsewhere":              {[]string{`42/other,["a"]`}, ReasonParseError},
		"unannounced binary":              {[]string{"\x00x"}, ReasonParseError},
		"text in place of an attachment":  {[]string{`451-["a",{"_placeholder":true,"num":0}]`, `42["a"]`}, ReasonParseError},
		"a placeholder for nothing":       {[]string{`451-["a",{"_placeholder":true,"num":7}]`, "\x00x"}, ReasonParseError},
		"eleven attachments":              {[]string{`4511-["a"]`}, ReasonParseError},
		"a reserved name":                 {[]string{`42["disconnect"]`}, ReasonParseError},
		"an event that is no array":       {[]string{`42{}`}, ReasonParseError},
		"an acknowledgement of no array":  {[]string{`430{}`}, ReasonParseError},
		"a CONNECT with a payload of []":  {[]string{`40/x,[]`}, ReasonParseError},
		"deep nesting":                    {[]string{`42["a",` + strings.Repeat("[", 500_000)}, ReasonParseError},
		"a CONNECT_ERROR from the client": {[]string{`44{}`}, ReasonParseError},
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan string, 1)
			c := s.connected(t)
			s.only(t).OnDisconnect(func(reason string) { gone <- reason })
			c.send(test.packets...)
			c.wantClosed()
			if got := await(t, gone); got != test.reason {
				t.Errorf("the handler got %q", got)
			}
			if got := await(t, s.closed); got != "websocket: "+test.reason {
				t.Errorf("the hook got %q", got)
			}
		})
	}
}

// only is the one socket that is connected.
func (s *server) only(t *testing.T) *Socket {
	t.Helper()
	var k *Socket
	until(t, "a socket is connected", func() bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		for _, sess := range s.sessions {
			if k = sess.socket("/"); k != nil && k.Connected() {
				return true
			}
		}
		return false
	})
	return k
}

func TestAnEventBeforeConnectEndsTheSession(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{}, echoing)
	c := s.dial(t, "")
	c.send(`42["a"]`)
	c.wantClosed()
	_, q := s.open(t)
	if status, answer := s.do(t, "POST", q, `42["a"]`); status != 200 || answer != "ok" {
		t.Fatalf("%d %q", status, answer)
	}
	if status, _ := s.do(t, "GET", q, ""); status != 400 {
		t.Fatalf("status %d", status)
	}
}

func TestTwoPollsAtOnceEndTheSession(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{}, nil)
	_, q := s.open(t)
	polled := make(chan string, 1)
	go func() {
		status, body := s.do(t, "GET", q, "")
		polled <- fmt.Sprint(status, body)
	}()
	until(t, "the poll waits", func() bool { return s.waits(q) })
	if status, _ := s.do(t, "GET", q, ""); status != 400 {
		t.Errorf("the second poll: %d", status)
	}
	if got := await(t, polled); got != "2001" {
		t.Errorf("the first poll: %q", got)
	}
	if status, _ := s.do(t, "GET", q, ""); status != 400 {
		t.Errorf("a later poll: %d", status)
	}
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	gone := make(chan string, 10)
	s := newServer(t, Config{}, func(s *Server) {
		echoing(s)
		n := s.Of("/admin")
		n.Use(func(k *Socket) error {
			var auth struct{ Token string }
			_ = json.Unmarshal(k.Auth(), &auth)
			switch auth.Token {
			case "good":
				k.SetID("my-id")
				return nil
			case "":
				return &ConnectError{"no token", map[string]int{"code": 7}}
			}
			return errors.New("secret")
		})
		n.OnConnect(func(k *Socket) {
			k.OnDisconnect(func(reason string) { gone <- reason })
			_ = k.Emit("hello", k.ID())
		})
	})
	c := s.dial(t, "")
	c.wantPrefix("0")
	c.send("40/none,")
	c.want(`44/none,{"message":"Invalid namespace"}`)
	c.send("40/admin")
	c.want(`44/admin,{"message":"no token","data":{"code":7}}`)
	c.send(`40/admin,{"token":"bad"}`)
	c.want(`44/admin,{"message":"Internal error"}`)
	c.send(`40/admin,{"token":"good"}`)
	c.want(`40/admin,{"sid":"my-id"}`, `42/admin,["hello","my-id"]`)
	c.send("41/admin,")
	if got := await(t, gone); got != ReasonClientLeft {
		t.Fatal(got)
	}
	// The session lives on, and the namespace can be joined again.
	c.send(`40/admin,{"token":"good"}`)
	c.want(`40/admin,{"sid":"my-id"}`, `42/admin,["hello","my-id"]`)
	c.send(`40`)
	c.wantPrefix("40{")
}

func TestTheServerDisconnects(t *testing.T) {
	t.Parallel()
	gone := make(chan string, 10)
	s := newServer(t, Config{}, func(s *Server) {
		s.Of("/").OnConnect(func(k *Socket) {
			k.OnDisconnect(func(reason string) { gone <- reason })
			k.On("leave", func(Args, Ack) { _ = k.Emit("last"); k.Disconnect(false) })
			k.On("end", func(Args, Ack) { _ = k.Emit("last"); k.Disconnect(true) })
			k.On("cut", func(Args, Ack) { k.Cut("revoked") })
			k.On("panic", func(Args, Ack) { panic("a test's") })
		})
	})
	c := s.connected(t)
	c.send(`42["leave"]`)
	c.want(`42["last"]`, `41`)
	if got := await(t, gone); got != ReasonServerLeft {
		t.Fatal(got)
	}
	c.send("40")
	c.wantPrefix("40{")
	c.send(`42["end"]`)
	c.want(`42["last"]`, `41`)
	c.wantClosed()
	if got := await(t, gone); got != ReasonServerLeft {
		t.Fatal(got)
	}
	c = s.connected(t)
	c.send(`42["cut"]`)
	c.wantClosed()
	if got := await(t, gone); got != "revoked" {
		t.Fatal(got)
	}
	c = s.connected(t)
	c.send(`42["panic"]`)
	c.wantClosed()
	await(t, gone)

	_, q := s.open(t)
	s.do(t, "POST", q, "40")
	s.do(t, "GET", q, "")
	s.do(t, "POST", q, `42["end"]`)
	for _, want := range []string{`42["last"]` + "\x1e41", "1"} {
		if _, body := s.do(t, "GET", q, ""); body != want {
			t.Fatalf("a polling client gets %q, want %q", body, want)
		}
	}
}

func TestTheServerAsksForAcknowledgements(t *testing.T) {
	t.Parallel()
	type answer struct {
		args string
		err  error
	}
	answers := make(chan answer, 10)
	sockets := make(chan *Socket, 1)
	s := newServer(t, Config{}, func(s *Server) {
		s.Of("/").OnConnect(func(k *Socket) { sockets <- k })
	})
	c := s.connected(t)
	k := await(t, sockets)
	f := func(a Args, err error) { answers <- answer{fmt.Sprintf("%s", a.Values), err} }
	for _, timeout := range []time.Duration{time.Hour, time.Millisecond, 0} {
		if err := k.EmitWithAck("q", timeout, f, "x"); err != nil {
			t.Fatal(err)
		}
	}
	c.want(`420["q","x"]`, `421["q","x"]`, `422["q","x"]`)
	if a := await(t, answers); !errors.Is(a.err, ErrTimeout) {
		t.Fatal(a)
	}
	c.send(`431["late"]`, `430["a",1]`)
	if a := await(t, answers); a.err != nil || a.args != `["a" 1]` {
		t.Fatal(a)
	}
	_ = c.c.CloseNow()
	if a := await(t, answers); !errors.Is(a.err, ErrNotConnected) {
		t.Fatal(a)
	}
	if err := k.EmitWithAck("q", 0, f); !errors.Is(err, ErrNotConnected) {
		t.Fatal(err)
	}
	if err := k.Emit("q"); !errors.Is(err, ErrNotConnected) {
		t.Fatal(err)
	}
	if err := k.Emit("connect"); !errors.Is(err, ErrReservedName) {
		t.Fatal(err)
	}
}

func TestHeartbeats(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{PingInterval: 10 * time.Millisecond, PingTimeout: 50 * time.Millisecond}, nil)
	c := s.dial(t, "")
	c.wantPrefix("0")
	c.want("2")
	c.wantClosed()
	if got := await(t, s.closed); got != "websocket: ping timeout" {
		t.Fatal(got)
	}
	s.open(t)
	if got := await(t, s.closed); got != "polling: ping timeout" {
		t.Fatal(got)
	}
}

func TestASessionThatJoinsNothingEnds(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{ConnectTimeout: 10 * time.Millisecond}, nil)
	s.dial(t, "").wantClosed()
	if got := await(t, s.closed); got != "websocket: forced close" {
		t.Fatal(got)
	}
}

func TestPidsAreOffered(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{Pids: true}, func(s *Server) {
		s.Of("/").Use(func(k *Socket) error {
			var auth struct{ PID string }
			if _ = json.Unmarshal(k.Auth(), &auth); auth.PID != "" {
				k.SetPID(auth.PID)
				k.SetID("old")
			}
			return nil
		})
	})
	c := s.dial(t, "")
	c.wantPrefix("0")
	c.send("40")
	if got := c.wantPrefix(`40{"sid":"`); !strings.Contains(got, `","pid":"`) {
		t.Fatal(got)
	}
	c = s.dial(t, "")
	c.wantPrefix("0")
	c.send(`40{"pid":"mine","offset":"1"}`)
	c.want(`40{"sid":"old","pid":"mine"}`)
}

func TestTooManySessionsAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{MaxConns: 2}, nil)
	c := s.connected(t)
	_, q := s.open(t)
	if status, _ := s.do(t, "GET", "?EIO=4&transport=polling", ""); status != 503 {
		t.Fatalf("status %d", status)
	}
	_ = c.c.CloseNow()
	s.do(t, "POST", q, "1")
	until(t, "both are gone", func() bool { return s.Conns() == 0 })
	s.open(t)
}

func TestClosingEndsAllSessions(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{}, nil)
	c := s.connected(t)
	_, q := s.open(t)
	polled := make(chan string, 1)
	go func() {
		_, body := s.do(t, "GET", q, "")
		polled <- body
	}()
	until(t, "the poll waits", func() bool { return s.waits(q) })
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.wantClosed()
	}()
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, closed)
	if got := await(t, polled); got != "1" {
		t.Fatalf("the poll got %q", got)
	}
	for range 2 {
		if got := await(t, s.closed); !strings.HasSuffix(got, ReasonShutdown) {
			t.Fatal(got)
		}
	}
	if status, _ := s.do(t, "GET", "?EIO=4&transport=polling", ""); status != 503 {
		t.Fatalf("status %d", status)
	}
}

func TestAnUpgradeKeepsTheOrder(t *testing.T) {
	t.Parallel()
	sockets := make(chan *Socket, 1)
	s := newServer(t, Config{MaxQueue: 16 << 20}, func(s *Server) {
		s.Of("/").OnConnect(func(k *Socket) { sockets <- k })
	})
	sid, q := s.open(t)
	s.do(t, "POST", q, "40")
	s.do(t, "GET", q, "")
	k := await(t, sockets)
	const n = 5000
	var sent sync.WaitGroup
	sent.Go(func() {
		for i := range n {
			_ = k.Emit("n", i)
		}
	})
	next := 0
	take := func(packet string) {
		t.Helper()
		if packet == "6" {
			return
		}
		if packet != fmt.Sprintf(`42["n",%d]`, next) {
			t.Fatalf("got %q at place %d", packet, next)
		}
		next++
	}
	_, body := s.do(t, "GET", q, "")
	for p := range strings.SplitSeq(body, "\x1e") {
		take(p)
	}
	c := s.dial(t, "&sid="+sid)
	c.send("2probe")
	c.want("3probe")
	_, body = s.do(t, "GET", q, "")
	for p := range strings.SplitSeq(body, "\x1e") {
		take(p)
	}
	c.send("5")
	for next < n {
		take(c.read())
	}
	sent.Wait()
	if k.Transport() != "websocket" {
		t.Fatal(k.Transport())
	}
	// The old transport is gone, and a second WebSocket is answered and closed.
	if status, _ := s.do(t, "GET", q, ""); status != 400 {
		t.Fatalf("status %d", status)
	}
	s.dial(t, "&sid="+sid).wantClosed()
	_ = k.Emit("n", n)
	take(c.read())
}

func TestAnUpgradeThatIsGivenUpLeavesPolling(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{UpgradeTimeout: 20 * time.Millisecond}, echoing)
	sid, q := s.open(t)
	s.do(t, "POST", q, "40")
	s.do(t, "GET", q, "")
	c := s.dial(t, "&sid="+sid) // times out
	c.send("2probe")
	c.want("3probe")
	c.wantClosed()
	c = s.dial(t, "&sid="+sid)
	c.send("5") // without a probe
	c.wantClosed()
	s.do(t, "POST", q, `42["m"]`)
	if _, got := s.do(t, "GET", q, ""); got != `42["m-back"]` {
		t.Fatalf("got %q", got)
	}
}

func TestAPollThatWaitsIsReleasedByTheProbe(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{}, nil)
	sid, q := s.open(t)
	polled := make(chan string, 1)
	go func() {
		_, body := s.do(t, "GET", q, "")
		polled <- body
	}()
	until(t, "the poll waits", func() bool { return s.waits(q) })
	c := s.dial(t, "&sid="+sid)
	c.send("2probe")
	c.want("3probe")
	if got := await(t, polled); got != "6" {
		t.Fatalf("got %q", got)
	}
}

func TestSlowConsumersAreCutAndOthersAreNot(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	type end struct {
		id, reason string
	}
	ends := make(chan end, 10)
	sockets := make(chan *Socket, 10)
	s := newServer(t, Config{MaxQueue: limit, WriteTimeout: time.Hour}, func(s *Server) {
		s.Of("/").OnConnect(func(k *Socket) {
			k.OnDisconnect(func(reason string) { ends <- end{k.ID(), reason} })
			sockets <- k
		})
	})
	_, q := s.open(t)
	s.do(t, "POST", q, "40") // a client that never polls
	polling := await(t, sockets)
	stalled := rawClient(t, s)
	slow := await(t, sockets)
	c := s.connected(t)
	good := await(t, sockets)
	m, err := NewMessage("/", "pad", json.RawMessage(`"`+strings.Repeat("x", 20_000)+`"`))
	if err != nil {
		t.Fatal(err)
	}
	for range 1500 {
		for _, k := range []*Socket{polling, slow} {
			k.Send(m)
			if q := k.Queued(); q > limit+m.Len() {
				t.Fatalf("%d bytes are queued", q)
			}
		}
		if !good.Send(m) {
			t.Fatal("the good one was cut")
		}
		c.want(string(m.text))
	}
	got := map[string]string{}
	for range 2 {
		e := await(t, ends)
		got[e.id] = e.reason
	}
	if got[slow.ID()] != ReasonSlowConsumer || got[polling.ID()] != ReasonSlowConsumer {
		t.Fatal(got)
	}
	_ = stalled.Close()
}

// rawClient joins "/" and never reads.
func rawClient(t *testing.T, s *server) net.Conn {
	t.Helper()
	host := strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/socket.io/")
	nc, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_, err = io.WriteString(nc, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"+
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"+
		"\x81\x82\x00\x00\x00\x0040")
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

func TestBareEngineEchoes(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{}, func(s *Server) {
		s.HandleMessage(func(sess *Session, data []byte, binary bool) { sess.Send(data, binary) })
	})
	c := s.dial(t, "")
	c.wantPrefix(`0{"sid":`)
	c.send("4hello", "\x00binary")
	c.want("4hello", "\x00binary")
	_, q := s.open(t)
	s.do(t, "POST", q, "4hello\x1ebAQIDBA==")
	if _, got := s.do(t, "GET", q, ""); got != "4hello\x1ebAQIDBA==" {
		t.Fatal(got)
	}
}

func TestAPollWhoseClientLeftEndsTheSession(t *testing.T) {
	t.Parallel()
	s := newServer(t, Config{}, nil)
	_, q := s.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.url+q, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := http.DefaultClient.Do(r); err == nil {
			_ = resp.Body.Close()
		}
	}()
	until(t, "the poll waits", func() bool { return s.waits(q) })
	cancel()
	await(t, done)
	if got := await(t, s.closed); got != "polling: transport error" {
		t.Fatal(got)
	}
}
