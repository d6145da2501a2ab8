package bench

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"switchboard/platform/apptest"
	"switchboard/platform/store"
)

// postedCalls are posted to the product, which then are multiplied: 100 copies
// of them are a million calls with three million events.
const (
	postedCalls = 10_000
	callCopies  = 100
)

// BenchmarkTelephonyQuery: latency among 1,000,000 calls of 10,000 numbers with
// 3,000,000 events, one client that asks on after each answer:
//
//   - call-events: ListCallEvents of a random call over a WebSocket, and under
//     load while up to 500 webhooks a second (load-webhooks/s) come in;
//   - list, list-new: ListCalls of all calls and of those in the state NEW, the
//     newest 1,000 of them, after a new event each time, so that no answer is at
//     hand; list-again: the same when nothing has happened since;
//   - by-number: GET /telephony/calls of a random number, 50 of its calls.
//
// Beside the first two what the database alone takes, with the same statements
// and nothing opened, encoded or sent (bare-).
func BenchmarkTelephonyQuery(b *testing.B) {
	dir := b.TempDir()
	p := apptest.Exec(b, dir, nil, "--modules=telephony")
	calls, begin := sized(b, postedCalls), time.Now()
	l := mixedCalls().play(b, p.URL+"/telephony/webhook", p.Key, webhookConns, func(serial int) bool { return serial < calls })
	p.Terminate()
	b.Logf("%d events posted in %s", l.requests, time.Since(begin).Round(100*time.Millisecond))
	begin = time.Now()
	multiply(b, dir)
	b.Logf("multiplied in %s", time.Since(begin).Round(100*time.Millisecond))
	bareEvents, bareCalls := bareQueries(b, dir)

	p = apptest.Exec(b, dir, nil, "--modules=telephony")
	board := &boards{b: b, p: p}
	events := func() string {
		return fmt.Sprintf(`{"event":"ListCallEvents","data":{"call_id":%q}}`, callID(rand.IntN(calls)))
	}
	const all, some = `{"event":"ListCalls","data":{"params":{}}}`, `{"event":"ListCalls","data":{"params":{"state":"NEW"}}}`
	fresh := func(request string) func() string {
		// Calls of other numbers than those that were multiplied.
		next := &callers{events: func(int) []string { return answered[:1] }}
		next.serial.Store(int64(rand.IntN(million)) + 10*million)
		return func() string {
			only := next.serial.Load()
			next.play(b, p.URL+"/telephony/webhook", p.Key, 1, func(serial int) bool { return int64(serial) == only })
			return request
		}
	}
	b.ReportMetric(0, "ns/op")
	report := func(name string, l load) {
		b.ReportMetric(ms(l.percentile(0.5)), name+"-p50-ms")
		b.ReportMetric(ms(l.percentile(0.99)), name+"-p99-ms")
	}
	board.ask(sized(b, 200), "ListCallEvents", events)
	listEvents := board.ask(sized(b, 3000), "ListCallEvents", events)
	report("call-events", listEvents)
	listCalls := board.ask(sized(b, 200), "ListCalls", fresh(all))
	report("list", listCalls)
	report("list-new", board.ask(sized(b, 200), "ListCalls", fresh(some)))
	report("list-again", board.ask(sized(b, 300), "ListCalls", func() string { return all }))
	byNumber := func() string {
		return "/telephony/calls?their_number=" + url.QueryEscape(theirNumber(rand.IntN(calls)/2*2))
	}
	if text := get(b, p, byNumber()); bytes.Count(text, []byte(`"call_id"`)) != 50 {
		b.Fatalf("not 50 calls of a number: %s", text)
	}
	report("by-number", ask(b, p, sized(b, 1000), byNumber))
	report("bare-call-events", bareEvents)
	report("bare-list", bareCalls)
	b.ReportMetric(ms(listEvents.percentile(0.5))/ms(bareEvents.percentile(0.5)), "ratio-call-events-p50")
	b.ReportMetric(ms(listCalls.percentile(0.5))/ms(bareCalls.percentile(0.5)), "ratio-list-p50")

	beside, webhooks := besideWebhooks(b, p, func() load { return board.ask(sized(b, 2000), "ListCallEvents", events) })
	report("call-events-under-load", beside)
	b.ReportMetric(webhooks.rate(1), "load-webhooks/s")
	b.ReportMetric(rss(b, p), "rss-MB")
}

