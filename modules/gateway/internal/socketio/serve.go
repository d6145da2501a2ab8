package socketio

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"switchboard/modules/gateway/internal/wsconn"
)

// latePoll is how long a poll waits during an upgrade.
const latePoll = 50 * time.Millisecond

// Error answers of Engine.IO, {code, message}.
var (
	errTransport  = &httpError{http.StatusBadRequest, 0, "Transport unknown"}
	errUnknown    = &httpError{http.StatusBadRequest, 1, "Session ID unknown"}
	errMethod     = &httpError{http.StatusBadRequest, 2, "Bad handshake method"}
	errBadRequest = &httpError{http.StatusBadRequest, 3, "Bad request"}
	errForbidden  = &httpError{http.StatusForbidden, 4, "Forbidden"}
	errVersion    = &httpError{http.StatusBadRequest, 5, "Unsupported protocol version"}
	errTooLarge   = &httpError{http.StatusRequestEntityTooLarge, 3, "Payload too large"}
	errNoPlace    = &httpError{http.StatusServiceUnavailable, 3, "Too many connections"}
	errGoingAway  = &httpError{http.StatusServiceUnavailable, 3, "Server shutting down"}
)

type httpError struct {
	status  int
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *httpError) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(e.status)
	_ = json.NewEncoder(w).Encode(e)
}

// ServeHTTP serves all of Engine.IO: handshake, polling, WebSocket and upgrade.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.TrimSuffix(r.URL.Path, "/") != strings.TrimSuffix(s.c.Path, "/") {
		http.NotFound(w, r)
		return
	}
	if r.Header.Get("Origin") != "" {
		if !s.c.AllowOrigin(r) {
			errForbidden.write(w)
			return
		}
		allowOrigin(w, r)
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if e := s.route(w, r); e != nil {
		e.write(w)
	}
}

// allowOrigin adds the CORS headers for an origin that is allowed. Cookies are
// not: a client authenticates itself with a token.
func allowOrigin(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	h.Add("Vary", "Origin")
	if r.Method != http.MethodOptions {
		return
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
		h.Set("Access-Control-Allow-Headers", asked)
		h.Add("Vary", "Access-Control-Request-Headers")
	}
	h.Set("Access-Control-Max-Age", "600")
}

// route finds what a request is; an error is still to be answered.
func (s *Server) route(w http.ResponseWriter, r *http.Request) *httpError {
	q := r.URL.Query()
	transport := q.Get("transport")
	if transport != transportPolling && transport != transportWebsocket {
		return errTransport
	}
	websocket := transport == transportWebsocket
	if q.Has("sid") {
		sess := s.session(q.Get("sid"))
		switch {
		case sess == nil:
			return errUnknown
		case websocket:
			return s.upgrade(w, r, sess)
		case r.Method == http.MethodGet:
			return sess.servePoll(w, r)
		case r.Method == http.MethodPost:
			return sess.servePost(w, r)
		}
		return errBadRequest
	}
	if r.Method != http.MethodGet {
		return errMethod
	}
	if q.Get("EIO") != "4" {
		return errVersion
	}
	if websocket && !isUpgrade(r) {
		return errBadRequest
	}
	switch err := s.reserve(); {
	case errors.Is(err, errFull):
		return errNoPlace
	case err != nil:
		return errGoingAway
	}
	if websocket {
		s.handshakeWebsocket(w, r)
		return nil
	}
	return s.handshakePolling(w, r)
}

