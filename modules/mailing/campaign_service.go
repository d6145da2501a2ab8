package mailing

import (
	"context"
	"fmt"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/store"
)

// campaignService is what people can do with campaigns. The dispatcher carries
// them out.
type campaignService struct {
	store    *campaignStore
	messages *messageStore
	clients  *clientService
	sender   *senderClient
	logged   eventlog.Logger
	now      func() time.Time
	wake     func() // the dispatcher has something to look at
}

func (s *campaignService) log(ctx context.Context, event string, id int64, data map[string]any) {
	// What cannot be logged is counted there.
	_ = s.logged.Log(ctx, entryOf(event, id, 0, 0, data))
}

// create makes a campaign; it starts by itself. Invalid names the fields.
func (s *campaignService) create(ctx context.Context, n newCampaign) (*campaign, error) {
	now := s.now()
	c := &campaign{Name: n.Name, Text: n.Text, StartAt: n.StartAt.UTC().Truncate(time.Microsecond), EndAt: n.EndAt.UTC().Truncate(time.Microsecond), Filter: n.Filter, Window: n.Window,
		Status: campaignScheduled, Expanded: -1, CreatedAt: now, UpdatedAt: now}
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := s.store.db.Tx(ctx, func(tx store.Querier) error { return s.store.insert(ctx, tx, c) }); err != nil {
		return nil, fmt.Errorf("create campaign: %w", err)
	}
	s.log(ctx, eventCampaignCreated, c.ID, nil)
	s.wake()
	return c, nil
}

// get gives one campaign; NotFound if there is none.
func (s *campaignService) get(ctx context.Context, id int64) (*campaign, error) {
	return s.store.get(ctx, s.store.db.Read(), id)
}

// list gives a page of campaigns, newest first, and whether more follow.
func (s *campaignService) list(ctx context.Context, status string, before int64, limit int) ([]campaign, bool, error) {
	list, err := s.store.list(ctx, status, before, limit+1)
	if err != nil {
		return nil, false, fmt.Errorf("find campaigns: %w", err)
	}
	if len(list) > limit {
		return list[:limit], true, nil
	}
	return list, false, nil
}

// update changes a campaign. Conflict if it is over, or has started and
// something is to be changed that counts for all.
func (s *campaignService) update(ctx context.Context, id int64, to campaignChange) (*campaign, error) {
	c, err := s.change(ctx, id, func(c *campaign) error { return c.change(to) })
	if err == nil {
		s.log(ctx, eventCampaignEdited, id, nil)
	}
	return c, err
}

// change applies a change in one transaction.
func (s *campaignService) change(ctx context.Context, id int64, apply func(*campaign) error) (c *campaign, err error) {
	err = s.store.db.Tx(ctx, func(tx store.Querier) (err error) {
		if c, err = s.store.get(ctx, tx, id); err != nil {
			return err
		}
		if err := apply(c); err != nil {
			return err
		}
		c.UpdatedAt = s.now()
		return s.store.save(ctx, tx, c)
	})
	if err != nil {
		return nil, err
	}
	s.wake()
	return c, nil
}

// status moves a campaign to a status, if it is in one of from.
func (s *campaignService) status(ctx context.Context, id int64, event string, to campaignStatus, from ...campaignStatus) (*campaign, error) {
	c, err := s.change(ctx, id, func(c *campaign) error {
		for _, f := range from {
			if c.Status == f {
				c.Status = to
				return nil
			}
		}
		return errs.New(errs.Conflict, "the campaign is %s", c.Status)
	})
	if err == nil {
		s.log(ctx, event, id, nil)
	}
	return c, err
}

// pause keeps a campaign from starting, or from sending more.
func (s *campaignService) pause(ctx context.Context, id int64) (*campaign, error) {
	return s.status(ctx, id, eventCampaignPaused, campaignPaused, campaignScheduled, campaignRunning)
}

// resume lets a paused campaign go on where it was. If its start has come it
// runs again at once.
func (s *campaignService) resume(ctx context.Context, id int64) (*campaign, error) {
	return s.status(ctx, id, eventCampaignResumed, campaignScheduled, campaignPaused)
}

// cancel ends a campaign: what has not gone will not go.
func (s *campaignService) cancel(ctx context.Context, id int64) (*campaign, error) {
	return s.status(ctx, id, eventCampaignCanceled, campaignCanceled, campaignScheduled, campaignRunning, campaignPaused)
}

// remove deletes a campaign and its messages. One that runs has to be canceled
// first.
func (s *campaignService) remove(ctx context.Context, id int64) error {
	_, err := s.change(ctx, id, func(c *campaign) error {
		if !c.over() && c.started() {
			return errs.New(errs.Conflict, "the campaign is %s: cancel it first", c.Status)
		}
		c.Status = campaignDeleted
		return nil
	})
	if err == nil {
		s.log(ctx, eventCampaignDeleted, id, nil)
	}
	return err
}

// counts gives the number of messages of campaigns by status.
func (s *campaignService) counts(ctx context.Context, ids []int64) (map[int64]map[messageStatus]int64, error) {
	return s.store.counts(ctx, s.store.db.Read(), ids)
}

// test sends a campaign's text to these clients now. It counts nowhere, and
// happens once: what fails is not tried again. Errors: NotFound for a campaign
// or client that there is not; those of the sender.
func (s *campaignService) test(ctx context.Context, id int64, clientIDs []int64) (sent int, err error) {
	c, err := s.get(ctx, id)
	if err != nil {
		return 0, err
	}
	rows, err := s.clients.store.load(ctx, s.store.db.Read(), clientIDs)
	if err != nil {
		return 0, fmt.Errorf("find clients: %w", err)
	}
	for _, clientID := range clientIDs {
		row, ok := rows[clientID]
		if !ok {
			return sent, errs.New(errs.NotFound, "no client %d", clientID)
		}
		to, err := s.clients.open(ctx, []audienceRow{row})
		if err != nil || len(to) == 0 || to[0] == nil {
			return sent, errs.New(errs.NotFound, "no client %d", clientID)
		}
		text, err := renderText(c.Text, to[0])
		if err != nil {
			return sent, err
		}
		var number int64
		err = s.store.db.Tx(ctx, func(tx store.Querier) (err error) {
			number, err = nextIDs(ctx, tx, "message", 1)
			return err
		})
		if err != nil {
			return sent, err
		}
		if a := s.sender.send(ctx, number, to[0].PhoneNumber, text); a.result != attemptAccepted {
			return sent, errs.New(errs.Unavailable, "the provider did not accept the test message: %s", a.detail)
		}
		sent++
	}
	return sent, nil
}
