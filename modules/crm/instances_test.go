package crm

import (
	"context"
	"fmt"
	"testing"
	"time"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/store/storetest"
)

// TestTwoInstancesKeepOneCRM kills one of two that share a NATS server and a
// PostgreSQL while both work.
func TestTwoInstancesKeepOneCRM(t *testing.T) {
	t.Parallel()
	for _, ids := range []string{mock.Conflict, mock.Own} {
		t.Run(ids, func(t *testing.T) {
			t.Parallel()
			far := newFarCRM(t)
			far.faults(mock.Faults{IDs: ids, Errors: 0.1, Resets: 0.05, Lost: 0.1, Garbage: 0.05, Latency: mock.Duration(5 * time.Millisecond), Jitter: mock.Duration(20 * time.Millisecond)})
			url := bustest.External(t)
			env := far.env("APP_MASTER_KEY=one master key for all instances", "APP_ADMIN_KEY=one-admin-key-for-all-instances", "APP_CRM_CONCURRENCY=8")
			args := []string{"--modules=crm", "--nats-url=" + url, "--database-url=" + storetest.Postgres(t)}
			a := apptest.Exec(t, t.TempDir(), env, args...)
			b := apptest.Exec(t, t.TempDir(), env, args...)
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			tell, hangUp, err := telling(ctx, url)
			if err != nil {
				t.Fatal(err)
			}
			defer hangUp()
			s := newStory(t)
			tells := func(n int) {
				for range n {
					if err := tell(s.next()); err != nil {
						t.Fatal(err)
					}
				}
			}
			tells(250)
			working := func(p *apptest.Process) func() string {
				before := callsOf(t, p)
				return func() string {
					if n := callsOf(t, p); n == 0 || n < before+5 {
						return fmt.Sprintf("an instance made %d calls", n)
					}
					tells(1)
					return ""
				}
			}
			both := []func() string{working(a), working(b)}
			for _, works := range both {
				apptest.Within(t, time.Minute, func() string { tells(3); return works() })
			}
			a.Kill()
			tells(100)
			far.comesTo(s, ids)
			if code := b.Terminate(); code != 0 {
				t.Errorf("exit code %d\n%s", code, b.Log)
			}
		})
	}
}

// callsOf is how many calls an instance made to the CRM, by its metrics.
func callsOf(t *testing.T, p *apptest.Process) (n int) {
	t.Helper()
	for name, value := range metricsOf(t, p) {
		if base(name) == "crm_calls_total" {
			n += int(value)
		}
	}
	return n
}
