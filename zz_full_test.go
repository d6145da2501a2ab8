package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

func TestZZFullRestart(t *testing.T) {
	dir, _ := mount(t, "tmpfs", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", smallDisk))
	ballast(t, filepath.Join(dir, "some"), ballastSize)
	p := apptest.Exec(t, filepath.Join(dir, "data"), nil)
	c := newCrowd(t, 8)
	c.padding = 4 << 10
	c.sendTo(server{p.URL, p.Key})
	c.start()
	apptest.Within(t, time.Minute, c.more(500))
	ballast(t, filepath.Join(dir, "all"), smallDisk)
	apptest.Within(t, time.Minute, func() string {
		if c.refusals() < 50 {
			return "x"
		}
		return ""
	})
	p.Kill()
	c.halt()
	t.Log("acked", c.acked.Load())
	half := apptest.Launch(t, filepath.Join(dir, "data"), nil)
	why := half.Await()
	t.Logf("start on a full disk: %s\n%s", why, half.Log)
	half.Kill()
	half = apptest.Launch(t, filepath.Join(dir, "data"), nil)
	why = half.Await()
	t.Logf("again: %s", why)
	half.Kill()
	os.Remove(filepath.Join(dir, "all"))
	os.Remove(filepath.Join(dir, "some"))
	p = apptest.Exec(t, filepath.Join(dir, "data"), nil)
	s := server{p.URL, p.Key}
	c.sendTo(s)
	c.start()
	apptest.Within(t, time.Minute, c.more(100))
	c.halt()
	c.audit(s, c.settle(s))
}
