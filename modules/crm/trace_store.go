package crm

import (
	"context"
	"database/sql"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// traceStore looks at one user or trip.
type traceStore struct{ db *store.DB }

// turn is when a user or trip is sent next, if it is to be sent.
type turn struct {
	since    store.Micros // 0: it is not to be sent
	due      store.Micros // 0: it waits for an event
	attempts int64
	err      string
	dead     string // why the CRM refuses it
}

func (s *traceStore) turn(ctx context.Context, unit, entity seal.Index) (t turn, err error) {
	var since, due, attempts sql.Null[int64]
	var failure, dead sql.Null[string]
	err = s.db.Read().QueryRowContext(ctx, `select (select since from crm_dirty where unit = $1 and entity = $2), (select due_at from crm_unit where unit = $1),
		(select attempts from crm_unit where unit = $1), (select last_error from crm_unit where unit = $1), (select reason from crm_dead_letter where entity = $2)`,
		unit, entity).Scan(&since, &due, &attempts, &failure, &dead)
	return turn{store.Micros(since.V), store.Micros(due.V), attempts.V, failure.V, dead.V}, err
}
