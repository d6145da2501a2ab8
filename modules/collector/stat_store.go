package collector

import (
	"context"
	"slices"
	"strconv"
	"time"

	"switchboard/platform/store"
)

// statRow is how many events of a kind occurred in a bucket.
type statRow struct {
	Bucket store.Micros
	kind
	Events int64
}

// statQuery selects counters. Day buckets are summed from hours.
type statQuery struct {
	Bucket              time.Duration // a minute, an hour or a day
	From, To            time.Time     // buckets that begin within, both inclusive
	Category, Name, App string
	By                  []string // of category, name, app
	After               *statPosition
	Limit               int
}

// statPosition is a place in the answer: the rows of a bucket are ordered by
// their groups.
type statPosition struct {
	Bucket              store.Micros
	Category, Name, App string
}

// stats gives the counters of q in order.
func (s *eventStore) stats(ctx context.Context, q statQuery) ([]statRow, error) {
	text, args := q.sql()
	var out []statRow
	err := store.Each(ctx, s.db.Read(), text, args, func(scan func(...any) error) error {
		var r statRow
		err := scan(&r.Bucket, &r.Category, &r.Name, &r.App, &r.Events)
		out = append(out, r)
		return err
	})
	return out, err
}

func (q statQuery) sql() (text string, args []any) {
	grain := int64(3600)
	if q.Bucket < time.Hour {
		grain = 60
	}
	var c conditions
	c.add("s.grain = ?", grain)
	c.between("s.bucket", &q.From, &q.To)
	c.equal("k.category", q.Category)
	c.equal("k.name", q.Name)
	c.equal("k.app", q.App)
	group := func(column string) string {
		if slices.Contains(q.By, column) {
			return "k." + column
		}
		return "''"
	}
	// Buckets before 1970 do not occur (see oldest), so % rounds down.
	unit := strconv.FormatInt(q.Bucket.Microseconds(), 10)
	text = `select g.at, g.category, g.name, g.app, g.events from (
		select s.bucket - s.bucket % ` + unit + ` as at, ` + group("category") + ` as category, ` + group("name") + ` as name, ` + group("app") + ` as app, sum(s.events) as events
		from collector_stat s join collector_kind k on k.kind = s.kind` + c.where() + ` group by 1, 2, 3, 4) g`
	after := conditions{args: c.args}
	if a := q.After; a != nil {
		after.add("(g.at, g.category, g.name, g.app) > (?, ?, ?, ?)", a.Bucket, a.Category, a.Name, a.App)
	}
	return text + after.where() + ` order by g.at, g.category, g.name, g.app limit ` + strconv.Itoa(q.Limit), after.args
}

// expireMinutes removes up to limit counters of minutes before the time, oldest
// first, and tells how many. Those of hours stay: they are few.
func (s *eventStore) expireMinutes(ctx context.Context, before time.Time, limit int) (int, error) {
	var n int64
	err := s.db.Tx(ctx, func(tx store.Querier) error {
		res, err := tx.ExecContext(ctx, `delete from collector_stat where grain = 60 and (bucket, kind) in
			(select bucket, kind from collector_stat where grain = 60 and bucket < $1 order by bucket, kind limit $2)`, store.MicrosOf(before), limit)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return int(n), err
}
