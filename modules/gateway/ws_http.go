package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"

	"switchboard/modules/gateway/internal/wsconn"
	"switchboard/platform/auth"
	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// wsHTTP serves
//
//	GET /gateway/ws events for clients without Socket.IO, over a plain WebSocket (RFC 6455)
//
// in text frames of JSON. The client says {"type":"join","room":…,"ref":…},
// "leave" and "ping"; the server says "welcome", "ack", "event", "gap" and "pong".
type wsHTTP struct {
	cfg     *Config
	sockets *socketService
	writers *wsconn.Writers

	mu      sync.Mutex
	open    map[*wsconn.Conn]bool
	stopped bool
	serving sync.WaitGroup
}

func (h *wsHTTP) routes(r *web.Router) {
	r.Handle(web.Op{ID: "gateway-ws", Method: http.MethodGet, Path: "/gateway/ws", Tag: tag,
		Summary: "Receive events over a plain WebSocket",
		Description: "Credential as a header, `?key=` or `?token=`; first rooms as `?rooms=a,b`; after a lost connection `?offset=` with the last event's offset " +
			"delivers what was missed, or a frame of type `gap` says that it cannot.",
		Scope: "gateway:connect", OwnAuth: true, Stream: true, Status: http.StatusSwitchingProtocols, Errors: []int{401, 403, 503},
	}, http.HandlerFunc(h.get))
}

// plainSocket is a receiver at the end of a plain WebSocket.
type plainSocket struct{ conn *wsconn.Conn }

func (p plainSocket) deliver(d *delivery) { p.conn.Send(d.plain()) }
func (p plainSocket) queued() int         { return p.conn.Queued() }
func (p plainSocket) transport() string   { return "plain" }

// Close codes 1001 and 1008: RFC 6455 section 7.4.1.
func (p plainSocket) cut(reason string) {
	code := 1008
	if reason == reasonStop {
		code = 1001
	}
	p.conn.Close(code, reason)
}

// plainMessage is what a client says.
type plainMessage struct {
	Type string          `json:"type"`
	Room string          `json:"room"`
	Ref  json.RawMessage `json:"ref"`
}

// plainAnswer is what it is told, but for events.
type plainAnswer struct {
	Type      string          `json:"type"`
	Ref       json.RawMessage `json:"ref,omitempty"`
	OK        *bool           `json:"ok,omitempty"`
	Room      string          `json:"room,omitempty"`
	Error     string          `json:"error,omitempty"`
	Socket    string          `json:"socket,omitempty"`
	Rooms     []string        `json:"rooms,omitempty"`
	Offset    string          `json:"offset,omitempty"`
	Recovered *bool           `json:"recovered,omitempty"`
}

func (h *wsHTTP) get(w http.ResponseWriter, r *http.Request) {
	adm, gap := admitHTTP(w, r, h.cfg, h.sockets)
	if adm == nil {
		return
	}
	conn, err := wsconn.Upgrade(w, r, wsconn.Options{Writers: h.writers, MaxMessage: int(h.cfg.MaxPayload), MaxQueue: int(h.cfg.MaxQueue),
		WriteTimeout: h.cfg.WriteTimeout, PingInterval: h.cfg.PingInterval, PingTimeout: h.cfg.PingTimeout})
	if err != nil {
		return // answered
	}
	if !h.take(conn) {
		conn.Close(1001, reasonStop)
	}
	begin := h.sockets.start(adm)
	if !h.sockets.enter(adm, plainSocket{conn}) {
		adm.back, gap = nil, true
		h.sockets.enter(adm, plainSocket{conn})
	}
	recovered := adm.back != nil
	say(conn, plainAnswer{Type: "welcome", Socket: adm.socket.id, Rooms: adm.rooms, Offset: begin, Recovered: &recovered})
	if gap {
		say(conn, plainAnswer{Type: "gap"})
	}
	h.sockets.open(adm)
	ctx := context.WithoutCancel(r.Context())
	go h.serve(ctx, conn, adm.socket)
}

// take counts a connection in, unless the server stops.
func (h *wsHTTP) take(conn *wsconn.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serving.Add(1)
	h.open[conn] = true
	return !h.stopped
}

func (h *wsHTTP) serve(ctx context.Context, conn *wsconn.Conn, sock *socket) {
	defer h.serving.Done()
	err := conn.Serve(func(binary bool, payload []byte) error {
		if !binary {
			say(conn, h.hear(ctx, sock, payload))
		}
		return nil
	})
	h.mu.Lock()
	delete(h.open, conn)
	h.mu.Unlock()
	h.sockets.left(sock, plainReason(err))
}

