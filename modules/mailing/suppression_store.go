package mailing

import (
	"context"
	"slices"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// suppressionStore keeps the numbers that get nothing.
type suppressionStore struct{ db *store.DB }

// suppressionRow is a number as it rests. Subject is zero and Sealed empty
// where the number is not known any more.
type suppressionRow struct {
	Phone     seal.Index
	Subject   seal.Subject
	Sealed    []byte
	Reason    string
	CreatedAt store.Micros
}

// add tells whether the number was not there before; else it stays as it was.
func (s *suppressionStore) add(ctx context.Context, tx store.Querier, r *suppressionRow) (fresh bool, err error) {
	sealed := r.Sealed
	if sealed == nil {
		sealed = []byte{} // nil is null
	}
	res, err := tx.ExecContext(ctx, `insert into mailing_suppression (phone, subject, sealed, reason, created_at) values ($1, $2, $3, $4, $5) on conflict (phone) do nothing`,
		r.Phone[:], r.Subject[:], sealed, r.Reason, int64(r.CreatedAt))
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// get gives one number; store.IsNotFound if it is not suppressed.
func (s *suppressionStore) get(ctx context.Context, q store.Querier, phone seal.Index) (suppressionRow, error) {
	return scanSuppression(q.QueryRowContext(ctx, `select phone, subject, sealed, reason, created_at from mailing_suppression where phone = $1`, phone[:]).Scan)
}

func scanSuppression(scan func(...any) error) (r suppressionRow, err error) {
	var phone, subject []byte
	if err = scan(&phone, &subject, &r.Sealed, &r.Reason, &r.CreatedAt); err == nil {
		r.Phone, r.Subject = seal.Index(phone), seal.Subject(subject)
	}
	return r, err
}

// remove tells whether the number was there.
func (s *suppressionStore) remove(ctx context.Context, tx store.Querier, phone seal.Index) (bool, error) {
	res, err := tx.ExecContext(ctx, `delete from mailing_suppression where phone = $1`, phone[:])
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// suppressionPlace is the last number of a page.
type suppressionPlace struct {
	At    store.Micros
	Phone seal.Index
}

// list gives numbers, newest first.
func (s *suppressionStore) list(ctx context.Context, after *suppressionPlace, limit int) (out []suppressionRow, err error) {
	text, args := `select phone, subject, sealed, reason, created_at from mailing_suppression`, []any{limit}
	if after != nil {
		text += ` where (created_at, phone) < ($2, $3)`
		args = append(args, int64(after.At), after.Phone[:])
	}
	err = store.Each(ctx, s.db.Read(), text+` order by created_at desc, phone desc limit $1`, args, func(scan func(...any) error) error {
		r, err := scanSuppression(scan)
		out = append(out, r)
		return err
	})
	return out, err
}

// maxSuppressedAsk bounds the numbers in one statement.
const maxSuppressedAsk = 256

// suppressed gives those of the numbers that get nothing. It may be asked in
// a transaction; others are looked up along the primary key.
func (s *suppressionStore) suppressed(ctx context.Context, q store.Querier, phones []seal.Index) (map[seal.Index]bool, error) {
	out := map[seal.Index]bool{}
	for part := range slices.Chunk(phones, maxSuppressedAsk) {
		args := make([]any, 0, maxSuppressedAsk)
		for i := range part {
			args = append(args, part[i][:])
		}
		args = padArgs(args)
		err := store.Each(ctx, q, `select phone from mailing_suppression where phone in `+store.Values(1, len(args), 1), args, func(scan func(...any) error) error {
			var phone []byte
			err := scan(&phone)
			if err == nil {
				out[seal.Index(phone)] = true
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// padArgs repeats the last argument until their number is a power of two, so
// that few texts of statements stay prepared.
func padArgs(args []any) []any {
	for len(args)&(len(args)-1) != 0 {
		args = append(args, args[len(args)-1])
	}
	return args
}

// clientOf gives the id of the client with a number, 0 if there is none.
func (s *suppressionStore) clientOf(ctx context.Context, q store.Querier, phone seal.Index) (id int64, err error) {
	err = q.QueryRowContext(ctx, `select id from mailing_client where phone = $1`, phone[:]).Scan(&id)
	if store.IsNotFound(err) {
		return 0, nil
	}
	return id, err
}
