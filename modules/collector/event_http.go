package collector

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/auth"
	"switchboard/platform/errs"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// eventHTTP serves
//
//	POST /collector/events         accept events
//	GET  /collector/events         query events
//	POST /collector/events/search  query events by payload
type eventHTTP struct {
	events *eventService
	guard  *auth.Guard
	now    func() time.Time
}

func (h *eventHTTP) routes(r *web.Router) {
	r.Handle(web.Op{ID: "collector-post-events", Method: http.MethodPost, Path: "/collector/events", Tag: tag,
		Summary: "Accept events",
		Description: "One event, `{\"events\":[…]}` or an array of at most 1,000. Answers once the accepted events are durable; " +
			"they are stored and queryable a moment later. One bad event never spoils its batch.",
		Scope: "collector:write", Status: http.StatusAccepted, Creates: true, KeyInQuery: true, CORS: true,
		Errors:    []int{400, 413, 422, 503, 507},
		Request:   ingestBody(r),
		Responses: map[string]*huma.Response{"202": r.ResponseOf("What became of the events.", Receipt{})},
	}, http.HandlerFunc(h.post))
	web.Register(r, web.Op{ID: "collector-list-events", Method: http.MethodGet, Path: "/collector/events", Tag: tag,
		Summary:     "Query events",
		Description: "Ordered by time of occurrence, then arrival. Filters combine; both ends of a time range are inclusive. The range may also be given as a JSON body.",
		Scope:       "collector:read", Errors: []int{422},
	}, h.list)
	web.Register(r, web.Op{ID: "collector-search-events", Method: http.MethodPost, Path: "/collector/events/search", Tag: tag,
		Summary: "Query events by payload", Scope: "collector:read", Errors: []int{422},
	}, h.search)
}

func (h *eventHTTP) post(w http.ResponseWriter, r *http.Request) {
	body, err := web.ReadBody(w, r, 0)
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	principal := auth.From(r.Context())
	switch why, err := h.unsigned(r, principal); {
	case err != nil:
		web.Fail(w, r, err)
		return
	case why != "":
		// A signature is a credential: RFC 9110 section 11.6.1 wants a challenge.
		w.Header().Set("WWW-Authenticate", "X-Signature")
		web.Problem(w, r, http.StatusUnauthorized, "X-Signature "+why, errs.Field{Location: "header.X-Signature", Message: why})
		return
	}
	batch, err := DecodeBatch(body)
	var bad *malformed
	if errors.As(err, &bad) {
		web.Problem(w, r, http.StatusBadRequest, bad.Error(), bad.Field)
		return
	}
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	seed := web.IdempotencyKey(r.Context())
	if seed != "" {
		// The body belongs to it: after a day the same key may bring another.
		seed = fmt.Sprintf("%s %s %x", principal.Key.ID, seed, sha256.Sum256(body))
	}
	receipt, err := h.events.accept(r.Context(), appOf(principal), batch, seed)
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	web.WriteJSON(w, http.StatusAccepted, receipt)
}

// appOf is the application that a key belongs to. A key that is bound to none
// speaks for an application of its own name.
func appOf(p *auth.Principal) string {
	if p.Key.App != "" {
		return p.Key.App
	}
	return p.Key.Name
}

// unbound refuses a key that web pages carry openly: it may send events, and no
// more.
func unbound(ctx context.Context) error {
	if len(auth.From(ctx).Key.Origins) > 0 {
		return errs.New(errs.Denied, "a key that is bound to origins may only send events")
	}
	return nil
}

// unsigned tells what is wrong with the signature where the key demands one.
func (h *eventHTTP) unsigned(r *http.Request, p *auth.Principal) (why string, err error) {
	if !p.Key.Signed {
		return "", nil
	}
	secret, err := h.guard.SigningSecret(r.Context(), p.Key.ID)
	if err != nil {
		return "", err
	}
	return checkSignature(r.Header.Get("X-Signature"), web.RawBody(r), secret, h.now()), nil
}

// Recorded is an event as it is given back.
type Recorded struct {
	ID         string          `json:"id" pii:"event_id"`
	SessionID  string          `json:"session_id" pii:"session_id"`
	Category   string          `json:"category"`
	Name       string          `json:"name"`
	App        string          `json:"app"`
	UserID     string          `json:"user_id,omitempty" pii:"user_id"`
	Data       json.RawMessage `json:"data" pii:"content"`
	Timestamp  web.Time        `json:"timestamp"`
	ReceivedAt web.Time        `json:"received_at"`
}

func recorded(f *found) Recorded {
	return Recorded{ID: f.ID, SessionID: f.SessionID, Category: f.Category, Name: f.Name, App: f.App, UserID: f.UserID,
		Data: f.Data, Timestamp: web.Time(f.Timestamp), ReceivedAt: web.Time(f.ReceivedAt)}
}

