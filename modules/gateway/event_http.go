package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// eventHTTP serves
//
//	POST /events         send events to sockets
//	POST /gateway/events the same
type eventHTTP struct{ events *eventService }

func (h *eventHTTP) routes(r *web.Router) {
	for _, path := range []string{"/events", "/gateway/events"} {
		op := web.Op{ID: "gateway-emit", Method: http.MethodPost, Path: path, Tag: tag,
			Summary: "Send an event to sockets",
			Description: "To every socket in the room, or to all connected. `{\"events\":[…]}` sends up to 1,000 in this order, all or none; the answer is then " +
				"`{\"events\":[…]}` too. Answers once the events are durable and every instance has queued them for its sockets.",
			Scope: "gateway:publish", Status: http.StatusCreated, Creates: true, Errors: []int{400, 403, 413, 422, 503, 507},
			Request:   emitBody(r),
			Responses: map[string]*huma.Response{"201": r.ResponseOf("What was sent, and to how many sockets.", Sent{})},
		}
		if path == "/events" {
			op.ID = "gateway-emit-short"
		}
		r.Handle(op, http.HandlerFunc(h.post))
	}
}

// emitBody describes both shapes of a request to send events.
func emitBody(r *web.Router) *huma.RequestBody {
	body := r.RequestOf("What to send.", Emit{})
	media := body.Content["application/json"]
	one := media.Schema
	least, most := 1, maxBatch
	media.Schema = &huma.Schema{OneOf: []*huma.Schema{one, {
		Type: huma.TypeObject, Required: []string{"events"}, AdditionalProperties: false,
		Properties: map[string]*huma.Schema{"events": {Type: huma.TypeArray, Items: one, MinItems: &least, MaxItems: &most}},
	}}}
	media.Example = json.RawMessage(`{"event":"order.created","room":"9d283b4a-c87f-4337-ac2e-fe71ad0c6c42","data":{"orderId":"cfa3f520-fa3f-4859-b5b0-a0b4e32e593f"}}`)
	return body
}

func (h *eventHTTP) post(w http.ResponseWriter, r *http.Request) {
	if err := unbound(r.Context()); err != nil {
		web.Fail(w, r, err)
		return
	}
	var in struct {
		Event  string          `json:"event"`
		Room   string          `json:"room"`
		Data   json.RawMessage `json:"data"`
		Events *[]Emit         `json:"events"`
	}
	if err := web.ReadJSON(w, r, 0, &in); err != nil {
		web.Fail(w, r, err)
		return
	}
	one := Emit{in.Event, in.Room, in.Data}
	if in.Events == nil {
		sent, err := h.events.emit(r.Context(), []Emit{one}, func(int) string { return "body" })
		if err != nil {
			web.Fail(w, r, err)
			return
		}
		web.WriteJSON(w, http.StatusCreated, sent[0])
		return
	}
	if err := batchFault(&one, *in.Events); err != nil {
		web.Fail(w, r, err)
		return
	}
	sent, err := h.events.emit(r.Context(), *in.Events, func(i int) string { return fmt.Sprintf("body.events[%d]", i) })
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	web.WriteJSON(w, http.StatusCreated, map[string][]Sent{"events": sent})
}

func batchFault(beside *Emit, events []Emit) error {
	fault := func(at, message string) error {
		return errs.InvalidFields("validation failed", errs.Field{Location: at, Message: message})
	}
	switch {
	case beside.Event != "":
		return fault("body.event", "does not go with events")
	case beside.Room != "":
		return fault("body.room", "does not go with events")
	case beside.Data != nil:
		return fault("body.data", "does not go with events")
	case len(events) == 0:
		return fault("body.events", "is empty")
	case len(events) > maxBatch:
		return fault("body.events", fmt.Sprintf("are more than %d", maxBatch))
	}
	return nil
}
