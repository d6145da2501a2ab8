package crm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
)

// deadService is for what goes no further without a person: events that could
// not be understood, and users and trips that the CRM refuses.
type deadService struct {
	store   *deadStore
	targets *targetService
	fold    *folder
	logged  eventlog.Logger
	now     func() time.Time
	wake    func() // there is something to send
}

// list gives letters of a kind, or of all, the newest first.
func (s *deadService) list(ctx context.Context, kind string, before *uuid.UUID, limit int) ([]deadLetter, map[seal.Index]string, error) {
	list, err := s.store.list(ctx, kind, before, limit)
	if err != nil {
		return nil, nil, err
	}
	ids, err := s.names(ctx, list)
	return list, ids, err
}

// get gives one letter.
func (s *deadService) get(ctx context.Context, id uuid.UUID) (deadLetter, map[seal.Index]string, error) {
	d, err := s.store.get(ctx, id)
	if err != nil {
		return d, nil, err
	}
	ids, err := s.names(ctx, []deadLetter{d})
	return d, ids, err
}

// names gives the ids of the users and trips that letters are about.
func (s *deadService) names(ctx context.Context, list []deadLetter) (map[seal.Index]string, error) {
	out := map[seal.Index]string{}
	for _, k := range []kind{kindUser, kindTrip} {
		_, opened, err := s.objects(ctx, k, list)
		if err != nil {
			return nil, err
		}
		for entity, w := range opened {
			out[entity] = w.id
		}
	}
	return out, nil
}

// objects gives the users or trips that letters are about.
func (s *deadService) objects(ctx context.Context, k kind, list []deadLetter) (map[seal.Index]*target, map[seal.Index]*shown, error) {
	var entities []seal.Index
	for _, d := range list {
		if d.Kind == k.String() && d.Entity != nil {
			entities = append(entities, *d.Entity)
		}
	}
	found, err := s.targets.store.find(ctx, k, entities)
	if err != nil {
		return nil, nil, err
	}
	opened, err := s.targets.open(ctx, slices.Collect(maps.Values(found)))
	return found, opened, err
}

var errUnreadable = errs.New(errs.NotFound, "what the event held can be read no more: its time is over")

// content gives the event of a letter. NotFound if it can be read no more.
func (s *deadService) content(d *deadLetter) (rawEvent, error) {
	text, err := s.fold.dead.Open(d.Sealed)
	if errors.Is(err, seal.ErrExpired) {
		return rawEvent{}, errUnreadable
	}
	if err != nil {
		return rawEvent{}, fmt.Errorf("open a dead letter: %w", err)
	}
	return decodeRaw(text)
}

// discard throws a letter away.
func (s *deadService) discard(ctx context.Context, id uuid.UUID) error {
	d, err := s.store.get(ctx, id)
	if err != nil {
		return err
	}
	n, err := s.store.remove(ctx, []uuid.UUID{id})
	if err == nil && n > 0 {
		s.tell(ctx, eventDeadDiscarded, &d)
	}
	return err
}

// Redriven tells what became of dead letters that were tried again.
type Redriven struct {
	Folded  int64        `json:"folded" doc:"Events that are understood now. They count from their own place: what came after them stays."`
	Sending int64        `json:"sending" doc:"Users and trips that are sent to the CRM again. Their letters go when it takes them."`
	Gone    int64        `json:"gone" doc:"Letters about what is not there any more."`
	Dead    int64        `json:"dead" doc:"Events that are still not understood."`
	Reasons []DeadReason `json:"reasons" nullable:"false" doc:"Why, the most frequent first; at most 20."`
}

// DeadReason is why events are not understood.
type DeadReason struct {
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

const (
	maxReasons = 20
	// redrivePage is how many letters are tried together.
	redrivePage = 200
)

// one tries a letter again.
func (s *deadService) one(ctx context.Context, id uuid.UUID) (*Redriven, error) {
	d, err := s.store.get(ctx, id)
	if err != nil {
		return nil, err
	}
	r := redriving{deadService: s, reasons: map[string]int64{}}
	err = r.try(ctx, []deadLetter{d})
	return r.result(), err
}

// all tries the letters that there are again, or those of a kind.
func (s *deadService) all(ctx context.Context, kind string) (*Redriven, error) {
	r := redriving{deadService: s, reasons: map[string]int64{}}
	upTo := uuid.Must(uuid.NewV7()) // what dies meanwhile is left
	for after := uuid.Nil; ; {
		page, err := s.store.page(ctx, kind, after, upTo, redrivePage)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return r.result(), nil
		}
		after = page[len(page)-1].ID
		if err := r.try(ctx, page); err != nil {
			return nil, err
		}
	}
}

