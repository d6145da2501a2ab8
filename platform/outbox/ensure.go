package outbox

import (
	"context"
	"fmt"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

// Ensure makes the tables of the outbox if they are absent. Several instances
// may call it at once.
func Ensure(ctx context.Context, db *store.DB) error {
	ready := func(q store.Querier) error {
		var n int
		return q.QueryRowContext(ctx, `select count(*) from outbox_turn where id = 1`).Scan(&n)
	}
	if ready(db.Read()) == nil {
		return nil
	}
	create := func(tx store.Querier) error {
		for _, statement := range []string{
			fmt.Sprintf(createOutbox, identity[db.Engine()]),
			createTurn,
			`insert into outbox_turn (id, holder, until) values (1, '', 0) on conflict do nothing`,
		} {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	}
	err := db.Tx(ctx, create)
	if err != nil && ready(db.Read()) == nil {
		// On PostgreSQL "if not exists" may lose against another instance
		// that commits the same table; then it is there.
		return nil
	}
	return errs.Wrap(errs.KindOf(err), err, "make the outbox of database %s", db.Name())
}
