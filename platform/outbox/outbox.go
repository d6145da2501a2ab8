package outbox

import (
	"context"
	"encoding/json"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/store"
)

// The number of a row is given by the engine when it is inserted, is never
// given again, and is the order of publishing. This is the one place where the
// engines need different words, and a clock would do worse.
const createOutbox = `create table if not exists outbox (
	id %s,
	subject text not null,
	message_id text not null,
	header text not null,
	data blob not null,
	refused text
)`

var identity = map[store.Engine]string{
	store.SQLite:   `integer primary key autoincrement`,
	store.Postgres: `bigint generated always as identity primary key`,
}

const createTurn = `create table if not exists outbox_turn (
	id bigint primary key,
	holder text not null,
	until bigint not null
)`

// rowsPerInsert keeps the number of different statements small.
const rowsPerInsert = 50

// Publish adds messages to the transaction tx; they are published in this
// order once it has committed. Each needs a Subject and an ID that is the same
// when the same thing is told again; Seq, Time and Delivered are ignored. The
// error is Invalid for a message without them.
func Publish(ctx context.Context, tx store.Querier, msgs ...bus.Message) error {
	for len(msgs) > 0 {
		n := min(len(msgs), rowsPerInsert)
		args := make([]any, 0, 4*n)
		for _, m := range msgs[:n] {
			if m.Subject == "" || m.ID == "" {
				return errs.New(errs.Invalid, "outbox: message %q on %q: want a subject and an id", m.ID, m.Subject)
			}
			header, err := json.Marshal(m.Header)
			if err != nil {
				return errs.Wrap(errs.Invalid, err, "outbox: header")
			}
			data := m.Data
			if data == nil {
				data = []byte{}
			}
			args = append(args, m.Subject, m.ID, string(header), data)
		}
		if _, err := tx.ExecContext(ctx, `insert into outbox (subject, message_id, header, data) values `+store.Values(n, 4, 1), args...); err != nil {
			return errs.Wrap(errs.KindOf(err), err, "outbox")
		}
		msgs = msgs[n:]
	}
	return nil
}
