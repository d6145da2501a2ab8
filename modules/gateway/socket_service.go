package gateway

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
)

// Why a socket was disconnected; also labels of gateway_disconnects_total.
const (
	reasonReplaced = "replaced by a newer connection"
	reasonAdmin    = "disconnected by an administrator"
	reasonDenied   = "credential no longer valid"
	reasonGap      = "history lost"
	reasonStop     = "server shutting down"
	reasonSlow     = "slow consumer"
	reasonLeft     = "left"
)

const (
	// checkEvery is how often live credentials are looked at again.
	checkEvery     = 2 * time.Second
	subjectMoved   = "gateway.moved"   // a socket came back at another instance: its id and that instance
	subjectRevoked = "gateway.revoked" // a token was revoked: its id
)

// arrival is what a socket says when it connects.
type arrival struct {
	Credential string
	Remote     string
	Origin     string
	Rooms      []string
	PID        string // of the connection that was lost
	Offset     string // of the last event that came over it
	Sessions   bool   // its protocol knows connection state recovery
}

// admission is the leave to enter.
type admission struct {
	socket *socket
	rooms  []string
	back   *comeback // nil for one that is new
}

// socketService lets sockets in and out, and into rooms.
type socketService struct {
	cfg      *Config
	hub      *hub
	tokens   *tokenService
	sessions *sessionService
	cluster  *cluster
	bus      *bus.Bus
	metrics  *metrics
	log      *slog.Logger
	now      func() time.Time

	// Sockets that are gone but not yet out of their rooms: those who notice
	// must not wait for the hub, which may be waiting for them.
	mu     sync.Mutex
	ended  []*socket
	reason []string
	wake   chan struct{}
}

// admit checks who comes and whether the lost connection can be taken up again.
// Errors are of the kind Denied, with a short text for the client, or Unavailable.
func (s *socketService) admit(ctx context.Context, a arrival) (*admission, error) {
	grant, err := s.authenticate(ctx, a)
	if err != nil {
		s.metrics.connects.WithLabelValues("denied").Inc()
		return nil, err
	}
	now := s.now()
	sock := &socket{remote: a.Remote, grant: *grant, since: now, joins: s.limiter()}
	if a.Sessions && a.PID != "" && s.cfg.Recovery > 0 {
		adm, err := s.back(ctx, a, sock)
		if err != nil || adm != nil {
			return adm, err
		}
	}
	if len(a.Rooms) > s.cfg.MaxRooms {
		return nil, s.refuse("too many rooms")
	}
	for _, room := range a.Rooms {
		if fault := roomFault(room); fault != "" {
			return nil, s.refuse("a room's name " + fault)
		}
		if !grant.May(room) {
			return nil, s.refuse("not allowed to join " + room)
		}
	}
	sock.id = randomID(15)
	if a.Sessions && s.cfg.Recovery > 0 {
		head := s.hub.place()
		places := make(map[string]uint64, len(a.Rooms))
		for _, room := range a.Rooms {
			places[room] = head
		}
		sock.session = &session{PID: randomID(24), SID: sock.id, Rooms: places, Grant: *grant, Since: head, Instance: s.cluster.self}
		if err := s.sessions.put(ctx, sock.session); err != nil {
			s.sessions.leaveLater(sock.session)
			s.metrics.connects.WithLabelValues("unavailable").Inc()
			return nil, err
		}
	}
	return &admission{socket: sock, rooms: a.Rooms}, nil
}

func (s *socketService) authenticate(ctx context.Context, a arrival) (*Grant, error) {
	if a.Credential == "" && s.cfg.Public {
		return &Grant{AllRooms: true}, nil
	}
	return s.tokens.authenticate(ctx, a.Credential, a.Remote, a.Origin)
}

func (s *socketService) refuse(why string) error {
	s.metrics.connects.WithLabelValues("refused").Inc()
	return errs.Wrap(errs.Denied, errRefused, "%s", why)
}

// errRefused marks that the credential was good but not for this.
var errRefused = errors.New("refused")

