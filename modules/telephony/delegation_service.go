package telephony

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/outbox"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	retryFirst = 100 * time.Millisecond // pause after the first try; it doubles
	retryMost  = time.Second
	// hearsay is how long after a request without an answer the platform's
	// events may still tell that it was done.
	hearsay = time.Second
	// lookAgain is how often something is looked at that others change.
	lookAgain = 100 * time.Millisecond
)

// delegationConfig is what a delegationService works with.
type delegationConfig struct {
	Config   *Config
	DB       *store.DB
	Bus      *bus.Bus
	Keys     *seal.Keyring
	Events   *eventService
	Provider *providerClient
	EventLog eventlog.Logger
	Log      *slog.Logger
	Now      func() time.Time
	Settled  func(state string) // counts delegations by what came of them; may be nil
	Unheard  func()             // counts directories that did not answer; may be nil
}

// delegationService sends calls that stand by where they belong, each once.
type delegationService struct {
	delegationConfig
	store   *delegationStore
	rules   *rules
	unheard atomic.Int64 // when that was logged last
}

func newDelegationService(c delegationConfig) (*delegationService, error) {
	rules, err := parseRules(c.Config.Rules, c.Config.TimeZone)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "telephony.rules")
	}
	return &delegationService{delegationConfig: c, store: &delegationStore{db: c.DB, keys: c.Keys}, rules: rules}, nil
}

// standing is a call that stands by.
type standing struct {
	Call       seal.Index
	CallID     string
	Event      int64 // of the standby in the log
	EventID    uuid.UUID
	Returning  bool  // the number had stood by before
	State      state // of the call, by all that is known
	ReceivedAt store.Micros
}

// plan notes what has to be done with calls that stand by, in the transaction
// that stores their events. Only the first standby of a call counts.
func (s *delegationService) plan(ctx context.Context, tx store.Querier, calls []standing) error {
	var list []*delegation
	ids := map[seal.Index]uuid.UUID{}
	for _, c := range calls {
		if _, twice := ids[c.Call]; twice {
			continue
		}
		ids[c.Call] = c.EventID
		d := &delegation{Call: c.Call, Name: s.Keys.System().Seal(nil, []byte(c.CallID), sealName), Event: c.Event, Returning: c.Returning,
			State: delegationPending, DueAt: store.MicrosOf(c.ReceivedAt.Time().Add(s.Config.DelegateWithin))}
		switch {
		case !s.Provider.configured():
			d.State, d.Detail = delegationSkipped, "no provider is configured"
		case c.State >= stateOngoing:
			d.State, d.Detail = delegationSkipped, movedOn
		}
		if d.State != delegationPending {
			d.SettledAt = &c.ReceivedAt
		}
		list = append(list, d)
	}
	fresh, err := s.store.plan(ctx, tx, list)
	if err != nil {
		return fmt.Errorf("plan delegations: %w", err)
	}
	var msgs []bus.Message
	for _, d := range list {
		// What was skipped is only to be told of, outside of this transaction.
		if fresh[d.Call] && s.Provider.configured() {
			msgs = append(msgs, bus.Message{Subject: subjectDelegate, ID: ids[d.Call].String(), Data: planned{d.Event}.encode()})
		}
	}
	return outbox.Publish(ctx, tx, msgs...)
}

const movedOn = "the call had moved on"

// planned is a message about something that the log asks for.
type planned struct {
	Event int64 `json:"event"`
}

func (p planned) encode() []byte { return []byte(`{"event":` + strconv.FormatInt(p.Event, 10) + `}`) }

// get gives what was planned for a call and what came of it, nil if nothing was.
func (s *delegationService) get(ctx context.Context, call seal.Index) (*delegation, error) {
	d, err := s.store.of(ctx, call)
	if err != nil {
		return nil, fmt.Errorf("find the delegation: %w", err)
	}
	return d, nil
}

// delegating is one delegation being done.
type delegating struct {
	*delegation
	callID string
	mine   bool          // the last try was of this process
	doubt  bool          // an earlier try may have been done
	due    time.Time     // by the clock that waits
	quiet  time.Time     // no try before
	pause  time.Duration // after the next try
	no     string        // that the platform refused, while that is in doubt
	said   string        // with what words
}

