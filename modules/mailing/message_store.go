package mailing

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// messageStore keeps messages, and with every change of their status the
// counters.
type messageStore struct{ db *store.DB }

// messageQuery selects messages, by id; zero fields do not restrict.
type messageQuery struct {
	Campaign, Client *int64
	Status           []messageStatus
	After            int64
	Limit            int
}

const messageColumns = `id, campaign, client, status, attempts, due_at, created_at, sent_at, delivered, last_error`

func scanMessage(scan func(...any) error) (message, error) {
	var m message
	var due, created store.Micros
	var sent sql.Null[store.Micros]
	err := scan(&m.ID, &m.CampaignID, &m.ClientID, &m.Status, &m.Attempts, &due, &created, &sent, &m.Delivered, &m.LastError)
	m.DueAt, m.CreatedAt = due.Time(), created.Time()
	if sent.Valid {
		at := sent.V.Time()
		m.SentAt = &at
	}
	return m, err
}

// list gives the messages of q. With several statuses each is a range of the
// index of its own, merged.
func (s *messageStore) list(ctx context.Context, q messageQuery) (out []message, err error) {
	statuses := q.Status
	if len(statuses) == 0 || q.Campaign == nil {
		statuses = []messageStatus{-1}
	}
	var parts []string
	var args []any
	bind := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	for i, status := range statuses {
		where := []string{"id > " + bind(q.After)}
		if q.Campaign != nil {
			where = append(where, "campaign = "+bind(*q.Campaign))
		}
		if q.Client != nil {
			where = append(where, "client = "+bind(*q.Client))
		}
		if status >= 0 {
			where = append(where, "status = "+bind(int64(status)))
		}
		part := `select ` + messageColumns + ` from mailing_message where ` + strings.Join(where, " and ") + ` order by id limit ` + bind(q.Limit)
		if len(statuses) > 1 {
			part = `select ` + messageColumns + ` from (` + part + fmt.Sprintf(`) as t%d`, i)
		}
		parts = append(parts, part)
	}
	text := parts[0]
	if len(parts) > 1 {
		text = strings.Join(parts, " union all ") + " order by id limit " + bind(q.Limit)
	}
	err = store.Each(ctx, s.db.Read(), text, args, func(scan func(...any) error) error {
		m, err := scanMessage(scan)
		out = append(out, m)
		return err
	})
	return out, err
}

// get gives one message; NotFound if there is none.
func (s *messageStore) get(ctx context.Context, id int64) (message, error) {
	m, err := scanMessage(s.db.Read().QueryRowContext(ctx, `select `+messageColumns+` from mailing_message where id = $1`, id).Scan)
	if store.IsNotFound(err) {
		return m, errs.New(errs.NotFound, "no such message")
	}
	return m, err
}

// planned is a message to be made.
type planned struct {
	Client int64
	Phone  seal.Index
	Status messageStatus
	Due    time.Time
	Error  string
}

// plan makes messages of a campaign, but for numbers that have one already.
// Those whose time has come it hands out at once, as many as there is room for.
func (s *messageStore) plan(ctx context.Context, tx store.Querier, list []planned, h *handing) error {
	// First the claim, then the numbers, as everywhere: instances never wait for
	// each other in a circle.
	if h.room > 0 && slices.ContainsFunc(list, h.ripe) {
		if err := h.begin(ctx, tx); err != nil {
			return err
		}
	}
	first, err := nextIDs(ctx, tx, "message", len(list))
	if err != nil {
		return err
	}
	// Numbers are in no order, and each meets another page of their index: in the
	// order of that index it costs a quarter less.
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(list[a].Phone[:], list[b].Phone[:]) })
	ripe, made := h.ripest(list), make([]bool, len(list))
	for len(order) > 0 {
		part := order[:store.Chunk(len(order))]
		order = order[len(part):]
		args := make([]any, 0, 9*len(part))
		for _, i := range part {
			p := &list[i]
			status, due, claim := p.Status, store.MicrosOf(p.Due), int64(0)
			if ripe[i] {
				status, due, claim = messageSending, h.lease, h.Claim
			}
			args = append(args, first+int64(i), h.Campaign, p.Client, p.Phone[:], int64(status), due, claim, h.now, p.Error)
		}
		res, err := tx.ExecContext(ctx, insertMessages[len(part)], args...)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if n == int64(len(part)) { // as almost always; having each row returned costs a seventh more
			for _, i := range part {
				made[i] = true
			}
			continue
		}
		ids := make([]any, len(part))
		for k, i := range part {
			ids[k] = first + int64(i)
		}
		err = store.Each(ctx, tx, `select id from mailing_message where id in `+store.Values(1, len(ids), 1), ids, func(scan func(...any) error) error {
			var id int64
			err := scan(&id)
			made[id-first] = true
			return err
		})
		if err != nil {
			return err
		}
	}
	for i, p := range list {
		switch {
		case !made[i]:
		case ripe[i]:
			h.tally[tallyKey{h.Campaign, messageSending}]++
			h.add(first+int64(i), store.MicrosOf(p.Due))
		default:
			h.tally[tallyKey{h.Campaign, p.Status}]++
		}
	}
	return nil
}

