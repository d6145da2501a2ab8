package mailing

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// callbackService takes what a provider tells of messages that it accepted.
type callbackService struct {
	db           *store.DB
	store        *callbackStore
	suppressions *suppressionService
	clients      *clientService
	log          eventlog.Logger
	now          func() time.Time
}

func newCallbackService(db *store.DB, suppressions *suppressionService, clients *clientService, log eventlog.Logger, now func() time.Time) *callbackService {
	return &callbackService{db, &callbackStore{db}, suppressions, clients, log, now}
}

// callbackChunk bounds the messages in one transaction.
const callbackChunk = 250

// take notes what was told, and gives how many of the callbacks were of known
// messages, and the ids of the others. After an error part of it may be noted;
// telling it again completes it.
func (s *callbackService) take(ctx context.Context, list []callback) (accepted int, unknown []int64, err error) {
	byID := make(map[int64]*callback, len(list)) // the heaviest
	for i := range list {
		c := &list[i]
		if had := byID[c.Message]; had == nil || slices.Index(told, c.Status) > slices.Index(told, had.Status) {
			byID[c.Message] = c
		}
	}
	ids := slices.Sorted(maps.Keys(byID)) // in order, so that transactions wait and do not collide
	found, err := s.store.find(ctx, ids)
	if err != nil {
		return 0, nil, fmt.Errorf("find messages: %w", err)
	}
	unknown = []int64{}
	for _, id := range ids {
		if _, known := found[id]; !known {
			unknown = append(unknown, id)
		}
	}
	ids = slices.DeleteFunc(ids, func(id int64) bool { _, known := found[id]; return !known })
	for part := range slices.Chunk(ids, callbackChunk) {
		if err := s.note(ctx, part, byID, found); err != nil {
			return 0, nil, fmt.Errorf("note callbacks: %w", err)
		}
	}
	for i := range list {
		if m, known := found[list[i].Message]; known {
			accepted++
			_ = s.log.Log(ctx, callbackEntry(&list[i], m))
		}
	}
	return accepted, unknown, nil
}

// note keeps what was told of some messages, in one transaction.
func (s *callbackService) note(ctx context.Context, ids []int64, byID map[int64]*callback, found map[int64]toldOf) error {
	suppress, err := s.toSuppress(ctx, ids, byID, found)
	if err != nil {
		return err
	}
	var added []int64
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		added = nil
		for _, id := range ids {
			c, lastError := byID[id], ""
			if c.Status == toldFailed {
				lastError = codeOf(c.Reason)
			}
			if _, err := s.store.note(ctx, tx, id, c.Status, lastError); err != nil {
				return err
			}
			row := suppress[id]
			if row == nil {
				continue
			}
			fresh, err := s.suppressions.store.add(ctx, tx, row)
			if err != nil {
				return err
			}
			if fresh {
				added = append(added, id)
			}
		}
		return nil
	})
	for _, id := range added {
		if err == nil {
			_ = s.log.Log(ctx, entryOf(eventSuppressionAdded, found[id].Campaign, id, found[id].Client, map[string]any{"reason": suppressedUnsubscribed}))
		}
	}
	return err
}

// toSuppress makes the rows for those who unsubscribed. Of a client who was
// deleted the index of the number is left, and enough.
func (s *callbackService) toSuppress(ctx context.Context, ids []int64, byID map[int64]*callback, found map[int64]toldOf) (map[int64]*suppressionRow, error) {
	out := map[int64]*suppressionRow{}
	var clients []int64
	for _, id := range ids {
		if byID[id].Status == toldUnsubscribed {
			out[id] = &suppressionRow{Phone: found[id].Phone, Reason: suppressedUnsubscribed, CreatedAt: store.MicrosOf(s.now())}
			clients = append(clients, found[id].Client)
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	numbers, err := s.numbersOf(ctx, clients)
	if err != nil {
		return nil, err
	}
	var rows []*suppressionRow
	var aliases []seal.Alias
	for _, id := range ids {
		row := out[id]
		if row == nil {
			continue
		}
		// A client's number may have been changed since; the one that was sent to counts.
		if alias, ok := seal.Phone(numbers[found[id].Client]); ok && s.suppressions.keys.Index(alias.Kind, alias.Value) == row.Phone {
			rows, aliases = append(rows, row), append(aliases, alias)
		}
	}
	return out, s.suppressions.seal(ctx, rows, aliases)
}

// numbersOf gives the numbers of clients; those that were deleted or erased are
// left out.
func (s *callbackService) numbersOf(ctx context.Context, clients []int64) (map[int64]string, error) {
	rows, err := s.clients.store.load(ctx, s.db.Read(), clients)
	if err != nil {
		return nil, err
	}
	list := slices.Collect(maps.Values(rows))
	opened, err := s.clients.open(ctx, list)
	if err != nil {
		return nil, err
	}
	out := make(map[int64]string, len(list))
	for i, c := range opened {
		if c != nil {
			out[list[i].ID] = c.PhoneNumber
		}
	}
	return out, nil
}

// callbackEntry tells the event log. A callback that is told again has the
// same id, so that it is kept once.
func callbackEntry(c *callback, m toldOf) eventlog.Entry {
	data := map[string]any{}
	if c.At != nil {
		data["at"] = c.At.UTC().Format(time.RFC3339Nano)
	}
	event := eventCallbackDelivered
	switch c.Status {
	case toldFailed:
		event, data["reason"] = eventCallbackFailed, codeOf(c.Reason)
	case toldUnsubscribed:
		event = eventCallbackUnsubscribed
	}
	e := entryOf(event, m.Campaign, c.Message, m.Client, data)
	e.ID = event + "." + strconv.FormatInt(c.Message, 10)
	return e
}
