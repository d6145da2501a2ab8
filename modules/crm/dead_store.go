package crm

import (
	"bytes"
	"context"
	"time"

	"github.com/google/uuid"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// Kinds of dead letters.
const (
	deadEvent = "event" // it could not be understood
	deadUser  = "user"  // the CRM refuses it
	deadTrip  = "trip"
)

// deadLetter is something that goes no further without a person.
type deadLetter struct {
	ID        uuid.UUID
	Kind      string
	Topic     string
	Log       string
	Seq       int64
	Entity    *seal.Index
	Subject   *seal.Subject
	Reason    string // nothing of what it holds
	Sealed    []byte // of an event: encodeRaw, sealed
	CreatedAt time.Time
	At        time.Time // of the event
}

// deadStore keeps dead letters.
type deadStore struct{ db *store.DB }

// insertDead writes dead letters; of an event or an entity there is only one,
// the newest reason counts.
func insertDead(ctx context.Context, tx store.Querier, list []deadLetter) error {
	for _, d := range list {
		conflict := `(log, seq) where entity is null`
		if d.Entity != nil {
			conflict = `(entity) where entity is not null`
		}
		_, err := tx.ExecContext(ctx, `insert into crm_dead_letter (id, kind, topic, log, seq, entity, subject, reason, sealed, created_at, happened_at)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict `+conflict+` do update set reason = excluded.reason, created_at = excluded.created_at`,
			d.ID[:], d.Kind, d.Topic, []byte(d.Log), d.Seq, d.Entity, d.Subject, d.Reason, d.Sealed, store.MicrosOf(d.CreatedAt), store.MicrosOf(d.At))
		if err != nil {
			return err
		}
	}
	return nil
}

// deadColumns are those that scanDead reads.
const deadColumns = `id, kind, topic, log, seq, entity, subject, reason, sealed, created_at, happened_at`

func scanDead(scan func(...any) error) (d deadLetter, err error) {
	var id, log, entity, subject []byte
	var created, at store.Micros
	if err := scan(&id, &d.Kind, &d.Topic, &log, &d.Seq, &entity, &subject, &d.Reason, &d.Sealed, &created, &at); err != nil {
		return d, err
	}
	copy(d.ID[:], id)
	d.Log, d.CreatedAt, d.At = string(log), created.Time(), at.Time()
	if entity != nil {
		d.Entity = new(seal.Index(entity))
	}
	if subject != nil {
		d.Subject = new(seal.Subject(subject))
	}
	return d, nil
}

// list gives dead letters of a kind, or of all, the newest first.
func (s *deadStore) list(ctx context.Context, kind string, before *uuid.UUID, limit int) ([]deadLetter, error) {
	if before == nil {
		before = new(uuid.UUID(bytes.Repeat([]byte{0xff}, 16)))
	}
	return s.read(ctx, `select `+deadColumns+` from crm_dead_letter where id < $1 and ($2 = '' or kind = $2) order by id desc limit $3`, before[:], kind, limit)
}

// page gives dead letters of a kind, or of all, after one and up to another, the
// oldest first.
func (s *deadStore) page(ctx context.Context, kind string, after, upTo uuid.UUID, limit int) ([]deadLetter, error) {
	return s.read(ctx, `select `+deadColumns+` from crm_dead_letter where id > $1 and id <= $2 and ($3 = '' or kind = $3) order by id limit $4`, after[:], upTo[:], kind, limit)
}

func (s *deadStore) read(ctx context.Context, query string, args ...any) (out []deadLetter, err error) {
	err = store.Each(ctx, s.db.Read(), query, args, func(scan func(...any) error) error {
		d, err := scanDead(scan)
		out = append(out, d)
		return err
	})
	return out, err
}

// get gives one; NotFound if there is none.
func (s *deadStore) get(ctx context.Context, id uuid.UUID) (deadLetter, error) {
	d, err := scanDead(s.db.Read().QueryRowContext(ctx, `select `+deadColumns+` from crm_dead_letter where id = $1`, id[:]).Scan)
	if store.IsNotFound(err) {
		return d, errs.New(errs.NotFound, "no such dead letter")
	}
	return d, err
}

// remove takes letters out, and tells how many were there.
func (s *deadStore) remove(ctx context.Context, ids []uuid.UUID) (n int64, err error) {
	err = s.db.Tx(ctx, func(tx store.Querier) error {
		n = 0
		for rest := ids; len(rest) > 0; {
			chunk := rest[:store.Chunk(len(rest))]
			rest = rest[len(chunk):]
			args := make([]any, len(chunk))
			for i := range chunk {
				args[i] = chunk[i][:]
			}
			res, err := tx.ExecContext(ctx, `delete from crm_dead_letter where id in `+store.Values(1, len(chunk), 1), args...)
			if err != nil {
				return err
			}
			gone, err := res.RowsAffected()
			if err != nil {
				return err
			}
			n += gone
		}
		return nil
	})
	return n, err
}

// explain gives a letter the reason of today.
func (s *deadStore) explain(ctx context.Context, id uuid.UUID, reason string) error {
	return s.db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, `update crm_dead_letter set reason = $1 where id = $2`, reason, id[:])
		return err
	})
}
