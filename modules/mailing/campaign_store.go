package mailing

import (
	"context"
	"database/sql"
	"encoding/json"
	"strconv"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

// campaignStore keeps campaigns.
type campaignStore struct{ db *store.DB }

const campaignColumns = `id, name, text, start_at, end_at, filter, window_from, window_to, status, expanded, created_at, updated_at, reschedule, reschedule_again`

func scanCampaign(scan func(...any) error) (*campaign, error) {
	var c campaign
	var start, end, created, updated store.Micros
	var pick string
	var from, to sql.Null[int64]
	var again int64
	if err := scan(&c.ID, &c.Name, &c.Text, &start, &end, &pick, &from, &to, &c.Status, &c.Expanded, &created, &updated, &c.Reschedule, &again); err != nil {
		return nil, err
	}
	c.StartAt, c.EndAt, c.CreatedAt, c.UpdatedAt = start.Time(), end.Time(), created.Time(), updated.Time()
	c.RescheduleAgain = again != 0
	if from.Valid {
		c.Window = &window{From: int(from.V), To: int(to.V)}
	}
	var err error
	c.Filter, err = parseFilter([]byte(pick))
	return &c, err
}

func (c *campaign) args() ([]any, error) {
	pick, err := json.Marshal(c.Filter)
	if err != nil {
		return nil, err
	}
	var from, to any
	if c.Window != nil {
		from, to = int64(c.Window.From), int64(c.Window.To)
	}
	return []any{c.ID, c.Name, c.Text, store.MicrosOf(c.StartAt), store.MicrosOf(c.EndAt), string(pick), from, to, string(c.Status), c.Expanded,
		store.MicrosOf(c.CreatedAt), store.MicrosOf(c.UpdatedAt), c.Reschedule, bit(c.RescheduleAgain)}, nil
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (s *campaignStore) insert(ctx context.Context, tx store.Querier, c *campaign) error {
	var err error
	if c.ID, err = nextIDs(ctx, tx, "campaign", 1); err != nil {
		return err
	}
	args, err := c.args()
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `insert into mailing_campaign (`+campaignColumns+`) values `+store.Values(1, 14, 1), args...)
	return err
}

func (s *campaignStore) save(ctx context.Context, tx store.Querier, c *campaign) error {
	args, err := c.args()
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `update mailing_campaign set name = $2, text = $3, start_at = $4, end_at = $5, filter = $6, window_from = $7, window_to = $8,
		status = $9, expanded = $10, created_at = $11, updated_at = $12, reschedule = $13, reschedule_again = $14 where id = $1`, args...)
	return err
}

// get gives one campaign; NotFound if there is none, or it is being removed.
func (s *campaignStore) get(ctx context.Context, q store.Querier, id int64) (*campaign, error) {
	c, err := scanCampaign(q.QueryRowContext(ctx, `select `+campaignColumns+` from mailing_campaign where id = $1`, id).Scan)
	if store.IsNotFound(err) || err == nil && c.Status == campaignDeleted {
		return nil, errs.New(errs.NotFound, "no such campaign")
	}
	return c, err
}

// list gives campaigns by id, newest first, those below before unless that is 0.
func (s *campaignStore) list(ctx context.Context, status string, before int64, limit int) (out []campaign, err error) {
	text, args := `select `+campaignColumns+` from mailing_campaign where id < $1 and status <> $2`, []any{before, string(campaignDeleted)}
	if before == 0 {
		args[0] = int64(1) << 62
	}
	if status != "" {
		args = append(args, status)
		text += ` and status = $3`
	}
	args = append(args, limit)
	err = store.Each(ctx, s.db.Read(), text+` order by id desc limit $`+strconv.Itoa(len(args)), args, func(scan func(...any) error) error {
		c, err := scanCampaign(scan)
		if err == nil {
			out = append(out, *c)
		}
		return err
	})
	return out, err
}

// in gives the campaigns in a status by id, after one of them.
func (s *campaignStore) in(ctx context.Context, status campaignStatus, after int64, limit int) (out []*campaign, err error) {
	err = store.Each(ctx, s.db.Read(), `select `+campaignColumns+` from mailing_campaign where status = $1 and id > $2 order by id limit $3`, []any{string(status), after, limit},
		func(scan func(...any) error) error {
			c, err := scanCampaign(scan)
			out = append(out, c)
			return err
		})
	return out, err
}

