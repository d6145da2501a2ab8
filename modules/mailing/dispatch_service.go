package mailing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"switchboard/platform/breaker"
	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/outbox"
	"switchboard/platform/quota"
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
	// lease is how long a worker may keep messages. It gives them back long
	// before; after a crash the bus brings them to another one sooner.
	lease = 2 * time.Minute
	// sliceSize is how many messages are looked at together just before they go.
	sliceSize = 50
	// freshFor is for how long that counts.
	freshFor = 500 * time.Millisecond
	// closeChunk is how many messages one transaction makes final.
	closeChunk = 1000
	// maxCampaigns is how many campaigns are read together.
	maxCampaigns = 200
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
	breaker      *breaker.Breaker
	limit        *quota.Quota
	bus          *bus.Bus
	relay        *outbox.Relay
	logged       eventlog.Logger
	metrics      *metrics
	log          *slog.Logger
	now          func() time.Time
	look         chan struct{}
	fates        chan settled
	room         chan struct{} // a place for each message on its way
	turns        chan struct{} // one for each worker that looks at messages to go
	began        time.Time     // of this process, by the real clock

	mu    sync.Mutex
	empty map[int64]time.Time // since when a running campaign has no open message

	turn     int64     // the campaign behind which the next round begins
	ahead    time.Time // when messages were last made, by the real clock
	canceled int64     // the canceled campaign that was looked at last
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

// step does what is due, a little of everything, and tells whether there is
// more.
func (d *dispatcher) step(ctx context.Context) (busy bool, err error) {
	now := d.now()
	due, err := d.campaigns.due(ctx, now, maxCampaigns)
	if err != nil {
		return false, err
	}
	for _, id := range due {
		if err := d.begin(ctx, id, campaignScheduled, now); err != nil {
			return false, err
		}
	}
	more, err := d.round(ctx, now)
	ending, endErr := d.end(ctx, now)
	return more || ending || len(due) == maxCampaigns, errors.Join(err, endErr)
}

// begin lets a campaign run whose start has come, or whose end came while it was
// paused, unless an edit has just moved that.
func (d *dispatcher) begin(ctx context.Context, id int64, from campaignStatus, now time.Time) error {
	var began bool
	err := d.campaigns.db.Tx(ctx, func(tx store.Querier) error {
		began = false
		c, err := d.campaigns.get(ctx, tx, id)
		if errs.KindOf(err) == errs.NotFound {
			return nil
		}
		if err != nil || from == campaignScheduled && now.Before(c.StartAt) || from == campaignPaused && now.Before(c.EndAt) {
			return err
		}
		moved, err := d.campaigns.move(ctx, tx, id, from, campaignRunning, now)
		began = moved && !c.started()
		return err
	})
	if err == nil && began {
		d.journal(ctx, eventCampaignStarted, id, 0, 0, nil)
	}
	return err
}

// round brings the running campaigns on, each a little and each round another
// one first. It breaks off after a while, so that starts and ends do not wait
// for it, and the next one goes on from there.
func (d *dispatcher) round(ctx context.Context, now time.Time) (busy bool, err error) {
	began := time.Now()
	ahead := began.Sub(d.ahead) >= lookEvery
	if ahead {
		d.ahead = began
	}
	first := int64(0)
	for c, err := range d.running(ctx, d.turn) {
		if err != nil {
			return false, err
		}
		d.turn = c.ID
		if first == 0 {
			first = c.ID
		}
		more, err := d.advance(ctx, c, now, ahead)
		if err != nil {
			return false, fmt.Errorf("campaign %d: %w", c.ID, err)
		}
		busy = busy || more
		if time.Since(began) > lookEvery {
			return busy, nil
		}
	}
	d.turn = first
	return busy, nil
}

// running gives each of the running campaigns, those behind one of them first.
func (d *dispatcher) running(ctx context.Context, behind int64) iter.Seq2[*campaign, error] {
	return func(yield func(*campaign, error) bool) {
		for after, around := behind, behind == 0; ; {
			list, err := d.campaigns.in(ctx, campaignRunning, after, maxCampaigns)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, c := range list {
				if after = c.ID; around && behind > 0 && after > behind || !yield(c, nil) {
					return
				}
			}
			if len(list) < maxCampaigns {
				if around {
					return
				}
				after, around = 0, true
			}
		}
	}
}

