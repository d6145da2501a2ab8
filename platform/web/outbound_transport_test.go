package web_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/apptest"
	"switchboard/platform/web"
)

// script is a server that answers each request on a connection with the next of
// these texts, and closes it after the last.
func script(t *testing.T, answers ...string) (url string, conns *atomic.Int64) {
	t.Helper()
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	conns = new(atomic.Int64)
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			serving.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for _, text := range answers {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					if _, err := io.Copy(io.Discard, req.Body); err != nil {
						return
					}
					if _, err := io.WriteString(c, text); err != nil {
						return
					}
				}
			})
		}
	})
	return "http://" + l.Addr().String(), conns
}

func TestOutboundReadsEveryFormOfAnAnswer(t *testing.T) {
	t.Parallel()
	const whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	for _, c := range []struct {
		name, answer string
		want         string // status and body; "" is an error
		kept         bool   // the connection serves the next call
	}{
		{"with a length", whole, "200 hi", true},
		{"in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\nX-After: 1\r\n\r\n", "200 hi", true},
		{"without a body", "HTTP/1.1 204 No Content\r\n\r\n", "204 ", true},
		{"of no length", "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", "202 ", true},
		{"after hints", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + whole, "200 hi", true},
		{"up to the end", "HTTP/1.1 200 OK\r\n\r\nhi", "200 hi", false},
		{"of a server of 1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200 hi", false},
		{"the last one", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", "200 hi", false},
		{"and one more", whole + whole, "200 hi", false},
		{"another protocol", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "101 ", false},
		{"cut off", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "", false},
		{"a chunk of no size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nhi\r\n", "", false},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", "", false},
		{"nothing", "", "", false},
		{"garbage", "hello, who is there?\r\n\r\n", "", false},
		{"hints for ever", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 50) + whole, "", false},
		{"a header without an end", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 100_000), "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			answers := []string{c.answer}
			if c.kept {
				answers = []string{c.answer, c.answer, c.answer}
			}
			url, conns := script(t, answers...)
			client := outbound(t, web.OutboundConfig{Private: true})
			for range 3 {
				got := ""
				if a, err := call(t, client, url); err == nil {
					got = fmt.Sprintf("%d %s", a.status, a.body)
				}
				if got != c.want {
					t.Fatalf("%q, want %q", got, c.want)
				}
			}
			if n := conns.Load(); n != 1 && c.kept || n != 3 && !c.kept {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func TestOutboundLeavesAConnectionThatTheOtherSideClosed(t *testing.T) {
	t.Parallel()
	url, conns := script(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") // and closes
	client := outbound(t, web.OutboundConfig{Private: true})
	for n := range int64(3) {
		a, err := call(t, client, url)
		if err != nil || a.body != "hi" || conns.Load() != n+1 {
			t.Fatalf("%+v %v on %d connections", a, err, conns.Load())
		}
		answered := time.Now()
		apptest.Eventually(t, func() string { // the end comes through meanwhile
			if time.Since(answered) < 20*time.Millisecond {
				return "too soon"
			}
			return ""
		})
	}
}

func TestOutboundKeepsToItsConnections(t *testing.T) {
	t.Parallel()
	const most = 3
	var now, peak, conns atomic.Int64
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		n := now.Add(1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		arrived <- struct{}{}
		<-release
		now.Add(-1)
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	client := outbound(t, web.OutboundConfig{Private: true, MaxConns: most})
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			if _, err := call(t, client, srv.URL); err != nil {
				t.Error(err)
			}
		})
	}
	for range most {
		<-arrived
	}
	// One more waits for a place, and may give up.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	req := must[*http.Request](t)(http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil))
	if _, err := client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call without a place: %v", err)
	}
	close(release)
	calls.Wait()
	if peak.Load() > most || conns.Load() > most {
		t.Errorf("%d calls at once on %d connections", peak.Load(), conns.Load())
	}
}

func TestOutboundEndsWithItsContext(t *testing.T) {
	t.Parallel()
	began, release := make(chan struct{}, 10), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		began <- struct{}{}
		if r.URL.Path != "/" {
			<-release
		}
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(release) })
	client := outbound(t, web.OutboundConfig{Private: true, MaxConns: 1})
	for _, path := range []string{"/header", "/body"} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-began; cancel() }()
		req := must[*http.Request](t)(http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+path, nil))
		resp, err := client.Do(req)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", path, err)
		}
		// The only connection is free again, and the answer to come is not the next call's.
		if a, err := call(t, client, srv.URL); err != nil || a.body != "" {
			t.Errorf("after %s: %+v %v", path, a, err)
		}
		<-began
	}
}

func TestOutboundTakesBackAnAnswerThatNobodyReads(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat(fmt.Sprint(n.Add(1)), 100_000))
	}))
	t.Cleanup(srv.Close)
	client := outbound(t, web.OutboundConfig{Private: true, MaxConns: 1})
	for range 3 {
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	if a, err := call(t, client, srv.URL); err != nil || a.body != strings.Repeat("4", 100_000) {
		t.Errorf("%.20q %v", a.body, err)
	}
}
