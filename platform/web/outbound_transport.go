package web

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"time"
)

// transport exchanges requests and answers of HTTP/1.1 (RFC 9112) over
// connections that it keeps. Each exchange is made by the goroutine of its
// caller: http.Transport passes it through two others, which costs as much as
// the exchange itself. Messages are written and read by net/http.
//
// A request is sent once: one that a server did not answer may have had its
// effect.
type transport struct {
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	tls       *tls.Config
	timeout   time.Duration // of an exchange whose context has no deadline, and of any header
	maxConns  int           // per host
	maxHeader int64

	mu    sync.Mutex
	hosts map[string]*host
	sweep *time.Timer // runs while connections are idle
}

// host is what calls go to, and the connections to it. It is there as long as
// somebody uses it or a connection is idle.
type host struct {
	places chan struct{} // one for each connection in use
	users  int           // who have a place or wait for one
	idle   []*conn       // the one used last at the end
}

// conn is a connection.
type conn struct {
	net.Conn
	key   string
	r     *bufio.Reader
	w     *bufio.Writer
	left  int64 // how much more may be read
	since time.Time
}

const (
	// idleTime is how long a connection is kept that nobody uses.
	idleTime = 90 * time.Second
	// restedTime is how long a connection may have been idle to be used without
	// looking whether the other side has closed it.
	restedTime = time.Millisecond
	// maxInterim bounds the 1xx answers before the one that counts.
	maxInterim = 8
)

var errHeaderTooLarge = errors.New("the header of the answer is too large")

// Read reads at most what is left.
func (c *conn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errHeaderTooLarge
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// RoundTrip implements http.RoundTripper. A deadline of the request's context
// counts instead of the configured time.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := req.Context(), context.CancelFunc(func() {})
	if _, ok := ctx.Deadline(); !ok {
		ctx, cancel = context.WithTimeout(ctx, t.timeout)
	}
	c, err := t.take(ctx, req.URL)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		err = because(ctx, err)
		cancel()
		return nil, err
	}
	x := &sentRequest{t: t, c: c, ctx: ctx, cancel: cancel, closes: req.Close}
	x.stop = context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	resp, err := x.run(req)
	if err != nil {
		err = because(ctx, err)
		x.end(false)
		return nil, err
	}
	if x.answer = resp.Body; resp.Body == http.NoBody {
		x.end(true)
	} else {
		resp.Body = x
	}
	return resp, nil
}

// because gives the context's error for what failed since it ended.
func because(ctx context.Context, err error) error {
	if end := ctx.Err(); end != nil {
		return end
	}
	// The connection's deadline is the context's, which may not have noticed yet.
	if at, ok := ctx.Deadline(); ok && !time.Now().Before(at) {
		return context.DeadlineExceeded
	}
	return err
}

// sentRequest is a request and the body of its answer.
type sentRequest struct {
	t      *transport
	c      *conn
	ctx    context.Context
	cancel context.CancelFunc
	stop   func() bool // of what breaks it off when ctx ends
	closes bool        // the connection cannot be used again
	answer io.ReadCloser

	mu   sync.Mutex
	over bool
}

// run sends the request and reads the answer up to its body.
func (x *sentRequest) run(req *http.Request) (*http.Response, error) {
	if trace := httptrace.ContextClientTrace(x.ctx); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: x.c.Conn})
	}
	deadline, _ := x.ctx.Deadline()
	header := time.Now().Add(x.t.timeout)
	if deadline.Before(header) {
		header = deadline
	}
	if err := x.c.SetDeadline(header); err != nil {
		return nil, err
	}
	if err := req.Write(x.c.w); err != nil {
		return nil, err
	}
	if err := x.c.w.Flush(); err != nil {
		return nil, err
	}
	x.c.left = x.t.maxHeader
	for range maxInterim {
		resp, err := http.ReadResponse(x.c.r, req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			x.closes = x.closes || resp.Close || resp.StatusCode < 200
			x.c.left = math.MaxInt64
			if header != deadline {
				err = x.c.SetDeadline(deadline)
			}
			return resp, err
		}
	}
	return nil, errors.New("the answer does not begin")
}

// Read reads the body of the answer.
func (x *sentRequest) Read(p []byte) (int, error) {
	n, err := x.answer.Read(p)
	switch {
	case err == io.EOF:
		x.end(true)
	case err != nil:
		err = because(x.ctx, err)
		x.end(false)
	}
	return n, err
}

