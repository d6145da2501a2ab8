package telephony

import (
	"encoding/json"
	"math"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// rebuildHTTP serves
//
//	POST /telephony/calls/rebuild  fold the log into the projections anew
type rebuildHTTP struct {
	rebuilds *rebuildService
	now      func() time.Time
}

// RebuildProgress is a line of the answer.
type RebuildProgress struct {
	Done            int64    `json:"done" doc:"Events of the log that are folded."`
	Total           int64    `json:"total"`
	Seconds         *float64 `json:"seconds,omitempty" doc:"On the last line: how long it took."`
	EventsPerSecond *float64 `json:"events_per_second,omitempty"`
	Error           string   `json:"error,omitempty" doc:"On the last line: why it failed. The projections are as they were."`
}

func (h *rebuildHTTP) routes(r *web.Router) {
	answer := r.ResponseOf("Lines of JSON (NDJSON): progress, and at the end the time it took or the error.", RebuildProgress{})
	answer.Content = map[string]*huma.MediaType{"application/x-ndjson": answer.Content["application/json"]}
	r.Handle(web.Op{ID: "telephony-rebuild-calls", Method: http.MethodPost, Path: "/telephony/calls/rebuild", Tag: tag,
		Summary: "Rebuild calls, customers, actors and statistics from the call log",
		Description: "The service goes on meanwhile with what it has; the new projections replace it at once when they have caught up with the log. " +
			"A client that goes away ends the rebuild, and nothing has changed.",
		Scope: "telephony:write", Stream: true, Errors: []int{409},
		Responses: map[string]*huma.Response{"200": answer},
	}, http.HandlerFunc(h.rebuild))
}

func (h *rebuildHTTP) rebuild(w http.ResponseWriter, r *http.Request) {
	lines := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	begun := false
	began, told := h.now(), time.Time{}
	say := func(p RebuildProgress) {
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			begun = true
		}
		// Who is gone ends the rebuild by the context.
		_ = lines.Encode(p)
		_ = flush.Flush()
	}
	events, err := h.rebuilds.rebuild(r.Context(), func(done, total int64) {
		if now := h.now(); now.Sub(told) >= 200*time.Millisecond {
			told = now
			say(RebuildProgress{Done: done, Total: total})
		}
	})
	switch {
	case err != nil && !begun:
		web.Fail(w, r, err)
	case err != nil:
		text := "the server failed; see its log"
		if errs.KindOf(err) != errs.Internal {
			text = err.Error()
		}
		h.rebuilds.log.ErrorContext(r.Context(), "rebuild failed", "error", err)
		say(RebuildProgress{Error: text})
	default:
		seconds := h.now().Sub(began).Seconds()
		rate := math.Round(float64(events) / max(seconds, 0.001))
		say(RebuildProgress{Done: events, Total: events, Seconds: &seconds, EventsPerSecond: &rate})
	}
}
