package collector

import (
	"context"
	"net/http"

	"switchboard/platform/store"
	"switchboard/platform/web"
)

// sessionHTTP serves
//
//	GET /collector/sessions              list sessions
//	GET /collector/sessions/{session_id} one session and its events
type sessionHTTP struct {
	events *eventService
	pages  *eventHTTP
}

func (h *sessionHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "collector-list-sessions", Method: http.MethodGet, Path: "/collector/sessions", Tag: tag,
		Summary: "List sessions", Description: "Newest first, by the time of their first event.",
		Scope: "collector:read", Errors: []int{422},
	}, h.list)
	web.Register(r, web.Op{ID: "collector-get-session", Method: http.MethodGet, Path: "/collector/sessions/{session_id}", Tag: tag,
		Summary: "Get a session with its events in order", Scope: "collector:read", Errors: []int{404, 422},
	}, h.get)
}

// Session is a session as it is given back.
type Session struct {
	SessionID  string   `json:"session_id" pii:"session_id"`
	FirstAt    web.Time `json:"first_at" doc:"Time of the earliest event."`
	LastAt     web.Time `json:"last_at" doc:"Time of the latest event."`
	Events     int64    `json:"events" doc:"How many events the session has had."`
	Apps       []string `json:"apps"`
	Categories []string `json:"categories"`
}

func sessionOf(s *session) Session {
	return Session{SessionID: s.SessionID, FirstAt: web.Time(s.FirstAt), LastAt: web.Time(s.LastAt), Events: s.Events, Apps: s.Apps, Categories: s.Categories}
}

type listSessionsInput struct {
	From   string `query:"from" doc:"Only sessions that began then or later."`
	To     string `query:"to" doc:"Only sessions that began then or earlier."`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

type sessionCursor struct {
	FirstAt int64  `json:"t"`
	Session []byte `json:"s"`
}

func (h *sessionHTTP) list(ctx context.Context, in *listSessionsInput) (*struct{ Body web.Page[Session] }, error) {
	q := sessionQuery{Limit: in.Limit + 1}
	var err error
	if q.From, q.To, err = span(timeField{"query.from", in.From}, timeField{}, timeField{"query.to", in.To}, timeField{}); err != nil {
		return nil, err
	}
	if in.Cursor != "" {
		var c sessionCursor
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
		q.After = &sessionPosition{FirstAt: store.Micros(c.FirstAt)}
		copy(q.After.Session[:], c.Session)
	}
	sessions, more, last, err := h.events.findSessions(ctx, q)
	if err != nil {
		return nil, err
	}
	items := make([]Session, len(sessions))
	for i := range sessions {
		items[i] = sessionOf(&sessions[i])
	}
	next := ""
	if more {
		next = web.Cursor(sessionCursor{int64(last.FirstAt), last.Session[:]})
	}
	return &struct{ Body web.Page[Session] }{web.NewPage(items, next)}, nil
}

type getSessionInput struct {
	SessionID string `path:"session_id" pii:"session_id"`
	Order     string `query:"order" enum:"asc,desc" default:"asc" doc:"asc is oldest first."`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Events per page."`
	Cursor    string `query:"cursor" doc:"The next of the page before."`
}

// SessionEvents is one session with a page of its events.
type SessionEvents struct {
	Session
	web.Page[Recorded]
}

func (h *sessionHTTP) get(ctx context.Context, in *getSessionInput) (*struct{ Body SessionEvents }, error) {
	s, err := h.events.findSession(ctx, in.SessionID)
	if err != nil {
		return nil, err
	}
	page, err := h.pages.find(ctx, &EventFilter{SessionID: in.SessionID, Order: in.Order, Limit: in.Limit, Cursor: in.Cursor}, &TimeRange{}, "query")
	if err != nil {
		return nil, err
	}
	return &struct{ Body SessionEvents }{SessionEvents{sessionOf(s), page.Body}}, nil
}
