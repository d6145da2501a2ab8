package crm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"switchboard/modules/crm/internal/maas"
	"switchboard/platform/apptest"
	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/kafka"
)

func TestProduceMaaSRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		to   string
		play maasPlay
		says string
	}{
		{"nothing wrong", "kafka", maasPlay{rate: 1}, ""},
		{"an unknown target", "carrier pigeons", maasPlay{}, "--to is nats or kafka"},
		{"a negative rate", "nats", maasPlay{rate: -1}, "cannot be negative"},
		{"a rate that is no number", "nats", maasPlay{rate: math.NaN()}, "cannot be negative"},
		{"a negative count", "nats", maasPlay{count: -1}, "cannot be negative"},
		{"a negative restart", "nats", maasPlay{Options: maas.Options{RestartAfter: -1}}, "cannot be negative"},
	} {
		err := c.play.check(c.to)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// produce runs "app produce maas".
func produce(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	root := &cobra.Command{Use: "app", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().Bool("json", false, "")
	root.AddCommand(produceMaaSCommand())
	root.SetArgs(append([]string{"maas"}, args...))
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.ExecuteContext(ctx)
	return out.String(), errs.String(), err
}

func TestProduceMaaSReachesTheSources(t *testing.T) {
	t.Parallel()
	embedded := bustest.Open(t, bus.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	url := bustest.External(t)
	external := bustest.Open(t, bus.Config{URL: url})
	_, cfg := fake(t, withTopics(1))
	for _, c := range []struct {
		name, source string
		cfg          Config
		cluster      kafka.Config
		b            *bus.Bus
		args         []string
	}{
		{"kafka", "kafka", Config{}, cfg, embedded, []string{"--to=kafka", "--brokers=" + cfg.Brokers[0]}},
		{"the embedded NATS", "nats", Config{NATSSource: true}, kafka.Config{}, embedded, []string{"--nats-url=" + embedded.ClientURL()}},
		{"an external NATS", "nats", Config{NATSSource: true}, kafka.Config{}, external, []string{"--to=nats", "--nats-url=" + url}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := source(t, c.cfg, c.cluster, c.b, &intray{})
			apptest.Within(t, 20*time.Second, s.is(c.source, sourceReading, ""))
			if c.name == "the embedded NATS" {
				publishLines(t, dial(t, c.b.ClientURL()), numbered(topicUser, 0, 1))
				s.in.forget()
			}
			out, told, err := produce(t.Context(), append(c.args, "--rate=0", "--count=1200", "--seed=7", "--restart-after=500", "--edge-cases", "--json")...)
			var tally maasTally
			if err != nil || json.Unmarshal([]byte(out), &tally) != nil {
				t.Fatalf("%v: %s%s", err, out, told)
			}
			if tally.Users+tally.Bookings != 1200 || tally.EdgeCases != 11 || tally.Restarts != 2 || tally.NewUsers == 0 || tally.NewBookings <= tally.NewUsers || tally.Retries != 0 {
				t.Errorf("%+v", tally)
			}
			apptest.Within(t, 20*time.Second, func() string {
				if len(s.in.all()) < 1211 {
					return "not all have come"
				}
				return ""
			})
			// What comes is what the same seed makes, topic by topic.
			events, err := readEdgeCases()
			if err != nil {
				t.Fatal(err)
			}
			again := maas.New(maas.Options{Seed: 7, RestartAfter: 500})
			for range 1200 {
				e, _ := again.Next()
				events = append(events, e)
			}
			for _, topic := range []string{topicUser, topicBooking} {
				var want, got []string
				for _, e := range events {
					if e.Topic == topic {
						want = append(want, undated(e.Value))
					}
				}
				for _, e := range s.in.all() {
					if e.Topic == topic {
						got = append(got, undated(e.Value))
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s: %d events, want %d", topic, len(got), len(want))
				}
			}
		})
	}
}

// undated is an event without what the clock says.
func undated(value []byte) string {
	var v struct {
		Event map[string]any
		ID    int `json:"Id"`
	}
	if err := json.Unmarshal(value, &v); err != nil {
		return err.Error()
	}
	delete(v.Event, "StartDate")
	if v.Event["EndDate"] != nil {
		v.Event["EndDate"] = "some day"
	}
	text, _ := json.Marshal(v)
	return string(text)
}

// moodyTarget fails the first times.
type moodyTarget struct {
	fails int
	sent  []maas.Event
	stop  func()
}

func (m *moodyTarget) send(_ context.Context, events []maas.Event) error {
	if m.fails > 0 {
		m.fails--
		return errors.New("moody")
	}
	m.sent = append(m.sent, events...)
	if m.stop != nil && len(m.sent) >= 3 {
		m.stop()
	}
	return nil
}

func (m *moodyTarget) close() {}

func TestProduceMaaSGoesOnUntilItIsInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var told bytes.Buffer
	m := &moodyTarget{fails: 2, stop: cancel}
	tally, err := (&maasPlay{rate: 1000}).run(ctx, m, &maasProgress{to: &told})
	if err != nil || tally.Retries != 2 || tally.Users+tally.Bookings != len(m.sent) || len(m.sent) < 3 || !strings.Contains(told.String(), "moody: trying again") {
		t.Errorf("%+v, %d sent, %v\n%s", tally, len(m.sent), err, &told)
	}
	var out bytes.Buffer
	if err := tally.write(&out, false); err != nil || !strings.HasPrefix(out.String(), "played ") {
		t.Errorf("%q, %v", &out, err)
	}
	for _, to := range [][]string{{"--to=kafka", "--brokers=127.0.0.1:1"}, {"--nats-url=nats://127.0.0.1:1"}, {"--to=kafka", "--brokers=here"}} {
		if _, _, err := produce(t.Context(), to...); err == nil {
			t.Errorf("%q: played to nobody", to)
		}
	}
}
