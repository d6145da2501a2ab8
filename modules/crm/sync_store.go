package crm

import (
	"cmp"
	"context"
	"database/sql"
	"maps"
	"slices"
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
	// Nothing sealed is written again as nothing, which is not null.
	r := copyRow{state: copyState(c.state.V), sealed: append([]byte{}, c.sealed...), sentAt: c.sentAt.V.Time()}
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
			trips := map[seal.Index]*wantedTrip{}
			if err := s.users(ctx, tx, ids, of, trips); err != nil {
				return err
			}
			if err := s.dirty(ctx, tx, ids, of, trips); err != nil {
				return err
			}
			if err := s.trips(ctx, tx, trips); err != nil {
				return err
			}
		}
		return nil
	})
}

// wantedTrip is a trip that is to be read: as one that is dirty, as the last one
// of a user, or both.
type wantedTrip struct {
	dirty  *object
	lastOf *unit
}

func wantTrip(trips map[seal.Index]*wantedTrip, entity seal.Index) *wantedTrip {
	w := trips[entity]
	if w == nil {
		w = &wantedTrip{}
		trips[entity] = w
	}
	return w
}

// users reads the users, and finds the last trip of each that the CRM has.
func (s *syncStore) users(ctx context.Context, tx store.Querier, ids []any, of map[seal.Index]*unit, trips map[seal.Index]*wantedTrip) error {
	return store.Each(ctx, tx, `select u.entity, u.subject, u.sealed, (select count(*) from crm_dead_letter x where x.entity = u.entity),
		(select l.entity from crm_trip l join crm_copy k on k.entity = l.entity and k.state = 2
			where l.owner = u.entity order by l.started desc, l.happened_at desc, l.seq desc limit 1), `+copyColumns+`
		from crm_user u left join crm_copy c on c.entity = u.entity where u.entity in `+store.Values(1, len(ids), 1), ids, func(scan func(...any) error) error {
		o, c := &object{kind: kindUser}, copyScan{}
		var dead int64
		var last []byte
		if err := scan(c.into(&o.entity, &o.subject, &o.sealed, &dead, &last)...); err != nil {
			return err
		}
		o.copy, o.dead = c.row(), dead > 0
		of[o.entity].user = o
		if last != nil {
			wantTrip(trips, seal.Index(last)).lastOf = of[o.entity]
		}
		return nil
	})
}

// maxDirty is how many users and trips are looked at together; what is more
// waits for its unit's next turn.
const maxDirty = 2000

// dirty reads the marks of units whose users are known already.
func (s *syncStore) dirty(ctx context.Context, tx store.Querier, ids []any, of map[seal.Index]*unit, trips map[seal.Index]*wantedTrip) error {
	args := append([]any{maxDirty}, ids...)
	return store.Each(ctx, tx, `select unit, entity, mark from crm_dirty where unit in `+store.Values(1, len(ids), 2)+` order by unit, entity limit $1`, args, func(scan func(...any) error) error {
		var unit, entity seal.Index
		var mark int64
		if err := scan(&unit, &entity, &mark); err != nil {
			return err
		}
		u := of[unit]
		if entity == unit && u.user != nil {
			u.user.dirty, u.user.mark = true, mark
			return nil
		}
		o := &object{kind: kindTrip, entity: entity, dirty: true, mark: mark}
		u.trips = append(u.trips, o)
		wantTrip(trips, entity).dirty = o
		return nil
	})
}

