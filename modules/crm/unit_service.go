package crm

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/breaker"
	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
)

// job is a unit being worked on.
type job struct {
	*reconciler
	*unit
	v verdict
}

// errHalt says that a unit cannot go on now; its verdict says why.
var errHalt = errs.New(errs.Unavailable, "the unit cannot go on")

// work brings one unit's part of the CRM up to date, as far as it goes.
func (r *reconciler) work(ctx context.Context, u *unit) {
	j := &job{reconciler: r, unit: u, v: verdict{unit: u.id, claim: u.claim, until: u.until, done: true}}
	// What is under way at a stop is finished.
	err := j.run(context.WithoutCancel(ctx), ctx.Done())
	if err != nil && j.v.due.IsZero() {
		j.v.failed, j.v.due, j.v.err = true, r.again(u.attempts, 0), "internal error"
		if errs.KindOf(err) != errs.Unavailable {
			r.log.ErrorContext(ctx, "a user cannot be brought to the CRM; trying again", "error", err)
		}
	}
	r.results <- written{j.v, nil}
}

// again is when a unit that failed so often is tried again.
func (r *reconciler) again(attempts int64, after time.Duration) time.Time {
	wait := r.cfg.RetryMin << min(attempts, 20)
	if wait <= 0 || wait > r.cfg.RetryMax {
		wait = r.cfg.RetryMax
	}
	return r.now().Add(max(wait-wait/4+rand.N(wait/2+1), after))
}

// run sends what the CRM does not show yet: a new user first, then trips, then
// the user with the last of them.
func (j *job) run(ctx context.Context, stop <-chan struct{}) error {
	u := j.user
	if j.lost {
		if u != nil {
			u.copy.doubt()
		}
		for _, t := range j.trips {
			t.copy.doubt()
		}
	}
	// Also one that is to be sent again whatever it shows: it may get another id.
	if u != nil && (u.copy.state != copyExists || u.copy.digest == seal.Index{}) {
		if err := j.sendUser(ctx, stop); err != nil {
			return err
		}
	}
	for _, t := range j.trips {
		if err := j.sendTrip(ctx, stop, t); err != nil {
			return err
		}
	}
	if u == nil {
		return nil
	}
	if err := j.sendUser(ctx, stop); err != nil {
		return err
	}
	if u.dirty {
		j.v.clear = append(j.v.clear, u)
	}
	return nil
}

// read opens an event; false if its person was erased.
func (j *job) read(o *object, context string, into any) (bool, error) {
	cipher := j.ciphers[o.subject]
	if cipher == nil {
		return false, nil
	}
	text, err := cipher.Open(nil, o.sealed, context)
	if err != nil {
		return false, fmt.Errorf("open: %w", err)
	}
	return true, json.Unmarshal(text, into)
}

// part opens what is sealed of a copy.
func (j *job) part(cipher *seal.Cipher, c *copyRow) (p copyPart, err error) {
	if len(c.sealed) == 0 || cipher == nil { // erased
		return p, nil
	}
	text, err := cipher.Open(nil, c.sealed, sealCopy)
	if err != nil {
		return p, fmt.Errorf("open a copy: %w", err)
	}
	return p, json.Unmarshal(text, &p)
}

// idAt is the id that an object has at the CRM.
func (j *job) idAt(c *copyRow, ours string) (string, error) {
	p, err := j.part(j.ciphers[c.subject], c)
	return cmp.Or(p.Remote, ours), err
}

// sendUser sends the user, with the last trip that the CRM has, if that is not
// what it shows.
func (j *job) sendUser(ctx context.Context, stop <-chan struct{}) error {
	u := j.user
	var e userEvent
	if ok, err := j.read(u, sealUser, &e); !ok {
		return err
	}
	var last *lastTrip
	if j.last != nil {
		var b bookingEvent
		ok, err := j.read(j.last, sealTrip, &b)
		if err != nil {
			return err
		}
		if ok {
			id, err := j.idAt(&j.last.copy, b.ID)
			if err != nil {
				return err
			}
			last = &lastTrip{id, tripTypes[b.Type], b.StartDate}
		}
	}
	return j.send(ctx, stop, u, e.ID, func(id string) any { return e.user(id, last) })
}

