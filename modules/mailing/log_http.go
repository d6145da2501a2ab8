package mailing

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"switchboard/platform/eventlog"
	"switchboard/platform/web"
)

// logHTTP serves
//
//	GET /mailing/campaigns/{id}/log  everything that happened to a campaign
//	GET /mailing/messages/{id}/log   … to a message
//	GET /mailing/clients/{id}/log    … to a client
type logHTTP struct{ log *eventlog.Log }

func (h *logHTTP) routes(r *web.Router) {
	for _, of := range []struct{ kind, path string }{{refCampaign, "/mailing/campaigns"}, {refMessage, "/mailing/messages"}, {refClient, "/mailing/clients"}} {
		web.Register(r, web.Op{ID: "mailing-" + of.kind + "-log", Method: http.MethodGet, Path: of.path + "/{id}/log", Tag: tag,
			Summary: "Look up what happened to a " + of.kind,
			Description: "Newest first, from the event log's strategy sql, as long as that keeps it (mailing.log.retention), also after the " + of.kind + " was deleted. " +
				"An id that nothing happened to has an empty log. A page may be short although there are more: go on while there is a next.",
			Scope: "logs:read", Errors: []int{422, 503},
		}, func(ctx context.Context, in *lookUpLogInput) (*struct{ Body web.Page[LogEntry] }, error) {
			return h.lookUp(ctx, of.kind, in)
		})
	}
}

// LogEntry is something that happened.
type LogEntry struct {
	ID         string          `json:"id"`
	Time       web.Time        `json:"time"`
	Event      string          `json:"event" example:"message.sent"`
	CampaignID int64           `json:"campaign_id,omitempty"`
	MessageID  int64           `json:"message_id,omitempty"`
	ClientID   int64           `json:"client_id,omitempty"`
	Data       json.RawMessage `json:"data,omitempty" doc:"Details, by the event: attempt, status, fault, seconds, reason, …"`
}

type lookUpLogInput struct {
	ID     int64     `path:"id" minimum:"1"`
	Event  string    `query:"event" maxLength:"64" doc:"Only this event, as in message.sent."`
	From   time.Time `query:"from" doc:"Only then or later, RFC 3339."`
	To     time.Time `query:"to" doc:"Only then or earlier."`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string    `query:"cursor" doc:"The next of the page before."`
}

// logCursor is where the event log goes on.
type logCursor struct {
	After string `json:"a"`
}

func (h *logHTTP) lookUp(ctx context.Context, kind string, in *lookUpLogInput) (*struct{ Body web.Page[LogEntry] }, error) {
	var at logCursor
	if in.Cursor != "" {
		if err := web.ParseCursor(in.Cursor, &at); err != nil {
			return nil, err
		}
	}
	found, err := h.log.Find(ctx, eventlog.Query{Event: in.Event, Ref: eventlog.SerialRef(kind, in.ID),
		From: in.From, To: in.To, After: at.After, Limit: in.Limit})
	if err != nil {
		return nil, err
	}
	items := make([]LogEntry, len(found.Entries))
	for i := range found.Entries {
		items[i] = showEntry(&found.Entries[i], kind, in.ID)
	}
	next := ""
	if found.Next != "" {
		next = web.Cursor(logCursor{found.Next})
	}
	return &struct{ Body web.Page[LogEntry] }{web.NewPage(items, next)}, nil
}

// showEntry shows an entry to who asked for a thing. An entry about several
// clients, as of an import, names the one that was asked for.
func showEntry(e *eventlog.Entry, kind string, id int64) LogEntry {
	out := LogEntry{ID: e.ID, Time: web.Time(e.Time), Event: e.Event, Data: e.Data}
	at := map[string]*int64{refCampaign: &out.CampaignID, refMessage: &out.MessageID, refClient: &out.ClientID}
	*at[kind] = id
	for _, ref := range e.Refs {
		if to := at[ref.Kind]; to != nil && *to == 0 {
			if n, err := strconv.ParseInt(ref.ID, 10, 64); err == nil {
				*to = n
			}
		}
	}
	return out
}
