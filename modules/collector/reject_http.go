package collector

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/google/uuid"

	"switchboard/platform/errs"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// rejectHTTP serves
//
//	GET  /collector/rejects            list refused events
//	POST /collector/rejects/{id}/retry judge one anew
type rejectHTTP struct{ rejects *rejectService }

func (h *rejectHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "collector-list-rejects", Method: http.MethodGet, Path: "/collector/rejects", Tag: tag,
		Summary: "List refused events", Description: "Newest first, each with the payload as it was sent and the reasons.",
		Scope: "collector:read", Errors: []int{422},
	}, h.list)
	web.Register(r, web.Op{ID: "collector-retry-reject", Method: http.MethodPost, Path: "/collector/rejects/{id}/retry", Tag: tag,
		Summary: "Judge a refused event anew", Description: "By the schemas of now. It is accepted for the application that sent it, once.",
		Scope: "collector:write", Status: http.StatusAccepted, Creates: true, Errors: []int{404, 422, 503},
	}, h.retry)
}

// Reject is a refused event as it is given back.
type Reject struct {
	ID         string          `json:"id"`
	App        string          `json:"app"`
	Category   string          `json:"category,omitempty"`
	Name       string          `json:"name,omitempty"`
	Reason     string          `json:"reason" enum:"shape,schema"`
	Errors     []errs.Field    `json:"errors"`
	Payload    json.RawMessage `json:"payload" pii:"content" doc:"The event as it was sent."`
	ReceivedAt web.Time        `json:"received_at"`
	RetriedAt  *web.Time       `json:"retried_at,omitempty" doc:"When it was accepted after all."`
}

type listRejectsInput struct {
	App      string `query:"app" doc:"Only of this application."`
	Category string `query:"category" doc:"Only of this category."`
	Name     string `query:"name" doc:"Only of this name."`
	Reason   string `query:"reason" enum:"shape,schema" doc:"shape: not an event; schema: its data does not fit."`
	From     string `query:"from" doc:"Only what was received then or later."`
	To       string `query:"to" doc:"Only what was received then or earlier."`
	Limit    int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor   string `query:"cursor" doc:"The next of the page before."`
}

type rejectCursor struct {
	ReceivedAt int64  `json:"t"`
	ID         []byte `json:"i"`
}

func (h *rejectHTTP) list(ctx context.Context, in *listRejectsInput) (*struct{ Body web.Page[Reject] }, error) {
	q := rejectQuery{App: in.App, Category: in.Category, Name: in.Name, Reason: in.Reason, Limit: in.Limit + 1}
	var err error
	if q.From, q.To, err = span(timeField{"query.from", in.From}, timeField{}, timeField{"query.to", in.To}, timeField{}); err != nil {
		return nil, err
	}
	if in.Cursor != "" {
		var c rejectCursor
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
		q.After = &rejectPosition{ReceivedAt: store.Micros(c.ReceivedAt)}
		copy(q.After.ID[:], c.ID)
	}
	rejects, more, last, err := h.rejects.list(ctx, q)
	if err != nil {
		return nil, err
	}
	items := make([]Reject, len(rejects))
	for i, r := range rejects {
		items[i] = Reject{ID: uuid.UUID(r.ID).String(), App: r.App, Category: r.Category, Name: r.Name, Reason: r.Reason,
			Errors: r.Errors, Payload: r.Payload, ReceivedAt: web.Time(r.ReceivedAt.Time())}
		if r.RetriedAt != nil {
			at := web.Time(r.RetriedAt.Time())
			items[i].RetriedAt = &at
		}
	}
	next := ""
	if more {
		next = web.Cursor(rejectCursor{int64(last.ReceivedAt), last.ID[:]})
	}
	return &struct{ Body web.Page[Reject] }{web.NewPage(items, next)}, nil
}

type retryInput struct {
	ID string `path:"id" format:"uuid"`
}

func (h *rejectHTTP) retry(ctx context.Context, in *retryInput) (*struct{ Body Receipt }, error) {
	if err := unbound(ctx); err != nil {
		return nil, err
	}
	id, err := uuid.Parse(in.ID)
	if err != nil {
		return nil, errs.New(errs.NotFound, "no such reject")
	}
	receipt, err := h.rejects.retry(ctx, id)
	if err != nil {
		return nil, err
	}
	return &struct{ Body Receipt }{*receipt}, nil
}
