package mailing

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/fstest"

	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// Clients and messages of before migration 3 keep all that they are, and their
// indexes.
func TestOldClientsAndMessagesKeepWhatTheyAre(t *testing.T) {
	t.Parallel()
	const (
		clients  = `select id, phone, subject, sealed, operator_code, tag, timezone, created_at, updated_at from mailing_client order by id`
		messages = `select id, campaign, client, phone, status, attempts, due_at, claim, created_at, sent_at, delivered, last_error from mailing_message order by id`
	)
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		old := fstest.MapFS{}
		for _, name := range []string{"migrations/0001_mailing.sql", "migrations/0002_reschedule.sql"} {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			old[name] = &fstest.MapFile{Data: text}
		}
		db, err := store.Open(t.Context(), cfg, "mailing", old)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Tx(t.Context(), func(tx store.Querier) error {
			for _, text := range []string{
				`insert into mailing_client (id, phone, subject, sealed, operator_code, tag, timezone, created_at, updated_at) values
					(7, $1, $2, $3, '916', 'vip', 'Europe/Moscow', 1, 2), (3, $2, $3, $1, '926', '', 'UTC', 3, 4)`,
				`insert into mailing_message (id, campaign, client, phone, status, attempts, due_at, claim, created_at, sent_at, delivered, last_error) values
					(5, 1, 7, $1, 2, 1, 11, 12, 13, 14, 'delivered', ''), (4, 1, 3, $2, 3, 6, 15, 16, 17, null, '', 'HTTP 503'), (9, 2, 3, $3, 0, 0, 18, 0, 19, null, '', '')`,
			} {
				if _, err := tx.ExecContext(t.Context(), text, []byte("a"), []byte("b"), []byte("c")); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		read := func(query string, columns int) (rows []string) {
			t.Helper()
			err := store.Each(t.Context(), db.Read(), query, nil, func(scan func(...any) error) error {
				row, into := make([]any, columns), make([]any, columns)
				for i := range row {
					into[i] = &row[i]
				}
				err := scan(into...)
				rows = append(rows, fmt.Sprint(row))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return rows
		}
		indexes := `select indexname from pg_indexes where schemaname = current_schema() order by 1`
		if db.Engine() == store.SQLite {
			indexes = `select name from sqlite_schema where type = 'index' and sql is not null order by 1`
		}
		before := [][]string{read(clients, 9), read(messages, 12), read(indexes, 1)}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = storetest.Open(t, cfg, "mailing", os.DirFS("."))
		after := [][]string{read(clients, 9), read(messages, 12), read(indexes, 1)}
		if len(after[0]) != 2 || len(after[1]) != 3 || len(after[2]) < 10 || !slices.EqualFunc(before, after, slices.Equal[[]string]) {
			t.Errorf("%q, want %q", after, before)
		}
	})
}
