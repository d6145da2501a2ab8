package crm

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"switchboard/modules/crm/internal/maas"
	"switchboard/platform/app"
)

//go:embed testdata/edge-cases.jsonl
var edgeCases []byte

// maasBatch is how many events go at once when they go as fast as they can.
const maasBatch = 500

// maasTarget takes the platform's events, in order. An error leaves open which
// of them were stored.
type maasTarget interface {
	send(ctx context.Context, events []maas.Event) error
	close()
}

// maasPlay says what is played.
type maasPlay struct {
	rate  float64 // events per second and topic; 0 is as fast as it goes
	count int     // 0 is for ever
	edges bool    // the edge cases, once, in front
	maas.Options
}

// maasTally counts what was played.
type maasTally struct {
	Users       int     `json:"users"`
	NewUsers    int     `json:"new_users"`
	Bookings    int     `json:"bookings"`
	NewBookings int     `json:"new_bookings"`
	EdgeCases   int     `json:"edge_cases"`
	Restarts    int     `json:"restarts"`
	Retries     int     `json:"retries"`
	Seconds     float64 `json:"seconds"`
}

func produceMaaSCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "maas", Short: "Play the mobility platform with its users and bookings", Args: cobra.NoArgs,
		Long: "Play the mobility platform: emit changes of users and bookings with the statistics and the defects of its\n" +
			"own producer, to Kafka (topics internal_user_updated and internal_booking_updated) or to NATS (the same\n" +
			"below maas., each acknowledged by JetStream or by a server started with --bus-listen).\n\n" +
			"A tenth of the user events are new users; an update starts from the first version and forgets the one\n" +
			"before. Bookings can come before their users are known to the reader, lose values that they had, and the\n" +
			"counters in key and Id begin again with each start. It ends after --count events or when interrupted.",
		Example: "  app produce maas --to nats --nats-url nats://127.0.0.1:4222\n  app produce maas --to kafka --brokers localhost:29092 --rate 100\n" +
			"  app produce maas --rate 0 --count 100000 --seed 7 --restart-after 30000 --json",
	}
	f := cmd.Flags()
	to := f.String("to", "nats", "where the events go: nats or kafka")
	brokers := f.StringSlice("brokers", []string{"localhost:29092"}, "Kafka brokers to begin with")
	natsURL := f.String("nats-url", "nats://127.0.0.1:4222", "NATS server")
	var play maasPlay
	f.Float64Var(&play.rate, "rate", 0.4, "events per second and topic; 0 is as fast as they are taken")
	f.IntVar(&play.count, "count", 0, "events to play, of both topics; 0 goes on until interrupted")
	f.Uint64Var(&play.Seed, "seed", 0, "repeats the same events but for their dates; 0 is random")
	f.IntVar(&play.RestartAfter, "restart-after", 0, "events after which the producer begins anew; 0 never")
	f.BoolVar(&play.edges, "edge-cases", false, "play the known edge cases first")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := play.check(*to); err != nil {
			return app.Usage(err)
		}
		asJSON, err := cmd.Flags().GetBool("json")
		if err != nil {
			return err
		}
		var target maasTarget
		if *to == "kafka" {
			target, err = newMaaSKafka(cmd.Context(), *brokers)
		} else {
			target, err = newMaaSNATS(*natsURL)
		}
		if err != nil {
			return err
		}
		defer target.close()
		tally, err := play.run(cmd.Context(), target, &maasProgress{to: cmd.ErrOrStderr()})
		if err != nil {
			return err
		}
		return tally.write(cmd.OutOrStdout(), asJSON)
	}
	return cmd
}

// check says in the words of the flags what makes no sense.
func (p *maasPlay) check(to string) error {
	switch {
	case to != "nats" && to != "kafka":
		return fmt.Errorf("--to is nats or kafka, not %q", to)
	case !(p.rate >= 0) || p.count < 0 || p.RestartAfter < 0: // NaN is neither
		return fmt.Errorf("--rate, --count and --restart-after cannot be negative")
	}
	return nil
}