// due gives campaigns whose start has come.
func (s *campaignStore) due(ctx context.Context, now time.Time, limit int) ([]int64, error) {
	return s.ids(ctx, `select id from mailing_campaign where status = $1 and start_at <= $2 order by start_at, id limit $3`,
		string(campaignScheduled), store.MicrosOf(now), limit)
}

// overslept gives campaigns whose end came while they were paused.
func (s *campaignStore) overslept(ctx context.Context, now time.Time, limit int) ([]int64, error) {
	return s.ids(ctx, `select id from mailing_campaign where status = $1 and end_at <= $2 order by end_at, id limit $3`, string(campaignPaused), store.MicrosOf(now), limit)
}

// unsettled gives canceled campaigns that still have open messages by id, after
// one of them.
func (s *campaignStore) unsettled(ctx context.Context, after int64, limit int) ([]int64, error) {
	return s.ids(ctx, `select distinct n.campaign from mailing_count n join mailing_campaign c on c.id = n.campaign
		where n.messages > 0 and n.status in (0, 1, 3) and n.campaign > $1 and c.status = $2 order by n.campaign limit $3`, after, string(campaignCanceled), limit)
}

func (s *campaignStore) ids(ctx context.Context, query string, args ...any) (ids []int64, err error) {
	err = store.Each(ctx, s.db.Read(), query, args, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, err
}

// still tells in a transaction whether a campaign runs with the end and the
// window that it had when it was read.
func (s *campaignStore) still(ctx context.Context, tx store.Querier, c *campaign) (bool, error) {
	fresh, err := s.get(ctx, tx, c.ID)
	if errs.KindOf(err) == errs.NotFound {
		return false, nil
	}
	return err == nil && fresh.Status == campaignRunning && fresh.EndAt.Equal(c.EndAt) && fresh.Window.equal(c.Window), err
}

// move changes the status of a campaign that is in one, and tells whether it
// was.
func (s *campaignStore) move(ctx context.Context, tx store.Querier, id int64, from, to campaignStatus, now time.Time) (bool, error) {
	res, err := tx.ExecContext(ctx, `update mailing_campaign set status = $1, expanded = case when $1 = 'running' and expanded < 0 then 0 else expanded end, updated_at = $2
		where id = $3 and status = $4`, string(to), store.MicrosOf(now), id, string(from))
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// advance notes how far the audience was made, if it is still where it was.
func (s *campaignStore) advance(ctx context.Context, tx store.Querier, id, from, to int64) (bool, error) {
	res, err := tx.ExecContext(ctx, `update mailing_campaign set expanded = $1 where id = $2 and expanded = $3 and status = $4`, to, id, from, string(campaignRunning))
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// counts gives the number of messages of campaigns by status.
func (s *campaignStore) counts(ctx context.Context, q store.Querier, ids []int64) (map[int64]map[messageStatus]int64, error) {
	out := map[int64]map[messageStatus]int64{}
	for len(ids) > 0 {
		n := store.Chunk(len(ids))
		args := make([]any, n)
		for i, id := range ids[:n] {
			args[i] = id
			out[id] = map[messageStatus]int64{}
		}
		ids = ids[n:]
		err := store.Each(ctx, q, `select campaign, status, messages from mailing_count where campaign in `+store.Values(1, n, 1), args, func(scan func(...any) error) error {
			var id, messages int64
			var status messageStatus
			if err := scan(&id, &status, &messages); err != nil {
				return err
			}
			out[id][status] = messages
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// erase removes up to limit messages of a campaign that is being removed, and
// the campaign itself once none is left.
func (s *campaignStore) erase(ctx context.Context, id int64, limit int) (n int64, err error) {
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		res, err := tx.ExecContext(ctx, `delete from mailing_message where id in (select id from mailing_message where campaign = $1 order by id limit $2)`, id, limit)
		if err != nil {
			return err
		}
		if n, err = res.RowsAffected(); err != nil || n > 0 {
			return err
		}
		for _, text := range []string{`delete from mailing_count where campaign = $1`, `delete from mailing_campaign where id = $1`} {
			if _, err := tx.ExecContext(ctx, text, id); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}
