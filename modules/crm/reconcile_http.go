package crm

import (
	"context"
	"net/http"

	"switchboard/platform/web"
)

// reconcileHTTP serves
//
//	POST /crm/integration/reconcile  compare the CRM with what it should show
type reconcileHTTP struct{ desk *reconcileService }

func (h *reconcileHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "crm-reconcile", Method: http.MethodPost, Path: "/crm/integration/reconcile", Tag: tag,
		Summary: "Compare the CRM with what it should show, and repair it",
		Description: "Reads all users and trips of the CRM. What differs or is missing is sent again, unless `repair` is false; the answer does not wait for that. " +
			"Differences name fields, never what they hold. What is on its way already is waiting, and no difference. " +
			"One comparison runs at a time. 503: the CRM does not give its lists.",
		Scope: "crm:write", Status: http.StatusOK, Stream: true, Errors: []int{409, 422, 503}}, h.reconcile)
}

type reconcileInput struct {
	Body *struct {
		Repair *bool `json:"repair,omitempty" default:"true" doc:"Send again what differs or is missing."`
		Limit  *int  `json:"limit,omitempty" minimum:"0" maximum:"1000" default:"1000" doc:"How many differences to tell at most; they are counted all the same."`
	} `required:"false"`
}

func (h *reconcileHTTP) reconcile(ctx context.Context, in *reconcileInput) (*struct{ Body *Reconciliation }, error) {
	repair, limit := true, maxDifferences
	if in.Body != nil {
		if in.Body.Repair != nil {
			repair = *in.Body.Repair
		}
		if in.Body.Limit != nil {
			limit = *in.Body.Limit
		}
	}
	out, err := h.desk.reconcile(ctx, repair, limit)
	if err != nil {
		return nil, err
	}
	return &struct{ Body *Reconciliation }{out}, nil
}
