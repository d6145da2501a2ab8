package gateway

import (
	"context"
	"embed"
	"encoding/hex"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"switchboard/modules/gateway/internal/wsconn"
	"switchboard/platform/app"
	"switchboard/platform/bus"
	"switchboard/platform/eventlog"
	"switchboard/platform/web"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Module describes the gateway.
var Module = app.Module{
	Name:       "gateway",
	Doc:        "pushes events to connected sockets, to one room or to all, and logs every delivery",
	Config:     func() any { return new(Config) },
	Migrations: migrations,
	Commands:   func() []*cobra.Command { return []*cobra.Command{gatewayCommand()} },
	Try: func(url, keyFile string) string {
		return "curl -H \"Authorization: Bearer $(cat " + keyFile + ")\" " + url + "/events -d '{\"event\":\"order.created\",\"data\":{\"orderId\":\"1\"}}'"
	},
	New: newService,
}

const tag = "gateway"

// stopWithin bounds how long sockets get to take what waits for them.
const stopWithin = 5 * time.Second

// service is the gateway at work.
type service struct {
	p       app.Platform
	cfg     *Config
	hub     *hub
	events  *eventService
	bus     *eventBus
	sockets *socketService
	tokens  *tokenService
	io      *socketioHTTP
	plain   *wsHTTP
	logged  *eventlog.Log
}

func newService(p app.Platform) (app.Service, error) {
	cfg := p.Config.(*Config)
	s := &service{p: p, cfg: cfg}
	s.hub = newHub(cfg.MaxRooms, int(cfg.MaxQueue), newHistory(cfg.keep(), int64(cfg.History), p.Now()), p.Now)
	m := newMetrics(p.Metrics, s.hub)
	self := newInstance()
	cluster := newCluster(p.Bus, hex.EncodeToString(self[:]))
	s.tokens = newTokenService(p.DB, p.Seal, p.Guard, tokenLimits{MaxTTL: cfg.MaxTokenTTL}, p.Now)
	s.sockets = &socketService{cfg: cfg, hub: s.hub, tokens: s.tokens, cluster: cluster, bus: p.Bus, metrics: m, log: p.Log, now: p.Now,
		wake: make(chan struct{}, 1)}
	s.tokens.onRevoke = s.sockets.revoked
	cluster.answers = s.sockets.answers
	s.events = &eventService{self: self, hub: s.hub, cluster: cluster, metrics: m, now: p.Now, pending: map[uint64]*pending{}}
	logged, err := p.EventLog.Open(tag, cfg.Log)
	if err != nil {
		return nil, err
	}
	s.logged = logged
	s.bus = &eventBus{bus: p.Bus, events: s.events, log: p.Log}
	if len(cfg.Log.Strategies) > 0 {
		s.bus.logged = logged
	}
	return s, nil
}

// Routes declares the operations of the gateway.
func (s *service) Routes(r *web.Router) error {
	(&eventHTTP{s.events}).routes(r)
	(&socketHTTP{s.sockets}).routes(r)
	(&tokenHTTP{s.tokens}).routes(r)
	(&deliveryHTTP{s.logged}).routes(r)
	if err := (playgroundHTTP{}).routes(r); err != nil {
		return err
	}
	s.io = newSocketioHTTP(s.cfg, s.sockets)
	s.io.routes(r)
	s.plain = &wsHTTP{cfg: s.cfg, sockets: s.sockets, writers: wsconn.NewWriters(1), open: map[*wsconn.Conn]bool{}}
	s.plain.routes(r)
	(&sseHTTP{s.cfg, s.sockets}).routes(r)
	return nil
}

// Start declares the stream and remembers what was sent in the last minutes.
func (s *service) Start(ctx context.Context) error {
	// Twice the time, so that a start of an instance finds all that a socket may
	// have missed; the key outlives the events.
	keep := 2*s.cfg.keep() + time.Minute
	if err := s.p.Bus.Declare(ctx, bus.Stream{Name: streamEmits, Subjects: []string{subjectEmit}, MaxAge: keep, MaxBytes: 1 << 30}); err != nil {
		return err
	}
	emits, err := s.p.Seal.Transit(ctx, "gateway.emit", keep)
	if err != nil {
		return err
	}
	const sessionKeep = 24 * time.Hour
	sessions, err := s.p.Seal.Transit(ctx, "gateway.session", sessionKeep)
	if err != nil {
		return err
	}
	s.bus.transit = emits
	s.events.group = s.p.Bus.Group(bus.GroupConfig{Subject: subjectEmit, MaxItems: frameItems, Seal: emits.Seal})
	s.sockets.sessions = newSessionService(sessionConfig{DB: s.p.DB, Keys: s.p.Seal, Transit: sessions, Keep: sessionKeep,
		Instance: s.sockets.cluster.self, Window: s.cfg.Recovery, Now: s.p.Now, Log: s.p.Log})
	if err := s.sockets.sessions.start(ctx); err != nil {
		return err
	}
	return s.bus.replay(ctx, s.p.Now().Add(-s.cfg.keep()))
}

// Run delivers until ctx ends, then lets the sockets go.
func (s *service) Run(ctx context.Context) error {
	// Sessions are written until every socket is gone, so they stop last.
	last, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var sessions errgroup.Group
	sessions.Go(func() error { return s.sockets.sessions.run(last) })

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.events.group.Run(ctx) })
	g.Go(func() error { return s.bus.run(ctx) })
	g.Go(func() error { return s.bus.listen(ctx) })
	g.Go(func() error { return s.sockets.cluster.run(ctx) })
	g.Go(func() error { return s.sockets.check(ctx) })
	g.Go(func() error { return s.sweep(ctx) })
	g.Go(func() error { return s.sockets.listenMoved(ctx) })
	g.Go(func() error { return s.sockets.listenRevoked(ctx) })
	g.Go(func() error { return s.sockets.run(last) })
	g.Go(func() error {
		<-ctx.Done()
		defer stop()
		end, cancel := context.WithTimeout(last, stopWithin)
		defer cancel()
		err := s.io.stop(end)
		s.plain.stop()
		return err
	})
	err := g.Wait()
	stop()
	s.hub.catching.Wait()
	if last := sessions.Wait(); err == nil {
		err = last
	}
	return err
}

// sweep forgets revocations of tokens that have expired, every ten minutes.
func (s *service) sweep(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.tokens.sweep(ctx); err != nil && ctx.Err() == nil {
				s.p.Log.Warn("expired revocations cannot be removed", "error", err)
			}
		}
	}
}

// Ready is nil while events can be accepted.
func (s *service) Ready(context.Context) error {
	if err := s.p.Bus.Ready(); err != nil {
		return err
	}
	return s.sockets.cluster.joined()
}
