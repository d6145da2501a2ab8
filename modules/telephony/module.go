package telephony

import (
	"context"
	"embed"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"switchboard/platform/app"
	"switchboard/platform/eventlog"
	"switchboard/platform/web"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Module describes telephony.
var Module = app.Module{
	Name:       "telephony",
	Doc:        "takes a phone platform's webhooks, keeps every event of every call, delegates calls, feeds live boards",
	Config:     func() any { return new(Config) },
	Migrations: migrations,
	Commands:   func() []*cobra.Command { return []*cobra.Command{callsCommand()} },
	Producers:  func() []*cobra.Command { return []*cobra.Command{produceCallsCommand()} },
	Try: func(url, keyFile string) string {
		return "curl -H \"Authorization: Bearer $(cat " + keyFile + ")\" " + url + "/telephony/webhook -d \\\n" +
			`  '{"type":"call.new","call_id":"1463669263.30033","direction":"inbound","our_number":"0800000000","their_number":"11999990000","timestamp":"2017-01-01T00:00:00Z"}'`
	},
	New: newService,
}

const tag = "telephony"

// service is telephony at work.
type service struct {
	p           app.Platform
	cfg         *Config
	events      *eventService
	calls       *callService
	rebuilds    *rebuildService
	delegations *delegationService
	recordings  *recordingService
	feed        *feed
	sockets     *wsHTTP
	provider    *providerClient
	logged      *eventlog.Log
}

func newService(p app.Platform) (app.Service, error) {
	s := &service{p: p, cfg: p.Config.(*Config)}
	m := newMetrics(p.Metrics, func() float64 { return s.sockets.connected() })
	var err error
	if s.logged, err = p.EventLog.Open(tag, s.cfg.Log); err != nil {
		return nil, err
	}
	if s.events, err = newEventService(s.cfg, p.DB, p.Seal, m, p.Log, p.Now); err != nil {
		return nil, err
	}
	s.calls = &callService{store: &callStore{p.DB}, keys: p.Seal}
	s.rebuilds = &rebuildService{events: s.events, store: &rebuildStore{p.DB}, log: p.Log, now: p.Now, wake: make(chan struct{}, 1)}
	s.provider = newProviderClient(s.cfg)
	if s.delegations, err = newDelegationService(delegationConfig{Config: s.cfg, DB: p.DB, Bus: p.Bus, Keys: p.Seal, Events: s.events, Provider: s.provider,
		EventLog: s.logged, Log: p.Log, Now: p.Now, Settled: func(state string) { m.delegations.WithLabelValues(state).Inc() }, Unheard: m.unheard.Inc}); err != nil {
		return nil, err
	}
	s.recordings = newRecordingService(recordingConfig{Config: s.cfg, DB: p.DB, Bus: p.Bus, Keys: p.Seal, Events: s.events, Provider: s.provider,
		EventLog: s.logged, Log: p.Log, Now: p.Now, Settled: func(state string) { m.recordings.WithLabelValues(state).Inc() }})
	s.feed = newFeed(p.Bus, s.events, p.Log)
	boards, err := newBoardService(s.calls, s.events, s.feed, p.Log, p.Now)
	if err != nil {
		return nil, err
	}
	s.sockets = newWSHTTP(s.cfg, boards, s.feed, p.Log)
	s.events.plan = (&follower{s.delegations, s.recordings}).plan
	s.events.onStored = func(last int64, planned bool) {
		s.feed.stored(last)
		if planned {
			p.Outbox.Wake()
		}
	}
	return s, nil
}

// Routes declares the operations of telephony.
func (s *service) Routes(r *web.Router) error {
	(&eventHTTP{s.events}).routes(r)
	(&callHTTP{s.calls, s.events, s.delegations}).routes(r)
	(&rebuildHTTP{s.rebuilds, s.p.Now}).routes(r)
	(&delegationHTTP{s.delegations}).routes(r)
	(&recordingHTTP{s.recordings}).routes(r)
	(&actorHTTP{newActorService(s.p.DB, s.p.Seal, s.p.Now)}).routes(r)
	(&statHTTP{newStatService(s.p.DB, s.p.Seal, s.p.Now)}).routes(r)
	s.sockets.routes(r)
	return boardHTTP{}.routes(r)
}

// Start declares the streams, and opens the second listener if there is one.
func (s *service) Start(ctx context.Context) error {
	for _, start := range []func(context.Context) error{s.delegations.start, s.recordings.start, s.feed.start} {
		if err := start(ctx); err != nil {
			return err
		}
	}
	return s.sockets.start()
}

// Run works until ctx ends.
func (s *service) Run(ctx context.Context) error {
	defer s.provider.close()
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{s.events.run, s.rebuilds.run, s.delegations.run, s.recordings.run, s.feed.run, s.sockets.run} {
		g.Go(func() error { return run(ctx) })
	}
	return g.Wait()
}

// Ready tells whether events can be stored.
func (s *service) Ready(ctx context.Context) error { return s.p.DB.Ping(ctx) }