// sendTrip sends a trip, if the CRM has its user.
func (j *job) sendTrip(ctx context.Context, stop <-chan struct{}, t *object) error {
	var e bookingEvent
	if ok, err := j.read(t, sealTrip, &e); !ok {
		if err == nil { // erased
			j.v.clear = append(j.v.clear, t)
		}
		return err
	}
	user := ""
	if e.UserID != nil {
		var err error
		if user, err = j.userOf(ctx, t, *e.UserID); err != nil {
			return err
		}
		switch {
		case user != "":
		case t.owner != j.id: // it went to a user whom the CRM does not have yet
			j.v.due = j.now().Add(j.cfg.RetryMax)
			return nil
		default:
			j.v.waiting = append(j.v.waiting, t)
			return nil
		}
	}
	if err := j.send(ctx, stop, t, e.ID, func(id string) any { return e.trip(id, user) }); err != nil {
		return err
	}
	j.v.clear = append(j.v.clear, t)
	if t.owner != j.id && user != "" { // who works on that user does not know
		j.v.later = append(j.v.later, t.owner)
	}
	if t.copy.state == copyExists && t.owner == j.id && (j.last == nil || j.last.entity == t.entity || t.laterThan(j.last)) {
		j.last = t
	}
	return nil
}

// userOf gives the id that a trip's user has at the CRM, "" if none.
func (j *job) userOf(ctx context.Context, t *object, ours string) (string, error) {
	if t.owner == j.id {
		if j.user == nil || j.user.copy.state != copyExists {
			return "", nil
		}
		return j.idAt(&j.user.copy, ours)
	}
	copies, err := j.store.copiesOf(ctx, t.owner)
	if err != nil || copies[t.owner].state != copyExists {
		return "", err
	}
	c := copies[t.owner]
	ciphers, err := j.keys.CiphersOnce(ctx, []seal.Subject{c.subject})
	if err != nil {
		return "", fmt.Errorf("find keys: %w", err)
	}
	p, err := j.part(ciphers[0], &c)
	return cmp.Or(p.Remote, ours), err
}

// send brings one object to what it should be: it creates it or replaces it, by
// what is known of it. It returns nil too if the CRM refuses it for good.
func (j *job) send(ctx context.Context, stop <-chan struct{}, o *object, ours string, content func(id string) any) error {
	id, err := j.idAt(&o.copy, ours)
	if err != nil {
		return err
	}
	body, err := json.Marshal(content(id))
	if err != nil {
		return fmt.Errorf("make the %s: %w", o.kind, err)
	}
	digest := j.keys.Index("crm.copy", string(body))
	if o.copy.state == copyExists && o.copy.digest == digest {
		if o.dead { // it went back to what was taken
			j.v.alive = append(j.v.alive, o.entity)
		}
		return nil
	}
	for turn := range 5 { // each knows more than the one before
		if o.copy.state != copyNone || j.cfg.AskFirst && turn == 0 {
			c, err := j.call(ctx, stop, o.kind, "replace", func(ctx context.Context) call { return j.client.replace(ctx, o.kind, id, body) })
			if err != nil {
				if (c.result == resultFailed || c.result == resultTimeout) && o.copy.doubt() {
					j.v.copies = append(j.v.copies, copied{o.entity, o.kind, o.copy})
				}
				return err
			}
			switch c.result {
			case resultDone:
				return j.shown(ctx, o, ours, id, digest)
			case resultRefused:
				return j.refused(ctx, o, c)
			case resultConflict:
				return j.halt(c)
			}
			// There is no such object: it never was, or the CRM has lost it, or has it
			// under an id of its own.
			if o.copy.state == copyTried {
				found, err := j.adopt(ctx, stop, o, ours)
				if err != nil {
					return err
				}
				if found != "" {
					id = found
					if body, err = json.Marshal(content(id)); err != nil {
						return err
					}
					digest = j.keys.Index("crm.copy", string(body))
					continue
				}
			}
			o.copy = copyRow{}
			if id != ours {
				id = ours
				if body, err = json.Marshal(content(id)); err != nil {
					return err
				}
				digest = j.keys.Index("crm.copy", string(body))
			}
		}
		// From here on it may be there, whatever happens to us.
		if err := j.tried(ctx, o, body); err != nil {
			return err
		}
		c, err := j.call(ctx, stop, o.kind, "create", func(ctx context.Context) call { return j.client.create(ctx, o.kind, body) })
		if err != nil {
			return err
		}
		switch c.result {
		case resultDone:
			if c.id == ours {
				j.gives.Store(givesKept)
				return j.shown(ctx, o, ours, ours, digest)
			}
			j.gives.Store(givesOwn)
			// What it holds bears the CRM's id now.
			if body, err = json.Marshal(content(c.id)); err != nil {
				return err
			}
			if err := j.shown(ctx, o, ours, c.id, j.keys.Index("crm.copy", string(body))); err != nil {
				return err
			}
			// Before anything changes there: it could not be found again by what its
			// creation was tried with.
			if err := j.note(o); err != nil {
				j.v.copies = j.v.copies[:len(j.v.copies)-1]
				return err
			}
			return nil
		case resultRefused:
			o.copy = copyRow{}
			return j.refused(ctx, o, c)
		case resultNotFound:
			return j.halt(c)
		}
		// Conflict: somebody has the id. It is ours to replace.
		o.copy.state = copyExists
	}
	return j.halt(call{detail: "the CRM says of an object that it is there and that it is not"})
}