// besideWebhooks does something while 500 webhooks a second come in, or as many
// as are taken, and gives what became of both.
func besideWebhooks(b *testing.B, p *apptest.Process, do func() load) (done, webhooks load) {
	b.Helper()
	stop := make(chan struct{})
	posted := make(chan load, 1)
	go func() {
		defer close(posted)
		pace := time.NewTicker(time.Second * time.Duration(len(answered)) / 500)
		defer pace.Stop()
		next := wholeCalls()
		next.serial.Store(20 * million)
		posted <- next.play(b, p.URL+"/telephony/webhook", p.Key, 8, func(int) bool {
			select {
			case <-pace.C:
				return true
			case <-stop:
				return false
			}
		})
	}()
	done = do()
	close(stop)
	return done, <-posted
}

// multiply makes copies of all calls and their events inside the database of a
// product that has stopped, as if they had been posted one copy after another,
// the last one now. A copy has ids, places, times and event ids of its own and
// shares with its origin what is sealed: that is under the key of the person
// and not bound to the row. Calls are found by an index which only the product
// can make, so that each of those that were posted keeps its own in one of the
// copies: they lie all over the tables, and can be asked for by their ids. What
// is inside the facts of a call is left: no list reads it.
//
// New event ids ascend, where the product's are random: they would take a
// minute to insert, and no query that is measured here reads them.
func multiply(b *testing.B, dir string) {
	b.Helper()
	// Nothing has to outlive a crash.
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "telephony.db")+"?_pragma=journal_mode(off)&_pragma=synchronous(off)&_pragma=temp_store(memory)&_pragma=cache_size(-131072)")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	run := func(text string, args ...any) {
		if _, err := db.ExecContext(b.Context(), text, args...); err != nil {
			b.Fatalf("%v: %s", err, text)
		}
	}
	// Indexes are made of all rows at once, which is faster.
	var names, makes []string
	rows, err := db.QueryContext(b.Context(), `select name, sql from sqlite_master where type = 'index' and sql is not null and tbl_name in ('telephony_event', 'telephony_call')`)
	if err != nil {
		b.Fatal(err)
	}
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			b.Fatal(err)
		}
		names, makes = append(names, name), append(makes, text)
	}
	if err := rows.Err(); err != nil || len(names) < 8 {
		b.Fatalf("indexes: %v (%v)", names, err)
	}
	var length, from, to int64
	if err := db.QueryRowContext(b.Context(), `select max(id), min(occurred_at), max(occurred_at) from telephony_event`).Scan(&length, &from, &to); err != nil {
		b.Fatal(err)
	}
	run(`create temp table call_origin as select *, id % ? as home from telephony_call where generation = (select generation from telephony_head) order by id`, callCopies)
	run(`create temp table event_origin as select e.*, c.home as home from telephony_event e join call_origin c on c.call = e.call order by e.id`)
	for _, name := range names {
		run(`drop index ` + name)
	}
	run(`delete from telephony_event`)
	run(`delete from telephony_call`)
	const call = `case when home = :copy then call else cast(unhex(printf('%08x', (:copy * 2654435761) & 4294967295)) || substr(call, 5) as blob) end`
	run(`begin`)
	for copied := range callCopies {
		args := []any{sql.Named("copy", copied), sql.Named("place", int64(copied)*length), sql.Named("later", int64(copied)*(to-from)+time.Now().UnixMicro()-to-int64(callCopies-1)*(to-from))}
		run(`insert into telephony_event (`+logColumns+`) select id + :place, case when home = :copy then event_id else unhex(printf('%016x%016x', :copy + 1, id)) end, `+
			call+`, code, kind, occurred_at + :later, received_at, subject, sealed, actor, actor_sealed from event_origin order by rowid`, args...)
		run(`insert into telephony_call (generation, id, call, name, state, outcome, direction, queue, our, their, created_at, updated_at, facts, subject, sealed)
			select generation, id + :place, `+call+`, name, state, outcome, direction, queue, our, their, created_at + :later, updated_at + :later, facts, subject, sealed
			from call_origin order by rowid`, args...)
	}
	run(`update telephony_head set event = ?`, length*callCopies)
	run(`commit`)
	for _, text := range makes {
		run(text)
	}
}

