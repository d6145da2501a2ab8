package crm

import (
	"context"
	"encoding/json"
	"net/http"

	"switchboard/platform/store"
	"switchboard/platform/web"
)

// traceHTTP serves
//
//	GET /crm/integration/users/{id}      what the CRM should show of a user, and how far that is
//	GET /crm/integration/users/{id}/log  what happened to the user
//	GET /crm/integration/trips/{id}      the same of a trip
//	GET /crm/integration/trips/{id}/log
type traceHTTP struct{ desk *traceService }

func (h *traceHTTP) routes(r *web.Router) {
	const about = "The id is that at the platform. What was sent is not kept, only whether it is what the CRM should show now. 404: no event of it came, or the person was erased."
	web.Register(r, web.Op{ID: "crm-trace-user", Method: http.MethodGet, Path: "/crm/integration/users/{id}", Tag: tag,
		Summary: "Tell what the CRM should show of a user, and how far that is", Description: about, Scope: "crm:read", Errors: []int{404, 422, 503}}, h.user)
	web.Register(r, web.Op{ID: "crm-trace-trip", Method: http.MethodGet, Path: "/crm/integration/trips/{id}", Tag: tag,
		Summary: "Tell what the CRM should show of a trip, and how far that is", Description: about, Scope: "crm:read", Errors: []int{404, 422, 503}}, h.trip)
	for _, k := range []kind{kindUser, kindTrip} {
		web.Register(r, web.Op{ID: "crm-" + k.String() + "-log", Method: http.MethodGet, Path: "/crm/integration" + k.collection() + "/{id}/log", Tag: tag,
			Summary: "Look up what happened to a " + k.String(),
			Description: "Oldest first: events that came, and calls to the CRM that had an effect or were refused; of a user with the trips. " +
				"From the event log's strategy sql, as long as that keeps it (crm.log.retention). An id that nothing happened to has an empty log.",
			Scope: "logs:read", Errors: []int{422, 503},
		}, func(ctx context.Context, in *traceLogInput) (*struct{ Body web.Page[LogEntry] }, error) {
			return h.log(ctx, k, in)
		})
	}
}

// TracedUser is a user and how far the CRM is with it.
type TracedUser struct {
	User crmUser `json:"user" doc:"What the CRM should show."`
	Progress
}

// TracedTrip is a trip and how far the CRM is with it.
type TracedTrip struct {
	Trip crmTrip `json:"trip" doc:"What the CRM should show."`
	Progress
}

// Progress is how far the CRM is with a user or trip.
type Progress struct {
	State         string    `json:"state" enum:"in_step,behind,waiting,refused" doc:"in_step: it was sent as it is. behind: it is to be sent. waiting: its user has not come yet. refused: it is a dead letter."`
	AtCRM         string    `json:"at_crm" enum:"unknown,tried,there" doc:"unknown: it was never sent. tried: it may be there or not."`
	CRMID         string    `json:"crm_id,omitempty" pii:"id" doc:"The id that the CRM gave, if it gives its own."`
	Current       bool      `json:"current" doc:"What was sent last is what the CRM should show now."`
	SentAt        *web.Time `json:"sent_at,omitempty" doc:"When something of it was sent last."`
	DirtySince    *web.Time `json:"dirty_since,omitempty" doc:"Since when it is to be sent."`
	NextAttemptAt *web.Time `json:"next_attempt_at,omitempty" doc:"When it is sent next, or, while it is being sent, when that is taken for lost."`
	Attempts      int64     `json:"attempts" doc:"Failed in a row, of its user with all trips."`
	LastError     string    `json:"last_error,omitempty"`
	Refusal       string    `json:"refusal,omitempty" doc:"Why the CRM refuses it."`
	Log           string    `json:"log" doc:"The sequence that its newest event is of."`
	Seq           int64     `json:"seq" doc:"The place of that event there."`
	At            web.Time  `json:"at" doc:"Of that event."`
}

func (t *traced) progress() Progress {
	p := Progress{AtCRM: [...]string{"unknown", "tried", "there"}[t.copy.state], Current: t.sent, DirtySince: microsOrNil(t.since),
		Refusal: t.turn.dead, Log: t.place.log, Seq: t.place.seq, At: web.Time(t.place.at.Time())}
	if t.copy.state != copyNone {
		p.SentAt = timeOrNil(t.copy.sentAt)
	}
	if t.copy.remote != nil {
		p.CRMID = t.remote
	}
	switch {
	case t.since != 0 && t.due != 0:
		p.State, p.NextAttemptAt, p.Attempts, p.LastError = stateBehind, microsOrNil(t.due), t.attempts, t.err
	case t.since != 0:
		p.State = "waiting"
	case t.turn.dead != "":
		p.State = "refused"
	default:
		p.State = stateInStep
	}
	return p
}

func microsOrNil(m store.Micros) *web.Time {
	if m == 0 {
		return nil
	}
	return timeOrNil(m.Time())
}

// TracedPath names a user or trip.
type TracedPath struct {
	ID string `path:"id" pii:"id" minLength:"1" maxLength:"512"`
}

func (h *traceHTTP) user(ctx context.Context, in *TracedPath) (*struct{ Body TracedUser }, error) {
	t, err := h.desk.of(ctx, kindUser, in.ID)
	if err != nil {
		return nil, err
	}
	return &struct{ Body TracedUser }{TracedUser{*t.shown.user, t.progress()}}, nil
}

func (h *traceHTTP) trip(ctx context.Context, in *TracedPath) (*struct{ Body TracedTrip }, error) {
	t, err := h.desk.of(ctx, kindTrip, in.ID)
	if err != nil {
		return nil, err
	}
	return &struct{ Body TracedTrip }{TracedTrip{*t.shown.trip, t.progress()}}, nil
}

// LogEntry is something that happened.
type LogEntry struct {
	ID     string          `json:"id"`
	Time   web.Time        `json:"time"`
	Event  string          `json:"event" example:"crm.user.updated"`
	TripID string          `json:"trip,omitempty" doc:"The opaque id of the trip that it is about."`
	Data   json.RawMessage `json:"data,omitempty" doc:"Details, by the event: log, seq and at of what came; detail of a refusal."`
}

type traceLogInput struct {
	TracedPath
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

func (h *traceHTTP) log(ctx context.Context, k kind, in *traceLogInput) (*struct{ Body web.Page[LogEntry] }, error) {
	var from logPlace
	if in.Cursor != "" {
		if err := web.ParseCursor(in.Cursor, &from); err != nil {
			return nil, err
		}
	}
	entries, more, err := h.desk.logOf(ctx, k, in.ID, from, in.Limit)
	if err != nil {
		return nil, err
	}
	items := make([]LogEntry, len(entries))
	for i, e := range entries {
		items[i] = LogEntry{ID: e.ID, Time: web.Time(e.Time), Event: e.Event, Data: e.Data}
		for _, ref := range e.Refs {
			if ref.Kind == refTrip {
				items[i].TripID = ref.ID
			}
		}
	}
	next := ""
	if more != nil {
		next = web.Cursor(*more)
	}
	return &struct{ Body web.Page[LogEntry] }{web.NewPage(items, next)}, nil
}
