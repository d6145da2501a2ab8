package mailing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"switchboard/modules/mailing/internal/probe"
	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/store/storetest"
)

// said sends a request to a process and gives the answer.
func said(t *testing.T, p *apptest.Process, method, path, contentType, body string) (status int, text []byte) {
	t.Helper()
	req, err := http.NewRequest(method, p.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Key)
	req.Header.Set("Content-Type", contentType)
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, text
}

// ask is said that reads the answer into out unless that is nil.
func ask(t *testing.T, p *apptest.Process, method, path, contentType, body string, out any) int {
	t.Helper()
	status, text := said(t, p, method, path, contentType, body)
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatalf("%s %s: %d %s", method, path, status, text)
		}
	}
	return status
}

// letGo imports clients and starts a campaign for all of them.
func letGo(t *testing.T, p *apptest.Process, clients int) (path string) {
	t.Helper()
	var csv bytes.Buffer
	csv.WriteString("phone_number,tag,timezone\n")
	for i := range clients {
		fmt.Fprintf(&csv, "7916%07d,vip,Europe/Moscow\n", i)
	}
	if status := ask(t, p, http.MethodPost, "/mailing/clients/import", "text/csv", csv.String(), nil); status != http.StatusOK {
		t.Fatalf("import: %d", status)
	}
	now := time.Now().UTC()
	var made struct{ ID int64 }
	body := fmt.Sprintf(`{"text":"hello","start_at":%q,"end_at":%q}`, now.Format(time.RFC3339), now.Add(time.Hour).Format(time.RFC3339))
	if status := ask(t, p, http.MethodPost, "/mailing/campaigns", "application/json", body, &made); status != http.StatusCreated {
		t.Fatalf("campaign: %d", status)
	}
	return fmt.Sprintf("/mailing/campaigns/%d", made.ID)
}

// finishes waits until a campaign is finished with every client served.
func finishes(t *testing.T, p *apptest.Process, path string, clients int) {
	t.Helper()
	apptest.Within(t, 5*time.Minute, func() string {
		var c struct{ Status string }
		var s struct {
			Total    int
			ByStatus map[string]int `json:"by_status"`
		}
		ask(t, p, http.MethodGet, path, "", "", &c)
		ask(t, p, http.MethodGet, path+"/stats", "", "", &s)
		if c.Status != "finished" {
			return fmt.Sprintf("the campaign is %s: %v", c.Status, s.ByStatus)
		}
		if s.ByStatus["sent"] != clients || s.Total != clients {
			t.Fatalf("%+v", s)
		}
		return ""
	})
}

const (
	kills = 5
	// killedPlaces is mailing.concurrency of those that are killed.
	killedPlaces = 64
)

// TestKilledWhileSendingNobodyIsLeftOutOrGetsItTwice kills the server five
// times in a campaign, with a provider in fair health and with one in bad.
func TestKilledWhileSendingNobodyIsLeftOutOrGetsItTwice(t *testing.T) {
	t.Parallel()
	fair := probe.Faults{Latency: 10 * time.Millisecond, Jitter: 10 * time.Millisecond, Fail: 0.05}
	for name, faults := range map[string]probe.Faults{"fair": fair, "stormy": stormy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			besiege(t, 2000, faults, 1)
		})
	}
}

// TestTwoInstancesKilledInTurnsSendToEveryoneOnce kills one of two, then the
// other, five times in a campaign.
func TestTwoInstancesKilledInTurnsSendToEveryoneOnce(t *testing.T) {
	t.Parallel()
	besiege(t, 1500, stormy, 2, "--nats-url="+bustest.External(t), "--database-url="+storetest.Postgres(t))
}

// siege is a campaign whose instances are killed.
type siege struct {
	*testing.T
	faults   probe.Faults
	provider *probe.Probe
	witness  *witness
	clients  int
	env      []string
	args     []string
	all      []*apptest.Process
	path     string // of the campaign

	// sent are messages that a row called sent when there had been so many
	// acceptances.
	sent map[int64]int
	// untold are the places of acceptances, from and to, that may be missing in
	// the metrics of an instance, which was killed then.
	untold [][2]int
	// What the metrics say, of all instances: how many attempts might be second
	// ones, how many were not waited for, and at most how many had gone at a kill
	// that no row told of.
	resent, timeouts, doubtful int
}