// call makes a call when the rate, the breaker and the lease let it. It returns
// errHalt, with the verdict set, unless the CRM gave a clear answer.
func (j *job) call(ctx context.Context, stop <-chan struct{}, k kind, what string, do func(context.Context) call) (call, error) {
	j.lines <- struct{}{}
	defer func() { <-j.lines }()
	select {
	case <-stop: // of those that waited for a line none goes any more
		j.v.due = j.now()
		return call{}, errHalt
	default:
	}
	if err := j.limit.Wait(ctx); err != nil {
		return call{}, err
	}
	now := j.now()
	if now.After(j.until.Add(-j.cfg.Timeout)) { // it might not be over in time
		j.v.due = now
		return call{}, errHalt
	}
	ok, wait := j.breaker.Enter(now)
	if !ok {
		// It is no failure of this unit.
		j.v.due = now.Add(wait + rand.N(wait/4+time.Millisecond))
		return call{}, errHalt
	}
	begin := time.Now()
	c := do(ctx)
	j.metrics.calls.WithLabelValues(k.String(), what, string(c.result)).Inc()
	j.metrics.took.Observe(time.Since(begin).Seconds())
	if state, changed := j.breaker.Leave(j.now(), outcomeOf(c.result), c.after); changed {
		j.moved(ctx, state)
	}
	switch c.result {
	case resultDone, resultNotFound, resultConflict, resultRefused:
		return c, nil
	}
	return c, j.halt(c)
}

// halt leaves the unit for a while.
func (j *job) halt(c call) error {
	j.v.failed, j.v.err = true, c.detail
	j.v.due = j.again(j.attempts, c.after)
	if settled := j.now().Add(j.cfg.Timeout); c.result == resultTimeout && j.v.due.Before(settled) {
		// It may still have its effect: what is sent after it must not come before.
		j.v.due = settled
	}
	return errHalt
}

func outcomeOf(r result) breaker.Outcome {
	switch r {
	case resultUnauthorized:
		return breaker.Denial
	case resultThrottled:
		return breaker.Throttle
	case resultUnsent, resultFailed, resultTimeout:
		return breaker.Failure
	}
	return breaker.Success
}

// moved tells people that the CRM takes nothing, or takes it again.
func (r *reconciler) moved(ctx context.Context, state breaker.State) {
	r.metrics.moves.WithLabelValues(state.String()).Inc()
	switch state {
	case breaker.Unauthorized:
		r.log.ErrorContext(ctx, "the CRM does not accept the token (crm.token): nothing is sent, nothing is lost")
	case breaker.Open:
		r.log.WarnContext(ctx, "the CRM fails: it is left alone for a while")
	case breaker.Closed:
		r.log.InfoContext(ctx, "the CRM takes changes again")
	default:
		return
	}
	_ = r.logged.Log(ctx, eventlog.Entry{Event: "crm.breaker." + state.String()})
}

// tried notes, durably, that an object is about to be created.
func (j *job) tried(ctx context.Context, o *object, body []byte) error {
	cipher := j.ciphers[o.subject]
	text, err := json.Marshal(copyPart{Tried: body})
	if err != nil {
		return err
	}
	o.copy = copyRow{state: copyTried, subject: o.subject, sealed: cipher.Seal(nil, text, sealCopy), sentAt: j.now()}
	return j.note(o)
}

// note writes down, durably, what is known of an object's copy.
func (j *job) note(o *object) error {
	done := make(chan error, 1)
	j.results <- written{verdict{unit: j.id, claim: j.unit.claim, until: j.unit.until, copies: []copied{{o.entity, o.kind, o.copy}}}, done}
	return <-done
}

// shown notes that the CRM shows an object.
func (j *job) shown(ctx context.Context, o *object, ours, id string, digest seal.Index) error {
	fresh := o.copy.state != copyExists
	o.copy = copyRow{state: copyExists, subject: o.subject, digest: digest, sealed: []byte{}, sentAt: j.now()}
	if id != ours {
		text, err := json.Marshal(copyPart{Remote: id})
		if err != nil {
			return err
		}
		o.copy.remote, o.copy.sealed = new(j.keys.Index("crm.id", id)), j.ciphers[o.subject].Seal(nil, text, sealCopy)
	}
	j.v.copies = append(j.v.copies, copied{o.entity, o.kind, o.copy})
	if o.dead {
		j.v.alive = append(j.v.alive, o.entity)
	}
	event := "crm." + o.kind.String() + ".updated"
	if fresh {
		event = "crm." + o.kind.String() + ".created"
	}
	j.journal(ctx, event, o, nil)
	return nil
}

