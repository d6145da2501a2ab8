package mailing

import (
	"context"
	"database/sql"
	"errors"
	"math/bits"
	"slices"
	"strconv"
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
}

// handing is what a transaction makes and hands out of a campaign.
type handing struct {
	handed
	due        []store.Micros // when each of them could have gone
	now, lease store.Micros   // it is theirs until lease
	room       int            // for so many more
	tally      tally
}

func newHanding(campaign int64, now time.Time, room int) *handing {
	return &handing{handed: handed{Campaign: campaign}, now: store.MicrosOf(now), lease: store.MicrosOf(now.Add(lease)), room: room, tally: tally{}}
}

// begin gets a claim, if there is none yet.
func (h *handing) begin(ctx context.Context, tx store.Querier) (err error) {
	if h.Claim == 0 {
		h.Claim, err = nextIDs(ctx, tx, "claim", 1)
	}
	return err
}

// ripe tells whether a message may be handed out as it is made.
func (h *handing) ripe(p planned) bool {
	return p.Status == messagePending && store.MicrosOf(p.Due) <= h.now
}

// ripest tells which of the messages are handed out as they are made: those that
// come first, as many as there is room for.
func (h *handing) ripest(list []planned) []bool {
	out, room := make([]bool, len(list)), h.room
	for i, p := range list {
		if room > 0 && h.ripe(p) {
			out[i] = true
			room--
		}
	}
	return out
}

// add notes a message that bears the claim now.
func (h *handing) add(id int64, due store.Micros) {
	h.IDs, h.due = append(h.IDs, id), append(h.due, due)
	h.room--
}

// hand takes messages of a campaign whose time has come, also such whose worker
// died, and claims them: those that were due first, as many as there is room for.
func (s *dispatchStore) hand(ctx context.Context, tx store.Querier, h *handing) error {
	if h.room == 0 {
		return nil
	}
	err := store.Each(ctx, tx, `select id, status, due_at from mailing_message where campaign = $1 and due_at <= $2 and status in (0, 1, 3) order by due_at, id limit $3`,
		[]any{h.Campaign, h.now, h.room}, func(scan func(...any) error) error {
			var id int64
			var was messageStatus
			var due store.Micros
			err := scan(&id, &was, &due)
			h.add(id, due)
			h.tally.move(h.Campaign, was, messageSending)
			return err
		})
	if err != nil || len(h.IDs) == 0 {
		return err
	}
	if err := h.begin(ctx, tx); err != nil {
		return err
	}
	for rest := h.IDs; len(rest) > 0; {
		n := store.Chunk(len(rest))
		args := []any{h.lease, h.Claim}
		for _, id := range rest[:n] {
			args = append(args, id)
		}
		rest = rest[n:]
		if _, err := tx.ExecContext(ctx, `update mailing_message set status = 1, due_at = $1, claim = $2 where id in `+store.Values(1, n, 3), args...); err != nil {
			return err
		}
	}
	return nil
}

// held is a message in a worker's hands.
type held struct {
	id, client int64
	phone      seal.Index
	attempts   int64
	to         *audienceRow // its client, without times; nil if it was deleted
}

// heldChunk is how many messages one query asks for.
const heldChunk = 64

// held gives those of the messages that still are claimed so, by id, and their
// clients.
func (s *dispatchStore) held(ctx context.Context, claim int64, ids []int64) (out []held, err error) {
	for part := range slices.Chunk(ids, heldChunk) {
		// Filled up with the last one, so that there are few texts and one query.
		args := make([]any, 1, 1+heldChunk)
		args[0] = claim
		for i := range 1 << bits.Len(uint(len(part)-1)) {
			args = append(args, part[min(i, len(part)-1)])
		}
		err := store.Each(ctx, s.db.Read(), `select m.id, m.client, m.phone, m.attempts, c.phone, c.subject, c.sealed, c.operator_code, c.tag, c.timezone
			from mailing_message m left join mailing_client c on c.id = m.client where m.claim = $1 and m.status = 1 and m.id in `+store.Values(1, len(args)-1, 2)+` order by m.id`, args,
			func(scan func(...any) error) error {
				var h held
				var phone, subject, sealed []byte // null without a client, as the others
				var code, tag, zone sql.Null[string]
				if err := scan(&h.id, &h.client, &h.phone, &h.attempts, &phone, &subject, &sealed, &code, &tag, &zone); err != nil {
					return err
				}
				if phone != nil {
					h.to = &audienceRow{ID: h.client, Phone: seal.Index(phone), Subject: seal.Subject(subject), Sealed: sealed, OperatorCode: code.V, Tag: tag.V, Timezone: zone.V}
				}
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
	before          int64     // attempts before
	attempts        int64     // made
	due             time.Time // of one that was sent, when that was
	err             string
}

// settle writes fates. What was accepted counts even if the message was taken
// away meanwhile: it has gone.
func (s *dispatchStore) settle(ctx context.Context, fates []fate) error {
	var sent, other []fate
	for _, f := range fates {
		if f.status == messageSent {
			sent = append(sent, f)
		} else {
			other = append(other, f)
		}
	}
	err := s.settleEach(ctx, sent, other, settleHeld)
	if errors.Is(err, errNotHeld) {
		err = s.settleEach(ctx, sent, other, settleThose)
	}
	return err
}

func (s *dispatchStore) settleEach(ctx context.Context, sent, other []fate, settle settler) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		t := tally{}
		settled := make(map[int64]bool, len(sent)+len(other))
		err := settle(ctx, tx, updateSent, sent, settled, func(f *fate) []any { return []any{f.id, f.claim, f.attempts, store.MicrosOf(f.due)} })
		if err != nil {
			return err
		}
		err = settle(ctx, tx, updateOther, other, settled, func(f *fate) []any {
			return []any{f.id, f.claim, f.attempts, store.MicrosOf(f.due), int64(f.status), f.err}
		})
		if err != nil {
			return err
		}
		for _, f := range slices.Concat(sent, other) { // as they were written
			if settled[f.id] {
				delete(settled, f.id) // a message that was delivered twice counts once
				t.move(f.campaign, messageSending, f.status)
			} else if err := s.settleTaken(ctx, tx, f, t); err != nil {
				return err
			}
		}
		return t.save(ctx, tx)
	})
}

