package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"switchboard/platform/apptest"
	"switchboard/platform/store/storetest"
)

const (
	smallDisk   = 96 << 20
	ballastSize = 32 << 20
)

// ballast fills a disk until it holds size bytes more or not one more fits.
func ballast(t *testing.T, path string, size int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 256<<10)
	_, _ = rand.Read(chunk)
	for n := 0; n < size; n += len(chunk) {
		if _, err := f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDiskLosesNothingAndGoesOnByItself(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]fullDisk{
		"filled by events":                            {},
		"filled by another program to the last byte":  {byOther: true},
		"killed and started again while it is filled": {byOther: true, killed: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := mount(t, "tmpfs", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", smallDisk))
			c.run(t, dir)
		})
	}
}

// fullDisk is one way in which a disk can be full.
type fullDisk struct {
	byOther bool // another program fills it at once, to the last byte
	killed  bool // the server is killed meanwhile and started again
}

// run runs the product on a small disk at dir under load until it is full,
// frees what is not the product's and expects it to go on.
func (f fullDisk) run(t *testing.T, dir string) {
	t.Helper()
	data := filepath.Join(dir, "data")
	ballast(t, filepath.Join(dir, "some"), ballastSize)
	p := apptest.Exec(t, data, nil)
	s := server{p.URL, p.Key}
	c := newCrowd(t, 8)
	c.padding = 4 << 10
	c.sendTo(s)
	c.start()
	began := time.Now()
	if f.byOther {
		apptest.Within(t, time.Minute, c.more(500))
		ballast(t, filepath.Join(dir, "all"), smallDisk)
	}
	apptest.Within(t, 2*time.Minute, c.refusedMore(1))
	t.Logf("full after %s with %d events acknowledged", time.Since(began).Round(time.Millisecond), c.acked.Load())

	// The clients keep trying; reading goes on meanwhile, and the state is told.
	apptest.Within(t, time.Minute, c.refusedMore(200))
	var sessions struct{ Items []session }
	if err := c.get(s, "/collector/sessions", &sessions); err != nil || len(sessions.Items) == 0 {
		t.Errorf("reading while the disk is full: %v, %d sessions", err, len(sessions.Items))
	}
	if resp, err := c.http.Get(s.url + "/readyz"); err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz while the disk is full: %v, %v", resp, err)
	}
	// Which of the files feels it first is chance; soon the bus says what it is.
	apptest.Within(t, time.Minute, func() string {
		if c.full.Load() == 0 {
			return "no request was answered with 507"
		}
		return ""
	})
	if f.killed {
		p.Kill()
		p = apptest.Launch(t, data, nil)
		// It may start or not. If it does, it says what is wrong.
		t.Logf("started on the full disk: %q", p.Await())
		p.Kill()
	}
	f.free(t, dir, c, p)
}

// free frees the disk and expects the server, started anew if it was killed,
// to take events again soon and to have all that was acknowledged.
func (f fullDisk) free(t *testing.T, dir string, c *crowd, p *apptest.Process) {
	t.Helper()
	freed := time.Now()
	acked := c.acked.Load()
	for _, name := range []string{"some", "all"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if f.killed {
		p = apptest.Exec(t, p.Dir, nil)
		c.sendTo(server{p.URL, p.Key})
	}
	apptest.Within(t, time.Minute, func() string {
		if c.acked.Load() == acked {
			return "nothing is accepted again\n" + p.Log.String()
		}
		return ""
	})
	again := time.Since(freed)
	if again > 10*time.Second {
		t.Errorf("accepted again only %s after space was back", again)
	}
	apptest.Within(t, time.Minute, c.more(300))
	c.halt()
	s := server{p.URL, p.Key}
	c.audit(s, c.settle(s))
	t.Logf("accepted again %s after space was back", again.Round(time.Millisecond))
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.Log)
	}
}

// TestDiskFilledByTheQueueIsFreedByStoring keeps the database from taking what
// was accepted until that fills the disk, and lets it go: storing what waits
// must make the room by itself.
func TestDiskFilledByTheQueueIsFreedByStoring(t *testing.T) {
	t.Parallel()
	dir, _ := mount(t, "tmpfs", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", 48<<20))
	database := storetest.Postgres(t)
	p := apptest.Exec(t, filepath.Join(dir, "data"), nil, "--database-url="+database)
	s := server{p.URL, p.Key}
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "lock table collector.collector_event in share mode"); err != nil {
		t.Fatal(err)
	}
	c := newCrowd(t, 8)
	c.padding = 4 << 10
	c.sendTo(s)
	c.start()
	apptest.Within(t, time.Minute, c.refusedMore(20))
	t.Logf("full with %d events that wait", c.acked.Load())
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	unlocked := time.Now()
	apptest.Within(t, time.Minute, c.more(50))
	t.Logf("accepted again %s after the database was", time.Since(unlocked).Round(time.Millisecond))
	c.halt()
	c.audit(s, c.settle(s))
}

// refusedMore is a condition: that n more requests than now were refused.
func (c *crowd) refusedMore(n int64) func() string {
	refusals := func() int64 { return c.refused.Load() + c.full.Load() }
	want := refusals() + n
	return func() string {
		if got := refusals(); got < want {
			return fmt.Sprintf("%d of %d requests were refused, %d events acknowledged", got, want, c.acked.Load())
		}
		return ""
	}
}
