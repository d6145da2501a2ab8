package mailing

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"switchboard/platform/store"
)

// nextIDs gives out n numbers in a transaction, and the first of them.
func nextIDs(ctx context.Context, tx store.Querier, name string, n int) (first int64, err error) {
	err = tx.QueryRowContext(ctx, `update mailing_counter set value = value + $1 where name = $2 returning value`, n, name).Scan(&first)
	return first - int64(n) + 1, err
}

// tally collects changes of mailing_count.
type tally map[tallyKey]int64

type tallyKey struct {
	campaign int64
	status   messageStatus
}

func (t tally) move(campaign int64, from, to messageStatus) {
	t[tallyKey{campaign, from}]--
	t[tallyKey{campaign, to}]++
}

func sortedKeys(t tally) []tallyKey {
	keys := slices.Collect(maps.Keys(t))
	slices.SortFunc(keys, func(a, b tallyKey) int {
		return cmp.Or(cmp.Compare(a.campaign, b.campaign), cmp.Compare(a.status, b.status))
	})
	return keys
}

// save adds the changes, in one order everywhere, so that instances never wait
// for each other in a circle.
func (t tally) save(ctx context.Context, tx store.Querier) error {
	for _, k := range sortedKeys(t) {
		if t[k] == 0 {
			continue
		}
		_, err := tx.ExecContext(ctx, `insert into mailing_count (campaign, status, messages) values ($1, $2, $3)
			on conflict (campaign, status) do update set messages = mailing_count.messages + excluded.messages`, k.campaign, int64(k.status), t[k])
		if err != nil {
			return err
		}
	}
	return nil
}
