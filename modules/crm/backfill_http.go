package crm

import (
	"context"
	"net/http"
	"time"

	"switchboard/platform/web"
)

// backfillHTTP serves
//
//	POST /crm/integration/backfill  read the sources and send everything again
type backfillHTTP struct{ desk *backfillService }

func (h *backfillHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "crm-backfill", Method: http.MethodPost, Path: "/crm/integration/backfill", Tag: tag,
		Summary: "Read the sources and send everything again",
		Description: "For a CRM that is new or lost what it had: all that the sources still hold is read again, beside what comes, and then every user and trip is sent. " +
			"Nothing older overrides anything newer, and nothing is created twice. How far it is: `/crm/integration/status`. " +
			"One runs at a time; it ends with this process.",
		Scope: "crm:write", Status: http.StatusAccepted, Errors: []int{409, 422}}, h.begin)
}

// Backfill is how far a backfill is.
type Backfill struct {
	State     string    `json:"state" enum:"reading,sending,done,failed" doc:"reading: the sources. sending: users and trips are marked to be sent; they go from then on."`
	Reason    string    `json:"reason,omitempty" doc:"Why it failed."`
	From      *web.Time `json:"from,omitempty" doc:"Events of the sources since then; all without."`
	StartedAt web.Time  `json:"started_at"`
	EndedAt   *web.Time `json:"ended_at,omitempty"`
	Users     int64     `json:"users" doc:"Users marked so far."`
	Trips     int64     `json:"trips" doc:"Trips marked so far."`
}

// show gives nil for none.
func (b *backfill) show() *Backfill {
	if b.state == "" {
		return nil
	}
	return &Backfill{b.state, b.reason, timeOrNil(b.from), web.Time(b.begun), timeOrNil(b.ended), b.users, b.trips}
}

func timeOrNil(t time.Time) *web.Time {
	if t.IsZero() {
		return nil
	}
	return new(web.Time(t))
}

type backfillInput struct {
	Body *struct {
		From time.Time `json:"from,omitzero" required:"false" doc:"Only events of the sources since then, RFC 3339; all without. Users and trips are sent in any case."`
	} `required:"false"`
}

func (h *backfillHTTP) begin(_ context.Context, in *backfillInput) (*struct{ Body *Backfill }, error) {
	var from time.Time
	if in.Body != nil {
		from = in.Body.From
	}
	b, err := h.desk.begin(from)
	if err != nil {
		return nil, err
	}
	return &struct{ Body *Backfill }{b.show()}, nil
}
