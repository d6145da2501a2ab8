package mailing

import (
	"context"
	"fmt"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// suppressionService keeps the numbers that no campaign overrides.
type suppressionService struct {
	db    *store.DB
	store *suppressionStore
	keys  *seal.Keyring
	log   eventlog.Logger
	now   func() time.Time
}

func newSuppressionService(db *store.DB, keys *seal.Keyring, log eventlog.Logger, now func() time.Time) *suppressionService {
	return &suppressionService{db, &suppressionStore{db}, keys, log, now}
}

// What a number is sealed as.
const sealSuppression = "mailing.suppression.v1"

// add takes a number, and tells whether it was not there before; one that was
// keeps its reason and time. key is the id of the key that asks.
func (s *suppressionService) add(ctx context.Context, number, reason, key string) (suppression, bool, error) {
	alias, err := suppressionAlias(number, "body.phone_number")
	if err != nil {
		return suppression{}, false, err
	}
	if reason == "" {
		reason = suppressedByHand
	}
	if !isCode(reason) {
		return suppression{}, false, errs.InvalidFields("the number cannot be suppressed", errs.Field{Location: "body.reason",
			Message: "takes 1 to 64 of a to z, 0 to 9, _, - and space, with at most 6 digits: it is kept in the clear"})
	}
	row := suppressionRow{Phone: s.keys.Index(alias.Kind, alias.Value), Reason: reason, CreatedAt: store.MicrosOf(s.now())}
	if err := s.seal(ctx, []*suppressionRow{&row}, []seal.Alias{alias}); err != nil {
		return suppression{}, false, err
	}
	var fresh bool
	var client int64
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		var err error
		if fresh, err = s.store.add(ctx, tx, &row); err != nil {
			return err
		}
		if !fresh {
			had, err := s.store.get(ctx, tx, row.Phone)
			row.Reason, row.CreatedAt = had.Reason, had.CreatedAt
			return err
		}
		client, err = s.store.clientOf(ctx, tx, row.Phone)
		return err
	})
	if err != nil {
		return suppression{}, false, fmt.Errorf("suppress a number: %w", err)
	}
	if fresh {
		_ = s.log.Log(ctx, entryOf(eventSuppressionAdded, 0, 0, client, map[string]any{"reason": reason, "key": key}))
	}
	return suppression{alias.Value, row.Reason, row.CreatedAt.Time()}, fresh, nil
}

// seal fills in the sealed numbers of rows. That of a person who was erased
// stays empty: the index alone stops messages.
func (s *suppressionService) seal(ctx context.Context, rows []*suppressionRow, aliases []seal.Alias) error {
	if len(rows) == 0 {
		return nil
	}
	subjects, err := s.keys.Subjects(ctx, aliases)
	if err != nil {
		return err
	}
	ciphers, err := s.keys.Ciphers(ctx, subjects)
	if err != nil {
		return err
	}
	for i, r := range rows {
		r.Subject, r.Sealed = subjects[i], ciphers[i].Seal(nil, []byte(aliases[i].Value), sealSuppression)
	}
	return nil
}

// remove lets campaigns send to a number again; NotFound if they may.
func (s *suppressionService) remove(ctx context.Context, number, key string) error {
	alias, err := suppressionAlias(number, "path.phone_number")
	if err != nil {
		return err
	}
	phone := s.keys.Index(alias.Kind, alias.Value)
	var client int64
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		there, err := s.store.remove(ctx, tx, phone)
		if err == nil && !there {
			err = errs.New(errs.NotFound, "the number is not suppressed")
		}
		if err != nil {
			return err
		}
		client, err = s.store.clientOf(ctx, tx, phone)
		return err
	})
	if err != nil {
		return err
	}
	_ = s.log.Log(ctx, entryOf(eventSuppressionRemoved, 0, 0, client, map[string]any{"key": key}))
	return nil
}

// list gives a page, newest first, and where the next begins; nil at the end.
func (s *suppressionService) list(ctx context.Context, after *suppressionPlace, limit int) ([]suppression, *suppressionPlace, error) {
	rows, err := s.store.list(ctx, after, limit+1)
	if err != nil {
		return nil, nil, fmt.Errorf("list suppressions: %w", err)
	}
	var next *suppressionPlace
	if len(rows) > limit {
		rows = rows[:limit]
		next = &suppressionPlace{rows[limit-1].CreatedAt, rows[limit-1].Phone}
	}
	subjects := make([]seal.Subject, len(rows))
	for i := range rows {
		subjects[i] = rows[i].Subject
	}
	ciphers, err := s.keys.Ciphers(ctx, subjects)
	if err != nil {
		return nil, nil, fmt.Errorf("list suppressions: %w", err)
	}
	page := make([]suppression, len(rows))
	for i, r := range rows {
		page[i] = suppression{Reason: r.Reason, CreatedAt: r.CreatedAt.Time()}
		if ciphers[i] == nil {
			continue
		}
		number, err := ciphers[i].Open(nil, r.Sealed, sealSuppression)
		if err != nil {
			return nil, nil, fmt.Errorf("open a suppressed number: %w", err)
		}
		page[i].Number = string(number)
	}
	return page, next, nil
}

// suppressionAlias reads a number as people write it. One that no client can
// have would stop nothing, so that it is refused.
func suppressionAlias(number, location string) (seal.Alias, error) {
	alias, ok := seal.Phone(number)
	if !ok || !mobileNumber.MatchString(alias.Value) {
		return alias, errs.InvalidFields("not a number that campaigns are sent to", errs.Field{Location: location, Message: "must be 11 digits that begin with 7, as in 79161234567"})
	}
	return alias, nil
}
