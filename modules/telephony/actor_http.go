package telephony

import (
	"context"
	"net/http"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// actorHTTP serves
//
//	GET /telephony/actors who is logged in, paused, on a call
//	GET /telephony/queues who waits, who could answer, and the day's figures
type actorHTTP struct{ actors *actorService }

func (h *actorHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "telephony-list-actors", Method: http.MethodGet, Path: "/telephony/actors", Tag: tag,
		Summary: "List who answers calls",
		Description: "Everybody whom an event named, in an order that is fixed but not that of the names. " +
			"An actor is on a call from entering it until leaving it or its end, and paused if paused in every queue that he is logged in to. A pause ends with the login it was in.",
		Scope: "telephony:read", Errors: []int{422}}, h.list)
	web.Register(r, web.Op{ID: "telephony-list-queues", Method: http.MethodGet, Path: "/telephony/queues", Tag: tag,
		Summary: "List queues, with who waits and who could answer",
		Description: "By name: queues that calls are in, that actors logged in to, or that calls came to since from. " +
			"Only calls that began in the last 24 hours count as waiting or ongoing; of an older one the end was never told. " +
			"Hours count whole: from is cut to the hour that it lies in.",
		Scope: "telephony:read", Errors: []int{422}}, h.queues)
}

// Actor is somebody who answers calls.
type Actor struct {
	Actor    *string        `json:"actor" pii:"actor" doc:"As it was posted; null for somebody who was erased."`
	Number   string         `json:"number,omitempty" pii:"number" doc:"Where he was reached last."`
	Queues   []ActorInQueue `json:"queues" nullable:"false"`
	LoggedIn bool           `json:"logged_in" doc:"To any queue."`
	Paused   bool           `json:"paused" doc:"In every queue that he is logged in to."`
	OnCall   bool           `json:"on_call"`
	CallID   string         `json:"call_id,omitempty" doc:"Of the call that he is on."`
	Since    *web.Time      `json:"since,omitempty" doc:"When what he does now began: the call, the pause, the wait for a call or the time without a login."`
}

// ActorInQueue is an actor in a queue that he has been in.
type ActorInQueue struct {
	Queue      string    `json:"queue"`
	LoggedIn   bool      `json:"logged_in"`
	LoggedInAt *web.Time `json:"logged_in_at" doc:"null if he is not logged in."`
	Paused     bool      `json:"paused"`
	PausedAt   *web.Time `json:"paused_at" doc:"null if he is not paused."`
}

// timeIf gives a time that means something, nil for one that does not.
func timeIf(means bool, at store.Micros) *web.Time {
	if !means || at == 0 {
		return nil
	}
	t := web.Time(at.Time())
	return &t
}

type listActorsInput struct {
	Queue    string `query:"queue" doc:"Only who has ever logged in to this queue."`
	LoggedIn string `query:"logged_in" enum:"true,false" doc:"Only who is logged in, or is not: to queue if that is given, else to any."`
	OnCall   string `query:"on_call" enum:"true,false" doc:"Only who is on a call, or is not."`
	Limit    int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor   string `query:"cursor" doc:"The next of the page before."`
}

// actorCursor is the last actor of a page.
type actorCursor struct {
	Actor []byte `json:"a"`
}

func (h *actorHTTP) list(ctx context.Context, in *listActorsInput) (*struct{ Body web.Page[Actor] }, error) {
	q := actorQuery{Queue: in.Queue, LoggedIn: yesOrNo(in.LoggedIn), OnCall: yesOrNo(in.OnCall), Limit: in.Limit}
	if in.Cursor != "" {
		var c actorCursor
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
		if len(c.Actor) != len(seal.Index{}) {
			return nil, errs.InvalidFields("the cursor is not one of this list", errs.Field{Location: "query.cursor", Message: "is not a cursor that this list gave"})
		}
		q.After = c.Actor
	}
	found, more, err := h.actors.list(ctx, q)
	if err != nil {
		return nil, err
	}
	next := ""
	if more {
		next = web.Cursor(actorCursor{found[len(found)-1].Actor[:]})
	}
	items := make([]Actor, len(found))
	for i := range found {
		items[i] = found[i].show()
	}
	return &struct{ Body web.Page[Actor] }{web.NewPage(items, next)}, nil
}

