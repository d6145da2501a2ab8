package mailing

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
)

// campaignsLine runs "app campaigns …" against a product, and tells what was
// printed.
func campaignsLine(ctx context.Context, p *apptest.Product, args ...string) (string, error) {
	var out bytes.Buffer
	root := &cobra.Command{Use: "app", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().Bool("json", false, "")
	root.AddCommand(campaignsCommand())
	root.SetArgs(append([]string{"campaigns", "--server", p.URL, "--key", p.Key}, args...))
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(ctx)
	return out.String(), err
}

// squeezed is text with every run of blanks as one.
func squeezed(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func TestCampaignsCommands(t *testing.T) {
	t.Parallel()
	d := newPlanner(t)
	d.client("79160000001", "vip", "Europe/Moscow", `{"name":"Anna"}`)
	file := filepath.Join(t.TempDir(), "text.txt")
	if err := os.WriteFile(file, []byte("Hello {{.attributes.name}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const shown = "id 1\nname Sale\nstatus scheduled\ntext Hello {{.attributes.name}}\nstart 2026-06-03T09:00:00Z\nend 2026-06-03T21:00:00Z\nwindow 09:00-21:00\nclients operator 916 and tag gold, vip\n" +
		"created 2026-06-01T12:00:00Z\nchanged 2026-06-01T12:00:00Z"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "--name", "Sale", "--text-file", file, "--start", "2026-06-03T12:00:00+03:00", "--for", "12h", "--window", "09:00-21:00", "--tag", "vip", "--tag", "gold", "--operator-code", "916"}, shown},
		{[]string{"show", "1"}, shown},
		{[]string{"list"}, "ID STATUS START END WINDOW CLIENTS NAME\n1 scheduled 2026-06-03T09:00:00Z 2026-06-03T21:00:00Z 09:00-21:00 operator 916 and tag gold, vip Sale"},
		{[]string{"list", "--status", "paused"}, "ID STATUS START END WINDOW CLIENTS NAME"},
		{[]string{"preview", "1"}, "clients 1\nsuppressed 0\nunreachable 0\nwould get it 1\nfirst 2026-06-03T09:00:00.000000Z\nlast 2026-06-03T09:00:00.000000Z\n\n" +
			"TIME ZONE CLIENTS REACHED FROM\nEurope/Moscow 1 2026-06-03T09:00:00Z\n\nCLIENT PHONE NUMBER TIME ZONE REACHED TEXT\n1 79160000001 Europe/Moscow 2026-06-03T09:00:00Z Hello Anna"},
		{[]string{"update", "1", "--everyone", "--no-window", "--name", "All", "--end", "2026-06-04T00:00:00Z"},
			strings.NewReplacer("Sale", "All", "09:00-21:00", "always", "operator 916 and tag gold, vip", "everyone", "2026-06-03T21:00:00Z", "2026-06-04T00:00:00Z").Replace(shown)},
		{[]string{"pause", "1"}, "campaign 1 is paused"},
		{[]string{"resume", "1"}, "campaign 1 is scheduled"},
		{[]string{"stats", "1"}, "status scheduled\ntotal 0\npending 0\nsending 0\nsent 0\nretrying 0\nfailed 0\nexpired 0\ncanceled 0"},
		{[]string{"stats"}, "CAMPAIGN TOTAL PENDING SENDING SENT RETRYING FAILED EXPIRED CANCELED\n1 0 0 0 0 0 0 0 0"},
	} {
		got, err := campaignsLine(t.Context(), d.Product, c.args...)
		if err != nil || squeezed(got) != c.want {
			t.Errorf("%q: %v\n%s\n%s", c.args, err, squeezed(got), c.want)
		}
	}
	first := d.messages(1, planned{Status: messageSent}, planned{Status: messageFailed, Error: "a\x1b[2J"}, planned{Status: messageExpired, Error: "late"})
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"messages", "1", "--status", "failed"}, fmt.Sprintf("MESSAGE CLIENT STATUS ATTEMPTS SENT DUE LAST ERROR\n%d 2 failed 0 - - a·[2J", first+1)},
		{[]string{"messages", "1", "--client", "3", "--json"}, fmt.Sprintf(`{"id":%d,"campaign_id":1,"client_id":3,"status":"expired","created_at":"2026-06-01T12:00:00.000000Z","sent_at":null,`+
			`"attempts":0,"last_error":"late","due_at":"2026-06-01T12:00:00.000000Z"}`, first+2)},
		{[]string{"messages", "1", "--csv", "--status", "expired"}, fmt.Sprintf("id,client_id,status,attempts,last_error,sent_at\n%d,3,expired,0,late,", first+2)},
		{[]string{"failures", "1"}, fmt.Sprintf("MESSAGES STATUS FOR ONE REASON\n1 failed %d a·[2J\n1 expired %d late", first+1, first+2)},
		{[]string{"resend", "1", fmt.Sprint(first + 1)}, "queued again: 1"},
		{[]string{"resend", "1", "--json"}, `{"queued":0}`},
		{[]string{"stats", "1", "--json"}, `{"campaign_id":1,"total":3,"by_status":{"pending":1,"sending":0,"sent":1,"retrying":0,"failed":0,"expired":1,"canceled":0},"status":"scheduled"}`},
		{[]string{"cancel", "1"}, "campaign 1 is canceled"},
		{[]string{"delete", "1"}, ""},
		{[]string{"list", "--json"}, ""},
	} {
		got, err := campaignsLine(t.Context(), d.Product, c.args...)
		if err != nil || squeezed(got) != c.want {
			t.Errorf("%q: %v\n%s\n%s", c.args, err, squeezed(got), c.want)
		}
	}
}

