package bench

import (
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

const measured = 8 * time.Second

// BenchmarkIngestSingle: accepted (durable) events per second, one per request,
// 64 connections. Beside it, in turns of a second or two, since the machine may
// be faster now than a moment ago, a bare handler that forgets what it decodes:
// with encoding/json (ratio), the same but for the data (ratio-to-skipping), or
// with the collector's decoder (ratio-to-strict).
func BenchmarkIngestSingle(b *testing.B) {
	ingest(b, 64, 1, func(conn, n int) []byte { return event(nil, conn, n, time.Now()) })
	b.ReportMetric(rawJetStream(b, 300, 256, measured/4), "jetstream-synced-msg/s")
}

// BenchmarkIngestBatch: the same in batches of 100 over 16 connections.
func BenchmarkIngestBatch(b *testing.B) {
	ingest(b, 16, 100, func(conn, n int) []byte { return batch(conn, n, 100) })
	b.ReportMetric(100*rawJetStream(b, 30_000, 64, measured/4), "jetstream-synced-events/s")
}

// ingest measures requests of so many events each over so many connections.
func ingest(b *testing.B, conns, each int, body func(conn, n int) []byte) {
	raw := bare(b)
	p := apptest.Exec(b, b.TempDir(), nil)
	drive(b, p.URL+"/collector/events", p.Key, conns, time.Second, body)
	caughtUp(b, p)
	const turns = 8
	var ours, std, skipping, strict load
	for range turns {
		std = std.and(drive(b, raw+"/std", "", conns, measured/turns, body))
		skipping = skipping.and(drive(b, raw+"/skip", "", conns, measured/turns, body))
		strict = strict.and(drive(b, raw+"/strict", "", conns, measured/turns, body))
		ours = ours.and(drive(b, p.URL+"/collector/events", p.Key, conns, 2*measured/turns, body))
		caughtUp(b, p) // not at the cost of the others
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours.rate(each), "events/s")
	b.ReportMetric(float64(ours.percentile(0.5).Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(ours.percentile(0.99).Microseconds())/1000, "p99-ms")
	b.ReportMetric(std.rate(each), "bare/s")
	b.ReportMetric(skipping.rate(each), "bare-skipping/s")
	b.ReportMetric(strict.rate(each), "bare-strict/s")
	b.ReportMetric(ours.rate(each)/std.rate(each), "ratio")
	b.ReportMetric(ours.rate(each)/skipping.rate(each), "ratio-to-skipping")
	b.ReportMetric(ours.rate(each)/strict.rate(each), "ratio-to-strict")
}

// caughtUp waits until all that was accepted is stored.
func caughtUp(b *testing.B, p *apptest.Process) {
	b.Helper()
	for late := time.Now().Add(time.Minute); stored(b, p) < metric(b, p, `collector_events_received_total{result="accepted"}`); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(late) {
			b.Fatal("storing does not catch up")
		}
	}
}

// BenchmarkStore: events per second from the bus into the tables, while nothing
// else happens, beside bare inserts of the same rows with the same indexes.
func BenchmarkStore(b *testing.B) {
	raw := rawSQLite(b, measured/4)
	p := apptest.Exec(b, b.TempDir(), nil)
	l := drive(b, p.URL+"/collector/events", p.Key, 16, 3*time.Second, func(conn, n int) []byte { return batch(conn, n, 100) })
	// The backlog that has built up is what is measured, from when storing goes on
	// that has stood back, to the last event.
	all := float64(l.requests) * 100
	first := stored(b, p)
	begin, last := time.Now(), first
	for late := begin.Add(time.Minute); last < all; time.Sleep(20 * time.Millisecond) {
		if last = stored(b, p); last == first {
			begin = time.Now()
		}
		if time.Now().After(late) {
			b.Fatalf("%.0f of %.0f events are stored", last, all)
		}
	}
	at := time.Now()
	rate := (last - first) / at.Sub(begin).Seconds()
	raw = (raw + rawSQLite(b, measured/4)) / 2
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(rate, "events/s")
	b.ReportMetric(last-first, "backlog")
	b.ReportMetric(raw, "sqlite-rows/s")
	b.ReportMetric(rate/raw, "ratio")
	b.ReportMetric(rss(b, p), "rss-MB")
}

// BenchmarkQueryable: time from acceptance to being queryable while events
// come at half the rate of what can be stored.
func BenchmarkQueryable(b *testing.B) {
	p := apptest.Exec(b, b.TempDir(), nil)
	const conns, each = 4, 50
	pace := time.Tick(time.Second * each / 15_000)
	l := drive(b, p.URL+"/collector/events", p.Key, conns, measured, func(conn, n int) []byte { <-pace; return batch(conn, n, each) })
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(l.rate(each), "events/s")
	for _, q := range []struct {
		share float64
		name  string
	}{{0.5, "p50-ms"}, {0.99, "p99-ms"}} {
		b.ReportMetric(delay(b, p, q.share)*1000, q.name)
	}
}

// stored reads how many events the product has stored from its metrics.
func stored(b testing.TB, p *apptest.Process) float64 {
	return metric(b, p, "collector_events_stored_total")
}

func metric(b testing.TB, p *apptest.Process, name string) float64 {
	for _, line := range metrics(b, p) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			return f
		}
	}
	return 0
}

func metrics(b testing.TB, p *apptest.Process) []string {
	resp, err := http.Get(p.URL + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text := new(strings.Builder)
	if _, err := io.Copy(text, resp.Body); err != nil {
		b.Fatal(err)
	}
	return strings.Split(text.String(), "\n")
}

// delay reads a quantile of collector_store_delay_seconds: the upper bound of
// the bucket it falls into.
func delay(b testing.TB, p *apptest.Process, share float64) float64 {
	total := metric(b, p, "collector_store_delay_seconds_count")
	for _, line := range metrics(b, p) {
		rest, ok := strings.CutPrefix(line, `collector_store_delay_seconds_bucket{le="`)
		if !ok {
			continue
		}
		bound, count, _ := strings.Cut(rest, `"} `)
		n, err := strconv.ParseFloat(count, 64)
		if err != nil {
			b.Fatal(err)
		}
		if n >= share*total && bound != "+Inf" {
			le, err := strconv.ParseFloat(bound, 64)
			if err != nil {
				b.Fatal(err)
			}
			return le
		}
	}
	return 0
}

// rss gives the resident memory of the process in MB.
func rss(b testing.TB, p *apptest.Process) float64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID()) + "/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmRSS:" {
			kb, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb / 1024
		}
	}
	return 0
}
