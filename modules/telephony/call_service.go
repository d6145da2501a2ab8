package telephony

import (
	"context"
	"fmt"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// callService reads calls.
type callService struct {
	store *callStore
	keys  *seal.Keyring
}

// briefCall is what a board shows of a call.
type briefCall struct {
	ID                   int64
	CallID               string
	State                state
	CreatedAt, UpdatedAt time.Time
}

// brief gives a page of calls, newest first, and whether more follow.
func (s *callService) brief(ctx context.Context, q callQuery) (page []briefCall, more bool, err error) {
	q.Limit++
	rows, err := s.store.brief(ctx, q)
	if err != nil {
		return nil, false, fmt.Errorf("find calls: %w", err)
	}
	if more = len(rows) == q.Limit; more {
		rows = rows[:q.Limit-1]
	}
	page = make([]briefCall, len(rows))
	for i := range rows {
		r := &rows[i]
		name, err := s.name(r)
		if err != nil {
			return nil, false, err
		}
		page[i] = briefCall{r.ID, name, r.facts.State, store.Micros(r.facts.First).Time(), store.Micros(r.facts.Last).Time()}
	}
	return page, more, nil
}

// foundCall is a call, opened. Of one whose person was erased the numbers and
// the code are empty.
type foundCall struct {
	ID     int64
	CallID string
	private
	State                state
	Direction            direction
	CreatedAt, UpdatedAt time.Time
	Facts                *facts
	figures
}

// find gives a page of calls, newest first, and whether more follow.
func (s *callService) find(ctx context.Context, q callQuery) (page []foundCall, more bool, err error) {
	q.Limit++
	rows, err := s.store.list(ctx, q)
	if err != nil {
		return nil, false, fmt.Errorf("find calls: %w", err)
	}
	if more = len(rows) == q.Limit; more {
		rows = rows[:q.Limit-1]
	}
	page, err = s.open(ctx, rows)
	return page, more, err
}

// get gives one call; NotFound if there is none.
func (s *callService) get(ctx context.Context, callID string) (*foundCall, error) {
	rows, err := s.store.get(ctx, s.keys.Index("call_id", callID))
	if err != nil {
		return nil, fmt.Errorf("find the call: %w", err)
	}
	if len(rows) == 0 {
		return nil, errs.New(errs.NotFound, "no such call")
	}
	page, err := s.open(ctx, rows)
	if err != nil {
		return nil, err
	}
	return &page[0], nil
}

func (s *callService) open(ctx context.Context, rows []callRow) ([]foundCall, error) {
	subjects := make([]seal.Subject, len(rows))
	for i := range rows {
		subjects[i] = rows[i].Subject
	}
	ciphers, err := s.keys.Ciphers(ctx, subjects)
	if err != nil {
		return nil, fmt.Errorf("open calls: %w", err)
	}
	page := make([]foundCall, len(rows))
	for i := range rows {
		r, c := &rows[i], &page[i]
		*c = foundCall{ID: r.ID, State: r.facts.State, Direction: r.facts.Direction, CreatedAt: store.Micros(r.facts.First).Time(),
			UpdatedAt: store.Micros(r.facts.Last).Time(), Facts: r.facts, figures: r.facts.figures()}
		if c.CallID, err = s.name(r); err != nil {
			return nil, err
		}
		if cipher := ciphers[i]; cipher != nil {
			if err := openPrivate(cipher, r.Sealed, &c.private); err != nil {
				return nil, fmt.Errorf("call %d: %w", r.ID, err)
			}
		}
	}
	return page, nil
}

// name opens the id of a call. It is empty where only events of a person who
// was erased ever told it.
func (s *callService) name(r *callRow) (string, error) {
	if len(r.Name) == 0 {
		return "", nil
	}
	plain, err := s.keys.System().Open(nil, r.Name, sealName)
	if err != nil {
		return "", fmt.Errorf("open call %d: %w", r.ID, err)
	}
	return string(plain), nil
}
