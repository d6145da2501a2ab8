package crm

import (
	"context"
	"strings"
	"time"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// reconcileStore reads what the CRM should show and what is known of what it
// shows, and has users and trips sent again.
type reconcileStore struct{ db *store.DB }

// target is a user or trip with all that decides what the CRM should show of it,
// as of one moment.
type target struct {
	object
	unit      seal.Index
	place     place
	last      *object // of a user: the last trip that the CRM has
	ownerCopy copyRow // of a trip
}

// copyOf gives the copyColumns of a table under another name.
func copyOf(alias string) string {
	return alias + strings.ReplaceAll(strings.TrimPrefix(copyColumns, "c"), " c.", " "+alias+".")
}

var (
	selectUsers = `select u.entity, u.subject, u.sealed, u.log, u.seq, u.happened_at,
		(select count(*) from crm_dirty d where d.unit = u.entity and d.entity = u.entity), (select count(*) from crm_dead_letter x where x.entity = u.entity),
		l.entity, l.subject, l.sealed, (select count(*) from crm_dirty d where d.unit = l.unit and d.entity = l.entity), ` + copyOf("c") + `, ` + copyOf("lc") + ` from crm_user u left join crm_copy c on c.entity = u.entity
		left join crm_trip l on l.entity = (select t.entity from crm_trip t join crm_copy tc on tc.entity = t.entity where t.owner = u.entity and tc.state = 2
			order by t.started desc, t.happened_at desc, t.seq desc limit 1)
		left join crm_copy lc on lc.entity = l.entity where u.entity in `
	selectTrips = `select t.entity, t.subject, t.sealed, t.log, t.seq, t.happened_at,
		(select count(*) from crm_dirty d where d.unit = t.unit and d.entity = t.entity), (select count(*) from crm_dead_letter x where x.entity = t.entity),
		t.unit, t.owner, ` + copyOf("c") + `, ` + copyOf("oc") + ` from crm_trip t left join crm_copy c on c.entity = t.entity left join crm_copy oc on oc.entity = t.owner
		where t.entity in `
)

// find gives those of some users or trips that there are.
func (s *reconcileStore) find(ctx context.Context, k kind, entities []seal.Index) (map[seal.Index]*target, error) {
	out := make(map[seal.Index]*target, len(entities))
	for len(entities) > 0 {
		n := store.Chunk(len(entities))
		args := make([]any, n)
		for i, e := range entities[:n] {
			args[i] = e
		}
		entities = entities[n:]
		err := s.read(ctx, k, store.Values(1, n, 1), args, func(t *target) { out[t.entity] = t })
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// page names the next users or trips in one order.
func (s *reconcileStore) page(ctx context.Context, k kind, after seal.Index, limit int) (out []seal.Index, err error) {
	table := map[kind]string{kindUser: "crm_user", kindTrip: "crm_trip"}[k]
	err = store.Each(ctx, s.db.Read(), `select entity from `+table+` where entity > $1 order by entity limit $2`, []any{after, limit}, func(scan func(...any) error) error {
		var entity seal.Index
		err := scan(&entity)
		out = append(out, entity)
		return err
	})
	return out, err
}

// read is one statement, so that what it gives belongs together.
func (s *reconcileStore) read(ctx context.Context, k kind, values string, args []any, fn func(*target)) error {
	query := selectUsers
	if k == kindTrip {
		query = selectTrips
	}
	return store.Each(ctx, s.db.Read(), query+values, args, func(scan func(...any) error) error {
		t := &target{object: object{kind: k}}
		var log []byte
		var dirty, lastDirty, dead int64
		var own, other copyScan
		into := []any{&t.entity, &t.subject, &t.sealed, &log, &t.place.seq, &t.place.at, &dirty, &dead}
		var entity, subject, sealed []byte // of the last trip
		if k == kindUser {
			into = append(into, &entity, &subject, &sealed, &lastDirty)
		} else {
			into = append(into, &t.unit, &t.owner)
		}
		if err := scan(other.into(own.into(into...)...)...); err != nil {
			return err
		}
		// A trip that came from another user while it was being sent brings this one's
		// mark only when it has been sent again.
		t.dirty = dirty > 0 || lastDirty > 0
		t.place.log, t.dead, t.copy = string(log), dead > 0, own.row()
		switch {
		case k == kindTrip:
			t.ownerCopy = other.row()
		case entity != nil:
			t.last = &object{kind: kindTrip, entity: seal.Index(entity), subject: seal.Subject(subject), sealed: sealed, copy: other.row()}
		}
		if k == kindUser {
			t.unit, t.owner = t.entity, t.entity
		}
		fn(t)
		return nil
	})
}

// byRemote tells whose the CRM's own ids are.
func (s *reconcileStore) byRemote(ctx context.Context, k kind, remotes []seal.Index) (map[seal.Index]seal.Index, error) {
	out := map[seal.Index]seal.Index{}
	for len(remotes) > 0 {
		n := store.Chunk(len(remotes))
		args := []any{int(k)}
		for _, r := range remotes[:n] {
			args = append(args, r)
		}
		remotes = remotes[n:]
		err := store.Each(ctx, s.db.Read(), `select remote, entity from crm_copy where kind = $1 and remote in `+store.Values(1, n, 2), args, func(scan func(...any) error) error {
			var remote, entity seal.Index
			err := scan(&remote, &entity)
			out[remote] = entity
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// again has users and trips sent again, whatever the CRM is known to show.
func (s *reconcileStore) again(ctx context.Context, targets []*target, now time.Time) error {
	if len(targets) == 0 {
		return nil
	}
	return s.db.Tx(ctx, func(tx store.Querier) error {
		dirty := map[dirtyKey]bool{}
		entities := make([]seal.Index, 0, len(targets))
		var renamed []seal.Index // users who get another id, maybe, which their trips bear
		for _, t := range targets {
			entities = append(entities, t.entity)
			dirty[dirtyKey{t.unit, t.entity}] = true
			if t.owner != t.entity { // who shows the trip's id, which may be another one then
				dirty[dirtyKey{t.owner, t.owner}] = true
			}
			if t.kind == kindUser && t.copy.remote != nil {
				renamed = append(renamed, t.entity)
			}
		}
		if err := forget(ctx, tx, entities); err != nil {
			return err
		}
		if err := tripsOf(ctx, tx, renamed, func(unit, trip seal.Index) { dirty[dirtyKey{unit, trip}] = true }); err != nil {
			return err
		}
		return markDirty(ctx, tx, dirty, now)
	})
}

// forget makes what was sent last unknown, so that it is sent again.
func forget(ctx context.Context, tx store.Querier, entities []seal.Index) error {
	for len(entities) > 0 {
		n := store.Chunk(len(entities))
		args := []any{seal.Index{}}
		for _, e := range entities[:n] {
			args = append(args, e)
		}
		entities = entities[n:]
		if _, err := tx.ExecContext(ctx, `update crm_copy set digest = $1 where entity in `+store.Values(1, n, 2), args...); err != nil {
			return err
		}
	}
	return nil
}

// tripsOf gives the trips of users, with their units.
func tripsOf(ctx context.Context, tx store.Querier, owners []seal.Index, fn func(unit, trip seal.Index)) error {
	for len(owners) > 0 {
		n := store.Chunk(len(owners))
		args := make([]any, n)
		for i, o := range owners[:n] {
			args[i] = o
		}
		owners = owners[n:]
		err := store.Each(ctx, tx, `select unit, entity from crm_trip where owner in `+store.Values(1, n, 1), args, func(scan func(...any) error) error {
			var unit, trip seal.Index
			if err := scan(&unit, &trip); err != nil {
				return err
			}
			fn(unit, trip)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// found is an object that the CRM has under our id, of which was not known that
// it has it. digest is zero if it shows something else than it should.
type found struct {
	*target
	digest seal.Index
}

// bind notes that the CRM has objects.
func (s *reconcileStore) bind(ctx context.Context, list []found, now time.Time) error {
	if len(list) == 0 {
		return nil
	}
	return s.db.Tx(ctx, func(tx store.Querier) error {
		args := make([]any, 0, 7*len(list))
		for _, f := range list {
			args = append(args, f.entity, int(f.kind), int64(copyExists), f.subject, f.digest, []byte{}, store.MicrosOf(now))
		}
		return store.Insert(ctx, tx, `insert into crm_copy (entity, kind, state, subject, digest, sealed, sent_at) values `, 7, args,
			` on conflict (entity) do update set state = excluded.state, subject = excluded.subject, digest = excluded.digest, sealed = excluded.sealed, sent_at = excluded.sent_at
			where crm_copy.state <> 2`)
	})
}
