package mailing

import (
	"context"
	"time"

	"switchboard/platform/store"
)

// resendStore finds what failed, and makes it pending again.
type resendStore struct{ db *store.DB }

// failed gives failed messages of a campaign by id, after one of them.
func (s *resendStore) failed(ctx context.Context, campaign, after int64, limit int) (ids []int64, err error) {
	err = store.Each(ctx, s.db.Read(), `select id from mailing_message where campaign = $1 and status = $2 and id > $3 order by id limit $4`,
		[]any{campaign, int64(messageFailed), after, limit}, func(scan func(...any) error) error {
			var id int64
			err := scan(&id)
			ids = append(ids, id)
			return err
		})
	return ids, err
}

// requeue makes those of the messages of a campaign that failed pending again,
// due now, and gives how many there were.
func (s *resendStore) requeue(ctx context.Context, tx store.Querier, campaign int64, ids []int64, now time.Time) (n int64, err error) {
	for len(ids) > 0 {
		some := ids[:store.Chunk(len(ids))]
		ids = ids[len(some):]
		args := make([]any, 0, 5+len(some))
		args = append(args, int64(messagePending), store.MicrosOf(now), campaign, int64(messageFailed))
		for _, id := range some {
			args = append(args, id)
		}
		res, err := tx.ExecContext(ctx, `update mailing_message set status = $1, due_at = $2, last_error = '', claim = claim + 1
			where campaign = $3 and status = $4 and id in `+store.Values(1, len(some), 5), args...)
		if err != nil {
			return 0, err
		}
		done, err := res.RowsAffected()
		if err != nil {
			return 0, err
		}
		n += done
	}
	t := tally{}
	t[tallyKey{campaign, messageFailed}] -= n
	t[tallyKey{campaign, messagePending}] += n
	return n, t.save(ctx, tx)
}

// failure is a reason why messages did not go.
type failure struct {
	status   messageStatus
	reason   string
	messages int64
	example  int64 // the first of them
}

// failures groups what failed and what expired by reason, the most frequent
// first.
func (s *resendStore) failures(ctx context.Context, campaign int64, limit int) (out []failure, err error) {
	err = store.Each(ctx, s.db.Read(), `select status, last_error, count(*), min(id) from mailing_message where campaign = $1 and status in ($2, $3)
		group by status, last_error order by count(*) desc, status, last_error limit $4`, []any{campaign, int64(messageFailed), int64(messageExpired), limit},
		func(scan func(...any) error) error {
			var f failure
			err := scan(&f.status, &f.reason, &f.messages, &f.example)
			out = append(out, f)
			return err
		})
	return out, err
}
