package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

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
	root.OnConnect(h.enter)
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
type ioSocket struct{ *socketio.Socket }

func (s ioSocket) deliver(d *delivery) {
	if m := d.socketIO(); m != nil {
		s.Send(m)
	}
}

func (s ioSocket) cut(reason string) { s.Cut(reason) }
func (s ioSocket) queued() int       { return s.Queued() }
func (s ioSocket) transport() string { return s.Transport() }

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
	PID    string   `json:"pid"`
	Offset string   `json:"offset"`
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
	if auth.Rooms == nil {
		auth.Rooms = roomsOf(query["rooms"], query["room"])
	}
	adm, err := h.sockets.admit(h.ctx, arrival{Credential: auth.Token, Remote: r.RemoteAddr, Origin: r.Header.Get("Origin"),
		Rooms: auth.Rooms, PID: auth.PID, Offset: auth.Offset, Sessions: true})
	if err != nil {
		return &socketio.ConnectError{Message: publicText(err)}
	}
	s.SetID(adm.socket.id)
	if adm.socket.session != nil {
		s.SetPID(adm.socket.session.PID)
	}
	s.Data = adm
	return nil
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

func (h *socketioHTTP) enter(s *socketio.Socket) {
	adm, ok := s.Data.(*admission)
	if !ok {
		s.Cut(reasonDenied)
		return
	}
	sock := adm.socket
	s.OnDisconnect(func(reason string) { h.sockets.left(sock, reason) })
	for _, name := range []string{"join", "join-room"} {
		s.On(name, h.roomHandler(sock, h.sockets.join))
	}
	for _, name := range []string{"leave", "leave-room"} {
		s.On(name, h.roomHandler(sock, h.sockets.leave))
	}
	h.sockets.enter(adm, ioSocket{s})
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
