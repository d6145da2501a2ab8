package crm

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// foldStore folds events into what the CRM should show. It is the only one that
// writes users and trips.
type foldStore struct{ db *store.DB }

// place is where an event stands in its log.
type place struct {
	log string
	seq int64
	at  store.Micros
}

// newerThan tells which of two events of one user or trip is the later one: in
// one log by its order; in different ones by their times, and then in a way that
// is the same whenever they are compared.
func (p place) newerThan(q place) bool {
	if p.log == q.log {
		return p.seq > q.seq
	}
	return cmp.Or(cmp.Compare(p.at, q.at), cmp.Compare(p.log, q.log), cmp.Compare(p.seq, q.seq)) > 0
}

// notOlder is its opposite in SQL, for the row that is there and the one to come:
// an event that comes again is applied again.
func notOlder(table string) string {
	return `(` + table + `.log = excluded.log and excluded.seq >= ` + table + `.seq or ` + table + `.log <> excluded.log and
		(excluded.happened_at, excluded.log, excluded.seq) > (` + table + `.happened_at, ` + table + `.log, ` + table + `.seq))`
}

// userRow is a user as the newest event of a batch has it.
type userRow struct {
	place
	entity  seal.Index
	subject seal.Subject
	sealed  []byte
}

// tripRow is a trip as the newest event of a batch has it.
type tripRow struct {
	userRow
	owner   seal.Index
	started int64
}

// folded is a batch of events, with at most one row for each user and trip.
type folded struct {
	users     map[seal.Index]userRow
	trips     map[seal.Index]tripRow
	dead      []deadLetter
	positions map[string]position
}

// position is how far a log was read.
type position struct {
	Log      string
	Seq      int64
	At       store.Micros
	Events   int64
	FoldedAt store.Micros
}

// apply writes a batch, and gives which users and trips it changed. Older
// events than those that are there change nothing.
func (s *foldStore) apply(ctx context.Context, f *folded, now time.Time) (changed map[seal.Index]bool, err error) {
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		changed = map[seal.Index]bool{}
		dirty := map[dirtyKey]bool{}
		if err := s.users(ctx, tx, f, changed); err != nil {
			return err
		}
		for entity := range changed {
			dirty[dirtyKey{entity, entity}] = true
		}
		if err := s.trips(ctx, tx, f, changed, dirty); err != nil {
			return err
		}
		if err := markDirty(ctx, tx, dirty, now); err != nil {
			return err
		}
		if err := insertDead(ctx, tx, f.dead); err != nil {
			return err
		}
		return s.positions(ctx, tx, f.positions)
	})
	return changed, err
}

func sortedKeys[V any](m map[seal.Index]V) []seal.Index {
	return slices.SortedFunc(maps.Keys(m), func(a, b seal.Index) int { return bytes.Compare(a[:], b[:]) })
}

func (s *foldStore) users(ctx context.Context, tx store.Querier, f *folded, changed map[seal.Index]bool) error {
	args := make([]any, 0, 6*len(f.users))
	for _, entity := range sortedKeys(f.users) { // one order, so that instances never wait for each other in a circle
		u := f.users[entity]
		args = append(args, u.entity, u.subject, u.sealed, []byte(u.log), u.seq, u.at)
	}
	return store.InsertEach(ctx, tx, `insert into crm_user (entity, subject, sealed, log, seq, happened_at) values `, 6, args,
		` on conflict (entity) do update set subject = excluded.subject, sealed = excluded.sealed, log = excluded.log, seq = excluded.seq, happened_at = excluded.happened_at
		where `+notOlder("crm_user")+` returning entity`, func(scan func(...any) error) error {
			var entity seal.Index
			err := scan(&entity)
			changed[entity] = true
			return err
		})
}

