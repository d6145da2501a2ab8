package mailing

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
)

// logsLine runs "app logs …" against a product until ctx ends.
func logsLine(ctx context.Context, p *apptest.Product, out, complaints io.Writer, args ...string) error {
	root := &cobra.Command{Use: "app", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().Bool("json", false, "")
	root.AddCommand(logsCommand())
	root.SetArgs(append([]string{"logs", "--server", p.URL, "--key", p.Key}, args...))
	root.SetOut(out)
	root.SetErr(complaints)
	return root.ExecuteContext(ctx)
}

func TestLogsCommandPrintsTheNewestOldestFirst(t *testing.T) {
	t.Parallel()
	d := &journalDesk{}
	p := apptest.Start(t, []app.Module{d.module()})
	begin := time.Now().UTC().Add(-time.Hour).Truncate(time.Second)
	d.happens(t, begin, eventMessageRetry, eventMessageSent, eventMessageFailed, eventMessageSent)
	at := func(minutes int) string { return begin.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339) }
	for _, c := range []struct {
		args string
		want []string
	}{
		{"--campaign 1", []string{"message.retry 1 1 11 attempt=0", "message.sent 1 2 12 attempt=1", "message.failed 1 3 13 attempt=2", "message.sent 1 4 14 attempt=3"}},
		{"--campaign 1 --limit 2", []string{"message.failed 1 3 13 attempt=2", "message.sent 1 4 14 attempt=3"}},
		{"--message 2", []string{"message.sent 1 2 12 attempt=1"}},
		{"--client 13", []string{"message.failed 1 3 13 attempt=2"}},
		{"--client 99", nil},
		{"--campaign 1 --event message.sent --from " + at(2), []string{"message.sent 1 4 14 attempt=3"}},
		{"--campaign 1 --to " + at(0), []string{"message.retry 1 1 11 attempt=0"}},
	} {
		var out bytes.Buffer
		if err := logsLine(t.Context(), p, &out, io.Discard, strings.Fields(c.args)...); err != nil {
			t.Errorf("%s: %v", c.args, err)
		}
		var got []string
		for i, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
			if words := strings.Fields(line); i > 0 {
				got = append(got, strings.Join(words[1:], " "))
			} else if words[0] != "TIME" {
				t.Errorf("%s: the first line is %q", c.args, line)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s", c.args, out.String())
		}
	}
	var out bytes.Buffer
	if err := logsLine(t.Context(), p, &out, io.Discard, "--campaign", "1", "--json", "--limit", "1"); err != nil {
		t.Error(err)
	}
	var e LogEntry
	if err := json.Unmarshal(out.Bytes(), &e); err != nil || e.MessageID != 4 {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestLogsCommandWantsOneThing(t *testing.T) {
	t.Parallel()
	p := &apptest.Product{URL: "http://127.0.0.1:1"}
	for _, args := range []string{"", "--campaign 1 --message 2", "--campaign 0", "--client -1", "--campaign 1 --limit 0", "--campaign 1 --limit 10001", "--campaign 1 --follow --to 2026-01-01T00:00:00Z", "--campaign 1 extra"} {
		if err := logsLine(t.Context(), p, io.Discard, io.Discard, strings.Fields(args)...); err == nil || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// printout takes what a command prints while it runs.
type printout struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *printout) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *printout) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestLogsCommandFollows(t *testing.T) {
	t.Parallel()
	d := &journalDesk{}
	p := apptest.Start(t, []app.Module{d.module()})
	begin := time.Now().UTC().Add(-time.Hour).Truncate(time.Second)
	d.happens(t, begin, eventMessageRetry)
	ctx, stop := context.WithCancel(t.Context())
	var out, complaints printout
	done := make(chan error, 1)
	go func() { done <- logsLine(ctx, p, &out, &complaints, "--campaign", "1", "--follow") }()
	printed := func(want ...string) {
		t.Helper()
		apptest.Eventually(t, func() string {
			var got []string
			for line := range strings.Lines(out.String()) {
				got = append(got, strings.Fields(line)[1])
			}
			if slices.Equal(got[min(1, len(got)):], want) {
				return ""
			}
			return out.String()
		})
	}
	printed(eventMessageRetry)
	d.happens(t, begin.Add(time.Second), eventMessageFailed, eventMessageSent)
	printed(eventMessageRetry, eventMessageFailed, eventMessageSent)
	// One that was written late, of the moment of the newest.
	d.happens(t, begin.Add(time.Minute), eventCampaignFinished)
	printed(eventMessageRetry, eventMessageFailed, eventMessageSent, eventCampaignFinished)
	p.Stop()
	elsewhere := false
	apptest.Eventually(t, func() string {
		select {
		case err := <-done:
			// Another test's server has got the port, and does not know the key.
			elsewhere = err != nil
			return ""
		default:
		}
		if complaints.String() == "" {
			return "no complaint yet"
		}
		return ""
	})
	stop()
	if elsewhere {
		return
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(complaints.String(), "\n"); n != 1 {
		t.Errorf("complained %d times: %s", n, complaints.String())
	}
}