func isUpgrade(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

func (s *Server) wsOptions() wsconn.Options {
	return wsconn.Options{
		Writers:      s.writers,
		MaxMessage:   s.c.MaxPayload,
		MaxQueue:     s.c.MaxQueue,
		WriteTimeout: s.c.WriteTimeout,
	}
}

func (s *Server) handshakeWebsocket(w http.ResponseWriter, r *http.Request) {
	sess := s.newSession(r, newID())
	c, err := wsconn.Upgrade(w, r, s.wsOptions())
	if err != nil {
		s.release()
		return
	}
	sess.conn.Store(c)
	if !s.enter(sess) {
		c.Cut(wsconn.ErrGone)
		s.release()
		return
	}
	sess.start(transportWebsocket, func(m *Message) { c.Send(m.frame) })
	// A goroutine of its own, so that what net/http holds for the request is let go.
	go sess.serveConn(c)
}

// serveConn reads from the session's WebSocket until it ends. The session's own
// place in the server's wait group outlasts it.
func (s *Session) serveConn(c *wsconn.Conn) {
	s.endWith(c.Serve(s.fromConn))
}

func (s *Session) fromConn(binary bool, b []byte) error {
	_ = s.packet(b, binary) // what is wrong has ended the session
	return nil
}

func (s *Server) handshakePolling(w http.ResponseWriter, r *http.Request) *httpError {
	sess := s.newSession(r, newID())
	sess.poll = &polling{}
	if !s.enter(sess) {
		s.release()
		return errGoingAway
	}
	sess.start(transportPolling, func(m *Message) { writeBody(w, m.text, s.c.WriteTimeout) })
	return nil
}

// writeBody answers a poll, and reports whether the client took it.
func writeBody(w http.ResponseWriter, b []byte, timeout time.Duration) bool {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(timeout))
	_, err := w.Write(b)
	if err == nil {
		err = rc.Flush()
	}
	if errors.Is(err, http.ErrNotSupported) {
		err = nil
	}
	_ = rc.SetWriteDeadline(time.Time{})
	return err == nil
}

// servePoll answers a GET with what is queued, or waits for something.
func (s *Session) servePoll(w http.ResponseWriter, r *http.Request) *httpError {
	s.mu.Lock()
	p := s.poll
	switch {
	case p == nil:
		s.mu.Unlock()
		return errBadRequest
	case p.polled:
		s.mu.Unlock()
		s.end(ReasonTransportError)
		return errBadRequest
	}
	p.polled = true
	late := p.probed
	if !s.closed && len(p.queue) == 0 {
		wake := make(chan struct{})
		p.wake = wake
		s.mu.Unlock()
		// A server's read timeout would look like a client that has left.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		if !s.wait(r, wake, late) {
			return nil
		}
		s.mu.Lock()
	}
	if late && s.poll == nil {
		s.mu.Unlock()
		return errBadRequest
	}
	body, last := s.takePolled(p)
	// Before the answer: whoever has it whole may poll at once, over another
	// connection.
	p.polled = false
	s.mu.Unlock()
	if last {
		s.srv.forget(s)
	}
	if !writeBody(w, body, s.srv.c.WriteTimeout) {
		s.end(ReasonTransportError)
	}
	return nil
}

// wait waits for wake. A poll that crossed the probe's answer waits a moment
// only: its client goes on with the upgrade when the poll is answered. It
// reports whether the client is still there.
func (s *Session) wait(r *http.Request, wake <-chan struct{}, late bool) bool {
	var moment <-chan time.Time
	if late {
		moment = time.After(latePoll)
	}
	select {
	case <-wake:
	case <-moment:
	case <-r.Context().Done():
		s.end(ReasonTransportError)
		return false
	}
	return true
}

// takePolled takes the queue as a payload, and tells whether nothing comes
// after it. What was sent before an orderly end comes without the close packet,
// which would overtake it in the client. mu is held.
func (s *Session) takePolled(p *polling) (body []byte, last bool) {
	body = make([]byte, 0, p.bytes+16)
	more := len(p.queue) > 0 && orderly(s.reason)
	for _, m := range p.queue {
		body = m.appendPayload(body)
	}
	p.queue, p.bytes = nil, 0
	switch {
	case s.closed && more:
		return body, false
	case s.closed && s.reason != ReasonTransportClose:
		body = append(appendSeparator(body), packetClose)
	case len(body) == 0:
		body = append(body, packetNoop)
	}
	return body, s.closed
}

