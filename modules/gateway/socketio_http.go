package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync/atomic"

	"switchboard/modules/gateway/internal/socketio"
	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// socketioHTTP serves
//
//	/socket.io/ Socket.IO protocol 5 over Engine.IO 4: websocket and polling
type socketioHTTP struct {
	cfg     *Config
	sockets *socketService
	engine  *socketio.Server
	ctx     context.Context // of the handlers; ends when the engine has stopped
	end     context.CancelFunc
}

func newSocketioHTTP(cfg *Config, sockets *socketService) *socketioHTTP {
	h := &socketioHTTP{cfg: cfg, sockets: sockets, engine: socketio.New(socketio.Config{
		Path: "/socket.io/", PingInterval: cfg.PingInterval, PingTimeout: cfg.PingTimeout,
		MaxPayload: int(cfg.MaxPayload), MaxQueue: int(cfg.MaxQueue), MaxConns: cfg.MaxSockets, WriteTimeout: cfg.WriteTimeout,
		Pids:        cfg.Recovery > 0,
		AllowOrigin: func(r *http.Request) bool { return cfg.allowsOrigin(r.Header.Get("Origin")) },
	})}
	h.ctx, h.end = context.WithCancel(context.Background())
	root := h.engine.Of("/")
	root.Use(h.admit)
	root.OnConnect(h.open)
	return h
}

func (h *socketioHTTP) routes(r *web.Router) {
	r.Handle(web.Op{Path: "/socket.io/", Tag: tag, Scope: "gateway:connect", OwnAuth: true, Stream: true},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if ip := web.ClientIP(r); ip != "" {
				r = r.WithContext(r.Context())
				r.RemoteAddr = ip
			}
			h.engine.ServeHTTP(w, r)
		}))
}

// stop closes all connections and waits for them.
func (h *socketioHTTP) stop(ctx context.Context) error {
	defer h.end()
	return h.engine.Close(ctx)
}

// ioSocket is a receiver at the end of a Socket.IO connection.
type ioSocket struct {
	*socketio.Socket
	why atomic.Pointer[string] // it was cut, if it was
}

func (s *ioSocket) deliver(d *delivery) {
	if m := d.socketIO(); m != nil {
		s.Send(m)
	}
}

// cut tells the client where it is not to come back by itself: stock clients
// connect again after all but a DISCONNECT packet.
func (s *ioSocket) cut(reason string) {
	s.why.CompareAndSwap(nil, &reason)
	if reason == reasonAdmin || reason == reasonDenied {
		s.Disconnect(true)
		return
	}
	s.Cut(reason)
}

func (s *ioSocket) queued() int       { return s.Queued() }
func (s *ioSocket) transport() string { return s.Transport() }

// roomList is rooms at the handshake: a list, or a text with commas.
type roomList []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *roomList) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*l = roomsOf([]string{one}, nil)
		return nil
	}
	var many []string
	if err := json.Unmarshal(text, &many); err != nil {
		return err
	}
	*l = roomsOf(nil, many)
	return nil
}

// handshake is what a client says when it connects to a namespace. A pid and an
// offset are of a connection that it has lost.
type handshake struct {
	Token  string   `json:"token"`
	Rooms  roomList `json:"rooms"`
	PID    textOnly `json:"pid"`
	Offset textOnly `json:"offset"`
}

// textOnly is a text, and empty for any other value: no client of ours said it.
type textOnly string

// UnmarshalJSON implements json.Unmarshaler.
func (t *textOnly) UnmarshalJSON(text []byte) error {
	if json.Unmarshal(text, (*string)(t)) != nil {
		*t = ""
	}
	return nil
}

// admit is the middleware that runs before the client is told that it is
// connected.
func (h *socketioHTTP) admit(s *socketio.Socket) error {
	var auth handshake
	if err := json.Unmarshal(s.Auth(), &auth); err != nil {
		return &socketio.ConnectError{Message: "auth is an object with token and rooms"}
	}
	r := s.Request()
	query := r.URL.Query()
	if auth.Token == "" {
		auth.Token = web.Credential(&http.Request{Header: r.Header, URL: r.URL})
	}
	auth.Rooms = roomsOf(query["rooms"], append(query["room"], auth.Rooms...))
	who := arrival{Credential: auth.Token, Remote: r.RemoteAddr, Origin: foreignOrigin(r.Header.Get("Origin"), r.Host),
		Rooms: auth.Rooms, PID: string(auth.PID), Offset: string(auth.Offset), Sessions: true}
	for {
		adm, err := h.sockets.admit(h.ctx, who)
		if err != nil {
			return &socketio.ConnectError{Message: publicText(err)}
		}
		if h.enter(s, adm) {
			return nil
		}
		who.PID = ""
	}
}

// enter gives an admitted socket its ids and puts it into its rooms.
func (h *socketioHTTP) enter(s *socketio.Socket, adm *admission) bool {
	out := &ioSocket{Socket: s}
	if !h.sockets.enter(adm, out) {
		return false
	}
	s.OnDisconnect(func(reason string) {
		if why := out.why.Load(); why != nil {
			reason = *why
		}
		h.sockets.left(adm.socket, reason)
	})
	s.SetID(adm.socket.id)
	if adm.socket.session != nil {
		s.SetPID(adm.socket.session.PID)
	}
	s.Data = adm
	return true
}

// publicText is what a client may read of an error.
func publicText(err error) string {
	var e *errs.Error
	if errors.As(err, &e) && e.Kind != errs.Internal {
		return e.Text
	}
	return "internal error"
}

// roomRequest is the argument of join and leave: a name, or an object with it.
type roomRequest struct {
	Room string `json:"room"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *roomRequest) UnmarshalJSON(text []byte) error {
	if json.Unmarshal(text, &r.Room) == nil {
		return nil
	}
	type object roomRequest
	return json.Unmarshal(text, (*object)(r))
}

// roomAnswer acknowledges a join or leave.
type roomAnswer struct {
	OK    bool   `json:"ok"`
	Room  string `json:"room,omitempty"`
	Error string `json:"error,omitempty"`
}

// open is told of a socket that is connected, right after its client was.
func (h *socketioHTTP) open(s *socketio.Socket) {
	adm, ok := s.Data.(*admission)
	if !ok {
		s.Cut(reasonDenied)
		return
	}
	sock := adm.socket
	for _, name := range []string{"join", "join-room"} {
		s.On(name, h.roomHandler(sock, h.sockets.join))
	}
	for _, name := range []string{"leave", "leave-room"} {
		s.On(name, h.roomHandler(sock, h.sockets.leave))
	}
	h.sockets.open(adm)
}

func (h *socketioHTTP) roomHandler(sock *socket, do func(context.Context, *socket, string) string) func(socketio.Args, socketio.Ack) {
	return func(args socketio.Args, ack socketio.Ack) {
		var r roomRequest
		answer := roomAnswer{Error: "a room's name is needed: \"name\" or {\"room\":\"name\"}"}
		if args.Len() > 0 && args.Decode(0, &r) == nil {
			answer = roomAnswer{OK: true, Room: r.Room}
			if fault := do(h.ctx, sock, r.Room); fault != "" {
				answer = roomAnswer{Error: fault}
			}
		}
		if ack != nil {
			ack(answer)
		}
	}
}
