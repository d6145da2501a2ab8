package telephony

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"switchboard/platform/auth"
	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// wsHTTP serves
//
//	GET /telephony/ws the boards' protocol over a WebSocket (RFC 6455)
//
// and the same at any path of a second listener, without a credential, if one is
// configured. The frames are described in board.go.
type wsHTTP struct {
	cfg    *Config
	boards *boardService
	feed   *feed
	log    *slog.Logger
	limits wsLimits
	beside *web.Beside // nil without a second listener

	open     atomic.Int64
	stopping context.Context // ends when sockets are to leave
	stop     context.CancelFunc
}

// wsLimits are what one socket may do, and how soon it is told.
type wsLimits struct {
	PushEvery    time.Duration // between two DataChanged
	PingEvery    time.Duration
	PingWithin   time.Duration // to answer a ping
	WriteWithin  time.Duration // to take a frame
	CloseWithin  time.Duration // to answer a close
	MaxMessage   int64         // bytes
	RequestRate  rate.Limit    // per second
	RequestBurst int
}

var boardLimits = wsLimits{PushEvery: 100 * time.Millisecond, PingEvery: 25 * time.Second, PingWithin: 20 * time.Second, WriteWithin: 10 * time.Second,
	CloseWithin: time.Second, MaxMessage: 64 << 10, RequestRate: 20, RequestBurst: 40}

// maxCredit is how many pushes a client may have left unanswered and still
// answer all at once.
const maxCredit = 600

func newWSHTTP(cfg *Config, boards *boardService, f *feed, log *slog.Logger) *wsHTTP {
	h := &wsHTTP{cfg: cfg, boards: boards, feed: f, log: log, limits: boardLimits}
	h.stopping, h.stop = context.WithCancel(context.Background())
	return h
}

func (h *wsHTTP) routes(r *web.Router) {
	r.Handle(web.Op{ID: "telephony-ws", Method: http.MethodGet, Path: "/telephony/ws", Tag: tag,
		Summary: "Watch calls over a WebSocket",
		Description: "Text frames of JSON. The client asks ListCalls, ListCallEvents and Subscribe; it is told DataChanged after events were stored, " +
			"and once it has subscribed every event as CallEvent. Browsers give the key as `?key=`; a key may be bound to origins.",
		Scope: "telephony:read", KeyInQuery: true, Stream: true, Status: http.StatusSwitchingProtocols, Errors: []int{400, 401, 403, 426, 503},
	}, http.HandlerFunc(h.get))
}

// get serves a board that has shown a key.
func (h *wsHTTP) get(w http.ResponseWriter, r *http.Request) {
	if p := auth.From(r.Context()); p != nil {
		if err := web.AllowOrigin(w, r, p); err != nil {
			web.Fail(w, r, err)
			return
		}
	}
	if status, fault := upgradeFault(w, r); fault != "" {
		web.Problem(w, r, status, fault)
		return
	}
	if !h.enter() {
		web.Fail(w, r, errs.New(errs.Unavailable, "too many boards are connected"))
		return
	}
	defer h.leave()
	h.upgrade(w, r)
}

// ServeHTTP serves a board that can show no key, on the second listener. Whoever
// reaches it may read, but for web pages from elsewhere: a browser lets every
// page connect, so that the page's origin decides (cross-site WebSocket
// hijacking).
func (h *wsHTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !boardOrigin(r.Header["Origin"], h.cfg.BoardOrigins) {
		http.Error(w, "Pages of this Origin may not connect; telephony.board_origins lists those that may.", http.StatusForbidden)
		return
	}
	if status, fault := upgradeFault(w, r); fault != "" {
		http.Error(w, "This is the call board's WebSocket: "+fault+".", status)
		return
	}
	if !h.enter() {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "Too many boards are connected.", http.StatusServiceUnavailable)
		return
	}
	defer h.leave()
	h.upgrade(w, r)
}

// enter counts a socket in, unless there are too many.
func (h *wsHTTP) enter() bool {
	if h.open.Add(1) > int64(h.cfg.MaxBoards) {
		h.open.Add(-1)
		return false
	}
	return true
}

