package crm

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/apptest"
)

// outageEnv says how long the CRM is away, as in 60s, which is what the product
// has to bear; 5s without it.
const outageEnv = "CRM_OUTAGE"

const (
	outageRate  = 500 // events per second
	outageUsers = 300
	// outageGrowth bounds, in bytes, how much the server grows while the CRM is
	// away: what waits for it is in the tables, and no more than the users.
	outageGrowth = 64 << 20
)

// TestTheCRMIsAwayWhileEventsCome has the CRM gone under 500 events a second:
// what waits is bounded by the users and not by the events, the breaker opens,
// and when the CRM is back it closes and all is made up for.
func TestTheCRMIsAwayWhileEventsCome(t *testing.T) {
	t.Parallel()
	outage := 5 * time.Second
	if text := os.Getenv(outageEnv); text != "" {
		var err error
		if outage, err = time.ParseDuration(text); err != nil || outage <= 0 {
			t.Fatalf("%s: %q", outageEnv, text)
		}
	}
	far := newFarCRM(t)
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p := apptest.Exec(t, t.TempDir(), far.env("APP_CRM_RETRY_MAX=2s"), "--modules=crm", "--bus-listen="+address)
	nc, err := nats.Connect("nats://"+address, nats.RetryOnFailedConnect(true), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var failed atomic.Int64
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256),
		jetstream.WithPublishAsyncErrHandler(func(jetstream.JetStream, *nats.Msg, error) { failed.Add(1) }))
	if err != nil {
		t.Fatal(err)
	}
	s := newStory(t)
	tell := func(e rawEvent) {
		if _, err := js.PublishAsync("maas."+e.Topic, e.Value); err != nil {
			t.Fatal(err)
		}
	}
	for n := range outageUsers { // all whom there will be
		id := "user-" + strconv.Itoa(n)
		s.users = append(s.users, id)
		tell(s.tells(topicUser, userEvent{ID: id, FirstName: s.version(id)}))
	}
	<-js.PublishAsyncComplete()
	if n := failed.Load(); n > 0 {
		t.Fatalf("%d events were not acknowledged", n)
	}
	apptest.Within(t, time.Minute, func() string { return differs(far.shows(), replay(s.events)) })
	begin := resident(t, p)

	far.faults(mock.Faults{Down: true})
	ticker := time.NewTicker(time.Second / 50)
	defer ticker.Stop()
	opened, largest, waiting, told := false, begin, 0.0, 0
	for end := time.Now().Add(outage); time.Now().Before(end); told++ {
		<-ticker.C
		for range outageRate / 50 {
			id := s.users[s.IntN(len(s.users))]
			if s.IntN(2) == 0 {
				tell(s.tells(topicUser, userEvent{id, s.maybe("last"), s.version(id), s.maybe("mail@")}))
				continue
			}
			trip := "trip of " + id
			tell(s.tells(topicBooking, bookingEvent{ID: trip, UserID: &id, From: s.version(trip), Type: s.IntN(4), Price: s.Float64(), StartDate: "2023-04-25T12:56:15.1234567+03:00"}))
		}
		if told%25 == 0 {
			opened = opened || metricsOf(t, p)["crm_breaker_state"] == 2
			largest = max(largest, resident(t, p))
			waiting = max(waiting, metricsOf(t, p)[`crm_dirty{of="objects"}`])
		}
	}
	<-js.PublishAsyncComplete()
	if n := failed.Load(); n > 0 {
		t.Fatalf("%d events were not acknowledged", n)
	}
	apptest.Within(t, time.Minute, func() string { // all is folded, nothing is sent
		m := metricsOf(t, p)
		opened = opened || m["crm_breaker_state"] == 2
		if n := m[`crm_events_total{result="folded",topic="internal_user_updated"}`] + m[`crm_events_total{result="folded",topic="internal_booking_updated"}`]; int(n) < len(s.events) {
			return fmt.Sprintf("%.0f of %d events are folded", n, len(s.events))
		}
		if !opened {
			return "the breaker did not open"
		}
		return ""
	})
	largest = max(largest, resident(t, p))
	if largest > begin+outageGrowth {
		t.Errorf("the server grew from %d to %d MiB", begin>>20, largest>>20)
	}
	if waiting > 2*outageUsers {
		t.Errorf("%.0f users and trips wait, of %d", waiting, 2*outageUsers)
	}
	before := far.counts()
	far.comesTo(s, mock.Conflict)
	apptest.Within(t, time.Minute, func() string {
		if m := metricsOf(t, p); m["crm_breaker_state"] != 0 {
			return fmt.Sprintf("the breaker is in state %.0f", m["crm_breaker_state"])
		}
		return ""
	})
	sent := far.counts().Changes - before.Changes
	if objects := int64(2 * outageUsers); sent > 4*objects {
		t.Errorf("%d changes were sent for %d objects: not the latest states alone", sent, objects)
	}
	t.Logf("%d events, %d changes sent, %d to %d MiB", len(s.events)-outageUsers, sent, begin>>20, largest>>20)
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.Log)
	}
}

// resident is how much memory a process has, in bytes; 0 where nobody tells.
func resident(t *testing.T, p *apptest.Process) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID()))
	if err != nil {
		return 0
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// metricsOf reads the metrics of a process.
func metricsOf(t *testing.T, p *apptest.Process) map[string]float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	in := bufio.NewScanner(resp.Body)
	for in.Scan() {
		if name, value, ok := strings.Cut(in.Text(), " "); ok && name != "#" {
			all[name], _ = strconv.ParseFloat(value, 64) // what is no number is none of ours
		}
	}
	if err := in.Err(); err != nil || len(all) == 0 {
		t.Fatalf("metrics: %s %v", resp.Status, err)
	}
	return all
}

// base is the name of a metric without its labels.
func base(name string) string {
	name, _, _ = strings.Cut(name, "{")
	return name
}
