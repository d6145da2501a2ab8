package telephony

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// statHTTP serves
//
//	GET /telephony/stats what came of calls, by hour, queue and actor
type statHTTP struct{ stats *statService }

func (h *statHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "telephony-stats", Method: http.MethodGet, Path: "/telephony/stats", Tag: tag,
		Summary: "Count calls, waits and talks",
		Description: "From counters kept as events are stored. A call counts in the hour of its first event and for the queue that it waited in last; one that came to no queue has the queue \"\". " +
			"Hours count whole: from is cut to the hour it lies in, and the last hour is the one that to lies in or ends. " +
			"Ordered by hour, queue and actor, as far as asked for; the order of actors is fixed but not that of their names. " +
			"total covers all that the filters select, on whatever page. Grouped by actor or for one actor the items tell what actors did: " +
			"a call that rang at two actors is in the figures of both, and once in the total.",
		Scope: "telephony:read", Errors: []int{422}}, h.get)
}

// Stat is what was counted for a group.
type Stat struct {
	Hour     *web.Time `json:"hour,omitempty" doc:"Its beginning; with by=hour."`
	Queue    *string   `json:"queue,omitempty" doc:"With by=queue; empty for calls that came to no queue."`
	Calls    int64     `json:"calls" doc:"Calls; of an actor those that rang at him or that he took."`
	Answered int64     `json:"answered"`
	Talk     Sum       `json:"talk_seconds" doc:"Of a call from its beginning to its end, once it is over; of an actor from each entering to the leaving."`
	*StatCalls
	*StatActor
}

// StatCalls is what is counted of calls alone.
type StatCalls struct {
	Offered        int64    `json:"offered" required:"false" doc:"Calls that came to a queue."`
	AnsweredInTime int64    `json:"answered_in_time" required:"false" doc:"Answered after a wait of at most telephony.service_level."`
	Abandoned      int64    `json:"abandoned" required:"false" doc:"Calls whose caller hung up while waiting."`
	Overflowed     int64    `json:"overflowed" required:"false" doc:"Calls that the queue sent on because it was full or the wait too long, whatever became of them."`
	Forwarded      int64    `json:"forwarded" required:"false" doc:"Calls that followed somebody to another number, whatever became of them."`
	Unanswered     int64    `json:"unanswered" required:"false" doc:"Calls that ended before they came to a queue."`
	AbandonRate    *float64 `json:"abandon_rate" required:"false" doc:"Abandoned of those offered, 0 to 1; null if none was."`
	ServiceLevel   *float64 `json:"service_level" required:"false" doc:"Answered in time of those offered; null if none was."`
	Wait           Sum      `json:"wait_seconds" required:"false" doc:"From the queue, or standing by, to the answer or the end."`
}

// StatActor is what is counted of actors alone.
type StatActor struct {
	Actor     *string `json:"actor" required:"false" pii:"actor" doc:"As it was posted; null for somebody who was erased."`
	Rings     int64   `json:"rings" required:"false"`
	NoAnswers int64   `json:"no_answers" required:"false"`
}

// Sum is a sum of times.
type Sum struct {
	Total   float64  `json:"total" doc:"In seconds."`
	Average *float64 `json:"average" doc:"In seconds; null if there is nothing to average."`
}

func sumOf(micros, n int64) Sum {
	total := float64(micros) / 1e6
	return Sum{total, ratio(total, n)}
}

// ratio is part of whole, nil if there is no whole.
func ratio(part float64, whole int64) *float64 {
	if whole <= 0 {
		return nil
	}
	r := part / float64(whole)
	return &r
}

func statOf(c counter, ofActors bool) Stat {
	s := Stat{Calls: c.Calls, Answered: c.Answered, Talk: sumOf(c.TalkUS, c.Talks)}
	if ofActors {
		s.StatActor = &StatActor{Rings: c.Rings, NoAnswers: c.NoAnswers}
		return s
	}
	s.StatCalls = &StatCalls{Offered: c.Offered, AnsweredInTime: c.InTime, Abandoned: c.Abandoned, Overflowed: c.Overflowed, Forwarded: c.Forwarded,
		Unanswered: c.Unanswered, AbandonRate: ratio(float64(c.Abandoned), c.Offered), ServiceLevel: ratio(float64(c.InTime), c.Offered), Wait: sumOf(c.WaitUS, c.Waits)}
	return s
}