// advance brings a running campaign on. A message that goes as it is made costs
// less than one that waits in its row: while workers have enough in hand, messages
// are made ahead, for totals to be known, only if none were for a while.
func (d *dispatcher) advance(ctx context.Context, c *campaign, now time.Time, ahead bool) (busy bool, err error) {
	over := !now.Before(c.EndAt)
	room, edited := 0, false
	if !over {
		if edited, err = d.reschedule(ctx, c, now); err != nil {
			return false, err
		}
		if room, err = d.places(ctx, now); err != nil {
			return false, err
		}
	}
	limit := 0
	switch {
	case d.roomy(room):
		limit = min(expandChunk, room)
		d.ahead = time.Now()
	case over || ahead:
		limit = expandChunk
	}
	behind, fed, err := d.feed(ctx, c, now, room, limit)
	if err != nil {
		return false, err
	}
	if over && !behind {
		n, err := d.close(ctx, c.ID, messageExpired, endedBefore, now)
		if err != nil || n > 0 {
			return true, err
		}
	}
	if behind {
		return over || d.roomy(room-fed), nil
	}
	return edited || fed > 0 && room > d.cfg.Batch, d.finish(ctx, c, now)
}

// roomy tells whether there is room for so many more that it is worth a
// transaction. Else workers wake the dispatcher when there is.
func (d *dispatcher) roomy(room int) bool { return room >= max(d.cfg.MaxInFlight/4, 1) }

