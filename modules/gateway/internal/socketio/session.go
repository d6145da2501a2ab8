package socketio

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/modules/gateway/internal/wsconn"
)

const (
	transportPolling   = "polling"
	transportWebsocket = "websocket"
)

// newID is 120 random bits: the id of a session is a secret.
func newID() string {
	var b [15]byte
	_, _ = rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Request is what a session keeps of its handshake request.
type Request struct {
	Header     http.Header // without the headers of the WebSocket handshake
	URL        *url.URL
	Host       string
	RemoteAddr string
}

// Session is one client's Engine.IO session, over polling, a WebSocket, or
// first one and then the other.
type Session struct {
	srv  *Server
	id   string
	req  *Request
	conn atomic.Pointer[wsconn.Conn] // once the session is on a WebSocket

	mu      sync.Mutex
	closed  bool
	reason  string
	poll    *polling    // nil once the session is on a WebSocket
	timer   *time.Timer // heartbeat
	due     time.Time   // when it is to fire: what it is late is not the client's to have
	pinged  bool        // the answer to a ping is due
	connect *time.Timer // until a namespace is joined
	sockets []*Socket

	run     sync.Mutex // held while handlers run; before mu
	partial *packet    // waits for its attachments; under run
}

// polling is the state of a session that polls.
type polling struct {
	queue   []*Message
	bytes   int
	wake    chan struct{} // closed when the poll that waits has something to answer; nil: none waits
	polled  bool          // a poll is being served
	posting bool          // a body is being read or handled
	upgrade bool          // a WebSocket is there
	probed  bool          // and was answered: polls do not wait long any more
	probe   *wsconn.Conn
}

func (s *Server) newSession(r *http.Request, id string) *Session {
	header := r.Header.Clone()
	for _, h := range []string{
		"Connection", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version",
		"Sec-Websocket-Extensions", "Sec-Websocket-Protocol", "Accept", "Accept-Encoding",
	} {
		header.Del(h)
	}
	u := *r.URL
	return &Session{srv: s, id: id, req: &Request{header, &u, r.Host, r.RemoteAddr}}
}

// start arms the session's timers and sends the open packet through send.
func (s *Session) start(transport string, send func(*Message)) {
	upgrades := []string{}
	if transport == transportPolling {
		upgrades = append(upgrades, transportWebsocket)
	}
	open, err := json.Marshal(struct {
		SID          string   `json:"sid"`
		Upgrades     []string `json:"upgrades"`
		PingInterval int64    `json:"pingInterval"`
		PingTimeout  int64    `json:"pingTimeout"`
		MaxPayload   int      `json:"maxPayload"`
	}{
		s.id, upgrades, s.srv.c.PingInterval.Milliseconds(), s.srv.c.PingTimeout.Milliseconds(), s.srv.c.MaxPayload,
	})
	if err != nil {
		panic(err) // a struct of strings and numbers
	}
	s.mu.Lock()
	if !s.closed {
		s.due = time.Now().Add(s.srv.c.PingInterval)
		s.timer = time.AfterFunc(s.srv.c.PingInterval, s.beat)
		if s.srv.message == nil {
			s.connect = time.AfterFunc(s.srv.c.ConnectTimeout, func() { s.end(ReasonForcedClose) })
		}
	}
	s.mu.Unlock()
	send(newMessage(append([]byte{packetOpen}, open...), nil))
	if f := s.srv.c.Opened; f != nil {
		f(transport)
	}
}

// ID is the session's id, a secret of the client.
func (s *Session) ID() string { return s.id }

// Request is the handshake's request; not to be changed.
func (s *Session) Request() *Request { return s.req }

// Send queues one Engine.IO message and reports whether it was taken.
func (s *Session) Send(data []byte, binary bool) bool {
	if binary {
		return s.send(newMessage(nil, [][]byte{data}))
	}
	return s.send(newMessage(append([]byte{packetMessage}, data...), nil))
}

// send queues a packet. A call's packet comes before those of later calls, on
// whatever transport they find the session.
func (s *Session) send(m *Message) bool {
	if c := s.conn.Load(); c != nil {
		return c.Send(m.frame)
	}
	s.mu.Lock()
	if c := s.conn.Load(); c != nil {
		s.mu.Unlock()
		return c.Send(m.frame)
	}
	p := s.poll
	if s.closed || p == nil {
		s.mu.Unlock()
		return false
	}
	if p.bytes >= s.srv.c.MaxQueue {
		s.mu.Unlock()
		s.end(ReasonSlowConsumer)
		return false
	}
	p.queue = append(p.queue, m)
	p.bytes += m.Len()
	p.release()
	s.mu.Unlock()
	return true
}

// release lets the poll that waits look again. The session's mu is held.
func (p *polling) release() {
	if p.wake != nil {
		close(p.wake)
		p.wake = nil
	}
}

func (s *Session) queued() int {
	if c := s.conn.Load(); c != nil {
		return c.Queued()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poll == nil {
		return 0
	}
	return s.poll.bytes
}

func (s *Session) transport() string {
	if s.conn.Load() != nil {
		return transportWebsocket
	}
	return transportPolling
}

// beat sends a ping, or ends the session if the last one was not answered.
func (s *Session) beat() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	if s.pinged {
		s.mu.Unlock()
		s.end(ReasonPingTimeout)
		return
	}
	s.pinged = true
	s.due = s.due.Add(s.srv.c.PingTimeout)
	s.timer.Reset(time.Until(s.due))
	s.mu.Unlock()
	s.send(pingMessage)
}

func (s *Session) pong() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pinged && !s.closed {
		s.pinged = false
		s.due = time.Now().Add(s.srv.c.PingInterval)
		s.timer.Reset(s.srv.c.PingInterval)
	}
}