// back finds the connection that was lost. Nil means that it cannot be taken up
// again: the client is told by getting a new one.
func (s *socketService) back(ctx context.Context, a arrival, sock *socket) (*admission, error) {
	old, err := s.sessions.find(ctx, a.PID)
	switch {
	case errs.KindOf(err) == errs.NotFound:
		s.metrics.recoveries.WithLabelValues("unknown").Inc()
		return nil, nil
	case err != nil:
		return nil, err
	}
	for room := range old.Rooms {
		if !sock.grant.May(room) {
			s.metrics.recoveries.WithLabelValues("unknown").Inc()
			return nil, nil
		}
	}
	after := old.Since
	if a.Offset != "" {
		pos, ok := parseOffset(a.Offset)
		if !ok {
			s.metrics.recoveries.WithLabelValues("unknown").Inc()
			return nil, nil
		}
		after = max(after, pos)
	}
	// What was on its way when the connection broke may be lost as well, and a
	// break is noticed by a ping that is not answered.
	// Who was killed did not say when: it may be as long ago as it is allowed to be.
	left := sock.since.Add(-s.cfg.Recovery)
	if old.LeftAt != nil {
		left = *old.LeftAt
	}
	since := left.Add(-s.cfg.PingInterval - s.cfg.PingTimeout)
	again := &comeback{old.Rooms, after, func(h *history) bool { return h.whole(since) || h.follows(after) }}
	if !s.hub.resumable(again) {
		s.metrics.recoveries.WithLabelValues("gap").Inc()
		return nil, nil
	}
	sock.id = old.SID
	sock.session = old.resumed(s.cluster.self)
	sock.session.Grant = sock.grant
	if err := s.sessions.put(ctx, sock.session); err != nil {
		s.sessions.leaveLater(sock.session)
		return nil, err
	}
	if old.Instance != s.cluster.self {
		_ = s.bus.Broadcast(subjectMoved, []byte(old.SID+" "+s.cluster.self))
	}
	return &admission{socket: sock, back: again}, nil
}

// enter puts an admitted socket into its rooms, before it is told that it is
// connected; open follows. If it is false the socket wanted to come back and what
// it missed has just been forgotten: it has to be admitted as a new one.
func (s *socketService) enter(a *admission, out receiver) bool {
	a.socket.out = out
	if a.back == nil {
		s.hub.enter(a.socket, a.rooms)
	} else if !s.hub.resume(a.socket, a.back) {
		s.metrics.recoveries.WithLabelValues("gap").Inc()
		if a.socket.session != nil {
			s.sessions.leaveLater(a.socket.session)
		}
		return false
	}
	return true
}

// start is the place up to which an admitted socket has everything: what it says
// next time if nothing comes.
func (s *socketService) start(a *admission) string {
	if a.back != nil {
		return offset(a.back.after)
	}
	return offset(s.hub.place())
}

// open delivers to a socket from now on.
func (s *socketService) open(a *admission) {
	s.metrics.connects.WithLabelValues("connected").Inc()
	if a.back != nil {
		s.metrics.recoveries.WithLabelValues("recovered").Inc()
	}
	s.hub.open(a.socket)
}

// join puts a socket into a room, durably where it can come back. The text says
// why not.
func (s *socketService) join(ctx context.Context, sock *socket, room string) (fault string) {
	fault = s.mayJoin(sock, room)
	if fault == "" {
		var rooms map[string]uint64
		if rooms, fault = s.hub.join(sock, room); fault == "" {
			fault = s.remember(ctx, sock, rooms)
		}
	}
	result := "joined"
	if fault != "" {
		result = "refused"
	}
	s.metrics.joins.WithLabelValues(result).Inc()
	return fault
}

func (s *socketService) mayJoin(sock *socket, room string) string {
	switch {
	case !sock.joins.Allow():
		return "too many joins, try again later"
	case roomFault(room) != "":
		return "the room's name " + roomFault(room)
	case !sock.grant.May(room):
		return "not allowed to join this room"
	}
	return ""
}

// leave takes a socket out of a room.
func (s *socketService) leave(ctx context.Context, sock *socket, room string) (fault string) {
	if !sock.joins.Allow() {
		return "too many joins, try again later"
	}
	if fault := roomFault(room); fault != "" {
		return "the room's name " + fault
	}
	return s.remember(ctx, sock, s.hub.leave(sock, room))
}

// remember stores the rooms of a socket that can come back.
func (s *socketService) remember(ctx context.Context, sock *socket, rooms map[string]uint64) (fault string) {
	if sock.session == nil {
		return ""
	}
	next := *sock.session
	next.Rooms = rooms
	if err := s.sessions.put(ctx, &next); err != nil {
		s.log.Error("cannot store the rooms of a socket", "socket", sock.id, "error", err)
		return "not now, try again later"
	}
	return ""
}

