package crm

import (
	"cmp"
	"context"
	"database/sql"
	"time"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// syncStore hands out units of work and keeps what the CRM shows.
type syncStore struct{ db *store.DB }

// copyState is what is known of an object's copy at the CRM.
type copyState int64

const (
	copyNone   copyState = iota // it was never sent
	copyTried                   // its creation was tried: it may be there or not
	copyExists                  // it is there
)

// copyRow is what the CRM shows of a user or trip, as far as it is known.
type copyRow struct {
	state   copyState
	subject seal.Subject
	digest  seal.Index  // of what was sent last
	remote  *seal.Index // of the id, if the CRM gave one of its own
	sealed  []byte      // copyPart
	sentAt  time.Time
}

// doubt notes that the CRM may show something else than what was sent last, as
// when a replacement was not answered, and tells whether that is news: should
// the state go back to what was sent before, it has to be sent all the same.
func (c *copyRow) doubt() bool {
	sure := c.state == copyExists && c.digest != seal.Index{}
	c.digest = seal.Index{}
	return sure
}

// copyPart is what is sealed of a copy.
type copyPart struct {
	Remote string `json:"remote,omitempty" pii:"id"`     // the id that the CRM gave
	Tried  []byte `json:"tried,omitempty" pii:"content"` // what its creation was tried with
}

// object is a user or trip that may have to be sent.
type object struct {
	kind    kind
	entity  seal.Index
	subject seal.Subject
	sealed  []byte // its newest event; nil if there is none
	owner   seal.Index
	dirty   bool
	mark    int64
	order   [3]int64 // of trips: the last one has the greatest
	dead    bool     // the CRM refused it
	copy    copyRow
}

// laterThan tells which of two trips is the last one.
func (o *object) laterThan(p *object) bool {
	return cmp.Or(cmp.Compare(o.order[0], p.order[0]), cmp.Compare(o.order[1], p.order[1]), cmp.Compare(o.order[2], p.order[2])) > 0
}

// unit is a user and the trips that have to be sent with that user.
type unit struct {
	id       seal.Index
	claim    int64
	until    time.Time // whoever claimed it has it
	attempts int64
	lost     bool    // nobody knows what the one who had it before has sent
	user     *object // nil: no event of that user came yet
	trips    []*object
	last     *object // the last trip that the CRM has
	ciphers  map[seal.Subject]*seal.Cipher
}

// claim takes units that are due until lease, for the holder of claim.
func (s *syncStore) claim(ctx context.Context, now, lease time.Time, claim int64, limit int) (units []*unit, err error) {
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		units = nil
		err := store.Each(ctx, tx, `select unit, attempts, claim from crm_unit where due_at <= $1 order by due_at, unit limit $2`, []any{store.MicrosOf(now), limit}, func(scan func(...any) error) error {
			u := &unit{claim: claim, until: lease}
			var before int64
			err := scan(&u.id, &u.attempts, &before)
			u.lost = before != 0
			units = append(units, u)
			return err
		})
		if err != nil {
			return err
		}
		for rest := units; len(rest) > 0; {
			n := store.Chunk(len(rest))
			args := []any{store.MicrosOf(lease), claim}
			for _, u := range rest[:n] {
				args = append(args, u.id)
			}
			rest = rest[n:]
			if _, err := tx.ExecContext(ctx, `update crm_unit set due_at = $1, claim = $2 where unit in `+store.Values(1, n, 3), args...); err != nil {
				return err
			}
		}
		return nil
	})
	return units, err
}

const copyColumns = `c.state, c.subject, c.digest, c.remote, c.sealed, c.sent_at`

// copyScan reads copyColumns of a row that may not be there.
type copyScan struct {
	state           sql.Null[int64]
	subject, digest []byte
	remote, sealed  []byte
	sentAt          sql.Null[store.Micros]
}

func (c *copyScan) into(before ...any) []any {
	return append(before, &c.state, &c.subject, &c.digest, &c.remote, &c.sealed, &c.sentAt)
}

func (c *copyScan) row() copyRow {
	r := copyRow{state: copyState(c.state.V), sealed: c.sealed, sentAt: c.sentAt.V.Time()}
	copy(r.digest[:], c.digest)
	copy(r.subject[:], c.subject)
	if c.remote != nil {
		r.remote = new(seal.Index(c.remote))
	}
	return r
}