// end ends the session; the first reason counts. The disconnect handlers run
// once the handler that is running is done.
func (s *Session) end(reason string) {
	if s.shut(reason) {
		go s.finish()
	}
}

// endWith ends the session of a WebSocket that has ended.
func (s *Session) endWith(err error) {
	if s.shut(reasonOf(err)) {
		s.finish()
	}
}

func reasonOf(err error) string {
	var ce *wsconn.CloseError
	switch {
	case errors.Is(err, wsconn.ErrSlow):
		return ReasonSlowConsumer
	case errors.As(err, &ce) && !ce.Peer:
		return ReasonTransportError
	}
	return ReasonTransportClose
}

// shut closes the transports and reports whether the session was open.
func (s *Session) shut(reason string) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.closed, s.reason = true, reason
	for _, t := range []*time.Timer{s.timer, s.connect} {
		if t != nil {
			t.Stop()
		}
	}
	var probe *wsconn.Conn
	lastWords := false
	if p := s.poll; p != nil {
		// One more poll is answered: the one that crossed the client's goodbye,
		// or the one that fetches what was sent before a proper end.
		lastWords = reason == ReasonTransportClose && !p.polled || len(p.queue) > 0 && orderly(reason)
		last := p.probe
		if lastWords {
			time.AfterFunc(s.srv.c.PingTimeout, func() {
				s.srv.forget(s)
				if last != nil {
					last.Close(1000, "")
				}
			})
		}
		// A client that is about to upgrade does not poll any more: it gets the
		// last words by the WebSocket, in switchTo.
		if !lastWords || !p.probed {
			probe = last
		}
		p.release()
	}
	s.mu.Unlock()
	if !lastWords {
		s.srv.forget(s)
	}
	if probe != nil {
		probe.Close(1000, "")
	}
	// A connection that is ending already is left to its closing handshake.
	if c := s.conn.Load(); c != nil && c.Err() == nil {
		switch reason {
		case ReasonShutdown:
			c.Close(1001, reason)
		case ReasonParseError:
			c.Close(1002, reason)
		case ReasonForcedClose, ReasonServerLeft, ReasonPingTimeout:
			c.Close(1000, "")
		case ReasonSlowConsumer:
			c.Cut(wsconn.ErrSlow)
		default:
			c.Cut(wsconn.ErrGone)
		}
	}
	return true
}

// orderly reports whether the client is there to hear of the end.
func orderly(reason string) bool {
	switch reason {
	case ReasonShutdown, ReasonForcedClose, ReasonServerLeft:
		return true
	}
	return false
}

// finish runs the disconnect handlers of a session that was shut.
func (s *Session) finish() {
	defer s.srv.release()
	s.run.Lock()
	defer s.run.Unlock()
	s.mu.Lock()
	sockets := s.sockets
	s.sockets, s.partial = nil, nil
	s.mu.Unlock()
	for _, k := range sockets {
		s.guard(func() { k.gone(s.reason) })
	}
	if f := s.srv.c.Closed; f != nil {
		f(s.transport(), s.reason)
	}
}

