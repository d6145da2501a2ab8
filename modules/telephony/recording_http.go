package telephony

import (
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// recordingHTTP serves
//
//	GET /telephony/calls/{call_id}/recordings             list a call's recordings
//	GET /telephony/calls/{call_id}/recordings/{event_id}  one that is kept here
type recordingHTTP struct{ recordings *recordingService }

func (h *recordingHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "telephony-list-recordings", Method: http.MethodGet, Path: "/telephony/calls/{call_id}/recordings", Tag: tag,
		Summary: "List the recordings of a call", Scope: "telephony:read", Errors: []int{404},
	}, h.list)
	r.Handle(web.Op{ID: "telephony-get-recording", Method: http.MethodGet, Path: "/telephony/calls/{call_id}/recordings/{event_id}", Tag: tag,
		Summary: "Get a recording that is kept here", Description: "404 for one of which only the link is known.",
		Scope: "telephony:read", Stream: true, Errors: []int{404, 503},
		Responses: map[string]*huma.Response{"200": {Description: "The sound.", Content: map[string]*huma.MediaType{"audio/*": {}}}},
	}, http.HandlerFunc(h.get))
}

// Recording is a recording of a call.
type Recording struct {
	ID         int64     `json:"id" doc:"Of the event that told of it."`
	UUID       string    `json:"uuid"`
	URL        string    `json:"url,omitempty" pii:"content" doc:"Where the platform has it."`
	State      string    `json:"state" enum:"link,pending,kept,failed,erased" doc:"link: it is not fetched; kept: it can be had here."`
	Size       int64     `json:"size,omitempty" doc:"Bytes, of one that is kept."`
	MediaType  string    `json:"media_type,omitempty"`
	Attempts   int64     `json:"attempts,omitempty"`
	Detail     string    `json:"detail,omitempty" doc:"Why it cannot be had."`
	ReceivedAt web.Time  `json:"received_at"`
	FetchedAt  *web.Time `json:"fetched_at,omitempty"`
}

type recordingsInput struct {
	CallID string `path:"call_id" maxLength:"256"`
}

func (h *recordingHTTP) list(ctx context.Context, in *recordingsInput) (*struct{ Body web.Page[Recording] }, error) {
	list, err := h.recordings.list(ctx, in.CallID)
	if err != nil {
		return nil, err
	}
	items := make([]Recording, len(list))
	for i, f := range list {
		items[i] = Recording{ID: f.ID, UUID: f.UUID.String(), URL: f.URL, State: "link", ReceivedAt: web.Time(f.ReceivedAt)}
		if r := f.Kept; r != nil {
			items[i].State, items[i].Attempts, items[i].Detail = r.State, r.Attempts, r.Detail
			if r.State == recordingKept {
				at := web.Time(r.FetchedAt.Time())
				items[i].Size, items[i].MediaType, items[i].FetchedAt = r.Size, r.MediaType, &at
			}
		}
	}
	return &struct{ Body web.Page[Recording] }{web.NewPage(items, "")}, nil
}

func (h *recordingHTTP) get(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("event_id"), 10, 64)
	if err != nil {
		web.Fail(w, r, errs.New(errs.NotFound, "no such recording is kept here"))
		return
	}
	found, cipher, err := h.recordings.kept(r.Context(), r.PathValue("call_id"), id)
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	header := w.Header()
	header.Set("Content-Type", found.MediaType)
	header.Set("Content-Length", strconv.FormatInt(found.Size, 10))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if err := h.recordings.write(r.Context(), w, found, cipher); err != nil && r.Context().Err() == nil {
		web.Fail(w, r, err) // the answer has begun: it is only logged
	}
}
