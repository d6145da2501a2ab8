package interop_test

import (
	"fmt"
	"testing"
	"time"

	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/store/storetest"
)

const gatewayAlone = "--modules=gateway"

// TestRestartedServerRecoversItsClients kills the server under load, or stops
// it in order, and starts it again on the same data.
func TestRestartedServerRecoversItsClients(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*apptest.Process){
		"killed":  (*apptest.Process).Kill,
		"stopped": func(p *apptest.Process) { p.Terminate() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, room := t.TempDir(), "комната 1"
			p := apptest.Exec(t, dir, nil, gatewayAlone)
			l := newLine(t)
			l.lead(p.URL)
			var crowds []*crowd
			for _, way := range transports {
				crowds = append(crowds, gather(t, l.URL, p.Key, way.list, room, 6))
			}

			before := publish(t, p.URL, p.Key, "before", room)
			apptest.Within(t, time.Minute, before.more(100))
			end(p)
			before.halt()
			l.cut()

			p = apptest.Exec(t, dir, nil, gatewayAlone)
			missed := publish(t, p.URL, p.Key, "missed", room)
			apptest.Within(t, time.Minute, missed.more(50))
			l.lead(p.URL)
			for _, c := range crowds {
				c.until(time.Minute, reached("missed", 49))
			}
			apptest.Within(t, time.Minute, missed.more(20))
			missed.halt()
			for _, c := range crowds {
				c.until(time.Minute, reached("missed", int(missed.next.Load())-1))
				c.complete(1)
			}
			agree(t, before, crowds...)
			if n, err := emit(p.URL, p.Key, "last", room, "1"); err != nil || n != 18 {
				t.Errorf("%d recipients in the end, %v", n, err)
			}
		})
	}
}

// agree wants that every client has all acknowledged events of a publisher
// that was cut off, and that either all of them have the one that was on its
// way, or none.
func agree(t *testing.T, p *publisher, crowds ...*crowd) {
	t.Helper()
	acknowledged := int(p.next.Load()) - 1
	ends := map[int]int{}
	for _, c := range crowds {
		for _, f := range c.look() {
			ends[f.Last[p.name]]++
		}
	}
	for last := range ends {
		if len(ends) > 1 || last < acknowledged || last > acknowledged+1 {
			t.Errorf("%s: %d is the last that was acknowledged; clients by the last that they have: %v", p.name, acknowledged, ends)
		}
	}
}

// two starts two instances on one bus and one database.
func two(t *testing.T) (a, b *apptest.Process) {
	t.Helper()
	env := []string{"APP_MASTER_KEY=one master key for all instances", "APP_ADMIN_KEY=one-admin-key-for-all-instances"}
	args := []string{"--nats-url=" + bustest.External(t), "--database-url=" + storetest.Postgres(t), gatewayAlone}
	a, b = apptest.Launch(t, t.TempDir(), env, args...), apptest.Launch(t, t.TempDir(), env, args...)
	for _, p := range []*apptest.Process{a, b} {
		if why := p.Await(); why != "" {
			t.Fatal(why)
		}
	}
	return a, b
}

func TestEventReachesTheSocketsOfEveryInstance(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	const room = "room"
	here, there := gather(t, a.URL, a.Key, "websocket", room, 3), gather(t, b.URL, b.Key, "", room, 2)
	gather(t, b.URL, b.Key, "", "another room", 2)
	// Both send at once; each client sees each sender's order.
	for n := range 50 {
		for name, p := range map[string]*apptest.Process{"a": a, "b": b} {
			got, err := emit(p.URL, p.Key, "numbered", room, fmt.Sprintf(`{"from":%q,"n":%d}`, name, n))
			if err != nil || got != 5 {
				t.Fatalf("%s %d: %d recipients, %v", name, n, got, err)
			}
		}
	}
	for _, c := range []*crowd{here, there} {
		c.until(time.Minute, reached("a", 49))
		c.until(time.Minute, reached("b", 49))
		c.complete(0)
	}
}

// TestClientsOfAKilledInstanceTurnToTheOther kills one of two instances under
// load. Its clients come to the other one and miss nothing.
func TestClientsOfAKilledInstanceTurnToTheOther(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	const room = "room"
	l := newLine(t)
	l.lead(a.URL)
	var crowds []*crowd
	for _, way := range transports {
		crowds = append(crowds, gather(t, l.URL, a.Key, way.list, room, 6))
	}
	bystanders := gather(t, b.URL, b.Key, "websocket", room, 4)

	toA, toB := publish(t, a.URL, a.Key, "a", room), publish(t, b.URL, b.Key, "b", room)
	apptest.Within(t, 2*time.Minute, toA.more(200))
	apptest.Within(t, 2*time.Minute, toB.more(200))
	a.Kill()
	killed := time.Now()
	toA.halt()
	apptest.Within(t, 2*time.Minute, toB.more(30))
	l.lead(b.URL)
	for _, c := range crowds {
		c.until(2*time.Minute, func(f follower) string {
			if f.Recovered+f.Anew < 2 {
				return "not back"
			}
			return ""
		})
	}
	t.Logf("all clients are back %s after the kill", time.Since(killed).Round(time.Millisecond))
	apptest.Within(t, 2*time.Minute, toB.more(200))
	toB.halt()
	if toB.failed.Load() {
		t.Error("the instance that lived refused an event")
	}
	last := int(toB.next.Load()) - 1
	for _, c := range append(crowds, bystanders) {
		c.until(2*time.Minute, reached("b", last))
	}
	for _, c := range crowds {
		c.complete(1)
	}
	bystanders.complete(0)
	agree(t, toA, append(crowds, bystanders)...)
	apptest.Within(t, 2*time.Minute, func() string {
		n, err := emit(b.URL, b.Key, "last", room, "1")
		if err != nil || n != 22 {
			return fmt.Sprintf("%d recipients in the end, %v", n, err)
		}
		return ""
	})
}
