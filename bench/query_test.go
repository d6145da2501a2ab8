package bench

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

const million = 1_000_000

// BenchmarkQuery: latency of a session's 50 events, and of a category within an
// hour, among a million stored events; one client, and while 5,000 events a
// second come in.
func BenchmarkQuery(b *testing.B) {
	p := apptest.Exec(b, b.TempDir(), nil)
	begin := time.Now()
	fill(b, p)
	b.Logf("a million events accepted and stored in %s", time.Since(begin).Round(time.Second))
	bySession := func() string {
		n := rand.IntN(million / 50)
		return "/collector/events?limit=50&session_id=" + url.QueryEscape(session(n))
	}
	byRange := func() string {
		from := dayOne.Add(time.Duration(rand.IntN(23*3600)) * time.Second)
		return "/collector/events?limit=50&category=" + url.QueryEscape(fmt.Sprintf("category %d", rand.IntN(8))) +
			"&from=" + url.QueryEscape(from.Format(time.RFC3339)) + "&to=" + url.QueryEscape(from.Add(time.Hour).Format(time.RFC3339))
	}
	b.ReportMetric(0, "ns/op")
	for _, q := range []struct {
		name string
		path func() string
	}{{"session", bySession}, {"range", byRange}} {
		l := ask(b, p, 3000, q.path)
		b.ReportMetric(float64(l.percentile(0.5).Microseconds())/1000, q.name+"-p50-ms")
		b.ReportMetric(float64(l.percentile(0.99).Microseconds())/1000, q.name+"-p99-ms")
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		pace := time.Tick(20 * time.Millisecond)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-pace:
				post(b, p, batch(1, n, 100))
			}
		}
	}()
	l := ask(b, p, 2000, bySession)
	close(stop)
	<-done
	b.ReportMetric(float64(l.percentile(0.99).Microseconds())/1000, "session-under-load-p99-ms")
	b.ReportMetric(rss(b, p), "rss-MB")
}

var dayOne = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func session(n int) string { return fmt.Sprintf("e2085be5-9137-4e4e-80b5-%012x", n) }

// fill stores a million events: 20,000 sessions of 50 over a day, in 8 categories.
func fill(b testing.TB, p *apptest.Process) {
	text := make([]byte, 0, 1<<20)
	for n := 0; n < million; n += 1000 {
		text = append(text[:0], '[')
		for i := n; i < n+1000; i++ {
			if i > n {
				text = append(text, ',')
			}
			at := dayOne.Add(time.Duration(i%86_400_000) * 86400 * time.Microsecond)
			text = fmt.Appendf(text, `{"session_id":"%s","category":"category %d","name":"name %d","data":{"host":"shop.example","path":"/shoes/%d","referrer":"https://search.example/?q=shoes+red","viewport":{"w":1280,"h":720}},"timestamp":"%s"}`,
				session(i%(million/50)), i%8, i%3, i%997, at.Format("2006-01-02 15:04:05.000000"))
		}
		post(b, p, append(text, ']'))
	}
	for stored(b, p) < million {
		time.Sleep(100 * time.Millisecond)
	}
}

func post(b testing.TB, p *apptest.Process, body []byte) {
	for {
		req, err := http.NewRequest(http.MethodPost, p.URL+"/collector/events", bytes.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+p.Key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusAccepted {
			return
		}
		if resp.StatusCode != http.StatusServiceUnavailable {
			b.Fatal(resp.Status)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func ask(b testing.TB, p *apptest.Process, n int, path func() string) load {
	var l load
	begin := time.Now()
	for range n {
		req, err := http.NewRequest(http.MethodGet, p.URL+path(), nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+p.Key)
		at := time.Now()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status)
		}
		l.latency = append(l.latency, time.Since(at))
	}
	l.requests, l.took = int64(n), time.Since(begin)
	slices.Sort(l.latency)
	return l
}

// BenchmarkStart: from exec to the first answer of /readyz, on a new and on an
// existing data directory; memory when idle; size of the binary.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	apptest.Build(b)
	var took [2][]time.Duration
	var idle float64
	for n := range 10 {
		begin := time.Now()
		use := dir
		if n%2 == 0 {
			use = b.TempDir()
		}
		p := apptest.Exec(b, use, nil)
		if n > 1 {
			took[n%2] = append(took[n%2], time.Since(begin))
		}
		if n == 9 {
			time.Sleep(2 * time.Second)
			idle = rss(b, p)
		}
		p.Terminate()
	}
	for i, name := range []string{"first-start-ms", "start-ms"} {
		slices.Sort(took[i])
		b.ReportMetric(float64(took[i][len(took[i])/2].Microseconds())/1000, name)
	}
	info, err := os.Stat(apptest.Build(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(idle, "idle-rss-MB")
	b.ReportMetric(float64(info.Size())/1e6, "binary-MB")
}
