package telephony

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// What is sealed says what it is, so that one blob cannot pass for another.
const (
	sealEvent       = "telephony.event"
	sealActorPart   = "telephony.event.actor"
	sealCall        = "telephony.call"
	sealName        = "telephony.call.name"
	sealActor       = "telephony.actor.name"
	sealDestination = "telephony.delegation.destination"
)

const (
	// maxWaiting is how many events wait for the log at most; more are refused.
	maxWaiting = 8192
	// maxBatch is how many of them one transaction takes.
	maxBatch = 512
	// knownCalls is of how many calls the person is remembered.
	knownCalls = 65536
)

// received is an event with all that its transaction needs.
type received struct {
	entry
	event  *event
	cipher *seal.Cipher // of the person that the call is with; nil if erased since
	their  *seal.Index  // of their number, whatever it is
	our    *seal.Index
	phone  bool // their number is one by which a customer is known again

	actor        *seal.Index // of who answers
	actorSubject seal.Subject
	actorCipher  *seal.Cipher

	answer chan<- answer
}

// answer is what became of an event.
type answer struct {
	receipt
	err error
}

// receipt tells of an event that is in the log.
type receipt struct {
	ID        int64
	UUID      uuid.UUID
	Duplicate bool
}

// eventService takes events into the log, many in one transaction, and reads
// them again.
type eventService struct {
	cfg     *Config
	store   *eventStore
	calls   *projectionStore
	keys    *seal.Keyring
	metrics *metrics
	log     *slog.Logger
	now     func() time.Time
	queue   chan *received
	persons *lru.Cache[seal.Index, seal.Subject] // of calls
	// plan plans what follows from new events, in their transaction, and tells
	// whether it did.
	plan func(context.Context, store.Querier, []*received, *projected) (bool, error)
	// onStored hears of every commit: the end of the log, and whether something
	// was planned.
	onStored func(last int64, planned bool)

	mu      sync.Mutex
	stopped bool
}

func newEventService(cfg *Config, db *store.DB, keys *seal.Keyring, m *metrics, log *slog.Logger, now func() time.Time) (*eventService, error) {
	persons, err := lru.New[seal.Index, seal.Subject](knownCalls)
	if err != nil {
		return nil, err
	}
	return &eventService{cfg: cfg, store: &eventStore{db}, calls: &projectionStore{keys: keys, level: cfg.ServiceLevel}, keys: keys, metrics: m, log: log, now: now,
		queue: make(chan *received, maxWaiting), persons: persons}, nil
}

// callIndex is the blind index of a call's id.
func (s *eventService) callIndex(callID string) seal.Index { return s.keys.Index("call_id", callID) }

// phone is the alias of a number; false for what is none, such as "anonymous".
func (s *eventService) phone(number string) (seal.Alias, bool) {
	return seal.PhoneIn(s.cfg.CountryCode, number)
}

// numberIndex is by what calls of a number are found.
func (s *eventService) numberIndex(number string) seal.Index {
	if alias, ok := s.phone(number); ok {
		return s.keys.Index(alias.Kind, alias.Value)
	}
	return s.keys.Index("caller", number)
}

// receive makes an event durable. An event that is in the log already gives the
// receipt of the first. Errors: Invalid for what is no event, and for one about
// a person who was erased; Unavailable.
func (s *eventService) receive(ctx context.Context, body []byte) (receipt, error) {
	e, err := decodeEvent(body)
	if err != nil {
		return receipt{}, err
	}
	r, err := s.prepare(ctx, e)
	if err != nil {
		return receipt{}, err
	}
	came := make(chan answer, 1)
	r.answer = came
	if err := s.enqueue(r); err != nil {
		return receipt{}, err
	}
	select {
	case a := <-came:
		return a.receipt, a.err
	case <-ctx.Done():
		return receipt{}, errs.Wrap(errs.Unavailable, ctx.Err(), "store event")
	}
}

// enqueue never waits: who cannot be stored soon is told so.
func (s *eventService) enqueue(r *received) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errs.New(errs.Unavailable, "shutting down")
	}
	select {
	case s.queue <- r:
		return nil
	default:
		return errs.New(errs.Unavailable, "too many events wait to be stored")
	}
}

// prepare finds out who an event is about, and seals it.
func (s *eventService) prepare(ctx context.Context, e *event) (*received, error) {
	canonical, err := e.canonical()
	if err != nil {
		return nil, fmt.Errorf("read event: %w", err)
	}
	r := &received{event: e, entry: entry{EventID: newEventID(s.keys.Index("telephony.event", string(canonical))),
		Kind: e.Kind, At: store.MicrosOf(e.At), ReceivedAt: store.MicrosOf(s.now())}}
	s.index(r, nil, nil)
	if err := s.findPersons(ctx, r); err != nil {
		return nil, err
	}
	return r, s.seal(ctx, r)
}

