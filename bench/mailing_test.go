package bench

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// mailingShareEnv makes the benchmarks of mailing smaller, to see whether they
// work: 0.02 does with a fiftieth of the clients. What they measure then means
// nothing.
const mailingShareEnv = "BENCH_MAILING_SHARE"

func mailingShare(b *testing.B) float64 {
	b.Helper()
	text := os.Getenv(mailingShareEnv)
	if text == "" {
		return 1
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f <= 0 || f > 1 {
		b.Fatalf("%s is not above 0 and up to 1", mailingShareEnv)
	}
	return f
}

const (
	sentClients     = 100_000
	importedClients = 1_000_000

	// senderConns is the default of mailing.concurrency.
	senderConns = 64

	mailingPatience = 15 * time.Minute

	mailingText = "Hello {{.attributes.name}}, the sale begins on Friday: everything for the garden at half the price. Reply STOP to hear no more."
)

// clientPhone and clientName are of the client of that number.
func clientPhone(n int) int64 { return 79_000_000_000 + int64(n) }
func clientName(n int) string { return "Client " + strconv.Itoa(n) }
func messageText(n int) string {
	return strings.ReplaceAll(mailingText, "{{.attributes.name}}", clientName(n))
}

// messageBody is what is posted for a message, as the product does.
func messageBody(b []byte, id int64, n int) []byte {
	return fmt.Appendf(b, `{"id":%d,"phone":%d,"text":"%s"}`, id, clientPhone(n), messageText(n))
}

// BenchmarkMailingSend: messages per second from the first to the last that the
// provider accepted, of a campaign for all clients that starts now. The
// provider is "app probe", which answers at once, in a process of its own. Each
// message has a durable row; all that happens is logged (messages/s), or nothing
// is (unlogged-messages/s). Beside it, in the same run, before and after, what
// the same probe takes over as many connections of the same bodies:
//
//   - http/s: from a bare client of the standard library, as the product uses
//     one, without tables (ratio);
//   - rows/s: from the same client that makes a row of the product's table for
//     each message before it goes and writes down the answer, thousands in a
//     transaction (ratio-to-rows): it reads nothing, knows no person, no window
//     and no campaign, and logs nothing;
//   - logged-rows/s: from that one when it writes an entry of the event log for
//     each message as well (ratio-to-logged-rows);
//   - socket/s: from bare sockets (ratio-to-socket).
//
// first-s and last-s count from start_at. peak-MB is the most memory resident in
// the product while it sent.
func BenchmarkMailingSend(b *testing.B) {
	provider := startProbe(b)
	clients := scaled(b, sentClients)
	overHTTP, overSockets := provider.limits(b)
	withRows := provider.limitWithRows(b, nil)
	withLog := provider.limitWithRows(b, bareLog(b, 1, func(n int) [][]byte {
		return [][]byte{serialRef(1, 1), serialRef(2, n), serialRef(3, n)} // as the product's of a campaign, a message and a client
	}))

	logged := sendAll(b, provider, clients, nil)
	unlogged := sendAll(b, provider, clients, []string{"APP_MAILING_LOG_STRATEGIES="})

	again, againSockets := provider.limits(b)
	overHTTP, overSockets = (overHTTP+again)/2, (overSockets+againSockets)/2
	withRows = (withRows + provider.limitWithRows(b, nil)) / 2

	b.ReportMetric(0, "ns/op")
	b.ReportMetric(overHTTP, "http/s")
	b.ReportMetric(overSockets, "socket/s")
	b.ReportMetric(withRows, "rows/s")
	b.ReportMetric(withLog, "logged-rows/s")
	for prefix, s := range map[string]sentCampaign{"": logged, "unlogged-": unlogged} {
		b.ReportMetric(s.rate, prefix+"messages/s")
		b.ReportMetric(s.rate/overHTTP, prefix+"ratio")
		b.ReportMetric(s.rate/overSockets, prefix+"ratio-to-socket")
		b.ReportMetric(s.rate/withRows, prefix+"ratio-to-rows")
		b.ReportMetric(s.rate/withLog, prefix+"ratio-to-logged-rows")
		b.ReportMetric(s.first.Seconds(), prefix+"first-s")
		b.ReportMetric(s.last.Seconds(), prefix+"last-s")
		b.ReportMetric(s.peak, prefix+"peak-MB")
	}
	b.ReportMetric(logged.missed, "log-entries-missed")
	b.ReportMetric(float64(logged.again+unlogged.again), "sent-again")
}

// BenchmarkMailingImport: lines per second of a CSV import of 1,000,000 lines, of
// which one in a hundred is bad, and the memory it takes; then, for a campaign
// that targets all of them and whose window is closed, the time until each has
// its message row, and the memory that takes. Peaks are the most that was
// resident; anon is at the end, without the pages of files.
func BenchmarkMailingImport(b *testing.B) {
	lines := scaled(b, importedClients)
	dir := b.TempDir()
	p := apptest.Exec(b, dir, nil, "--modules=mailing")
	idle := rss(b, p)
	resetPeak(b, p)
	begin := time.Now()
	end, told := importClients(b, p, lines, func(n int) bool { return n%100 == 99 })
	took := time.Since(begin)
	importPeak := peak(b, p)
	bad, good := int64(lines/100), int64(lines-lines/100)
	if end.Created != good || end.Failed != bad || told != bad || end.Updated != 0 || end.Skipped != 0 {
		b.Fatalf("%d lines are good and %d bad: %+v, %d were told of", good, bad, end, told)
	}
	settleLog(b, p)
	importAnon := memory(b, p, "RssAnon:")
	p.Terminate()

	// What the import took is not counted again.
	p = apptest.Exec(b, dir, nil, "--modules=mailing")
	begin = time.Now()
	campaign := newCampaign(b, p, begin.Add(-time.Minute), closedNow(begin))
	stats := campaignStats{}
	apptest.Within(b, mailingPatience, func() string {
		stats = statsOf(b, p, campaign)
		if stats.Total < good {
			return fmt.Sprintf("%d of %d messages are made", stats.Total, good)
		}
		return ""
	})
	made := time.Since(begin)
	if stats.Total != good || stats.ByStatus["pending"] != good {
		b.Fatalf("of %d clients: %+v", good, stats)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(lines)/took.Seconds(), "lines/s")
	b.ReportMetric(took.Seconds(), "import-s")
	b.ReportMetric(importPeak, "import-peak-MB")
	b.ReportMetric(importAnon, "import-anon-MB")
	b.ReportMetric(float64(told), "bad-lines-told")
	b.ReportMetric(float64(good)/made.Seconds(), "rows/s")
	b.ReportMetric(made.Seconds(), "target-s")
	b.ReportMetric(peak(b, p), "target-peak-MB")
	b.ReportMetric(memory(b, p, "RssAnon:"), "target-anon-MB")
	b.ReportMetric(idle, "idle-rss-MB")
}

// scaled is a number of clients, less in a small run.
func scaled(b *testing.B, n int) int { return max(int(float64(n)*mailingShare(b)), 200) }

// sentCampaign is how a campaign went.
type sentCampaign struct {
	rate        float64
	first, last time.Duration // after start_at
	peak        float64
	missed      float64 // by its log, while it sent
	again       int64   // accepted under an id that was accepted before
}

// sendAll has a new product send a message to each of so many clients.
func sendAll(b *testing.B, provider *provider, clients int, env []string) (s sentCampaign) {
	b.Helper()
	p := apptest.Exec(b, b.TempDir(), append([]string{"APP_MAILING_SENDER_URL=" + provider.url, "APP_MAILING_LINGER=0s"}, env...), "--modules=mailing")
	defer p.Kill()
	if end, _ := importClients(b, p, clients, func(int) bool { return false }); end.Created != int64(clients) {
		b.Fatalf("import: %+v", end)
	}
	settleLog(b, p)
	missed := metric(b, p, `eventlog_missed_total{module="mailing",strategy="sql"}`)
	provider.forget(b)
	resetPeak(b, p)
	start := time.Now().Truncate(time.Microsecond)
	campaign := newCampaign(b, p, start, nil)
	// What had come by the first look counts as the first one.
	first := provider.await(b, 1, time.Millisecond)
	last := provider.await(b, int64(clients), 50*time.Millisecond)
	apptest.Within(b, time.Minute, func() string {
		if stats := statsOf(b, p, campaign); stats.Status != "finished" || stats.ByStatus["sent"] != int64(clients) || stats.Total != int64(clients) {
			return fmt.Sprintf("the campaign has come to %+v", stats)
		}
		return ""
	})
	s.peak = peak(b, p)
	last = provider.summary(b)
	if n := int64(clients); last.DistinctIDs != n || last.DistinctPhones != n || last.PhonesWithTwoIDs != 0 {
		b.Fatalf("%d clients: %+v", clients, last)
	}
	s.first, s.last = first.LastAcceptedAt.Sub(start), last.LastAcceptedAt.Sub(start)
	s.again = last.Accepted - last.DistinctIDs
	s.rate = float64(last.DistinctIDs-first.DistinctIDs) / (s.last - s.first).Seconds()
	s.missed = metric(b, p, `eventlog_missed_total{module="mailing",strategy="sql"}`) - missed
	if code := p.Terminate(); code != 0 {
		b.Fatalf("exit code %d\n%s", code, p.Log)
	}
	return s
}

// provider is "app probe" in a process of its own.
type provider struct {
	url string
	ids atomic.Int64 // of messages of bare clients
}

func startProbe(b *testing.B) *provider {
	b.Helper()
	cmd := exec.Command(apptest.Build(b), "probe", "--listen=127.0.0.1:0")
	out, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	_, rest, found := strings.Cut(line, "http://")
	host, _, whole := strings.Cut(rest, "/send/")
	if err != nil || !found || !whole {
		b.Fatalf("the probe says %q (%v)", line, err)
	}
	return &provider{url: "http://" + host}
}

// providerSummary is what is looked at of the probe's ledger.
type providerSummary struct {
	Accepted         int64     `json:"accepted"`
	DistinctIDs      int64     `json:"distinct_ids"`
	DistinctPhones   int64     `json:"distinct_phones"`
	RepeatedIDs      int64     `json:"repeated_ids"`
	PhonesWithTwoIDs int64     `json:"phones_with_two_ids"`
	ChangedIDs       int64     `json:"changed_ids"`
	Requests         int64     `json:"requests"`
	LastAcceptedAt   time.Time `json:"last_accepted_at"`

	ByFault map[string]int64 `json:"by_fault"`
}

func (p *provider) summary(b *testing.B) (s providerSummary) {
	b.Helper()
	mailingCall(b, http.MethodGet, p.url+"/ledger/summary", "", nil, &s)
	return s
}

func (p *provider) forget(b *testing.B) {
	b.Helper()
	mailingCall(b, http.MethodDelete, p.url+"/ledger", "", nil, nil)
}

// await looks, every so often, until so many messages are accepted.
func (p *provider) await(b *testing.B, n int64, every time.Duration) providerSummary {
	b.Helper()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		s := p.summary(b)
		if s.Accepted >= n {
			return s
		}
		if time.Since(began) > mailingPatience {
			b.Fatalf("%d messages of %d are accepted: %+v", s.Accepted, n, s)
		}
	}
}