// load reads what units need to be sent, as of one moment: a mark that is newer
// than the state it came with would settle what was never sent.
func (s *syncStore) load(ctx context.Context, units []*unit) error {
	return s.db.ReadTx(ctx, func(tx store.Querier) error {
		of := make(map[seal.Index]*unit, len(units))
		for _, u := range units {
			u.user, u.trips, u.last = nil, nil, nil
			of[u.id] = u
		}
		for rest := units; len(rest) > 0; {
			n := store.Chunk(len(rest))
			ids := make([]any, n)
			for i, u := range rest[:n] {
				ids[i] = u.id
			}
			rest = rest[n:]
			for _, read := range []func(context.Context, store.Querier, []any, map[seal.Index]*unit) error{s.users, s.dirty, s.last} {
				if err := read(ctx, tx, ids, of); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (s *syncStore) users(ctx context.Context, tx store.Querier, ids []any, of map[seal.Index]*unit) error {
	return store.Each(ctx, tx, `select u.entity, u.subject, u.sealed, (select count(*) from crm_dead_letter x where x.entity = u.entity), `+copyColumns+` from crm_user u left join crm_copy c on c.entity = u.entity
		where u.entity in `+store.Values(1, len(ids), 1), ids, func(scan func(...any) error) error {
		o, c := &object{kind: kindUser}, copyScan{}
		var dead int64
		if err := scan(c.into(&o.entity, &o.subject, &o.sealed, &dead)...); err != nil {
			return err
		}
		o.copy, o.dead = c.row(), dead > 0
		of[o.entity].user = o
		return nil
	})
}

// maxDirty is how many users and trips are looked at together; what is more
// waits for its unit's next turn.
const maxDirty = 2000

func (s *syncStore) dirty(ctx context.Context, tx store.Querier, ids []any, of map[seal.Index]*unit) error {
	args := append([]any{maxDirty}, ids...)
	return store.Each(ctx, tx, `select d.unit, d.entity, d.mark, t.subject, t.sealed, t.owner, t.started, t.happened_at, t.seq,
		(select count(*) from crm_dead_letter x where x.entity = d.entity), `+copyColumns+` from crm_dirty d
		left join crm_trip t on t.entity = d.entity left join crm_copy c on c.entity = d.entity
		where d.unit in `+store.Values(1, len(ids), 2)+` order by d.unit, d.entity limit $1`, args, func(scan func(...any) error) error {
		o, c := &object{kind: kindTrip, dirty: true}, copyScan{}
		var unit seal.Index
		var subject, owner []byte
		var started, at, seq sql.Null[int64]
		var dead int64
		if err := scan(c.into(&unit, &o.entity, &o.mark, &subject, &o.sealed, &owner, &started, &at, &seq, &dead)...); err != nil {
			return err
		}
		u := of[unit]
		if o.entity == unit && u.user != nil {
			u.user.dirty, u.user.mark = true, o.mark
			return nil
		}
		copy(o.subject[:], subject)
		copy(o.owner[:], owner)
		o.copy, o.order, o.dead = c.row(), [3]int64{started.V, at.V, seq.V}, dead > 0
		u.trips = append(u.trips, o)
		return nil
	})
}

// last finds the last trip of each user that the CRM has.
func (s *syncStore) last(ctx context.Context, tx store.Querier, ids []any, of map[seal.Index]*unit) error {
	return store.Each(ctx, tx, `select t.owner, t.entity, t.subject, t.sealed, t.started, t.happened_at, t.seq, `+copyColumns+` from crm_user u
		join crm_trip t on t.entity = (select l.entity from crm_trip l join crm_copy k on k.entity = l.entity and k.state = 2
			where l.owner = u.entity order by l.started desc, l.happened_at desc, l.seq desc limit 1)
		join crm_copy c on c.entity = t.entity where u.entity in `+store.Values(1, len(ids), 1), ids, func(scan func(...any) error) error {
		o, c := &object{kind: kindTrip}, copyScan{}
		if err := scan(c.into(&o.owner, &o.entity, &o.subject, &o.sealed, &o.order[0], &o.order[1], &o.order[2])...); err != nil {
			return err
		}
		o.copy = c.row()
		of[o.owner].last = o
		return nil
	})
}

// copiesOf reads copies.
func (s *syncStore) copiesOf(ctx context.Context, entities ...seal.Index) (map[seal.Index]copyRow, error) {
	copies := map[seal.Index]copyRow{}
	for len(entities) > 0 {
		n := store.Chunk(len(entities))
		args := make([]any, n)
		for i, e := range entities[:n] {
			args[i] = e
		}
		entities = entities[n:]
		err := store.Each(ctx, s.db.Read(), `select c.entity, `+copyColumns+` from crm_copy c where c.entity in `+store.Values(1, n, 1), args, func(scan func(...any) error) error {
			var entity seal.Index
			var c copyScan
			err := scan(c.into(&entity)...)
			copies[entity] = c.row()
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return copies, nil
}

// taken tells whether an object of the CRM belongs to something already: by the
// CRM's own id, or because its id is the one that something has at the platform.
func (s *syncStore) taken(ctx context.Context, k kind, remote, entity seal.Index) (bool, error) {
	var n int
	err := s.db.Read().QueryRowContext(ctx, `select count(*) from crm_copy where kind = $1 and (remote = $2 or entity = $3)`, int(k), remote, entity).Scan(&n)
	return n > 0, err
}

// verdict is what a worker did with a unit.
type verdict struct {
	unit    seal.Index
	claim   int64
	copies  []copied
	clear   []*object    // whose marks are dealt with
	dead    []deadLetter // what the CRM refuses
	alive   []seal.Index // what it takes again
	later   []seal.Index // users who show another last trip now, maybe
	done    bool         // the worker leaves the unit
	due     time.Time    // if set, the unit is due then; else it is gone, unless something is left
	waiting []*object    // trips that wait for their user
	failed  bool         // something went wrong with it, and not with all
	err     string
}

// copied is a copy that changed.
type copied struct {
	entity seal.Index
	kind   kind
	copyRow
}

// settle writes verdicts. What the CRM has counts, also if the unit was taken
// away meanwhile.
func (s *syncStore) settle(ctx context.Context, verdicts []verdict, now time.Time) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		copies := map[seal.Index]copied{} // the newest of each
		for _, v := range verdicts {
			for _, c := range v.copies {
				copies[c.entity] = c
			}
		}
		args := make([]any, 0, 8*len(copies))
		for _, entity := range sortedKeys(copies) {
			c := copies[entity]
			args = append(args, entity, int(c.kind), int64(c.state), c.subject, c.digest, c.remote, c.sealed, store.MicrosOf(c.sentAt))
		}
		err := store.Insert(ctx, tx, `insert into crm_copy (entity, kind, state, subject, digest, remote, sealed, sent_at) values `, 8, args,
			` on conflict (entity) do update set state = excluded.state, subject = excluded.subject, digest = excluded.digest, remote = excluded.remote,
			sealed = excluded.sealed, sent_at = excluded.sent_at`)
		if err != nil {
			return err
		}
		for _, v := range verdicts {
			if err := s.settleUnit(ctx, tx, v, now); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *syncStore) settleUnit(ctx context.Context, tx store.Querier, v verdict, now time.Time) error {
	for _, o := range v.clear {
		if _, err := tx.ExecContext(ctx, `delete from crm_dirty where unit = $1 and entity = $2 and mark = $3`, v.unit, o.entity, o.mark); err != nil {
			return err
		}
	}
	if err := insertDead(ctx, tx, v.dead); err != nil {
		return err
	}
	for _, entity := range v.alive {
		if _, err := tx.ExecContext(ctx, `delete from crm_dead_letter where entity = $1`, entity); err != nil {
			return err
		}
	}
	if len(v.later) > 0 {
		dirty := map[dirtyKey]bool{}
		for _, user := range v.later {
			dirty[dirtyKey{user, user}] = true
		}
		if err := markDirty(ctx, tx, dirty, now); err != nil {
			return err
		}
	}
	if !v.done {
		return nil
	}
	if !v.due.IsZero() {
		failed := 0
		if v.failed {
			failed = 1
		}
		_, err := tx.ExecContext(ctx, `update crm_unit set due_at = $1, claim = 0, attempts = attempts + $2, last_error = $3 where unit = $4 and claim = $5`,
			store.MicrosOf(v.due), failed, v.err, v.unit, v.claim)
		return err
	}
	if len(v.waiting) > 0 {
		more, err := s.more(ctx, tx, v)
		if err != nil {
			return err
		}
		if !more {
			_, err := tx.ExecContext(ctx, `delete from crm_unit where unit = $1 and claim = $2`, v.unit, v.claim)
			return err
		}
	}
	res, err := tx.ExecContext(ctx, `delete from crm_unit where unit = $1 and claim = $2 and not exists (select 1 from crm_dirty where unit = $1)`, v.unit, v.claim)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	_, err = tx.ExecContext(ctx, `update crm_unit set due_at = $1, claim = 0, attempts = 0, last_error = '' where unit = $2 and claim = $3`, store.MicrosOf(now), v.unit, v.claim)
	return err
}

// more tells whether there is something to do in a unit but to wait for its
// user, whose next event brings it back. A trip that waits and got another event
// since may have gone to a user who is there.
func (s *syncStore) more(ctx context.Context, tx store.Querier, v verdict) (more bool, err error) {
	waiting := make(map[seal.Index]int64, len(v.waiting))
	for _, t := range v.waiting {
		waiting[t.entity] = t.mark
	}
	// As far as load looks: what is beyond does not keep the unit turning.
	err = store.Each(ctx, tx, `select entity, mark from crm_dirty where unit = $1 order by entity limit $2`, []any{v.unit, min(maxDirty, len(v.waiting)+1)}, func(scan func(...any) error) error {
		var entity seal.Index
		var mark int64
		err := scan(&entity, &mark)
		if was, ok := waiting[entity]; !ok || was != mark {
			more = true
		}
		return err
	})
	return more, err
}
