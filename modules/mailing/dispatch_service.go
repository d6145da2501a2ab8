package mailing

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"switchboard/platform/bus"
	"switchboard/platform/eventlog"
	"switchboard/platform/outbox"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	subjectSend = "mailing.send"
	streamSend  = "MAILING_SEND"

	// lookEvery is how often the dispatcher looks at the clock.
	lookEvery = 200 * time.Millisecond
	// expandChunk is how many clients one transaction makes messages for.
	expandChunk = 1000
	// handChunk is how many messages go to a worker together.
	handChunk = 100
	// lease is how long a worker may keep messages. It gives them back long
	// before; after a crash the bus brings them to another one sooner.
	lease = 2 * time.Minute
	// sliceSize is how many messages are looked at together just before they go.
	sliceSize = 50
)

// dispatcher starts campaigns, makes their messages, brings them to workers
// when their time has come, and ends campaigns. Any number of instances may
// run; each step is a conditional change.
type dispatcher struct {
	cfg          *Config
	campaigns    *campaignStore
	messages     *messageStore
	store        *dispatchStore
	clients      *clientService
	suppressions *suppressionService
	sender       *senderClient
	gate         *gate
	limit        *rate.Limiter
	bus          *bus.Bus
	relay        *outbox.Relay
	logged       eventlog.Logger
	metrics      *metrics
	log          *slog.Logger
	now          func() time.Time
	look         chan struct{}
	fates        chan settled
	room         chan struct{} // a place for each message on its way
	began        time.Time     // of this process, by the real clock

	mu    sync.Mutex
	empty map[int64]time.Time // since when a running campaign has no open message
}

// wake has the dispatcher look at once. It never blocks.
func (d *dispatcher) wake() {
	select {
	case d.look <- struct{}{}:
	default:
	}
}

// start declares the queue.
func (d *dispatcher) start(ctx context.Context) error {
	return d.bus.Declare(ctx, bus.Stream{Name: streamSend, Subjects: []string{subjectSend}, Queue: true, MaxAge: 24 * time.Hour, MaxBytes: 256 << 20})
}

// run looks until ctx ends.
func (d *dispatcher) run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	failing := false
	var gauged time.Time
	for {
		if now := time.Now(); now.Sub(gauged) > 5*time.Second {
			gauged = now
			d.gauge(ctx)
		}
		busy, err := d.step(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			d.log.WarnContext(ctx, "campaigns stand still; trying again", "error", err)
		}
		failing = err != nil
		if busy && err == nil && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.look:
		case <-tick.C:
		}
	}
}

// gauge shows how much there is to do.
func (d *dispatcher) gauge(ctx context.Context) {
	messages, campaigns, err := d.store.backlog(ctx)
	if err != nil {
		return // it is only looked at; what is wrong is told elsewhere
	}
	for status, n := range messages {
		d.metrics.queue.WithLabelValues(status.String()).Set(float64(n))
	}
	for status, n := range campaigns {
		d.metrics.running.WithLabelValues(string(status)).Set(float64(n))
	}
}

const maxCampaigns = 200 // that are looked at in one step

// step does what is due, a little of everything, and tells whether there is
// more.
func (d *dispatcher) step(ctx context.Context) (busy bool, err error) {
	now := d.now()
	due, err := d.campaigns.due(ctx, now, maxCampaigns)
	if err != nil {
		return false, err
	}
	for _, id := range due {
		var started bool
		err := d.campaigns.db.Tx(ctx, func(tx store.Querier) (err error) {
			started, err = d.campaigns.move(ctx, tx, id, campaignScheduled, campaignRunning, now)
			return err
		})
		if err != nil {
			return false, err
		}
		if started {
			d.journal(ctx, eventCampaignStarted, id, 0, 0, nil)
		}
	}
	running, err := d.campaigns.in(ctx, campaignRunning, maxCampaigns)
	if err != nil {
		return false, err
	}
	for _, c := range running {
		more, err := d.advance(ctx, c, now)
		if err != nil {
			return false, fmt.Errorf("campaign %d: %w", c.ID, err)
		}
		busy = busy || more
	}
	more, err := d.end(ctx, now)
	return busy || more, err
}

