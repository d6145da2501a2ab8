package telephony

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"

	"switchboard/modules/telephony/internal/vendor"
)

func TestProduceCallsRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	fine := vendor.Options{Agents: 24}
	for _, c := range []struct {
		name     string
		play     vendor.PlayOptions
		platform vendor.Options
		says     string
	}{
		{"nothing wrong", vendor.PlayOptions{Rate: 1, Returning: 1}, fine, ""},
		{"a share above 1", vendor.PlayOptions{Duplicates: 1.5}, fine, "--duplicates is a share"},
		{"a negative share", vendor.PlayOptions{OutOfOrder: -0.1}, fine, "--out-of-order is a share"},
		{"a share that is no number", vendor.PlayOptions{Recordings: math.NaN()}, fine, "--recordings is a share"},
		{"a negative rate", vendor.PlayOptions{Rate: -1}, fine, "cannot be negative"},
		{"no agents", vendor.PlayOptions{}, vendor.Options{}, "--agents"},
	} {
		err := checkProduceCalls(c.play, c.platform)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestProduceCallsPlaysToARunningServer(t *testing.T) {
	t.Parallel()
	server := func(status int) (url string, posts func() (n int, key string)) {
		var mu sync.Mutex
		count, auth := 0, ""
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/telephony/webhook" {
				mu.Lock()
				count++
				auth = r.Header.Get("Authorization")
				mu.Unlock()
				w.WriteHeader(status)
			}
		}))
		t.Cleanup(s.Close)
		t.Cleanup(http.DefaultClient.CloseIdleConnections)
		return s.URL, func() (int, string) {
			mu.Lock()
			defer mu.Unlock()
			return count, auth
		}
	}
	run := func(args ...string) (stdout, stderr string, err error) {
		var out, errs bytes.Buffer
		root := &cobra.Command{Use: "app", SilenceErrors: true, SilenceUsage: true}
		root.PersistentFlags().Bool("json", false, "")
		root.AddCommand(produceCallsCommand())
		root.SetArgs(append([]string{"calls", "--key=sb_a_b", "--rate=0", "--speed=0"}, args...))
		root.SetOut(&out)
		root.SetErr(&errs)
		err = root.ExecuteContext(t.Context())
		return out.String(), errs.String(), err
	}

	url, posts := server(http.StatusOK)
	out, _, err := run("--server="+url, "--calls=20", "--listen=", "--json")
	var tally vendor.Tally
	if err != nil || json.Unmarshal([]byte(out), &tally) != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if n, key := posts(); tally.Calls != 20 || tally.Events != n || key != "Bearer sb_a_b" {
		t.Errorf("%+v, but %d posts with %q", tally, n, key)
	}

	out, told, err := run("--server="+url, "--calls=3", "--listen=127.0.0.1:0")
	if err != nil || !strings.HasPrefix(out, "played 3 calls: ") || !strings.Contains(told, "APP_TELEPHONY_PROVIDER_URL=http://127.0.0.1:") {
		t.Errorf("%v\n%s%s", err, out, told)
	}

	url, _ = server(http.StatusUnauthorized)
	if _, _, err := run("--server="+url, "--listen="); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a server that turns it away: %v", err)
	}
	if _, _, err := run("--server=http://127.0.0.1:1", "--listen="); err == nil {
		t.Error("played to no server")
	}
}