// insertMessages are the texts that make so many messages.
var insertMessages = chunkTexts(`insert into mailing_message (id, campaign, client, phone, status, attempts, due_at, claim, created_at, sent_at, delivered, last_error) values `,
	`($,$,$,$,$,0,$,$,$,null,'',$)`, `($,$,$,$,$,0,$,$,$,null,'',$)`, ` on conflict (campaign, phone) do nothing`)

// settle changes the status of those of the messages that are in one of from,
// and gives what became of these.
func (s *messageStore) settle(ctx context.Context, tx store.Querier, ids []int64, from []messageStatus, to messageStatus, lastError string) (settled []fate, err error) {
	t := tally{}
	for len(ids) > 0 {
		n := store.Chunk(len(ids))
		args := []any{int64(to), lastError}
		for _, id := range ids[:n] {
			args = append(args, id)
		}
		ids = ids[n:]
		err := store.Each(ctx, tx, `select id, campaign, client, status, attempts from mailing_message where id in `+store.Values(1, n, 1)+` order by id`, args[2:],
			func(scan func(...any) error) error {
				f := fate{status: to, err: lastError}
				var was messageStatus
				err := scan(&f.id, &f.campaign, &f.client, &was, &f.before)
				if slices.Contains(from, was) {
					settled = append(settled, f)
					t.move(f.campaign, was, to)
				}
				return err
			})
		if err != nil {
			return nil, err
		}
		where := ` where id in ` + store.Values(1, n, 3) + ` and status in ` + store.Values(1, len(from), n+3)
		for _, status := range from {
			args = append(args, int64(status))
		}
		if _, err := tx.ExecContext(ctx, `update mailing_message set status = $1, last_error = $2, claim = claim + 1`+where, args...); err != nil {
			return nil, err
		}
	}
	return settled, t.save(ctx, tx)
}

// ofClient gives the open messages of a client.
func (s *messageStore) ofClient(ctx context.Context, tx store.Querier, client int64) (ids []int64, err error) {
	err = store.Each(ctx, tx, `select id from mailing_message where client = $1 and status in (0, 1, 3) order by id`, []any{client}, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, err
}

// close makes up to limit open messages of a campaign final, and gives what
// became of them. Those that a worker has are left to it until their time is
// over.
func (s *messageStore) close(ctx context.Context, tx store.Querier, campaign int64, to messageStatus, reason string, now time.Time, limit int) ([]fate, error) {
	var ids []int64
	err := store.Each(ctx, tx, `select id from mailing_message where campaign = $1 and status in (0, 1, 3) and (status <> 1 or due_at < $2) order by due_at, id limit $3`,
		[]any{campaign, store.MicrosOf(now), limit}, func(scan func(...any) error) error {
			var id int64
			err := scan(&id)
			ids = append(ids, id)
			return err
		})
	if err != nil {
		return nil, err
	}
	return s.settle(ctx, tx, ids, open, to, reason)
}