// chunkTexts gives a statement with values for each number of rows that
// store.Chunk gives. A $ becomes the next parameter.
func chunkTexts(head, first, other, tail string) map[int]string {
	texts := map[int]string{}
	for n := 64; n > 0; n /= 2 {
		parts := strings.Split(head+first+strings.Repeat(","+other, n-1)+tail, "$")
		text := parts[0]
		for i, part := range parts[1:] {
			text += "$" + strconv.Itoa(i+1) + part
		}
		texts[n] = text
	}
	return texts
}

// updateSent and updateOther are the texts that write so many fates: most are
// that a message was sent, of which there is less to say. PostgreSQL has to be
// told the types, once.
var (
	updateSent = chunkTexts(`update mailing_message set status = 2, attempts = attempts + v.column3, due_at = v.column4, sent_at = v.column4, last_error = '' from (values `,
		`(cast($ as bigint),cast($ as bigint),cast($ as bigint),cast($ as bigint))`, `($,$,$,$)`, fateTail)
	updateOther = chunkTexts(`update mailing_message set status = v.column5, attempts = attempts + v.column3, due_at = v.column4, sent_at = null, last_error = v.column6 from (values `,
		`(cast($ as bigint),cast($ as bigint),cast($ as bigint),cast($ as bigint),cast($ as bigint),cast($ as text))`, `($,$,$,$,$,$)`, fateTail)
)

const fateTail = `) as v where id = v.column1 and claim = v.column2 and status = 1`

// settler writes the fates of those messages that still are in the hands that
// had them, and notes which they are.
type settler func(ctx context.Context, tx store.Querier, texts map[int]string, fates []fate, settled map[int64]bool, row func(*fate) []any) error

// errNotHeld says that some messages are not in the hands that had them.
var errNotHeld = errors.New("mailing: a message was taken away")

// settleHeld is the settler for when all of them are, as almost always: having
// the database say which costs a seventh more. Else it fails with errNotHeld, and
// the transaction must be rolled back.
func settleHeld(ctx context.Context, tx store.Querier, texts map[int]string, fates []fate, settled map[int64]bool, row func(*fate) []any) error {
	for len(fates) > 0 {
		n := store.Chunk(len(fates))
		res, err := tx.ExecContext(ctx, texts[n], fateArgs(fates[:n], row)...)
		if err != nil {
			return err
		}
		switch changed, err := res.RowsAffected(); {
		case err != nil:
			return err
		case changed != int64(n):
			return errNotHeld
		}
		for _, f := range fates[:n] {
			settled[f.id] = true
		}
		fates = fates[n:]
	}
	return nil
}

// settleThose is the settler for when some are not.
func settleThose(ctx context.Context, tx store.Querier, texts map[int]string, fates []fate, settled map[int64]bool, row func(*fate) []any) error {
	for len(fates) > 0 {
		n := store.Chunk(len(fates))
		err := store.Each(ctx, tx, texts[n]+` returning id`, fateArgs(fates[:n], row), func(scan func(...any) error) error {
			var id int64
			err := scan(&id)
			settled[id] = true
			return err
		})
		if err != nil {
			return err
		}
		fates = fates[n:]
	}
	return nil
}

func fateArgs(fates []fate, row func(*fate) []any) (args []any) {
	for i := range fates {
		args = append(args, row(&fates[i])...)
	}
	return args
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
	_, err = tx.ExecContext(ctx, `update mailing_message set status = $1, attempts = attempts + $2, due_at = $3, sent_at = $4, last_error = '' where id = $5`,
		int64(f.status), f.attempts, store.MicrosOf(f.due), store.MicrosOf(f.due), f.id)
	return err
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