// guard keeps a panic of a handler from ending the process: it ends the session.
func (s *Session) guard(f func()) {
	defer func() {
		if v := recover(); v != nil {
			slog.Error("socket.io: panic in a handler", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			s.end(ReasonServerLeft)
		}
	}()
	f()
}

// later runs f in order with the session's handlers, in a goroutine of its own
// because the caller may be one of them. It reports false, and does nothing, if
// the session has ended.
func (s *Session) later(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.srv.wg.Go(func() {
		s.run.Lock()
		defer s.run.Unlock()
		s.guard(f)
	})
	return true
}

// packet handles one packet from the client. binary is a message without a
// type. The error says that the session was ended.
func (s *Session) packet(b []byte, binary bool) error {
	s.run.Lock()
	defer s.run.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return errPacket
	}
	err := errPacket
	switch {
	case binary:
		err = s.deliver(b, true)
	case len(b) == 0:
	case b[0] == packetMessage:
		err = s.deliver(b[1:], false)
	case b[0] == packetPong:
		s.pong()
		err = nil
	case b[0] == packetPing: // of protocol 3
		s.end(ReasonTransportError)
		return errPacket
	case b[0] == packetOpen, b[0] == packetClose, b[0] == packetUpgrade, b[0] == packetNoop:
		err = nil
	}
	if err != nil {
		s.end(ReasonParseError)
	}
	return err
}

// deliver hands a message to whom it is for. run is held.
func (s *Session) deliver(b []byte, binary bool) error {
	if f := s.srv.message; f != nil {
		s.guard(func() { f(s, b, binary) })
		return nil
	}
	p := s.partial
	switch {
	case binary && p == nil, !binary && p != nil:
		return errPacket
	case binary:
		last, err := p.attach(b)
		if err != nil || !last {
			return err
		}
		s.partial = nil
	default:
		var err error
		if p, err = decodePacket(b); err != nil {
			return err
		}
	}
	if p.missing > 0 {
		s.partial = p
		return nil
	}
	if p.typ == typeConnect {
		return s.join(p)
	}
	k := s.socket(p.namespace)
	if k == nil {
		return errPacket
	}
	s.guard(func() { k.receive(p) })
	return nil
}

func (s *Session) socket(namespace string) *Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.sockets {
		if k.nsp.name == namespace {
			return k
		}
	}
	return nil
}

// join connects the session to a namespace. run is held.
func (s *Session) join(p *packet) error {
	if s.socket(p.namespace) != nil {
		return errPacket
	}
	n := s.srv.namespace(p.namespace)
	if n == nil {
		s.refuse(p.namespace, &ConnectError{Message: "Invalid namespace"})
		return nil
	}
	k := newSocket(s, n, p.auth)
	s.guard(func() { s.admit(k) })
	return nil
}

func (s *Session) admit(k *Socket) {
	checks, connect := k.nsp.hooks()
	for _, check := range checks {
		if err := check(k); err != nil {
			k.state.Store(stateGone)
			s.refuse(k.nsp.name, err)
			return
		}
	}
	if !s.enter(k) { // the client is gone already
		k.gone(ReasonTransportClose)
		return
	}
	for _, f := range connect {
		f(k)
	}
}

// enter makes a socket known and queues the CONNECT answer.
func (s *Session) enter(k *Socket) bool {
	answer := struct {
		SID string `json:"sid"`
		PID string `json:"pid,omitempty"`
	}{k.id, k.pid}
	b, err := appendJSON(appendHeader(nil, typeConnect, 0, k.nsp.name, 0, false), answer)
	if err != nil {
		panic(err) // a struct of strings
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	if s.connect != nil {
		s.connect.Stop()
		s.connect = nil
	}
	s.sockets = append(s.sockets, k)
	k.connectedAt = time.Now()
	s.mu.Unlock()
	s.send(newMessage(b, nil))
	k.state.Store(stateConnected)
	return true
}

// refuse answers CONNECT with an error.
func (s *Session) refuse(namespace string, err error) {
	answer := struct {
		Message string `json:"message"`
		Data    any    `json:"data,omitempty"`
	}{Message: "Internal error"}
	var ce *ConnectError
	if errors.As(err, &ce) {
		answer.Message, answer.Data = ce.Message, ce.Data
	} else {
		slog.Error("socket.io: middleware failed", "namespace", namespace, "error", err)
	}
	b := appendHeader(nil, typeConnectError, 0, namespace, 0, false)
	b, err = appendJSON(b, answer)
	if err != nil {
		slog.Error("socket.io: connect error cannot be encoded", "namespace", namespace, "error", err)
		s.end(ReasonServerLeft)
		return
	}
	s.send(newMessage(b, nil))
}
