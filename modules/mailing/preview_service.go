package mailing

import (
	"context"
	"fmt"
	"time"

	"switchboard/platform/seal"
)

const (
	maxPreviewClients = 20
	maxPreviewZones   = 100
)

// Why a client would not get a campaign.
const (
	withoutSuppressed = "suppressed"
	withoutWindow     = "window"
	withoutText       = "text"
)

// previewService tells who would get a campaign, and when.
type previewService struct {
	store        *previewStore
	campaigns    *campaignService
	clients      *clientService
	suppressions *suppressionService
}

// preview is who would get a campaign.
type preview struct {
	matching, suppressed, unreachable, recipients int64
	first, last                                   *time.Time
	zones                                         []previewZone // at most maxPreviewZones, by clients
	clients                                       []previewClient
}

// previewZone is when the clients of a time zone can be reached; never if opens
// is nil.
type previewZone struct {
	timezone string
	clients  int64
	opens    *time.Time
}

// previewClient is what a client would get, or why not.
type previewClient struct {
	client  *client
	text    string
	reached *time.Time
	reason  string
}

// preview looks at the clients there are now. NotFound if there is no such
// campaign.
func (s *previewService) preview(ctx context.Context, id int64) (*preview, error) {
	c, err := s.campaigns.get(ctx, id)
	if err != nil {
		return nil, err
	}
	counts, err := s.store.zones(ctx, c.Filter)
	if err != nil {
		return nil, fmt.Errorf("count the audience: %w", err)
	}
	out, opens, now := &preview{}, map[string]*time.Time{}, s.campaigns.now()
	for _, z := range counts {
		at := c.reaches(now, z.timezone)
		opens[z.timezone] = at
		heard := z.clients - z.suppressed
		out.matching += z.clients
		out.suppressed += z.suppressed
		switch {
		case at == nil:
			out.unreachable += heard
		case heard > 0:
			out.recipients += heard
			if out.first == nil || at.Before(*out.first) {
				out.first = at
			}
			if out.last == nil || at.After(*out.last) {
				out.last = at
			}
		}
		if len(out.zones) < maxPreviewZones {
			out.zones = append(out.zones, previewZone{z.timezone, heard, at})
		}
	}
	out.clients, err = s.some(ctx, c, now)
	return out, err
}

// some shows the first clients that the filter picks.
func (s *previewService) some(ctx context.Context, c *campaign, now time.Time) ([]previewClient, error) {
	db := s.store.db.Read()
	rows, err := s.clients.store.audience(ctx, db, c.Filter, 0, maxPreviewClients)
	if err != nil {
		return nil, fmt.Errorf("find the audience: %w", err)
	}
	phones := make([]seal.Index, len(rows))
	for i := range rows {
		phones[i] = rows[i].Phone
	}
	silent, err := s.suppressions.store.suppressed(ctx, db, phones)
	if err != nil {
		return nil, fmt.Errorf("find suppressed numbers: %w", err)
	}
	people, err := s.clients.open(ctx, rows)
	if err != nil {
		return nil, err
	}
	text, err := parseText(c.Text)
	if err != nil {
		return nil, err
	}
	out := make([]previewClient, 0, len(rows))
	for i, person := range people {
		if person == nil { // erased meanwhile
			continue
		}
		p := previewClient{client: person, reached: c.reaches(now, person.Timezone)}
		if p.text, err = text.render(person); err != nil {
			p.reason, p.reached = withoutText, nil
		}
		if p.reached == nil && p.reason == "" {
			p.reason = withoutWindow
		}
		if silent[rows[i].Phone] {
			p.reason, p.reached = withoutSuppressed, nil
		}
		out = append(out, p)
	}
	return out, nil
}

// reaches is when a client of that time zone may be reached first from now on;
// nil if not before the end.
func (c *campaign) reaches(now time.Time, timezone string) *time.Time {
	zone, err := loadZone(timezone)
	if err != nil {
		zone = time.UTC // it was checked when it came
	}
	if now.Before(c.StartAt) {
		now = c.StartAt
	}
	at, ok := c.Window.next(now, zone)
	if !ok || !at.Before(c.EndAt) {
		return nil
	}
	return &at
}
