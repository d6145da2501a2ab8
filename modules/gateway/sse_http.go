package gateway

import (
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/web"
)

// sseHTTP serves
//
//	GET /gateway/sse events as Server-Sent Events (WHATWG HTML, section 9.2)
type sseHTTP struct {
	cfg     *Config
	sockets *socketService
}

func (h *sseHTTP) routes(r *web.Router) {
	r.Handle(web.Op{ID: "gateway-sse", Method: http.MethodGet, Path: "/gateway/sse", Tag: tag,
		Summary: "Receive events as Server-Sent Events",
		Description: "Credential as a header, `?key=` or `?token=`; rooms as `?room=` or `?rooms=a,b`. Each message is `{\"id\",\"event\",\"room\",\"data\",\"offset\"}`; " +
			"its id is the offset, so that Last-Event-ID delivers what was missed. A message of the event `gap` says that it cannot.",
		Scope: "gateway:connect", OwnAuth: true, Stream: true, Errors: []int{401, 403, 503},
		Responses: map[string]*huma.Response{"200": {Description: "A stream that does not end.", Content: map[string]*huma.MediaType{"text/event-stream": {}}}},
	}, http.HandlerFunc(h.get))
}

// sseSocket is a receiver at the end of a stream of Server-Sent Events.
type sseSocket struct {
	max   int
	wake  chan struct{}
	abort func() // ends a write that waits for the receiver

	mu    sync.Mutex
	queue [][]byte
	bytes int
	ended string // why it was cut
}

func (s *sseSocket) deliver(d *delivery) { s.add(d.sse()) }

// add queues a message, or cuts a receiver that is too far behind.
func (s *sseSocket) add(text []byte) {
	s.mu.Lock()
	full := s.bytes >= s.max
	if s.ended == "" && !full {
		s.queue = append(s.queue, text)
		s.bytes += len(text)
	}
	s.mu.Unlock()
	if full {
		s.cut(reasonSlow)
		return
	}
	s.nudge()
}

// idle queues a beat. A socket to which something is on its way needs none, and
// its id would be behind that.
func (s *sseSocket) idle(text []byte) {
	s.mu.Lock()
	empty := len(s.queue) == 0
	if empty && s.ended == "" {
		s.queue = append(s.queue, text)
	}
	s.mu.Unlock()
	s.nudge()
}

func (s *sseSocket) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sseSocket) cut(reason string) {
	s.mu.Lock()
	first := s.ended == ""
	if first {
		s.ended, s.queue, s.bytes = reason, nil, 0
	}
	s.mu.Unlock()
	if first {
		s.abort()
		s.nudge()
	}
}

func (s *sseSocket) queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

func (s *sseSocket) transport() string { return "sse" }

// take gives all that waits.
func (s *sseSocket) take() (queue [][]byte, ended string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue, s.queue, s.bytes = s.queue, nil, 0
	return queue, s.ended
}

func (h *sseHTTP) get(w http.ResponseWriter, r *http.Request) {
	adm, gap := admitHTTP(w, r, h.cfg, h.sockets)
	if adm == nil {
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	if origin := r.Header.Get("Origin"); origin != "" {
		header.Set("Access-Control-Allow-Origin", origin)
		header.Add("Vary", "Origin")
	}
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	out := &sseSocket{max: int(h.cfg.MaxQueue), wake: make(chan struct{}, 1), abort: func() { _ = flush.SetWriteDeadline(time.Now()) }}
	begin := h.sockets.start(adm)
	if !h.sockets.enter(adm, out) {
		adm.back, gap = nil, true
		h.sockets.enter(adm, out)
	}
	// An id without data moves the client's Last-Event-ID on.
	out.add(beat(begin))
	if gap {
		out.add([]byte("event: gap\ndata: {}\n\n"))
	}
	h.sockets.open(adm)
	h.sockets.left(adm.socket, h.write(w, r, flush, out))
}

func beat(place string) []byte { return []byte(": still here\nid: " + place + "\n\n") }

// write sends what comes until one side ends it, and says why.
func (h *sseHTTP) write(w http.ResponseWriter, r *http.Request, flush *http.ResponseController, out *sseSocket) (reason string) {
	quiet := time.NewTicker(h.cfg.PingInterval)
	defer quiet.Stop()
	for {
		queue, ended := out.take()
		if ended != "" {
			return ended
		}
		if len(queue) > 0 {
			_ = flush.SetWriteDeadline(time.Now().Add(h.cfg.WriteTimeout)) // where it cannot be set there is none
		}
		for _, text := range queue {
			if _, err := w.Write(text); err != nil {
				if _, ended := out.take(); ended != "" {
					return ended
				}
				return reasonSlow
			}
		}
		if len(queue) > 0 && flush.Flush() != nil {
			return "transport close"
		}
		select {
		case <-r.Context().Done():
			return "transport close"
		case <-out.wake:
		case <-quiet.C:
			out.idle(beat(offset(h.sockets.hub.place())))
		}
	}
}
