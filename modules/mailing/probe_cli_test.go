package mailing

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"switchboard/modules/mailing/internal/probe"
	"switchboard/platform/app"
)

// runProbeCommand runs app probe as its user does. The reader has what it says
// while it runs.
func runProbeCommand(ctx context.Context, t *testing.T, args ...string) (said io.Reader, stdout *bytes.Buffer, ended <-chan error) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = read.Close() })
	out, done := &bytes.Buffer{}, make(chan error, 1)
	root := &cobra.Command{Use: "app", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().Bool("json", false, "")
	root.AddCommand(probeCommand())
	root.SetArgs(append([]string{"probe", "--listen=127.0.0.1:0"}, args...))
	root.SetOut(out)
	root.SetErr(write)
	go func() {
		err := root.ExecuteContext(ctx)
		_ = write.Close()
		done <- err
	}()
	return read, out, done
}

var probeSetting = regexp.MustCompile(`APP_MAILING_SENDER_URL=(http://127\.0\.0\.1:\d+)`)

func TestProbeSaysWhatTheServerNeedsAndSumsUpAtTheEnd(t *testing.T) {
	t.Parallel()
	for _, asJSON := range []bool{false, true} {
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		args := []string{"--token=sesame", "--busy=1", "--retry-after=7s", "--seed=1"}
		if asJSON {
			args = append(args, "--json")
		}
		said, out, ended := runProbeCommand(ctx, t, args...)
		buf := make([]byte, 4096)
		n, err := said.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		text := string(buf[:n])
		url := probeSetting.FindStringSubmatch(text)
		if url == nil || !strings.Contains(text, "APP_MAILING_SENDER_TOKEN") || strings.Contains(text, "sesame") {
			t.Fatalf("%s", text)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url[1]+"/v1/send/1", strings.NewReader(`{"id":1,"phone":79161234567,"text":"a"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer sesame")
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "7" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		interrupt()
		if err := <-ended; err != nil {
			t.Errorf("an interrupt is an error: %v", err)
		}
		if !asJSON {
			if want := "1 requests, 0 accepted with 0 ids (0 of them again) for 0 phones (0 with two ids), 0 refused, 1 busy\n"; out.String() != want {
				t.Errorf("%s", out)
			}
			continue
		}
		var s probe.Summary
		if err := json.Unmarshal(out.Bytes(), &s); err != nil || s.Requests != 1 || s.ByFault["busy"] != 1 {
			t.Errorf("%s: %v", out, err)
		}
	}
}

func TestProbeRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	usage := app.Usage(io.EOF) // to compare types with
	for _, c := range []struct{ arg, says string }{
		{"--fail=1.5", "fail is a share"},
		{"--hang-after=-0.1", "hang_after is a share"},
		{"--garbage=NaN", "garbage is a share"},
		{"--latency=-1s", "latency"},
		{"--rate=-1", "rate"},
		{"--outage=soon", "--outage"},
		{"--outage=90s-30s", "ends before it begins"},
		{"--unauthorized=-", "--unauthorized"},
	} {
		_, _, ended := runProbeCommand(t.Context(), t, c.arg)
		err := <-ended
		if err == nil || !strings.Contains(err.Error(), c.says) || reflect.TypeOf(err) != reflect.TypeOf(usage) {
			t.Errorf("%s: %v", c.arg, err)
		}
	}
	_, _, ended := runProbeCommand(t.Context(), t, "--listen=256.0.0.1:1")
	if err := <-ended; err == nil || reflect.TypeOf(err) == reflect.TypeOf(usage) {
		t.Errorf("%v", err)
	}
}