// StatPage is a page of statistics.
type StatPage struct {
	From  web.Time `json:"from" doc:"Beginning of the first hour that counts."`
	To    web.Time `json:"to" doc:"End of the last hour that counts."`
	Total Stat     `json:"total" doc:"All that the filters select."`
	Items []Stat   `json:"items" nullable:"false" doc:"The groups of this page; without by the total alone."`
	Next  *string  `json:"next" doc:"Give it as cursor to get the next page; null on the last one."`
}

type statInput struct {
	From   string   `query:"from" doc:"RFC 3339; by default 24 hours before to. At most 366 days before it."`
	To     string   `query:"to" doc:"RFC 3339; by default now."`
	Queue  string   `query:"queue" doc:"Only calls of this queue."`
	Actor  string   `query:"actor" pii:"actor" doc:"Only what this actor did; the name as it was posted."`
	By     []string `query:"by" enum:"hour,queue,actor" doc:"What to group by, separated by commas."`
	Limit  int      `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string   `query:"cursor" doc:"The next of the page before."`
}

// statCursor bears the range as well: without one in the query it would move
// with the clock from page to page.
type statCursor struct {
	From  int64  `json:"f"`
	To    int64  `json:"t"`
	Hour  int64  `json:"h,omitempty"`
	Queue string `json:"q,omitempty"`
	Actor []byte `json:"a,omitempty"`
}

func (h *statHTTP) get(ctx context.Context, in *statInput) (*struct{ Body StatPage }, error) {
	q := statQuery{Queue: in.Queue, Limit: in.Limit}
	for _, by := range in.By {
		switch strings.TrimSpace(by) {
		case "hour":
			q.By.Hour = true
		case "queue":
			q.By.Queue = true
		case "actor":
			q.By.Actor = true
		}
	}
	if in.Actor != "" {
		x := h.stats.actorIndex(in.Actor)
		q.Actor = &x
	}
	from, err := timeParam("from", in.From)
	if err != nil {
		return nil, err
	}
	to, err := timeParam("to", in.To)
	if err != nil {
		return nil, err
	}
	if in.Cursor != "" {
		var c statCursor
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
		q.After = &statPosition{store.Micros(c.Hour), c.Queue, c.Actor}
		if from.IsZero() {
			from = store.Micros(c.From).Time()
		}
		if to.IsZero() {
			to = store.Micros(c.To).Time()
		}
	}
	if from, to, err = h.stats.span(from, to); err != nil {
		return nil, err
	}
	q.From, q.To = wholeHours(from, to)
	rows, more, total, err := h.stats.list(ctx, q)
	if err != nil {
		return nil, err
	}
	page := StatPage{From: web.Time(q.From.Time()), To: web.Time(q.To.Time()), Items: make([]Stat, len(rows)), Total: statOf(total, in.Actor != "")}
	if page.Total.StatActor != nil {
		page.Total.Actor = &in.Actor
	}
	for i := range rows {
		page.Items[i] = rows[i].show(&q, in.Actor)
	}
	if more {
		last := rows[len(rows)-1]
		next := web.Cursor(statCursor{int64(store.MicrosOf(from)), int64(store.MicrosOf(to)), int64(last.Hour), last.Queue, last.statPosition.Actor})
		page.Next = &next
	}
	return &struct{ Body StatPage }{page}, nil
}

// show gives a row of the answer to q, for one actor if his name is given.
func (r *figuresRow) show(q *statQuery, actor string) Stat {
	s := statOf(r.counter, q.ofActors())
	if q.By.Hour {
		at := web.Time(r.Hour.Time())
		s.Hour = &at
	}
	if q.By.Queue {
		s.Queue = &r.Queue
	}
	if s.StatActor != nil {
		s.Actor = r.Actor
		if actor != "" {
			s.Actor = &actor
		}
	}
	return s
}

// timeParam reads a time of the query; "" is the zero time.
func timeParam(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UTC().Year() < 1900 || t.UTC().Year() > 9999 {
		return time.Time{}, errs.InvalidFields(fmt.Sprintf("%s is not a time", name), errs.Field{Location: "query." + name, Message: "is not RFC 3339, such as 2026-01-02T00:00:00Z"})
	}
	return t.UTC(), nil
}
