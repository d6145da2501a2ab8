package collector

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// liveHTTP serves
//
//	GET /collector/live what arrives, as Server-Sent Events (WHATWG HTML, section 9.2)
type liveHTTP struct {
	live *live
	// places bounds how many watch at once.
	places chan struct{}
}

const maxWatchers = 256

func (h *liveHTTP) routes(r *web.Router) {
	r.Handle(web.Op{ID: "collector-live", Method: http.MethodGet, Path: "/collector/live", Tag: tag,
		Summary:     "Watch events as they are stored",
		Description: "Server-Sent Events: `event: event` with an event as data; `event: missed` with a count when the watcher was too slow. Filters category, name, app, session_id as query parameters.",
		Scope:       "collector:read", Status: http.StatusOK, KeyInQuery: true, Stream: true, Errors: []int{503},
		Responses: map[string]*huma.Response{"200": {Description: "A stream that does not end.", Content: map[string]*huma.MediaType{"text/event-stream": {}}}},
	}, http.HandlerFunc(h.get))
}

func (h *liveHTTP) get(w http.ResponseWriter, r *http.Request) {
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	default:
		web.Fail(w, r, errs.New(errs.Unavailable, "too many watch already"))
		return
	}
	q := r.URL.Query()
	watcher, end := h.live.watch(func(it *item) bool {
		for key, value := range map[string]string{"category": it.Category, "name": it.Name, "app": it.App, "session_id": it.SessionID} {
			if want := q.Get(key); want != "" && want != value {
				return false
			}
		}
		return true
	})
	defer end()
	if err := h.live.want(); err != nil {
		web.Fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	beat := time.NewTicker(liveWantedEvery)
	defer beat.Stop()
	// A comment at once, so that the client knows that it is connected.
	text := ": watching\n\n"
	for {
		if n := watcher.missed.Swap(0); n > 0 {
			text += fmt.Sprintf("event: missed\ndata: %d\n\n", n)
		}
		if _, err := fmt.Fprint(w, text); err != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done(): // the client left, or the server stops
			return
		case <-beat.C:
			if h.live.want() != nil {
				return
			}
			text = ": still here\n\n"
		case it := <-watcher.events:
			text = liveText(it)
		}
	}
}

// liveText is an event as a message of the stream.
func liveText(it *item) string {
	f := found{Event: it.Event, ID: it.Event.ID, App: it.App, ReceivedAt: it.ReceivedAt}
	if f.ID == "" {
		f.ID = uuid.UUID(it.EventID).String()
	}
	// The payload may be written over several lines; a message must not be.
	data, err := json.Marshal(recorded(&f))
	if err != nil {
		return ": broken event\n\n"
	}
	return "event: event\nid: " + uuid.UUID(it.EventID).String() + "\ndata: " + string(data) + "\n\n"
}
