package mailing

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// unheard is told of an import and logs it, and keeps nothing.
type unheard struct{}

func (unheard) fault(importFault) error                   { return nil }
func (unheard) progress(importCounts) error               { return nil }
func (unheard) Log(context.Context, eventlog.Entry) error { return nil }

// numbered gives so many clients.
type numbered struct{ n, end int64 }

func (s *numbered) next() (importLine, error) {
	if s.n == s.end {
		return importLine{}, io.EOF
	}
	s.n++
	return imported(s.n, 0, &newClient{PhoneNumber: fmt.Sprint(79_000_000_000 + s.n), Tag: "a", Timezone: "UTC"}), nil
}

func TestAnImportKeepsNoKeyInMemory(t *testing.T) {
	t.Parallel()
	where := store.Config{Dir: t.TempDir()}
	keysDB := storetest.Open(t, where, "keys", seal.Migrations())
	master, _, err := seal.LoadMaster(where.Dir, "")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Open(t.Context(), keysDB, nil, master, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	clients := newClientService(storetest.Open(t, where, "mailing", os.DirFS(".")), keys, unheard{}, time.Now)
	const all = 2*importChunk + 100
	counts, err := newImportService(clients, time.Now).run(t.Context(), &numbered{end: all}, existingUpdate, unheard{})
	if err != nil || counts.Created != all {
		t.Fatalf("%+v: %v", counts, err)
	}
	page, more, err := clients.list(t.Context(), clientQuery{Limit: all})
	if err != nil || more || len(page) != all || page[all-1].PhoneNumber == "" {
		t.Fatalf("%d clients: %v", len(page), err)
	}
	// Behind the keyring's back: only keys that it holds would open a client now.
	if err := keysDB.Tx(t.Context(), func(tx store.Querier) error {
		_, err := tx.ExecContext(t.Context(), `update keys_subject set state = 3`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if page, _, err = clients.list(t.Context(), clientQuery{Limit: all}); err != nil {
		t.Fatal(err)
	}
	for _, c := range page {
		if c.PhoneNumber != "" {
			t.Fatalf("the key of client %d is in memory", c.ID)
		}
	}
}
