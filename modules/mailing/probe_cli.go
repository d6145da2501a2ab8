package mailing

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"switchboard/modules/mailing/internal/probe"
	"switchboard/platform/app"
)

func probeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "probe", Short: "Play the message provider, in good health or not", Args: cobra.NoArgs,
		Long: "Play the provider that messages are sent through: it takes POST /send/{msgId} with a Bearer token,\n" +
			"remembers what it accepted, and fails in the ways a provider fails.\n\n" +
			"A share is between 0 and 1, and together they are at most 1: a request suffers one fault or none. The\n" +
			"faults that end in -after come after the message was accepted, so that the sender does not learn of it.\n" +
			"A window is 30s-90s from the start, or 30s- for one without an end, and can be given more than once. The\n" +
			"same --seed does the same to every attempt at every message, in whatever order they come.\n\n" +
			"While it runs:\n\n" +
			"  GET, PUT, DELETE /faults        what goes wrong, as JSON with the names of the flags and _ for -;\n" +
			"                                  windows are outages and unauthorized, and count from the PUT\n" +
			"  GET /ledger/summary             what came and what was accepted\n" +
			"  GET /ledger?after=&limit=       accepted messages by id, one JSON object a line\n" +
			"  GET /ledger/{msgId}, DELETE /ledger\n\n" +
			"It goes on until interrupted, and then prints a summary.",
		Example: "  app probe\n" +
			"  app probe --latency 20ms --jitter 30ms --fail 0.2 --hang 0.05 --garbage 0.05 --reset-after 0.05 --seed 1\n" +
			"  app probe --outage 30s-90s --unauthorized 2m-2m30s --rate 500 --retry-after 3s --json\n" +
			`  curl -X PUT -d '{"fail":0.5,"latency":"20ms","outages":["10s-20s"]}' http://127.0.0.1:8090/faults`,
	}
	f := cmd.Flags()
	var o probe.Options
	faults := &o.Faults
	listen := f.String("listen", "127.0.0.1:8090", "address to listen on")
	f.StringVar(&o.Token, "token", "", "the only token that counts; any does if empty")
	f.Uint64Var(&o.Seed, "seed", 0, "repeats what goes wrong; 0 is random")
	f.DurationVar(&faults.Latency, "latency", 0, "time that an answer takes")
	f.DurationVar(&faults.Jitter, "jitter", 0, "time that is added to it at most")
	for _, s := range []struct {
		share      *float64
		name, does string
	}{
		{&faults.Fail, "fail", "answered 500, 502, 503 or 504"},
		{&faults.Hang, "hang", "not answered until the sender leaves"},
		{&faults.HangAfter, "hang-after", "accepted and then not answered"},
		{&faults.Reset, "reset", "whose connection is reset"},
		{&faults.ResetAfter, "reset-after", "accepted before their connection is reset"},
		{&faults.Garbage, "garbage", "answered 200 with a body that says nothing"},
		{&faults.GarbageAfter, "garbage-after", "accepted and then answered so"},
		{&faults.Rejected, "rejected", "answered 200 with a code that is not 0"},
		{&faults.BadRequest, "bad-request", "answered 400"},
		{&faults.Denied, "denied", "answered 401"},
		{&faults.Forbidden, "forbidden", "answered 403"},
		{&faults.Busy, "busy", "answered 429"},
	} {
		f.Float64Var(s.share, s.name, 0, "share of requests "+s.does)
	}
	f.IntVar(&faults.Rate, "rate", 0, "requests a second that are let through, the others are answered 429; 0 is all")
	f.DurationVar(&faults.RetryAfter, "retry-after", 0, "what a 429 asks for, in whole seconds; 0 is 1s")
	f.BoolVar(&faults.RetryAfterDate, "retry-after-date", false, "ask for it as a date")
	f.BoolVar(&faults.RetryAfterOn5xx, "retry-after-on-5xx", false, "ask for it with --fail and --outage too")
	outages := f.StringArray("outage", nil, "window in which all is answered 503")
	f.BoolVar(&faults.OutageReset, "outage-reset", false, "reset connections in an outage instead")
	unauthorized := f.StringArray("unauthorized", nil, "window in which every token is answered 401")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if faults.Outages, err = probeWindows("outage", *outages); err != nil {
			return app.Usage(err)
		}
		if faults.Unauthorized, err = probeWindows("unauthorized", *unauthorized); err != nil {
			return app.Usage(err)
		}
		if err := faults.Check(); err != nil {
			return app.Usage(fmt.Errorf("faults: %w", err))
		}
		asJSON, err := cmd.Flags().GetBool("json")
		if err != nil {
			return err
		}
		summary, err := runProbe(cmd.Context(), o, *listen, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(summary)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), probeLine(summary))
		return err
	}
	return cmd
}

func probeWindows(flag string, texts []string) ([]probe.Window, error) {
	var windows []probe.Window
	for _, text := range texts {
		w, err := probe.ParseWindow(text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
		windows = append(windows, w)
	}
	return windows, nil
}

// runProbe plays the provider until ctx ends.
func runProbe(ctx context.Context, o probe.Options, listen string, out io.Writer) (probe.Summary, error) {
	p := probe.New(o)
	defer p.Close()
	url, err := p.Listen(ctx, listen)
	if err != nil {
		return probe.Summary{}, err
	}
	token := "APP_MAILING_SENDER_TOKEN to any text"
	if o.Token != "" {
		token = "APP_MAILING_SENDER_TOKEN to the --token given here"
	}
	_, _ = fmt.Fprintf(out, "messages are taken at %s/send/{msgId}; the server needs APP_MAILING_SENDER_URL=%s\nand %s\n", url, url, token)
	watchProbe(ctx, p, out)
	p.Close() // what is under way has its effect, and is counted
	return p.Summary(), nil
}

// watchProbe waits for the end of ctx, and shows counts on a terminal
// meanwhile.
func watchProbe(ctx context.Context, p *probe.Probe, out io.Writer) {
	file, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		s, faults := p.Summary(), int64(0)
		for _, n := range s.ByFault {
			faults += n
		}
		// Short enough for a narrow terminal: a line that wraps cannot be overwritten.
		_, _ = fmt.Fprintf(out, "\r%d requests  %d accepted  %d ids again  %d refused  %d faults ", s.Requests, s.Accepted, s.RepeatedIDs, s.Refused, faults)
		select {
		case <-tick.C:
		case <-ctx.Done():
			_, _ = fmt.Fprintln(out)
			return
		}
	}
}

// probeLine tells what came of all requests in one line.
func probeLine(s probe.Summary) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%d requests, %d accepted with %d ids (%d of them again) for %d phones (%d with two ids), %d refused",
		s.Requests, s.Accepted, s.DistinctIDs, s.RepeatedIDs, s.DistinctPhones, s.PhonesWithTwoIDs, s.Refused)
	for _, fault := range slices.Sorted(maps.Keys(s.ByFault)) {
		_, _ = fmt.Fprintf(&b, ", %d %s", s.ByFault[fault], fault)
	}
	return b.String()
}