// redriving is under way.
type redriving struct {
	*deadService
	out     Redriven
	reasons map[string]int64
}

func (r *redriving) result() *Redriven {
	r.out.Reasons = []DeadReason{}
	for _, reason := range slices.Sorted(maps.Keys(r.reasons)) {
		r.out.Reasons = append(r.out.Reasons, DeadReason{reason, r.reasons[reason]})
	}
	slices.SortStableFunc(r.out.Reasons, func(a, b DeadReason) int { return int(b.Count - a.Count) })
	r.out.Reasons = r.out.Reasons[:min(len(r.out.Reasons), maxReasons)]
	return &r.out
}

func (r *redriving) try(ctx context.Context, list []deadLetter) error {
	if err := r.events(ctx, list); err != nil {
		return err
	}
	for _, k := range []kind{kindUser, kindTrip} {
		if err := r.refused(ctx, k, list); err != nil {
			return err
		}
	}
	return nil
}

// events folds what is understood today, under the place that it had.
func (r *redriving) events(ctx context.Context, list []deadLetter) error {
	var events []rawEvent
	var letters []*deadLetter
	for i := range list {
		d := &list[i]
		if d.Kind != deadEvent {
			continue
		}
		e, err := r.content(d)
		if err == nil {
			_, _, err = parseEvent(e.Topic, e.Value)
		} else if !errors.Is(err, errUnreadable) {
			return err
		}
		if err != nil {
			if err := r.still(ctx, d, err.Error()); err != nil {
				return err
			}
			continue
		}
		events, letters = append(events, e), append(letters, d)
	}
	if len(events) == 0 {
		return nil
	}
	if err := r.fold.fold(ctx, events); err != nil {
		return err
	}
	r.out.Folded += int64(len(events))
	return r.bury(ctx, letters)
}

// bury takes letters away that are done with.
func (r *redriving) bury(ctx context.Context, letters []*deadLetter) error {
	ids := make([]uuid.UUID, len(letters))
	for i, d := range letters {
		ids[i] = d.ID
	}
	if _, err := r.store.remove(ctx, ids); err != nil {
		return err
	}
	for _, d := range letters {
		r.tell(ctx, eventDeadRedriven, d)
	}
	return nil
}

func (r *redriving) still(ctx context.Context, d *deadLetter, reason string) error {
	r.out.Dead++
	r.reasons[reason]++
	if d.Reason == reason {
		return nil
	}
	return r.store.explain(ctx, d.ID, reason)
}

// refused has users or trips sent again that the CRM refused.
func (r *redriving) refused(ctx context.Context, k kind, list []deadLetter) error {
	found, opened, err := r.objects(ctx, k, list)
	if err != nil {
		return err
	}
	var again []*target
	var gone []*deadLetter
	for i := range list {
		d := &list[i]
		if d.Kind != k.String() {
			continue
		}
		if d.Entity == nil || opened[*d.Entity] == nil {
			gone = append(gone, d)
			continue
		}
		again = append(again, found[*d.Entity])
		r.tell(ctx, eventDeadRedriven, d)
	}
	if err := r.targets.store.again(ctx, again, r.now()); err != nil {
		return err
	}
	if r.out.Sending += int64(len(again)); len(again) > 0 {
		r.wake()
	}
	r.out.Gone += int64(len(gone))
	return r.bury(ctx, gone)
}

func (s *deadService) tell(ctx context.Context, event string, d *deadLetter) {
	data, _ := json.Marshal(map[string]any{"id": d.ID, "kind": d.Kind}) // texts
	entry := eventlog.Entry{Event: event, Data: data}
	if d.Subject != nil {
		entry.Refs = append(entry.Refs, eventlog.Ref{Kind: refUser, ID: d.Subject.String()})
	}
	if d.Kind == deadTrip && d.Entity != nil {
		entry.Refs = append(entry.Refs, eventlog.Ref{Kind: refTrip, ID: d.Entity.String()})
	}
	// What cannot be logged is counted there.
	_ = s.logged.Log(ctx, entry)
}
