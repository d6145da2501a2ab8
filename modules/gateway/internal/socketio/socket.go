package socketio

import (
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	stateNew int32 = iota
	stateConnected
	stateGone
)

// Handler of an event. ack is nil if the client asked for none.
type Handler func(args Args, ack Ack)

// Ack answers a client's request for an acknowledgement, from any goroutine;
// args as in [Socket.Emit]. Only the first call sends one.
type Ack func(args ...any) error

// Socket is a client's connection to one namespace. Its handlers are set in
// OnConnect functions (or later, which may miss events); all else may be called
// by any goroutine.
type Socket struct {
	// Data is the user's own; the package does not touch it.
	Data any

	sess        *Session
	nsp         *Namespace
	id, pid     string
	auth        json.RawMessage
	connectedAt time.Time
	state       atomic.Int32

	mu           sync.Mutex
	handlers     []namedHandler
	any          func(event string, args Args, ack Ack)
	disconnected []func(reason string)
	acks         map[uint64]*pendingAck
	lastAck      uint64
}

type namedHandler struct {
	event string
	f     Handler
}

type pendingAck struct {
	f     func(Args, error)
	timer *time.Timer // nil: no timeout
}

func newSocket(s *Session, n *Namespace, auth json.RawMessage) *Socket {
	k := &Socket{sess: s, nsp: n, id: newID(), auth: auth}
	if s.srv.c.Pids {
		k.pid = newID()
	}
	return k
}

// ID is the socket's public id.
func (s *Socket) ID() string { return s.id }

// SetID sets the id of a socket that is being checked by a Use function: one
// that is recovered keeps its old id.
func (s *Socket) SetID(id string) {
	if s.state.Load() == stateNew {
		s.id = id
	}
}

// PID is the socket's private id for recovery; empty without Config.Pids.
func (s *Socket) PID() string { return s.pid }

// SetPID sets the pid of a socket that is being checked by a Use function; a
// client that finds the pid that it had takes itself for recovered.
func (s *Socket) SetPID(pid string) {
	if s.state.Load() == stateNew {
		s.pid = pid
	}
}

// Auth is what the client sent with its CONNECT packet, an object; {} if nothing.
// A client that wants to recover sends "pid" and "offset" in it.
func (s *Socket) Auth() json.RawMessage {
	if s.auth == nil {
		return json.RawMessage("{}")
	}
	return s.auth
}

// Request is the session's handshake request; not to be changed.
func (s *Socket) Request() *Request { return s.sess.req }

// Session is the socket's session, which sockets of other namespaces may share.
func (s *Socket) Session() *Session { return s.sess }

// Namespace is where the socket is connected.
func (s *Socket) Namespace() *Namespace { return s.nsp }

// Connected reports whether the socket can be sent to.
func (s *Socket) Connected() bool { return s.state.Load() == stateConnected }

// ConnectedAt is when the CONNECT answer was queued.
func (s *Socket) ConnectedAt() time.Time { return s.connectedAt }

// Queued is how many bytes wait for the client, of all its namespaces.
func (s *Socket) Queued() int { return s.sess.queued() }

// Transport is "polling" or "websocket".
func (s *Socket) Transport() string { return s.sess.transport() }

// On sets the handler of an event.
func (s *Socket) On(event string, f Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers = slices.DeleteFunc(s.handlers, func(h namedHandler) bool { return h.event == event })
	s.handlers = append(s.handlers, namedHandler{event, f})
}

// OnAny sets the handler of all events that have none of their own.
func (s *Socket) OnAny(f func(event string, args Args, ack Ack)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.any = f
}

