package eventlog_test

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"switchboard/platform/eventlog"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// Entries of before migration 2 keep their refs, and these go with them.
func TestRefsOfOldEntriesMoveWithThem(t *testing.T) {
	t.Parallel()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		old := fstest.MapFS{}
		all := eventlog.Migrations()
		files, err := fs.ReadDir(all, "migrations")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasPrefix(f.Name(), "0001_") {
				text, err := fs.ReadFile(all, "migrations/"+f.Name())
				if err != nil {
					t.Fatal(err)
				}
				old["migrations/"+f.Name()] = &fstest.MapFile{Data: text}
			}
		}
		db, err := store.Open(t.Context(), cfg, "eventlog", old)
		if err != nil {
			t.Fatal(err)
		}
		one, two := []byte("0123456789abcdef"), []byte("fedcba9876543210")
		err = db.Tx(t.Context(), func(tx store.Querier) error {
			for _, key := range []string{"a", "b"} {
				if _, err := tx.ExecContext(t.Context(), `insert into eventlog_entry (module, key, at, event, target_kind, sealed) values ('m', $1, 5, 'x', '', $1)`, []byte(key)); err != nil {
					return err
				}
			}
			for _, ref := range [][]byte{one, two} {
				if _, err := tx.ExecContext(t.Context(), `insert into eventlog_ref (module, key, ref, at) values ('m', $1, $2, 5)`, []byte("a"), ref); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = storetest.Open(t, cfg, "eventlog", all)
		var refs []byte
		if err := db.Read().QueryRowContext(t.Context(), `select refs from eventlog_entry where key = $1`, []byte("a")).Scan(&refs); err != nil {
			t.Fatal(err)
		}
		if got := string(refs); got != string(one)+string(two) && got != string(two)+string(one) {
			t.Errorf("an entry's refs are %q", got)
		}
		if err := db.Read().QueryRowContext(t.Context(), `select refs from eventlog_entry where key = $1`, []byte("b")).Scan(&refs); err != nil || len(refs) > 0 {
			t.Errorf("one without: %q %v", refs, err)
		}
		var key []byte
		if err := db.Read().QueryRowContext(t.Context(), `select key from eventlog_ref where module = 'm' and ref = $1 and at = 5`, two).Scan(&key); err != nil || string(key) != "a" {
			t.Errorf("%q %v", key, err)
		}
	})
}
