package mailing

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"switchboard/platform/breaker"
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
				// What is older than this process another one may have tried.
				if err := d.deliver(work, ctx.Done(), h, m.Delivered > 1 || m.Time.Before(d.began)); err != nil {
					return err
				}
			}
			return nil
		})
}

// delivery is a batch of messages being sent.
type delivery struct {
	handed
	again   bool       // somebody may have tried before, and died
	written chan error // what became of writing a fate
	sending sync.WaitGroup
	mu      sync.Mutex
	fates   int
}

// deliver sends messages that were handed out. again tells that somebody may
// have tried before and died: what he had not written down is sent again under
// the same ids. A message that hangs holds its own place and no other.
func (d *dispatcher) deliver(ctx context.Context, stop <-chan struct{}, h handed, again bool) error {
	b := &delivery{handed: h, again: again, written: make(chan error, len(h.IDs))}
	slices.Sort(h.IDs) // as they are looked at
	var err error
	for ids := h.IDs; len(ids) > 0 && err == nil; {
		var n int
		n, err = d.slice(ctx, stop, b, ids[:min(len(ids), sliceSize)])
		ids = ids[n:]
	}
	b.sending.Wait()
	for range b.fates {
		err = cmp.Or(err, <-b.written)
	}
	return err
}

// enter waits until a message may go: the room is of this instance, and the rate
// of its limit.
func (d *dispatcher) enter(ctx context.Context, stop <-chan struct{}) error {
	select {
	case d.room <- struct{}{}:
	case <-stop:
		return errStopped
	case <-ctx.Done():
		return errStopped
	}
	if err := d.limit.Wait(ctx); err != nil {
		<-d.room
		return errStopped
	}
	return nil
}

// settled is a fate on its way to the tables.
type settled struct {
	fate
	done chan<- error
}

// write writes fates as they come, many in one transaction, until the channel
// is closed: what has gone must be known soon, or it goes again after a crash.
func (d *dispatcher) write() {
	freed := 0
	for first := range d.fates {
		batch := []settled{first}
	gather:
		for len(batch) < 500 {
			select {
			case more, ok := <-d.fates:
				if !ok {
					break gather
				}
				batch = append(batch, more)
			default:
				break gather
			}
		}
		list := make([]fate, len(batch))
		for i, s := range batch {
			list[i] = s.fate
		}
		err := d.persist(list)
		for _, s := range batch {
			if err == nil {
				d.tell(context.Background(), s.fate)
			}
			s.done <- err
		}
		if freed += len(list); d.roomy(freed) {
			freed = 0
			d.wake()
		}
	}
}

