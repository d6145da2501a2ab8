// Package socketio is a Socket.IO server: Engine.IO protocol 4 over long
// polling and WebSocket, and Socket.IO protocol 5 on it, as the stock clients of
// version 3 and 4 speak them (https://socket.io/docs/v4/engine-io-protocol/ and
// https://socket.io/docs/v4/socket-io-protocol/).
//
// All that is called for one session (middleware, connect, event,
// acknowledgement and disconnect handlers of all its sockets) is called one
// after another, in the order of what the client sent. Handlers may wait: only
// their own client waits with them. Nothing that sends ever waits; a client that
// does not take what it is sent is cut with [ReasonSlowConsumer].
package socketio

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"switchboard/modules/gateway/internal/wsconn"
)

// Why a session or a socket ended, as the reference server names it. Hooks get
// one of these, or what the caller of Cut said.
const (
	ReasonTransportClose = "transport close"
	ReasonTransportError = "transport error"
	ReasonPingTimeout    = "ping timeout"
	ReasonParseError     = "parse error"
	ReasonClientLeft     = "client namespace disconnect"
	ReasonServerLeft     = "server namespace disconnect"
	ReasonForcedClose    = "forced close" // no namespace was joined in time
	ReasonSlowConsumer   = "slow consumer"
	ReasonShutdown       = "server shutting down"
)

// Errors of sending.
var (
	ErrNotConnected = errors.New("socketio: socket is not connected")
	ErrTimeout      = errors.New("socketio: no acknowledgement in time")
	ErrReservedName = errors.New("socketio: reserved event name")
)

// Config of a server; the zero value of a field is its default.
type Config struct {
	PingInterval   time.Duration // between heartbeats; 25 s
	PingTimeout    time.Duration // for a heartbeat's answer; 20 s
	ConnectTimeout time.Duration // to join a first namespace; 45 s
	UpgradeTimeout time.Duration // from the new WebSocket to the end of the upgrade; 10 s
	MaxPayload     int           // bytes of a packet or a request body from a client; 1,000,000
	MaxQueue       int           // bytes waiting for one client; the packet that reaches it is still taken; 1 MiB
	MaxConns       int           // sessions; beyond it a handshake is answered 503; 0: no limit
	WriteTimeout   time.Duration // a client that takes nothing for so long is cut; 10 s
	Writers        int           // writing loops; 1

	// AllowOrigin decides about a request that carries an Origin header; nil
	// allows the request's own host alone. Used for CORS and for WebSockets.
	AllowOrigin func(r *http.Request) bool
	Path        string // /socket.io/; other paths are answered 404
	Pids        bool   // CONNECT answers carry a pid: clients then offer recovery

	Opened func(transport string)         // a session began
	Closed func(transport, reason string) // a session ended, after its disconnect handlers
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&c.PingInterval, 25 * time.Second},
		{&c.PingTimeout, 20 * time.Second},
		{&c.ConnectTimeout, 45 * time.Second},
		{&c.UpgradeTimeout, 10 * time.Second},
		{&c.WriteTimeout, 10 * time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if c.MaxPayload <= 0 {
		c.MaxPayload = 1_000_000
	}
	if c.MaxQueue <= 0 {
		c.MaxQueue = 1 << 20
	}
	if c.Path == "" {
		c.Path = "/socket.io/"
	}
	if c.AllowOrigin == nil {
		c.AllowOrigin = sameOrigin
	}
	return c
}

func sameOrigin(r *http.Request) bool {
	u, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// Server serves Engine.IO and Socket.IO as an http.Handler.
type Server struct {
	c       Config
	writers *wsconn.Writers
	message func(s *Session, data []byte, binary bool)
	wg      sync.WaitGroup // one for each session, until its handlers are done, and each reading goroutine

	mu         sync.RWMutex
	closing    bool
	conns      int // sessions, and handshakes on their way to be one
	sessions   map[string]*Session
	namespaces map[string]*Namespace
}

// New makes a server and starts its writers, which Close ends.
func New(c Config) *Server {
	return &Server{
		c:          c.withDefaults(),
		writers:    wsconn.NewWriters(c.Writers),
		sessions:   map[string]*Session{},
		namespaces: map[string]*Namespace{"/": {name: "/"}},
	}
}

// Close refuses new sessions, ends all sessions with ReasonShutdown and waits
// until their handlers are done or ctx is.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	var open []*Session
	for _, sess := range s.sessions { // some may have ended already
		open = append(open, sess)
	}
	s.mu.Unlock()
	for _, sess := range open {
		sess.end(ReasonShutdown)
	}
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		s.writers.Close()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Conns is the number of sessions whose handlers are not yet done.
func (s *Server) Conns() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.conns
}

// Of returns the namespace of a name ("/", "/admin"), made where there was none;
// "/" always exists.
func (s *Server) Of(name string) *Namespace {
	if !strings.HasPrefix(name, "/") {
		name = "/" + name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.namespaces[name]
	if n == nil {
		n = &Namespace{name: name}
		s.namespaces[name] = n
	}
	return n
}

// HandleMessage makes the server one of bare Engine.IO: each message goes to f,
// and no Socket.IO is spoken. data is only valid during the call. To be called
// before the first request.
func (s *Server) HandleMessage(f func(s *Session, data []byte, binary bool)) { s.message = f }

func (s *Server) namespace(name string) *Namespace {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.namespaces[name]
}

func (s *Server) session(id string) *Session {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sessions[id]
}

// errFull and errClosing refuse a handshake.
var (
	errFull    = errors.New("too many connections")
	errClosing = errors.New(ReasonShutdown)
)

// reserve takes a place for a session, which open fills or release gives back.
func (s *Server) reserve() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return errClosing
	case s.c.MaxConns > 0 && s.conns >= s.c.MaxConns:
		return errFull
	}
	s.conns++
	s.wg.Add(1)
	return nil
}

func (s *Server) release() {
	s.mu.Lock()
	s.conns--
	s.mu.Unlock()
	s.wg.Done()
}

// enter makes a session known, unless the server was closed meanwhile.
func (s *Server) enter(sess *Session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.sessions[sess.id] = sess
	return true
}

func (s *Server) forget(sess *Session) {
	s.mu.Lock()
	delete(s.sessions, sess.id)
	s.mu.Unlock()
}

// Namespace is a set of sockets with their own middleware and handlers.
type Namespace struct {
	name string

	mu      sync.RWMutex
	checks  []func(*Socket) error
	connect []func(*Socket)
}

// Name with its slash.
func (n *Namespace) Name() string { return n.name }

// Use adds a check that runs before a socket is connected; an error refuses it
// with a CONNECT_ERROR packet. Message and data of a *[ConnectError] are sent as
// they are; any other error is told the client as "Internal error".
func (n *Namespace) Use(f func(*Socket) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.checks = append(n.checks[:len(n.checks):len(n.checks)], f)
}

// OnConnect adds a function that runs when a socket is connected and its CONNECT
// answer is queued: what it emits comes after that answer, and the handlers that
// it registers see the client's first packet.
func (n *Namespace) OnConnect(f func(*Socket)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.connect = append(n.connect[:len(n.connect):len(n.connect)], f)
}

func (n *Namespace) hooks() ([]func(*Socket) error, []func(*Socket)) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.checks, n.connect
}

// ConnectError refuses a connection with a message for the client, and data
// (left out if nil) that encoding/json takes.
type ConnectError struct {
	Message string
	Data    any
}

func (e *ConnectError) Error() string { return e.Message }
