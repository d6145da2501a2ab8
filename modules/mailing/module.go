package mailing

import (
	"context"
	"embed"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"switchboard/platform/app"
	"switchboard/platform/breaker"
	"switchboard/platform/eventlog"
	"switchboard/platform/quota"
	"switchboard/platform/web"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Module describes mailing.
var Module = app.Module{
	Name:       "mailing",
	Doc:        "runs message campaigns to filtered clients inside time windows, against a provider that fails in every way",
	Config:     func() any { return new(Config) },
	Migrations: migrations,
	Commands:   func() []*cobra.Command { return []*cobra.Command{mailingCommand(), logsCommand(), probeCommand()} },
	Try: func(url, keyFile string) string {
		return "curl -H \"Authorization: Bearer $(cat " + keyFile + ")\" " + url + "/mailing/clients -d '{\"phone_number\":\"79161234567\",\"tag\":\"vip\",\"timezone\":\"Europe/Moscow\"}'"
	},
	New: newService,
}

const tag = "mailing"

// mailingCommand is "app mailing".
func mailingCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "mailing", Short: "Clients and campaigns", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(clientsCommand(), campaignsCommand())
	return cmd
}

// service is mailing at work.
type service struct {
	p            app.Platform
	cfg          *Config
	logged       *eventlog.Log
	clients      *clientService
	suppressions *suppressionService
	campaigns    *campaignService
	sender       *senderClient
	dispatch     *dispatcher
	reports      *reportService
	messages     *messageStore
}

func newService(p app.Platform) (app.Service, error) {
	s := &service{p: p, cfg: p.Config.(*Config)}
	var err error
	if s.logged, err = p.EventLog.Open(tag, s.cfg.Log); err != nil {
		return nil, err
	}
	b := &breaker.Breaker{}
	m := newMetrics(p.Metrics, b)
	messages := &messageStore{p.DB}
	s.messages = messages
	s.sender = newSenderClient(s.cfg.SenderURL, s.cfg.SenderToken.Reveal(), s.cfg.SenderTimeout, s.cfg.Concurrency)
	s.clients = newClientService(p.DB, p.Seal, s.logged, p.Now)
	s.suppressions = newSuppressionService(p.DB, p.Seal, s.logged, p.Now)
	s.dispatch = &dispatcher{cfg: s.cfg, campaigns: &campaignStore{p.DB}, messages: messages, store: &dispatchStore{p.DB}, clients: s.clients, suppressions: s.suppressions,
		sender: s.sender, breaker: b, limit: quota.New(p.Bus, tag, s.cfg.Rate, p.Now), bus: p.Bus, relay: p.Outbox, logged: s.logged, metrics: m, log: p.Log, now: p.Now,
		look: make(chan struct{}, 1), fates: make(chan settled, 500), room: make(chan struct{}, s.cfg.Concurrency), turns: make(chan struct{}, 2+s.cfg.Concurrency/sliceSize), began: time.Now(), empty: map[int64]time.Time{}}
	s.clients.onDeleted = s.dispatch.clientDeleted
	mail, err := newReportMailClient(p.SMTPURL, s.cfg.ReportFrom)
	if err != nil {
		return nil, err
	}
	if s.reports, err = newReportService(reportConfig{To: s.cfg.ReportTo, At: s.cfg.ReportAt, TimeZone: s.cfg.ReportTimeZone,
		Settled: func(result string) { m.reports.WithLabelValues(result).Inc() }}, p.DB, mail, s.logged, p.Log, p.Now); err != nil {
		return nil, err
	}
	s.campaigns = &campaignService{store: s.dispatch.campaigns, messages: messages, clients: s.clients, sender: s.sender, logged: s.logged, now: p.Now, wake: s.dispatch.wake}
	return s, nil
}

// Routes declares the operations of mailing.
func (s *service) Routes(r *web.Router) error {
	(&clientHTTP{s.clients}).routes(r)
	(&importHTTP{newImportService(s.clients, s.p.Now), s.p.Log, s.p.Now}).routes(r)
	(&campaignHTTP{s.campaigns, &previewService{&previewStore{s.p.DB}, s.campaigns, s.clients, s.suppressions}}).routes(r)
	(&messageHTTP{s.campaigns, s.messages}).routes(r)
	(&statHTTP{s.campaigns, &statStore{s.p.DB}}).routes(r)
	(&resendHTTP{&resendService{&resendStore{s.p.DB}, s.campaigns, s.messages, s.logged, s.p.Now}}).routes(r)
	(&suppressionHTTP{s.suppressions}).routes(r)
	(&callbackHTTP{newCallbackService(s.p.DB, s.suppressions, s.clients, s.logged, s.p.Now)}).routes(r)
	(&logHTTP{s.logged}).routes(r)
	(&reportHTTP{s.reports}).routes(r)
	return nil
}

// Start declares the queue.
func (s *service) Start(ctx context.Context) error { return s.dispatch.start(ctx) }

// Run works until ctx ends.
func (s *service) Run(ctx context.Context) error {
	defer s.sender.close()
	// Fates are written until nobody sends any more.
	var writing sync.WaitGroup
	writing.Go(s.dispatch.write)
	defer writing.Wait()
	defer close(s.dispatch.fates)
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{s.dispatch.run, s.dispatch.consume, s.dispatch.limit.Run, s.reports.run} {
		g.Go(func() error { return run(ctx) })
	}
	g.Go(func() error { return answerCallers(ctx, s.p.Bus, s.clients.store) })
	return g.Wait()
}

// Ready tells whether campaigns can run.
func (s *service) Ready(ctx context.Context) error {
	if err := s.p.Bus.Ready(); err != nil {
		return err
	}
	return s.p.DB.Ping(ctx)
}