func TestCampaignsCommandsThatCannotBe(t *testing.T) {
	t.Parallel()
	d := newPlanner(t)
	d.plan("")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"create", "--text", "x"}, "[end for]"},
		{[]string{"create", "--for", "1h"}, "[text text-file]"},
		{[]string{"create", "--text", "x", "--for", "1h", "--end", "2026-06-04T00:00:00Z"}, "none of the others can be"},
		{[]string{"create", "--text", "x", "--for", "-1h"}, "--for"},
		{[]string{"create", "--text", "x", "--start", "tomorrow", "--for", "1h"}, "--start"},
		{[]string{"create", "--text", "x", "--end", "tomorrow"}, "--end"},
		{[]string{"create", "--text", "x", "--for", "1h", "--window", "09:00"}, "--window"},
		{[]string{"create", "--text-file", "/does/not/exist", "--for", "1h"}, "/does/not/exist"},
		{[]string{"create", "--text", "{{.x}}", "--for", "1h"}, "body.text no variable .x"},
		{[]string{"update", "1"}, "nothing to change"},
		{[]string{"update", "1", "--for", "1h"}, "--for"},
		{[]string{"show", "x"}, "positive number"},
		{[]string{"show", "99"}, "no such campaign (404)"},
		{[]string{"resend", "1", "0"}, "positive numbers"},
		{[]string{"watch", "1", "--interval", "1ms"}, "--interval"},
		{[]string{"test", "1"}, "arg"},
	} {
		if _, err := campaignsLine(t.Context(), d.Product, c.args...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}

func TestEveryCampaignsCommandHasAnExample(t *testing.T) {
	t.Parallel()
	for _, cmd := range campaignsCommand().Commands() {
		if !strings.Contains(cmd.Example, "app mailing campaigns "+cmd.Name()) {
			t.Errorf("%s: %q", cmd.Name(), cmd.Example)
		}
	}
}

func TestWatchFollowsACampaignToItsEnd(t *testing.T) {
	t.Parallel()
	d := newPlanner(t)
	d.plan("")
	d.messages(1, planned{Status: messageSent}, planned{Status: messageSending}, planned{Status: messageFailed}, planned{})
	d.sql(`update mailing_campaign set status = 'canceled' where id = 1`)
	ended := make(chan error, 1)
	var out printout
	go func() {
		c := &app.Client{URL: d.URL, Key: d.Key, HTTP: http.DefaultClient}
		ended <- (&campaignWatch{out: &out}).follow(t.Context(), c, "/mailing/campaigns/1", 10*time.Millisecond)
	}()
	apptest.Eventually(t, func() string {
		if !strings.Contains(out.String(), "sending 1") {
			return "nothing was shown: " + out.String()
		}
		return ""
	})
	// It is canceled, but two are not final yet.
	d.sql(`insert into mailing_count (campaign, status, messages) values (1, 6, 2)`)
	d.sql(`update mailing_count set messages = 0 where status in (0, 1)`) // the last: now it is over
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	const want = " 50%  canceled  2 of 4, pending 1, sending 1, sent 1, failed 1\n100%  canceled  4 of 4, sent 1, failed 1, canceled 2\n"
	if got := out.String(); !strings.HasPrefix(got, strings.SplitAfter(want, "\n")[0]) || !strings.HasSuffix(got, strings.SplitAfter(want, "\n")[1]) {
		t.Errorf("%q", got)
	}
	d.sql(`update mailing_campaign set status = 'finished' where id = 1`)
	got, err := campaignsLine(t.Context(), d.Product, "watch", "1", "--json")
	if err != nil || !strings.HasPrefix(got, `{"campaign_id":1,"total":4`) || strings.Count(got, "\n") != 1 {
		t.Errorf("%s %v", got, err)
	}
	if _, err := campaignsLine(t.Context(), d.Product, "watch", "99"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Error(err)
	}
	// Whoever watches may leave.
	d.sql(`update mailing_campaign set status = 'running' where id = 1`)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, err := campaignsLine(ctx, d.Product, "watch", "1"); err != nil {
		t.Error(err)
	}
}

func TestCampaignBar(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status   campaignStatus
		by       MessageCounts
		audience int64
		want     string
	}{
		{campaignRunning, MessageCounts{}, 0, "[..........]   0%  running  0 of 0"},
		{campaignRunning, MessageCounts{Pending: 10}, 0, "[..........]   0%  running  0 of 10, pending 10"},
		{campaignRunning, MessageCounts{Sent: 5, Failed: 1, Expired: 1, Sending: 1, Retrying: 1, Pending: 1}, 10, "[#####xx>>.]  70%  running  7 of 10, pending 1, sending 1, sent 5, retrying 1, failed 1, expired 1"},
		{campaignRunning, MessageCounts{Sent: 999, Pending: 1}, 1, "[#########.]  99%  running  999 of 1000, pending 1, sent 999"},
		{campaignRunning, MessageCounts{Sent: 1, Failed: 1, Canceled: 1}, 3, "[###xxxxxxx] 100%  running  3 of 3, sent 1, failed 1, canceled 1"},
		{campaignRunning, MessageCounts{Sent: 2, Sending: 1}, 10, "[##>.......]  20%  running  2 of 10, sending 1, sent 2"}, // the others are still to be made
		{campaignFinished, MessageCounts{Sent: 2}, 10, "[##########] 100%  finished  2 of 2, sent 2"},                       // the others have gone
	} {
		s := &CampaignDetailStats{CampaignStats: CampaignStats{MessageTotals: MessageTotals{ByStatus: c.by}}, Status: string(c.status)}
		for _, n := range c.by.list() {
			s.Total += n
		}
		if got := campaignBar(s, c.audience, 10); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