// Close lets go of the connection. One of which not all was read is of no
// more use.
func (x *sentRequest) Close() error {
	x.end(false)
	return nil
}

// end gives the connection back, whole or not. Only the first call counts.
func (x *sentRequest) end(whole bool) {
	x.mu.Lock()
	over := x.over
	x.over = true
	x.mu.Unlock()
	if over {
		return
	}
	inTime := x.stop()
	x.cancel()
	x.t.put(x.c, whole && inTime && !x.closes && x.c.r.Buffered() == 0)
}

// take gives a connection to the host of u, once there is a place.
func (t *transport) take(ctx context.Context, u *url.URL) (*conn, error) {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if port == "" || u.Hostname() == "" {
		return nil, errors.New("the URL is not one of http or https with a host")
	}
	key := u.Scheme + "://" + u.Host
	t.mu.Lock()
	h := t.hosts[key]
	if h == nil {
		h = &host{places: make(chan struct{}, t.maxConns)}
		t.hosts[key] = h
	}
	h.users++
	t.mu.Unlock()
	select {
	case h.places <- struct{}{}:
	case <-ctx.Done():
		t.leave(key, h)
		return nil, ctx.Err()
	}
	if c := t.rested(h); c != nil {
		return c, nil
	}
	c, err := t.connect(ctx, u, key, port)
	if err != nil {
		<-h.places
		t.leave(key, h)
	}
	return c, err
}

// rested gives an idle connection that still lives; nil if there is none.
func (t *transport) rested(h *host) *conn {
	for {
		t.mu.Lock()
		n := len(h.idle) - 1
		if n < 0 {
			t.mu.Unlock()
			return nil
		}
		c := h.idle[n]
		h.idle[n], h.idle = nil, h.idle[:n]
		t.mu.Unlock()
		if idle := time.Since(c.since); idle < restedTime || idle < idleTime && alive(c.Conn) {
			return c
		}
		_ = c.Close()
	}
}

func (t *transport) connect(ctx context.Context, u *url.URL, key, port string) (*conn, error) {
	nc, err := t.dial(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	if u.Scheme == "https" {
		cfg := t.tls.Clone()
		cfg.ServerName = u.Hostname()
		secure := tls.Client(nc, cfg)
		shake, cancel := context.WithTimeout(ctx, connectTime(t.timeout))
		defer cancel()
		if err := secure.HandshakeContext(shake); err != nil {
			_ = nc.Close()
			return nil, err
		}
		nc = secure
	}
	c := &conn{Conn: nc, key: key, w: bufio.NewWriter(nc)}
	c.r = bufio.NewReader(c)
	return c, nil
}

// put keeps a connection for the next call, if it can be used again.
func (t *transport) put(c *conn, again bool) {
	if !again {
		_ = c.Close()
	}
	t.mu.Lock()
	h := t.hosts[c.key]
	if again {
		c.since = time.Now()
		h.idle = append(h.idle, c)
		if t.sweep == nil {
			t.sweep = time.AfterFunc(idleTime, t.drop)
		}
	}
	t.mu.Unlock()
	<-h.places
	t.leave(c.key, h)
}

// leave forgets a host of which nothing is left.
func (t *transport) leave(key string, h *host) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.users--; h.users == 0 && len(h.idle) == 0 {
		delete(t.hosts, key)
	}
}

// drop closes what has been idle for too long.
func (t *transport) drop() { t.close(idleTime) }

// CloseIdleConnections closes the connections that nobody uses.
func (t *transport) CloseIdleConnections() { t.close(0) }

func (t *transport) close(idle time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	left := 0
	for key, h := range t.hosts {
		h.idle = slices.DeleteFunc(h.idle, func(c *conn) bool {
			old := time.Since(c.since) >= idle
			if old {
				_ = c.Close()
			}
			return old
		})
		if left += len(h.idle); h.users == 0 && len(h.idle) == 0 {
			delete(t.hosts, key)
		}
	}
	switch {
	case t.sweep == nil:
	case left > 0:
		t.sweep.Reset(idleTime / 2)
	default:
		t.sweep.Stop()
		t.sweep = nil
	}
}

// connectTime bounds how long a connection may take that is to serve for d.
func connectTime(d time.Duration) time.Duration { return min(d, 5*time.Second) }
