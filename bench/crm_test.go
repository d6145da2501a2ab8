package bench

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/apptest"
	"switchboard/platform/web"
)

// crmShareEnv makes the benchmarks of crm smaller, to see whether they work:
// 0.02 does with a fiftieth of the events. What they measure then means nothing.
const crmShareEnv = "BENCH_CRM_SHARE"

func crmShare(b *testing.B) float64 {
	b.Helper()
	text := os.Getenv(crmShareEnv)
	if text == "" {
		return 1
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f <= 0 || f > 1 {
		b.Fatalf("%s is not above 0 and up to 1", crmShareEnv)
	}
	return f
}

const (
	crmUsers    = 20_000
	crmFewUsers = 100

	// crmConns is the default of crm.concurrency.
	crmConns = 32

	// crmPaced is how long events come at half of the rate.
	crmPaced = 20 * time.Second

	crmPatience = 5 * time.Minute
)

// BenchmarkCRMSync: events per second from the bus to the CRM, which is the mock
// in a process of its own. A client of NATS publishes them as fast as they are
// acknowledged, which is when they are durable; the rate is from the first to
// the last effect at the CRM. All of it logs what it does.
//
//   - http/s is what the same CRM takes of replacements of users from a bare
//     client of the standard library with as many connections, without tables,
//     before and after;
//   - rows/s is what it takes from the same client that keeps two rows of the
//     product's tables for each user, as it should be and as the CRM shows it,
//     and writes them in large transactions (ratio-to-rows): it derives nothing,
//     marks nothing, knows no order and no person, and logs nothing;
//   - logged-rows/s is the same when that client writes the two entries of the
//     event log that the product writes of each change (ratio-to-logged-rows);
//   - created/s are users that are new, and events/s changes of each of them: an
//     event is a call (ratio, to http/s), at cpu-us of the product;
//   - few-events/s are as many changes of a hundred users, where an event that a
//     newer one overtakes needs no call (few-ratio); few-calls is how many went;
//   - p50-ms and p99-ms are from when an event was to be published to its state
//     at the CRM, at half of events/s.
//
// It fails if the CRM shows something else at the end, or ever showed an older
// state of a user after a newer one.
func BenchmarkCRMSync(b *testing.B) {
	o := newCRMOffice(b)
	users := max(int(crmUsers*crmShare(b)), crmFewUsers)
	limit := o.limit(b)
	withRows := o.limitWithRows(b, users, nil)
	withLog := o.limitWithRows(b, users, bareLog(b, 2, func(user int) [][]byte { // received, updated
		ref := sha256.Sum256([]byte(crmUserID(user)))
		return [][]byte{ref[:16]}
	}))
	resetPeak(b, o.product)

	created := o.flood(b, users, users)
	changed := o.flood(b, users, users)
	few := o.flood(b, users, crmFewUsers)
	paced := o.pace(b, users, changed.rate/2)
	if n := int64(2*users + len(paced.latency)); created.calls+changed.calls+paced.requests != n {
		b.Fatalf("%d, %d and %d calls for %d events", created.calls, changed.calls, paced.requests, n)
	}
	most := peak(b, o.product)
	o.verify(b)
	limit = (limit + o.limit(b)) / 2
	if code := o.product.Terminate(); code != 0 {
		b.Fatalf("exit code %d\n%s", code, o.product.Log)
	}

	b.ReportMetric(0, "ns/op")
	b.ReportMetric(limit, "http/s")
	b.ReportMetric(withRows, "rows/s")
	b.ReportMetric(withLog, "logged-rows/s")
	b.ReportMetric(created.rate, "created/s")
	b.ReportMetric(changed.rate, "events/s")
	b.ReportMetric(changed.rate/limit, "ratio")
	b.ReportMetric(changed.rate/withRows, "ratio-to-rows")
	b.ReportMetric(changed.rate/withLog, "ratio-to-logged-rows")
	b.ReportMetric(changed.cpu, "cpu-us")
	b.ReportMetric(few.rate, "few-events/s")
	b.ReportMetric(few.rate/limit, "few-ratio")
	b.ReportMetric(float64(few.calls), "few-calls")
	b.ReportMetric(paced.rate(1), "paced-events/s")
	b.ReportMetric(ms(paced.percentile(0.5)), "p50-ms")
	b.ReportMetric(ms(paced.percentile(0.99)), "p99-ms")
	b.ReportMetric(most, "peak-MB")
}

// crmOffice is a CRM and a product that keeps it in step, each in a process of
// its own, and a platform, which is a client of NATS.
type crmOffice struct {
	crm, product *apptest.Process
	platform     jetstream.JetStream
	refused      atomic.Pointer[error] // an event that was not acknowledged

	feed   crmFeed
	serial int                // of the next event
	should map[crmObject]int  // the newest event of each
	shows  map[crmObject]int  // the one that the CRM shows
	behind map[crmObject]bool // those of which it does not show the newest
	last   map[string]string  // trips by their users
}

type crmObject struct{ kind, id string }

func newCRMOffice(b *testing.B) *crmOffice {
	b.Helper()
	o := &crmOffice{should: map[crmObject]int{}, shows: map[crmObject]int{}, behind: map[crmObject]bool{}, last: map[string]string{}}
	o.crm = apptest.Exec(b, b.TempDir(), []string{"APP_CRM_NATS_SOURCE=false"}, "--modules=crm")
	o.feed.crm = o.crm
	address := freeAddress(b)
	o.product = apptest.Exec(b, b.TempDir(), []string{"APP_CRM_URL=" + o.crm.URL + "/crm", "APP_CRM_TOKEN=" + o.crm.Key, "APP_BUS_LISTEN=" + address}, "--modules=crm")
	nc, err := nats.Connect("nats://" + address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	o.platform, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4000),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { o.refused.Store(&err) }))
	if err != nil {
		b.Fatal(err)
	}
	return o
}