// advance brings a running campaign on.
func (d *dispatcher) advance(ctx context.Context, c *campaign, now time.Time) (busy bool, err error) {
	behind, err := d.expand(ctx, c, now)
	if err != nil {
		return false, err
	}
	over := !now.Before(c.EndAt)
	if over && !behind {
		n, err := d.messages.close(ctx, c.ID, messageExpired, "the campaign ended", now, 1000)
		if err != nil || n > 0 {
			return true, err
		}
	}
	if !over {
		fed, err := d.feed(ctx, c, now)
		if err != nil {
			return false, err
		}
		busy = fed
	}
	if behind {
		return true, nil
	}
	return busy, d.finish(ctx, c, now, over)
}

// expand makes messages for the next clients, and tells whether there may be
// more.
func (d *dispatcher) expand(ctx context.Context, c *campaign, now time.Time) (more bool, err error) {
	var list []planned
	var rows []audienceRow
	rows, err = d.clients.store.audience(ctx, d.campaigns.db.Read(), c.Filter, c.Expanded, expandChunk)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	phones := make([]seal.Index, len(rows))
	for i := range rows {
		phones[i] = rows[i].Phone
	}
	silent, err := d.suppressions.store.suppressed(ctx, d.campaigns.db.Read(), phones)
	if err != nil {
		return false, err
	}
	for _, r := range rows {
		p := planned{Client: r.ID, Phone: r.Phone, Status: messagePending}
		p.Due, _ = c.Window.next(latest(now, c.StartAt), zone(r.Timezone))
		switch {
		case silent[r.Phone]:
			p.Status, p.Error = messageCanceled, "suppressed"
		case !p.Due.Before(c.EndAt):
			p.Status, p.Error = messageExpired, "the window does not open before the end"
		}
		list = append(list, p)
	}
	last := rows[len(rows)-1].ID
	err = d.campaigns.db.Tx(ctx, func(tx store.Querier) error {
		mine, err := d.campaigns.advance(ctx, tx, c.ID, c.Expanded, last)
		if err != nil || !mine {
			return err // another instance was faster, or it runs no more
		}
		_, err = d.messages.plan(ctx, tx, c.ID, list, now)
		return err
	})
	c.Expanded = last
	return len(rows) == expandChunk, err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// zone finds a time zone that was checked when it came.
func zone(name string) *time.Location {
	z, err := loadZone(name)
	if err != nil {
		return time.UTC
	}
	return z
}

// feed hands messages whose time has come to workers, as many as they can have
// in hand, and tells whether it did.
func (d *dispatcher) feed(ctx context.Context, c *campaign, now time.Time) (bool, error) {
	if d.gate.closed(now) {
		return false, nil
	}
	sending, err := d.store.sending(ctx)
	if err != nil {
		return false, err
	}
	room := d.cfg.MaxInFlight - int(sending)
	if room <= 0 {
		// What a dead worker had comes back by its lease.
		room = 1
	}
	fed := false
	var due []store.Micros
	err = d.campaigns.db.Tx(ctx, func(tx store.Querier) error {
		fed = false
		h, err := d.store.hand(ctx, tx, c.ID, now, now.Add(lease), min(room, 10*handChunk))
		if err != nil || len(h.IDs) == 0 {
			return err
		}
		fed, due = true, h.due
		var msgs []bus.Message
		for part := range chunks(h.IDs, handChunk) {
			data, err := json.Marshal(handed{Campaign: h.Campaign, Claim: h.Claim, IDs: part})
			if err != nil {
				return err
			}
			msgs = append(msgs, bus.Message{Subject: subjectSend, ID: strconv.FormatInt(h.Claim, 10) + "." + strconv.FormatInt(part[0], 10), Data: data})
		}
		return outbox.Publish(ctx, tx, msgs...)
	})
	if fed && err == nil {
		d.relay.Wake()
		for _, at := range due {
			d.metrics.delay.Observe(now.Sub(at.Time()).Seconds())
		}
	}
	return fed && room > handChunk, err
}

// finish ends a campaign of which every message is final. While it could still
// go on it waits a little, for clients that were just added.
func (d *dispatcher) finish(ctx context.Context, c *campaign, now time.Time, over bool) error {
	counts, err := d.campaigns.counts(ctx, d.campaigns.db.Read(), []int64{c.ID})
	if err != nil {
		return err
	}
	left := int64(0)
	for _, s := range open {
		left += counts[c.ID][s]
	}
	d.mu.Lock()
	since, known := d.empty[c.ID]
	switch {
	case left > 0:
		delete(d.empty, c.ID)
	case !known:
		since = now
		d.empty[c.ID] = now
	}
	d.mu.Unlock()
	if left > 0 || !over && now.Sub(since) < d.cfg.Linger {
		return nil
	}
	var done bool
	err = d.campaigns.db.Tx(ctx, func(tx store.Querier) (err error) {
		done = false
		fresh, err := d.campaigns.counts(ctx, tx, []int64{c.ID})
		if err != nil {
			return err
		}
		for _, s := range open {
			if fresh[c.ID][s] > 0 {
				return nil
			}
		}
		done, err = d.campaigns.move(ctx, tx, c.ID, campaignRunning, campaignFinished, now)
		return err
	})
	if err == nil && done {
		d.mu.Lock()
		delete(d.empty, c.ID)
		d.mu.Unlock()
		d.journal(ctx, eventCampaignFinished, c.ID, 0, 0, nil)
	}
	return err
}

// end settles what is left of campaigns that were canceled, deleted, or paused
// beyond their end.
func (d *dispatcher) end(ctx context.Context, now time.Time) (busy bool, err error) {
	canceled, err := d.store.unsettled(ctx, campaignCanceled, maxCampaigns)
	if err != nil {
		return false, err
	}
	for _, id := range canceled {
		n, err := d.messages.close(ctx, id, messageCanceled, "the campaign was canceled", now, 1000)
		if err != nil {
			return false, err
		}
		busy = busy || n == 1000
	}
	paused, err := d.campaigns.in(ctx, campaignPaused, maxCampaigns)
	if err != nil {
		return false, err
	}
	for _, c := range paused {
		if now.Before(c.EndAt) || !c.started() {
			continue
		}
		err := d.campaigns.db.Tx(ctx, func(tx store.Querier) error {
			_, err := d.campaigns.move(ctx, tx, c.ID, campaignPaused, campaignRunning, now)
			return err
		})
		if err != nil {
			return false, err
		}
		busy = true // it expires as one that runs
	}
	deleted, err := d.campaigns.in(ctx, campaignDeleted, 1)
	if err != nil {
		return false, err
	}
	for _, c := range deleted {
		n, err := d.campaigns.erase(ctx, c.ID, 500)
		if err != nil {
			return false, err
		}
		busy = busy || n > 0
	}
	return busy, nil
}

// chunks cuts a list into pieces.
func chunks(ids []int64, size int) func(func([]int64) bool) {
	return func(yield func([]int64) bool) {
		for len(ids) > 0 {
			n := min(size, len(ids))
			if !yield(ids[:n]) {
				return
			}
			ids = ids[n:]
		}
	}
}

func (d *dispatcher) journal(ctx context.Context, event string, campaign, message, client int64, data map[string]any) {
	// What cannot be logged is counted there.
	_ = d.logged.Log(ctx, entryOf(event, campaign, message, client, data))
}

// again is when a message that failed so often is tried again: later each time,
// and not all at once.
func (d *dispatcher) again(now time.Time, attempts int64, a attempt) time.Time {
	wait := d.cfg.RetryMin << min(attempts, 20)
	if wait <= 0 || wait > d.cfg.RetryMax {
		wait = d.cfg.RetryMax
	}
	wait = wait - wait/4 + rand.N(wait/2+1)
	return now.Add(max(wait, a.after))
}
