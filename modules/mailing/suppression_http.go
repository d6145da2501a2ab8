package mailing

import (
	"context"
	"net/http"

	"switchboard/platform/auth"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// suppressionHTTP serves
//
//	GET    /mailing/suppressions                 numbers that get nothing
//	POST   /mailing/suppressions                 one more
//	DELETE /mailing/suppressions/{phone_number}  one less
type suppressionHTTP struct{ suppressions *suppressionService }

func (h *suppressionHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "mailing-list-suppressions", Method: http.MethodGet, Path: "/mailing/suppressions", Tag: tag,
		Summary: "List numbers that get nothing", Description: "Newest first.",
		Scope: "mailing:read", Errors: []int{422}}, h.list)
	web.Register(r, web.Op{ID: "mailing-add-suppression", Method: http.MethodPost, Path: "/mailing/suppressions", Tag: tag,
		Summary: "Suppress a number",
		Description: "No campaign sends to it from then on, whatever its filter says, also those that run. " +
			"A number that is suppressed already is answered with 200 and stays as it was.",
		Scope: "mailing:write", Status: http.StatusCreated, Creates: true, Errors: []int{422, 503}}, h.add)
	web.Register(r, web.Op{ID: "mailing-remove-suppression", Method: http.MethodDelete, Path: "/mailing/suppressions/{phone_number}", Tag: tag,
		Summary: "Let campaigns send to a number again", Scope: "mailing:write", Errors: []int{404, 422, 503}}, h.remove)
}

// Suppression is a number that gets nothing.
type Suppression struct {
	PhoneNumber *string  `json:"phone_number" pii:"phone" doc:"null if the person was erased, or was unknown when the provider told of it."`
	Reason      string   `json:"reason"`
	CreatedAt   web.Time `json:"created_at"`
}

func (s *suppression) show() Suppression {
	out := Suppression{Reason: s.Reason, CreatedAt: web.Time(s.CreatedAt)}
	if s.Number != "" {
		out.PhoneNumber = &s.Number
	}
	return out
}

type listSuppressionsInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

// suppressionCursor is the last number of a page.
type suppressionCursor struct {
	At    int64  `json:"t"`
	Phone []byte `json:"p"`
}

func (h *suppressionHTTP) list(ctx context.Context, in *listSuppressionsInput) (*struct{ Body web.Page[Suppression] }, error) {
	var after *suppressionPlace
	if in.Cursor != "" {
		var c suppressionCursor
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
		if len(c.Phone) != len(seal.Index{}) {
			return nil, errs.InvalidFields("the cursor is not one of this list", errs.Field{Location: "query.cursor", Message: "is not a cursor that this list gave"})
		}
		after = &suppressionPlace{store.Micros(c.At), seal.Index(c.Phone)}
	}
	page, last, err := h.suppressions.list(ctx, after, in.Limit)
	if err != nil {
		return nil, err
	}
	next := ""
	if last != nil {
		next = web.Cursor(suppressionCursor{int64(last.At), last.Phone[:]})
	}
	items := make([]Suppression, len(page))
	for i := range page {
		items[i] = page[i].show()
	}
	return &struct{ Body web.Page[Suppression] }{web.NewPage(items, next)}, nil
}

type addSuppressionInput struct {
	Body struct {
		PhoneNumber string `json:"phone_number" pii:"phone" maxLength:"64" doc:"As people write it: 79161234567, +7 916 123-45-67." example:"79161234567"`
		Reason      string `json:"reason,omitempty" maxLength:"64" doc:"A short code, kept in the clear: a to z, 0 to 9, _, - and space. manual if absent." example:"complaint"`
	}
}

type addedSuppression struct {
	Status int
	Body   Suppression
}

func (h *suppressionHTTP) add(ctx context.Context, in *addSuppressionInput) (*addedSuppression, error) {
	got, fresh, err := h.suppressions.add(ctx, in.Body.PhoneNumber, in.Body.Reason, keyID(ctx))
	if err != nil {
		return nil, err
	}
	status := http.StatusOK
	if fresh {
		status = http.StatusCreated
	}
	return &addedSuppression{status, got.show()}, nil
}

type removeSuppressionInput struct {
	PhoneNumber string `path:"phone_number" pii:"phone" maxLength:"64"`
}

func (h *suppressionHTTP) remove(ctx context.Context, in *removeSuppressionInput) (*struct{}, error) {
	return nil, h.suppressions.remove(ctx, in.PhoneNumber, keyID(ctx))
}

// keyID is the public part of the key that a request came with, for the log.
func keyID(ctx context.Context) string {
	if p := auth.From(ctx); p != nil {
		return p.Key.ID
	}
	return ""
}