// besiege kills instances in turns, and checks what the provider got.
func besiege(t *testing.T, clients int, faults probe.Faults, instances int, args ...string) {
	t.Helper()
	s := &siege{T: t, faults: faults, witness: newWitness(t, clients/(kills+1)), clients: clients, args: append(args, "--modules=mailing"), sent: map[int64]int{}}
	s.provider = probe.New(probe.Options{Seed: 3, Faults: faults, OnAccept: s.witness.sees})
	t.Cleanup(s.provider.Close)
	address, err := s.provider.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// Few workers, so that most of what waits is in the queue, and not in the
	// hands of whoever is killed: that comes back only after ten seconds.
	s.env = []string{"APP_MASTER_KEY=one master key for all instances", "APP_ADMIN_KEY=one-admin-key-for-all-instances", "APP_MAILING_SENDER_URL=" + address,
		"APP_MAILING_SENDER_TIMEOUT=1s", "APP_MAILING_RETRY_MIN=50ms", "APP_MAILING_RETRY_MAX=500ms", "APP_MAILING_LINGER=0s",
		"APP_MAILING_WORKERS=4", fmt.Sprintf("APP_MAILING_CONCURRENCY=%d", killedPlaces)}
	for range instances {
		s.all = append(s.all, apptest.Exec(t, t.TempDir(), s.env, s.args...))
	}
	s.path = letGo(t, s.all[0], clients)
	for turn := range kills {
		s.kill(turn)
	}
	finishes(t, s.all[0], s.path, clients)
	for _, p := range s.all {
		s.reads(p)
		if code := p.Terminate(); code != 0 {
			t.Errorf("exit code %d\n%s", code, p.Log)
		}
	}
	s.verdict()
}

// kill kills an instance while it sends: with answers on their way that it will
// never get, and once each while the provider is away and refuses the token.
// Then it starts that instance again.
func (s *siege) kill(turn int) {
	s.Helper()
	victim, next := turn%len(s.all), math.MaxInt
	if turn < kills-1 {
		next = (turn + 2) * s.clients / (kills + 1)
	}
	p := s.all[victim]
	s.witness.awaits(s.T)
	switch turn {
	case 1:
		f := s.faults
		f.Outages = []probe.Window{{}}
		s.during(probe.Outage, f, next)
	case 3:
		f := s.faults
		f.Unauthorized = []probe.Window{{}}
		s.during(probe.Unauthorized, f, next)
	}
	var stats CampaignDetailStats
	ask(s.T, p, http.MethodGet, s.path+"/stats", "", "", &stats)
	if n := stats.ByStatus; n.Sent == 0 || n.Pending+n.Sending+n.Retrying == 0 {
		s.Errorf("kill %d is not in the middle of the campaign: %+v", turn+1, n)
	}
	from := len(s.witness.seen())
	m := s.reads(p)
	// What was answered and not yet written, what was not answered, and what went
	// since in the place of that.
	s.doubtful += m[`mailing_attempts_total{result="accepted"}`] - m[`mailing_messages_total{status="sent"}`] + 2*killedPlaces
	p.Kill()
	if turn == 1 || turn == 3 {
		s.provider.Set(s.faults)
	} else {
		s.witness.release(next)
	}
	p = apptest.Launch(s.T, p.Dir, s.env, s.args...)
	s.untold = append(s.untold, [2]int{from, len(s.witness.seen())})
	if why := p.Await(); why != "" {
		s.Fatal(why)
	}
	s.all[victim] = p
	s.notes(s.all[(victim+1)%len(s.all)])
}

