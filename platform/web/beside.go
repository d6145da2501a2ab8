package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/logs"
)

// Beside is a listener beside the one port, for a protocol whose clients can
// show no credential and expect the root of a host for themselves. None of the
// gates of a Server stand before its handler: it has no routes, no keys, no
// metrics and no access log. It keeps the limits of a Server and ends as one
// does.
//
// Whoever can reach the address can speak to the handler, and on a loopback
// address that is every page in a browser of that machine: a handler of
// WebSockets looks at Origin.
type Beside struct {
	cfg     BesideConfig
	log     *slog.Logger
	handler http.Handler
	l       *besideListener
	active  atomic.Int64 // requests being answered, hijacked ones too
}

// BesideConfig holds the limits of a Beside. A zero value means the default of
// that field, which is that of Config.
type BesideConfig struct {
	Log      *slog.Logger // nothing is logged without
	MaxConns int          // open connections, sockets included; 1000. One more is answered 503 and closed

	ReadHeaderTimeout time.Duration // time to send a request header; 5 s
	ReadTimeout       time.Duration // time to send a request body; 30 s
	WriteTimeout      time.Duration // time for an answer; 60 s. Hijacked connections have none; a stream lifts it by http.ResponseController
	IdleTimeout       time.Duration // time an unused connection is kept; 2 min
	MaxHeader         int           // bytes of a request header; 64 KiB
	MaxBody           int64         // bytes of a request body; 8 MiB
}

func (c BesideConfig) withDefaults() BesideConfig {
	def, _ := Config{}.withDefaults() // nothing is wrong with the defaults
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	or(&c.MaxConns, 1000)
	or(&c.ReadHeaderTimeout, def.ReadHeaderTimeout)
	or(&c.ReadTimeout, def.ReadTimeout)
	or(&c.WriteTimeout, def.WriteTimeout)
	or(&c.IdleTimeout, def.IdleTimeout)
	or(&c.MaxHeader, int(def.MaxHeader))
	or(&c.MaxBody, int64(def.MaxBody))
	return c
}

// Loopback tells whether addr (host:port) can be reached from this machine
// alone: localhost, 127.0.0.0/8 or ::1. Any other name is false, and so is an
// empty host, which stands for every address.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// ListenBeside binds addr (host:port) at once, so that a port that is taken
// fails the start. It accepts nothing before Serve. The error is one line that
// names the address: errs.Invalid for an address that is none, else
// errs.Unavailable.
func ListenBeside(addr string, h http.Handler, cfg BesideConfig) (*Beside, error) {
	cfg = cfg.withDefaults()
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, errs.New(errs.Invalid, "listen on %q: want host:port", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		kind := errs.Unavailable
		var name *net.DNSError
		var syntax *net.AddrError
		if errors.As(err, &name) || errors.As(err, &syntax) {
			kind = errs.Invalid
		}
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			err = op.Err // without the address once more
		}
		return nil, errs.Wrap(kind, err, "listen on %s", addr)
	}
	b := &Beside{cfg: cfg, log: logs.For(cfg.Log, "web"), handler: h}
	b.l = &besideListener{Listener: l, log: b.log, limit: cfg.MaxConns, open: map[*besideConn]struct{}{}}
	return b, nil
}

// Addr is the host:port that is bound.
func (b *Beside) Addr() string { return b.l.Addr().String() }

// Close gives the address back when Serve was never called. After Serve it
// does nothing.
func (b *Beside) Close() error {
	if err := b.l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("web: close %s: %w", b.Addr(), err)
	}
	return nil
}

