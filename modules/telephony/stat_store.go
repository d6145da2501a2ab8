package telephony

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// statStore reads the statistics, which projectionStore writes.
type statStore struct{ db *store.DB }

// statQuery selects counters of hours, and says what to group them by. Empty
// fields do not restrict.
type statQuery struct {
	From, To store.Micros // hours that begin at From or later, and before To
	Queue    string
	Actor    *seal.Index
	By       statGroups
	After    *statPosition
	Limit    int
}

// statGroups says what has a row of its own.
type statGroups struct{ Hour, Queue, Actor bool }

// statPosition is a place in the answer. What is not grouped by is zero in it.
type statPosition struct {
	Hour  store.Micros
	Queue string
	Actor []byte
}

// statRow is the sum of a group's counters.
type statRow struct {
	statPosition
	counter
}

// ofActors tells whether a query is about what actors did: those counters stand
// beside the ones of queues, and must not be added to them.
func (q *statQuery) ofActors() bool { return q.Actor != nil || q.By.Actor }

const statSums = `cast(coalesce(sum(s.calls), 0) as bigint), cast(coalesce(sum(s.offered), 0) as bigint), cast(coalesce(sum(s.answered), 0) as bigint),
	cast(coalesce(sum(s.in_time), 0) as bigint), cast(coalesce(sum(s.abandoned), 0) as bigint), cast(coalesce(sum(s.overflowed), 0) as bigint),
	cast(coalesce(sum(s.forwarded), 0) as bigint), cast(coalesce(sum(s.unanswered), 0) as bigint), cast(coalesce(sum(s.waits), 0) as bigint),
	cast(coalesce(sum(s.wait_us), 0) as bigint), cast(coalesce(sum(s.talks), 0) as bigint), cast(coalesce(sum(s.talk_us), 0) as bigint),
	cast(coalesce(sum(s.rings), 0) as bigint), cast(coalesce(sum(s.no_answers), 0) as bigint)`

// list gives the sums of q by group, in the order of hour, queue and actor,
// and what all of q's groups come to. Without groups the list has one row.
// Groups that nothing is counted for any more are left out; one may have calls
// that went on to another queue and nothing else.
func (s *statStore) list(ctx context.Context, q statQuery) (rows []statRow, total counter, err error) {
	err = s.db.ReadTx(ctx, func(tx store.Querier) error {
		h, err := readHead(ctx, tx)
		if err != nil {
			return err
		}
		sum, err := q.each(ctx, tx, h.Generation, statGroups{})
		if err != nil {
			return err
		}
		rows, total = sum, sum[0].counter
		if q.By != (statGroups{}) {
			rows, err = q.each(ctx, tx, h.Generation, q.By)
		}
		return err
	})
	return rows, total, err
}

// each runs the query grouped by groups.
func (q *statQuery) each(ctx context.Context, tx store.Querier, generation int64, groups statGroups) ([]statRow, error) {
	args := []any{generation, q.From, q.To}
	where := ` where s.generation = $1 and s.hour >= $2 and s.hour < $3`
	add := func(condition string, value any) {
		args = append(args, value)
		where += fmt.Sprintf(condition, len(args))
	}
	switch {
	case q.Actor != nil:
		add(` and s.actor = $%d`, q.Actor[:])
	case groups.Actor:
		where += ` and length(s.actor) > 0`
	default:
		add(` and s.actor = $%d`, []byte{})
	}
	if q.Queue != "" {
		add(` and s.queue = $%d`, q.Queue)
	}
	var columns []string
	var at statPosition
	var place []any
	var after []any
	for _, c := range []struct {
		grouped bool
		name    string
		to      any
		after   func(*statPosition) any
	}{
		{groups.Hour, "s.hour", &at.Hour, func(p *statPosition) any { return p.Hour }},
		{groups.Queue, "s.queue", &at.Queue, func(p *statPosition) any { return p.Queue }},
		{groups.Actor, "s.actor", &at.Actor, func(p *statPosition) any { return append([]byte{}, p.Actor...) }},
	} {
		if c.grouped {
			columns, place = append(columns, c.name), append(place, c.to)
			if q.After != nil {
				after = append(after, c.after(q.After))
			}
		}
	}
	text := `select ` + strings.Join(append(slices.Clone(columns), statSums), ", ") + ` from telephony_stat s`
	if len(columns) > 0 {
		list := strings.Join(columns, ", ")
		if after != nil {
			behind := list
			if list == "s.actor" {
				// Not by the index of actors, which knows nothing of hours: an
				// expression has none.
				behind = "coalesce(s.actor, s.actor)"
			}
			where += ` and (` + behind + `) > ` + store.Values(1, len(after), len(args)+1)
			args = append(args, after...)
		}
		args = append(args, q.Limit)
		where += fmt.Sprintf(` group by %s having sum(s.calls + s.overflowed) <> 0 order by %s limit $%d`, list, list, len(args))
	}
	var out []statRow
	err := store.Each(ctx, tx, text+where, args, func(scan func(...any) error) error {
		at = statPosition{}
		var row statRow
		to := place
		for _, n := range row.fields() {
			to = append(to, n)
		}
		if err := scan(to...); err != nil {
			return err
		}
		row.statPosition = at
		out = append(out, row)
		return nil
	})
	return out, err
}

// sealedActor is the name of an actor as it rests.
type sealedActor struct {
	Subject seal.Subject
	Sealed  []byte
}

// names gives the sealed names of actors, by their index. Who is not known is
// not in it.
func (s *statStore) names(ctx context.Context, actors []seal.Index) (map[seal.Index]sealedActor, error) {
	out := map[seal.Index]sealedActor{}
	for len(actors) > 0 {
		n := store.Chunk(len(actors))
		args := make([]any, n)
		for i := range n {
			args[i] = actors[i][:]
		}
		actors = actors[n:]
		err := store.Each(ctx, s.db.Read(), `select a.actor, a.subject, a.sealed from telephony_head h join telephony_actor a on a.generation = h.generation
			where h.one = 1 and a.actor in `+store.Values(1, n, 1), args, func(scan func(...any) error) error {
			var actor, subject, sealed []byte
			if err := scan(&actor, &subject, &sealed); err != nil {
				return err
			}
			out[seal.Index(actor)] = sealedActor{seal.Subject(subject), sealed}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
