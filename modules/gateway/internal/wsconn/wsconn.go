// Package wsconn is the server's side of a WebSocket connection (RFC 6455) for
// many connections that are mostly idle and sometimes all written to at once.
//
// An outgoing message is a [Frame], encoded once and shared by all receivers.
// [Conn.Send] puts it into the connection's queue, which is bounded in bytes,
// and never waits. A writer of the shared [Writers] takes all that gathered for
// a connection and writes it with one system call that does not wait either;
// only a connection that takes less than it was given gets a goroutine of its
// own, with a deadline. A receiver that is too slow for its queue is cut with
// [ErrSlow].
//
// A connection costs one goroutine, which reads, and holds no buffers while
// nothing arrives.
package wsconn

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gobwas/ws"
)

// Why a connection ended, for [Conn.Err]; a *[CloseError] is the fourth.
var (
	// ErrSlow: the receiver's queue was full, or it took nothing for the write timeout.
	ErrSlow = errors.New("slow consumer")
	// ErrPingTimeout: nothing came back for a ping.
	ErrPingTimeout = errors.New("ping timeout")
	// ErrGone: the TCP connection ended without a closing handshake.
	ErrGone = errors.New("connection gone")
)

// Options of a connection; the zero value of a field is its default.
type Options struct {
	Writers      *Writers      // required; shared by all connections of a server
	MaxMessage   int           // bytes of one incoming message, fragments together; 1 MiB
	MaxQueue     int           // bytes waiting to be sent; the frame that reaches it is still taken; 1 MiB
	WriteTimeout time.Duration // a receiver that takes nothing for so long is cut; 10 s
	CloseTimeout time.Duration // for the rest of the queue and the peer's close frame; 2 s
	PingInterval time.Duration // between pings of this connection; 0: no pings
	PingTimeout  time.Duration // for anything to arrive after a ping; 20 s
	Subprotocols []string      // the first the client offers of these is chosen
}

func (o Options) withDefaults() Options {
	if o.MaxMessage <= 0 {
		o.MaxMessage = 1 << 20
	}
	if o.MaxQueue <= 0 {
		o.MaxQueue = 1 << 20
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = 10 * time.Second
	}
	if o.CloseTimeout <= 0 {
		o.CloseTimeout = 2 * time.Second
	}
	if o.PingTimeout <= 0 {
		o.PingTimeout = 20 * time.Second
	}
	return o
}

// Conn is the server's end of a WebSocket connection. Send, Close, Cut, Err and
// Queued may be called by any goroutine at any time.
type Conn struct {
	nc     net.Conn
	raw    syscall.RawConn // nil where the connection has no system calls of its own (TLS, tests)
	w      *writer
	o      Options
	proto  string
	early  []byte // what the client sent together with its handshake
	parser parser
	chunk  chunk // of the read in progress
	heard  atomic.Bool

	mu       sync.Mutex
	queue    []*Frame
	off      int // bytes of queue[0] that are written
	queued   int // bytes
	dirty    bool
	flushing bool // a flusher has the connection; the writer leaves it alone
	closing  bool // the close frame is the last of the queue
	answered bool // the peer's close frame is here
	deaf     bool // what the peer sends is thrown away
	closed   bool
	pinged   bool
	err      error
	pinger   *time.Timer
	deadline *time.Timer // of the closing handshake
}

// Upgrade answers the WebSocket handshake of r and takes the connection over.
// A request that is no handshake is answered with an HTTP error and returned as
// an error; w must not be used afterwards in either case. The Origin header is
// the caller's to check. The caller must call [Conn.Serve], in a goroutine of
// its own so that the HTTP server's memory for the request is let go; the
// connection may be sent to before that.
func Upgrade(w http.ResponseWriter, r *http.Request, o Options) (*Conn, error) {
	o = o.withDefaults()
	up := ws.HTTPUpgrader{Timeout: o.WriteTimeout}
	if len(o.Subprotocols) > 0 {
		up.Protocol = func(p string) bool {
			for _, s := range o.Subprotocols {
				if s == p {
					return true
				}
			}
			return false
		}
	}
	nc, rw, hs, err := up.Upgrade(r, w)
	if err != nil {
		if nc != nil {
			_ = nc.Close()
		}
		return nil, fmt.Errorf("upgrade to websocket: %w", err)
	}
	var early []byte
	if n := rw.Reader.Buffered(); n > 0 {
		b, _ := rw.Reader.Peek(n)
		early = bytes.Clone(b)
	}
	return newConn(nc, hs.Protocol, early, o), nil
}