// persist keeps trying for a while: a message whose fate is not written is sent
// again.
func (d *dispatcher) persist(list []fate) error {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		err := d.store.settle(ctx, list)
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

// looked is what was seen of some messages just before they go.
type looked struct {
	at      time.Time // by the real clock
	c       *campaign
	text    *campaignText
	list    []held
	clients map[int64]*client // by id; none for one that was deleted or erased
	silent  map[int64]bool    // by client: suppressed
}

// lookAt looks at messages for the last time: at those of them that are still
// claimed so.
func (d *dispatcher) lookAt(ctx context.Context, h handed, ids []int64) (*looked, error) {
	l := &looked{at: time.Now(), clients: map[int64]*client{}, silent: map[int64]bool{}}
	var err error
	if l.list, err = d.store.held(ctx, h.Claim, ids); err != nil || len(l.list) == 0 {
		return l, err
	}
	db := d.campaigns.db.Read()
	l.c, err = d.campaigns.get(ctx, db, h.Campaign)
	if errs.KindOf(err) == errs.NotFound {
		l.c, err = &campaign{ID: h.Campaign, Status: campaignDeleted}, nil
	}
	if err != nil {
		return nil, err
	}
	phones := make([]seal.Index, 0, len(l.list))
	var there []audienceRow
	for _, m := range l.list {
		phones = append(phones, m.phone)
		if m.to == nil {
			continue
		}
		there = append(there, *m.to)
		if m.to.Phone != m.phone { // it has changed since
			phones = append(phones, m.to.Phone)
		}
	}
	silent, err := d.suppressions.store.suppressed(ctx, db, phones)
	if err != nil {
		return nil, err
	}
	for _, m := range l.list {
		l.silent[m.client] = silent[m.phone] || m.to != nil && silent[m.to.Phone]
	}
	opened, err := d.clients.open(ctx, there)
	if err != nil {
		return nil, err
	}
	for i, row := range there {
		if opened[i] != nil {
			l.clients[row.ID] = opened[i]
		}
	}
	if l.text, err = parseText(l.c.Text); err != nil && l.c.Status == campaignRunning {
		return nil, bus.Permanent(fmt.Errorf("the text of campaign %d: %w", l.c.ID, err))
	}
	return l, nil
}

// slice lets messages go that may, one after the other as there is room, and
// tells how many of ids are dealt with. What was seen of them must not be old
// when they go: somebody may have paused the campaign.
func (d *dispatcher) slice(ctx context.Context, stop <-chan struct{}, h *delivery, ids []int64) (n int, err error) {
	// Few look at a time, so that what they saw is fresh when there is room.
	select {
	case d.turns <- struct{}{}:
	case <-stop:
		return 0, errStopped
	case <-ctx.Done():
		return 0, errStopped
	}
	defer func() { <-d.turns }()
	if err := d.enter(ctx, stop); err != nil {
		return 0, err
	}
	placed := true
	defer func() {
		if placed {
			<-d.room
		}
	}()
	l, err := d.lookAt(ctx, h.handed, ids)
	if err != nil {
		return 0, err
	}
	settle := func(f fate) {
		f.campaign, f.claim = h.Campaign, h.Claim
		h.mu.Lock()
		h.fates++
		h.mu.Unlock()
		d.fates <- settled{f, h.written}
	}
	for _, m := range l.list {
		if !placed {
			if err := d.enter(ctx, stop); err != nil {
				return 0, err
			}
			placed = true
		}
		if time.Since(l.at) > freshFor {
			return slices.Index(ids, m.id), nil
		}
		to := l.clients[m.client]
		if f, last := d.unsendable(l.c, m, to, l.silent[m.client]); last {
			settle(f)
			continue
		}
		placed = false
		h.sending.Go(func() {
			defer func() { <-d.room }()
			settle(d.one(ctx, l.c, l.text, m, to, h.again))
		})
	}
	return len(ids), nil
}

var errStopped = errs.New(errs.Unavailable, "shutting down")

// unsendable tells whether a message may not go now, and what becomes of it.
func (d *dispatcher) unsendable(c *campaign, m held, to *client, suppressed bool) (fate, bool) {
	now := d.now()
	f := m.fate(now)
	switch {
	case c.Status == campaignCanceled || c.Status == campaignDeleted:
		f.status, f.err = messageCanceled, "the campaign was canceled"
	case !now.Before(c.EndAt):
		f.status, f.err = messageExpired, endedBefore
	case to == nil:
		f.status, f.err = messageCanceled, "the client was deleted"
	case suppressed:
		f.status, f.err = messageCanceled, "suppressed"
	case c.Status != campaignRunning:
		f.status = waiting(m)
	default:
		opens, _ := c.Window.next(now, zone(to.Timezone))
		if !opens.After(now) {
			return f, false
		}
		f.status, f.due = waiting(m), opens
		if !opens.Before(c.EndAt) {
			f.status, f.err = messageExpired, neverOpens
		}
	}
	return f, true
}

// fate begins to tell what became of a message.
func (m held) fate(due time.Time) fate {
	return fate{id: m.id, client: m.client, before: m.attempts, due: due}
}

// waiting is the status of a message that has to wait.
func waiting(m held) messageStatus {
	if m.attempts > 0 {
		return messageRetrying
	}
	return messagePending
}

// one sends one message, if the breaker lets it.
func (d *dispatcher) one(ctx context.Context, c *campaign, template *campaignText, m held, to *client, again bool) fate {
	text, err := template.render(to)
	if err != nil {
		f := m.fate(d.now())
		f.status, f.err = messageFailed, "the text cannot be made"
		return f
	}
	ok, wait := d.breaker.Enter(d.now())
	if !ok {
		due := d.now().Add(wait + rand.N(wait/2+time.Millisecond))
		return d.postponed(c, m, due, 0, "")
	}
	if again {
		d.metrics.resent.Inc()
	}
	a := d.sender.send(ctx, m.id, to.PhoneNumber, text)
	now := d.now()
	d.metrics.attempts.WithLabelValues(string(a.result)).Inc()
	d.metrics.took.Observe(a.took.Seconds())
	if state, changed := d.breaker.Leave(now, a.result.outcome(), a.after); changed {
		d.moved(ctx, state)
	}
	f := m.fate(now)
	f.attempts = 1
	switch a.result {
	case attemptAccepted:
		f.status = messageSent
		return f
	case attemptRefused:
		f.status, f.err = messageFailed, a.detail
		return f
	}
	return d.postponed(c, m, d.again(now, m.attempts, a), 1, a.detail)
}

// postponed is the fate of a message that has to be tried later, if there is a
// later.
func (d *dispatcher) postponed(c *campaign, m held, due time.Time, attempts int64, why string) fate {
	f := m.fate(due)
	f.status, f.attempts, f.err = messageRetrying, attempts, why
	if m.attempts+attempts == 0 {
		f.status = messagePending
	}
	if !due.Before(c.EndAt) {
		// It stays open until the end: an edit may still move that.
		f.due = c.EndAt
	}
	return f
}

// moved tells people that the provider takes nothing, or takes messages again.
func (d *dispatcher) moved(ctx context.Context, state breaker.State) {
	switch state {
	case breaker.Unauthorized:
		d.log.ErrorContext(ctx, "the message provider does not accept the token (mailing.sender_token): sending pauses, nothing is lost")
		d.journal(ctx, eventSenderPaused, 0, 0, 0, nil)
	case breaker.Open:
		d.log.WarnContext(ctx, "the message provider fails: sending rests")
		d.journal(ctx, eventSenderOpen, 0, 0, 0, nil)
	case breaker.Closed:
		d.log.InfoContext(ctx, "the message provider takes messages again")
		d.journal(ctx, eventSenderResumed, 0, 0, 0, nil)
	}
}

var fateEvents = map[messageStatus]string{messageSent: eventMessageSent, messageRetrying: eventMessageRetry, messageFailed: eventMessageFailed,
	messageExpired: eventMessageExpired, messageCanceled: eventMessageCanceled}

// tell counts and logs what became of a message.
func (d *dispatcher) tell(ctx context.Context, f fate) {
	if f.status.final() {
		d.metrics.messages.WithLabelValues(f.status.String()).Inc()
	}
	event := fateEvents[f.status]
	if event == "" || f.status == messageRetrying && f.attempts == 0 {
		return
	}
	data := map[string]any{"attempt": f.before + f.attempts}
	if f.err != "" {
		data["detail"] = f.err
	}
	d.journal(ctx, event, f.campaign, f.id, f.client, data)
}
