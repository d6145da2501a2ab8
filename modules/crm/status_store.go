package crm

import (
	"context"
	"database/sql"

	"switchboard/platform/store"
)

// statusStore counts.
type statusStore struct{ db *store.DB }

// backlog is what the CRM does not show yet.
type backlog struct {
	units, objects int64
	waiting        int64 // of the objects: trips whose user has not come yet
	oldest         store.Micros
}

// backlog leaves what waits for an event out of the oldest.
func (s *statusStore) backlog(ctx context.Context) (b backlog, err error) {
	var waiting, oldest sql.Null[int64]
	err = s.db.Read().QueryRowContext(ctx, `select (select count(*) from crm_unit), count(*), sum(case when u.unit is null then 1 else 0 end), min(case when u.unit is null then null else d.since end)
		from crm_dirty d left join crm_unit u on u.unit = d.unit`).Scan(&b.units, &b.objects, &waiting, &oldest)
	b.waiting, b.oldest = waiting.V, store.Micros(oldest.V)
	return b, err
}

// positions tells how far logs were read, up to limit of them.
func (s *statusStore) positions(ctx context.Context, limit int) (out []position, err error) {
	err = store.Each(ctx, s.db.Read(), `select log, seq, happened_at, events, folded_at from crm_position order by log limit $1`, []any{limit}, func(scan func(...any) error) error {
		var p position
		var log []byte
		err := scan(&log, &p.Seq, &p.At, &p.Events, &p.FoldedAt)
		p.Log = string(log)
		out = append(out, p)
		return err
	})
	return out, err
}

// dead counts dead letters by their kind.
func (s *statusStore) dead(ctx context.Context) (map[string]int64, error) {
	out := map[string]int64{}
	err := store.Each(ctx, s.db.Read(), `select kind, count(*) from crm_dead_letter group by kind`, nil, func(scan func(...any) error) error {
		var kind string
		var n int64
		err := scan(&kind, &n)
		out[kind] = n
		return err
	})
	return out, err
}

// totals counts users and trips of which an event came.
func (s *statusStore) totals(ctx context.Context) (users, trips int64, err error) {
	err = s.db.Read().QueryRowContext(ctx, `select (select count(*) from crm_user), (select count(*) from crm_trip)`).Scan(&users, &trips)
	return users, trips, err
}