// left notes that a socket is gone. It never waits.
func (s *socketService) left(sock *socket, reason string) {
	s.mu.Lock()
	s.ended = append(s.ended, sock)
	s.reason = append(s.reason, reason)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run takes sockets out of their rooms that are gone, until ctx ends.
func (s *socketService) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			s.clear()
			return nil
		case <-s.wake:
			s.clear()
		}
	}
}

func (s *socketService) clear() {
	s.mu.Lock()
	ended, reasons := s.ended, s.reason
	s.ended, s.reason = nil, nil
	s.mu.Unlock()
	for i, sock := range ended {
		s.metrics.disconnects.WithLabelValues(reasonLabel(reasons[i])).Inc()
		s.hub.leaveAll(sock)
		switch {
		case sock.session == nil:
		case deliberate(reasons[i]):
			over, past := *sock.session, time.Unix(0, 0)
			over.Rooms, over.LeftAt = nil, &past
			s.sessions.putLater(&over)
		default:
			s.sessions.leaveLater(sock.session)
		}
	}
}

// deliberate tells whether one side ended the connection because it wanted to:
// then there is nothing to take up again.
func deliberate(reason string) bool {
	return reason == "client namespace disconnect" || reason == "server namespace disconnect" || reason == reasonAdmin || reason == reasonDenied
}

// check disconnects those whose credential is not good any more: by the clock
// and the key every checkEvery, by a revocation that this instance did not hear
// of every tenth time.
func (s *socketService) check(ctx context.Context) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		tokens := map[string]bool{}
		for _, sock := range s.hub.find(func(sock *socket) bool { return sock.grant.KeyID != "" }) {
			// Only a clear no counts: a database that is away disconnects nobody.
			if errs.KindOf(s.tokens.current(ctx, &sock.grant)) == errs.Denied {
				sock.out.cut(reasonDenied)
			} else if sock.grant.TokenID != "" {
				tokens[sock.grant.TokenID] = true
			}
		}
		if n%10 != 0 || len(tokens) == 0 {
			continue
		}
		revoked, err := s.tokens.revokedOf(ctx, slices.Collect(maps.Keys(tokens)))
		if err != nil {
			continue // next time
		}
		for _, id := range revoked {
			s.cut(func(sock *socket) bool { return sock.grant.TokenID == id }, reasonDenied)
		}
	}
}

// listenMoved hears of sockets that came back at another instance.
func (s *socketService) listenMoved(ctx context.Context) error {
	return s.bus.Listen(ctx, subjectMoved, func(data []byte) {
		id, instance, _ := strings.Cut(string(data), " ")
		if instance == s.cluster.self {
			return
		}
		s.cut(func(sock *socket) bool { return sock.id == id }, reasonReplaced)
	})
}

// listenRevoked hears of revoked tokens.
func (s *socketService) listenRevoked(ctx context.Context) error {
	return s.bus.Listen(ctx, subjectRevoked, func(data []byte) {
		id := string(data)
		s.cut(func(sock *socket) bool { return sock.grant.TokenID == id && id != "" }, reasonDenied)
	})
}

// revoked tells all instances that a token is good no more.
func (s *socketService) revoked(tokenID string) { _ = s.bus.Broadcast(subjectRevoked, []byte(tokenID)) }

// cut disconnects the sockets here that match and tells how many.
func (s *socketService) cut(match func(*socket) bool, reason string) int {
	found := s.hub.find(match)
	for _, sock := range found {
		sock.out.cut(reason)
	}
	return len(found)
}

// limiter is a socket's own bound on joins and leaves.
func (s *socketService) limiter() *rate.Limiter {
	return rate.NewLimiter(rate.Limit(s.cfg.JoinRate), max(1, int(5*s.cfg.JoinRate)))
}

// randomID is a text of n random bytes that nobody can guess.
func randomID(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// reasonLabel keeps the set of reasons small whatever an engine says.
func reasonLabel(reason string) string {
	switch reason {
	case reasonReplaced, reasonAdmin, reasonDenied, reasonGap, reasonStop, reasonSlow, reasonLeft,
		"transport close", "transport error", "ping timeout", "client namespace disconnect", "server namespace disconnect", "parse error":
		return reason
	}
	return "other"
}

// newInstance names this process among all, and differently at each start.
func newInstance() (id [8]byte) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}