// plainReason says in the words of Socket.IO why a connection ended.
func plainReason(err error) string {
	var closed *wsconn.CloseError
	switch {
	case errors.Is(err, wsconn.ErrSlow):
		return reasonSlow
	case errors.Is(err, wsconn.ErrPingTimeout):
		return "ping timeout"
	case errors.As(err, &closed):
		return closed.Reason
	}
	return "transport close"
}

// hear answers what a client says.
func (h *wsHTTP) hear(ctx context.Context, sock *socket, text []byte) plainAnswer {
	var m plainMessage
	if json.Unmarshal(text, &m) != nil {
		return plainAnswer{Type: "error", Error: "not a JSON object of the known shape"}
	}
	ack := func(fault string) plainAnswer {
		ok := fault == ""
		a := plainAnswer{Type: "ack", Ref: m.Ref, OK: &ok, Error: fault}
		if ok {
			a.Room = m.Room
		}
		return a
	}
	switch m.Type {
	case "join":
		return ack(h.sockets.join(ctx, sock, m.Room))
	case "leave":
		return ack(h.sockets.leave(ctx, sock, m.Room))
	case "ping":
		return plainAnswer{Type: "pong", Ref: m.Ref, Offset: offset(h.sockets.hub.place())}
	}
	return plainAnswer{Type: "error", Ref: m.Ref, Error: "the type is none of join, leave, ping"}
}

func say(conn *wsconn.Conn, a plainAnswer) {
	if text, err := json.Marshal(a); err == nil {
		conn.Send(wsconn.NewTextFrame(text))
	}
}

// stop closes all connections and waits for them.
func (h *wsHTTP) stop() {
	h.mu.Lock()
	h.stopped = true
	for conn := range h.open {
		conn.Close(1001, reasonStop)
	}
	h.mu.Unlock()
	h.serving.Wait()
	h.writers.Close()
}

// admitHTTP lets a client in that speaks no Socket.IO, or answers why not. Gap
// tells that it asked for what the history does not hold any more.
func admitHTTP(w http.ResponseWriter, r *http.Request, cfg *Config, sockets *socketService) (adm *admission, gap bool) {
	q := r.URL.Query()
	origin := r.Header.Get("Origin")
	if !cfg.allowsOrigin(origin) {
		web.Problem(w, r, http.StatusForbidden, "this Origin may not connect")
		return nil, false
	}
	if sockets.hub.count("") >= cfg.MaxSockets {
		web.Fail(w, r, errs.New(errs.Unavailable, "too many sockets are connected"))
		return nil, false
	}
	rooms := roomsOf(q["rooms"], q["room"])
	adm, err := sockets.admit(r.Context(), arrival{Credential: web.Credential(r), Remote: web.ClientIP(r), Origin: foreignOrigin(origin, r.Host), Rooms: rooms})
	limit := (*auth.LimitError)(nil)
	switch {
	case err == nil:
	case errors.Is(err, errRefused) || forbidden(err) || errors.As(err, &limit) || errs.KindOf(err) != errs.Denied:
		web.Fail(w, r, err)
		return nil, false
	default:
		web.Unauthorized(w, r, err.Error())
		return nil, false
	}
	last := q.Get("offset")
	if last == "" {
		last = r.Header.Get("Last-Event-ID")
	}
	if last == "" {
		return adm, false
	}
	after, ok := parseOffset(last)
	again := &comeback{map[string]uint64{}, after, func(h *history) bool { return h.follows(after) }}
	for _, room := range rooms {
		again.rooms[room] = 0
	}
	if !ok || !sockets.hub.resumable(again) {
		return adm, true
	}
	adm.back = again
	return adm, false
}

// roomsOf reads ?rooms=a,b and ?room=a, each as often as it comes.
func roomsOf(lists, single []string) (rooms []string) {
	for _, list := range lists {
		for room := range strings.SplitSeq(list, ",") {
			if room = strings.TrimSpace(room); room != "" && !slices.Contains(rooms, room) {
				rooms = append(rooms, room)
			}
		}
	}
	for _, room := range single {
		if room != "" && !slices.Contains(rooms, room) {
			rooms = append(rooms, room)
		}
	}
	return rooms
}