// refused notes that the CRM will never take an object as it is.
func (j *job) refused(ctx context.Context, o *object, c call) error {
	if o.copy.state == copyNone { // not there, and not going to be
		j.v.copies = append(j.v.copies, copied{o.entity, o.kind, copyRow{subject: o.subject, sealed: []byte{}, sentAt: j.now()}})
	}
	now := j.now()
	entity, subject := o.entity, o.subject
	j.v.dead = append(j.v.dead, deadLetter{ID: uuid.Must(uuid.NewV7()), Kind: o.kind.String(), Entity: &entity, Subject: &subject, Reason: "the CRM refuses it: " + c.detail, Sealed: []byte{}, CreatedAt: now, At: now})
	j.journal(ctx, "crm."+o.kind.String()+".refused", o, map[string]any{"detail": c.detail})
	return nil
}

func (j *job) journal(ctx context.Context, event string, o *object, data map[string]any) {
	entry := eventlog.Entry{Event: event, Refs: []eventlog.Ref{{Kind: refUser, ID: o.subject.String()}}}
	if o.kind == kindTrip {
		entry.Refs = append(entry.Refs, eventlog.Ref{Kind: refTrip, ID: o.entity.String()})
	}
	if data != nil {
		entry.Data, _ = json.Marshal(data)
	}
	// What cannot be logged is counted there.
	_ = j.logged.Log(ctx, entry)
}

// adopt looks for an object whose creation was tried, at a CRM that gives ids of
// its own: it bears an id that belongs to nothing else, and holds just what was
// sent. It may have been found since this unit was read, by who had the unit
// before. adopt gives the id, "" if there is none.
func (j *job) adopt(ctx context.Context, stop <-chan struct{}, o *object, ours string) (string, error) {
	if j.gives.Load() == givesKept {
		return "", nil
	}
	part, err := j.part(j.ciphers[o.copy.subject], &o.copy)
	if err != nil || len(part.Tried) == 0 {
		return "", err
	}
	want, err := withoutID(o.kind, part.Tried)
	if err != nil {
		return "", nil
	}
	j.adopts.Lock()
	defer j.adopts.Unlock()
	found := ""
	_, err = j.call(ctx, stop, o.kind, "list", func(ctx context.Context) call {
		ctx, cancel := context.WithTimeout(ctx, j.cfg.Timeout)
		defer cancel()
		return j.client.list(ctx, o.kind, func(raw json.RawMessage) error {
			var has struct {
				ID string `json:"Id"`
			}
			same, err := withoutID(o.kind, raw)
			if err != nil || same != want || json.Unmarshal(raw, &has) != nil || has.ID == "" {
				return nil
			}
			taken, err := j.store.taken(ctx, o, j.keys.Index("crm.id", has.ID), j.keys.Index(o.kind.String()+"_id", has.ID))
			if err != nil || taken {
				return err
			}
			found = has.ID
			return errStop
		})
	})
	if err != nil || found == "" {
		return "", err
	}
	text, err := json.Marshal(copyPart{Remote: found})
	if err != nil {
		return "", err
	}
	// Bound before another one looks.
	o.copy = copyRow{state: copyExists, subject: o.subject, remote: new(j.keys.Index("crm.id", found)), sealed: j.ciphers[o.subject].Seal(nil, text, sealCopy), sentAt: j.now()}
	j.gives.Store(givesOwn)
	return found, j.note(o)
}

// withoutID gives an object of the CRM in a form in which equal ones are equal,
// but for its id.
func withoutID(k kind, raw []byte) (string, error) {
	if k == kindUser {
		var u crmUser
		if err := json.Unmarshal(raw, &u); err != nil {
			return "", err
		}
		u.ID, u.LastTripDate = "", sameDate(u.LastTripDate)
		text, err := json.Marshal(u)
		return string(text), err
	}
	var t crmTrip
	if err := json.Unmarshal(raw, &t); err != nil {
		return "", err
	}
	t.ID, t.StartDate = "", sameDate(t.StartDate)
	if t.EndDate != nil {
		t.EndDate = new(sameDate(*t.EndDate))
	}
	text, err := json.Marshal(t)
	return string(text), err
}

// sameDate gives one text for all forms of an instant.
func sameDate(text string) string {
	t, err := parseDate(text)
	if err != nil {
		return text
	}
	return t.UTC().Format(time.RFC3339Nano)
}