// EventFilter is what both ways to query have in common.
type EventFilter struct {
	SessionID string `query:"session_id" json:"session_id,omitempty" pii:"session_id" doc:"Only this session."`
	Category  string `query:"category" json:"category,omitempty" doc:"Only this category."`
	Name      string `query:"name" json:"name,omitempty" doc:"Only events of this name."`
	App       string `query:"app" json:"app,omitempty" doc:"Only events of this application."`
	From      string `query:"from" json:"from,omitempty" doc:"Only events that occurred then or later: RFC 3339, or YYYY-MM-DD HH:MM:SS[.ffffff] in UTC."`
	To        string `query:"to" json:"to,omitempty" doc:"Only events that occurred then or earlier."`
	Order     string `query:"order" json:"order,omitempty" enum:"asc,desc" default:"asc" doc:"asc is oldest first."`
	Limit     int    `query:"limit" json:"limit,omitempty" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor    string `query:"cursor" json:"cursor,omitempty" doc:"The next of the page before."`
}

// TimeRange is a range by payload, under the names that the first clients used.
type TimeRange struct {
	InitTime string `json:"init_time,omitempty" doc:"Only events that occurred then or later."`
	EndTime  string `json:"end_time,omitempty" doc:"Only events that occurred then or earlier."`
}

type listEventsInput struct {
	EventFilter
	Body *TimeRange `required:"false"`
}

type searchEventsInput struct {
	Body struct {
		EventFilter
		TimeRange
	}
}

type eventPage struct{ Body web.Page[Recorded] }

func (h *eventHTTP) list(ctx context.Context, in *listEventsInput) (*eventPage, error) {
	if in.Body == nil {
		in.Body = &TimeRange{}
	}
	return h.find(ctx, &in.EventFilter, in.Body, "query")
}

func (h *eventHTTP) search(ctx context.Context, in *searchEventsInput) (*eventPage, error) {
	return h.find(ctx, &in.Body.EventFilter, &in.Body.TimeRange, "body")
}

// eventCursor is a place in a list of events.
type eventCursor struct {
	OccurredAt int64 `json:"t"`
	Arrival    int64 `json:"a"`
	Desc       bool  `json:"d,omitempty"`
}

func (h *eventHTTP) find(ctx context.Context, f *EventFilter, body *TimeRange, where string) (*eventPage, error) {
	q := eventQuery{Category: f.Category, Name: f.Name, App: f.App, Desc: f.Order == "desc", Limit: f.Limit + 1}
	var err error
	if q.From, q.To, err = span(timeField{where + ".from", f.From}, timeField{"body.init_time", body.InitTime},
		timeField{where + ".to", f.To}, timeField{"body.end_time", body.EndTime}); err != nil {
		return nil, err
	}
	if f.SessionID != "" {
		index := [16]byte(h.events.keys.Index("session_id", f.SessionID))
		q.Session = &index
	}
	if f.Cursor != "" {
		var c eventCursor
		if web.ParseCursor(f.Cursor, &c) != nil {
			return nil, errs.InvalidFields("the cursor is not one of this list", errs.Field{Location: where + ".cursor", Message: "is not a cursor that this list gave"})
		}
		if c.Desc != q.Desc {
			return nil, errs.InvalidFields("the cursor belongs to the other order", errs.Field{Location: where + ".cursor", Message: "belongs to the other order"})
		}
		q.After = &position{store.Micros(c.OccurredAt), c.Arrival}
	}
	return h.page(ctx, q)
}

// page answers a query whose Limit is one more than the page holds.
func (h *eventHTTP) page(ctx context.Context, q eventQuery) (*eventPage, error) {
	events, more, last, err := h.events.findPage(ctx, q)
	if err != nil {
		return nil, err
	}
	items := make([]Recorded, len(events))
	for i := range events {
		items[i] = recorded(&events[i])
	}
	next := ""
	if more {
		next = web.Cursor(eventCursor{int64(last.OccurredAt), last.Arrival, q.Desc})
	}
	return &eventPage{web.NewPage(items, next)}, nil
}

// timeField is a time in a request and where it stands.
type timeField struct{ at, value string }

// span reads a time range of which each end may be given in two places; the
// narrower one counts.
func span(from1, from2, to1, to2 timeField) (from, to *time.Time, err error) {
	var fields []errs.Field
	read := func(f timeField) *time.Time {
		if f.value == "" {
			return nil
		}
		t, err := ParseTimestamp(f.value)
		if err != nil {
			fields = append(fields, errs.Field{Location: f.at, Message: err.Error()})
		}
		return &t
	}
	from, to = read(from1), read(to1)
	if t := read(from2); t != nil && (from == nil || t.After(*from)) {
		from = t
	}
	if t := read(to2); t != nil && (to == nil || t.Before(*to)) {
		to = t
	}
	if len(fields) > 0 {
		return nil, nil, errs.InvalidFields("the time range is not valid", fields...)
	}
	return from, to, nil
}
