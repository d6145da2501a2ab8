package telephony

import (
	"context"
	"fmt"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// entry is an event in the log, or on its way there. Subject is the person
// whose key Sealed is under, the zero one for the system's; Actor is the person
// who answers, where the event tells of both.
type entry struct {
	ID          int64
	EventID     [16]byte
	Call        *seal.Index
	Code        *seal.Index
	Kind        kind
	At          store.Micros
	ReceivedAt  store.Micros
	Subject     seal.Subject
	Sealed      []byte
	Actor       *seal.Subject
	ActorSealed []byte
}

// eventStore is the call log.
type eventStore struct{ db *store.DB }

const entryColumns = `id, event_id, call, code, kind, occurred_at, received_at, subject, sealed, actor, actor_sealed`

func (e *entry) args() []any {
	return []any{e.ID, e.EventID[:], optional(e.Call), optional(e.Code), int64(e.Kind), e.At, e.ReceivedAt, e.Subject[:], e.Sealed, optionalSubject(e.Actor), e.ActorSealed}
}

func optional(x *seal.Index) any {
	if x == nil {
		return nil
	}
	return x[:]
}

func optionalSubject(s *seal.Subject) any {
	if s == nil {
		return nil
	}
	return s[:]
}

func scanEntry(scan func(...any) error) (*entry, error) {
	var e entry
	var id, call, code, subject, actor []byte
	if err := scan(&e.ID, &id, &call, &code, &e.Kind, &e.At, &e.ReceivedAt, &subject, &e.Sealed, &actor, &e.ActorSealed); err != nil {
		return nil, err
	}
	e.EventID, e.Subject = [16]byte(id), seal.Subject(subject)
	if call != nil {
		e.Call = (*seal.Index)(call)
	}
	if code != nil {
		e.Code = (*seal.Index)(code)
	}
	if actor != nil {
		e.Actor = (*seal.Subject)(actor)
	}
	return &e, nil
}

// head is where the log ends and which projections answer.
type head struct {
	Event, Generation, Building, Position int64
	BuiltAt                               store.Micros
}

func readHead(ctx context.Context, q store.Querier) (h head, err error) {
	err = q.QueryRowContext(ctx, `select event, generation, building, position, built_at from telephony_head where one = 1`).
		Scan(&h.Event, &h.Generation, &h.Building, &h.Position, &h.BuiltAt)
	return h, err
}

// lockHead reads the head for a transaction that will move it: instances take
// turns here, so that the ids of the log follow the order of commits.
func lockHead(ctx context.Context, tx store.Querier, engine store.Engine) (h head, err error) {
	if engine == store.Postgres {
		// Before the first look, so that who had to wait sees what the one before
		// did, instead of colliding with it.
		if _, err := tx.ExecContext(ctx, `lock table telephony_head in exclusive mode`); err != nil {
			return h, err
		}
	}
	err = tx.QueryRowContext(ctx, `update telephony_head set one = 1 where one = 1 returning event, generation, building, position, built_at`).
		Scan(&h.Event, &h.Generation, &h.Building, &h.Position, &h.BuiltAt)
	return h, err
}

// stored finds which of these events are in the log, and where.
func stored(ctx context.Context, tx store.Querier, entries []*entry) (map[[16]byte]int64, error) {
	found := map[[16]byte]int64{}
	for rest := entries; len(rest) > 0; {
		n := store.Chunk(len(rest))
		args := make([]any, n)
		for i, e := range rest[:n] {
			args[i] = e.EventID[:]
		}
		rest = rest[n:]
		err := store.Each(ctx, tx, `select event_id, id from telephony_event where event_id in `+store.Values(1, n, 1), args, func(scan func(...any) error) error {
			var id []byte
			var at int64
			if err := scan(&id, &at); err != nil {
				return err
			}
			found[[16]byte(id)] = at
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// appendLog writes new entries at the end of the log, whose head is locked.
func appendLog(ctx context.Context, tx store.Querier, entries []*entry) error {
	var args []any
	for _, e := range entries {
		args = append(args, e.args()...)
	}
	if err := store.Insert(ctx, tx, `insert into telephony_event (`+entryColumns+`) values `, 11, args, ""); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `update telephony_head set event = $1 where one = 1`, entries[len(entries)-1].ID)
	return err
}

// eventQuery selects entries of the log; nil fields do not restrict.
type eventQuery struct {
	Call, Code *seal.Index
	After      int64 // only entries behind this one in the order of the answer; 0: from its beginning
	Desc       bool
	Limit      int
}

// list gives the entries of q in the order of the log, or against it.
func (s *eventStore) list(ctx context.Context, q eventQuery) ([]*entry, error) {
	text, args := `select `+entryColumns+` from telephony_event where id > $1`, []any{q.After}
	if q.Desc {
		text = `select ` + entryColumns + ` from telephony_event where id < $1`
		if q.After == 0 {
			args[0] = int64(1) << 62
		}
	}
	if q.Call != nil {
		args = append(args, q.Call[:])
		text += fmt.Sprintf(` and call = $%d`, len(args))
	}
	if q.Code != nil {
		args = append(args, q.Code[:])
		text += fmt.Sprintf(` and code = $%d`, len(args))
	}
	text += ` order by id`
	if q.Desc {
		text += ` desc`
	}
	args = append(args, q.Limit)
	text += fmt.Sprintf(` limit $%d`, len(args))
	return eachEntry(ctx, s.db.Read(), text, args)
}

func eachEntry(ctx context.Context, q store.Querier, text string, args []any) (out []*entry, err error) {
	err = store.Each(ctx, q, text, args, func(scan func(...any) error) error {
		e, err := scanEntry(scan)
		if err == nil {
			out = append(out, e)
		}
		return err
	})
	return out, err
}

// personOf gives the person of a call that is known, and whether it is.
func (s *eventStore) personOf(ctx context.Context, call seal.Index) (seal.Subject, bool, error) {
	var subject []byte
	err := s.db.Read().QueryRowContext(ctx, `select c.subject from telephony_head h join telephony_call c on c.generation = h.generation
		where h.one = 1 and c.call = $1`, call[:]).Scan(&subject)
	if store.IsNotFound(err) {
		return seal.Subject{}, false, nil
	}
	if err != nil {
		return seal.Subject{}, false, err
	}
	return seal.Subject(subject), true, nil
}
