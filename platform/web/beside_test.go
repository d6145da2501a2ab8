package web_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// beside serves h until the test ends; stop ends it earlier and waits.
func beside(t *testing.T, cfg web.BesideConfig, timeout time.Duration, h http.HandlerFunc) (addr string, log *journal, stop func()) {
	t.Helper()
	log = &journal{}
	cfg.Log = slog.New(slog.NewJSONHandler(log, nil))
	b := must[*web.Beside](t)(web.ListenBeside("127.0.0.1:0", h, cfg))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, timeout) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve does not return")
		}
	})
	t.Cleanup(stop)
	return b.Addr(), log, stop
}

// dial opens a connection that gives up after ten seconds.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn := must[net.Conn](t)(net.Dial("tcp", addr))
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

// ask sends one request on a connection of its own.
func ask(t *testing.T, addr, method, body string) (answer, error) {
	t.Helper()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, "http://"+addr+"/any/path", strings.NewReader(body)))
	req.Close = true
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(text)}, err
}

func TestLoopbackAddressesAreTold(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{
		"127.0.0.1:8081": true, "127.8.9.1:0": true, "localhost:80": true, "LocalHost:80": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true,
		":8081": false, "0.0.0.0:8081": false, "[::]:8081": false, "192.168.0.1:80": false, "[fe80::1]:80": false,
		"example.com:80": false, "localhost.example.com:80": false, "127.0.0.1": false, "localhost": false, "": false,
		"127.0.0.1.example.com:80": false, "127.1:80": false, "[::ffff:10.0.0.1]:80": false,
	} {
		if got := web.Loopback(addr); got != want {
			t.Errorf("%q: %v", addr, got)
		}
	}
}

func TestListenBesideFailsAtOnce(t *testing.T) {
	t.Parallel()
	taken := must[*web.Beside](t)(web.ListenBeside("127.0.0.1:0", http.NotFoundHandler(), web.BesideConfig{}))
	for addr, kind := range map[string]errs.Kind{
		taken.Addr():            errs.Unavailable,
		"127.0.0.1":             errs.Invalid,
		"127.0.0.1:70000":       errs.Invalid,
		"127.0.0.1:no-such":     errs.Invalid,
		"nowhere.invalid:18081": errs.Invalid,
	} {
		b, err := web.ListenBeside(addr, http.NotFoundHandler(), web.BesideConfig{})
		if b != nil || errs.KindOf(err) != kind || strings.Count(err.Error(), addr) != 1 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, %v", addr, errs.KindOf(err), err)
		}
	}
	for range 2 {
		if err := taken.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	again := must[*web.Beside](t)(web.ListenBeside(taken.Addr(), http.NotFoundHandler(), web.BesideConfig{}))
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := again.Serve(t.Context(), time.Second); err == nil || !strings.Contains(err.Error(), again.Addr()) {
		t.Errorf("served after Close: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	late := must[*web.Beside](t)(web.ListenBeside("127.0.0.1:0", http.NotFoundHandler(), web.BesideConfig{}))
	if err := late.Serve(ended, time.Second); err != nil {
		t.Errorf("a context that has ended: %v", err)
	}
	if conn, err := net.Dial("tcp", late.Addr()); err == nil {
		_ = conn.Close()
		t.Error("the address is still bound")
	}
}

func TestBesideRecoversFromPanics(t *testing.T) {
	t.Parallel()
	addr, log, _ := beside(t, web.BesideConfig{}, time.Second, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPut: // the answer has begun
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic("late")
		case http.MethodPost:
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			panic("socket")
		case http.MethodDelete:
			panic(http.ErrAbortHandler)
		}
		panic("early " + secretText)
	})
	a, err := ask(t, addr, "GET", "")
	if err != nil || a.status != 500 || strings.Contains(a.body, secretText) {
		t.Fatalf("%d %s %v", a.status, a.body, err)
	}
	a.problem(t)
	if a, err := ask(t, addr, "PUT", ""); err == nil {
		t.Errorf("half an answer passes for a whole one: %+v", a)
	}
	if a, err := ask(t, addr, "DELETE", ""); err == nil {
		t.Errorf("an aborted answer: %+v", a)
	}
	conn := dial(t, addr)
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\n\r\n")
	if rest, err := io.ReadAll(conn); err != nil || !strings.Contains(string(rest), "101") {
		t.Errorf("%q %v", rest, err)
	}
	for _, what := range []string{"early", "late", "socket"} {
		if lines := log.lines("handler panicked", what); len(lines) != 1 {
			t.Errorf("%s: logged %d times", what, len(lines))
		}
	}
	if lines := log.lines("panic"); len(lines) != 3 {
		t.Errorf("logged %s", log)
	}
}

