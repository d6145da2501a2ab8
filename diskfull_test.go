package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"switchboard/platform/apptest"
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
	for _, c := range []struct {
		name string
		// fill fills the disk under load.
		fill func(t *testing.T, dir string, c *crowd)
	}{
		{"filled by events", func(t *testing.T, _ string, c *crowd) {}},
		{"filled by another program to the last byte", func(t *testing.T, dir string, c *crowd) {
			apptest.Within(t, time.Minute, c.more(500))
			ballast(t, filepath.Join(dir, "all"), smallDisk)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, _ := mount(t, "tmpfs", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", smallDisk))
			fillAndFree(t, dir, func(load *crowd) { c.fill(t, dir, load) })
		})
	}
}

// fillAndFree runs the product on a small disk at dir, has fill and the load
// fill it, frees what is not the product's and expects it to go on.
func fillAndFree(t *testing.T, dir string, fill func(*crowd)) {
	t.Helper()
	ballast(t, filepath.Join(dir, "some"), ballastSize)
	p := apptest.Exec(t, filepath.Join(dir, "data"), nil)
	s := server{p.URL, p.Key}
	c := newCrowd(t, crowdSize)
	c.padding = 4 << 10
	c.sendTo(s)
	c.start()
	began := time.Now()
	fill(c)
	apptest.Within(t, 2*time.Minute, func() string {
		if c.refusals() == 0 {
			return "the disk is not full yet"
		}
		return ""
	})
	t.Logf("full after %s with %d events acknowledged", time.Since(began).Round(time.Millisecond), c.acked.Load())

	// The clients keep trying; reading goes on meanwhile, and the state is told.
	before := c.refusals()
	apptest.Within(t, time.Minute, func() string {
		if n := c.refusals() - before; n < 200 {
			return fmt.Sprintf("%d refusals while full", n)
		}
		return ""
	})
	var sessions struct{ Items []session }
	if err := c.get(s, "/collector/sessions", &sessions); err != nil || len(sessions.Items) == 0 {
		t.Errorf("reading while the disk is full: %v, %d sessions", err, len(sessions.Items))
	}
	if resp, err := c.http.Get(s.url + "/readyz"); err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz while the disk is full: %v, %v", resp, err)
	}

	freed := time.Now()
	acked := c.acked.Load()
	for _, name := range []string{"some", "all"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
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
	c.audit(s, c.settle(s))
	t.Logf("accepted again %s after space was back", again.Round(time.Millisecond))
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.Log)
	}
}

// refusals counts the requests that the servers could not take.
func (c *crowd) refusals() int64 { return c.refused.Load() + c.full.Load() }
