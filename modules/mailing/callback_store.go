package mailing

import (
	"context"
	"slices"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// callbackStore notes what a provider tells of messages.
type callbackStore struct{ db *store.DB }

// toldOf is a message that a provider told of.
type toldOf struct {
	Campaign, Client int64
	Phone            seal.Index
}

// find gives those of the messages that there are.
func (s *callbackStore) find(ctx context.Context, ids []int64) (map[int64]toldOf, error) {
	out := make(map[int64]toldOf, len(ids))
	for part := range slices.Chunk(ids, maxSuppressedAsk) {
		args := make([]any, 0, maxSuppressedAsk)
		for _, id := range part {
			args = append(args, id)
		}
		args = padArgs(args)
		err := store.Each(ctx, s.db.Read(), `select id, campaign, client, phone from mailing_message where id in `+store.Values(1, len(args), 1), args, func(scan func(...any) error) error {
			var id int64
			var m toldOf
			var phone []byte
			if err := scan(&id, &m.Campaign, &m.Client, &phone); err != nil {
				return err
			}
			m.Phone = seal.Index(phone)
			out[id] = m
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// note keeps what was told of a message, unless something heavier was, and
// tells whether it changed anything. The last error of a message that is still
// being sent is the dispatcher's.
func (s *callbackStore) note(ctx context.Context, tx store.Querier, id int64, status, lastError string) (bool, error) {
	args := []any{status, lastError, id, int64(messageSent)}
	for _, lighter := range lighterThan(status) {
		args = append(args, lighter)
	}
	res, err := tx.ExecContext(ctx, `update mailing_message set delivered = $1, last_error = case when status = $4 then $2 else last_error end where id = $3 and delivered in `+
		store.Values(1, len(args)-4, 5), args...)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}
