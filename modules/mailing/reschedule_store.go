package mailing

import (
	"context"
	"time"

	"switchboard/platform/store"
)

// due is a message that waits, or expired, and when it may go.
type due struct {
	id, client, attempts int64
	status               messageStatus
	at                   time.Time
}

// schedule is what becomes of messages after an edit.
type schedule struct {
	was, status messageStatus
	due         store.Micros
	err         string // of those whose status changes
}

// inHand tells whether a worker has messages of a campaign that were handed out
// for no longer than until then.
func (s *messageStore) inHand(ctx context.Context, campaign int64, until time.Time) (bool, error) {
	var one int
	err := s.db.Read().QueryRowContext(ctx, `select 1 from mailing_message where campaign = $1 and status = 1 and due_at <= $2 limit 1`,
		campaign, store.MicrosOf(until)).Scan(&one)
	if store.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// reschedulable gives messages of a campaign by id, the first one with this id
// at least: those that wait, and those that expired by its end or window.
func (s *messageStore) reschedulable(ctx context.Context, campaign, first int64, limit int) (out []due, err error) {
	part := func(status, more, name string) string {
		return `select id, client, status, attempts, due_at from (select id, client, status, attempts, due_at from mailing_message
			where campaign = $1 and status = ` + status + ` and id >= $2` + more + ` order by id limit $3) as ` + name
	}
	err = store.Each(ctx, s.db.Read(), part("0", "", "waits")+` union all `+part("3", "", "retries")+` union all `+part("5", " and last_error in ($4, $5)", "expired")+` order by id limit $3`,
		[]any{campaign, first, limit, endedBefore, neverOpens}, func(scan func(...any) error) error {
			var m due
			var at store.Micros
			err := scan(&m.id, &m.client, &m.status, &m.attempts, &at)
			m.at = at.Time()
			out = append(out, m)
			return err
		})
	return out, err
}

// zones gives the time zones of those of the clients that there are.
func (s *messageStore) zones(ctx context.Context, list []due) (map[int64]*time.Location, error) {
	out := make(map[int64]*time.Location, len(list))
	for len(list) > 0 {
		args := make([]any, store.Chunk(len(list)))
		for i := range args {
			args[i] = list[i].client
		}
		list = list[len(args):]
		err := store.Each(ctx, s.db.Read(), `select id, timezone from mailing_client where id in `+store.Values(1, len(args), 1), args, func(scan func(...any) error) error {
			var id int64
			var name string
			err := scan(&id, &name)
			out[id] = zone(name)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// reschedule gives these messages of a campaign their time, those that are
// still in the status in which they were, and gives the ids of these.
func (s *messageStore) reschedule(ctx context.Context, tx store.Querier, campaign int64, to schedule, ids []int64) (done []int64, err error) {
	for len(ids) > 0 {
		n := store.Chunk(len(ids))
		args := []any{int64(to.status), to.due, to.err, int64(to.was)}
		for _, id := range ids[:n] {
			args = append(args, id)
		}
		ids = ids[n:]
		err := store.Each(ctx, tx, `update mailing_message set due_at = $2, last_error = case when status = $1 then last_error else $3 end, status = $1
			where status = $4 and id in `+store.Values(1, n, 5)+` returning id`, args, func(scan func(...any) error) error {
			var id int64
			err := scan(&id)
			done = append(done, id)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if to.was == to.status {
		return done, nil
	}
	t := tally{}
	t[tallyKey{campaign, to.was}] -= int64(len(done))
	t[tallyKey{campaign, to.status}] += int64(len(done))
	return done, t.save(ctx, tx)
}

// rescheduled notes how far the messages of a campaign have their time, if that
// is still where it was.
func (s *campaignStore) rescheduled(ctx context.Context, tx store.Querier, c *campaign, next int64, again bool) (bool, error) {
	res, err := tx.ExecContext(ctx, `update mailing_campaign set reschedule = $1, reschedule_again = $2 where id = $3 and reschedule = $4 and reschedule_again = $5`,
		next, bit(again), c.ID, c.Reschedule, bit(c.RescheduleAgain))
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}
