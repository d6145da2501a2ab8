package mailing

import (
	"context"
	"encoding/csv"
	"fmt"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// resendHTTP serves
//
//	POST /mailing/campaigns/{id}/resend        queue what failed again
//	GET  /mailing/campaigns/{id}/failures      why messages did not go
//	GET  /mailing/campaigns/{id}/messages.csv  the messages as a table
type resendHTTP struct{ desk *resendService }

func (h *resendHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "mailing-resend-campaign", Method: http.MethodPost, Path: "/mailing/campaigns/{id}/resend", Tag: tag,
		Summary: "Queue failed messages of a campaign again",
		Description: "All of them, or some, under the ids they have. Messages that have not failed stay as they are. " +
			"A campaign that finished before its end runs again; one that is canceled or has ended is refused.",
		Scope: "mailing:write", Status: http.StatusOK, Errors: []int{404, 409, 422, 503}}, h.resend)
	web.Register(r, web.Op{ID: "mailing-list-failures", Method: http.MethodGet, Path: "/mailing/campaigns/{id}/failures", Tag: tag,
		Summary: "See why messages of a campaign did not go", Description: "What failed and what expired, grouped by reason, the most frequent first.",
		Scope: "mailing:read", Errors: []int{404, 422}}, h.failures)
	r.Handle(web.Op{ID: "mailing-export-messages", Method: http.MethodGet, Path: "/mailing/campaigns/{id}/messages.csv", Tag: tag,
		Summary:     "Export the messages of a campaign as CSV",
		Description: "Columns: id, client_id, status, attempts, last_error, sent_at. In the order of their ids.",
		Scope:       "mailing:read", Stream: true, Errors: []int{404, 422},
		Parameters: []*huma.Param{
			{Name: "id", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeInteger, Format: "int64"}},
			{Name: "status", In: "query", Description: "Only messages in this status; may be repeated.",
				Schema: &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString, Enum: statusNames()}}},
		},
		Responses: map[string]*huma.Response{"200": {Description: "A line of names, and one for each message.",
			Content: map[string]*huma.MediaType{"text/csv": {Schema: &huma.Schema{Type: huma.TypeString}}}}},
	}, http.HandlerFunc(h.export))
}

func statusNames() []any {
	out := make([]any, len(messageStatusNames))
	for i, name := range messageStatusNames {
		out[i] = name
	}
	return out
}

type resendInput struct {
	CampaignPath
	// Without a body, everything.
	Body *struct {
		MessageIDs []int64 `json:"message_ids,omitempty" nullable:"false" minItems:"1" maxItems:"1000" doc:"Only these, 1 to 1,000; absent: all that failed."`
	} `required:"false"`
}

// Resent is what came of it.
type Resent struct {
	Queued int64 `json:"queued" doc:"Messages that had failed, and are pending now."`
}

func (h *resendHTTP) resend(ctx context.Context, in *resendInput) (*struct{ Body Resent }, error) {
	var ids []int64
	if in.Body != nil {
		ids = in.Body.MessageIDs
	}
	n, err := h.desk.resend(ctx, in.ID, ids)
	if err != nil {
		return nil, err
	}
	return &struct{ Body Resent }{Resent{n}}, nil
}

// Failure is a reason why messages did not go.
type Failure struct {
	Status    string `json:"status" enum:"failed,expired"`
	LastError string `json:"last_error"`
	Messages  int64  `json:"messages"`
	MessageID int64  `json:"message_id" doc:"One of them."`
}

// Failures are the reasons why messages of a campaign did not go.
type Failures struct {
	CampaignID int64     `json:"campaign_id"`
	Reasons    []Failure `json:"reasons" nullable:"false" doc:"At most 100."`
	More       bool      `json:"more" doc:"There are more reasons, less frequent."`
}

func (h *resendHTTP) failures(ctx context.Context, in *CampaignPath) (*struct{ Body Failures }, error) {
	list, more, err := h.desk.failures(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := Failures{CampaignID: in.ID, Reasons: make([]Failure, len(list)), More: more}
	for i, f := range list {
		out.Reasons[i] = Failure{f.status.String(), f.reason, f.messages, f.example}
	}
	return &struct{ Body Failures }{out}, nil
}

func (h *resendHTTP) export(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		web.Fail(w, r, errs.InvalidFields("the address is not valid", errs.Field{Location: "path.id", Message: "must be a positive integer"}))
		return
	}
	names := r.URL.Query()["status"]
	wanted := statuses(names)
	if len(wanted) != len(distinct(names)) {
		web.Fail(w, r, errs.InvalidFields("the query is not valid", errs.Field{Location: "query.status", Message: "is not a status of messages"}))
		return
	}
	table, flush, begun := csv.NewWriter(w), http.NewResponseController(w), false
	err = h.desk.export(r.Context(), id, wanted, func(list []message) error {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "text/csv; charset=utf-8")
			w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="campaign-%d-messages.csv"`, id))
			if err := table.Write([]string{"id", "client_id", "status", "attempts", "last_error", "sent_at"}); err != nil {
				return err
			}
		}
		for i := range list {
			m := &list[i]
			sent := ""
			if m.SentAt != nil {
				sent = web.Time(*m.SentAt).String()
			}
			if err := table.Write([]string{strconv.FormatInt(m.ID, 10), strconv.FormatInt(m.ClientID, 10), m.Status.String(), strconv.FormatInt(m.Attempts, 10), m.LastError, sent}); err != nil {
				return err
			}
		}
		table.Flush()
		if err := table.Error(); err != nil {
			return err
		}
		return flush.Flush()
	})
	switch {
	case err != nil && !begun:
		web.Fail(w, r, err)
	case err != nil:
		// A table that ends early must not look whole.
		panic(http.ErrAbortHandler)
	}
}