// limits gives how many messages per second the provider takes from a bare
// client of the standard library, and from bare sockets.
func (p *provider) limits(b *testing.B) (overHTTP, overSockets float64) {
	b.Helper()
	d := max(time.Duration(float64(measured)/2*mailingShare(b)), 300*time.Millisecond)
	client := bareClient(senderConns)
	defer client.CloseIdleConnections()
	p.forget(b)
	overHTTP = p.hit(b, d, func(until time.Time) (n int64, err error) {
		for ; time.Now().Before(until); n++ {
			id := p.ids.Add(1)
			if err := p.post(client, id); err != nil {
				return n, err
			}
		}
		return n, nil
	})
	p.forget(b)
	overSockets = p.hit(b, d, p.talk)
	p.forget(b)
	return overHTTP, overSockets
}

// limitWithRows gives how many messages per second the provider takes from a
// bare client that keeps a durable row for each, in the product's table.
func (p *provider) limitWithRows(b *testing.B, logs func(list []int) error) float64 {
	b.Helper()
	db := bareTables(b, "../modules/mailing/migrations")
	clients := scaled(b, sentClients)
	p.forget(b)
	rate := rowKeeper{chunk: 1000, most: 500,
		before: func(first, last int) error { return insertMessages(db, first, last) },
		post:   func(client *http.Client, n int) error { return p.post(client, int64(n)+1) },
		after: func(list []int) error {
			ids := []any{time.Now().UnixMicro()}
			for _, n := range list {
				ids = append(ids, n+1)
			}
			_, err := db.Exec(`update mailing_message set status = 2, attempts = 1, sent_at = ?1 where id in (`+strings.TrimSuffix(strings.Repeat("?,", len(list)), ",")+`)`, ids...)
			return err
		},
		logs: logs}.rate(b, clients, senderConns)
	var sent int
	if err := db.QueryRow(`select count(*) from mailing_message where status = 2`).Scan(&sent); err != nil || sent != clients {
		b.Fatalf("%d rows of %d tell of a sent message (%v)", sent, clients, err)
	}
	p.forget(b)
	return rate
}

