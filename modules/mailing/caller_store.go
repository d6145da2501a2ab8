package mailing

import (
	"context"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// knows tells whether a person is a client.
func (s *clientStore) knows(ctx context.Context, person seal.Subject) (bool, error) {
	var one int
	err := s.db.Read().QueryRowContext(ctx, `select 1 from mailing_client where subject = $1 limit 1`, person[:]).Scan(&one)
	if store.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
