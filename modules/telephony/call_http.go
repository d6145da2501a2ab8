package telephony

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/errs"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// callHTTP serves
//
//	GET /telephony/calls                   query calls
//	GET /telephony/calls/{call_id}         one call
//	GET /telephony/calls/{call_id}/events  its events
//	GET /telephony/events                  the log, or the events of a dialling
type callHTTP struct {
	calls       *callService
	events      *eventService
	delegations *delegationService
}

func (h *callHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "telephony-list-calls", Method: http.MethodGet, Path: "/telephony/calls", Tag: tag,
		Summary: "Query calls", Description: "Newest first. Filters combine.", Scope: "telephony:read", Errors: []int{422}}, h.list)
	web.Register(r, web.Op{ID: "telephony-get-call", Method: http.MethodGet, Path: "/telephony/calls/{call_id}", Tag: tag,
		Summary: "Get a call", Scope: "telephony:read", Errors: []int{404}}, h.get)
	web.Register(r, web.Op{ID: "telephony-list-call-events", Method: http.MethodGet, Path: "/telephony/calls/{call_id}/events", Tag: tag,
		Summary: "List the events of a call", Description: "Each as it was posted, in the order of the log.", Scope: "telephony:read", Errors: []int{404, 422}}, h.listEvents)
	web.Register(r, web.Op{ID: "telephony-list-events", Method: http.MethodGet, Path: "/telephony/events", Tag: tag,
		Summary: "Read the call log", Description: "Newest first, also what belongs to no call.", Scope: "telephony:read", Errors: []int{422}}, h.log)
}

// Call is a call as it is given back.
type Call struct {
	ID              int64    `json:"id" doc:"Place of its first event in the log."`
	CallID          string   `json:"call_id" pii:"content"`
	State           string   `json:"state" enum:"NEW,STANDBY,WAITING,ONGOING,FINISHED"`
	Outcome         string   `json:"outcome,omitempty" enum:"answered,abandoned,overflow,forwarded,unanswered"`
	Direction       string   `json:"direction,omitempty" enum:"inbound,outbound"`
	OurNumber       string   `json:"our_number,omitempty" pii:"phone"`
	TheirNumber     string   `json:"their_number,omitempty" pii:"phone" doc:"Empty once the person was erased."`
	TheirNumberType string   `json:"their_number_type,omitempty" pii:"content"`
	Queue           string   `json:"queue,omitempty" doc:"The last queue it waited in."`
	Code            string   `json:"code,omitempty" pii:"content"`
	CreatedAt       web.Time `json:"created_at" doc:"When the earliest of its events happened."`
	UpdatedAt       web.Time `json:"updated_at" doc:"When the latest of its events happened."`
	WaitSeconds     *float64 `json:"wait_seconds,omitempty" doc:"From the queue, or from standing by, to the answer or the end."`
	TalkSeconds     *float64 `json:"talk_seconds,omitempty" doc:"From call.ongoing to call.finished."`
	Events          int64    `json:"events" doc:"How many events it has."`
}

// CallDetail is a call with what was done about it.
type CallDetail struct {
	Call
	Delegation *Delegation `json:"delegation,omitempty"`
	Actors     []CallActor `json:"actors" doc:"Who was asked to answer it, and who did."`
}

// Delegation is what was asked of the platform when a call stood by.
type Delegation struct {
	State       string    `json:"state" enum:"pending,delegated,refused,expired,skipped,manual"`
	Destination string    `json:"destination,omitempty"`
	Customer    string    `json:"customer" enum:"new,returning"`
	Attempts    int64     `json:"attempts"`
	DueAt       web.Time  `json:"due_at"`
	SettledAt   *web.Time `json:"settled_at,omitempty"`
	Detail      string    `json:"detail,omitempty"`
}

// CallActor is somebody's part in a call.
type CallActor struct {
	Actor       string  `json:"actor" pii:"actor"`
	Rings       int64   `json:"rings"`
	NoAnswers   int64   `json:"no_answers"`
	Answers     int64   `json:"answers"`
	TalkSeconds float64 `json:"talk_seconds"`
}

