package crm

import (
	"context"
	"net/http"
	"unicode/utf8"

	"github.com/google/uuid"

	"switchboard/platform/auth"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/web"
)

// deadHTTP serves
//
//	GET    /crm/integration/dead-letters               what goes no further
//	POST   /crm/integration/dead-letters/redrive       try all of it again
//	GET    /crm/integration/dead-letters/{id}          one of them
//	DELETE /crm/integration/dead-letters/{id}          throw it away
//	POST   /crm/integration/dead-letters/{id}/redrive  try it again
type deadHTTP struct{ desk *deadService }

func (h *deadHTTP) routes(r *web.Router) {
	const all, one = "/crm/integration/dead-letters", "/crm/integration/dead-letters/{id}"
	web.Register(r, web.Op{ID: "crm-list-dead-letters", Method: http.MethodGet, Path: all, Tag: tag,
		Summary: "List what goes no further without a person", Description: "Events that could not be understood, and users and trips that the CRM refuses; the newest first.",
		Scope: "crm:read", Errors: []int{422, 503}}, h.list)
	web.Register(r, web.Op{ID: "crm-get-dead-letter", Method: http.MethodGet, Path: one, Tag: tag,
		Summary: "Show a dead letter", Description: "With `content=true`, which takes the scope `crm:write`, also what the event held: it may be personal. It can be read for 90 days.",
		Scope: "crm:read", Errors: []int{404, 422, 503}}, h.get)
	web.Register(r, web.Op{ID: "crm-discard-dead-letter", Method: http.MethodDelete, Path: one, Tag: tag,
		Summary: "Throw a dead letter away", Description: "An event is lost then. A user or trip that the CRM refuses stays as it is, until it changes.",
		Scope: "crm:write", Errors: []int{404, 422, 503}}, h.discard)
	again := "An event is read anew, and counts from the place that it had, so that it overrides nothing newer. " +
		"A user or trip is sent to the CRM again, after the answer; its letter goes when the CRM takes it."
	web.Register(r, web.Op{ID: "crm-redrive-dead-letter", Method: http.MethodPost, Path: one + "/redrive", Tag: tag,
		Summary: "Try a dead letter again", Description: again, Scope: "crm:write", Status: http.StatusOK, Errors: []int{404, 422, 503}}, h.redriveOne)
	web.Register(r, web.Op{ID: "crm-redrive-dead-letters", Method: http.MethodPost, Path: all + "/redrive", Tag: tag,
		Summary: "Try all dead letters again", Description: again, Scope: "crm:write", Status: http.StatusOK, Stream: true, Errors: []int{422, 503}}, h.redriveAll)
}

// DeadLetter is something that goes no further without a person.
type DeadLetter struct {
	ID        uuid.UUID `json:"id"`
	Kind      string    `json:"kind" enum:"event,user,trip" doc:"event: it could not be understood. user, trip: the CRM refuses it."`
	Reason    string    `json:"reason" example:"Event.Type is no value of its enumeration"`
	CreatedAt web.Time  `json:"created_at" doc:"When it failed last."`
	Topic     string    `json:"topic,omitempty" enum:"internal_user_updated,internal_booking_updated,unknown" doc:"Of an event."`
	Log       string    `json:"log,omitempty" doc:"The sequence that an event is of."`
	Seq       *int64    `json:"seq,omitempty" doc:"Its place there."`
	At        *web.Time `json:"at,omitempty" doc:"When it happened."`
	ObjectID  string    `json:"object_id,omitempty" pii:"id" doc:"Of a user or trip: the Id at the platform."`
	Content   *string   `json:"content,omitempty" pii:"content" doc:"What an event held, if it was asked for and is text."`
	Bytes     []byte    `json:"content_bytes,omitempty" pii:"content" doc:"What it held, if that is no text; in base64."`
}

func showDead(d *deadLetter, ids map[seal.Index]string) DeadLetter {
	out := DeadLetter{ID: d.ID, Kind: d.Kind, Reason: d.Reason, CreatedAt: web.Time(d.CreatedAt)}
	if d.Kind == deadEvent {
		out.Topic, out.Log, out.Seq, out.At = d.Topic, d.Log, &d.Seq, timeOrNil(d.At)
	} else if d.Entity != nil {
		out.ObjectID = ids[*d.Entity]
	}
	return out
}

type listDeadInput struct {
	Kind   string `query:"kind" enum:"event,user,trip" doc:"Only of this kind."`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

func (h *deadHTTP) list(ctx context.Context, in *listDeadInput) (*struct{ Body web.Page[DeadLetter] }, error) {
	var before *uuid.UUID
	if in.Cursor != "" {
		before = &uuid.UUID{}
		if err := web.ParseCursor(in.Cursor, before); err != nil {
			return nil, err
		}
	}
	list, ids, err := h.desk.list(ctx, in.Kind, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(list) > in.Limit {
		list = list[:in.Limit]
		next = web.Cursor(list[in.Limit-1].ID)
	}
	items := make([]DeadLetter, len(list))
	for i := range list {
		items[i] = showDead(&list[i], ids)
	}
	return &struct{ Body web.Page[DeadLetter] }{web.NewPage(items, next)}, nil
}

// DeadLetterPath names a dead letter.
type DeadLetterPath struct {
	ID string `path:"id" format:"uuid"`
}

func (p *DeadLetterPath) id() (uuid.UUID, error) {
	id, err := uuid.Parse(p.ID)
	if err != nil {
		return id, errs.InvalidFields("the address is not valid", errs.Field{Location: "path.id", Message: "is no UUID"})
	}
	return id, nil
}

type getDeadInput struct {
	DeadLetterPath
	Content bool `query:"content" doc:"Show what the event held."`
}

func (h *deadHTTP) get(ctx context.Context, in *getDeadInput) (*struct{ Body DeadLetter }, error) {
	id, err := in.id()
	if err != nil {
		return nil, err
	}
	if in.Content && !auth.From(ctx).Has("crm:write") {
		return nil, errs.New(errs.Denied, "the key lacks the scope crm:write, which content=true takes")
	}
	d, ids, err := h.desk.get(ctx, id)
	if err != nil {
		return nil, err
	}
	out := showDead(&d, ids)
	if in.Content && d.Kind == deadEvent {
		e, err := h.desk.content(&d)
		if err != nil {
			return nil, err
		}
		if text := string(e.Value); utf8.ValidString(text) {
			out.Content = &text
		} else {
			out.Bytes = e.Value
		}
	}
	return &struct{ Body DeadLetter }{out}, nil
}

func (h *deadHTTP) discard(ctx context.Context, in *DeadLetterPath) (*struct{}, error) {
	id, err := in.id()
	if err != nil {
		return nil, err
	}
	return nil, h.desk.discard(ctx, id)
}

func (h *deadHTTP) redriveOne(ctx context.Context, in *DeadLetterPath) (*struct{ Body *Redriven }, error) {
	id, err := in.id()
	if err != nil {
		return nil, err
	}
	return redriven(h.desk.one(ctx, id))
}

type redriveInput struct {
	Body *struct {
		Kind string `json:"kind,omitempty" enum:"event,user,trip" doc:"Only of this kind."`
	} `required:"false"`
}

func (h *deadHTTP) redriveAll(ctx context.Context, in *redriveInput) (*struct{ Body *Redriven }, error) {
	kind := ""
	if in.Body != nil {
		kind = in.Body.Kind
	}
	return redriven(h.desk.all(ctx, kind))
}

func redriven(r *Redriven, err error) (*struct{ Body *Redriven }, error) {
	if err != nil {
		return nil, err
	}
	return &struct{ Body *Redriven }{r}, nil
}
