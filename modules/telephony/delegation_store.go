package telephony

import (
	"context"
	"sync"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// States of a delegation. All but the first are final.
const (
	delegationPending   = "pending"
	delegationDelegated = "delegated"
	delegationRefused   = "refused"
	delegationExpired   = "expired"
	delegationSkipped   = "skipped"
	delegationManual    = "manual"
)

// What the detail of a pending delegation says of the last try.
const (
	tryUnderWay = "sending"
	tryAway     = "away"
	tryDoubtful = "no answer"
)

// delegation is what the platform is asked to do with a call that stood by.
type delegation struct {
	Call        seal.Index
	Name        []byte // the call's id, sealed
	Event       int64  // the standby's place in the log
	Returning   bool   // the number had stood by before
	State       string
	Destination string // empty until it is decided
	Attempts    int64  // each claims the row: who counts on is the only one that sends
	DueAt       store.Micros
	TriedAt     *store.Micros
	SettledAt   *store.Micros
	Detail      string
}

// delegationStore keeps delegations.
type delegationStore struct {
	db     *store.DB
	keys   *seal.Keyring
	shared shared
}

const delegationColumns = `call, name, event, customer, state, destination, attempts, due_at, tried_at, settled_at, detail`

// sealDestination closes where a call goes: by hand that may be somebody's own
// number.
func (s *delegationStore) sealDestination(destination string) []byte {
	return s.keys.System().Seal(nil, []byte(destination), sealDestination)
}

func (s *delegationStore) scan(scan func(...any) error) (*delegation, error) {
	var d delegation
	var call, destination []byte
	var customer int64
	err := scan(&call, &d.Name, &d.Event, &customer, &d.State, &destination, &d.Attempts, &d.DueAt, &d.TriedAt, &d.SettledAt, &d.Detail)
	if err != nil {
		return nil, err
	}
	plain, err := s.keys.System().Open(nil, destination, sealDestination)
	if err != nil {
		return nil, err
	}
	d.Destination = string(plain)
	d.Call, d.Returning = seal.Index(call), customer == 1
	return &d, nil
}

// plan inserts delegations of calls that have none yet, and tells which these
// were. No call may be there twice.
func (s *delegationStore) plan(ctx context.Context, tx store.Querier, list []*delegation) (fresh map[seal.Index]bool, err error) {
	fresh = make(map[seal.Index]bool, len(list))
	for len(list) > 0 {
		n := store.Chunk(len(list))
		args := make([]any, 0, 11*n)
		for _, d := range list[:n] {
			args = append(args, d.Call[:], d.Name, d.Event, count(d.Returning), d.State, s.sealDestination(d.Destination), d.Attempts, d.DueAt, d.TriedAt, d.SettledAt, d.Detail)
		}
		list = list[n:]
		err := store.Each(ctx, tx, `insert into telephony_delegation (`+delegationColumns+`) values `+store.Values(n, 11, 1)+
			` on conflict (call) do nothing returning call`, args, func(scan func(...any) error) error {
			var call []byte
			if err := scan(&call); err != nil {
				return err
			}
			fresh[seal.Index(call)] = true
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// of gives the delegation of a call, nil if there is none.
func (s *delegationStore) of(ctx context.Context, call seal.Index) (*delegation, error) {
	return s.one(ctx, `select `+delegationColumns+` from telephony_delegation where call = $1`, call[:])
}

// by gives the delegation that a standby called for, nil if there is none.
func (s *delegationStore) by(ctx context.Context, event int64) (*delegation, error) {
	return s.one(ctx, `select `+delegationColumns+` from telephony_delegation where event = $1`, event)
}

func (s *delegationStore) one(ctx context.Context, query string, arg any) (*delegation, error) {
	d, err := s.scan(s.db.Read().QueryRowContext(ctx, query, arg).Scan)
	if store.IsNotFound(err) {
		return nil, nil
	}
	return d, err
}

// untried gives the events of delegations that nobody has begun, of those due
// between two times, oldest first.
func (s *delegationStore) untried(ctx context.Context, from, to store.Micros, limit int) (events []int64, err error) {
	err = store.Each(ctx, s.db.Read(), `select event from telephony_delegation where state = 'pending' and attempts = 0 and due_at > $1 and due_at < $2 order by event limit $3`,
		[]any{from, to, limit}, func(scan func(...any) error) error {
			var event int64
			err := scan(&event)
			events = append(events, event)
			return err
		})
	return events, err
}

// claim begins the next try of d and brings d up to date. It is false if
// somebody else got ahead.
func (s *delegationStore) claim(ctx context.Context, d *delegation, destination string, at store.Micros) (bool, error) {
	ok, err := s.shared.change(ctx, s.db, `update telephony_delegation set attempts = attempts + 1, destination = $1, tried_at = $2, detail = $3
		where call = $4 and state = 'pending' and attempts = $5`, s.sealDestination(destination), at, tryUnderWay, d.Call[:], d.Attempts)
	if ok {
		d.Attempts++
		d.Destination, d.TriedAt, d.Detail = destination, &at, tryUnderWay
	}
	return ok, err
}

// note says how the last try went.
func (s *delegationStore) note(ctx context.Context, d *delegation, detail string) (bool, error) {
	ok, err := s.shared.change(ctx, s.db, `update telephony_delegation set detail = $1 where call = $2 and state = 'pending' and attempts = $3`, detail, d.Call[:], d.Attempts)
	if ok {
		d.Detail = detail
	}
	return ok, err
}

// settle ends the delegation d, unless somebody else got ahead.
func (s *delegationStore) settle(ctx context.Context, d *delegation, state, detail string, at store.Micros) (bool, error) {
	ok, err := s.shared.change(ctx, s.db, `update telephony_delegation set state = $1, detail = $2, settled_at = $3
		where call = $4 and state = 'pending' and attempts = $5`, state, detail, at, d.Call[:], d.Attempts)
	if ok {
		d.State, d.Detail, d.SettledAt = state, detail, &at
	}
	return ok, err
}

// take gives a pending delegation into somebody's hands: no try follows. It is
// false if a try began or ended since d was read.
func (s *delegationStore) take(ctx context.Context, d *delegation, destination string, at store.Micros) (bool, error) {
	ok, err := s.shared.change(ctx, s.db, `update telephony_delegation set state = 'manual', attempts = attempts + 1, destination = $1, detail = '', tried_at = $2, settled_at = $2
		where call = $3 and state = 'pending' and attempts = $4 and detail = $5`, s.sealDestination(destination), at, d.Call[:], d.Attempts, d.Detail)
	if ok {
		d.Attempts++
		d.State, d.Destination, d.Detail = delegationManual, destination, ""
	}
	return ok, err
}

// remark says what came of a manual one.
func (s *delegationStore) remark(ctx context.Context, d *delegation, detail string) error {
	_, err := s.shared.change(ctx, s.db, `update telephony_delegation set detail = $1 where call = $2 and state = 'manual' and attempts = $3`, detail, d.Call[:], d.Attempts)
	return err
}

// expire settles all that were due before a time, and tells how many.
func (s *delegationStore) expire(ctx context.Context, before, at store.Micros, detail string) (n int64, err error) {
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		res, err := tx.ExecContext(ctx, `update telephony_delegation set state = 'expired', detail = $1, settled_at = $2 where state = 'pending' and due_at < $3`, detail, at, before)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}

// shared brings the updates of many workers together in one transaction, for
// each of its own would hold up the log: what waits while one is written goes
// into the next.
type shared struct {
	turn    sync.Mutex // of the transaction
	mu      sync.Mutex
	waiting []*update
}

// update is one that waits. What comes of it belongs to who has the turn.
type update struct {
	query         string
	args          []any
	over, changed bool
	err           error
}

// change runs an update of at most one row and tells whether it met one.
func (s *shared) change(ctx context.Context, db *store.DB, query string, args ...any) (bool, error) {
	u := &update{query: query, args: args, err: errs.New(errs.Unavailable, "it was not written")}
	s.mu.Lock()
	s.waiting = append(s.waiting, u)
	s.mu.Unlock()
	s.turn.Lock()
	defer s.turn.Unlock()
	if u.over {
		return u.changed, u.err
	}
	s.mu.Lock()
	batch := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	// The others' updates do not end with this one's context.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := db.Tx(ctx, func(tx store.Querier) error {
		for _, u := range batch {
			res, err := tx.ExecContext(ctx, u.query, u.args...)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			u.changed = n > 0
		}
		return nil
	})
	for _, u := range batch {
		u.over, u.err = true, err
		u.changed = u.changed && err == nil
	}
	return u.changed, u.err
}

// callState gives how far a call has got, 0 if it is not known.
func (s *delegationStore) callState(ctx context.Context, call seal.Index) (state, error) {
	var now state
	err := s.db.Read().QueryRowContext(ctx, `select c.state from telephony_head h join telephony_call c on c.generation = h.generation
		where h.one = 1 and c.call = $1`, call[:]).Scan(&now)
	if store.IsNotFound(err) {
		return 0, nil
	}
	return now, err
}
