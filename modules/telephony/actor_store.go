package telephony

import (
	"context"
	"errors"
	"fmt"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// actorStore reads who answers calls and where calls wait. projectionStore
// writes both.
type actorStore struct{ db *store.DB }

// actorQuery selects actors; nil and empty fields do not restrict.
type actorQuery struct {
	Queue    string // who has ever logged in to it
	LoggedIn *bool  // to Queue, or to any
	OnCall   *bool
	After    []byte
	Limit    int
}

// seenActor is what the log says of an actor.
type seenActor struct {
	Actor  seal.Index
	Name   sealedActor
	OnCall bool
	Call   []byte       // the sealed id of the call, where OnCall
	CallAt store.Micros // when the actor entered or left a call for the last time; 0: never
	Queues []actorInQueue
}

// actorInQueue is what the log says of an actor in a queue. Times are 0 for
// what never happened.
type actorInQueue struct {
	Queue              string
	LoggedIn, Paused   bool
	LoggedAt, PausedAt store.Micros
}

// What is told of an actor in a queue. A pause ends with the login it was in.
const (
	loggedInSQL = `q.logged = 1`
	pausedSQL   = `q.logged = 1 and q.paused = 1 and (q.paused_at, q.paused_event) > (q.logged_at, q.logged_event)`
)

// list gives actors in the order of their index.
func (s *actorStore) list(ctx context.Context, q actorQuery) ([]seenActor, error) {
	var out []seenActor
	err := s.db.ReadTx(ctx, func(tx store.Querier) error {
		h, err := readHead(ctx, tx)
		if err != nil {
			return err
		}
		text, args := q.sql(h.Generation)
		out = nil
		err = store.Each(ctx, tx, text, args, func(scan func(...any) error) error {
			var a seenActor
			var actor, subject []byte
			var onCall int64
			if err := scan(&actor, &subject, &a.Name.Sealed, &onCall, &a.CallAt, &a.Call); err != nil {
				return err
			}
			a.Actor, a.Name.Subject, a.OnCall = seal.Index(actor), seal.Subject(subject), onCall == 1
			out = append(out, a)
			return nil
		})
		if err != nil {
			return err
		}
		return readQueuesOf(ctx, tx, h.Generation, out)
	})
	return out, err
}

func (q *actorQuery) sql(generation int64) (text string, args []any) {
	args = []any{generation, int64(stateFinished)}
	where := ` where a.generation = $1`
	add := func(condition string, value any) {
		args = append(args, value)
		where += fmt.Sprintf(condition, len(args))
	}
	inQueue := `exists (select 1 from telephony_actor_queue q where q.generation = a.generation and q.actor = a.actor`
	if q.Queue != "" {
		add(` and `+inQueue+` and q.queue = $%d)`, q.Queue)
		inQueue += fmt.Sprintf(` and q.queue = $%d`, len(args))
	}
	if q.LoggedIn != nil {
		where += ` and ` + not(*q.LoggedIn) + inQueue + ` and ` + loggedInSQL + `)`
	}
	if q.OnCall != nil {
		where += ` and ` + not(*q.OnCall) + `(a.entered = 1 and c.state is not null)`
	}
	if q.After != nil {
		add(` and a.actor > $%d`, q.After)
	}
	args = append(args, q.Limit)
	return `select a.actor, a.subject, a.sealed, case when a.entered = 1 and c.state is not null then 1 else 0 end, a.call_at, c.name
		from telephony_actor a left join telephony_call c on c.generation = a.generation and c.call = a.call and c.state <> $2` + where +
		fmt.Sprintf(` order by a.actor limit $%d`, len(args)), args
}

func not(yes bool) string {
	if yes {
		return ""
	}
	return "not "
}

// readQueuesOf fills in the queues of actors, who are in order.
func readQueuesOf(ctx context.Context, tx store.Querier, generation int64, actors []seenActor) error {
	for rest := actors; len(rest) > 0; {
		n := store.Chunk(len(rest))
		args := []any{generation}
		at := make(map[seal.Index]*seenActor, n)
		for i := range n {
			args = append(args, rest[i].Actor[:])
			at[rest[i].Actor] = &rest[i]
		}
		rest = rest[n:]
		err := store.Each(ctx, tx, `select q.actor, q.queue, q.logged, case when `+pausedSQL+` then 1 else 0 end, q.logged_at, q.paused_at
			from telephony_actor_queue q where q.generation = $1 and q.actor in `+store.Values(1, n, 2)+` order by q.actor, q.queue`, args,
			func(scan func(...any) error) error {
				var actor []byte
				var in actorInQueue
				var logged, paused int64
				if err := scan(&actor, &in.Queue, &logged, &paused, &in.LoggedAt, &in.PausedAt); err != nil {
					return err
				}
				in.LoggedIn, in.Paused = logged == 1, paused == 1
				a := at[seal.Index(actor)]
				a.Queues = append(a.Queues, in)
				return nil
			})
		if err != nil {
			return err
		}
	}
	return nil
}

// queueQuery selects queues: those that calls are in now, that actors know, or
// that something was counted for since From.
type queueQuery struct {
	From  store.Micros // beginning of an hour
	Alive store.Micros // calls that began earlier are not waiting or ongoing any more
	After string
	Limit int
}

// seenQueue is what is going on in a queue.
type seenQueue struct {
	Queue                          string
	Waiting, Ongoing               int64
	Oldest                         store.Micros // since when the caller waits who has waited longest; 0: nobody waits
	LoggedIn, Paused, OnCall, Free int64
	Since                          counter
}

const queueNamesSQL = `select n.queue from (
	select s.queue from telephony_stat s where s.generation = $1 and s.actor = $2 and s.hour >= $3 and s.calls + s.overflowed <> 0
	union select q.queue from telephony_actor_queue q where q.generation = $1
	union select c.queue from telephony_call c where c.generation = $1 and c.state in ($4, $5) and c.created_at >= $6) n
	where n.queue > $7 order by n.queue limit $8`

// queues gives queues by name.
func (s *actorStore) queues(ctx context.Context, q queueQuery) ([]seenQueue, error) {
	var out []seenQueue
	err := s.db.ReadTx(ctx, func(tx store.Querier) error {
		h, err := readHead(ctx, tx)
		if err != nil {
			return err
		}
		out = nil
		err = store.Each(ctx, tx, queueNamesSQL, []any{h.Generation, []byte{}, q.From, int64(stateWaiting), int64(stateOngoing), q.Alive, q.After, q.Limit},
			func(scan func(...any) error) error {
				var name string
				err := scan(&name)
				out = append(out, seenQueue{Queue: name})
				return err
			})
		if err != nil || len(out) == 0 {
			return err
		}
		r := queueReader{tx, h.Generation, q, out}
		for _, fill := range []func(context.Context) error{r.calls, r.oldest, r.agents, r.onCall, r.counters} {
			if err := fill(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// queueReader fills in what is going on in some queues. Its queries do not
// restrict the queue: that would make engines choose an index over all calls
// that a queue ever had, and there are few queues beside those asked for.
type queueReader struct {
	tx         store.Querier
	generation int64
	query      queueQuery
	queues     []seenQueue
}

// each runs a query whose rows begin with the name of a queue. $1 is the
// generation. A row is read into the fields of got that columns gives, and set
// hands it on.
func (r *queueReader) each(ctx context.Context, text string, args []any, columns func(got *seenQueue) []any, set func(q, got *seenQueue)) error {
	at := make(map[string]*seenQueue, len(r.queues))
	for i := range r.queues {
		at[r.queues[i].Queue] = &r.queues[i]
	}
	return store.Each(ctx, r.tx, text, append([]any{r.generation}, args...), func(scan func(...any) error) error {
		var got seenQueue
		if err := scan(append([]any{&got.Queue}, columns(&got)...)...); err != nil {
			return err
		}
		if q := at[got.Queue]; q != nil {
			set(q, &got)
		}
		return nil
	})
}

const queueCallsSQL = `select c.queue, cast(sum(case when c.state = $2 then 1 else 0 end) as bigint), cast(sum(case when c.state = $3 then 1 else 0 end) as bigint)
	from telephony_call c where c.generation = $1 and c.state in ($2, $3) and c.created_at >= $4 group by c.queue`

func (r *queueReader) calls(ctx context.Context) error {
	return r.each(ctx, queueCallsSQL, []any{int64(stateWaiting), int64(stateOngoing), r.query.Alive},
		func(got *seenQueue) []any { return []any{&got.Waiting, &got.Ongoing} },
		func(q, got *seenQueue) { q.Waiting, q.Ongoing = got.Waiting, got.Ongoing })
}

const queueOldestSQL = `select c.queue, c.created_at, c.facts from telephony_call c
	where c.generation = $1 and c.state = $2 and c.created_at >= $3 order by c.created_at, c.id`

var errSeen = errors.New("nothing that follows can matter")

// oldest looks through the waiting calls, the oldest first. A call waits at
// most since it began: once each queue has a wait older than the next call, it
// is done, which is after some calls.
func (r *queueReader) oldest(ctx context.Context) error {
	open := map[string]*seenQueue{}
	for i := range r.queues {
		if r.queues[i].Waiting > 0 {
			open[r.queues[i].Queue] = &r.queues[i]
		}
	}
	if len(open) == 0 {
		return nil
	}
	err := store.Each(ctx, r.tx, queueOldestSQL, []any{r.generation, int64(stateWaiting), r.query.Alive}, func(scan func(...any) error) error {
		var name string
		var created store.Micros
		var packed []byte
		if err := scan(&name, &created, &packed); err != nil {
			return err
		}
		if q := open[name]; q != nil {
			f, err := decodeFacts(packed)
			if err != nil {
				return err
			}
			if since := f.waitsSince(); q.Oldest == 0 || since < q.Oldest {
				q.Oldest = since
			}
		}
		for name, q := range open {
			if q.Oldest != 0 && q.Oldest <= created {
				delete(open, name)
			}
		}
		if len(open) == 0 {
			return errSeen
		}
		return nil
	})
	if errors.Is(err, errSeen) {
		return nil
	}
	return err
}

// waitsSince is when the call came to a queue for the first time: its caller has
// waited since then, in whatever queue he is now.
func (f *facts) waitsSince() store.Micros {
	for _, m := range f.Marks {
		if m.Kind == kindWaiting {
			return store.Micros(m.At)
		}
	}
	return store.Micros(f.First)
}

const queueAgentsSQL = `select q.queue, count(*), cast(sum(q.paused) as bigint), cast(sum(q.on_call) as bigint), cast(sum(case when q.paused = 0 and q.on_call = 0 then 1 else 0 end) as bigint)
	from (select q.queue, case when ` + pausedSQL + ` then 1 else 0 end as paused, case when a.entered = 1 and c.state <> $2 then 1 else 0 end as on_call
		from telephony_actor_queue q join telephony_actor a on a.generation = q.generation and a.actor = q.actor
		left join telephony_call c on c.generation = a.generation and c.call = a.call
		where q.generation = $1 and ` + loggedInSQL + `) q group by q.queue`

func (r *queueReader) agents(ctx context.Context) error {
	return r.each(ctx, queueAgentsSQL, []any{int64(stateFinished)},
		func(got *seenQueue) []any { return []any{&got.LoggedIn, &got.Paused, &got.OnCall, &got.Free} },
		func(q, got *seenQueue) {
			q.LoggedIn, q.Paused, q.OnCall, q.Free = got.LoggedIn, got.Paused, got.OnCall, got.Free
		})
}

const queueOnCallSQL = `select c.queue, count(*) from telephony_actor a join telephony_call c on c.generation = a.generation and c.call = a.call
	where a.generation = $1 and a.entered = 1 and c.state <> $2
	and not exists (select 1 from telephony_actor_queue q where q.generation = a.generation and q.actor = a.actor and q.queue = c.queue and ` + loggedInSQL + `) group by c.queue`

// onCall adds those who are on a call of a queue without being logged in to it.
func (r *queueReader) onCall(ctx context.Context) error {
	return r.each(ctx, queueOnCallSQL, []any{int64(stateFinished)}, func(got *seenQueue) []any { return []any{&got.OnCall} }, func(q, got *seenQueue) { q.OnCall += got.OnCall })
}

const queueCountersSQL = `select s.queue, ` + statSums + ` from telephony_stat s where s.generation = $1 and s.actor = $2 and s.hour >= $3 group by s.queue`

func (r *queueReader) counters(ctx context.Context) error {
	return r.each(ctx, queueCountersSQL, []any{[]byte{}, r.query.From}, func(got *seenQueue) (to []any) {
		for _, n := range got.Since.fields() {
			to = append(to, n)
		}
		return to
	}, func(q, got *seenQueue) { q.Since = got.Since })
}
