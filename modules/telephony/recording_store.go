package telephony

import (
	"context"
	"errors"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// States of a recording. All but the first are final.
const (
	recordingPending = "pending"
	recordingKept    = "kept"
	recordingFailed  = "failed"
	recordingErased  = "erased" // its person was, before it could be fetched
)

// recording is a recording that is fetched and kept.
type recording struct {
	Event      int64 // that told of it
	Call       seal.Index
	State      string
	Attempts   int64 // each claims the row
	Size       int64
	MediaType  string
	FetchedAt  *store.Micros // when the last attempt began
	Detail     string        // of the last attempt; empty while one is under way
	ReceivedAt store.Micros  // of the event
}

// recordingStore keeps recordings in sealed parts.
type recordingStore struct{ db *store.DB }

// errFenced tells that somebody else goes on with a recording.
var errFenced = errors.New("telephony: another attempt to fetch the recording has begun")

// plan inserts recordings that are not there yet, and tells which these were.
func (*recordingStore) plan(ctx context.Context, tx store.Querier, list []recordingReady) (fresh map[int64]bool, err error) {
	fresh = make(map[int64]bool, len(list))
	for len(list) > 0 {
		n := store.Chunk(len(list))
		args := make([]any, 0, 7*n)
		for _, r := range list[:n] {
			args = append(args, r.Event, r.Call[:], recordingPending, int64(0), int64(0), "", "")
		}
		list = list[n:]
		err := store.Each(ctx, tx, `insert into telephony_recording (event, call, state, attempts, size, media_type, detail) values `+store.Values(n, 7, 1)+
			` on conflict (event) do nothing returning event`, args, func(scan func(...any) error) error {
			var event int64
			err := scan(&event)
			fresh[event] = true
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

const selectRecordings = `select r.event, r.call, r.state, r.attempts, r.size, r.media_type, r.fetched_at, r.detail, e.received_at
	from telephony_recording r join telephony_event e on e.id = r.event `

func (s *recordingStore) list(ctx context.Context, where string, args ...any) (out []*recording, err error) {
	err = store.Each(ctx, s.db.Read(), selectRecordings+where, args, func(scan func(...any) error) error {
		var r recording
		var call []byte
		if err := scan(&r.Event, &call, &r.State, &r.Attempts, &r.Size, &r.MediaType, &r.FetchedAt, &r.Detail, &r.ReceivedAt); err != nil {
			return err
		}
		r.Call = seal.Index(call)
		out = append(out, &r)
		return nil
	})
	return out, err
}

// get gives the recording that an event told of, nil if it is not kept here.
func (s *recordingStore) get(ctx context.Context, event int64) (*recording, error) {
	list, err := s.list(ctx, `where r.event = $1`, event)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// of gives the recordings of a call.
func (s *recordingStore) of(ctx context.Context, call seal.Index) ([]*recording, error) {
	return s.list(ctx, `where r.call = $1 order by r.event`, call[:])
}

// pending gives recordings behind an event that are still to be fetched.
func (s *recordingStore) pending(ctx context.Context, after int64, limit int) ([]*recording, error) {
	return s.list(ctx, `where r.state = 'pending' and r.event > $1 order by r.event limit $2`, after, limit)
}

// claim begins the next attempt and brings r up to date. It is false if
// somebody else got ahead.
func (s *recordingStore) claim(ctx context.Context, r *recording, at store.Micros) (bool, error) {
	var claimed int64
	err := s.db.Tx(ctx, func(tx store.Querier) error {
		res, err := tx.ExecContext(ctx, `update telephony_recording set attempts = attempts + 1, fetched_at = $1, detail = ''
			where event = $2 and state = 'pending' and attempts = $3`, at, r.Event, r.Attempts)
		if err != nil {
			return err
		}
		claimed, err = res.RowsAffected()
		return err
	})
	if err != nil || claimed == 0 {
		return false, err
	}
	r.Attempts++
	r.FetchedAt, r.Detail = &at, ""
	return true, nil
}

// note says how an attempt ended, and settles the recording unless the state
// is pending. It removes the parts of one that is not kept.
func (s *recordingStore) note(ctx context.Context, r *recording, state, detail string) error {
	return s.fenced(ctx, r, func(tx store.Querier) error {
		if _, err := tx.ExecContext(ctx, `delete from telephony_recording_part where event = $1`, r.Event); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `update telephony_recording set state = $1, detail = $2 where event = $3`, state, detail, r.Event)
		return err
	})
}

// put writes a part of the attempt that has claimed r.
func (s *recordingStore) put(ctx context.Context, r *recording, part int64, sealed []byte) error {
	return s.fenced(ctx, r, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, `insert into telephony_recording_part (event, part, sealed) values ($1, $2, $3)
			on conflict (event, part) do update set sealed = excluded.sealed`, r.Event, part, sealed)
		return err
	})
}

// keep settles a recording of so many parts as fetched.
func (s *recordingStore) keep(ctx context.Context, r *recording, parts int64) error {
	return s.fenced(ctx, r, func(tx store.Querier) error {
		if _, err := tx.ExecContext(ctx, `delete from telephony_recording_part where event = $1 and part >= $2`, r.Event, parts); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `update telephony_recording set state = 'kept', detail = '', size = $1, media_type = $2 where event = $3`, r.Size, r.MediaType, r.Event)
		return err
	})
}

// part gives a part, NotFound by store.IsNotFound.
func (s *recordingStore) part(ctx context.Context, event, part int64) (sealed []byte, err error) {
	err = s.db.Read().QueryRowContext(ctx, `select sealed from telephony_recording_part where event = $1 and part = $2`, event, part).Scan(&sealed)
	return sealed, err
}

// fenced runs fn if the attempt that has claimed r is still the last one.
func (s *recordingStore) fenced(ctx context.Context, r *recording, fn func(store.Querier) error) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		res, err := tx.ExecContext(ctx, `update telephony_recording set attempts = $1 where event = $2 and state = 'pending' and attempts = $1`, r.Attempts, r.Event)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if n == 0 {
			return errFenced
		}
		return fn(tx)
	})
}

// isFenced tells whether err says that another attempt goes on.
func isFenced(err error) bool { return errors.Is(err, errFenced) }
