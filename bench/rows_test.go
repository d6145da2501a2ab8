package bench

import (
	"bytes"
	"context"
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// bareClient is a client of the standard library with so many connections.
func bareClient(conns int) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxConnsPerHost: conns, MaxIdleConnsPerHost: conns}}
}

// bareTables makes the product's tables, as all migrations of a folder leave
// them, in a SQLite database with its settings.
func bareTables(b *testing.B, migrations string) *sql.DB {
	b.Helper()
	files, err := os.ReadDir(migrations) // in order: their names begin with their numbers
	if err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(b.TempDir(), "bare.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".postgres.sql") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(migrations, f.Name()))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := db.Exec(string(text)); err != nil {
			b.Fatalf("%s: %v", f.Name(), err)
		}
	}
	return db
}

// rowKeeper is a bare client that keeps rows of what it posts.
type rowKeeper struct {
	before func(first, last int) error // writes the rows of those from first on, before they go
	post   func(client *http.Client, n int) error
	after  func(list []int) error // writes down that these were taken
	logs   func(list []int) error // writes what happened to them into a log; may be nil
	chunk  int                    // rows of one before
	most   int                    // rows of one after
}

// rate posts so many, each over one of so many connections, while it makes the
// rows of the next and writes down what was answered. It gives posts per second.
func (k rowKeeper) rate(b *testing.B, n, conns int) float64 {
	b.Helper()
	client := bareClient(conns)
	defer client.CloseIdleConnections()
	var writer sync.Mutex // SQLite has one
	write := func(rows func() error) error {
		writer.Lock()
		defer writer.Unlock()
		return rows()
	}
	made, taken := make(chan int, 4000), make(chan int, 4000)
	g, ctx := errgroup.WithContext(b.Context())
	begin := time.Now()
	g.Go(func() error {
		defer close(made)
		for first := 0; first < n; first += k.chunk {
			last := min(first+k.chunk, n)
			if err := write(func() error { return k.before(first, last) }); err != nil {
				return err
			}
			for i := first; i < last; i++ {
				if err := pass(ctx, made, i); err != nil {
					return err
				}
			}
		}
		return nil
	})
	var posting sync.WaitGroup
	for range conns {
		posting.Add(1)
		g.Go(func() error {
			defer posting.Done()
			for i := range made {
				if err := k.post(client, i); err != nil {
					return err
				}
				if err := pass(ctx, taken, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		posting.Wait()
		close(taken)
		return nil
	})
	told := make(chan []int, 64)
	g.Go(func() error {
		defer close(told)
		for i := range taken {
			list := []int{i}
			for range min(len(taken), k.most-1) {
				list = append(list, <-taken)
			}
			if err := write(func() error { return k.after(list) }); err != nil {
				return err
			}
			if k.logs == nil {
				continue
			}
			select {
			case told <- list:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	g.Go(func() error {
		for list := range told {
			for range min(len(told), 8) {
				list = append(list, <-told...)
			}
			if err := k.logs(list); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return float64(n) / time.Since(begin).Seconds()
}

// bareLog writes entries of the product's event log: so many of each thing, with
// what ref gives as refs, 16 bytes each.
func bareLog(b *testing.B, entries int, refs func(n int) [][]byte) func(list []int) error {
	b.Helper()
	db := bareTables(b, "../platform/eventlog/migrations")
	sealed := make([]byte, 250)
	return func(list []int) error {
		type about struct {
			ref, key []byte
			at       int64
		}
		var all []about
		var args []any
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after Commit it does nothing
		insert := func(text, row string, each int) error {
			for part := range slices.Chunk(args, 64*each) {
				if _, err := tx.Exec(text+strings.TrimSuffix(strings.Repeat(row+",", len(part)/each), ","), part...); err != nil {
					return err
				}
			}
			args = args[:0]
			return nil
		}
		for _, n := range list {
			for range entries {
				key, at := uuid.Must(uuid.NewV7()), time.Now().UnixMicro()
				var packed []byte
				for _, ref := range refs(n) {
					packed = append(packed, ref...)
					all = append(all, about{ref, key[:], at})
				}
				args = append(args, "bare", key[:], at, "bare.thing.done", "", sealed, nil, packed)
			}
		}
		if err := insert(`insert into eventlog_entry (module, key, at, event, target_kind, sealed, receivers, refs) values `, `(?,?,?,?,?,?,?,?)`, 8); err != nil {
			return err
		}
		slices.SortFunc(all, func(a, b about) int { return bytes.Compare(a.ref, b.ref) })
		for _, a := range all {
			args = append(args, "bare", a.ref, a.at, a.key)
		}
		if err := insert(`insert into eventlog_ref (module, ref, at, key) values `, `(?,?,?,?)`, 4); err != nil {
			return err
		}
		return tx.Commit()
	}
}

func pass(ctx context.Context, to chan<- int, n int) error {
	select {
	case to <- n:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