func TestBesideDoesNotWaitForSlowClients(t *testing.T) {
	t.Parallel()
	bodies := make(chan error, 1)
	addr, _, _ := beside(t, web.BesideConfig{ReadHeaderTimeout: 50 * time.Millisecond, ReadTimeout: 50 * time.Millisecond, MaxBody: 10, MaxHeader: 1000}, time.Second,
		func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			bodies <- err
		})
	slow := dial(t, addr)
	_, _ = io.WriteString(slow, "GET / HTTP/1.1\r\nHost:")
	if _, err := io.ReadAll(slow); err != nil {
		t.Errorf("a slow header: %v", err)
	}
	slow = dial(t, addr)
	_, _ = io.WriteString(slow, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
	if err, timeout := <-bodies, net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a slow body: %v", err)
	}
	if _, err := ask(t, addr, "POST", strings.Repeat("x", 11)); err != nil {
		t.Error(err)
	}
	if err, large := <-bodies, (*http.MaxBytesError)(nil); !errors.As(err, &large) {
		t.Errorf("a large body: %v", err)
	}
	slow = dial(t, addr)
	_, _ = io.WriteString(slow, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 20_000)+"\r\n\r\n")
	if line, err := bufio.NewReader(slow).ReadString('\n'); err != nil || !strings.Contains(line, "431") {
		t.Errorf("a large header: %q %v", line, err)
	}
}

func TestTheReadDeadlineOfABodyDoesNotCutTheAnswer(t *testing.T) {
	t.Parallel()
	addr, _, _ := beside(t, web.BesideConfig{ReadTimeout: 50 * time.Millisecond}, time.Second, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-r.Context().Done():
			_, _ = io.WriteString(w, "cut")
		case <-time.After(150 * time.Millisecond):
			_, _ = io.WriteString(w, "whole")
		}
	})
	if a, err := ask(t, addr, "POST", "x"); err != nil || a.body != "whole" {
		t.Errorf("%q %v", a.body, err)
	}
}

func TestBesideTurnsAwayWhatIsTooMuch(t *testing.T) {
	t.Parallel()
	addr, log, _ := beside(t, web.BesideConfig{MaxConns: 1}, time.Second, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		_, _, _ = conn.Read(r.Context())
		_ = conn.CloseNow()
	})
	first, _, err := websocket.Dial(t.Context(), "ws://"+addr+"/any", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if text, err := io.ReadAll(dial(t, addr)); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 503 ") {
			t.Fatalf("one too many: %q %v", text, err)
		}
	}
	if lines := log.lines("turned away"); len(lines) != 1 {
		t.Errorf("logged %s", log)
	}
	_ = first.CloseNow()
	eventually(t, "a place is free", func() bool {
		conn := dial(t, addr)
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		line, err := bufio.NewReader(conn).ReadString('\n')
		return err == nil && strings.HasPrefix(line, "HTTP/1.1 101 ")
	})
}

func TestBesideWaitsForItsSockets(t *testing.T) {
	t.Parallel()
	var left atomic.Bool
	addr, log, stop := beside(t, web.BesideConfig{}, 10*time.Second, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		// Not with the context of the request: when it ends during a write, the
		// library cuts the connection, and there is no farewell.
		_ = conn.Write(context.WithoutCancel(r.Context()), websocket.MessageText, []byte("welcome"))
		<-r.Context().Done()
		_ = conn.Close(websocket.StatusGoingAway, "the server stops")
		left.Store(true)
	})
	conn, _, err := websocket.Dial(t.Context(), "ws://"+addr+"/any", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	if _, text, err := conn.Read(t.Context()); err != nil || string(text) != "welcome" {
		t.Fatalf("%q %v", text, err)
	}
	farewell := make(chan error, 1)
	go func() {
		_, _, err := conn.Read(context.Background())
		farewell <- err
	}()
	stop()
	if !left.Load() {
		t.Error("Serve returned before the handler")
	}
	if err := <-farewell; websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the client saw %v", err)
	}
	if lines := log.lines("cut off"); len(lines) != 0 {
		t.Errorf("logged %s", lines)
	}
	if conn, err := net.Dial("tcp", addr); err == nil {
		_ = conn.Close()
		t.Error("still accepts")
	}
}

func TestBesideCutsOffSocketsThatDoNotHeedTheirContext(t *testing.T) {
	t.Parallel()
	var left atomic.Bool
	addr, log, stop := beside(t, web.BesideConfig{}, 50*time.Millisecond, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		_, _ = conn.Read(make([]byte, 1))
		left.Store(true)
	})
	conn := dial(t, addr)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	stop()
	if !left.Load() {
		t.Error("the connection was not cut")
	}
	if lines := log.lines("cut off", `"requests":1`); len(lines) != 1 {
		t.Errorf("logged %s", log)
	}
}
