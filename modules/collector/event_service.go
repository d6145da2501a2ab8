package collector

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
)

// eventService takes events in and answers queries over them.
type eventService struct {
	cfg     *Config
	store   *eventStore
	schemas *schemaService
	keys    *seal.Keyring
	group   *bus.Group
	maxItem int
	metrics *metrics
	now     func() time.Time
	flood   flood
}

// Refused is an event of a batch that was not accepted.
type Refused struct {
	Index  int          `json:"index" doc:"Place of the event in the request, from 0."`
	Errors []errs.Field `json:"errors"`
}

// Receipt answers a request whose accepted events are durable.
type Receipt struct {
	Accepted int       `json:"accepted"`
	Rejected []Refused `json:"rejected"`
	IDs      []string  `json:"ids" doc:"Ids of the accepted events, in the order of the request."`
}

// reasons for a refusal
const (
	reasonShape  = "shape"  // the event is not one: fields, types, timestamp
	reasonSchema = "schema" // its data does not fit the schema of its kind
)

// accept validates the events of a batch for an application and makes the good
// ones durable; what is refused goes to the rejects with its reasons. It
// returns an Invalid error if no event is acceptable, Unavailable if the bus
// cannot keep them now. seed makes the ids of events without one repeatable
// (see Idempotency-Key); it may be empty.
func (s *eventService) accept(ctx context.Context, app string, b *Batch, seed string) (*Receipt, error) {
	now := s.now()
	receipt := &Receipt{Rejected: []Refused{}, IDs: make([]string, 0, len(b.Candidates))}
	items := make([][]byte, 0, len(b.Candidates))
	for i := range b.Candidates {
		c := &b.Candidates[i]
		if reason := s.judge(c, app, now); reason != "" {
			refused := Refused{Index: i, Errors: b.located(i)}
			receipt.Rejected = append(receipt.Rejected, refused)
			items = append(items, rejectItem(c, app, now, reason, refused.Errors))
			continue
		}
		it := item{Event: c.Event, App: app, ReceivedAt: now}
		var id string
		it.EventID, id = s.identify(app, c.ID, seed, i)
		items = append(items, it.encode())
		receipt.IDs = append(receipt.IDs, id)
	}
	receipt.Accepted = len(receipt.IDs)
	s.flood.enter(len(items))
	err := s.group.Publish(ctx, items)
	s.flood.leave(len(items))
	if err != nil {
		s.metrics.received.WithLabelValues("unavailable").Add(float64(len(b.Candidates)))
		return nil, fmt.Errorf("accept events: %w", err)
	}
	s.metrics.received.WithLabelValues("accepted").Add(float64(receipt.Accepted))
	if n := len(receipt.Rejected); n > 0 {
		s.metrics.received.WithLabelValues("rejected").Add(float64(n))
	}
	if receipt.Accepted == 0 {
		var fields []errs.Field
		for _, r := range receipt.Rejected {
			fields = append(fields, r.Errors...)
		}
		return nil, errs.InvalidFields("no event is acceptable", fields...)
	}
	return receipt, nil
}

// judge adds to the candidate's errors and gives the reason to refuse it, if any.
func (s *eventService) judge(c *Candidate, app string, now time.Time) string {
	c.Errors = s.faults(c, now)
	if len(c.Errors) == 0 && len(c.Raw)+len(app)+256 > s.maxItem {
		c.Errors = []errs.Field{{Message: fmt.Sprintf("is larger than the bus carries (%d bytes)", s.maxItem)}}
	}
	if len(c.Errors) > 0 {
		return reasonShape
	}
	if c.Errors = s.schemas.validate(c.Category, c.Name, c.Data); len(c.Errors) > 0 {
		return reasonSchema
	}
	return ""
}

// faults adds to what the decoder found what check finds in the fields that the
// decoder could read.
func (s *eventService) faults(c *Candidate, now time.Time) []errs.Field {
	found := c.Errors
	if len(found) > 0 && found[0].Location == "" {
		return found // not even an object
	}
	for _, f := range c.check(now, s.cfg.FutureTolerance) {
		if !slices.ContainsFunc(found, func(have errs.Field) bool { return have.Location == f.Location }) {
			found = append(found, f)
		}
	}
	return found
}

