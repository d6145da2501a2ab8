package mailing

import (
	"context"
	"fmt"
	"net/http"

	"switchboard/platform/web"
)

// statHTTP serves
//
//	GET /mailing/stats                 messages by campaign and status
//	GET /mailing/campaigns/{id}/stats  those of one campaign
type statHTTP struct {
	campaigns *campaignService
	stats     *statStore
}

func (h *statHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "mailing-list-stats", Method: http.MethodGet, Path: "/mailing/stats", Tag: tag,
		Summary: "Count messages by campaign and status", Description: "Campaigns newest first, and the totals of all of them. From counters that change with the messages.",
		Scope: "mailing:read", Errors: []int{422}}, h.list)
	web.Register(r, web.Op{ID: "mailing-get-campaign-stats", Method: http.MethodGet, Path: "/mailing/campaigns/{id}/stats", Tag: tag,
		Summary: "Count the messages of a campaign by status", Scope: "mailing:read", Errors: []int{404, 422}}, h.get)
}

// MessageCounts are numbers of messages by status.
type MessageCounts struct {
	Pending  int64 `json:"pending"`
	Sending  int64 `json:"sending"`
	Sent     int64 `json:"sent"`
	Retrying int64 `json:"retrying"`
	Failed   int64 `json:"failed"`
	Expired  int64 `json:"expired"`
	Canceled int64 `json:"canceled"`
}

// MessageTotals are numbers of messages.
type MessageTotals struct {
	Total    int64         `json:"total" doc:"Messages there are: the sum of those by status."`
	ByStatus MessageCounts `json:"by_status"`
}

// CampaignStats are the numbers of a campaign's messages.
type CampaignStats struct {
	CampaignID int64 `json:"campaign_id"`
	MessageTotals
}

// CampaignDetailStats are the numbers of a campaign's messages, and how far it
// has got.
type CampaignDetailStats struct {
	CampaignStats
	Status string `json:"status" enum:"scheduled,running,paused,finished,canceled" doc:"Of the campaign."`
}

// StatsPage is a page of numbers.
type StatsPage struct {
	web.Page[CampaignStats]
	Totals MessageTotals `json:"totals" doc:"Of all campaigns, not only those of the page."`
}

func totalsOf(by map[messageStatus]int64) MessageTotals {
	t := MessageTotals{ByStatus: MessageCounts{by[messagePending], by[messageSending], by[messageSent], by[messageRetrying], by[messageFailed], by[messageExpired], by[messageCanceled]}}
	for _, n := range by {
		t.Total += n
	}
	return t
}

func (h *statHTTP) list(ctx context.Context, in *PageInput) (*struct{ Body StatsPage }, error) {
	before, err := in.place()
	if err != nil {
		return nil, err
	}
	page, more, err := h.campaigns.list(ctx, "", before, in.Limit)
	if err != nil {
		return nil, err
	}
	ids, next := make([]int64, len(page)), ""
	for i := range page {
		ids[i] = page[i].ID
	}
	if more {
		next = web.Cursor(idCursor{ids[len(ids)-1]})
	}
	counts, err := h.campaigns.counts(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("count messages: %w", err)
	}
	totals, err := h.stats.totals(ctx)
	if err != nil {
		return nil, fmt.Errorf("add messages up: %w", err)
	}
	items := make([]CampaignStats, len(ids))
	for i, id := range ids {
		items[i] = CampaignStats{id, totalsOf(counts[id])}
	}
	return &struct{ Body StatsPage }{StatsPage{web.NewPage(items, next), totalsOf(totals)}}, nil
}

func (h *statHTTP) get(ctx context.Context, in *CampaignPath) (*struct{ Body CampaignDetailStats }, error) {
	c, err := h.campaigns.get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	counts, err := h.campaigns.counts(ctx, []int64{in.ID})
	if err != nil {
		return nil, fmt.Errorf("count messages: %w", err)
	}
	return &struct{ Body CampaignDetailStats }{CampaignDetailStats{CampaignStats{in.ID, totalsOf(counts[in.ID])}, string(c.Status)}}, nil
}