func (s *foldStore) trips(ctx context.Context, tx store.Querier, f *folded, changed map[seal.Index]bool, dirty map[dirtyKey]bool) error {
	if len(f.trips) == 0 {
		return nil
	}
	entities := sortedKeys(f.trips)
	before, err := s.owners(ctx, tx, entities)
	if err != nil {
		return err
	}
	args := make([]any, 0, 9*len(f.trips))
	for _, entity := range entities {
		t := f.trips[entity]
		args = append(args, t.entity, t.owner, t.owner, t.subject, t.sealed, t.started, []byte(t.log), t.seq, t.at)
	}
	return store.InsertEach(ctx, tx, `insert into crm_trip (entity, unit, owner, subject, sealed, started, log, seq, happened_at) values `, 9, args,
		` on conflict (entity) do update set owner = excluded.owner, subject = excluded.subject, sealed = excluded.sealed, started = excluded.started,
		log = excluded.log, seq = excluded.seq, happened_at = excluded.happened_at where `+notOlder("crm_trip")+` returning entity, unit`, func(scan func(...any) error) error {
			var entity, unit seal.Index
			if err := scan(&entity, &unit); err != nil {
				return err
			}
			changed[entity] = true
			t := f.trips[entity]
			dirty[dirtyKey{unit, entity}] = true
			owners := []seal.Index{t.owner} // they show another last trip, maybe
			if was, ok := before[entity]; ok && was != t.owner {
				owners = append(owners, was)
			}
			for _, owner := range owners {
				if owner != entity {
					dirty[dirtyKey{owner, owner}] = true
				}
			}
			return nil
		})
}

// owners tells whose trips were before.
func (s *foldStore) owners(ctx context.Context, tx store.Querier, trips []seal.Index) (map[seal.Index]seal.Index, error) {
	owners := map[seal.Index]seal.Index{}
	for len(trips) > 0 {
		n := store.Chunk(len(trips))
		args := make([]any, n)
		for i, e := range trips[:n] {
			args[i] = e
		}
		trips = trips[n:]
		err := store.Each(ctx, tx, `select entity, owner from crm_trip where entity in `+store.Values(1, n, 1), args, func(scan func(...any) error) error {
			var entity, owner seal.Index
			err := scan(&entity, &owner)
			owners[entity] = owner
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return owners, nil
}

// dirtyKey names a user or trip and the unit that it is sent with.
type dirtyKey struct{ unit, entity seal.Index }

// markDirty has users and trips looked at. What waits for the CRM keeps waiting,
// and who has a unit in hand sees by the mark that something came meanwhile.
func markDirty(ctx context.Context, tx store.Querier, dirty map[dirtyKey]bool, now time.Time) error {
	keys := slices.SortedFunc(maps.Keys(dirty), func(a, b dirtyKey) int {
		return cmp.Or(bytes.Compare(a.unit[:], b.unit[:]), bytes.Compare(a.entity[:], b.entity[:]))
	})
	rows, units := make([]any, 0, 4*len(keys)), make([]any, 0, 5*len(keys))
	for i, k := range keys {
		rows = append(rows, k.unit, k.entity, rand.Int64(), store.MicrosOf(now)) // a mark like no other
		if i == 0 || keys[i-1].unit != k.unit {
			units = append(units, k.unit, store.MicrosOf(now), 0, 0, "")
		}
	}
	err := store.Insert(ctx, tx, `insert into crm_dirty (unit, entity, mark, since) values `, 4, rows,
		` on conflict (unit, entity) do update set mark = excluded.mark`)
	if err != nil {
		return err
	}
	// One that is there is written all the same: PostgreSQL does not take "do
	// nothing" for a read, and would let another transaction, which sees no mark yet,
	// delete it meanwhile.
	return store.Insert(ctx, tx, `insert into crm_unit (unit, due_at, claim, attempts, last_error) values `, 5, units, ` on conflict (unit) do update set claim = crm_unit.claim`)
}

func (s *foldStore) positions(ctx context.Context, tx store.Querier, positions map[string]position) error {
	var args []any
	for _, log := range slices.Sorted(maps.Keys(positions)) {
		p := positions[log]
		args = append(args, []byte(p.Log), p.Seq, p.At, p.Events, p.FoldedAt)
	}
	return store.Insert(ctx, tx, `insert into crm_position (log, seq, happened_at, events, folded_at) values `, 5, args,
		` on conflict (log) do update set seq = case when excluded.seq > crm_position.seq then excluded.seq else crm_position.seq end,
		happened_at = case when excluded.seq > crm_position.seq then excluded.happened_at else crm_position.happened_at end,
		events = crm_position.events + excluded.events, folded_at = excluded.folded_at`)
}