// newEventID makes a UUID of version 8 (RFC 9562 section 5.8) out of a digest,
// so that the same event has the same one wherever it arrives.
func newEventID(digest seal.Index) [16]byte {
	digest[6] = digest[6]&0x0f | 0x80
	digest[8] = digest[8]&0x3f | 0x80
	return digest
}

// known remembers blind indexes while a part of the log is read: the same
// numbers come again and again.
type known map[string]*seal.Index

func (k known) index(value string, make func(string) seal.Index) *seal.Index {
	x := k[value]
	if x == nil {
		made := make(value)
		x = &made
		if k != nil {
			k[value] = x
		}
	}
	return x
}

// index fills in by what the event is found.
func (s *eventService) index(r *received, numbers, actors known) {
	e := r.event
	if e.CallID != "" && r.Call == nil {
		call := s.callIndex(e.CallID)
		r.Call = &call
	}
	if e.Code != "" && r.Code == nil && strings.HasPrefix(e.Type, "dialer.") {
		code := s.keys.Index("code", e.Code)
		r.Code = &code
	}
	if e.OurNumber != "" {
		r.our = numbers.index(e.OurNumber, s.numberIndex)
	}
	if e.TheirNumber != "" {
		r.their = numbers.index(e.TheirNumber, s.numberIndex)
	}
	if e.Actor != "" {
		r.actor = actors.index(e.Actor, func(actor string) seal.Index { return s.keys.Index("actor", actor) })
	}
}

// actorAlias names who answers: a person with an e-mail address, mostly.
func actorAlias(actor string) seal.Alias {
	if strings.Contains(actor, "@") {
		return seal.Alias{Kind: "email", Value: strings.ToLower(actor)}
	}
	return seal.Alias{Kind: "actor", Value: actor}
}

// findPersons finds the subjects of the event: of the caller, and of the actor
// where there is one.
func (s *eventService) findPersons(ctx context.Context, r *received) error {
	e := r.event
	var aliases []seal.Alias
	caller := -1 // among the aliases
	switch {
	case e.TheirNumber != "":
		alias, ok := s.phone(e.TheirNumber)
		if r.phone = ok; !ok {
			alias = seal.Alias{Kind: "caller", Value: e.TheirNumber}
		}
		caller, aliases = 0, append(aliases, alias)
	case r.Call != nil:
		known, err := s.personOf(ctx, *r.Call)
		if err != nil {
			return err
		}
		if known != (seal.Subject{}) {
			r.Subject = known
			break
		}
		// Nobody knows yet whose call it is: it is sealed as the call's own.
		caller, aliases = 0, append(aliases, seal.Alias{Kind: "call_id", Value: e.CallID})
	case e.Number != "" && e.Actor == "":
		if alias, ok := s.phone(e.Number); ok {
			caller, aliases = 0, append(aliases, alias)
		}
	}
	actor := len(aliases)
	if r.actor != nil {
		aliases = append(aliases, actorAlias(e.Actor))
	}
	if len(aliases) == 0 {
		return nil
	}
	subjects, err := s.keys.Subjects(ctx, aliases)
	if err != nil {
		return fmt.Errorf("find who the event is about: %w", err)
	}
	if caller >= 0 {
		r.Subject = subjects[caller]
		if r.Call != nil {
			s.persons.Add(*r.Call, r.Subject)
		}
	}
	if r.actor != nil {
		r.actorSubject = subjects[actor]
	}
	for _, subject := range subjects {
		if subject.IsZero() {
			return errErased
		}
	}
	return nil
}

var errErased = errs.InvalidFields("the event is about a person who has been erased", errs.Field{Location: "body", Message: "is about a person who has been erased"})

// personOf gives the subject of a call, the zero one if the call is not known.
func (s *eventService) personOf(ctx context.Context, call seal.Index) (seal.Subject, error) {
	if known, ok := s.persons.Get(call); ok {
		return known, nil
	}
	known, ok, err := s.store.personOf(ctx, call)
	if err != nil {
		return known, fmt.Errorf("find the call: %w", err)
	}
	if ok {
		s.persons.Add(call, known)
	}
	return known, nil
}

