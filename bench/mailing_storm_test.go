package bench

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

const (
	stormClients = 20_000

	// stormConcurrency is the mailing.concurrency for a provider that is known to
	// hang: each request that does keeps its place for the whole of
	// mailing.sender_timeout. With one in twenty of them and 10 s the default of
	// 64 places is good for some 120 messages per second, and this for 900.
	stormConcurrency = 512

	stormTimeout = 10 * time.Second // the default of mailing.sender_timeout
	stormOutage  = time.Minute
	stormLock    = 10 * time.Second

	// apiRate is how many requests per second the API is asked meanwhile.
	apiRate = 50
	apiIdle = 30 * time.Second
)

// stormFaults are as JSON of "app probe". Half of what hangs, is reset or is
// garbage was accepted before.
type stormFaults struct {
	Latency      string   `json:"latency"`
	Jitter       string   `json:"jitter"`
	Fail         float64  `json:"fail"`
	Hang         float64  `json:"hang"`
	HangAfter    float64  `json:"hang_after"`
	Garbage      float64  `json:"garbage"`
	GarbageAfter float64  `json:"garbage_after"`
	Reset        float64  `json:"reset"`
	ResetAfter   float64  `json:"reset_after"`
	Outages      []string `json:"outages,omitempty"`
	Unauthorized []string `json:"unauthorized,omitempty"`
}

var storm = stormFaults{Latency: "20ms", Jitter: "20ms", Fail: 0.2, Hang: 0.025, HangAfter: 0.025, Garbage: 0.025, GarbageAfter: 0.025, Reset: 0.025, ResetAfter: 0.025}

// BenchmarkMailingStorm: a campaign through a provider of which a fifth of the
// answers are 5xx, one request in twenty hangs for the whole of
// mailing.sender_timeout, one in twenty is answered with garbage and one in
// twenty reset, which is away for a minute after a third of the messages, and
// refuses the token for ten seconds after two thirds. It fails if anybody gets no
// message or two.
//
//   - storm-s is the time from the start to finished, of which calm-s is without
//     the outage and the refusal; accepted counts acceptances, repeated-ids the
//     messages that were accepted more than once, under one id;
//   - idle-p99-ms and storm-p99-ms are of the API, asked 50 times a second, in
//     turns for the campaign, its statistics, and to make a client: before the
//     campaign and during it. Times count from when a request was to be made.
func BenchmarkMailingStorm(b *testing.B) {
	provider := startProbe(b)
	clients := scaled(b, stormClients)
	p := apptest.Exec(b, b.TempDir(), []string{"APP_MAILING_SENDER_URL=" + provider.url, "APP_MAILING_LINGER=0s",
		fmt.Sprintf("APP_MAILING_CONCURRENCY=%d", stormConcurrency), "APP_MAILING_SENDER_TIMEOUT=" + stormy(b, stormTimeout).String()}, "--modules=mailing")
	defer p.Kill()
	if end, _ := importClients(b, p, clients, func(int) bool { return false }); end.Created != int64(clients) {
		b.Fatalf("import: %+v", end)
	}
	settleLog(b, p)
	// The campaign is for the tags of those who were imported: the clients that
	// are made meanwhile have another one.
	var made struct{ ID int64 }
	start := time.Now().Add(stormy(b, apiIdle))
	mailingCall(b, http.MethodPost, p.URL+"/mailing/campaigns", p.Key, map[string]any{"text": mailingText, "start_at": start.UTC(), "end_at": start.UTC().Add(24 * time.Hour),
		"filter": map[string]any{"tag": []string{"vip", "regular", "new", "lapsed"}}}, &made)
	campaign := fmt.Sprintf("/mailing/campaigns/%d", made.ID)

	provider.suffers(b, storm)
	api := newVisitors(p, campaign)
	idle := api.visit(time.Until(start), nil)

	over := make(chan struct{})
	var during visits
	var visiting sync.WaitGroup
	visiting.Go(func() { during = api.visit(mailingPatience, over) })
	defer visiting.Wait()
	stop := sync.OnceFunc(func() { close(over) })
	defer stop()

	provider.await(b, int64(clients)/3, 50*time.Millisecond)
	provider.suffersFor(b, "outage", func(f *stormFaults, window []string) { f.Outages = window }, stormy(b, stormOutage))
	provider.await(b, int64(clients)*2/3, 50*time.Millisecond)
	provider.suffersFor(b, "unauthorized", func(f *stormFaults, window []string) { f.Unauthorized = window }, stormy(b, stormLock))
	var stats campaignStats
	apptest.Within(b, mailingPatience, func() string {
		if stats = statsOf(b, p, campaign); stats.Status != "finished" {
			return fmt.Sprintf("the campaign has come to %+v", stats)
		}
		return ""
	})
	took := time.Since(start)
	stop()
	visiting.Wait()

	s := provider.summary(b)
	if n := int64(clients); stats.Total != n || stats.ByStatus["sent"] != n || s.DistinctIDs != n || s.DistinctPhones != n || s.PhonesWithTwoIDs != 0 || s.ChangedIDs != 0 {
		b.Fatalf("%d clients: %+v, %+v", clients, stats, s)
	}
	if err := errors.Join(idle.err, during.err); err != nil {
		b.Fatal(err)
	}
	if code := p.Terminate(); code != 0 {
		b.Fatalf("exit code %d\n%s", code, p.Log)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(clients), "clients")
	b.ReportMetric(float64(s.Accepted), "accepted")
	b.ReportMetric(float64(s.RepeatedIDs), "repeated-ids")
	b.ReportMetric(took.Seconds(), "storm-s")
	b.ReportMetric((took - stormy(b, stormOutage) - stormy(b, stormLock)).Seconds(), "calm-s")
	b.ReportMetric(ms(idle.p99("")), "idle-p99-ms")
	b.ReportMetric(ms(during.p99("")), "storm-p99-ms")
	b.ReportMetric(float64(during.p99(""))/float64(idle.p99("")), "p99-ratio")
	for _, kind := range visitKinds {
		b.Logf("%-8s p99 %6.1f ms idle, %6.1f ms in the storm (%d and %d requests)", kind, ms(idle.p99(kind)), ms(during.p99(kind)), len(idle.took[kind]), len(during.took[kind]))
	}
	b.Logf("%d requests to send: %v", s.Requests, s.ByFault)
}

