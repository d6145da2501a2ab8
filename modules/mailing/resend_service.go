package mailing

import (
	"context"
	"fmt"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/store"
)

const (
	resendChunk = 1000 // messages in one transaction
	maxFailures = 100  // reasons that are told
)

// resendService is the desk at which people look at what did not go, and have
// it sent again.
type resendService struct {
	store     *resendStore
	campaigns *campaignService
	messages  *messageStore
	logged    eventlog.Logger
	now       func() time.Time
}

// resend queues failed messages of a campaign again under the ids they have:
// those with these ids, or all if ids is nil. It gives how many there were;
// messages that have not failed stay as they are. A campaign that finished
// before its end runs again. Conflict: the campaign is canceled or its end has
// come. NotFound: no such campaign.
func (s *resendService) resend(ctx context.Context, campaign int64, ids []int64) (queued int64, err error) {
	if ids != nil {
		queued, err = s.requeue(ctx, campaign, ids)
	} else {
		// By id, so that what fails again meanwhile is not taken twice.
		for after, more := int64(0), true; more && err == nil; {
			var some []int64
			if some, err = s.store.failed(ctx, campaign, after, resendChunk); err != nil {
				return queued, fmt.Errorf("find failed messages: %w", err)
			}
			if more = len(some) == resendChunk; more {
				after = some[len(some)-1]
			}
			var n int64
			n, err = s.requeue(ctx, campaign, some)
			queued += n
		}
	}
	if queued > 0 {
		// What cannot be logged is counted there.
		_ = s.logged.Log(ctx, entryOf(eventCampaignResent, campaign, 0, 0, map[string]any{"messages": queued}))
		s.campaigns.wake()
	}
	return queued, err
}

// eventCampaignResent tells that failed messages were queued again: messages.
const eventCampaignResent = "campaign.resent"

// requeue queues these messages in one transaction with a look at the campaign,
// so that none is left in one that is over.
func (s *resendService) requeue(ctx context.Context, campaign int64, ids []int64) (n int64, err error) {
	now := s.now()
	err = s.store.db.Tx(ctx, func(tx store.Querier) error {
		n = 0
		c, err := s.campaigns.store.get(ctx, tx, campaign)
		if err != nil {
			return err
		}
		switch {
		case c.Status == campaignCanceled:
			return errs.New(errs.Conflict, "the campaign is canceled: nothing of it is sent any more")
		case !now.Before(c.EndAt):
			return errs.New(errs.Conflict, "the campaign ended at %s: nothing of it is sent any more", c.EndAt.UTC().Format(time.RFC3339))
		}
		if n, err = s.store.requeue(ctx, tx, campaign, ids, now); err != nil || n == 0 {
			return err
		}
		if c.Status == campaignFinished {
			_, err = s.campaigns.store.move(ctx, tx, campaign, campaignFinished, campaignRunning, now)
		}
		return err
	})
	return n, err
}

// failures groups what failed and what expired by reason, and tells whether
// there are more reasons. NotFound: no such campaign.
func (s *resendService) failures(ctx context.Context, campaign int64) (list []failure, more bool, err error) {
	if _, err := s.campaigns.get(ctx, campaign); err != nil {
		return nil, false, err
	}
	list, err = s.store.failures(ctx, campaign, maxFailures+1)
	if err != nil {
		return nil, false, fmt.Errorf("group failed messages: %w", err)
	}
	if len(list) > maxFailures {
		return list[:maxFailures], true, nil
	}
	return list, false, nil
}

// export gives the messages of a campaign in the order of their ids, in pages.
// It stops at the first error of page. NotFound: no such campaign.
func (s *resendService) export(ctx context.Context, campaign int64, status []messageStatus, page func([]message) error) error {
	if _, err := s.campaigns.get(ctx, campaign); err != nil {
		return err
	}
	q := messageQuery{Campaign: &campaign, Status: status, Limit: resendChunk}
	for first := true; ; first = false {
		list, err := s.messages.list(ctx, q)
		if err != nil {
			return fmt.Errorf("read messages: %w", err)
		}
		if len(list) == 0 && !first {
			return nil
		}
		if err := page(list); err != nil || len(list) < q.Limit {
			return err
		}
		q.After = list[len(list)-1].ID
	}
}
