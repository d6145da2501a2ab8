package gateway

import (
	"context"
	"net/http"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/web"
)

// deliveryHTTP serves
//
//	GET /gateway/deliveries which socket got which event
type deliveryHTTP struct{ log *eventlog.Log }

func (h *deliveryHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "gateway-list-deliveries", Method: http.MethodGet, Path: "/gateway/deliveries", Tag: tag,
		Summary: "List which socket got which event",
		Description: "Newest first, one entry per event and socket, from the event log's strategy sql. A page may be short although there are more: " +
			"go on while there is a next.",
		Scope: "gateway:read", Errors: []int{422, 503},
	}, h.list)
}

// Delivery is an event that was queued for a socket.
type Delivery struct {
	ID     string   `json:"id" doc:"Of the event."`
	Time   web.Time `json:"time"`
	Event  string   `json:"event"`
	Room   string   `json:"room,omitempty" pii:"room"`
	Socket string   `json:"socket"`
}

type listDeliveriesInput struct {
	Event  string    `query:"event" doc:"Only events of this name."`
	Room   string    `query:"room" pii:"room" doc:"Only events to this room."`
	Socket string    `query:"socket" doc:"Only what this socket got."`
	From   time.Time `query:"from" doc:"Only then or later, RFC 3339."`
	To     time.Time `query:"to" doc:"Only then or earlier."`
	PageInput
}

// deliveryCursor is an entry of the log and how many of its sockets were given.
type deliveryCursor struct {
	Entry string `json:"e"`
	Given int    `json:"g,omitempty"`
}

func (h *deliveryHTTP) list(ctx context.Context, in *listDeliveriesInput) (*struct{ Body web.Page[Delivery] }, error) {
	var at deliveryCursor
	if in.Cursor != "" && web.ParseCursor(in.Cursor, &at) != nil {
		return nil, errs.InvalidFields("the cursor is not one of this list", errs.Field{Location: "query.cursor", Message: "is not a cursor that this list gave"})
	}
	q := eventlog.Query{Event: in.Event, Target: in.Socket, From: in.From, To: in.To, After: at.Entry, Limit: 1}
	if in.Room != "" {
		q.Ref = eventlog.Ref{Kind: "room", ID: in.Room}
	}
	items := []Delivery{}
	given := at.Given
	// An entry holds many deliveries, or none: it may be an emit.
	for looked := 0; looked < 1000; looked++ {
		found, err := h.log.Find(ctx, q)
		if err != nil {
			return nil, err
		}
		for i := range found.Entries {
			all := deliveriesOf(&found.Entries[i], in.Socket)
			all = all[min(given, len(all)):]
			n := min(in.Limit-len(items), len(all))
			items = append(items, all[:n]...)
			if n < len(all) {
				return deliveryPage(items, deliveryCursor{q.After, given + n}), nil
			}
			given = 0
		}
		if q.After = found.Next; q.After == "" {
			return deliveryPage(items, deliveryCursor{}), nil
		}
		if len(items) == in.Limit {
			break
		}
	}
	return deliveryPage(items, deliveryCursor{Entry: q.After}), nil
}

func deliveryPage(items []Delivery, at deliveryCursor) *struct{ Body web.Page[Delivery] } {
	next := ""
	if at != (deliveryCursor{}) {
		next = web.Cursor(at)
	}
	return &struct{ Body web.Page[Delivery] }{web.NewPage(items, next)}
}

// deliveriesOf are those of an entry, of one socket or of all.
func deliveriesOf(e *eventlog.Entry, socket string) (out []Delivery) {
	room := ""
	for _, ref := range e.Refs {
		if ref.Kind == "room" {
			room = ref.ID
		}
	}
	for _, target := range e.Targets {
		if socket == "" || target == socket {
			out = append(out, Delivery{ID: eventID(e.ID), Time: web.Time(e.Time), Event: e.Event, Room: room, Socket: target})
		}
	}
	return out
}