// stormy is a time of the storm, less in a small run.
func stormy(b *testing.B, d time.Duration) time.Duration {
	b.Helper()
	return max(time.Duration(float64(d)*mailingShare(b)), time.Second)
}

// suffers changes what the provider does wrong.
func (p *provider) suffers(b *testing.B, f stormFaults) {
	b.Helper()
	mailingCall(b, http.MethodPut, p.url+"/faults", "", f, nil)
}

// suffersFor has it suffer a fault besides for a time, from now on, and wants
// that somebody noticed.
func (p *provider) suffersFor(b *testing.B, fault string, set func(*stormFaults, []string), d time.Duration) {
	b.Helper()
	f := storm
	set(&f, []string{"0s-" + d.String()})
	p.suffers(b, f)
	apptest.Within(b, d+time.Minute, func() string {
		if p.summary(b).ByFault[fault] == 0 {
			return "nothing suffers " + fault
		}
		return ""
	})
}

// visitKinds are what visitors ask for, in turns.
var visitKinds = []string{"campaign", "stats", "client"}

// visitors ask the API at a fixed rate, whether it keeps up or not.
type visitors struct {
	p        *apptest.Process
	campaign string
	client   *http.Client
	made     int // clients
}

func newVisitors(p *apptest.Process, campaign string) *visitors {
	return &visitors{p: p, campaign: campaign, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
}

// visits are how long the answers took, by kind.
type visits struct {
	took map[string][]time.Duration
	err  error
}

// p99 is of one kind, or of all.
func (v visits) p99(kind string) time.Duration {
	var all []time.Duration
	for k, took := range v.took {
		if kind == "" || kind == k {
			all = append(all, took...)
		}
	}
	slices.Sort(all)
	return load{latency: all}.percentile(0.99)
}

// visit goes on for a time, or until over.
func (v *visitors) visit(d time.Duration, over <-chan struct{}) (out visits) {
	out.took = map[string][]time.Duration{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	defer asking.Wait()
	defer v.client.CloseIdleConnections()
	next := time.NewTimer(0)
	defer next.Stop()
	begin := time.Now()
	for n := 0; ; n++ {
		due := begin.Add(time.Duration(n) * time.Second / apiRate)
		if due.Sub(begin) > d {
			return out
		}
		next.Reset(time.Until(due))
		select {
		case <-over:
			return out
		case <-next.C:
		}
		kind := visitKinds[n%len(visitKinds)]
		req, err := v.request(kind)
		asking.Go(func() {
			if err == nil {
				err = v.ask(req)
			}
			took := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			out.took[kind] = append(out.took[kind], took)
			out.err = errors.Join(out.err, err)
		})
	}
}

func (v *visitors) request(kind string) (req *http.Request, err error) {
	switch kind {
	case "campaign":
		req, err = http.NewRequest(http.MethodGet, v.p.URL+v.campaign, nil)
	case "stats":
		req, err = http.NewRequest(http.MethodGet, v.p.URL+v.campaign+"/stats", nil)
	default:
		v.made++
		req, err = http.NewRequest(http.MethodPost, v.p.URL+"/mailing/clients", strings.NewReader(
			fmt.Sprintf(`{"phone_number":"%d","tag":"visitor","timezone":"Asia/Omsk"}`, clientPhone(importedClients+v.made))))
	}
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+v.p.Key)
	req.Header.Set("Content-Type", "application/json")
	return req, nil
}

func (v *visitors) ask(req *http.Request) error {
	resp, err := v.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", req.Method, req.URL.Path, resp.Status, text)
	}
	return err
}
