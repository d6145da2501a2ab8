package mailing

import (
	"context"
	"time"

	"switchboard/platform/store"
)

// Why messages expire. Both may be mended by an edit.
const (
	endedBefore = "the campaign ended"
	neverOpens  = "the window does not open before the end"
)

// eventMessageReopened tells that a message that had expired waits again: the
// end or the window was edited.
const eventMessageReopened = "message.reopened"

// rescheduleChunk is how many messages one transaction finds the time of.
const rescheduleChunk = 1000

// reschedule finds the time of the next messages of a campaign whose end or
// window was edited, and tells whether there are more. Those that had expired
// by what was edited wait again.
func (d *dispatcher) reschedule(ctx context.Context, c *campaign, now time.Time) (more bool, err error) {
	if c.Reschedule == 0 {
		return false, nil
	}
	again := c.RescheduleAgain
	if c.Reschedule == 1 {
		// What a worker had before the edit may come back with a time by what was
		// before. The second is for clocks that differ.
		if again, err = d.messages.inHand(ctx, c.ID, c.UpdatedAt.Add(lease+time.Second)); err != nil {
			return false, err
		}
	}
	list, err := d.messages.reschedulable(ctx, c.ID, c.Reschedule, rescheduleChunk)
	if err != nil {
		return false, err
	}
	zones, err := d.messages.zones(ctx, list)
	if err != nil {
		return false, err
	}
	var order []schedule
	of := map[schedule][]int64{}
	clients := make(map[int64]int64, len(list))
	for _, m := range list {
		clients[m.id] = m.client
		in, there := zones[m.client]
		if !there {
			continue // it was deleted, and gets nothing
		}
		to, changed := d.newTime(c, m, in, now)
		if !changed {
			continue
		}
		if of[to] == nil {
			order = append(order, to)
		}
		of[to] = append(of[to], m.id)
	}
	next := int64(0)
	switch {
	case len(list) == rescheduleChunk:
		next = list[len(list)-1].id + 1
	case again:
		next, again = 1, false
	}
	done := map[schedule][]int64{}
	err = d.campaigns.db.Tx(ctx, func(tx store.Querier) error {
		clear(done)
		still, err := d.campaigns.still(ctx, tx, c)
		if err != nil || !still {
			return err
		}
		if still, err = d.campaigns.rescheduled(ctx, tx, c, next, again); err != nil || !still {
			return err // another instance was faster
		}
		for _, to := range order {
			if done[to], err = d.messages.reschedule(ctx, tx, c.ID, to, of[to]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, to := range order {
		for _, id := range done[to] {
			switch {
			case to.was == messageExpired:
				d.journal(ctx, eventMessageReopened, c.ID, id, clients[id], nil)
			case to.status == messageExpired:
				d.tell(ctx, fate{campaign: c.ID, id: id, client: clients[id], status: to.status, err: to.err})
			}
		}
	}
	return next > 1, nil
}

// newTime gives what becomes of a message by the end and the window that its
// campaign has now, and tells whether that is new.
func (d *dispatcher) newTime(c *campaign, m due, in *time.Location, now time.Time) (to schedule, changed bool) {
	opens, _ := c.Window.next(now, in)
	if !opens.Before(c.EndAt) {
		return schedule{was: m.status, status: messageExpired, due: store.MicrosOf(m.at), err: neverOpens}, m.status != messageExpired
	}
	to = schedule{was: m.status, status: messagePending}
	if m.attempts > 0 {
		to.status = messageRetrying
	}
	switch pause := m.at.Sub(now); {
	case m.status != messageExpired && pause <= 0 && opens.Equal(now):
		return to, false // it waits for its turn alone
	case m.status == messageRetrying && pause > 0 && pause <= d.cfg.RetryMax+d.cfg.RetryMax/4:
		// It waits for its next attempt too.
		if opens, _ = c.Window.next(m.at, in); opens.After(c.EndAt) {
			opens = c.EndAt
		}
	}
	to.due = store.MicrosOf(opens)
	return to, to.status != m.status || to.due != store.MicrosOf(m.at)
}