// seal closes the event under the keys of those it is about.
func (s *eventService) seal(ctx context.Context, r *received) error {
	ciphers, err := s.keys.Ciphers(ctx, []seal.Subject{r.Subject, r.actorSubject})
	if err != nil {
		return fmt.Errorf("find keys: %w", err)
	}
	r.cipher, r.actorCipher = ciphers[0], ciphers[1]
	system := r.Subject.IsZero() && r.actor == nil // nobody's
	switch {
	case system:
		r.cipher = s.keys.System()
	case r.Subject.IsZero(): // the actor's alone
		r.Subject, r.cipher = r.actorSubject, r.actorCipher
	case r.actor != nil:
		if r.actorCipher == nil {
			return errErased
		}
		body, part, err := r.event.split()
		if err != nil {
			return fmt.Errorf("split event: %w", err)
		}
		if r.cipher == nil {
			return errErased
		}
		r.Sealed = r.cipher.Seal(nil, body, sealEvent)
		r.Actor, r.ActorSealed = &r.actorSubject, r.actorCipher.Seal(nil, part, sealActorPart)
		return nil
	}
	if r.cipher == nil {
		return errErased
	}
	r.Sealed = r.cipher.Seal(nil, r.event.Raw, sealEvent)
	return nil
}

// run writes the log until ctx ends, then what was accepted until then.
func (s *eventService) run(ctx context.Context) error {
	for {
		select {
		case first := <-s.queue:
			s.commit(context.WithoutCancel(ctx), s.gather(first))
		case <-ctx.Done():
			s.mu.Lock()
			s.stopped = true
			s.mu.Unlock()
			for len(s.queue) > 0 {
				s.commit(context.WithoutCancel(ctx), s.gather(<-s.queue))
			}
			return nil
		}
	}
}

