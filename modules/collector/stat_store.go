package collector

import (
	"context"
	"slices"
	"strconv"
	"strings"
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
	err := each(ctx, s.db.Read(), text, args, func(scan func(...any) error) error {
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
	unit := q.Bucket.Microseconds()
	args = []any{grain, store.MicrosOf(q.From), store.MicrosOf(q.To), unit}
	// Buckets before 1970 do not occur (see oldest), so % rounds down.
	const start = "(s.bucket - s.bucket % $4)"
	columns := []string{start}
	for _, c := range [...]string{"category", "name", "app"} {
		if slices.Contains(q.By, c) {
			columns = append(columns, "k."+c)
		} else {
			columns = append(columns, "''")
		}
	}
	where := []string{"s.grain = $1", "s.bucket >= $2", "s.bucket <= $3"}
	for _, c := range [...]struct{ column, value string }{{"category", q.Category}, {"name", q.Name}, {"app", q.App}} {
		if c.value != "" {
			args = append(args, c.value)
			where = append(where, "k."+c.column+" = $"+strconv.Itoa(len(args)))
		}
	}
	text = `select ` + columns[0] + ` as at, ` + columns[1] + ` as category, ` + columns[2] + ` as name, ` + columns[3] + ` as app, sum(s.events) as events
		from collector_stat s join collector_kind k on k.kind = s.kind where ` + strings.Join(where, " and ") + ` group by 1, 2, 3, 4`
	text = `select g.at, g.category, g.name, g.app, g.events from (` + text + `) g`
	if a := q.After; a != nil {
		args = append(args, a.Bucket, a.Category, a.Name, a.App)
		n := len(args)
		text += ` where (g.at, g.category, g.name, g.app) > ($` + strconv.Itoa(n-3) + `, $` + strconv.Itoa(n-2) + `, $` + strconv.Itoa(n-1) + `, $` + strconv.Itoa(n) + `)`
	}
	return text + ` order by g.at, g.category, g.name, g.app limit ` + strconv.Itoa(q.Limit), args
}