// close makes the next open messages of a campaign final, and gives how many
// there were.
func (d *dispatcher) close(ctx context.Context, campaign int64, to messageStatus, reason string, now time.Time) (int, error) {
	var closed []fate
	err := d.campaigns.db.Tx(ctx, func(tx store.Querier) error {
		closed = nil
		if to == messageExpired {
			// An edit may just have moved the end.
			c, err := d.campaigns.get(ctx, tx, campaign)
			if errs.KindOf(err) == errs.NotFound {
				return nil
			}
			if err != nil || c.Status != campaignRunning || now.Before(c.EndAt) {
				return err
			}
		}
		var err error
		closed, err = d.messages.close(ctx, tx, campaign, to, reason, now, closeChunk)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, f := range closed {
		d.tell(ctx, f)
	}
	return len(closed), nil
}

// next gives the messages for the next clients of a campaign, limit at most.
func (d *dispatcher) next(ctx context.Context, c *campaign, now time.Time, limit int) ([]planned, error) {
	rows, err := d.clients.store.addressees(ctx, d.campaigns.db.Read(), c.Filter, c.Expanded, limit)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	phones := make([]seal.Index, len(rows))
	for i := range rows {
		phones[i] = rows[i].Phone
	}
	silent, err := d.suppressions.store.suppressed(ctx, d.campaigns.db.Read(), phones)
	if err != nil {
		return nil, err
	}
	list := make([]planned, len(rows))
	for i, r := range rows {
		p := planned{Client: r.ID, Phone: r.Phone, Status: messagePending}
		p.Due, _ = c.Window.next(latest(now, c.StartAt), zone(r.Timezone))
		switch {
		case silent[r.Phone]:
			p.Status, p.Error = messageCanceled, "suppressed"
		case !p.Due.Before(c.EndAt):
			p.Status, p.Error = messageExpired, neverOpens
			if !now.Before(c.EndAt) {
				p.Error = endedBefore
			}
		}
		list[i] = p
	}
	return list, nil
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

// places is how many messages workers can have in hand more than they have.
func (d *dispatcher) places(ctx context.Context, now time.Time) (int, error) {
	if d.breaker.Rests(now) {
		return 0, nil
	}
	sending, err := d.store.sending(ctx)
	// What a dead worker had comes back by its lease.
	return max(d.cfg.MaxInFlight-int(sending), 1), err
}

// feed makes messages for the next clients, limit at most, and hands messages
// whose time has come to workers, as many as there is room for: those that wait,
// then those that it makes. It tells whether there may be more clients, and how
// many messages it handed out.
func (d *dispatcher) feed(ctx context.Context, c *campaign, now time.Time, room, limit int) (behind bool, fed int, err error) {
	var list []planned
	if limit > 0 {
		if list, err = d.next(ctx, c, now, limit); err != nil {
			return false, 0, err
		}
	}
	behind = len(list) == limit // also of none: then nobody has looked
	if len(list) == 0 && room == 0 {
		return behind, 0, nil
	}
	var h *handing
	err = d.campaigns.db.Tx(ctx, func(tx store.Querier) error {
		h = newHanding(c.ID, now, min(room, 10*d.cfg.Batch))
		mine, err := d.passes(ctx, tx, c, list)
		if err != nil {
			return err
		}
		if err := d.store.hand(ctx, tx, h); err != nil {
			return err
		}
		if mine {
			if err := d.messages.plan(ctx, tx, list, h); err != nil {
				return err
			}
		}
		if err := h.tally.save(ctx, tx); err != nil {
			return err
		}
		return d.publish(ctx, tx, h.handed)
	})
	if err != nil {
		return false, 0, err
	}
	if len(h.IDs) > 0 {
		d.relay.Wake()
		for _, at := range h.due {
			d.metrics.delay.Observe(now.Sub(at.Time()).Seconds())
		}
	}
	return behind, len(h.IDs), nil
}

// passes notes that messages for these clients are made, and tells whether they
// may be: the campaign still runs as it was read, and no other instance was
// faster.
func (d *dispatcher) passes(ctx context.Context, tx store.Querier, c *campaign, list []planned) (bool, error) {
	if len(list) == 0 {
		return false, nil
	}
	still, err := d.campaigns.still(ctx, tx, c)
	if err != nil || !still {
		return false, err
	}
	return d.campaigns.advance(ctx, tx, c.ID, c.Expanded, list[len(list)-1].Client)
}

// publish hands messages over once the transaction has committed.
func (d *dispatcher) publish(ctx context.Context, tx store.Querier, h handed) error {
	var msgs []bus.Message
	for part := range slices.Chunk(h.IDs, d.cfg.Batch) {
		data, err := json.Marshal(handed{Campaign: h.Campaign, Claim: h.Claim, IDs: part})
		if err != nil {
			return err
		}
		msgs = append(msgs, bus.Message{Subject: subjectSend, ID: strconv.FormatInt(h.Claim, 10) + "." + strconv.FormatInt(part[0], 10), Data: data})
	}
	return outbox.Publish(ctx, tx, msgs...)
}

// clientDeleted cancels what is open for a client, in the transaction that
// deletes it. What it gives is to be called after that, and tells of it.
func (d *dispatcher) clientDeleted(ctx context.Context, tx store.Querier, client int64) (tell func(), err error) {
	ids, err := d.messages.ofClient(ctx, tx, client)
	if err != nil {
		return nil, err
	}
	canceled, err := d.messages.settle(ctx, tx, ids, open, messageCanceled, "the client was deleted")
	return func() {
		for _, f := range canceled {
			d.tell(ctx, f)
		}
	}, err
}

// finish ends a campaign of which every message is final. While it could still
// go on it waits a little, for clients that were just added.
func (d *dispatcher) finish(ctx context.Context, c *campaign, now time.Time) error {
	over := !now.Before(c.EndAt)
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
	if left > 0 || !over && (c.Reschedule > 0 || now.Sub(since) < d.cfg.Linger) {
		return nil
	}
	var done bool
	err = d.campaigns.db.Tx(ctx, func(tx store.Querier) (err error) {
		done = false
		still, err := d.campaigns.still(ctx, tx, c)
		if err != nil || !still {
			return err
		}
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
	began := time.Now()
	canceled, err := d.campaigns.unsettled(ctx, d.canceled, maxCampaigns)
	if err != nil {
		return false, err
	}
	more := len(canceled) == maxCampaigns
	for _, id := range canceled {
		d.canceled = id
		n, err := d.close(ctx, id, messageCanceled, "the campaign was canceled", now)
		if err != nil {
			return false, err
		}
		busy = busy || n == closeChunk
		if time.Since(began) > lookEvery {
			more = true
			break
		}
	}
	if !more {
		d.canceled = 0
	}
	paused, err := d.campaigns.overslept(ctx, now, maxCampaigns)
	if err != nil {
		return false, err
	}
	for _, id := range paused {
		if err := d.begin(ctx, id, campaignPaused, now); err != nil {
			return false, err
		}
		busy = true // it expires as one that runs
	}
	deleted, err := d.campaigns.in(ctx, campaignDeleted, 0, 1)
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