func (a *foundActor) show() Actor {
	out := Actor{Queues: make([]ActorInQueue, len(a.Queues)), OnCall: a.OnCall, CallID: a.CallID, Since: timeIf(true, a.Since)}
	out.LoggedIn, out.Paused = a.loggedIn()
	if a.Name != nil {
		out.Actor, out.Number = &a.Name.Actor, a.Name.Number
	}
	for i, q := range a.Queues {
		out.Queues[i] = ActorInQueue{Queue: q.Queue, LoggedIn: q.LoggedIn, LoggedInAt: timeIf(q.LoggedIn, q.LoggedAt), Paused: q.Paused, PausedAt: timeIf(q.Paused, q.PausedAt)}
	}
	return out
}

func yesOrNo(text string) *bool {
	if text == "" {
		return nil
	}
	yes := text == "true"
	return &yes
}

// Queue is what is going on in a queue.
type Queue struct {
	Queue          string   `json:"queue"`
	Waiting        int64    `json:"waiting" doc:"Calls that wait now."`
	LongestWait    float64  `json:"longest_wait_seconds" doc:"How long the caller has waited who waits longest, also in queues before this one; 0 if nobody waits."`
	Ongoing        int64    `json:"ongoing" doc:"Calls that somebody talks in now."`
	Agents         Agents   `json:"agents"`
	From           web.Time `json:"from" doc:"Since when the figures below count."`
	Calls          int64    `json:"calls"`
	Offered        int64    `json:"offered"`
	Answered       int64    `json:"answered"`
	AnsweredInTime int64    `json:"answered_in_time"`
	Abandoned      int64    `json:"abandoned"`
	AbandonRate    *float64 `json:"abandon_rate" doc:"Abandoned of those offered, 0 to 1; null if none was."`
	ServiceLevel   *float64 `json:"service_level" doc:"Answered in time of those offered; null if none was."`
	Wait           Sum      `json:"wait_seconds"`
	Talk           Sum      `json:"talk_seconds"`
}

// Agents are the actors of a queue, counted.
type Agents struct {
	LoggedIn int64 `json:"logged_in"`
	Paused   int64 `json:"paused"`
	OnCall   int64 `json:"on_call" doc:"Those logged in who are on any call, and others who are on a call of the queue."`
	Free     int64 `json:"free" doc:"Logged in, not paused and not on a call."`
}

type listQueuesInput struct {
	From   string `query:"from" doc:"Count calls since then, RFC 3339; by default since midnight UTC. At most 366 days back."`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

// queueCursor is the last queue of a page, and since when its figures count.
type queueCursor struct {
	Queue string `json:"q"`
	From  int64  `json:"f"`
}

func (h *actorHTTP) queues(ctx context.Context, in *listQueuesInput) (*struct{ Body web.Page[Queue] }, error) {
	from, err := timeParam("from", in.From)
	if err != nil {
		return nil, err
	}
	var c queueCursor
	if in.Cursor != "" {
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
		if from.IsZero() {
			from = store.Micros(c.From).Time()
		}
	}
	found, begin, more, err := h.actors.queues(ctx, from, c.Queue, in.Limit)
	if err != nil {
		return nil, err
	}
	next := ""
	if more {
		next = web.Cursor(queueCursor{found[len(found)-1].Queue, int64(begin)})
	}
	items := make([]Queue, len(found))
	for i, q := range found {
		s := q.Since
		items[i] = Queue{Queue: q.Queue, Waiting: q.Waiting, LongestWait: q.LongestWait.Round(time.Microsecond).Seconds(), Ongoing: q.Ongoing,
			Agents: Agents{q.LoggedIn, q.Paused, q.OnCall, q.Free}, From: web.Time(begin.Time()), Calls: s.Calls, Offered: s.Offered, Answered: s.Answered,
			AnsweredInTime: s.InTime, Abandoned: s.Abandoned, AbandonRate: ratio(float64(s.Abandoned), s.Offered), ServiceLevel: ratio(float64(s.InTime), s.Offered),
			Wait: sumOf(s.WaitUS, s.Waits), Talk: sumOf(s.TalkUS, s.Talks)}
	}
	return &struct{ Body web.Page[Queue] }{web.NewPage(items, next)}, nil
}