// gather takes what waits, without waiting for more: while one transaction is
// written, the next one fills.
func (s *eventService) gather(first *received) []*received {
	batch := append(make([]*received, 0, min(len(s.queue)+1, maxBatch)), first)
	for len(batch) < maxBatch {
		select {
		case r := <-s.queue:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// commit writes a batch and answers each of its events.
func (s *eventService) commit(ctx context.Context, batch []*received) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var ids map[[16]byte]int64 // of events that were there before
	var fresh []*received
	var last int64
	var planned bool
	err := s.store.db.Tx(ctx, func(tx store.Querier) (err error) {
		ids, fresh, last, planned, err = s.write(ctx, tx, batch)
		return err
	})
	if err != nil {
		for _, r := range batch {
			r.answer <- answer{err: fmt.Errorf("store event: %w", err)}
		}
		return
	}
	s.metrics.stored.Add(float64(len(fresh)))
	s.metrics.doubled.Add(float64(len(batch) - len(fresh)))
	for _, r := range batch {
		a := answer{receipt: receipt{ID: r.ID, UUID: r.EventID}}
		if id, known := ids[r.EventID]; known {
			a.ID, a.Duplicate = id, true
		}
		ids[r.EventID] = a.ID // the same event once more in the batch
		r.answer <- a
	}
	if len(fresh) > 0 && s.onStored != nil {
		s.onStored(last, planned)
	}
}

// write is the transaction of a batch. It may run again.
func (s *eventService) write(ctx context.Context, tx store.Querier, batch []*received) (ids map[[16]byte]int64, fresh []*received, last int64, planned bool, err error) {
	h, err := lockHead(ctx, tx, s.store.db.Engine())
	if err != nil {
		return nil, nil, 0, false, err
	}
	entries := make([]*entry, len(batch))
	for i, r := range batch {
		entries[i] = &r.entry
	}
	if ids, err = stored(ctx, tx, entries); err != nil {
		return nil, nil, 0, false, err
	}
	last = h.Event
	seen := map[[16]byte]bool{}
	var added []*entry
	for _, r := range batch {
		if _, known := ids[r.EventID]; known || seen[r.EventID] {
			continue
		}
		seen[r.EventID] = true
		last++
		r.ID = last
		fresh, added = append(fresh, r), append(added, &r.entry)
	}
	if len(fresh) == 0 {
		return ids, nil, last, false, nil
	}
	if err := appendLog(ctx, tx, added); err != nil {
		return nil, nil, 0, false, err
	}
	result, err := s.calls.project(ctx, tx, h.Generation, fresh, nil)
	if err != nil {
		return nil, nil, 0, false, err
	}
	if s.plan != nil {
		planned, err = s.plan(ctx, tx, fresh, result)
	}
	return ids, fresh, last, planned, err
}

// follower plans what follows from events, in the transaction that stores them.
type follower struct {
	delegations *delegationService
	recordings  *recordingService
}

// plan tells whether there is something to be done about these events.
func (f *follower) plan(ctx context.Context, tx store.Querier, events []*received, made *projected) (bool, error) {
	var calls []standing
	var ready []recordingReady
	for _, r := range events {
		switch {
		case r.Call == nil:
		case r.Kind == kindStandby:
			calls = append(calls, standing{Call: *r.Call, CallID: r.event.CallID, Event: r.ID, EventID: r.EventID, Returning: made.returning[r.ID],
				State: made.calls[*r.Call].facts.State, ReceivedAt: r.ReceivedAt})
		case r.Kind == kindRecording:
			ready = append(ready, recordingReady{Call: *r.Call, CallID: r.event.CallID, Event: r.ID, EventID: r.EventID, URL: r.event.URL, ReceivedAt: r.ReceivedAt})
		}
	}
	if len(calls) > 0 {
		if err := f.delegations.plan(ctx, tx, calls); err != nil {
			return false, err
		}
	}
	if len(ready) > 0 {
		if err := f.recordings.plan(ctx, tx, ready); err != nil {
			return false, err
		}
	}
	return len(calls)+len(ready) > 0, nil
}

// recorded is an event of the log, opened.
type recorded struct {
	ID         int64
	UUID       uuid.UUID
	CallID     string // empty for an event of no call
	Event      json.RawMessage
	ReceivedAt time.Time
	Kind       kind
}

// head gives the id of the last event of the log.
func (s *eventService) head(ctx context.Context) (int64, error) {
	h, err := readHead(ctx, s.store.db.Read())
	return h.Event, err
}

// find gives a page of the log and whether more follows. Events of persons who
// were erased are left out.
func (s *eventService) find(ctx context.Context, q eventQuery) (page []recorded, more bool, err error) {
	page, next, err := s.page(ctx, q)
	return page, next > 0, err
}

// page is find that tells behind which event the next page begins, 0 at the
// end: it may be one that was left out.
func (s *eventService) page(ctx context.Context, q eventQuery) (page []recorded, next int64, err error) {
	q.Limit++
	entries, err := s.store.list(ctx, q)
	if err != nil {
		return nil, 0, fmt.Errorf("find events: %w", err)
	}
	if len(entries) == q.Limit {
		entries = entries[:q.Limit-1]
		next = entries[len(entries)-1].ID
	}
	bodies, err := s.open(ctx, entries)
	if err != nil {
		return nil, 0, err
	}
	page = make([]recorded, 0, len(entries))
	for i, e := range entries {
		if bodies[i] == nil {
			continue
		}
		read := event{Raw: bodies[i]}
		if err := (&eventReader{event: &read}).read(); err != nil {
			return nil, 0, fmt.Errorf("read event %d: %w", e.ID, err)
		}
		page = append(page, recorded{ID: e.ID, UUID: e.EventID, CallID: read.CallID, Event: bodies[i], ReceivedAt: e.ReceivedAt.Time(), Kind: e.Kind})
	}
	return page, next, nil
}

// open gives the bodies of entries as they were posted, nil for one whose
// person was erased. An actor who was erased is null in it.
func (s *eventService) open(ctx context.Context, entries []*entry) ([]json.RawMessage, error) {
	ciphers, err := s.ciphers(ctx, entries)
	if err != nil {
		return nil, err
	}
	out := make([]json.RawMessage, len(entries))
	for i, e := range entries {
		if out[i], err = ciphers[i].open(e); err != nil {
			return nil, fmt.Errorf("open event %d: %w", e.ID, err)
		}
	}
	return out, nil
}

// entryCiphers open an entry; nil ones are of erased persons.
type entryCiphers struct{ caller, actor *seal.Cipher }

func (s *eventService) ciphers(ctx context.Context, entries []*entry) ([]entryCiphers, error) {
	subjects := make([]seal.Subject, 2*len(entries))
	for i, e := range entries {
		subjects[2*i] = e.Subject
		if e.Actor != nil {
			subjects[2*i+1] = *e.Actor
		}
	}
	found, err := s.keys.Ciphers(ctx, subjects)
	if err != nil {
		return nil, fmt.Errorf("find keys: %w", err)
	}
	out := make([]entryCiphers, len(entries))
	for i, e := range entries {
		out[i] = entryCiphers{found[2*i], found[2*i+1]}
		if e.Subject.IsZero() {
			out[i].caller = s.keys.System()
		}
	}
	return out, nil
}

func (c entryCiphers) open(e *entry) (json.RawMessage, error) {
	if c.caller == nil {
		return nil, nil
	}
	body, err := c.caller.Open(nil, e.Sealed, sealEvent)
	if err != nil || e.Actor == nil || c.actor == nil {
		return body, err
	}
	part, err := c.actor.Open(nil, e.ActorSealed, sealActorPart)
	if err != nil {
		return nil, err
	}
	return join(body, part)
}
