package mailing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// callbackHTTP serves
//
//	POST /mailing/callbacks  what became of messages after the provider took them
type callbackHTTP struct{ callbacks *callbackService }

// maxCallbacks bounds a batch.
const maxCallbacks = 1000

func (h *callbackHTTP) routes(r *web.Router) {
	one := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"id", "status"}, Properties: map[string]*huma.Schema{
		"id":     {Type: huma.TypeInteger, Format: "int64", Description: "Of the message."},
		"status": {Type: huma.TypeString, Enum: []any{toldDelivered, toldFailed, toldUnsubscribed}},
		"at":     {Type: huma.TypeString, Format: "date-time", Description: "When it happened, RFC 3339."},
		"reason": {Type: huma.TypeString, Description: "Why it failed. A code of at most 64 of a to z, 0 to 9, _, - and space is kept; anything else becomes failed."},
	}}
	most := maxCallbacks
	body := &huma.RequestBody{Description: "What became of one message, or of an array of them.", Required: true, Content: map[string]*huma.MediaType{
		"application/json": {Schema: &huma.Schema{OneOf: []*huma.Schema{one, {Type: huma.TypeArray, Items: one, MaxItems: &most}}}}}}
	r.Handle(web.Op{ID: "mailing-post-callbacks", Method: http.MethodPost, Path: "/mailing/callbacks", Tag: tag,
		Summary: "Take what the provider tells of messages later",
		Description: "One callback or an array of at most 1,000. Answers once they are durable. They may come in any order and again: " +
			"unsubscribed outweighs delivered, and that outweighs failed. Who unsubscribed is suppressed. " +
			"The key may also be the password of HTTP Basic, with any user.",
		Scope: "mailing:write", KeyInQuery: true, KeyInBasic: true,
		Errors:    []int{400, 413, 422, 503},
		Request:   body,
		Responses: map[string]*huma.Response{"200": r.ResponseOf("What was taken.", CallbackReceipt{})},
	}, http.HandlerFunc(h.post))
}

// CallbackReceipt tells what came of callbacks.
type CallbackReceipt struct {
	Accepted int     `json:"accepted" doc:"Callbacks of messages that there are."`
	Unknown  []int64 `json:"unknown" nullable:"false" doc:"Ids that no message has."`
}

func (h *callbackHTTP) post(w http.ResponseWriter, r *http.Request) {
	var raw json.RawMessage
	err := web.ReadJSON(w, r, 0, &raw)
	var list []callback
	if err == nil {
		list, err = parseCallbacks(raw)
	}
	var receipt CallbackReceipt
	if err == nil {
		receipt.Accepted, receipt.Unknown, err = h.callbacks.take(r.Context(), list)
	}
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	web.WriteJSON(w, http.StatusOK, receipt)
}

// parseCallbacks reads one callback or an array; raw is valid JSON.
func parseCallbacks(raw json.RawMessage) ([]callback, error) {
	parts, at := []json.RawMessage{raw}, func(int) string { return "body" }
	if raw = bytes.TrimSpace(raw); raw[0] == '[' {
		parts, at = nil, func(i int) string { return fmt.Sprintf("body[%d]", i) }
		if err := json.Unmarshal(raw, &parts); err != nil {
			return nil, err
		}
	}
	if len(parts) > maxCallbacks {
		return nil, errs.InvalidFields("too many callbacks", errs.Field{Location: "body", Message: fmt.Sprintf("takes at most %d", maxCallbacks)})
	}
	list := make([]callback, len(parts))
	var faults []errs.Field
	for i, part := range parts {
		if fault := list[i].parse(part); fault != nil {
			fault.Location = at(i) + fault.Location
			if faults = append(faults, *fault); len(faults) == 100 {
				break
			}
		}
	}
	if len(faults) > 0 {
		return nil, errs.InvalidFields("these are no callbacks", faults...)
	}
	return list, nil
}

// parse reads one callback, and tells what is wrong with it.
func (c *callback) parse(raw json.RawMessage) *errs.Field {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil || members == nil {
		return &errs.Field{Message: "must be an object"}
	}
	for name := range members {
		if !slices.Contains([]string{"id", "status", "at", "reason"}, name) {
			return &errs.Field{Location: "." + name, Message: "unexpected property"}
		}
	}
	read := func(name string, to any) bool {
		return members[name] != nil && json.Unmarshal(members[name], to) == nil
	}
	if !read("id", &c.Message) || c.Message < 1 {
		return &errs.Field{Location: ".id", Message: "must be the id of a message, a positive integer"}
	}
	if !read("status", &c.Status) || !slices.Contains(told, c.Status) {
		return &errs.Field{Location: ".status", Message: "must be one of " + strings.Join([]string{toldDelivered, toldFailed, toldUnsubscribed}, ", ")}
	}
	if members["at"] != nil {
		var at *time.Time
		if !read("at", &at) {
			return &errs.Field{Location: ".at", Message: "must be a time in RFC 3339"}
		}
		c.At = at
	}
	if members["reason"] != nil && !read("reason", &c.Reason) {
		return &errs.Field{Location: ".reason", Message: "must be text"}
	}
	return nil
}