// run plays until it is done or interrupted: then what was played counts.
func (p *maasPlay) run(ctx context.Context, target maasTarget, show *maasProgress) (tally maasTally, err error) {
	began := time.Now()
	defer func() { tally.Seconds = time.Since(began).Seconds() }()
	defer show.end()
	if p.edges {
		events, err := readEdgeCases()
		if err != nil {
			return tally, err
		}
		if !tally.send(ctx, target, events, show) {
			return tally, nil
		}
		tally.EdgeCases = len(events)
	}
	platform := maas.New(p.Options)
	for played := 0; p.count == 0 || played < p.count; {
		batch := []maas.Event{}
		for len(batch) == 0 || p.rate == 0 && len(batch) < maasBatch && (p.count == 0 || played < p.count) {
			e, pause := platform.Next()
			if p.rate > 0 && !wait(ctx, time.Duration(float64(pause)*0.4/p.rate)) {
				return tally, nil
			}
			batch = append(batch, e)
			played++
		}
		if !tally.send(ctx, target, batch, show) {
			return tally, nil
		}
		tally.Restarts = platform.Restarts()
		for _, e := range batch {
			tally.add(e)
		}
		show.tell(&tally)
	}
	return tally, nil
}

func (t *maasTally) add(e maas.Event) {
	all, fresh := &t.Users, &t.NewUsers
	if e.Topic == maas.TopicBooking {
		all, fresh = &t.Bookings, &t.NewBookings
	}
	*all++
	if e.New {
		*fresh++
	}
}

// send sends until it succeeds, as the platform's producer does: what went
// already goes again. It is false when ctx ended.
func (t *maasTally) send(ctx context.Context, target maasTarget, events []maas.Event, show *maasProgress) bool {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := target.send(ctx, events)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		t.Retries++
		show.line("%v: trying again", err)
		if !wait(ctx, pause) {
			return false
		}
	}
}

// wait waits for d or the end of ctx; it tells whether d passed.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// readEdgeCases gives the events of which each shows a known oddity.
func readEdgeCases() (events []maas.Event, err error) {
	lines := bufio.NewScanner(bytes.NewReader(edgeCases))
	for lines.Scan() {
		var line struct {
			Topic, Value string
			Key          string `json:"key_hex"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("edge cases: %w", err)
		}
		key, err := hex.DecodeString(line.Key)
		if err != nil {
			return nil, fmt.Errorf("edge cases: %w", err)
		}
		events = append(events, maas.Event{Topic: line.Topic, Key: key, Value: []byte(line.Value)})
	}
	return events, lines.Err()
}

// write prints what was played, as one line or as JSON.
func (t *maasTally) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(t)
	}
	_, err := fmt.Fprintf(w, "played %d events of users (%d new) and %d of bookings (%d new), %d edge cases; %d restarts, %d retries\n",
		t.Users, t.NewUsers, t.Bookings, t.NewBookings, t.EdgeCases, t.Restarts, t.Retries)
	return err
}

// maasProgress writes lines, and on a terminal how far it has come below them.
type maasProgress struct {
	to   io.Writer
	next time.Time
	open bool // the cursor is behind an unfinished line
}

func (p *maasProgress) line(format string, args ...any) {
	p.end()
	_, _ = fmt.Fprintf(p.to, format+"\n", args...)
}

func (p *maasProgress) end() {
	if p.open {
		_, _ = fmt.Fprintln(p.to)
	}
	p.open = false
}

// tell shows the tally on a terminal, a few times per second.
func (p *maasProgress) tell(t *maasTally) {
	file, ok := p.to.(*os.File)
	if now := time.Now(); !ok || !term.IsTerminal(int(file.Fd())) || now.Before(p.next) {
		return
	}
	p.next = time.Now().Add(250 * time.Millisecond)
	_, _ = fmt.Fprintf(p.to, "\r%d users (%d new)  %d bookings (%d new)  %d restarts  %d retries ", t.Users, t.NewUsers, t.Bookings, t.NewBookings, t.Restarts, t.Retries)
	p.open = true
}