func (h *wsHTTP) leave() { h.open.Add(-1) }

// connected counts the sockets that are open here.
func (h *wsHTTP) connected() float64 { return float64(h.open.Load()) }

// upgradeFault tells why a request cannot become a WebSocket (RFC 6455, 4.2.1).
func upgradeFault(w http.ResponseWriter, r *http.Request) (status int, fault string) {
	has := func(header, token string) bool {
		return slices.ContainsFunc(strings.Split(strings.Join(r.Header[header], ","), ","), func(t string) bool { return strings.EqualFold(strings.TrimSpace(t), token) })
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(r.Header.Get("Sec-Websocket-Key")))
	switch {
	case r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1) || !has("Upgrade", "websocket") || !has("Connection", "upgrade"):
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		return http.StatusUpgradeRequired, "connect with a WebSocket client"
	case r.Header.Get("Sec-Websocket-Version") != "13":
		w.Header().Set("Sec-WebSocket-Version", "13")
		return http.StatusBadRequest, "only version 13 of the protocol is spoken"
	case err != nil || len(key) != 16 || len(r.Header["Sec-Websocket-Key"]) != 1:
		return http.StatusBadRequest, "the Sec-WebSocket-Key is not 16 bytes in Base64"
	}
	return 0, ""
}

// boardOrigin tells whether a page of this origin may connect without a key:
// none, which is no page, one of this machine, or one of a list.
func boardOrigin(origins, listed []string) bool {
	if len(origins) == 0 {
		return true
	}
	u, err := url.Parse(origins[0])
	if len(origins) > 1 || err != nil || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	same := func(o string) bool { return strings.EqualFold(strings.TrimSuffix(o, "/"), origins[0]) }
	if slices.ContainsFunc(listed, same) {
		return true
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	host := strings.ToLower(u.Hostname())
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func (h *wsHTTP) upgrade(w http.ResponseWriter, r *http.Request) {
	// The Origin was checked above, by our rules.
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // answered
	}
	h.serve(r.Context(), conn)
}

// boardSocket is one WebSocket of a board.
type boardSocket struct {
	h       *wsHTTP
	conn    *websocket.Conn
	replies chan boardReply
	credit  atomic.Int64    // requests it may make because of pushes
	life    context.Context // of the connection
	end     context.CancelCauseFunc

	events *listener // nil until it subscribes
	leave  func()
}

// wsEnd is why we end a connection.
type wsEnd struct {
	code   websocket.StatusCode
	reason string
}

func (e wsEnd) Error() string { return e.reason }

var (
	wsStopping = wsEnd{websocket.StatusGoingAway, "server is stopping"}
	wsSlow     = wsEnd{websocket.StatusPolicyViolation, "slow consumer"}
	wsFlood    = wsEnd{websocket.StatusPolicyViolation, "too many requests"}
	wsSilent   = wsEnd{websocket.StatusPolicyViolation, "ping timeout"}
)

// serve speaks with a board until it leaves, has to leave, or ctx ends.
func (h *wsHTTP) serve(ctx context.Context, conn *websocket.Conn) {
	ctx, end := context.WithCancelCause(ctx)
	defer context.AfterFunc(h.stopping, func() { end(wsStopping) })()
	// The connection lives on for a moment after the end, for our close and the
	// answer to it.
	life, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	conn.SetReadLimit(h.limits.MaxMessage)
	s := &boardSocket{h: h, conn: conn, replies: make(chan boardReply), life: life, end: end, leave: func() {}}
	defer func() { s.leave() }()
	changes, leave, err := h.feed.listen(ctx, false, "")
	if err != nil {
		_ = conn.CloseNow()
		return
	}
	defer leave()

	var parts sync.WaitGroup
	parts.Go(func() { s.write(ctx, changes.changed) })
	parts.Go(func() { s.ping(ctx) })
	parts.Go(func() {
		<-ctx.Done()
		why := wsStopping
		_ = errors.As(context.Cause(ctx), &why)
		defer time.AfterFunc(h.limits.CloseWithin, cut).Stop()
		_ = conn.Close(why.code, why.reason) // no-one is left to be told
	})
	end(s.read(ctx))
	parts.Wait()
}

// read answers the requests of the board, one after another.
func (s *boardSocket) read(ctx context.Context) error {
	limiter := rate.NewLimiter(s.h.limits.RequestRate, s.h.limits.RequestBurst)
	for {
		kind, message, err := s.conn.Read(s.life)
		if err != nil {
			return err
		}
		// Many clients ask again after every push, and one that was busy or asleep
		// does it for all of them at once: that is no flood.
		if s.credit.Add(-1) < 0 {
			s.credit.Add(1)
			if !limiter.Allow() {
				return wsFlood
			}
		}
		select {
		case s.replies <- s.h.boards.answer(ctx, message, kind == websocket.MessageText):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// write sends what there is to say.
func (s *boardSocket) write(ctx context.Context, changes <-chan struct{}) {
	if !s.send(frameWelcome) {
		return
	}
	changed := changes
	var pushed time.Time
	due := time.NewTimer(time.Hour)
	due.Stop()
	defer due.Stop()
	for {
		var queue <-chan *liveEvent
		var behind <-chan struct{}
		if s.events != nil {
			queue, behind = s.events.queue, s.events.behind
		}
		ok := true
		select {
		case <-ctx.Done():
			return
		case r := <-s.replies:
			ok = s.reply(ctx, r)
		case <-changed:
			// One timer for all that is stored until it fires.
			due.Reset(max(s.h.limits.PushEvery-time.Since(pushed), 0))
			changed = nil
		case <-due.C:
			pushed = time.Now()
			if s.credit.Load() < maxCredit {
				s.credit.Add(1)
			}
			changed = changes
			ok = s.send(frameChanged)
		case e := <-queue:
			ok = s.send(e.frame)
			s.events.took(e)
		case <-behind:
			s.end(wsSlow)
			return
		}
		if !ok {
			return
		}
	}
}

// reply sends an answer, and begins to tell of events where that was asked for:
// the answer comes first.
func (s *boardSocket) reply(ctx context.Context, r boardReply) bool {
	if !r.subscribe {
		return s.send(r.frame)
	}
	if s.events != nil {
		s.h.feed.narrow(s.events, r.call)
		return s.send(r.frame)
	}
	events, leave, err := s.h.feed.listen(ctx, true, r.call)
	if err != nil {
		return s.send(s.h.boards.failed(ctx, eventSubscribe, err))
	}
	s.events, s.leave = events, leave
	return s.send(r.frame)
}

// send writes a frame, and ends the socket if it takes none.
func (s *boardSocket) send(frame []byte) bool {
	wait, cancel := context.WithTimeout(s.life, s.h.limits.WriteWithin)
	defer cancel()
	if err := s.conn.Write(wait, websocket.MessageText, frame); err != nil {
		s.end(wsSlow) // or gone; then nobody hears the reason
		return false
	}
	return true
}

// ping asks now and then whether somebody is there.
func (s *boardSocket) ping(ctx context.Context) {
	tick := time.NewTicker(s.h.limits.PingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wait, cancel := context.WithTimeout(s.life, s.h.limits.PingWithin)
		err := s.conn.Ping(wait)
		cancel()
		if err != nil {
			s.end(wsSilent)
			return
		}
	}
}

// start binds the second listener, if there is one.
func (h *wsHTTP) start() (err error) {
	if h.cfg.BoardListen == "" {
		return nil
	}
	h.beside, err = web.ListenBeside(h.cfg.BoardListen, h, web.BesideConfig{Log: h.log, MaxConns: h.cfg.MaxBoards + 64})
	if err != nil {
		return fmt.Errorf("telephony.board_listen: %w", err)
	}
	return nil
}

// besideStop is how long boards get to leave at a stop.
const besideStop = 5 * time.Second

// run serves the second listener until ctx ends.
func (h *wsHTTP) run(ctx context.Context) error {
	defer h.stop()
	if h.beside == nil {
		<-ctx.Done()
		return nil
	}
	h.log.Info("board listens", "url", "ws://"+h.beside.Addr()+"/")
	return h.beside.Serve(ctx, besideStop)
}