// serialRef is a ref of a kind and a number.
func serialRef(kind byte, n int) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind, 1, 2, 3, 4, 5, 6, 7}, uint64(n))
}

// insertMessages makes rows of messages, with numbers in random order as the
// product's blind indexes are.
func insertMessages(db *sql.DB, first, last int) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	now := time.Now().UnixMicro()
	for first < last {
		n := min(last-first, 100)
		args := make([]any, 0, 12*n)
		for id := first + 1; id <= first+n; id++ {
			phone := sha256.Sum256([]byte(strconv.Itoa(id)))
			args = append(args, id, 1, id, phone[:16], 0, 0, now, 0, now, nil, "", "")
		}
		if _, err := tx.Exec(`insert into mailing_message (id, campaign, client, phone, status, attempts, due_at, claim, created_at, sent_at, delivered, last_error) values `+
			strings.TrimSuffix(strings.Repeat("(?,?,?,?,?,?,?,?,?,?,?,?),", n), ","), args...); err != nil {
			return err
		}
		first += n
	}
	return tx.Commit()
}

// hit has as many send as the product does, and gives their messages per second.
func (p *provider) hit(b *testing.B, d time.Duration, send func(until time.Time) (int64, error)) float64 {
	b.Helper()
	var total atomic.Int64
	var wg sync.WaitGroup
	failures := make(chan error, senderConns)
	begin := time.Now()
	for range senderConns {
		wg.Go(func() {
			n, err := send(begin.Add(d))
			if total.Add(n); err != nil {
				failures <- err
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
	if s := p.summary(b); s.Accepted != total.Load() {
		b.Fatalf("%d messages were sent: %+v", total.Load(), s)
	}
	return float64(total.Load()) / took.Seconds()
}

func (p *provider) post(client *http.Client, id int64) error {
	req, err := http.NewRequest(http.MethodPost, p.url+"/send/"+strconv.FormatInt(id, 10), bytes.NewReader(messageBody(nil, id, int(id))))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer probe")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// talk sends messages over a connection of its own.
func (p *provider) talk(until time.Time) (n int64, err error) {
	host := strings.TrimPrefix(p.url, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 8<<10)
	var text, out []byte
	for ; time.Now().Before(until); n++ {
		id := p.ids.Add(1)
		text = messageBody(text[:0], id, int(id))
		out = fmt.Appendf(out[:0], "POST /send/%d HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer probe\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", id, host, len(text), text)
		if _, err := conn.Write(out); err != nil {
			return n, err
		}
		if err := acknowledged(r); err != nil {
			return n, err
		}
	}
	return n, nil
}

// importEnd is the last line of an import.
type importEnd struct {
	Done                              *bool
	Created, Updated, Skipped, Failed int64
	Error                             *struct{ Message string }
}

// importClients imports so many lines, and gives the last line of the answer and
// how many bad ones it tells of.
func importClients(b *testing.B, p *apptest.Process, lines int, bad func(n int) bool) (end importEnd, told int64) {
	b.Helper()
	in, out := io.Pipe()
	defer in.Close()
	go func() {
		w := bufio.NewWriterSize(out, 64<<10)
		_, err := w.WriteString("phone_number,tag,timezone,name\n")
		for n := 0; n < lines && err == nil; n++ {
			_, err = w.Write(csvLine(w.AvailableBuffer(), n, bad(n)))
		}
		_ = out.CloseWithError(errors.Join(err, w.Flush()))
	}()
	req, err := http.NewRequest(http.MethodPost, p.URL+"/mailing/clients/import", in)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Key)
	req.Header.Set("Content-Type", "text/csv")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	answer := bufio.NewScanner(resp.Body)
	for answer.Scan() {
		end = importEnd{}
		if err := json.Unmarshal(answer.Bytes(), &end); err != nil {
			b.Fatalf("%s: %v", answer.Text(), err)
		}
		if end.Error != nil && end.Done == nil {
			told++
		}
	}
	if err := answer.Err(); err != nil || resp.StatusCode != http.StatusOK || end.Done == nil || !*end.Done {
		b.Fatalf("%s: %+v (%v)", resp.Status, end, err)
	}
	return end, told
}

// csvLine appends a client, or a line that is none.
func csvLine(b []byte, n int, bad bool) []byte {
	phone, tag, zone := strconv.FormatInt(clientPhone(n), 10), [...]string{"vip", "regular", "new", "lapsed"}[n%4], "Europe/Moscow"
	if bad {
		switch n / 100 % 3 {
		case 0:
			phone = "not a number"
		case 1:
			zone = "Mars/Olympus"
		case 2:
			return fmt.Appendf(b, "%s,%s\n", phone, tag)
		}
	}
	return fmt.Appendf(b, "%s,%s,%s,%s\n", phone, tag, zone, clientName(n))
}

// clientZone is where all clients are.
var clientZone = time.FixedZone("Europe/Moscow", 3*60*60)

type mailingWindow struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// closedNow is a window that opens in some hours, for the clients.
func closedNow(now time.Time) *mailingWindow {
	from := now.In(clientZone).Add(6 * time.Hour)
	return &mailingWindow{from.Format("15:04"), from.Add(time.Hour).Format("15:04")}
}

// newCampaign makes a campaign for all clients and gives its path.
func newCampaign(b *testing.B, p *apptest.Process, start time.Time, window *mailingWindow) string {
	b.Helper()
	var made struct{ ID int64 }
	mailingCall(b, http.MethodPost, p.URL+"/mailing/campaigns", p.Key, struct {
		Text    string         `json:"text"`
		StartAt time.Time      `json:"start_at"`
		EndAt   time.Time      `json:"end_at"`
		Window  *mailingWindow `json:"window,omitempty"`
	}{mailingText, start.UTC(), start.UTC().Add(24 * time.Hour), window}, &made)
	return fmt.Sprintf("/mailing/campaigns/%d", made.ID)
}

type campaignStats struct {
	Status   string
	Total    int64
	ByStatus map[string]int64 `json:"by_status"`
}

func statsOf(b *testing.B, p *apptest.Process, campaign string) (s campaignStats) {
	b.Helper()
	mailingCall(b, http.MethodGet, p.URL+campaign+"/stats", p.Key, nil, &s)
	return s
}

// settleLog waits until what was done so far is logged, so that it does not weigh
// on what comes.
func settleLog(b *testing.B, p *apptest.Process) {
	b.Helper()
	apptest.Within(b, mailingPatience, func() string {
		if n := metric(b, p, `eventlog_queue{module="mailing",strategy="sql"}`); n > 0 {
			return fmt.Sprintf("%.0f entries wait", n)
		}
		return ""
	})
}

// mailingCall sends JSON, if in is not nil, and reads JSON, if out is not nil.
func mailingCall(b *testing.B, method, url, key string, in, out any) {
	b.Helper()
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			b.Fatal(err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		b.Fatalf("%s %s: %s %s (%v)", method, url, resp.Status, text, err)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			b.Fatalf("%s %s: %s: %v", method, url, text, err)
		}
	}
}

// resetPeak begins the most resident memory of the process anew.
func resetPeak(b *testing.B, p *apptest.Process) {
	b.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID()), []byte("5"), 0); err != nil {
		b.Logf("the peak of memory counts from the start of the process: %v", err)
	}
}

// peak gives the most resident memory of the process since then in MB.
func peak(b *testing.B, p *apptest.Process) float64 {
	b.Helper()
	return memory(b, p, "VmHWM:")
}

// memory gives a line of the process's status in MB.
func memory(b *testing.B, p *apptest.Process, name string) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name {
			kb, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb / 1024
		}
	}
	b.Fatalf("the process does not tell its %s", name)
	return 0
}
