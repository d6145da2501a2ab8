package bench

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

const (
	outageUsers  = 10_000
	outageRate   = 500 // events per second
	outageBefore = 10 * time.Second
	outageTime   = time.Minute
	outageAfter  = 50 * time.Second

	// outageUpdates is how many trips lie between the first event of a trip and
	// its second one.
	outageUpdates = 50
)

// BenchmarkCRMOutage: the CRM cuts every connection for a minute while 500
// events come per second: of five, three change a user, one is a new booking
// and one changes a booking. It fails if anything is lost, if an older state is
// shown after a newer one, or if the circuit breaker does not open and close.
//
//   - step-s is from the end of the outage until the CRM shows all that was
//     published before it, while events go on coming;
//   - dirty-units is the most users that waited at a time, of objects
//     dirty-objects; failed-calls is what went into the outage;
//   - peak-MB is the most memory resident in the product during the outage and
//     after it, idle-MB what was before.
func BenchmarkCRMOutage(b *testing.B) {
	share := crmShare(b)
	scaled := func(d time.Duration) time.Duration { return max(time.Duration(float64(d)*share), 4*time.Second) }
	users, rate := max(int(outageUsers*share), crmFewUsers), max(outageRate*share, 100)
	o := newCRMOffice(b)
	for user := range users {
		o.changeUser(b, user)
	}
	o.settled(b)
	o.shown(b)

	begin := time.Now()
	due := func(n int) time.Time { return begin.Add(time.Duration(float64(n) / rate * float64(time.Second))) }
	down := begin.Add(scaled(outageBefore))
	until := down.Add(scaled(outageTime))
	end := until.Add(scaled(outageAfter))
	var up time.Time
	behind := map[crmObject]int{} // at the end of the outage, with the events that they lack
	var idle, units, objects float64
	for n := 0; due(n).Before(end); n++ {
		time.Sleep(time.Until(due(n)))
		switch {
		case idle == 0 && due(n).After(down):
			idle = rss(b, o.product)
			resetPeak(b, o.product)
			o.suffers(b, true)
		case up.IsZero() && due(n).After(until):
			for object := range o.behind {
				behind[object] = o.should[object]
			}
			o.suffers(b, false)
			up = time.Now()
		}
		o.live(b, n, users)
		if n%int(rate) == 0 {
			units = max(units, metric(b, o.product, `crm_dirty{of="units"}`))
			objects = max(objects, metric(b, o.product, `crm_dirty{of="objects"}`))
		}
	}
	o.settled(b)
	var step time.Duration
	for _, c := range o.shown(b) {
		object := crmObject{c.Kind, c.ID}
		if serial, ok := behind[object]; ok && c.serial >= serial {
			step = max(step, c.At.Sub(up))
			delete(behind, object)
		}
	}
	o.verify(b)

	opened, closed := metric(b, o.product, `crm_breaker_changes_total{state="open"}`), metric(b, o.product, `crm_breaker_changes_total{state="closed"}`)
	if state := metric(b, o.product, "crm_breaker_state"); len(behind) > 0 || opened == 0 || closed == 0 || state != 0 || units == 0 {
		b.Fatalf("%d objects behind; the breaker opened %.0f and closed %.0f times, and is %.0f; at most %.0f units were dirty", len(behind), opened, closed, state, units)
	}
	failed := 0.0
	for _, kind := range []string{"user", "trip"} {
		for _, call := range []string{"create", "replace"} {
			for _, result := range []string{"failed", "unsent", "timeout"} {
				failed += metric(b, o.product, fmt.Sprintf(`crm_calls_total{call="%s",kind="%s",result="%s"}`, call, kind, result))
			}
		}
	}
	most := peak(b, o.product)
	if code := o.product.Terminate(); code != 0 {
		b.Fatalf("exit code %d\n%s", code, o.product.Log)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(o.serial-users), "events")
	b.ReportMetric(step.Seconds(), "step-s")
	b.ReportMetric(units, "dirty-units")
	b.ReportMetric(objects, "dirty-objects")
	b.ReportMetric(failed, "failed-calls")
	b.ReportMetric(opened, "breaker-opened")
	b.ReportMetric(closed, "breaker-closed")
	b.ReportMetric(idle, "idle-MB")
	b.ReportMetric(most, "peak-MB")
}

// suffers has the CRM cut every connection, or heals it.
func (o *crmOffice) suffers(b *testing.B, down bool) {
	b.Helper()
	mailingCall(b, http.MethodPut, o.crm.URL+"/crm/mock/faults", o.crm.Key, map[string]any{"down": down}, nil)
}

// live publishes the event of that number.
func (o *crmOffice) live(b *testing.B, n, users int) {
	b.Helper()
	trip := n / 5
	switch n % 5 {
	case 3:
		o.changeTrip(b, trip, users)
	case 4:
		o.changeTrip(b, max(trip-outageUpdates, 0), users)
	default:
		o.changeUser(b, n*7919%users)
	}
}

// changeTrip publishes an event of a booking. A later trip begins later.
func (o *crmOffice) changeTrip(b *testing.B, trip, users int) {
	b.Helper()
	id, user := fmt.Sprintf("0f8fad5b-d9cb-469f-a165-%012d", trip), crmUserID(trip*7919%users)
	o.last[user] = max(o.last[user], id)
	start := dayOne.Add(time.Duration(trip) * time.Second).Format("2006-01-02T15:04:05.0000000Z07:00")
	o.publish(b, "trips", id, "internal_booking_updated", fmt.Appendf(nil, `{"Event":{"Id":"%s","UserId":"%s","From":"Gaezhilomu","To":null,"Type":%d,"StartDate":"%s","EndDate":null,"Price":%d},"Id":%d}`,
		id, user, trip%4, start, o.serial, o.serial+1))
}
