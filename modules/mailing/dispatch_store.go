package mailing

import (
	"context"
	"database/sql"
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
		for _, f := range fates {
			var was messageStatus
			var has int64
			err := tx.QueryRowContext(ctx, `select status, claim from mailing_message where id = $1`, f.id).Scan(&was, &has)
			if store.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			if was == messageSent || f.status != messageSent && (has != f.claim || was != messageSending) {
				continue
			}
			sent := sql.Null[store.Micros]{}
			if f.sent != nil {
				sent = sql.Null[store.Micros]{V: store.MicrosOf(*f.sent), Valid: true}
			}
			if _, err := tx.ExecContext(ctx, `update mailing_message set status = $1, attempts = attempts + $2, due_at = $3, sent_at = $4, last_error = $5 where id = $6`,
				int64(f.status), f.attempts, store.MicrosOf(f.due), sent, f.err, f.id); err != nil {
				return err
			}
			t.move(f.campaign, was, f.status)
		}
		return t.save(ctx, tx)
	})
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

// unsettled gives campaigns in a status that still have open messages.
func (s *dispatchStore) unsettled(ctx context.Context, status campaignStatus, limit int) (ids []int64, err error) {
	err = store.Each(ctx, s.db.Read(), `select distinct n.campaign from mailing_count n join mailing_campaign c on c.id = n.campaign
		where n.messages > 0 and n.status in (0, 1, 3) and c.status = $1 limit $2`, []any{string(status), limit}, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, err
}
