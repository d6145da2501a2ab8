package mailing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"switchboard/modules/mailing/internal/probe"
	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/store/storetest"
)

// ask sends a request to a process and reads the answer into out unless that
// is nil.
func ask(t *testing.T, p *apptest.Process, method, path, contentType, body string, out any) int {
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
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatalf("%s %s: %s %s", method, path, resp.Status, text)
		}
	}
	return resp.StatusCode
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
	apptest.Within(t, 90*time.Second, func() string {
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

// TestKilledWhileSendingNobodyIsLeftOutOrGetsItTwice kills the server five
// times in a campaign. What was on its way is sent again under the same id.
func TestKilledWhileSendingNobodyIsLeftOutOrGetsItTwice(t *testing.T) {
	t.Parallel()
	const clients, kills = 4000, 5
	provider := probe.New(probe.Options{Seed: 3, Faults: probe.Faults{Latency: 10 * time.Millisecond, Jitter: 10 * time.Millisecond, Fail: 0.05}})
	defer provider.Close()
	address, err := provider.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"APP_MAILING_SENDER_URL=" + address, "APP_MAILING_RETRY_MIN=100ms", "APP_MAILING_RETRY_MAX=1s", "APP_MAILING_LINGER=0s"}
	dir := t.TempDir()
	p := apptest.Exec(t, dir, env, "--modules=mailing")
	path := letGo(t, p, clients)
	for kill := range kills {
		apptest.Within(t, time.Minute, func() string {
			if n := int(provider.Summary().Accepted); n < (kill+1)*clients/(kills+1) {
				return fmt.Sprintf("%d are accepted", n)
			}
			return ""
		})
		p.Kill()
		p = apptest.Exec(t, dir, env, "--modules=mailing")
	}
	finishes(t, p, path, clients)
	s := provider.Summary()
	if s.DistinctPhones != clients || s.DistinctIDs != clients || s.PhonesWithTwoIDs != 0 || s.ChangedIDs != 0 {
		t.Errorf("%+v", s)
	}
	// At a kill at most the messages of the slices under way are in doubt.
	if most := int64(kills * 4 * sliceSize); s.RepeatedIDs > most {
		t.Errorf("%d messages were accepted again, more than the %d that were on their way", s.RepeatedIDs, most)
	}
	t.Logf("%d kills: %d messages accepted again under the same id", kills, s.RepeatedIDs)
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
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