func newConn(nc net.Conn, proto string, early []byte, o Options) *Conn {
	c := &Conn{nc: nc, w: o.Writers.next(), o: o, proto: proto, early: early, raw: rawConn(nc)}
	c.parser.max = o.MaxMessage
	if o.PingInterval > 0 {
		c.mu.Lock()
		c.pinger = time.AfterFunc(o.PingInterval, c.tick)
		c.mu.Unlock()
	}
	return c
}

// Subprotocol is the one that was agreed upon; empty if none.
func (c *Conn) Subprotocol() string { return c.proto }

// Queued is how many bytes wait to be taken by the receiver.
func (c *Conn) Queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued
}

// Err says why the connection ended or is ending; nil while it is open.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Send queues a frame and reports whether the connection took it. It never
// waits; a receiver whose queue is full is cut.
func (c *Conn) Send(f *Frame) bool {
	c.mu.Lock()
	if c.closed || c.closing {
		c.mu.Unlock()
		return false
	}
	if c.queued >= c.o.MaxQueue {
		c.mu.Unlock()
		c.Cut(ErrSlow)
		return false
	}
	wake := c.push(f)
	c.mu.Unlock()
	if wake {
		c.w.add(c)
	}
	return true
}

// push appends a frame and reports whether the writer must be told. c.mu is held.
func (c *Conn) push(f *Frame) bool {
	c.queue = append(c.queue, f)
	c.queued += len(f.b)
	if c.dirty || c.flushing {
		return false
	}
	c.dirty = true
	return true
}

// Close sends what is queued and a close frame, and ends the connection when
// the peer answers it or the close timeout passes. It does not wait. Code 0
// sends a close frame without a code.
func (c *Conn) Close(code int, reason string) {
	c.close(&CloseError{Code: code, Reason: reason}, code, reason)
}

func (c *Conn) close(err error, code int, reason string) {
	c.mu.Lock()
	if c.closed || c.closing {
		c.mu.Unlock()
		return
	}
	c.closing = true
	c.err = err
	c.deadline = time.AfterFunc(c.o.CloseTimeout, func() { c.Cut(err) })
	wake := c.push(newCloseFrame(code, reason))
	c.mu.Unlock()
	if wake {
		c.w.add(c)
	}
}

// Cut ends the connection at once, with err as the reason; what was queued is dropped.
func (c *Conn) Cut(err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	if c.err == nil {
		c.err = err
	}
	// The elements stay: a writer may be reading them.
	c.queue, c.queued, c.off = nil, 0, 0
	for _, t := range []*time.Timer{c.pinger, c.deadline} {
		if t != nil {
			t.Stop()
		}
	}
	c.mu.Unlock()
	nc := c.nc
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn() // closing TLS properly would wait for the peer
	}
	if t, ok := nc.(*net.TCPConn); ok && errors.Is(err, ErrSlow) {
		_ = t.SetLinger(0) // or the kernel keeps what the peer does not take
	}
	_ = nc.Close()
}

// tick sends a ping, or ends the connection if none was answered.
func (c *Conn) tick() {
	c.mu.Lock()
	heard := c.heard.Swap(false)
	switch {
	case c.closed || c.closing:
		c.mu.Unlock()
	case c.pinged && !heard:
		c.mu.Unlock()
		c.Cut(ErrPingTimeout)
	case c.pinged:
		c.pinged = false
		c.pinger.Reset(c.o.PingInterval)
		c.mu.Unlock()
	default:
		c.pinged = true
		c.pinger.Reset(c.o.PingTimeout)
		c.mu.Unlock()
		c.Send(pingFrame)
	}
}

func (c *Conn) pong() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pinged && !c.closed {
		c.pinged = false
		c.pinger.Reset(c.o.PingInterval)
	}
}

var pingFrame = newFrame(ws.OpPing, nil)
