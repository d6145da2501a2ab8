package seal

import (
	"context"
	"fmt"
	"slices"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

// Erase destroys the key of a person: zeroed where it lies, a tombstone kept,
// the files scrubbed, the caches of all instances dropped. Aliases stay bound
// to the tombstone, so that Subjects refuses them. It is idempotent and must be
// called again after an error: the key may be gone by then and not yet
// scrubbed. A subject that is not known leaves a tombstone too, so that an
// erasure can be repeated on a restored backup.
func (k *Keyring) Erase(ctx context.Context, subject Subject) error {
	if subject.IsZero() {
		return errs.New(errs.Invalid, "erase: no subject")
	}
	zero := make([]byte, wrappedSize)
	now := int64(store.MicrosOf(k.now()))
	err := k.db.Tx(ctx, func(tx store.Querier) error {
		if _, err := tx.ExecContext(ctx, `insert into keys_subject (subject, wrapped, state, changed_at) values ($1, $2, $3, $4) on conflict do nothing`,
			subject[:], zero, stateErased, now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `update keys_subject set wrapped = $1, state = $2, changed_at = $3 where subject = $4 and state = $5`,
			zero, stateErased, now, subject[:], stateLive); err != nil {
			return err
		}
		return markScrub(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("erase subject %s: %w", subject, err)
	}
	told := k.drop(subject)
	if err := k.scrub(ctx, true); err != nil {
		return fmt.Errorf("erase subject %s: %w", subject, err)
	}
	return told
}

// Forget removes keys and aliases of people of whom nothing is left because
// its retention has ended. The caller makes sure of that: what is still sealed
// under such a key can never be read again. Erased subjects stay as they are.
func (k *Keyring) Forget(ctx context.Context, subjects []Subject) error {
	subjects = slices.DeleteFunc(slices.Clone(subjects), Subject.IsZero)
	zero := make([]byte, wrappedSize)
	for part := range slices.Chunk(subjects, chunk) {
		args := make([]any, 0, chunk+2)
		for _, s := range part {
			args = append(args, s[:])
		}
		args = pad(args)
		in := store.Values(1, len(args), 1)
		live := fmt.Sprintf("$%d", len(args)+1)
		err := k.db.Tx(ctx, func(tx store.Querier) error {
			// Zeroed first: a deleted row may leave its bytes in the page.
			for _, step := range []struct {
				query string
				args  []any
			}{
				{`delete from keys_alias where subject in (select subject from keys_subject where subject in ` + in + ` and state = ` + live + `)`, append(args, stateLive)},
				{`update keys_subject set wrapped = ` + fmt.Sprintf("$%d", len(args)+2) + ` where subject in ` + in + ` and state = ` + live, append(args, stateLive, zero)},
				{`delete from keys_subject where subject in ` + in + ` and state = ` + live, append(args, stateLive)},
			} {
				if _, err := tx.ExecContext(ctx, step.query, step.args...); err != nil {
					return err
				}
			}
			return markScrub(ctx, tx)
		})
		if err != nil {
			return fmt.Errorf("forget subjects: %w", err)
		}
		if err := k.drop(part...); err != nil {
			return err
		}
	}
	return wrapText(k.scrub(ctx, false), "forget subjects")
}