// delegate does what a standby called for, and returns when it is settled. It
// may be called again for the same one, also at the same time: every try claims
// the row first, so that a delegation that is settled is never sent, and one
// under way elsewhere is waited for. It gives up with Unavailable when stop is
// closed. again tells that the message was delivered before.
func (s *delegationService) delegate(ctx context.Context, stop <-chan struct{}, event int64, again bool) error {
	d, err := s.store.by(ctx, event)
	if err != nil {
		return fmt.Errorf("find the delegation: %w", err)
	}
	if d == nil {
		return nil
	}
	name, err := s.Keys.System().Open(nil, d.Name, sealName)
	if err != nil {
		return fmt.Errorf("open the delegation of event %d: %w", event, err)
	}
	r := &delegating{delegation: d, callID: string(name), due: time.Now().Add(d.DueAt.Time().Sub(s.Now())), pause: retryFirst,
		doubt: d.Attempts > 0 && d.Detail != tryAway}
	if r.doubt {
		r.quiet = time.Now().Add(hearsay)
	}
	if d.State != delegationPending {
		switch {
		case d.State == delegationSkipped && d.Attempts == 0 && !again:
			s.tell(ctx, r)
		case again:
			s.report(ctx, r) // whoever settled it may have died before it said so
		}
		return nil
	}
	for r.State == delegationPending {
		wait, err := s.step(ctx, r)
		if err != nil {
			return err
		}
		if wait > 0 && !sleep(ctx, stop, wait) {
			return errs.New(errs.Unavailable, "shutting down")
		}
	}
	return nil
}

// sleep waits; false if ctx or stop ended first.
func sleep(ctx context.Context, stop <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
	case <-ctx.Done():
	}
	return false
}

// step does the next thing and tells how long to wait before another.
func (s *delegationService) step(ctx context.Context, r *delegating) (time.Duration, error) {
	if r.Detail == tryUnderWay && !r.mine {
		if wait := s.underWay(r.delegation); wait > 0 {
			return min(wait, lookAgain), s.reload(ctx, r)
		}
	}
	now, err := s.store.callState(ctx, r.Call)
	if err != nil {
		return 0, fmt.Errorf("find the call: %w", err)
	}
	late := !time.Now().Before(r.due)
	early := time.Now().Before(r.quiet)
	switch {
	case r.doubt && now > stateStandby:
		return 0, s.settle(ctx, r, delegationDelegated, "no answer came, but the call moved on")
	case now >= stateOngoing:
		return 0, s.settle(ctx, r, delegationSkipped, movedOn)
	case r.no != "" && !early:
		return 0, s.settle(ctx, r, delegationRefused, r.no)
	case late && !(early && r.doubt):
		return 0, s.settle(ctx, r, delegationExpired, r.tooLate())
	case early && r.doubt:
		return min(time.Until(r.quiet), lookAgain), nil
	case early:
		return min(time.Until(r.quiet), time.Until(r.due)), nil
	}
	return s.try(ctx, r)
}

// tooLate says why the time is over.
func (r *delegating) tooLate() string {
	switch {
	case r.doubt:
		return "the platform did not answer"
	case r.Attempts > 0:
		return "the platform was away"
	}
	return "nobody came to it in time"
}

// underWay is how long a try that was begun elsewhere may still take. After
// that whoever made it is dead, and it is as good as not answered.
func (s *delegationService) underWay(d *delegation) time.Duration {
	if d.Detail != tryUnderWay || d.TriedAt == nil {
		return 0
	}
	const margin = 200 * time.Millisecond // between its end and the note of it
	limit := s.Config.ProviderTimeout + margin
	return min(d.TriedAt.Time().Add(limit).Sub(s.Now()), limit)
}

// reload brings a delegation up to date that others may have changed.
func (s *delegationService) reload(ctx context.Context, r *delegating) error {
	d, err := s.store.of(ctx, r.Call)
	if err != nil || d == nil {
		return fmt.Errorf("find the delegation: %w", err)
	}
	r.delegation, r.mine = d, false
	r.doubt = r.doubt || d.Attempts > 0 && d.Detail != tryAway
	return nil
}

// try asks the platform once.
func (s *delegationService) try(ctx context.Context, r *delegating) (time.Duration, error) {
	destination := r.Destination
	if destination == "" {
		var err error
		if destination, err = s.decide(ctx, r.delegation); err != nil {
			return 0, err
		}
	}
	claimed, err := s.store.claim(ctx, r.delegation, destination, store.MicrosOf(s.Now()))
	if err != nil {
		return 0, err
	}
	if !claimed {
		return lookAgain, s.reload(ctx, r)
	}
	r.mine = true
	limit, cancel := context.WithDeadline(ctx, r.due)
	defer cancel()
	f, why := faultOf(s.Provider.delegate(limit, r.callID, destination))
	switch f {
	case faultNone:
		return 0, s.settle(ctx, r, delegationDelegated, "")
	case faultRefused:
		r.no, r.said = why.plain(), why.Error()
		if !r.doubt {
			return 0, s.settle(ctx, r, delegationRefused, r.no)
		}
		// Perhaps because an earlier request was done.
		r.quiet = time.Now().Add(hearsay)
		return 0, nil
	case faultDoubtful:
		r.doubt, r.quiet = true, time.Now().Add(hearsay)
		return 0, s.note(ctx, r, tryDoubtful)
	}
	wait := max(r.pause-rand.N(r.pause/4), why.after)
	r.pause = min(2*r.pause, retryMost)
	if why.after > 0 && why.after > time.Until(r.due) {
		return 0, s.settle(ctx, r, delegationExpired, "the platform asks to wait for longer than the call may")
	}
	r.quiet = time.Now().Add(wait)
	if r.doubt {
		return 0, s.note(ctx, r, tryDoubtful)
	}
	return 0, s.note(ctx, r, tryAway)
}