// during lets what waits go on, into a fault that all requests suffer.
func (s *siege) during(fault probe.Fault, f probe.Faults, next int) {
	s.Helper()
	s.provider.Set(f)
	s.witness.release(next)
	apptest.Within(s, time.Minute, func() string {
		if s.provider.Summary().ByFault[fault.String()] == 0 {
			return "nothing suffers " + fault.String()
		}
		return ""
	})
}

// reads adds up the metrics of an instance that will end now.
func (s *siege) reads(p *apptest.Process) map[string]int {
	s.Helper()
	_, text := said(s.T, p, http.MethodGet, "/metrics", "", "")
	m := counters(string(text))
	s.resent += m["mailing_resent_total"]
	s.timeouts += m[timeoutsCounter]
	return m
}

// notes which messages the rows call sent.
func (s *siege) notes(p *apptest.Process) {
	s.Helper()
	var ids []int64
	for cursor := ""; ; {
		var page struct {
			Items []struct{ ID int64 }
			Next  string
		}
		ask(s.T, p, http.MethodGet, s.path+"/messages?status=sent&limit=1000&cursor="+cursor, "", "", &page)
		for _, m := range page.Items {
			ids = append(ids, m.ID)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	now := len(s.witness.seen())
	for _, id := range ids {
		if _, known := s.sent[id]; !known {
			s.sent[id] = now
		}
	}
}

// verdict checks what the provider got.
func (s *siege) verdict() {
	s.Helper()
	got := s.provider.Summary()
	if n := int64(s.clients); got.DistinctPhones != n || got.DistinctIDs != n || got.PhonesWithTwoIDs != 0 || got.ChangedIDs != 0 {
		s.Errorf("%d clients: %+v", s.clients, got)
	}
	untold := map[int64]int{}
	for i, id := range s.witness.seen() {
		if at, known := s.sent[id]; known && i >= at {
			s.Errorf("message %d went again after its row called it sent", id)
		}
		for _, u := range s.untold {
			if u[0] <= i && i < u[1] {
				untold[id]++
			}
		}
	}
	again, counted := needless(s.T, s.provider), 0
	for id, n := range again {
		counted += max(n-untold[id], 0)
	}
	impatient := impatience(got, s.timeouts)
	if n := sum(again); n > s.doubtful+impatient {
		s.Errorf("%d acceptances were needless, and only %d were in doubt at the kills", n, s.doubtful+impatient)
	}
	if counted > s.resent+impatient {
		s.Errorf("%d acceptances were needless, and the metrics tell of %d", counted, s.resent)
	}
	s.Logf("%d accepted %d times, %d of these needlessly, %d more for answers that were lost; %d in doubt at most, %d counted as possibly sent before",
		s.clients, got.Accepted, sum(again), int(got.Accepted)-s.clients-sum(again), s.doubtful, s.resent)
}

// TestTwoInstancesShareACampaign kills one of two in the middle.
func TestTwoInstancesShareACampaign(t *testing.T) {
	t.Parallel()
	const clients = 2000
	provider := probe.New(probe.Options{Faults: probe.Faults{Latency: 20 * time.Millisecond}})
	defer provider.Close()
	address, err := provider.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"APP_MASTER_KEY=one master key for all instances", "APP_ADMIN_KEY=one-admin-key-for-all-instances", "APP_MAILING_SENDER_URL=" + address, "APP_MAILING_LINGER=0s"}
	args := []string{"--modules=mailing", "--nats-url=" + bustest.External(t), "--database-url=" + storetest.Postgres(t)}
	a := apptest.Exec(t, t.TempDir(), env, args...)
	b := apptest.Exec(t, t.TempDir(), env, args...)
	path := letGo(t, a, clients)
	apptest.Within(t, time.Minute, func() string {
		if n := int(provider.Summary().Accepted); n < clients/3 {
			return fmt.Sprintf("%d are accepted", n)
		}
		return ""
	})
	a.Kill()
	finishes(t, b, path, clients)
	if s := provider.Summary(); s.DistinctPhones != clients || s.PhonesWithTwoIDs != 0 {
		t.Errorf("%+v", s)
	}
}