func shown(c *foundCall) Call {
	out := Call{ID: c.ID, CallID: c.CallID, State: c.State.String(), Outcome: c.Outcome.String(), Direction: c.Direction.String(),
		OurNumber: c.OurNumber, TheirNumber: c.TheirNumber, TheirNumberType: c.TheirNumberType, Queue: c.Queue, Code: c.Code,
		CreatedAt: web.Time(c.CreatedAt), UpdatedAt: web.Time(c.UpdatedAt), Events: c.Facts.Events}
	seconds := func(d time.Duration) *float64 {
		s := d.Seconds()
		return &s
	}
	if c.Waited {
		out.WaitSeconds = seconds(c.Wait)
	}
	if c.Talked {
		out.TalkSeconds = seconds(c.Talk)
	}
	return out
}

type listCallsInput struct {
	State       string    `query:"state" enum:"NEW,STANDBY,WAITING,ONGOING,FINISHED" doc:"Only calls in this state."`
	Direction   string    `query:"direction" enum:"inbound,outbound" doc:"Only calls of this direction."`
	TheirNumber string    `query:"their_number" pii:"phone" doc:"Only calls with this number."`
	OurNumber   string    `query:"our_number" pii:"phone" doc:"Only calls of this number of ours."`
	Queue       string    `query:"queue" doc:"Only calls whose last queue was this one."`
	From        time.Time `query:"from" doc:"Only calls that began then or later, RFC 3339."`
	To          time.Time `query:"to" doc:"Only calls that began then or earlier."`
	Active      string    `query:"active" enum:"true,false" doc:"true: only calls that are not finished; false: only finished ones."`
	Limit       int       `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor      string    `query:"cursor" doc:"The next of the page before."`
}

type callPage struct{ Body web.Page[Call] }

// callCursor is a place in a list of calls.
type callCursor struct {
	CreatedAt int64 `json:"t"`
	ID        int64 `json:"i"`
}

func (h *callHTTP) list(ctx context.Context, in *listCallsInput) (*callPage, error) {
	q := callQuery{State: parseState(in.State), Direction: parseDirection(in.Direction), Queue: in.Queue, Limit: in.Limit}
	if in.TheirNumber != "" {
		index := h.events.numberIndex(in.TheirNumber)
		q.Their = &index
	}
	if in.OurNumber != "" {
		index := h.events.numberIndex(in.OurNumber)
		q.Our = &index
	}
	if !in.From.IsZero() {
		q.From = &in.From
	}
	if !in.To.IsZero() {
		q.To = &in.To
	}
	switch {
	case in.Active == "true":
		if q.State == stateFinished {
			q.Any = []callMatch{{None: true}}
		}
		q.Active = true
	case in.Active == "false":
		if q.State != 0 && q.State != stateFinished {
			q.Any = []callMatch{{None: true}}
		}
		q.State = stateFinished
	}
	if in.Cursor != "" {
		var c callCursor
		if web.ParseCursor(in.Cursor, &c) != nil {
			return nil, errs.InvalidFields("the cursor is not one of this list", errs.Field{Location: "query.cursor", Message: "is not a cursor that this list gave"})
		}
		q.Before = &callPosition{store.Micros(c.CreatedAt), c.ID}
	}
	calls, more, err := h.calls.find(ctx, q)
	if err != nil {
		return nil, err
	}
	items := make([]Call, len(calls))
	for i := range calls {
		items[i] = shown(&calls[i])
	}
	next := ""
	if more {
		last := &calls[len(calls)-1]
		next = web.Cursor(callCursor{last.CreatedAt.UnixMicro(), last.ID})
	}
	return &callPage{web.NewPage(items, next)}, nil
}

// CallPath names a call in an address.
type CallPath struct {
	CallID string `path:"call_id" pii:"content"`
}

type callOutput struct{ Body CallDetail }

func (h *callHTTP) get(ctx context.Context, in *CallPath) (*callOutput, error) {
	c, err := h.calls.get(ctx, in.CallID)
	if err != nil {
		return nil, err
	}
	out := CallDetail{Call: shown(c)}
	if out.Actors, err = h.actors(ctx, c); err != nil {
		return nil, err
	}
	d, err := h.delegations.get(ctx, h.events.callIndex(in.CallID))
	if err != nil {
		return nil, err
	}
	if d != nil {
		out.Delegation = shownDelegation(d)
	}
	return &callOutput{out}, nil
}

// actors reads the names of a call's actors out of its events.
func (h *callHTTP) actors(ctx context.Context, c *foundCall) ([]CallActor, error) {
	out := []CallActor{}
	if len(c.Actors) == 0 {
		return out, nil
	}
	call := h.events.callIndex(c.CallID)
	page, _, err := h.events.find(ctx, eventQuery{Call: &call, Limit: 1000})
	if err != nil {
		return nil, err
	}
	done := map[string]bool{}
	for _, e := range page {
		var said actorName
		if json.Unmarshal(e.Event, &said) != nil || said.Actor == "" || done[said.Actor] {
			continue
		}
		done[said.Actor] = true
		if a := c.Actors[person(h.events.keys.Index("actor", said.Actor))]; a != nil {
			out = append(out, CallActor{said.Actor, a.Rings, a.NoAnswers, a.Answers, a.Talk.Seconds()})
		}
	}
	slices.SortFunc(out, func(a, b CallActor) int { return strings.Compare(a.Actor, b.Actor) })
	return out, nil
}

// LoggedEvent is an event of the call log.
type LoggedEvent struct {
	ID         int64           `json:"id" doc:"Its place in the log."`
	UUID       uuid.UUID       `json:"uuid"`
	Event      json.RawMessage `json:"event" pii:"content" doc:"As it was posted."`
	ReceivedAt web.Time        `json:"received_at"`
}

type listEventsInput struct {
	CallPath
	PageInput
}

// PageInput is what every list takes.
type PageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

type eventPage struct{ Body web.Page[LoggedEvent] }

// eventCursor is a place in the log.
type eventCursor struct {
	ID int64 `json:"i"`
}

func (h *callHTTP) listEvents(ctx context.Context, in *listEventsInput) (*eventPage, error) {
	if _, err := h.calls.get(ctx, in.CallID); err != nil {
		return nil, err
	}
	call := h.events.callIndex(in.CallID)
	return h.page(ctx, eventQuery{Call: &call}, in.PageInput)
}

type logInput struct {
	Code string `query:"code" pii:"content" doc:"Only dialler events with this code."`
	PageInput
}

func (h *callHTTP) log(ctx context.Context, in *logInput) (*eventPage, error) {
	q := eventQuery{Desc: true}
	if in.Code != "" {
		code := h.events.keys.Index("code", in.Code)
		q.Code = &code
	}
	return h.page(ctx, q, in.PageInput)
}

func (h *callHTTP) page(ctx context.Context, q eventQuery, in PageInput) (*eventPage, error) {
	q.Limit = in.Limit
	if in.Cursor != "" {
		var c eventCursor
		if web.ParseCursor(in.Cursor, &c) != nil || c.ID < 1 {
			return nil, errs.InvalidFields("the cursor is not one of this list", errs.Field{Location: "query.cursor", Message: "is not a cursor that this list gave"})
		}
		q.After = c.ID
	}
	page, last, err := h.events.page(ctx, q)
	if err != nil {
		return nil, err
	}
	items := make([]LoggedEvent, len(page))
	for i, e := range page {
		items[i] = LoggedEvent{e.ID, e.UUID, e.Event, web.Time(e.ReceivedAt)}
	}
	next := ""
	if last > 0 {
		next = web.Cursor(eventCursor{last})
	}
	return &eventPage{web.NewPage(items, next)}, nil
}
