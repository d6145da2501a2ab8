package main

import (
	"testing"
	"time"

	"switchboard/platform/apptest"
)

func TestZZLag(t *testing.T) {
	for range 6 {
		dir := t.TempDir()
		p := apptest.Exec(t, dir, nil)
		c := newCrowd(t, 48)
		c.sendTo(server{p.URL, p.Key})
		c.start()
		apptest.Within(t, time.Minute, c.more(9000))
		p.Kill()
		c.halt()
		p = apptest.Exec(t, dir, nil)
		s := server{p.URL, p.Key}
		c.audit(s, c.settle(s))
	}
}