// Serve answers requests until ctx ends, once. Then it stops accepting, and
// waits at most for timeout until the handlers have returned, those of hijacked
// connections included; what is left is cut off and logged. The context of
// every request ends with ctx, so that a handler of a socket learns of the
// stop. It returns nil after a stop, whether or not something was cut off.
func (b *Beside) Serve(ctx context.Context, timeout time.Duration) error {
	base, end := context.WithCancel(ctx)
	defer end()
	srv := &http.Server{
		Handler:           http.HandlerFunc(b.serve),
		ReadHeaderTimeout: b.cfg.ReadHeaderTimeout,
		WriteTimeout:      b.cfg.WriteTimeout,
		IdleTimeout:       b.cfg.IdleTimeout,
		MaxHeaderBytes:    b.cfg.MaxHeader,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
	}
	srv.ErrorLog.SetFlags(0)
	srv.ErrorLog.SetOutput(connLog{b.log})

	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(b.l) }()
	var fault error
	select {
	case fault = <-failed:
		end()
	case <-ctx.Done():
	}
	patience, done := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer done()
	err := srv.Shutdown(patience)
	if err == nil {
		err = idle(patience, &b.active)
	}
	if left := b.active.Load(); err != nil && left > 0 {
		b.log.Warn("requests were cut off", "requests", left)
	}
	_ = srv.Close()
	b.l.cut() // http.Server does not know hijacked connections
	if err != nil {
		moment, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		_ = idle(moment, &b.active)
		done()
	}
	if fault == nil {
		fault = <-failed
	}
	if !errors.Is(fault, http.ErrServerClosed) {
		return fmt.Errorf("web: serve %s: %w", b.Addr(), fault)
	}
	return nil
}

// serve answers one request.
func (b *Beside) serve(w http.ResponseWriter, r *http.Request) {
	b.active.Add(1)
	defer b.active.Add(-1)
	x := &besideWriter{ResponseWriter: w}
	if r.Body != nil && r.Body != http.NoBody {
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(b.cfg.ReadTimeout))
		r.Body = &besideBody{ReadCloser: http.MaxBytesReader(w, r.Body, b.cfg.MaxBody), rc: rc}
	}
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if v != http.ErrAbortHandler {
			b.log.Error("handler panicked", "panic", v, "stack", string(debug.Stack()))
		}
		switch {
		case x.conn != nil:
			_ = x.conn.Close()
		case x.begun || v == http.ErrAbortHandler:
			panic(http.ErrAbortHandler) // cuts the connection without a word
		default:
			Problem(w, r, http.StatusInternalServerError, "an internal error occurred")
		}
	}()
	b.handler.ServeHTTP(x, r)
}

// besideWriter remembers what can no longer be answered.
type besideWriter struct {
	http.ResponseWriter
	begun bool
	conn  net.Conn // set once hijacked
}

// WriteHeader implements http.ResponseWriter.
func (x *besideWriter) WriteHeader(status int) {
	x.begun = x.begun || status >= 200 || status == http.StatusSwitchingProtocols
	x.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (x *besideWriter) Write(p []byte) (int, error) {
	x.begun = true
	return x.ResponseWriter.Write(p)
}

// Flush implements http.Flusher, for libraries that ask for it directly.
func (x *besideWriter) Flush() { _ = x.FlushError() }

// FlushError sends what was written so far.
func (x *besideWriter) FlushError() error {
	x.begun = true
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// Hijack implements http.Hijacker.
func (x *besideWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err == nil {
		x.conn = conn
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController set deadlines on the connection.
func (x *besideWriter) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// besideBody lifts the read deadline at the end of the body, so that it does
// not cut off a long answer.
type besideBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (b *besideBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// besideListener bounds the connections and remembers the open ones.
type besideListener struct {
	net.Listener
	log   *slog.Logger
	limit int

	mu     sync.Mutex
	open   map[*besideConn]struct{}
	closed bool      // cut: nothing is let in any more
	warned time.Time // when the limit was last logged
}

// Accept waits for a connection within the limit. One above it is turned away
// and not left to wait, for it would wait as long as those before it stay.
func (l *besideListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.admit(conn); c != nil {
			return c, nil
		}
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second)) // the buffer of a new connection takes it at once
		_, _ = io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		_ = conn.Close()
	}
}

func (l *besideListener) admit(conn net.Conn) *besideConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	if len(l.open) >= l.limit {
		if now := time.Now(); now.Sub(l.warned) > time.Minute {
			l.warned = now
			l.log.Warn("connections are turned away: too many are open", "limit", l.limit)
		}
		return nil
	}
	c := &besideConn{Conn: conn, l: l}
	l.open[c] = struct{}{}
	return c
}

// cut closes every connection, whoever holds it.
func (l *besideListener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for c := range l.open {
		_ = c.Conn.Close()
	}
	clear(l.open)
}

// besideConn counts until it is closed.
type besideConn struct {
	net.Conn
	l *besideListener
}

// Close closes the connection and gives its place free.
func (c *besideConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets net/http end an answer before the client's request is over.
func (c *besideConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