// trips reads trips. One that is not there stays as it is.
func (s *syncStore) trips(ctx context.Context, tx store.Querier, trips map[seal.Index]*wantedTrip) error {
	for rest := sortedKeys(trips); len(rest) > 0; {
		n := store.Chunk(len(rest))
		args := make([]any, n)
		for i, entity := range rest[:n] {
			args[i] = entity
		}
		rest = rest[n:]
		err := store.Each(ctx, tx, `select t.entity, t.subject, t.sealed, t.owner, t.started, t.happened_at, t.seq, (select count(*) from crm_dead_letter x where x.entity = t.entity), `+copyColumns+`
			from crm_trip t left join crm_copy c on c.entity = t.entity where t.entity in `+store.Values(1, n, 1), args, func(scan func(...any) error) error {
			o, c := object{kind: kindTrip}, copyScan{}
			var dead int64
			if err := scan(c.into(&o.entity, &o.subject, &o.sealed, &o.owner, &o.order[0], &o.order[1], &o.order[2], &dead)...); err != nil {
				return err
			}
			o.copy, o.dead = c.row(), dead > 0
			w := trips[o.entity]
			if w.lastOf != nil {
				last := o
				w.lastOf.last = &last
			}
			if w.dirty != nil {
				o.dirty, o.mark = true, w.dirty.mark
				*w.dirty = o
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
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

// taken tells whether an object of the CRM belongs to another than asks: by the
// CRM's own id, or because its id is the one that something has at the platform.
func (s *syncStore) taken(ctx context.Context, asks *object, remote, entity seal.Index) (bool, error) {
	var n int
	err := s.db.Read().QueryRowContext(ctx, `select count(*) from crm_copy where kind = $1 and (remote = $2 or entity = $3) and entity <> $4`, int(asks.kind), remote, entity, asks.entity).Scan(&n)
	return n > 0, err
}

// verdict is what a worker did with a unit.
type verdict struct {
	unit    seal.Index
	claim   int64
	until   time.Time // from then on another one may have the unit
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

// settle writes verdicts. Who comes too late may know less than what is there by
// now: he only casts doubt on what he sent, and whoever has the unit sends it again.
func (s *syncStore) settle(ctx context.Context, verdicts []verdict, now time.Time) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		inTime, late, err := s.sift(ctx, tx, verdicts, now)
		if err != nil {
			return err
		}
		if err := s.keep(ctx, tx, inTime, late); err != nil {
			return err
		}
		if err := s.clear(ctx, tx, inTime); err != nil {
			return err
		}
		later := map[dirtyKey]bool{}
		for _, v := range verdicts {
			for _, user := range v.later {
				later[dirtyKey{user, user}] = true
			}
		}
		for _, v := range inTime {
			if err := insertDead(ctx, tx, v.dead); err != nil {
				return err
			}
			for _, entity := range v.alive {
				if _, err := tx.ExecContext(ctx, `delete from crm_dead_letter where entity = $1`, entity); err != nil {
					return err
				}
			}
		}
		if err := markDirty(ctx, tx, later, now); err != nil {
			return err
		}
		return s.leave(ctx, tx, verdicts, now)
	})
}

// sift tells the verdicts of those who have their units still from the ones of
// those whose units another one took when their time was over.
func (s *syncStore) sift(ctx context.Context, tx store.Querier, verdicts []verdict, now time.Time) (inTime, late []verdict, err error) {
	for _, v := range verdicts {
		claim := v.claim
		if !now.Before(v.until) {
			err := tx.QueryRowContext(ctx, `select claim from crm_unit where unit = $1`, v.unit).Scan(&claim)
			if store.IsNotFound(err) {
				claim, err = 0, nil // he is done with it
			}
			if err != nil {
				return nil, nil, err
			}
		}
		if claim == v.claim {
			inTime = append(inTime, v)
		} else {
			late = append(late, v)
		}
	}
	return inTime, late, nil
}

// keep writes what the CRM has.
func (s *syncStore) keep(ctx context.Context, tx store.Querier, inTime, late []verdict) error {
	sure, doubtful := map[seal.Index]copied{}, map[seal.Index]copied{} // the newest of each
	for _, v := range inTime {
		for _, c := range v.copies {
			sure[c.entity] = c
		}
	}
	for _, v := range late {
		for _, c := range v.copies {
			c.doubt()
			doubtful[c.entity] = c
		}
	}
	err := s.insertCopies(ctx, tx, sure, `state = excluded.state, subject = excluded.subject, digest = excluded.digest, remote = excluded.remote,
		sealed = excluded.sealed, sent_at = excluded.sent_at`)
	if err == nil {
		err = s.insertCopies(ctx, tx, doubtful, `digest = excluded.digest`)
	}
	return err
}

// insertCopies inserts copies, or changes those that are there.
func (s *syncStore) insertCopies(ctx context.Context, tx store.Querier, copies map[seal.Index]copied, change string) error {
	args := make([]any, 0, 8*len(copies))
	for _, entity := range sortedKeys(copies) {
		c := copies[entity]
		args = append(args, entity, int(c.kind), int64(c.state), c.subject, c.digest, c.remote, c.sealed, store.MicrosOf(c.sentAt))
	}
	return store.Insert(ctx, tx, `insert into crm_copy (entity, kind, state, subject, digest, remote, sealed, sent_at) values `, 8, args, ` on conflict (entity) do update set `+change)
}

// fewMarks is how many marks of a unit are at most looked for among all that it
// has.
const fewMarks = 8

// clear takes away the marks that are dealt with; what got another one since
// keeps it. No two marks are alike.
func (s *syncStore) clear(ctx context.Context, tx store.Querier, verdicts []verdict) error {
	var units, marks []any
	for _, v := range verdicts {
		if len(v.clear) > fewMarks {
			if err := s.clearUnit(ctx, tx, v); err != nil {
				return err
			}
			continue
		}
		for _, o := range v.clear {
			units, marks = append(units, v.unit), append(marks, o.mark)
		}
	}
	for len(units) > 0 {
		n := store.Chunk(len(units))
		if _, err := tx.ExecContext(ctx, `delete from crm_dirty where unit in `+store.Values(1, n, 1)+` and mark in `+store.Values(1, n, n+1), slices.Concat(units[:n], marks[:n])...); err != nil {
			return err
		}
		units, marks = units[n:], marks[n:]
	}
	return nil
}

func (s *syncStore) clearUnit(ctx context.Context, tx store.Querier, v verdict) error {
	for rest := v.clear; len(rest) > 0; {
		n := store.Chunk(len(rest))
		args := make([]any, 1+2*n)
		args[0] = v.unit
		for i, o := range rest[:n] {
			args[1+i], args[1+n+i] = o.entity, o.mark
		}
		rest = rest[n:]
		if _, err := tx.ExecContext(ctx, `delete from crm_dirty where unit = $1 and entity in `+store.Values(1, n, 2)+` and mark in `+store.Values(1, n, n+2), args...); err != nil {
			return err
		}
	}
	return nil
}

// leave gives up the units that workers are done with, as far as they still have
// them.
func (s *syncStore) leave(ctx context.Context, tx store.Querier, verdicts []verdict, now time.Time) error {
	left := map[int64][]any{} // units in which there is nothing to do, by claims
	for _, v := range verdicts {
		if !v.done {
			continue
		}
		if !v.due.IsZero() {
			failed := 0
			if v.failed {
				failed = 1
			}
			if _, err := tx.ExecContext(ctx, `update crm_unit set due_at = $1, claim = 0, attempts = attempts + $2, last_error = $3 where unit = $4 and claim = $5`,
				store.MicrosOf(v.due), failed, v.err, v.unit, v.claim); err != nil {
				return err
			}
			continue
		}
		if len(v.waiting) > 0 {
			more, err := s.more(ctx, tx, v)
			if err != nil {
				return err
			}
			if !more {
				if _, err := tx.ExecContext(ctx, `delete from crm_unit where unit = $1 and claim = $2`, v.unit, v.claim); err != nil {
					return err
				}
				continue
			}
		}
		left[v.claim] = append(left[v.claim], v.unit)
	}
	for _, claim := range slices.Sorted(maps.Keys(left)) {
		for units := left[claim]; len(units) > 0; {
			n := store.Chunk(len(units))
			res, err := tx.ExecContext(ctx, `delete from crm_unit where claim = $1 and unit in `+store.Values(1, n, 2)+` and not exists (select 1 from crm_dirty d where d.unit = crm_unit.unit)`,
				slices.Concat([]any{claim}, units[:n])...)
			if err != nil {
				return err
			}
			gone, err := res.RowsAffected()
			if err != nil {
				return err
			}
			if gone < int64(n) { // some were marked meanwhile, or taken away
				if _, err := tx.ExecContext(ctx, `update crm_unit set due_at = $1, claim = 0, attempts = 0, last_error = '' where claim = $2 and unit in `+store.Values(1, n, 3),
					slices.Concat([]any{store.MicrosOf(now), claim}, units[:n])...); err != nil {
					return err
				}
			}
			units = units[n:]
		}
	}
	return nil
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
