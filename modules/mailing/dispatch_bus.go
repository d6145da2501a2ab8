package mailing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
)

// consume sends what the dispatchers of all instances hand out, until ctx ends.
func (d *dispatcher) consume(ctx context.Context) error {
	return d.bus.Consume(ctx, bus.Consumer{Stream: streamSend, Name: "mailing-send", Subject: subjectSend, Workers: d.cfg.Workers,
		// Also how long what a killed instance had in hand stays unseen.
		AckWait: 10 * time.Second},
		func(work context.Context, msgs []bus.Message) error {
			for _, m := range msgs {
				var h handed
				if err := json.Unmarshal(m.Data, &h); err != nil {
					return bus.Permanent(fmt.Errorf("read the message: %w", err))
				}
				if err := d.deliver(work, ctx.Done(), h, m.Delivered > 1); err != nil {
					return err
				}
			}
			return nil
		})
}

// deliver sends messages that were handed out. again tells that somebody may
// have tried before and died: what he had not written down is sent again under
// the same ids.
func (d *dispatcher) deliver(ctx context.Context, stop <-chan struct{}, h handed, again bool) error {
	size := sliceSize
	if d.cfg.Rate > 0 {
		size = max(1, min(size, int(d.cfg.Rate/4))) // about a quarter of a second's worth
	}
	for ids := range chunks(h.IDs, size) {
		select {
		case <-stop:
			return errs.New(errs.Unavailable, "shutting down")
		default:
		}
		fates, err := d.slice(ctx, stop, h, ids, again)
		if err == nil && len(fates) > 0 {
			// They have gone: it must be written, also when the server stops.
			err = d.write(context.WithoutCancel(ctx), h, fates)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// write keeps trying to write fates for a while: a message whose fate is not
// written is sent again.
func (d *dispatcher) write(ctx context.Context, h handed, fates []fate) error {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		err := d.store.settle(ctx, h.Campaign, h.Claim, fates)
		if errs.KindOf(err) != errs.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// slice looks at messages for the last time, and sends those that may go.
func (d *dispatcher) slice(ctx context.Context, stop <-chan struct{}, h handed, ids []int64, again bool) ([]fate, error) {
	list, err := d.store.held(ctx, h.Claim, ids)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	db := d.campaigns.db.Read()
	c, err := d.campaigns.get(ctx, db, h.Campaign)
	if errs.KindOf(err) == errs.NotFound {
		c, err = &campaign{ID: h.Campaign, Status: campaignDeleted}, nil
	}
	if err != nil {
		return nil, err
	}
	var clientIDs []int64
	var phones []seal.Index
	for _, m := range list {
		clientIDs, phones = append(clientIDs, m.client), append(phones, m.phone)
	}
	rows, err := d.clients.store.load(ctx, db, clientIDs)
	if err != nil {
		return nil, err
	}
	silent, err := d.suppressions.store.suppressed(ctx, db, phones)
	if err != nil {
		return nil, err
	}
	var there []audienceRow
	place := map[int64]int{}
	for _, m := range list {
		if row, ok := rows[m.client]; ok {
			place[m.client] = len(there)
			there = append(there, row)
		}
	}
	clients, err := d.clients.open(ctx, there)
	if err != nil {
		return nil, err
	}
	fates := make([]fate, len(list))
	var g errgroup.Group
	g.SetLimit(max(1, d.cfg.Concurrency/d.cfg.Workers))
	for i, m := range list {
		var to *client
		if at, ok := place[m.client]; ok {
			to = clients[at]
		}
		if f, last := d.unsendable(c, m, to, silent[m.phone]); last {
			fates[i] = f
			continue
		}
		g.Go(func() error {
			f, err := d.one(ctx, stop, c, m, to, again)
			fates[i] = f
			return err
		})
	}
	err = g.Wait()
	done := fates[:0]
	for _, f := range fates {
		if f.id != 0 {
			done = append(done, f)
		}
	}
	if errors.Is(err, errStopped) && len(done) > 0 {
		err = d.write(context.WithoutCancel(ctx), h, done)
		return nil, errors.Join(errs.New(errs.Unavailable, "shutting down"), err)
	}
	for _, f := range done {
		d.tell(ctx, c.ID, f, list)
	}
	return done, err
}

var errStopped = errs.New(errs.Unavailable, "shutting down")

// unsendable tells whether a message may not go now, and what becomes of it.
func (d *dispatcher) unsendable(c *campaign, m held, to *client, suppressed bool) (fate, bool) {
	now := d.now()
	f := fate{id: m.id, due: now}
	switch {
	case c.Status == campaignCanceled || c.Status == campaignDeleted:
		f.status, f.err = messageCanceled, "the campaign was canceled"
	case !now.Before(c.EndAt):
		f.status, f.err = messageExpired, "the campaign ended"
	case to == nil:
		f.status, f.err = messageCanceled, "the client was deleted"
	case suppressed:
		f.status, f.err = messageCanceled, "suppressed"
	case c.Status != campaignRunning:
		f.status = waiting(m)
	default:
		opens, _ := c.Window.next(now, d.zone(to.Timezone))
		if !opens.After(now) {
			return f, false
		}
		f.status, f.due = waiting(m), opens
		if !opens.Before(c.EndAt) {
			f.status, f.err = messageExpired, "the window does not open before the end"
		}
	}
	return f, true
}

// waiting is the status of a message that has to wait.
func waiting(m held) messageStatus {
	if m.attempts > 0 {
		return messageRetrying
	}
	return messagePending
}

// one sends one message, if the gate and the clock let it.
func (d *dispatcher) one(ctx context.Context, stop <-chan struct{}, c *campaign, m held, to *client, again bool) (fate, error) {
	text, err := renderText(c.Text, to)
	if err != nil {
		return fate{id: m.id, status: messageFailed, due: d.now(), err: "the text cannot be made"}, nil
	}
	if err := d.limit.Wait(ctx); err != nil {
		return fate{}, errStopped
	}
	select {
	case <-stop:
		return fate{}, errStopped
	default:
	}
	if f, last := d.unsendable(c, m, to, false); last {
		return f, nil
	}
	ok, wait := d.gate.enter(d.now())
	if !ok {
		due := d.now().Add(wait + rand.N(wait/2+time.Millisecond))
		return d.postponed(c, m, due, 0, ""), nil
	}
	if again {
		d.metrics.resent.Inc()
	}
	a := d.sender.send(ctx, m.id, to.PhoneNumber, text)
	now := d.now()
	d.metrics.attempts.WithLabelValues(string(a.result)).Inc()
	d.metrics.took.Observe(a.took.Seconds())
	if state, changed := d.gate.leave(now, a); changed {
		d.gateMoved(ctx, state)
	}
	switch a.result {
	case attemptAccepted:
		return fate{id: m.id, status: messageSent, attempts: 1, due: now, sent: &now}, nil
	case attemptRefused:
		return fate{id: m.id, status: messageFailed, attempts: 1, due: now, err: a.detail}, nil
	}
	return d.postponed(c, m, d.again(now, m.attempts, a), 1, a.detail), nil
}

// postponed is the fate of a message that has to be tried later, if there is a
// later.
func (d *dispatcher) postponed(c *campaign, m held, due time.Time, attempts int64, why string) fate {
	f := fate{id: m.id, status: messageRetrying, attempts: attempts, due: due, err: why}
	if m.attempts+attempts == 0 {
		f.status = messagePending
	}
	if !due.Before(c.EndAt) {
		// It stays open until the end: an edit may still move that.
		f.due = c.EndAt
	}
	return f
}

// gateMoved tells people that the provider takes nothing, or takes messages
// again.
func (d *dispatcher) gateMoved(ctx context.Context, state gateState) {
	switch state {
	case gateUnauthorized:
		d.log.ErrorContext(ctx, "the message provider does not accept the token (mailing.sender_token): sending pauses, nothing is lost")
		d.journal(ctx, eventSenderPaused, 0, 0, 0, nil)
	case gateFailing:
		d.log.WarnContext(ctx, "the message provider fails: sending rests")
		d.journal(ctx, eventSenderOpen, 0, 0, 0, nil)
	case gateOpen:
		d.log.InfoContext(ctx, "the message provider takes messages again")
		d.journal(ctx, eventSenderResumed, 0, 0, 0, nil)
	}
}

var fateEvents = map[messageStatus]string{messageSent: eventMessageSent, messageRetrying: eventMessageRetry, messageFailed: eventMessageFailed,
	messageExpired: eventMessageExpired, messageCanceled: eventMessageCanceled}

// tell counts and logs what became of a message.
func (d *dispatcher) tell(ctx context.Context, campaign int64, f fate, list []held) {
	if f.status.final() {
		d.metrics.messages.WithLabelValues(f.status.String()).Inc()
	}
	event := fateEvents[f.status]
	if event == "" || f.status == messageRetrying && f.attempts == 0 {
		return
	}
	for _, m := range list {
		if m.id == f.id {
			data := map[string]any{"attempt": m.attempts + f.attempts}
			if f.err != "" {
				data["detail"] = f.err
			}
			d.journal(ctx, event, campaign, m.id, m.client, data)
		}
	}
}