// keep writes what has happened. The platform has done its part already, so
// that a database that stumbles is tried again.
func keep(ctx context.Context, write func() (bool, error)) (done bool, err error) {
	for pause := lookAgain; ; pause *= 2 {
		done, err = write()
		if errs.KindOf(err) != errs.Unavailable || pause > 2*time.Second || !sleep(ctx, nil, pause) {
			return done, err
		}
	}
}

func (s *delegationService) note(ctx context.Context, r *delegating, detail string) error {
	done, err := keep(ctx, func() (bool, error) { return s.store.note(ctx, r.delegation, detail) })
	if err == nil && !done {
		return s.reload(ctx, r)
	}
	return err
}

// settle ends a delegation and tells of it.
func (s *delegationService) settle(ctx context.Context, r *delegating, state, detail string) error {
	done, err := keep(ctx, func() (bool, error) { return s.store.settle(ctx, r.delegation, state, detail, store.MicrosOf(s.Now())) })
	if err != nil {
		return err
	}
	if !done {
		return s.reload(ctx, r)
	}
	s.tell(ctx, r)
	return nil
}

// tell counts and logs what came of a delegation.
func (s *delegationService) tell(ctx context.Context, r *delegating) {
	if s.Settled != nil {
		s.Settled(r.State)
	}
	s.report(ctx, r)
}

var delegationEvents = map[string]string{
	delegationDelegated: "call.delegated",
	delegationRefused:   "call.delegate_refused",
	delegationExpired:   "call.delegate_expired",
	delegationSkipped:   "call.delegate_skipped",
}

// report logs what came of an automatic delegation. Those who report the same
// give the entry the same id.
func (s *delegationService) report(ctx context.Context, r *delegating) {
	event := delegationEvents[r.State]
	if event == "" {
		return // by hand: told by that hand
	}
	e := callEntry(event, r.callID, r.Destination, map[string]any{"attempts": r.Attempts, "returning": r.Returning, "detail": cmp.Or(r.said, r.Detail)})
	e.ID = "delegation." + strconv.FormatInt(r.Event, 10)
	if r.SettledAt != nil {
		e.Time = r.SettledAt.Time()
	}
	s.logged(ctx, e)
}

// callEntry is an entry of the event log about a call.
func callEntry(event, callID, destination string, data map[string]any) eventlog.Entry {
	e := eventlog.Entry{Event: event, Text: "callId: " + callID, Refs: []eventlog.Ref{{Kind: "call", ID: callID}}}
	if destination != "" {
		e.Text += ", destination: " + destination
	}
	e.Data, _ = json.Marshal(data)
	return e
}

func (s *delegationService) logged(ctx context.Context, e eventlog.Entry) {
	// What a strategy cannot take it counts itself.
	if err := s.EventLog.Log(ctx, e); err != nil {
		s.Log.Error("cannot log what was asked of the phone platform", "event", e.Event, "error", err)
	}
}

// decide finds out where a call goes.
func (s *delegationService) decide(ctx context.Context, d *delegation) (string, error) {
	if len(s.rules.list) > 0 {
		c := caller{Returning: d.Returning, At: s.Now()}
		e, err := s.Events.posted(ctx, d.Event)
		if err != nil {
			return "", err
		}
		if e != nil { // else the person was erased since
			c.Our = e.OurNumber
			heard := map[string]bool{}
			c.Known = func(directory string) bool {
				if _, asked := heard[directory]; !asked {
					heard[directory] = s.known(ctx, directory, e.TheirNumber)
				}
				return heard[directory]
			}
		}
		if to, ok := s.rules.destination(c); ok {
			return to, nil
		}
	}
	if d.Returning {
		return s.Config.ReturningQueue, nil
	}
	return s.Config.NewQueue, nil
}

// posted gives an event of the log as it was posted, nil if its person was erased.
func (s *eventService) posted(ctx context.Context, id int64) (*event, error) {
	page, _, err := s.find(ctx, eventQuery{After: id - 1, Limit: 1})
	if err != nil || len(page) == 0 || page[0].ID != id {
		return nil, err
	}
	e, err := decodeEvent(page[0].Event)
	if err != nil {
		return nil, fmt.Errorf("read event %d: %w", id, err)
	}
	return e, nil
}