// servePost takes packets from the client.
func (s *Session) servePost(w http.ResponseWriter, r *http.Request) *httpError {
	s.mu.Lock()
	p := s.poll
	switch {
	case s.closed:
		s.mu.Unlock()
		return errUnknown
	case p == nil:
		s.mu.Unlock()
		return errBadRequest
	case p.posting:
		s.mu.Unlock()
		s.end(ReasonTransportError)
		return errBadRequest
	}
	p.posting = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		p.posting = false
		s.mu.Unlock()
	}()
	body, e := s.readBody(w, r)
	if e != nil {
		s.end(ReasonTransportError)
		return e
	}
	err := decodePayload(body, func(data []byte, binary bool) error {
		if !binary && len(data) == 1 && data[0] == packetClose {
			s.end(ReasonTransportClose)
			return io.EOF
		}
		return s.packet(data, binary)
	})
	if err != nil && !errors.Is(err, io.EOF) {
		s.end(ReasonParseError)
	}
	// The answer is the same for a packet at fault, as it is of the reference.
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, "ok")
	return nil
}

// readBody reads a POST's body within its limits.
func (s *Session) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *httpError) {
	limit := s.srv.c.MaxPayload
	if r.ContentLength > int64(limit) {
		return nil, errTooLarge
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(s.srv.c.PingInterval + s.srv.c.PingTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(limit)))
	_ = rc.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case err != nil:
		return nil, errBadRequest
	}
	return body, nil
}

// upgrade takes a WebSocket for a session that polls. A second one, or one that
// comes too late, is answered and then closed, as clients expect it.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, sess *Session) *httpError {
	if !isUpgrade(r) {
		return errBadRequest
	}
	sess.mu.Lock()
	if sess.closed {
		sess.mu.Unlock()
		return errUnknown
	}
	p := sess.poll
	first := p != nil && !p.upgrade
	if first {
		p.upgrade = true
	}
	s.wg.Add(1) // the session's own place is held: it is open
	sess.mu.Unlock()
	c, err := wsconn.Upgrade(w, r, s.wsOptions())
	if err != nil {
		slog.Debug("socket.io: upgrade failed", "error", err)
		if first {
			sess.giveUp(p)
		}
		s.wg.Done()
		return nil
	}
	go func() {
		defer s.wg.Done()
		if !first {
			c.Close(1000, "")
			_ = c.Serve(func(bool, []byte) error { return nil })
			return
		}
		sess.serveProbe(c, p)
	}()
	return nil
}

// giveUp leaves a session whose upgrade failed with polling.
func (s *Session) giveUp(p *polling) {
	s.mu.Lock()
	p.upgrade, p.probed, p.probe = false, false, nil
	s.mu.Unlock()
}

// serveProbe reads from a WebSocket that may become the session's transport.
func (s *Session) serveProbe(c *wsconn.Conn, p *polling) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		c.Cut(wsconn.ErrGone)
		return
	}
	p.probe = c
	s.mu.Unlock()
	timeout := time.AfterFunc(s.srv.c.UpgradeTimeout, func() {
		if s.conn.Load() != c {
			c.Close(1000, "")
		}
	})
	defer timeout.Stop()
	err := c.Serve(func(binary bool, b []byte) error {
		switch {
		case s.conn.Load() == c:
			return s.fromConn(binary, b)
		case !binary && string(b) == "2probe":
			c.Send(probeAnswer.frame)
			s.probed(p)
			return nil
		case !binary && string(b) == "5" && s.switchTo(c, p):
			timeout.Stop()
			return nil
		}
		return &wsconn.CloseError{Code: 1000}
	})
	if s.conn.Load() == c {
		s.endWith(err)
		return
	}
	s.giveUp(p)
}

// probed lets the poll that waits go, and those that come not wait long: the
// client ends its polling before it upgrades.
func (s *Session) probed(p *polling) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.probed = true
	p.release()
}

// switchTo makes a WebSocket the session's transport: first what is queued goes
// through it, then whatever is sent.
func (s *Session) switchTo(c *wsconn.Conn, p *polling) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.probed || s.closed && !orderly(s.reason) {
		return false
	}
	for _, m := range p.queue {
		c.Send(m.frame)
	}
	p.queue, p.bytes = nil, 0
	if s.closed {
		c.Close(1000, "")
		return true
	}
	p.release()
	s.poll = nil
	s.conn.Store(c)
	return true
}
