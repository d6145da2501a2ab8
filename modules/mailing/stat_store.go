package mailing

import (
	"context"

	"switchboard/platform/store"
)

// statStore adds the counters up.
type statStore struct{ db *store.DB }

// totals gives the number of messages of all campaigns by status.
func (s *statStore) totals(ctx context.Context) (map[messageStatus]int64, error) {
	out := map[messageStatus]int64{}
	err := store.Each(ctx, s.db.Read(), `select n.status, cast(sum(n.messages) as bigint) from mailing_count n join mailing_campaign c on c.id = n.campaign
		where c.status <> $1 group by n.status`, []any{string(campaignDeleted)}, func(scan func(...any) error) error {
		var status messageStatus
		var n int64
		err := scan(&status, &n)
		out[status] = n
		return err
	})
	return out, err
}
