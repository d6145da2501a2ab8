package gateway

import (
	"context"
	"time"

	"switchboard/platform/store"
)

// tokenStore remembers which tokens were revoked.
type tokenStore struct{ db *store.DB }

// revoke keeps a token's end until it would have come by itself. Revoking it
// again changes nothing.
func (s *tokenStore) revoke(ctx context.Context, id tokenID, expiresAt time.Time) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, `insert into gateway_token_revoked (token, expires_at) values ($1, $2) on conflict do nothing`, id[:], store.MicrosOf(expiresAt))
		return err
	})
}

// revoked tells whether a token was revoked.
func (s *tokenStore) revoked(ctx context.Context, id tokenID) (bool, error) {
	var one int
	err := s.db.Read().QueryRowContext(ctx, `select 1 from gateway_token_revoked where token = $1`, id[:]).Scan(&one)
	if store.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// revokedAmong gives those of these tokens that were revoked.
func (s *tokenStore) revokedAmong(ctx context.Context, ids []tokenID) (out []tokenID, err error) {
	for rest := ids; len(rest) > 0; {
		n := store.Chunk(len(rest))
		args := make([]any, n)
		for i, id := range rest[:n] {
			args[i] = id[:]
		}
		err := store.Each(ctx, s.db.Read(), `select token from gateway_token_revoked where token in `+store.Values(1, n, 1), args, func(scan func(...any) error) error {
			var raw []byte
			if err := scan(&raw); err != nil {
				return err
			}
			out = append(out, tokenID(raw))
			return nil
		})
		if err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	return out, nil
}

// expire forgets up to limit tokens that had expired by then, and tells how many.
func (s *tokenStore) expire(ctx context.Context, by time.Time, limit int) (n int, err error) {
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		res, err := tx.ExecContext(ctx, `delete from gateway_token_revoked where token in
			(select token from gateway_token_revoked where expires_at <= $1 order by expires_at limit $2)`, store.MicrosOf(by), limit)
		if err != nil {
			return err
		}
		deleted, err := res.RowsAffected()
		n = int(deleted)
		return err
	})
	return n, err
}