// identify gives the key of an event and the id that its client sees.
func (s *eventService) identify(app, given, seed string, index int) (key [16]byte, id string) {
	switch {
	case given != "":
		return s.keys.Index("event_id", app+"\x00"+given), given
	case seed != "":
		sum := sha256.Sum256([]byte(seed + "\x00" + app + "\x00" + strconv.Itoa(index)))
		u := uuid.UUID(sum[:16])
		u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8, RFC 9562 section 5.8
		return u, u.String()
	}
	u := uuid.Must(uuid.NewV7())
	return u, u.String()
}

// Bounds of what is kept of a refused event's payload. Not every JSON parser of
// those who read rejects can do deep ones.
const (
	maxRejectBytes = 64 << 10
	maxRejectDepth = 500
)

func rejectItem(c *Candidate, app string, now time.Time, reason string, fields []errs.Field) []byte {
	why, err := json.Marshal(fields)
	if err != nil {
		why = []byte("[]")
	}
	it := item{App: app, ReceivedAt: now, EventID: uuid.Must(uuid.NewV7()), Reject: &refusal{Reason: reason, Errors: why}}
	it.Timestamp = now
	it.Data = json.RawMessage(c.Raw)
	if len(c.Raw) > maxRejectBytes {
		it.Data = json.RawMessage(`{"too_large_to_keep":` + strconv.Itoa(len(c.Raw)) + `}`)
	} else if deeper(c.Raw, maxRejectDepth) {
		it.Data = json.RawMessage(`{"too_deep_to_keep":true}`)
	}
	if checkText(c.Category, true) == "" {
		it.Category = c.Category
	}
	if checkText(c.Name, true) == "" {
		it.Name = c.Name
	}
	return it.encode()
}

// found is a stored event, opened.
type found struct {
	Event
	ID         string
	App        string
	ReceivedAt time.Time
}

// findPage answers a query whose limit is one more than the page holds: the
// page, whether more follows, and the place of its last row. Events of erased
// persons are left out.
func (s *eventService) findPage(ctx context.Context, q eventQuery) (page []found, more bool, last position, err error) {
	rows, err := s.store.list(ctx, q)
	if err != nil {
		return nil, false, last, fmt.Errorf("find events: %w", err)
	}
	if more = len(rows) == q.Limit; more {
		rows = rows[:q.Limit-1]
	}
	if len(rows) > 0 {
		r := &rows[len(rows)-1]
		last = position{r.OccurredAt, r.Arrival}
	}
	if err := s.store.name(ctx, rows); err != nil {
		return nil, false, last, fmt.Errorf("find events: %w", err)
	}
	page, err = s.open(ctx, rows)
	return page, more, last, err
}

// open unseals rows.
func (s *eventService) open(ctx context.Context, rows []eventRow) ([]found, error) {
	subjects := make([]seal.Subject, len(rows))
	for i := range rows {
		subjects[i] = rows[i].Subject
	}
	ciphers, err := s.keys.Ciphers(ctx, subjects)
	if err != nil {
		return nil, fmt.Errorf("open events: %w", err)
	}
	out := make([]found, 0, len(rows))
	for i := range rows {
		if ciphers[i] == nil {
			continue
		}
		r := &rows[i]
		plain, err := ciphers[i].Open(nil, r.Sealed, sealEvent)
		if err != nil {
			return nil, fmt.Errorf("open event %s: %w", uuid.UUID(r.EventID), err)
		}
		f := found{App: r.Kind.App, ReceivedAt: r.ReceivedAt.Time()}
		if err := seal.UnmarshalPrivate(plain, &f.Event); err != nil {
			return nil, fmt.Errorf("open event %s: %w", uuid.UUID(r.EventID), err)
		}
		f.Category, f.Name, f.Timestamp = r.Kind.Category, r.Kind.Name, r.OccurredAt.Time()
		if f.ID = f.Event.ID; f.ID == "" {
			f.ID = uuid.UUID(r.EventID).String()
		}
		out = append(out, f)
	}
	return out, nil
}

