package mailing

import (
	"context"
	"net/http"

	"switchboard/platform/web"
)

// messageHTTP serves
//
//	GET /mailing/campaigns/{id}/messages  the messages of a campaign
//	GET /mailing/messages/{id}            one message
type messageHTTP struct {
	campaigns *campaignService
	messages  *messageStore
}

func (h *messageHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "mailing-list-messages", Method: http.MethodGet, Path: "/mailing/campaigns/{id}/messages", Tag: tag,
		Summary: "Query the messages of a campaign", Description: "In the order of their ids. Filters combine; several statuses mean any of them.",
		Scope: "mailing:read", Errors: []int{404, 422}}, h.list)
	web.Register(r, web.Op{ID: "mailing-get-message", Method: http.MethodGet, Path: "/mailing/messages/{id}", Tag: tag,
		Summary: "Get a message", Scope: "mailing:read", Errors: []int{404, 422}}, h.get)
}

// Message is one campaign for one client.
type Message struct {
	ID         int64     `json:"id" doc:"By this id the provider knows it, however often it is sent."`
	CampaignID int64     `json:"campaign_id"`
	ClientID   int64     `json:"client_id"`
	Status     string    `json:"status" enum:"pending,sending,sent,retrying,failed,expired,canceled"`
	CreatedAt  web.Time  `json:"created_at"`
	SentAt     *web.Time `json:"sent_at" doc:"When the provider accepted it; null: not yet."`
	Attempts   int64     `json:"attempts" doc:"How often it was given to the provider."`
	LastError  string    `json:"last_error" doc:"Why it did not go; empty: nothing went wrong, or not yet."`
	DueAt      web.Time  `json:"due_at" doc:"When it may go next; of no meaning once the status is final."`
	Delivered  string    `json:"delivered,omitempty" doc:"What the provider told later."`
}

func shownMessage(m *message) Message {
	return Message{m.ID, m.CampaignID, m.ClientID, m.Status.String(), web.Time(m.CreatedAt), shownMoment(m.SentAt), m.Attempts, m.LastError, web.Time(m.DueAt), m.Delivered}
}

type listMessagesInput struct {
	CampaignPath
	Status   []string `query:"status,explode" enum:"pending,sending,sent,retrying,failed,expired,canceled" maxItems:"7" doc:"Only messages in this status; may be repeated."`
	ClientID int64    `query:"client_id" minimum:"1" doc:"Only the message for this client."`
	PageInput
}

// statuses gives each of the named statuses once.
func statuses(names []string) (out []messageStatus) {
	for _, name := range distinct(names) {
		if s, ok := parseMessageStatus(name); ok {
			out = append(out, s)
		}
	}
	return out
}

func (h *messageHTTP) list(ctx context.Context, in *listMessagesInput) (*struct{ Body web.Page[Message] }, error) {
	after, err := in.place()
	if err != nil {
		return nil, err
	}
	if _, err := h.campaigns.get(ctx, in.ID); err != nil {
		return nil, err
	}
	q := messageQuery{Campaign: &in.ID, Status: statuses(in.Status), After: after, Limit: in.Limit + 1}
	if in.ClientID > 0 {
		q.Client = &in.ClientID
	}
	page, err := h.messages.list(ctx, q)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(page) > in.Limit {
		page = page[:in.Limit]
		next = web.Cursor(idCursor{page[in.Limit-1].ID})
	}
	items := make([]Message, len(page))
	for i := range page {
		items[i] = shownMessage(&page[i])
	}
	return &struct{ Body web.Page[Message] }{web.NewPage(items, next)}, nil
}

// MessagePath names a message in an address.
type MessagePath struct {
	ID int64 `path:"id" minimum:"1"`
}

func (h *messageHTTP) get(ctx context.Context, in *MessagePath) (*struct{ Body Message }, error) {
	m, err := h.messages.get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &struct{ Body Message }{shownMessage(&m)}, nil
}