// OnDisconnect adds a function that runs once, when a connected socket has gone,
// or, if a Use function adds it, when the client is gone before it was told that it
// is connected.
func (s *Socket) OnDisconnect(f func(reason string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disconnected = append(s.disconnected, f)
}

// Emit queues an event. An argument is a json.RawMessage (sent as it is), a
// []byte (sent as a binary attachment), an [Args] (spread out: an echo), or
// anything else that encoding/json takes.
func (s *Socket) Emit(event string, args ...any) error {
	m, err := EncodeMessage(s.nsp.name, event, args...)
	if err != nil {
		return err
	}
	if !s.Send(m) {
		return ErrNotConnected
	}
	return nil
}

// EmitWithAck queues an event that asks for an acknowledgement. f gets it, or
// ErrTimeout (timeout 0: never), or ErrNotConnected; exactly once, unless an
// error is returned.
func (s *Socket) EmitWithAck(event string, timeout time.Duration, f func(Args, error), args ...any) error {
	if ReservedName(event) {
		return ErrReservedName
	}
	a := &pendingAck{f: f}
	s.mu.Lock()
	if s.state.Load() != stateConnected {
		s.mu.Unlock()
		return ErrNotConnected
	}
	id := s.lastAck
	s.lastAck++
	m, err := newPacket(typeEvent, s.nsp.name, id, true, &event, args)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	if s.acks == nil {
		s.acks = map[uint64]*pendingAck{}
	}
	s.acks[id] = a
	if timeout > 0 {
		a.timer = time.AfterFunc(timeout, func() {
			s.sess.later(func() { s.acknowledged(id, Args{}, ErrTimeout) })
		})
	}
	s.mu.Unlock()
	s.Send(m) // a socket that has gone has its acknowledgements failed
	return nil
}

// acknowledged hands an acknowledgement to who waits for it, if anybody does.
func (s *Socket) acknowledged(id uint64, args Args, err error) {
	s.mu.Lock()
	a := s.acks[id]
	delete(s.acks, id)
	s.mu.Unlock()
	if a == nil {
		return
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	a.f(args, err)
}

// Send queues a prepared message, which must be of the socket's namespace, and
// reports whether it was taken. It never waits.
func (s *Socket) Send(m *Message) bool {
	return s.state.Load() == stateConnected && s.sess.send(m)
}

// Disconnect leaves the namespace, or (close) ends the whole session. What was
// sent before still reaches the client.
func (s *Socket) Disconnect(close bool) {
	if close {
		s.sess.mu.Lock()
		sockets := slices.Clone(s.sess.sockets)
		s.sess.mu.Unlock()
		for _, k := range sockets {
			k.leave()
		}
		s.sess.end(ReasonServerLeft)
		return
	}
	if s.leave() {
		s.sess.later(func() {
			if s.sess.drop(s) {
				s.gone(ReasonServerLeft)
			}
		})
	}
}

// leave sends DISCONNECT, once.
func (s *Socket) leave() bool {
	if !s.state.CompareAndSwap(stateConnected, stateGone) {
		return false
	}
	s.sess.send(newMessage(appendHeader(nil, typeDisconnect, 0, s.nsp.name, 0, false), nil))
	return true
}

// Cut ends the whole session at once for a reason, which the hooks get; what is
// still queued is not sent.
func (s *Socket) Cut(reason string) {
	s.sess.end(reason)
}

// receive handles a packet for the socket.
func (s *Socket) receive(p *packet) {
	switch p.typ {
	case typeDisconnect:
		if s.sess.drop(s) {
			s.gone(ReasonClientLeft)
		}
	case typeAck:
		if p.hasID {
			s.acknowledged(p.id, p.args, nil)
		}
	case typeEvent:
		if s.state.Load() != stateConnected {
			return
		}
		s.dispatch(p)
	}
}

func (s *Socket) dispatch(p *packet) {
	s.mu.Lock()
	var f Handler
	for _, h := range s.handlers {
		if h.event == p.event {
			f = h.f
		}
	}
	other := s.any
	s.mu.Unlock()
	if f == nil && other == nil {
		return
	}
	var ack Ack
	if p.hasID {
		var once atomic.Bool
		ack = func(args ...any) error {
			m, err := newPacket(typeAck, s.nsp.name, p.id, true, nil, args)
			if err != nil {
				return err
			}
			if once.Swap(true) {
				return nil
			}
			if !s.Send(m) {
				return ErrNotConnected
			}
			return nil
		}
	}
	if f != nil {
		f(p.args, ack)
		return
	}
	other(p.event, p.args, ack)
}

// gone runs the disconnect handlers and fails what waits for acknowledgements.
func (s *Socket) gone(reason string) {
	s.state.Store(stateGone)
	s.mu.Lock()
	handlers, acks := s.disconnected, s.acks
	s.disconnected, s.acks = nil, nil
	s.mu.Unlock()
	for _, a := range acks {
		if a.timer != nil {
			a.timer.Stop()
		}
		a.f(Args{}, ErrNotConnected)
	}
	for _, f := range handlers {
		f(reason)
	}
}

// drop takes a socket off its session and reports whether it was there.
func (s *Session) drop(k *Socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.sockets, k)
	if i < 0 {
		return false
	}
	s.sockets = slices.Delete(s.sockets, i, i+1)
	return true
}
