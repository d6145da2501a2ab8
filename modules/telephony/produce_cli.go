package telephony

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"switchboard/modules/telephony/internal/vendor"
	"switchboard/platform/app"
)

func produceCallsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "calls", Short: "Play the phone platform with its calls", Args: cobra.NoArgs,
		Long: "Play the phone platform: post the events of calls to a server's webhook, and take the actions with\n" +
			"which it delegates and dials. Most calls are answered by an agent; some callers give up, some calls go to\n" +
			"another queue or phone, some are dialed by the platform. A call that stands by waits for the server to\n" +
			"delegate it, for 10s divided by --speed but at least 250ms, and then goes on by itself.\n\n" +
			"For the server to find this platform, start it with APP_TELEPHONY_PROVIDER_URL=http://127.0.0.1:3334\n" +
			"and, with --user and --password, with APP_TELEPHONY_PROVIDER_USER and APP_TELEPHONY_PROVIDER_PASSWORD.\n\n" +
			"It ends after --calls calls, after --for, or when interrupted.",
		Example: "  app produce calls --rate 2 --returning 0.3\n  app produce calls --calls 1000 --rate 0 --speed 0 --duplicates 0.05 --out-of-order 0.05 --seed 7\n" +
			"  app produce calls --speed 1 --listen 127.0.0.1:3335 --user ana --password secret",
	}
	connect := app.ClientFlags(cmd)
	f := cmd.Flags()
	var play vendor.PlayOptions
	var platform vendor.Options
	f.Float64Var(&play.Rate, "rate", 1, "calls per second; 0 is as fast as the server takes them, 8 at a time")
	f.IntVar(&play.Calls, "calls", 0, "calls to play; 0 goes on until interrupted")
	f.DurationVar(&play.For, "for", 0, "time after which no call begins any more; 0 goes on until interrupted")
	f.Float64Var(&play.Speed, "speed", 20, "divides the pauses in a call: 1 is real time, 0 has no pauses")
	f.Float64Var(&play.Returning, "returning", 0.3, "share of callers that have called before")
	f.Float64Var(&play.Recordings, "recordings", 0.5, "share of answered calls with a recording")
	f.Float64Var(&play.OutOfOrder, "out-of-order", 0.02, "share of calls whose events come out of order")
	f.Float64Var(&play.Duplicates, "duplicates", 0.02, "share of events that come twice")
	f.Float64Var(&play.Unknown, "unknown", 0, "share of events that one of an unknown type follows")
	f.IntVar(&platform.Agents, "agents", 24, "agents that answer")
	f.Uint64Var(&platform.Seed, "seed", 0, "repeats the same calls; 0 is random")
	f.StringVar(&platform.User, "user", "", "user to ask for on actions")
	f.StringVar(&platform.Password, "password", "", "password to ask for on actions")
	listen := f.String("listen", "127.0.0.1:3334", "address that takes actions; empty takes none, and no call waits for one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkProduceCalls(play, platform); err != nil {
			return app.Usage(err)
		}
		c, err := connect()
		if err != nil {
			return err
		}
		asJSON, err := cmd.Flags().GetBool("json")
		if err != nil {
			return err
		}
		// A server that is not there is an error now; one that goes away later is waited for.
		resp, err := c.Open(cmd.Context(), http.MethodGet, "/healthz", nil, nil)
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil {
			return err
		}
		show := &callProgress{to: cmd.ErrOrStderr()}
		platform.Webhook, platform.Key, platform.DialSpeed, platform.Log = c.URL+"/telephony/webhook", c.Key, play.Speed, show.line
		tally, err := produceCalls(cmd.Context(), platform, play, *listen, show)
		if err != nil {
			return err
		}
		return writeTally(cmd.OutOrStdout(), tally, asJSON)
	}
	return cmd
}

// checkProduceCalls says in the words of the flags what makes no sense.
func checkProduceCalls(play vendor.PlayOptions, platform vendor.Options) error {
	for flag, share := range map[string]float64{"returning": play.Returning, "recordings": play.Recordings, "out-of-order": play.OutOfOrder, "duplicates": play.Duplicates, "unknown": play.Unknown} {
		if !(share >= 0 && share <= 1) { // NaN is neither
			return fmt.Errorf("--%s is a share: between 0 and 1", flag)
		}
	}
	switch {
	case !(play.Rate >= 0) || !(play.Speed >= 0) || play.Calls < 0 || play.For < 0:
		return fmt.Errorf("--rate, --speed, --calls and --for cannot be negative")
	case platform.Agents < 1 || platform.Agents > 10_000:
		return fmt.Errorf("--agents is not between 1 and 10000")
	}
	return nil
}

// produceCalls plays until it is done, interrupted, or turned away by the
// server.
func produceCalls(ctx context.Context, platform vendor.Options, play vendor.PlayOptions, listen string, show *callProgress) (vendor.Tally, error) {
	fake := vendor.New(platform)
	defer fake.Close()
	if listen != "" {
		url, err := fake.Listen(ctx, listen)
		if err != nil {
			return vendor.Tally{}, err
		}
		play.AwaitDelegate = true
		show.line("actions are taken at %s/actions; the server needs APP_TELEPHONY_PROVIDER_URL=%s", url, url)
		if platform.User != "" || platform.Password != "" {
			show.line("and, as given here, APP_TELEPHONY_PROVIDER_USER and APP_TELEPHONY_PROVIDER_PASSWORD")
		}
	}
	playing, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	play.OnEvent = func(_ string, _ []byte, status int) {
		switch status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
			stop(fmt.Errorf("the webhook answered %d %s", status, http.StatusText(status)))
		}
	}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		show.watch(playing, fake.Tally)
	}()
	_, err := fake.Play(playing, play)
	cause := context.Cause(playing)
	stop(nil)
	<-shown
	switch {
	case ctx.Err() != nil: // interrupted: what was played counts
		return fake.Tally(), nil
	case cause != nil:
		return vendor.Tally{}, cause
	}
	return fake.Tally(), err
}

// writeTally prints what was played, as one line or as JSON.
func writeTally(w io.Writer, t vendor.Tally, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(t)
	}
	_, err := fmt.Fprintf(w, "played %d calls: %d events, %d of them duplicates, %d refused, %d retries; %d calls delegated, %d not\n",
		t.Calls, t.Events, t.Duplicates, t.Refused, t.Retries, t.Delegated, t.Undelegated)
	return err
}

// callProgress writes lines, and on a terminal how far it has come below them.
type callProgress struct {
	mu   sync.Mutex
	to   io.Writer
	open bool // the cursor is behind an unfinished line
}

// line writes what happened to the platform itself. Single actions are not
// worth one.
func (p *callProgress) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	_, _ = fmt.Fprintf(p.to, format+"\n", args...)
}

func (p *callProgress) end() {
	if p.open {
		_, _ = fmt.Fprintln(p.to)
	}
	p.open = false
}

// watch shows the tally on a terminal until ctx ends.
func (p *callProgress) watch(ctx context.Context, tally func() vendor.Tally) {
	file, ok := p.to.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		t := tally()
		p.mu.Lock()
		_, _ = fmt.Fprintf(p.to, "\r%d calls  %d events  %d delegated  %d not  %d retries ", t.Calls, t.Events, t.Delegated, t.Undelegated, t.Retries)
		p.open = true
		p.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.mu.Lock()
			p.end()
			p.mu.Unlock()
			return
		}
	}
}
