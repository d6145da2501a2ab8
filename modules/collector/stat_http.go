package collector

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// statHTTP serves
//
//	GET /collector/stats counts per bucket
type statHTTP struct {
	events *eventStore
	now    func() time.Time
}

func (h *statHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "collector-stats", Method: http.MethodGet, Path: "/collector/stats", Tag: tag,
		Summary: "Count events per time bucket", Description: "By time of occurrence, from counters kept as events are stored.",
		Scope: "collector:read", Errors: []int{422}}, h.get)
}

// Stat is how many events occurred in a bucket, for each group asked for.
type Stat struct {
	Bucket   web.Time `json:"bucket" doc:"Begin of the bucket."`
	Category *string  `json:"category,omitempty"`
	Name     *string  `json:"name,omitempty"`
	App      *string  `json:"app,omitempty"`
	Events   int64    `json:"events"`
}

type statInput struct {
	Bucket   string   `query:"bucket" enum:"minute,hour,day" default:"hour" doc:"Length of a bucket; days are UTC."`
	By       []string `query:"by" enum:"category,name,app" default:"category,name,app" doc:"What to group by."`
	Category string   `query:"category" doc:"Only this category."`
	Name     string   `query:"name" doc:"Only events of this name."`
	App      string   `query:"app" doc:"Only events of this application."`
	From     string   `query:"from" doc:"Only buckets that begin then or later; by default an hour, a day or 30 days ago, as the bucket."`
	To       string   `query:"to" doc:"Only buckets that begin then or earlier; by default now."`
	Limit    int      `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor   string   `query:"cursor" doc:"The next of the page before."`
}

type statCursor struct {
	Bucket   int64  `json:"t"`
	Category string `json:"c,omitempty"`
	Name     string `json:"n,omitempty"`
	App      string `json:"a,omitempty"`
}

func (h *statHTTP) get(ctx context.Context, in *statInput) (*struct{ Body web.Page[Stat] }, error) {
	from, to, err := span(timeField{"query.from", in.From}, timeField{}, timeField{"query.to", in.To}, timeField{})
	if err != nil {
		return nil, err
	}
	q := statQuery{Category: in.Category, Name: in.Name, App: in.App, By: in.By, To: h.now(), Limit: in.Limit + 1}
	var back time.Duration
	switch in.Bucket {
	case "minute":
		q.Bucket, back = time.Minute, time.Hour
	case "day":
		q.Bucket, back = 24*time.Hour, 30*24*time.Hour
	default:
		q.Bucket, back = time.Hour, 24*time.Hour
	}
	if to != nil {
		q.To = *to
	}
	q.From = q.To.Add(-back)
	if from != nil {
		q.From = *from
	}
	if q.To.Before(q.From) {
		return nil, errs.InvalidFields("the time range is empty", errs.Field{Location: "query.to", Message: "lies before from"})
	}
	// Buckets are counted whole, those at the ends of the range too.
	q.From, q.To = q.From.Truncate(q.Bucket), q.To.Truncate(q.Bucket).Add(q.Bucket-time.Microsecond)
	if in.Cursor != "" {
		var c statCursor
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
		q.After = &statPosition{store.Micros(c.Bucket), c.Category, c.Name, c.App}
	}
	rows, err := h.events.stats(ctx, q)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(rows) > in.Limit {
		rows = rows[:in.Limit]
		last := rows[in.Limit-1]
		next = web.Cursor(statCursor{int64(last.Bucket), last.Category, last.Name, last.App})
	}
	items := make([]Stat, len(rows))
	for i := range rows {
		r := &rows[i]
		items[i] = Stat{Bucket: web.Time(r.Bucket.Time()), Events: r.Events}
		for field, to := range map[string]struct {
			show  **string
			value *string
		}{"category": {&items[i].Category, &r.Category}, "name": {&items[i].Name, &r.Name}, "app": {&items[i].App, &r.App}} {
			if slices.ContainsFunc(in.By, func(s string) bool { return strings.TrimSpace(s) == field }) {
				*to.show = to.value
			}
		}
	}
	return &struct{ Body web.Page[Stat] }{web.NewPage(items, next)}, nil
}
