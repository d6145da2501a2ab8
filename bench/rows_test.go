package bench

import (
	"context"
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// bareClient is a client of the standard library with so many connections.
func bareClient(conns int) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxConnsPerHost: conns, MaxIdleConnsPerHost: conns}}
}

// bareTables makes tables of the product in a SQLite database with its settings.
func bareTables(b *testing.B, migration string) *sql.DB {
	b.Helper()
	schema, err := os.ReadFile(migration)
	if err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(b.TempDir(), "bare.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(string(schema)); err != nil {
		b.Fatal(err)
	}
	return db
}

// rowKeeper is a bare client that keeps rows of what it posts.
type rowKeeper struct {
	before func(first, last int) error // writes the rows of those from first on, before they go
	post   func(client *http.Client, n int) error
	after  func(list []int) error // writes down that these were taken
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
	g.Go(func() error {
		for i := range taken {
			list := []int{i}
			for range min(len(taken), k.most-1) {
				list = append(list, <-taken)
			}
			if err := write(func() error { return k.after(list) }); err != nil {
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

func pass(ctx context.Context, to chan<- int, n int) error {
	select {
	case to <- n:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
