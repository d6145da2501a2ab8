package mailing

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

// reportStore counts what happened on a day, and keeps which days were
// reported.
type reportStore struct{ db *store.DB }

// reportRow is what became of a day's report.
type reportRow struct {
	Day       reportDay
	Status    string // pending, sending, sent, failed
	Attempts  int64  // of the present round
	ClaimedAt time.Time
	SentAt    *time.Time
	reportState
}

// reportState is the rest, as the column detail keeps it.
type reportState struct {
	// Round is how often somebody asked for the report again.
	Round int64 `json:"round,omitempty"`
	// GiveUp is when no further attempt begins.
	GiveUp time.Time `json:"give_up"`
	// Delivered has fingerprints of the recipients that the mail server took it
	// for: an attempt for the others does not bother them.
	Delivered []string `json:"delivered,omitempty"`
	// Error says why the last attempt failed.
	Error string `json:"error,omitempty"`
}

const (
	reportPending = "pending"
	reportSending = "sending"
	reportSent    = "sent"
	reportFailed  = "failed"
)

// installation tells this product from others that mail from the same address.
// All instances on one database have the same.
func (s *reportStore) installation(ctx context.Context) (string, error) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	var n int64
	err := s.db.Tx(ctx, func(tx store.Querier) error {
		if _, err := tx.ExecContext(ctx, `insert into mailing_counter (name, value) values ('installation', $1) on conflict (name) do nothing`,
			int64(binary.BigEndian.Uint64(random[:])>>1)); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `select value from mailing_counter where name = 'installation'`).Scan(&n)
	})
	return fmt.Sprintf("%016x", n), err
}

// reportHourMicros is an hour, as the query has it.
const reportHourMicros = 3_600_000_000

// figures counts a day, and what was sent from dayBefore to it. Messages are found by the index on sent_at, campaigns
// by the one on end_at. A campaign was running if it had begun, had not ended,
// and was not over when the day began, or if it sent something.
func (s *reportStore) figures(ctx context.Context, f *dayFigures, dayBefore time.Time) error {
	from, to, before := store.MicrosOf(f.From), store.MicrosOf(f.To), store.MicrosOf(dayBefore)
	f.Hours = make([]int64, max((int64(to-from)+reportHourMicros-1)/reportHourMicros, 0))
	f.Campaigns = nil
	return s.db.ReadTx(ctx, func(tx store.Querier) error {
		f.Campaigns, f.Totals = nil, reportCounts{}
		err := store.Each(ctx, tx, `select (sent_at - $1) / 3600000000, count(*) from mailing_message where sent_at >= $1 and sent_at < $2
			group by (sent_at - $1) / 3600000000`, []any{from, to}, func(scan func(...any) error) error {
			var hour, n int64
			if err := scan(&hour, &n); err != nil {
				return err
			}
			f.Hours[hour] = n
			return nil
		})
		if err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `select count(*) from mailing_message where sent_at >= $1 and sent_at < $2`, before, from).Scan(&f.SentBefore); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `with `+reportCampaigns+` select count(*) from running`, from, to).Scan(&f.Running); err != nil {
			return err
		}
		if err := f.list(ctx, tx, from, to); err != nil {
			return err
		}
		return store.Each(ctx, tx, `with `+reportCampaigns+` select n.status, cast(sum(n.messages) as bigint) from mailing_count n
			where n.campaign in (select id from running) group by n.status`, []any{from, to}, func(scan func(...any) error) error {
			var status, n int64
			if err := scan(&status, &n); err != nil {
				return err
			}
			return f.Totals.set(status, n)
		})
	})
}

// set takes a count over.
func (c *reportCounts) set(status, n int64) error {
	if status < 0 || status >= int64(len(c)) {
		return fmt.Errorf("a count of the status %d, which does not exist", status)
	}
	c[status] = n
	return nil
}

// reportCampaigns gives, of the time from $1 to $2, what campaigns sent, and
// which were running.
const reportCampaigns = `given as (select campaign, count(*) as messages from mailing_message where sent_at >= $1 and sent_at < $2 group by campaign),
	running as (select c.id from given g join mailing_campaign c on c.id = g.campaign where c.status <> 'deleted'
		union select id from mailing_campaign where end_at > $1 and start_at < $2 and created_at < $2
			and status not in ('scheduled', 'deleted') and (status not in ('finished', 'canceled') or updated_at >= $1))`

// list reads the campaigns that sent most.
func (f *dayFigures) list(ctx context.Context, tx store.Querier, from, to store.Micros) error {
	places := map[int64]int{}
	var ids []any
	err := store.Each(ctx, tx, `with `+reportCampaigns+` select c.id, c.name, c.status, coalesce(g.messages, 0) from mailing_campaign c
		left join given g on g.campaign = c.id where c.id in (select id from running) order by coalesce(g.messages, 0) desc, c.id limit $3`,
		[]any{from, to, maxReportCampaigns}, func(scan func(...any) error) error {
			var c campaignFigures
			if err := scan(&c.ID, &c.Name, &c.Status, &c.Sent); err != nil {
				return err
			}
			places[c.ID] = len(f.Campaigns)
			f.Campaigns, ids = append(f.Campaigns, c), append(ids, c.ID)
			return nil
		})
	if err != nil || len(ids) == 0 {
		return err
	}
	return store.Each(ctx, tx, `select campaign, status, messages from mailing_count where campaign in `+store.Values(1, len(ids), 1), ids, func(scan func(...any) error) error {
		var id, status, n int64
		if err := scan(&id, &status, &n); err != nil {
			return err
		}
		return f.Campaigns[places[id]].Counts.set(status, n)
	})
}