// bareQueries reads the events of random calls, and the newest 1,000 calls, from
// the database of a product that has stopped, as its statements do.
func bareQueries(b *testing.B, dir string) (events, calls load) {
	b.Helper()
	db := openStore(b, dir)
	defer db.Close()
	_, some := readRows(b, db.Read(), `select call from telephony_call where generation = (select generation from telephony_head) and id % 331 = 0 limit 5000`)
	timed := func(query string, columns int, args ...any) time.Duration {
		begin := time.Now()
		row, to := make([]sql.RawBytes, columns), make([]any, columns)
		for i := range row {
			to[i] = &row[i]
		}
		n := 0
		err := store.Each(b.Context(), db.Read(), query, args, func(scan func(...any) error) error {
			n++
			return scan(to...)
		})
		if err != nil || n == 0 {
			b.Fatalf("%d rows: %v", n, err)
		}
		return time.Since(begin)
	}
	for range sized(b, 3000) {
		x := some[rand.IntN(len(some))][0]
		events.latency = append(events.latency, timed(`select `+logColumns+` from telephony_event where id > $1 and call = $2 order by id limit $3`, logWidth, 0, x, 1001))
	}
	for range sized(b, 200) {
		calls.latency = append(calls.latency, timed(`select id, name, state, created_at, updated_at from telephony_call
			where generation = $1 order by created_at desc, id desc limit $2`, 5, 1, 1001))
	}
	slices.Sort(events.latency)
	slices.Sort(calls.latency)
	return events, calls
}

func get(b *testing.B, p *apptest.Process, path string) []byte {
	b.Helper()
	req, err := http.NewRequest(http.MethodGet, p.URL+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("%s %s (%v)", resp.Status, text, err)
	}
	return text
}

// boards asks over WebSockets, one at a time: a socket may ask forty times
// before it would have to slow down.
type boards struct {
	b    *testing.B
	p    *apptest.Process
	conn *websocket.Conn
	left int
}

func (s *boards) dial(ctx context.Context) {
	if s.conn != nil {
		_ = s.conn.CloseNow()
	}
	var err error
	s.conn, _, err = websocket.Dial(ctx, strings.Replace(s.p.URL, "http://", "ws://", 1)+"/telephony/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + s.p.Key}}})
	if err != nil {
		s.b.Fatal(err)
	}
	s.b.Cleanup(func() { _ = s.conn.CloseNow() })
	s.conn.SetReadLimit(-1)
	s.left = 35
}

// ask asks n times and gives how long the answers took.
func (s *boards) ask(n int, event string, request func() string) (l load) {
	s.b.Helper()
	ctx, cancel := context.WithTimeout(s.b.Context(), time.Minute)
	defer cancel()
	good := []byte(`"event":"` + event + `","status":"Ok"`)
	some := []byte(`{"data":[{"id":`)
	for range n {
		if s.left == 0 || s.conn == nil {
			s.dial(ctx)
		}
		s.left--
		text := []byte(request())
		begin := time.Now()
		if err := s.conn.Write(ctx, websocket.MessageText, text); err != nil {
			s.b.Fatal(err)
		}
		for {
			_, frame, err := s.conn.Read(ctx)
			if err != nil {
				s.b.Fatal(err)
			}
			if bytes.Contains(frame[max(len(frame)-120, 0):], good) && bytes.HasPrefix(frame, some) {
				break
			}
			if !bytes.Contains(frame, []byte(`"DataChanged"`)) && !bytes.Contains(frame, []byte(`"Welcome"`)) {
				s.b.Fatalf("%s: %.200s", text, frame)
			}
		}
		l.latency = append(l.latency, time.Since(begin))
	}
	l.requests = int64(n)
	slices.Sort(l.latency)
	return l
}