// What is sealed says what it is, so that one blob cannot pass for another.
const (
	sealEvent   = "collector.event"
	sealSession = "collector.session"
)

// session is a stored session, opened.
type session struct {
	SessionID  string `pii:"session_id"`
	FirstAt    time.Time
	LastAt     time.Time
	Events     int64
	Apps       []string
	Categories []string
}

// findSessions answers a query whose limit is one more than the page holds, as
// findPage does: newest session first.
func (s *eventService) findSessions(ctx context.Context, q sessionQuery) (page []session, more bool, last sessionPosition, err error) {
	rows, err := s.store.sessions(ctx, q)
	if err != nil {
		return nil, false, last, fmt.Errorf("find sessions: %w", err)
	}
	if more = len(rows) == q.Limit; more {
		rows = rows[:q.Limit-1]
	}
	if len(rows) > 0 {
		r := &rows[len(rows)-1]
		last = sessionPosition{r.FirstAt, r.Session}
	}
	page, err = s.openSessions(ctx, rows)
	return page, more, last, err
}

// findSession gives one session by its id; NotFound if there is none or its
// person was erased.
func (s *eventService) findSession(ctx context.Context, id string) (*session, error) {
	row, err := s.store.session(ctx, s.keys.Index("session_id", id))
	if err != nil {
		return nil, err
	}
	out, err := s.openSessions(ctx, []sessionRow{row})
	if err == nil && len(out) == 0 {
		err = errs.New(errs.NotFound, "no such session")
	}
	if err != nil {
		return nil, err
	}
	return &out[0], nil
}

func (s *eventService) openSessions(ctx context.Context, rows []sessionRow) ([]session, error) {
	kinds, err := s.store.sessionKinds(ctx, rows)
	if err != nil {
		return nil, fmt.Errorf("open sessions: %w", err)
	}
	subjects := make([]seal.Subject, len(rows))
	for i := range rows {
		subjects[i] = rows[i].Subject
	}
	ciphers, err := s.keys.Ciphers(ctx, subjects)
	if err != nil {
		return nil, fmt.Errorf("open sessions: %w", err)
	}
	out := make([]session, 0, len(rows))
	for i := range rows {
		if ciphers[i] == nil {
			continue
		}
		r := &rows[i]
		plain, err := ciphers[i].Open(nil, r.Sealed, sealSession)
		if err != nil {
			return nil, fmt.Errorf("open session: %w", err)
		}
		se := session{SessionID: string(plain), FirstAt: r.FirstAt.Time(), LastAt: r.LastAt.Time(), Events: r.Events,
			Apps: []string{}, Categories: []string{}}
		for _, k := range kinds[r.Session] {
			se.Apps = append(se.Apps, k.App)
			se.Categories = append(se.Categories, k.Category)
		}
		for _, list := range [...]*[]string{&se.Apps, &se.Categories} {
			slices.Sort(*list)
			*list = slices.Compact(*list)
		}
		out = append(out, se)
	}
	return out, nil
}

// expire removes what is older than the retention allows, in small
// transactions, until nothing is left to remove or ctx ends.
func (s *eventService) expire(ctx context.Context, rejects *rejectStore) error {
	const chunk = 500
	now := s.now()
	if keep := s.cfg.Retention; keep > 0 {
		before := now.Add(-keep)
		for n := chunk; n > 0; {
			var err error
			if n, err = s.store.expire(ctx, before, chunk); err != nil {
				return fmt.Errorf("expire events: %w", err)
			}
		}
		for n := chunk; n > 0; {
			var err error
			if n, err = s.store.expireMinutes(ctx, before, chunk); err != nil {
				return fmt.Errorf("expire counts: %w", err)
			}
		}
		for n := chunk; n > 0; {
			var err error
			if n, err = s.store.expireSessions(ctx, before, chunk, s.keys.Forget); err != nil {
				return fmt.Errorf("expire sessions: %w", err)
			}
		}
	}
	for n := chunk; n > 0; {
		var err error
		if n, err = rejects.expire(ctx, now.Add(-s.cfg.RejectRetention), s.cfg.MaxRejects, chunk); err != nil {
			return fmt.Errorf("expire rejects: %w", err)
		}
	}
	return nil
}
