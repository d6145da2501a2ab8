package mailing

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// dispatchStore hands messages to workers and takes back what became of them.
type dispatchStore struct{ db *store.DB }

// handed are messages that were handed out together: whoever has the claim may
// send them.
type handed struct {
	Campaign int64   `json:"campaign"`
	Claim    int64   `json:"claim"`
	IDs      []int64 `json:"ids"`

	due []store.Micros
}

// hand takes up to limit messages of a campaign whose time has come, also such
// whose worker died, and claims them until lease.
func (s *dispatchStore) hand(ctx context.Context, tx store.Querier, campaign int64, now, lease time.Time, limit int) (handed, error) {
	h := handed{Campaign: campaign}
	t := tally{}
	err := store.Each(ctx, tx, `select id, status, due_at from mailing_message where campaign = $1 and due_at <= $2 and status in (0, 1, 3) order by due_at, id limit $3`,
		[]any{campaign, store.MicrosOf(now), limit}, func(scan func(...any) error) error {
			var id int64
			var was messageStatus
			var due store.Micros
			err := scan(&id, &was, &due)
			h.IDs, h.due = append(h.IDs, id), append(h.due, due)
			t.move(campaign, was, messageSending)
			return err
		})
	if err != nil || len(h.IDs) == 0 {
		return h, err
	}
	if h.Claim, err = nextIDs(ctx, tx, "claim", 1); err != nil {
		return h, err
	}
	for rest := h.IDs; len(rest) > 0; {
		n := store.Chunk(len(rest))
		args := []any{store.MicrosOf(lease), h.Claim}
		for _, id := range rest[:n] {
			args = append(args, id)
		}
		rest = rest[n:]
		if _, err := tx.ExecContext(ctx, `update mailing_message set status = 1, due_at = $1, claim = $2 where id in `+store.Values(1, n, 3), args...); err != nil {
			return h, err
		}
	}
	return h, t.save(ctx, tx)
}

// held is a message in a worker's hands.
type held struct {
	id, client int64
	phone      seal.Index
	attempts   int64
}

// held gives those of the messages that still are claimed so.
func (s *dispatchStore) held(ctx context.Context, claim int64, ids []int64) (out []held, err error) {
	for len(ids) > 0 {
		n := store.Chunk(len(ids))
		args := []any{claim}
		for _, id := range ids[:n] {
			args = append(args, id)
		}
		ids = ids[n:]
		err := store.Each(ctx, s.db.Read(), `select id, client, phone, attempts from mailing_message where claim = $1 and status = 1 and id in `+store.Values(1, n, 2)+` order by id`, args,
			func(scan func(...any) error) error {
				var h held
				var phone []byte
				if err := scan(&h.id, &h.client, &phone, &h.attempts); err != nil {
					return err
				}
				h.phone = seal.Index(phone)
				out = append(out, h)
				return nil
			})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// fate is what became of a message in a worker's hands.
type fate struct {
	campaign, claim int64
	id, client      int64
	status          messageStatus
	before          int64 // attempts before
	attempts        int64 // made
	due             time.Time
	sent            *time.Time
	err             string
}

// settle writes fates. What was accepted counts even if the message was taken
// away meanwhile: it has gone.
func (s *dispatchStore) settle(ctx context.Context, fates []fate) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		t := tally{}
		settled := make(map[int64]bool, len(fates))
		for rest := fates; len(rest) > 0; {
			n := store.Chunk(len(rest))
			if err := s.settleHeld(ctx, tx, rest[:n], settled); err != nil {
				return err
			}
			rest = rest[n:]
		}
		for _, f := range fates {
			if settled[f.id] {
				t.move(f.campaign, messageSending, f.status)
			} else if err := s.settleTaken(ctx, tx, f, t); err != nil {
				return err
			}
		}
		return t.save(ctx, tx)
	})
}

// fateValues gives the placeholders of fates, whose types PostgreSQL does not
// guess.
func fateValues(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `(cast($%d as bigint),cast($%d as bigint),cast($%d as bigint),cast($%d as bigint),cast($%d as bigint),cast($%d as bigint),cast($%d as text))`,
			7*i+1, 7*i+2, 7*i+3, 7*i+4, 7*i+5, 7*i+6, 7*i+7)
	}
	return b.String()
}

// settleHeld writes the fates of those messages that still are in the hands that
// had them, and notes which they are.
func (s *dispatchStore) settleHeld(ctx context.Context, tx store.Querier, fates []fate, settled map[int64]bool) error {
	args := make([]any, 0, 7*len(fates))
	for _, f := range fates {
		args = append(args, f.id, f.claim, int64(f.status), f.attempts, store.MicrosOf(f.due), f.sentAt(), f.err)
	}
	return store.Each(ctx, tx, `update mailing_message set status = v.column3, attempts = attempts + v.column4, due_at = v.column5, sent_at = v.column6, last_error = v.column7
		from (values `+fateValues(len(fates))+`) as v where id = v.column1 and claim = v.column2 and status = 1 returning id`, args, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		settled[id] = true
		return err
	})
}

// settleTaken writes the fate of a message that was taken away, if it counts
// nevertheless.
func (s *dispatchStore) settleTaken(ctx context.Context, tx store.Querier, f fate, t tally) error {
	if f.status != messageSent {
		return nil
	}
	var was messageStatus
	err := tx.QueryRowContext(ctx, `select status from mailing_message where id = $1`, f.id).Scan(&was)
	if store.IsNotFound(err) || err == nil && was == messageSent {
		return nil
	}
	if err != nil {
		return err
	}
	t.move(f.campaign, was, f.status)
	_, err = tx.ExecContext(ctx, `update mailing_message set status = $1, attempts = attempts + $2, due_at = $3, sent_at = $4, last_error = $5 where id = $6`,
		int64(f.status), f.attempts, store.MicrosOf(f.due), f.sentAt(), f.err, f.id)
	return err
}

func (f *fate) sentAt() sql.Null[store.Micros] {
	if f.sent == nil {
		return sql.Null[store.Micros]{}
	}
	return sql.Null[store.Micros]{V: store.MicrosOf(*f.sent), Valid: true}
}

// sending is how many messages are in the hands of workers, of all campaigns.
func (s *dispatchStore) sending(ctx context.Context) (n int64, err error) {
	err = s.db.Read().QueryRowContext(ctx, `select coalesce(sum(messages), 0) from mailing_count where status = 1 and messages > 0`).Scan(&n)
	return n, err
}

// backlog gives how many messages and campaigns are not over, by status.
func (s *dispatchStore) backlog(ctx context.Context) (messages map[messageStatus]int64, campaigns map[campaignStatus]int64, err error) {
	messages, campaigns = map[messageStatus]int64{}, map[campaignStatus]int64{}
	for _, status := range open {
		var n int64
		err := s.db.Read().QueryRowContext(ctx, `select coalesce(sum(messages), 0) from mailing_count where status = $1 and messages > 0`, int64(status)).Scan(&n)
		if err != nil {
			return nil, nil, err
		}
		messages[status] = n
	}
	for _, status := range []campaignStatus{campaignScheduled, campaignRunning, campaignPaused} {
		var n int64
		if err := s.db.Read().QueryRowContext(ctx, `select count(*) from mailing_campaign where status = $1`, string(status)).Scan(&n); err != nil {
			return nil, nil, err
		}
		campaigns[status] = n
	}
	return messages, campaigns, nil
}
