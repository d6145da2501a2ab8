package telephony

import (
	"context"
	"fmt"
	"strings"
	"time"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// callStore reads the projection of calls.
type callStore struct{ db *store.DB }

// callQuery selects calls, newest first; zero fields do not restrict.
type callQuery struct {
	Any        []callMatch // at least one of them holds
	State      state
	Direction  direction
	Queue      string
	Their, Our *seal.Index
	From, To   *time.Time // of the call's begin; both inclusive
	Active     bool       // not FINISHED
	Before     *callPosition
	Limit      int
}

// callMatch holds if all that is set does.
type callMatch struct {
	ID                   int64
	Call                 *seal.Index
	State                state
	CreatedAt, UpdatedAt *timeRange
	None                 bool // it never holds
}

// timeRange is a range of time, both ends inclusive.
type timeRange struct{ From, To time.Time }

// callPosition is a place in the order of calls.
type callPosition struct {
	CreatedAt store.Micros
	ID        int64
}

// conditions builds the where clause of a query and its arguments.
type conditions struct {
	all  []string
	args *[]any
}

// add adds a condition, each ? in it standing for the next value.
func (c *conditions) add(condition string, values ...any) {
	for _, v := range values {
		*c.args = append(*c.args, v)
		condition = strings.Replace(condition, "?", fmt.Sprintf("$%d", len(*c.args)), 1)
	}
	c.all = append(c.all, condition)
}

// sql writes the query over one generation. Each way in which a call may match
// is a query of its own, along an index and in order, so that none of them
// reads more than a page; they are merged.
func (q *callQuery) sql(columns string, generation int64) (text string, args []any) {
	ways := q.Any
	if len(ways) == 0 {
		ways = []callMatch{{}}
	}
	states := []state{q.State}
	if q.Active && q.State == 0 {
		states = []state{stateNew, stateStandby, stateWaiting, stateOngoing}
	}
	const order = " order by created_at desc, id desc"
	var parts []string
	for _, m := range ways {
		for _, in := range states {
			c := &conditions{args: &args}
			c.add("generation = ?", generation)
			q.where(c)
			m.where(c)
			if in != 0 {
				c.add("state = ?", int64(in))
			}
			if m.UpdatedAt != nil { // the sign keeps the engine from walking along created_at
				c.all[len(c.all)-1] += " order by +created_at desc, +id desc"
			} else {
				c.all[len(c.all)-1] += order
			}
			args = append(args, q.Limit)
			parts = append(parts, "select "+columns+" from telephony_call where "+strings.Join(c.all, " and ")+fmt.Sprintf(" limit $%d", len(args)))
		}
	}
	if len(parts) == 1 {
		return parts[0], args
	}
	for i, part := range parts {
		parts[i] = "select " + columns + " from (" + part + fmt.Sprintf(") as t%d", i)
	}
	args = append(args, q.Limit)
	return strings.Join(parts, " union ") + order + fmt.Sprintf(" limit $%d", len(args)), args
}

func (q *callQuery) where(c *conditions) {
	if q.Direction != directionUnknown {
		c.add("direction = ?", int64(q.Direction))
	}
	if q.Queue != "" {
		c.add("queue = ?", q.Queue)
	}
	if q.Their != nil {
		c.add("their = ?", q.Their[:])
	}
	if q.Our != nil {
		c.add("our = ?", q.Our[:])
	}
	if q.From != nil {
		c.add("created_at >= ?", store.MicrosOf(*q.From))
	}
	if q.To != nil {
		c.add("created_at <= ?", store.MicrosOf(*q.To))
	}
	if q.Before != nil {
		c.add("(created_at, id) < (?, ?)", q.Before.CreatedAt, q.Before.ID)
	}
}

func (m *callMatch) where(c *conditions) {
	if m.None {
		c.add("1 = 0")
	}
	if m.ID != 0 {
		c.add("id = ?", m.ID)
	}
	if m.Call != nil {
		c.add("call = ?", m.Call[:])
	}
	if m.State != 0 {
		c.add("state = ?", int64(m.State))
	}
	if t := m.CreatedAt; t != nil {
		c.add("created_at between ? and ?", store.MicrosOf(t.From), store.MicrosOf(t.To))
	}
	if t := m.UpdatedAt; t != nil {
		c.add("updated_at between ? and ?", store.MicrosOf(t.From), store.MicrosOf(t.To))
	}
}

// brief gives the calls of q without what is personal.
func (s *callStore) brief(ctx context.Context, q callQuery) (out []callRow, err error) {
	h, err := readHead(ctx, s.db.Read())
	if err != nil {
		return nil, err
	}
	text, args := q.sql("id, name, state, created_at, updated_at", h.Generation)
	err = store.Each(ctx, s.db.Read(), text, args, func(scan func(...any) error) error {
		r := callRow{facts: &facts{}}
		if err := scan(&r.ID, &r.Name, &r.facts.State, &r.facts.First, &r.facts.Last); err != nil {
			return err
		}
		out = append(out, r)
		return nil
	})
	return out, err
}

const callColumns = `id, name, facts, subject, sealed, created_at`

// list gives the calls of q.
func (s *callStore) list(ctx context.Context, q callQuery) ([]callRow, error) {
	h, err := readHead(ctx, s.db.Read())
	if err != nil {
		return nil, err
	}
	text, args := q.sql(callColumns, h.Generation)
	return eachCall(ctx, s.db.Read(), text, args)
}

// get gives one call; none if there is none.
func (s *callStore) get(ctx context.Context, call seal.Index) ([]callRow, error) {
	return eachCall(ctx, s.db.Read(), `select `+callColumns+` from telephony_call where generation = (select generation from telephony_head where one = 1) and call = $1`, []any{call[:]})
}

func eachCall(ctx context.Context, q store.Querier, text string, args []any) (out []callRow, err error) {
	err = store.Each(ctx, q, text, args, func(scan func(...any) error) error {
		var r callRow
		var told, subject []byte
		var created int64
		err := scan(&r.ID, &r.Name, &told, &subject, &r.Sealed, &created)
		if err != nil {
			return err
		}
		if r.facts, err = decodeFacts(told); err != nil {
			return err
		}
		r.Subject = seal.Subject(subject)
		out = append(out, r)
		return nil
	})
	return out, err
}