// freeAddress is one that nobody listens on.
func freeAddress(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func crmUserID(user int) string { return fmt.Sprintf("7c9e6679-7425-40de-944b-%012d", user) }

// crmUserBody is a user as the CRM has it.
func crmUserBody(user, serial int) []byte {
	return fmt.Appendf(nil, `{"Id":"%s","LastName":"%d","FirstName":"Mylaeshuro","Email":"user.%d@maas.example","LastTripType":null,"LastTripId":null,"LastTripDate":"0001-01-01T00:00:00Z"}`,
		crmUserID(user), serial, user)
}

// limit gives how many replacements of users per second the CRM takes from
// a bare client. It leaves the CRM empty.
func (o *crmOffice) limit(b *testing.B) float64 {
	b.Helper()
	d := max(time.Duration(float64(measured)/2*crmShare(b)), 300*time.Millisecond)
	client := bareClient(crmConns)
	defer client.CloseIdleConnections()
	o.forget(b)
	for user := range crmUsers / 10 {
		if err := o.post(client, "/crm/users", crmUserBody(user, 0)); err != nil {
			b.Fatal(err)
		}
	}
	var total atomic.Int64
	var wg sync.WaitGroup
	failures := make(chan error, crmConns)
	begin := time.Now()
	for range crmConns {
		wg.Go(func() {
			for time.Since(begin) < d {
				n := int(total.Add(1))
				user := n % (crmUsers / 10)
				if err := o.post(client, "/crm/users/"+crmUserID(user), crmUserBody(user, n)); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	select {
	case err := <-failures:
		b.Fatal(err)
	default:
	}
	if got := o.counts(b).Calls["users.replace"]; got != total.Load() {
		b.Fatalf("%d users were replaced by %d calls", got, total.Load())
	}
	o.forget(b)
	return float64(total.Load()) / took.Seconds()
}

// limitWithRows gives how many replacements of users per second the CRM takes
// from a bare client that keeps durable rows of each, in the product's tables.
// It leaves the CRM empty.
func (o *crmOffice) limitWithRows(b *testing.B, users int, logs func(list []int) error) float64 {
	b.Helper()
	db := bareTables(b, "../modules/crm/migrations")
	sealed := make([]byte, 150)
	write := func(list []int, insert, values, update string, row func(entity []byte, user int) []any) error {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after Commit it does nothing
		for part := range slices.Chunk(list, 64) {
			var args []any
			for _, user := range part {
				entity := sha256.Sum256([]byte(crmUserID(user)))
				args = append(args, row(entity[:16], user)...)
			}
			if _, err := tx.Exec(insert+strings.TrimSuffix(strings.Repeat(values+",", len(part)), ",")+update, args...); err != nil {
				return err
			}
		}
		return tx.Commit()
	}
	should := func(list []int) error {
		return write(list, `insert into crm_user (entity, subject, sealed, log, seq, happened_at) values `, `(?,?,?,?,?,?)`,
			` on conflict (entity) do update set sealed = excluded.sealed, seq = excluded.seq, happened_at = excluded.happened_at`,
			func(entity []byte, user int) []any {
				return []any{entity, entity, sealed, entity, user, time.Now().UnixMicro()}
			})
	}
	shows := func(list []int) error {
		return write(list, `insert into crm_copy (entity, kind, state, subject, digest, remote, sealed, sent_at) values `, `(?,?,?,?,?,?,?,?)`,
			` on conflict (entity) do update set digest = excluded.digest, sent_at = excluded.sent_at`,
			func(entity []byte, _ int) []any {
				return []any{entity, 0, 2, entity, entity, nil, []byte{}, time.Now().UnixMicro()}
			})
	}
	o.forget(b)
	all := make([]int, users)
	for user := range all {
		all[user] = user
		if err := o.post(http.DefaultClient, "/crm/users", crmUserBody(user, 0)); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(should(all), shows(all)); err != nil {
		b.Fatal(err)
	}
	rate := rowKeeper{chunk: 500, most: 256,
		before: func(first, last int) error { return should(all[first:last]) },
		post: func(client *http.Client, user int) error {
			return o.post(client, "/crm/users/"+crmUserID(user), crmUserBody(user, 1))
		},
		after: shows, logs: logs}.rate(b, users, crmConns)
	o.forget(b)
	return rate
}

func (o *crmOffice) post(client *http.Client, path string, body []byte) error {
	req, err := http.NewRequest(http.MethodPost, o.crm.URL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+o.crm.Key)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return errors.New(resp.Status)
	}
	return nil
}

// forget empties the CRM and its history.
func (o *crmOffice) forget(b *testing.B) {
	b.Helper()
	mailingCall(b, http.MethodDelete, o.crm.URL+"/crm/mock", o.crm.Key, nil, nil)
	o.feed.next = 0
}

type crmCounts struct{ Calls map[string]int64 }

func (o *crmOffice) counts(b *testing.B) (c crmCounts) {
	b.Helper()
	mailingCall(b, http.MethodGet, o.crm.URL+"/crm/mock", o.crm.Key, nil, &c)
	return c
}

// changeUser publishes an event of a user.
func (o *crmOffice) changeUser(b *testing.B, user int) {
	b.Helper()
	o.publish(b, "users", crmUserID(user), "internal_user_updated",
		fmt.Appendf(nil, `{"Event":{"Id":"%s","LastName":"%d","FirstName":"Mylaeshuro","Email":"user.%d@maas.example"},"Id":%d}`, crmUserID(user), o.serial, user, o.serial+1))
}

// publish publishes an event that bears the serial, without waiting for its
// acknowledgement.
func (o *crmOffice) publish(b *testing.B, kind, id, topic string, event []byte) {
	b.Helper()
	if _, err := o.platform.PublishAsync("maas."+topic, event, jetstream.WithStallWait(time.Minute)); err != nil {
		b.Fatal(err)
	}
	object := crmObject{kind, id}
	o.should[object], o.behind[object] = o.serial, true
	o.serial++
}

// settled waits until all that was published is durable.
func (o *crmOffice) settled(b *testing.B) {
	b.Helper()
	select {
	case <-o.platform.PublishAsyncComplete():
	case <-time.After(crmPatience):
		b.Fatalf("%d events are not acknowledged", o.platform.PublishAsyncPending())
	}
	if err := o.refused.Load(); err != nil {
		b.Fatal(*err)
	}
}

// logged waits until what was done is logged, so that it does not weigh on what
// comes.
func (o *crmOffice) logged(b *testing.B) {
	b.Helper()
	apptest.Within(b, crmPatience, func() string {
		if n := metric(b, o.product, `eventlog_queue{module="crm",strategy="sql"}`); n > 0 {
			return fmt.Sprintf("%.0f entries wait", n)
		}
		return ""
	})
}

// crmFlood is how a number of events went.
type crmFlood struct {
	rate  float64 // of events, from the first effect to the last
	calls int64   // that had an effect
	cpu   float64 // of the product, in µs for an event, logging included
}

// flood publishes so many changes of so many users.
func (o *crmOffice) flood(b *testing.B, events, users int) crmFlood {
	b.Helper()
	const cpu = "process_cpu_seconds_total"
	before := metric(b, o.product, cpu)
	for n := range events {
		o.changeUser(b, n%users)
	}
	o.settled(b)
	seen := o.shown(b)
	o.logged(b)
	took := seen[len(seen)-1].At.Sub(seen[0].At)
	return crmFlood{float64(events-1) / took.Seconds(), int64(len(seen)), (metric(b, o.product, cpu) - before) / float64(events) * 1e6}
}

// pace publishes changes of users at a rate, and gives how long each took to the
// CRM.
func (o *crmOffice) pace(b *testing.B, users int, rate float64) load {
	b.Helper()
	events := min(users, max(int(rate*crmPaced.Seconds()*crmShare(b)), 50))
	first, begin := o.serial, time.Now()
	due := func(n int) time.Time { return begin.Add(time.Duration(float64(n) / rate * float64(time.Second))) }
	for n := range events {
		time.Sleep(time.Until(due(n)))
		o.changeUser(b, n)
	}
	o.settled(b)
	l := load{took: time.Since(begin)}
	for _, c := range o.shown(b) {
		l.requests++
		l.latency = append(l.latency, c.At.Sub(due(c.serial-first)))
	}
	slices.Sort(l.latency)
	return l
}

// crmState is what is looked at of an object. Users bear the serial of their
// event as a name, trips as a price.
type crmState struct {
	LastName string
	Price    int
}

func (s crmState) serial(kind string) (int, error) {
	if kind == "users" {
		return strconv.Atoi(s.LastName)
	}
	return s.Price, nil
}

// crmChange is a state that an object of the CRM got.
type crmChange struct {
	Seq      int64
	At       time.Time
	Kind, ID string
	State    crmState

	serial int
}

// crmFeed reads such states, each once and in order.
type crmFeed struct {
	crm  *apptest.Process
	next int64
}

func (f *crmFeed) read(b *testing.B) (changes []crmChange) {
	b.Helper()
	for {
		var page struct {
			Items []crmChange
			Next  *string
		}
		mailingCall(b, http.MethodGet, f.crm.URL+"/crm/mock/history?limit=1000&cursor="+web.Cursor(f.next), f.crm.Key, nil, &page)
		for _, c := range page.Items {
			if c.Seq != f.next {
				b.Fatalf("the CRM forgot what came from %d to %d", f.next, c.Seq)
			}
			f.next++
			var err error
			if c.serial, err = c.State.serial(c.Kind); err != nil {
				b.Fatal(err)
			}
			changes = append(changes, c)
		}
		if page.Next == nil || *page.Next == "" {
			return changes
		}
	}
}

// shown waits until the CRM shows the newest event of each object, and gives the
// states since it was asked last. None may be older than one before it.
func (o *crmOffice) shown(b *testing.B) (seen []crmChange) {
	b.Helper()
	apptest.Within(b, crmPatience, func() string {
		for _, c := range o.feed.read(b) {
			seen = append(seen, c)
			object := crmObject{c.Kind, c.ID}
			if c.serial < o.shows[object] {
				b.Fatalf("%+v: event %d came after %d", object, c.serial, o.shows[object])
			}
			if o.shows[object] = c.serial; c.serial == o.should[object] {
				delete(o.behind, object)
			}
		}
		if len(o.behind) > 0 {
			return fmt.Sprintf("%d objects are behind", len(o.behind))
		}
		return ""
	})
	return seen
}

// verify wants the CRM to come to show just what it should.
func (o *crmOffice) verify(b *testing.B) {
	b.Helper()
	apptest.Within(b, time.Minute, func() string {
		objects := 0
		for _, kind := range []string{"users", "trips"} {
			var list []struct {
				ID         string `json:"Id"`
				LastTripID string `json:"LastTripId"`
				crmState
			}
			mailingCall(b, http.MethodGet, o.crm.URL+"/crm/"+kind, o.crm.Key, nil, &list)
			for _, shows := range list {
				serial, err := shows.serial(kind)
				should, ok := o.should[crmObject{kind, shows.ID}]
				if err != nil || !ok || serial != should || shows.LastTripID != o.last[shows.ID] {
					return fmt.Sprintf("%s %s shows event %d (%v) and the last trip %q, and should %d and %q", kind, shows.ID, serial, err, shows.LastTripID, should, o.last[shows.ID])
				}
			}
			objects += len(list)
		}
		if objects != len(o.should) {
			return fmt.Sprintf("the CRM has %d objects of %d", objects, len(o.should))
		}
		return ""
	})
}
