package telephony

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// delegationHTTP serves
//
//	POST /telephony/calls/{call_id}/delegate  send a call somewhere
//	POST /telephony/dial                      have numbers dialled
type delegationHTTP struct{ delegations *delegationService }

func (h *delegationHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "telephony-delegate-call", Method: http.MethodPost, Path: "/telephony/calls/{call_id}/delegate", Tag: tag,
		Summary: "Send a call to a queue, peer or number",
		Description: "Asks the phone platform now, again while it is away, and answers with what it says. " +
			"What was going to be done with the call by itself is not done any more, also if this fails.",
		Scope: "telephony:write", Status: http.StatusOK, Creates: true, Errors: []int{404, 409, 422, 503},
	}, h.delegate)
	web.Register(r, web.Op{ID: "telephony-dial", Method: http.MethodPost, Path: "/telephony/dial", Tag: tag,
		Summary: "Have numbers dialled", Description: "Whoever answers is connected with the destination. What comes of it is told by dialer events with the same code.",
		Scope: "telephony:write", Status: http.StatusOK, Creates: true, Errors: []int{409, 422, 503},
	}, h.dial)
}

// textOrNumber is text; a whole number is taken as its digits.
type textOrNumber string

func (t *textOrNumber) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(t))
	}
	var n json.Number
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	*t = textOrNumber(n)
	return nil
}

// Schema implements huma.SchemaProvider.
func (textOrNumber) Schema(huma.Registry) *huma.Schema {
	longest := 256
	return &huma.Schema{OneOf: []*huma.Schema{{Type: huma.TypeString, MaxLength: &longest}, {Type: huma.TypeInteger}}}
}

type delegateInput struct {
	CallID string `path:"call_id" maxLength:"256"`
	Body   struct {
		Destination textOrNumber `json:"destination" doc:"Where it goes, as the platform calls it: a queue, a peer or a number."`
	}
}

// Delegated is what was asked of the platform.
type Delegated struct {
	Status      string `json:"status" enum:"ok"`
	CallID      string `json:"call_id"`
	Destination string `json:"destination"`
}

func (h *delegationHTTP) delegate(ctx context.Context, in *delegateInput) (*struct{ Body Delegated }, error) {
	destination := string(in.Body.Destination)
	if err := checkDestination(destination); err != nil {
		return nil, errs.InvalidFields("the call cannot be delegated", errs.Field{Location: "body.destination", Message: err.Error()})
	}
	if err := h.delegations.byHand(ctx, in.CallID, destination); err != nil {
		return nil, err
	}
	return &struct{ Body Delegated }{Delegated{"ok", in.CallID, destination}}, nil
}

type dialInput struct {
	Body struct {
		Numbers         []textOrNumber `json:"numbers" pii:"phone" nullable:"false" maxItems:"100" doc:"1 to 100 numbers."`
		Destination     textOrNumber   `json:"destination" doc:"With whom those are connected who answer."`
		DestinationType string         `json:"destination_type,omitempty" doc:"What the destination is, as the platform calls it, such as peer." example:"peer"`
		Code            string         `json:"code,omitempty" doc:"By which the events of these calls can be found; made up if absent."`
		Retries         textOrNumber   `json:"retries,omitempty" doc:"How often a number is tried again, 0 to 100."`
		RetryGap        string         `json:"retry_gap,omitempty" doc:"How long after." example:"10s"`
		TTL             string         `json:"ttl,omitempty" doc:"How long it is tried in all." example:"5m"`
	}
}

// Dialling is an order to dial numbers that the platform took.
type Dialling struct {
	Status string `json:"status" enum:"ok"`
	Code   string `json:"code"`
}

func (h *delegationHTTP) dial(ctx context.Context, in *dialInput) (*struct{ Body Dialling }, error) {
	r, faults := in.request()
	if len(faults) > 0 {
		return nil, errs.InvalidFields("the numbers cannot be dialled", faults...)
	}
	if r.Code == "" {
		r.Code = uuid.NewString()
	}
	if err := h.delegations.dial(ctx, r); err != nil {
		return nil, err
	}
	return &struct{ Body Dialling }{Dialling{"ok", r.Code}}, nil
}

const (
	maxNumbers = 100
	maxNumber  = 64 // bytes
	maxRetries = 100
	maxCode    = 128 // bytes
)

// request checks the input, and gives it in the platform's words.
func (in *dialInput) request() (r dialRequest, faults []errs.Field) {
	fault := func(field, message string) {
		faults = append(faults, errs.Field{Location: "body." + field, Message: message})
	}
	b := &in.Body
	r = dialRequest{Destination: string(b.Destination), DestinationType: b.DestinationType, Code: b.Code, Retries: string(b.Retries), RetryGap: b.RetryGap, TTL: b.TTL}
	if n := len(b.Numbers); n == 0 || n > maxNumbers {
		fault("numbers", fmt.Sprintf("want 1 to %d numbers", maxNumbers))
	}
	for i, number := range b.Numbers {
		if len(number) > maxNumber || digits(string(number)) == "" || clip(string(number)) != string(number) {
			fault(fmt.Sprintf("numbers[%d]", i), "is not a number to dial")
		}
		r.Numbers = append(r.Numbers, string(number))
	}
	if err := checkDestination(r.Destination); err != nil {
		fault("destination", err.Error())
	}
	if r.DestinationType != "" {
		if err := checkDestination(r.DestinationType); err != nil {
			fault("destination_type", err.Error())
		}
	}
	if len(r.Code) > maxCode || clip(r.Code) != r.Code {
		fault("code", fmt.Sprintf("want at most %d bytes without control characters", maxCode))
	}
	if n, err := strconv.ParseUint(r.Retries, 10, 8); r.Retries != "" && (err != nil || n > maxRetries) {
		fault("retries", fmt.Sprintf("want a number from 0 to %d", maxRetries))
	}
	for _, d := range [...]struct{ field, value string }{{"retry_gap", r.RetryGap}, {"ttl", r.TTL}} {
		if span, err := time.ParseDuration(d.value); d.value != "" && (err != nil || span <= 0) {
			fault(d.field, "is not a duration such as 10s")
		}
	}
	return r, faults
}

// shownDelegation is how a delegation is given back.
func shownDelegation(d *delegation) *Delegation {
	out := &Delegation{State: d.State, Destination: d.Destination, Customer: "new", Attempts: d.Attempts, DueAt: web.Time(d.DueAt.Time()), Detail: d.Detail}
	if d.Returning {
		out.Customer = "returning"
	}
	if d.SettledAt != nil {
		at := web.Time(d.SettledAt.Time())
		out.SettledAt = &at
	}
	return out
}
