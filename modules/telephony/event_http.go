package telephony

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"switchboard/platform/web"
)

// eventHTTP serves
//
//	POST /telephony/webhook  take an event
//	POST /webhook            the same, where the platform can be told no path
type eventHTTP struct{ events *eventService }

// EventReceipt tells that an event is in the call log.
type EventReceipt struct {
	Status    string    `json:"status" enum:"ok"`
	ID        int64     `json:"id" doc:"Its place in the log."`
	UUID      uuid.UUID `json:"uuid" doc:"Its id, the same whenever the same event is posted."`
	Duplicate bool      `json:"duplicate" doc:"Whether it was there already."`
}

func (h *eventHTTP) routes(r *web.Router) {
	for _, at := range []struct{ id, path string }{{"telephony-post-event", "/telephony/webhook"}, {"telephony-post-event-short", "/webhook"}} {
		body := &huma.RequestBody{Description: "An event as the phone platform posts it.", Required: true, Content: map[string]*huma.MediaType{"application/json": {}}}
		body.Content["application/json"].Schema = &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true, Required: []string{"type", "timestamp"},
			Properties: map[string]*huma.Schema{
				"type":      {Type: huma.TypeString, Description: "What happened. Types that nobody knows are kept.", Examples: []any{"call.new"}},
				"timestamp": {Type: huma.TypeString, Description: "When it happened, RFC 3339.", Examples: []any{"2017-01-01T00:00:00Z"}},
				"call_id":   {Type: huma.TypeString, Description: "Of which call; the types call.* need it.", Examples: []any{"1463669263.30033"}},
			}}
		r.Handle(web.Op{ID: at.id, Method: http.MethodPost, Path: at.path, Tag: tag,
			Summary: "Take an event of the phone platform",
			Description: "Answers once the event is durable. The same event posted again is acknowledged and not stored twice; " +
				"events may come in any order. The key may also be the password of HTTP Basic, with any user.",
			Scope: "telephony:webhook", KeyInQuery: true, KeyInBasic: true, MaxBody: maxEvent,
			Errors:    []int{413, 422, 503, 507},
			Request:   body,
			Responses: map[string]*huma.Response{"200": r.ResponseOf("It is in the log.", EventReceipt{})},
		}, http.HandlerFunc(h.post))
	}
}

func (h *eventHTTP) post(w http.ResponseWriter, r *http.Request) {
	body, err := web.ReadBody(w, r, 0)
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	got, err := h.events.receive(r.Context(), body)
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	web.WriteJSON(w, http.StatusOK, EventReceipt{Status: "ok", ID: got.ID, UUID: got.UUID, Duplicate: got.Duplicate})
}
