package crm

import (
	"context"
	"embed"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/app"
	"switchboard/platform/breaker"
	"switchboard/platform/bus"
	"switchboard/platform/eventlog"
	"switchboard/platform/quota"
	"switchboard/platform/web"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Module describes crm.
var Module = app.Module{
	Name:       "crm",
	Doc:        "keeps a client's CRM in step with a mobility platform's event stream, with a mock of that CRM to run against",
	Config:     func() any { return new(Config) },
	Migrations: migrations,
	Commands:   func() []*cobra.Command { return []*cobra.Command{crmCommand()} },
	Producers:  func() []*cobra.Command { return []*cobra.Command{produceMaaSCommand()} },
	Try: func(url, keyFile string) string {
		return "curl -H \"Authorization: Bearer $(cat " + keyFile + ")\" " + url + "/crm/users -d '{\"Id\":\"1\",\"LastName\":\"Doe\",\"Email\":\"doe@example.com\",\"LastTripDate\":\"2023-04-25T12:00:00Z\"}'"
	},
	New: newService,
}

const tag = "crm"

// consumerFold is who takes events off the bus.
const consumerFold = "crm-fold"

// service is crm at work.
type service struct {
	p       app.Platform
	cfg     *Config
	metrics *metrics
	logged  *eventlog.Log
	mock    *mock.Mock
	group   *bus.Group
	fold    *folder
	sync    *reconciler
	sources *sources

	statuses   *statusService
	reconciles *reconcileService
	backfills  *backfillService
	deads      *deadService
	traces     *traceService
}

func newService(p app.Platform) (app.Service, error) {
	s := &service{p: p, cfg: p.Config.(*Config)}
	var err error
	if s.logged, err = p.EventLog.Open(tag, s.cfg.Log); err != nil {
		return nil, err
	}
	b := &breaker.Breaker{}
	s.metrics = newMetrics(p.Metrics, b)
	s.mock = mock.New("/crm")
	s.sync = &reconciler{cfg: s.cfg, store: &syncStore{p.DB}, keys: p.Seal, client: newCRMClient(s.cfg.URL, s.cfg.Token.Reveal(), s.cfg.Timeout, s.cfg.Concurrency, s.mock.Client),
		breaker: b, limit: quota.New(p.Bus, tag, s.cfg.Rate, p.Now), metrics: s.metrics, logged: s.logged, log: p.Log, now: p.Now,
		look: make(chan struct{}, 1), results: make(chan written, 256), room: make(chan struct{}, inHand*s.cfg.Concurrency), lines: make(chan struct{}, s.cfg.Concurrency)}
	s.fold = &folder{store: &foldStore{p.DB}, keys: p.Seal, metrics: s.metrics, logged: s.logged, now: p.Now, changed: s.sync.wake}
	s.sources = newSources(s.cfg, p.Kafka, p.Bus, s.publish, p.Log, p.Now)
	targets := &targetService{&reconcileStore{p.DB}, p.Seal}
	s.reconciles = &reconcileService{targets: targets, client: s.sync.client, logged: s.logged, now: p.Now, wake: s.sync.wake}
	s.backfills = &backfillService{store: targets.store, sources: s.sources, logged: s.logged, log: p.Log, now: p.Now, wake: s.sync.wake, asked: make(chan time.Time, 1), forgets: s.cfg.URL == ""}
	s.statuses = &statusService{cfg: s.cfg, store: &statusStore{p.DB}, sources: s.sources, bus: p.Bus, breaker: b, backfills: s.backfills, calls: countCalls(s.metrics),
		metrics: s.metrics, log: p.Log, now: p.Now}
	s.deads = &deadService{store: &deadStore{p.DB}, targets: targets, fold: s.fold, logged: s.logged, now: p.Now, wake: s.sync.wake}
	s.traces = &traceService{&traceStore{p.DB}, targets, s.logged}
	return s, nil
}

// publish makes events durable on the bus.
func (s *service) publish(ctx context.Context, events []rawEvent) error {
	items := make([][]byte, len(events))
	for i, e := range events {
		items[i] = encodeRaw(e)
	}
	return s.group.Publish(ctx, items)
}

// Routes declares the operations of crm.
func (s *service) Routes(r *web.Router) error {
	mockHTTP{s.mock}.routes(r)
	(&statusHTTP{s.statuses}).routes(r)
	(&reconcileHTTP{s.reconciles}).routes(r)
	(&backfillHTTP{s.backfills}).routes(r)
	(&deadHTTP{s.deads}).routes(r)
	(&traceHTTP{s.traces}).routes(r)
	return nil
}

// Start declares the stream and fetches the keys of what is on its way.
func (s *service) Start(ctx context.Context) error {
	err := s.p.Bus.Declare(ctx, bus.Stream{Name: streamEvents, Subjects: []string{subjectEvents}, Queue: true, MaxAge: eventsAge, MaxBytes: 1 << 30})
	if err != nil {
		return err
	}
	if s.fold.transit, err = s.p.Seal.Transit(ctx, "crm.events", eventsAge+24*time.Hour); err != nil {
		return err
	}
	if s.fold.dead, err = s.p.Seal.Transit(ctx, "crm.dead", deadAge); err != nil {
		return err
	}
	s.group = s.p.Bus.Group(bus.GroupConfig{Subject: subjectEvents, MaxItems: frameItems, Seal: s.fold.transit.Seal})
	return s.sources.start(ctx)
}

// Run works until ctx ends.
func (s *service) Run(ctx context.Context) error {
	defer s.mock.Close()
	defer s.sync.client.close()
	// What sources are publishing still goes.
	grouping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	var reading errgroup.Group
	reading.Go(func() error { return s.sources.run(ctx) })
	g.Go(func() error { return s.group.Run(grouping) })
	g.Go(func() error {
		defer stop()
		return reading.Wait()
	})
	g.Go(func() error {
		return s.p.Bus.Consume(ctx, bus.Consumer{Stream: streamEvents, Name: consumerFold, Batch: 8, AckWait: 10 * time.Second}, s.fold.handle)
	})
	for _, run := range []func(context.Context) error{s.sync.run, s.sync.limit.Run, s.statuses.run, s.backfills.run} {
		g.Go(func() error { return run(ctx) })
	}
	return g.Wait()
}

// Ready tells whether events can be taken.
func (s *service) Ready(ctx context.Context) error {
	if err := s.p.Bus.Ready(); err != nil {
		return err
	}
	return s.p.DB.Ping(ctx)
}

// countCalls gives the calls to the CRM, as the metrics have them.
func countCalls(m *metrics) func() []callCount {
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.calls)
	return func() (out []callCount) {
		families, _ := reg.Gather() // counters alone
		for _, f := range families {
			for _, c := range f.GetMetric() { // labels are sorted: call, kind, result
				out = append(out, callCount{call: c.GetLabel()[0].GetValue(), kind: c.GetLabel()[1].GetValue(), result: c.GetLabel()[2].GetValue(), n: int64(c.GetCounter().GetValue())})
			}
		}
		return out
	}
}