// anyBefore tells whether there was a campaign before a moment: earlier days
// have nothing to report.
func (s *reportStore) anyBefore(ctx context.Context, at time.Time) (bool, error) {
	var one int
	err := s.db.Read().QueryRowContext(ctx, `select 1 from mailing_campaign where created_at < $1 limit 1`, store.MicrosOf(at)).Scan(&one)
	if store.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

const reportColumns = `select day, status, attempts, claimed_at, sent_at, detail from mailing_report`

func scanReport(scan func(...any) error) (*reportRow, error) {
	var r reportRow
	var day, detail string
	var claimed store.Micros
	var sent sql.Null[store.Micros]
	if err := scan(&day, &r.Status, &r.Attempts, &claimed, &sent, &detail); err != nil {
		return nil, err
	}
	r.Day, r.ClaimedAt = reportDay(day), claimed.Time()
	if sent.Valid {
		at := sent.V.Time()
		r.SentAt = &at
	}
	if err := json.Unmarshal([]byte(detail), &r.reportState); err != nil {
		return nil, fmt.Errorf("report of %s: %w", day, err)
	}
	return &r, nil
}

// get gives the row of a day, nil if there is none.
func (s *reportStore) get(ctx context.Context, q store.Querier, day reportDay) (*reportRow, error) {
	r, err := scanReport(q.QueryRowContext(ctx, reportColumns+` where day = $1`, string(day)).Scan)
	if store.IsNotFound(err) {
		return nil, nil
	}
	return r, err
}

// list gives days before a day, the last ones first; all if it is empty.
func (s *reportStore) list(ctx context.Context, before reportDay, limit int) (rows []*reportRow, err error) {
	if before == "" {
		before = "~" // behind every day
	}
	err = store.Each(ctx, s.db.Read(), reportColumns+` where day < $1 order by day desc limit $2`, []any{string(before), limit}, func(scan func(...any) error) error {
		r, err := scanReport(scan)
		rows = append(rows, r)
		return err
	})
	return rows, err
}

// open gives days that are not settled.
func (s *reportStore) open(ctx context.Context, limit int) (rows []*reportRow, err error) {
	err = store.Each(ctx, s.db.Read(), reportColumns+` where status in ('pending', 'sending') order by day desc limit $1`, []any{limit}, func(scan func(...any) error) error {
		r, err := scanReport(scan)
		rows = append(rows, r)
		return err
	})
	return rows, err
}

// schedule makes a day's report pending if it has no row yet.
func (s *reportStore) schedule(ctx context.Context, r *reportRow) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		detail, err := json.Marshal(&r.reportState)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `insert into mailing_report (day, status, attempts, claimed_at, sent_at, detail) values ($1, $2, $3, $4, null, $5)
			on conflict (day) do nothing`, string(r.Day), r.Status, r.Attempts, store.MicrosOf(r.ClaimedAt), string(detail))
		return err
	})
}

// again makes a day's report pending, whatever became of it. Conflict while it
// is being sent by somebody alive.
func (s *reportStore) again(ctx context.Context, day reportDay, now time.Time) (row *reportRow, err error) {
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		old, err := s.get(ctx, tx, day)
		if err != nil {
			return err
		}
		row = &reportRow{Day: day, Status: reportPending, ClaimedAt: now, reportState: reportState{GiveUp: now.Add(reportPatience)}}
		if old != nil {
			if old.Status == reportSending && now.Before(old.ClaimedAt.Add(reportClaim)) {
				return errs.New(errs.Conflict, "the report of %s is being sent", day)
			}
			row.Round, row.SentAt = old.Round+1, old.SentAt
		}
		detail, err := json.Marshal(&row.reportState)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `insert into mailing_report (day, status, attempts, claimed_at, sent_at, detail) values ($1, $2, 0, $3, null, $4)
			on conflict (day) do update set status = excluded.status, attempts = excluded.attempts, claimed_at = excluded.claimed_at, detail = excluded.detail`,
			string(day), row.Status, store.MicrosOf(now), string(detail))
		return err
	})
	return row, err
}

// claim makes a row that is as it was read the caller's: attempts and
// claimed_at tell the claims apart. False if somebody was quicker.
func (s *reportStore) claim(ctx context.Context, r *reportRow, now time.Time) (bool, error) {
	claimed := *r
	claimed.Status, claimed.ClaimedAt, claimed.Attempts = reportSending, store.MicrosOf(now).Time(), r.Attempts+1
	ok, err := s.settle(ctx, r, &claimed)
	if ok {
		*r = claimed
	}
	return ok, err
}

// settle changes a row that is as it was read. False if it is not any more.
func (s *reportStore) settle(ctx context.Context, was, is *reportRow) (changed bool, err error) {
	detail, err := json.Marshal(&is.reportState)
	if err != nil {
		return false, err
	}
	var sent sql.Null[store.Micros]
	if is.SentAt != nil {
		sent = sql.Null[store.Micros]{V: store.MicrosOf(*is.SentAt), Valid: true}
	}
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		done, err := tx.ExecContext(ctx, `update mailing_report set status = $1, attempts = $2, claimed_at = $3, sent_at = $4, detail = $5
			where day = $6 and status = $7 and attempts = $8 and claimed_at = $9`,
			is.Status, is.Attempts, store.MicrosOf(is.ClaimedAt), sent, string(detail), string(was.Day), was.Status, was.Attempts, store.MicrosOf(was.ClaimedAt))
		if err != nil {
			return err
		}
		n, err := done.RowsAffected()
		changed = n == 1
		return err
	})
	return changed, err
}
