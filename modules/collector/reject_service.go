package collector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// rejectService shows refused events and lets them be tried again.
type rejectService struct {
	store   *rejectStore
	transit *seal.Transit
	events  *eventService
	now     func() time.Time
}

// refusedPart is what is sealed of a refused event.
type refusedPart struct {
	Payload json.RawMessage `json:"payload"`
	Errors  []errs.Field    `json:"errors"`
}

func sealReject(it *item, transit *seal.Transit) (rejectRow, error) {
	part := refusedPart{Payload: it.Data}
	if err := json.Unmarshal(it.Reject.Errors, &part.Errors); err != nil {
		return rejectRow{}, err
	}
	plain, err := json.Marshal(part)
	if err != nil {
		return rejectRow{}, err
	}
	sealed, err := transit.Seal(plain)
	return rejectRow{ID: it.EventID, App: it.App, Category: it.Category, Name: it.Name, Reason: it.Reject.Reason,
		ReceivedAt: store.MicrosOf(it.ReceivedAt), Sealed: sealed}, err
}

// rejected is a refused event, opened.
type rejected struct {
	rejectRow
	refusedPart
}

func (s *rejectService) open(rows []rejectRow) ([]rejected, error) {
	out := make([]rejected, 0, len(rows))
	for _, r := range rows {
		plain, err := s.transit.Open(r.Sealed)
		if errors.Is(err, seal.ErrExpired) {
			continue // its row goes with the next sweep
		}
		if err != nil {
			return nil, fmt.Errorf("open reject %s: %w", uuid.UUID(r.ID), err)
		}
		x := rejected{rejectRow: r}
		if err := json.Unmarshal(plain, &x.refusedPart); err != nil {
			return nil, fmt.Errorf("open reject %s: %w", uuid.UUID(r.ID), err)
		}
		out = append(out, x)
	}
	return out, nil
}

// list answers a query whose limit is one more than the page holds, newest
// first: the page, whether more follows, and the place of its last row.
func (s *rejectService) list(ctx context.Context, q rejectQuery) (page []rejected, more bool, last rejectPosition, err error) {
	rows, err := s.store.list(ctx, q)
	if err != nil {
		return nil, false, last, fmt.Errorf("list rejects: %w", err)
	}
	if more = len(rows) == q.Limit; more {
		rows = rows[:q.Limit-1]
	}
	if len(rows) > 0 {
		r := &rows[len(rows)-1]
		last = rejectPosition{r.ReceivedAt, r.ID}
	}
	page, err = s.open(rows)
	return page, more, last, err
}

// retry judges a refused event anew, by the schemas of now, and accepts it for
// the application that sent it. Its id follows from the reject's, so that two
// retries store it once.
func (s *rejectService) retry(ctx context.Context, id uuid.UUID) (*Receipt, error) {
	row, err := s.store.get(ctx, id)
	if err != nil {
		return nil, err
	}
	opened, err := s.open([]rejectRow{row})
	if err != nil {
		return nil, err
	}
	if len(opened) == 0 {
		return nil, errs.New(errs.NotFound, "no such reject")
	}
	b, err := DecodeBatch(opened[0].Payload)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the payload is not an event")
	}
	if !b.Single {
		return nil, errs.New(errs.Invalid, "the payload is not a single event")
	}
	now := s.now()
	if reason := s.events.judge(&b.Candidates[0], row.App, now); reason != "" {
		return nil, errs.InvalidFields("the event is still not acceptable", b.located(0)...)
	}
	receipt, err := s.events.accept(ctx, row.App, b, "reject "+id.String())
	if err != nil {
		return nil, err
	}
	return receipt, s.store.retried(ctx, id, now)
}
