package telephony

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"switchboard/modules/telephony/internal/vendor"
	"switchboard/platform/apptest"
	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/config"
	"switchboard/platform/eventlog"
	"switchboard/platform/outbox"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// desk is the part of telephony that speaks with the platform, at work on a
// database and a bus of its own, and the platform.
type desk struct {
	t        *testing.T
	cfg      *Config
	db       *store.DB
	bus      *bus.Bus
	keys     *seal.Keyring
	relay    *outbox.Relay
	platform *vendor.Fake
	said     *diary
	now      func() time.Time
	looks    atomic.Int64 // at the clock

	events      *eventService
	delegations *delegationService
	recordings  *recordingService
	stop        func()
}

// diary remembers what was logged.
type diary struct {
	mu   sync.Mutex
	list []eventlog.Entry
}

func (d *diary) Log(_ context.Context, e eventlog.Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, e)
	return nil
}

// lines gives event and text of what was logged.
func (d *diary) lines() (out []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.list {
		out = append(out, e.Event+" "+e.Text)
	}
	return out
}

func (d *diary) has(line string) func() string {
	return func() string {
		if lines := d.lines(); !slices.Contains(lines, line) {
			return fmt.Sprintf("logged: %q, not %q", lines, line)
		}
		return ""
	}
}

const deskUser, deskPassword = "switchboard", "s3cret-of-the-desk"

// eachDesk runs a test on both engines.
func eachDesk(t *testing.T, change func(*Config), test func(t *testing.T, d *desk)) {
	t.Helper()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		test(t, openDesk(t, cfg, change))
	})
}

// newDesk is a desk on SQLite.
func newDesk(t *testing.T, change func(*Config)) *desk {
	t.Helper()
	return openDesk(t, store.Config{Dir: t.TempDir()}, change)
}

func openDesk(t *testing.T, where store.Config, change func(*Config)) *desk {
	t.Helper()
	d := &desk{t: t, said: &diary{}, now: time.Now, platform: vendor.New(vendor.Options{User: deskUser, Password: deskPassword})}
	server := httptest.NewServer(d.platform)
	t.Cleanup(func() {
		d.platform.Heal()
		server.Close()
		d.platform.Close()
	})
	d.cfg = &Config{ProviderURL: server.URL + "/", ProviderUser: deskUser, ProviderPassword: deskPassword, ProviderTimeout: 2 * time.Second, DelegateWithin: 10 * time.Second,
		NewQueue: "900", ReturningQueue: "901", TimeZone: "UTC", Recordings: "link", RecordingMax: config.Bytes(8 << 20)}
	if change != nil {
		change(d.cfg)
	}
	ctx := t.Context()
	d.db = storetest.Open(t, where, "telephony", migrations)
	must(t, outbox.Ensure(ctx, d.db))
	master, _, err := seal.LoadMaster(t.TempDir(), "")
	must(t, err)
	d.keys, err = seal.Open(ctx, storetest.Open(t, where, "keys", seal.Migrations()), nil, master, time.Now, slog.New(slog.DiscardHandler))
	must(t, err)
	d.bus = bustest.Embedded(t)
	d.relay = outbox.NewRelay(d.db, d.bus, time.Now, slog.New(slog.DiscardHandler))
	d.start()
	t.Cleanup(func() { d.stop() })
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start begins the work, as at the start of a process.
func (d *desk) start() {
	d.t.Helper()
	log := slog.New(slog.DiscardHandler)
	provider := newProviderClient(d.cfg)
	provider.elsewhere = provider.platform // this machine is not the public Internet
	now := func() time.Time {
		d.looks.Add(1)
		return d.now()
	}
	var err error
	d.events, err = newEventService(d.cfg, d.db, d.keys, newMetrics(prometheus.NewRegistry(), func() float64 { return 0 }), log, now)
	must(d.t, err)
	d.delegations, err = newDelegationService(delegationConfig{Config: d.cfg, DB: d.db, Bus: d.bus, Keys: d.keys, Events: d.events, Provider: provider,
		EventLog: d.said, Log: log, Now: now})
	must(d.t, err)
	d.recordings = newRecordingService(recordingConfig{Config: d.cfg, DB: d.db, Bus: d.bus, Keys: d.keys, Events: d.events, Provider: provider,
		EventLog: d.said, Log: log, Now: now})
	d.events.plan = (&follower{d.delegations, d.recordings}).plan
	d.events.onStored = func(int64, bool) { d.relay.Wake() }
	must(d.t, d.delegations.start(d.t.Context()))
	must(d.t, d.recordings.start(d.t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{d.events.run, d.relay.Run, d.delegations.run, d.recordings.run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				d.t.Errorf("run: %v", err)
			}
		})
	}
	d.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		provider.close()
	})
}

// tell posts an event; pairs of names and values follow.
func (d *desk) tell(kind, callID string, pairs ...string) receipt {
	d.t.Helper()
	body := map[string]string{"type": kind, "call_id": callID, "timestamp": "2017-01-01T00:00:00Z"}
	for i := 0; i < len(pairs); i += 2 {
		body[pairs[i]] = pairs[i+1]
	}
	text, err := json.Marshal(body)
	must(d.t, err)
	r, err := d.events.receive(d.t.Context(), text)
	must(d.t, err)
	return r
}

func (d *desk) standby(callID, number string, pairs ...string) receipt {
	d.t.Helper()
	return d.tell("call.standby", callID, append([]string{"direction", "inbound", "our_number", "0800000000", "their_number", number}, pairs...)...)
}

// row gives what became of a call.
func (d *desk) row(callID string) *delegation {
	d.t.Helper()
	got, err := d.delegations.get(d.t.Context(), d.events.callIndex(callID))
	must(d.t, err)
	if got == nil {
		d.t.Fatalf("no delegation of %s was planned", callID)
	}
	return got
}

// becomes waits until the delegation of a call is in a state.
func (d *desk) becomes(callID, state string) *delegation {
	d.t.Helper()
	var got *delegation
	apptest.Eventually(d.t, func() string {
		if got = d.row(callID); got.State != state {
			return fmt.Sprintf("%s is %s (%s), want %s", callID, got.State, got.Detail, state)
		}
		return ""
	})
	return got
}

// tried waits until a call was tried so often.
func (d *desk) tried(callID string, times int64) {
	d.t.Helper()
	apptest.Eventually(d.t, func() string {
		if got := d.row(callID); got.Attempts < times || got.Detail == tryUnderWay {
			return fmt.Sprintf("%s was tried %d times (%s)", callID, got.Attempts, got.Detail)
		}
		return ""
	})
}

// sent wants the platform to have taken just these destinations for a call.
func (d *desk) sent(callID string, destinations ...string) {
	d.t.Helper()
	var got []string
	for _, a := range d.platform.Accepted(callID) {
		got = append(got, a.Destination)
	}
	if !slices.Equal(got, destinations) {
		d.t.Errorf("%s was delegated to %q, want %q", callID, got, destinations)
	}
}
