package collector

import (
	"context"
	"embed"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"switchboard/platform/app"
	"switchboard/platform/bus"
	"switchboard/platform/web"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Module describes the collector.
var Module = app.Module{
	Name:       "collector",
	Doc:        "takes interaction events of web applications, stores them by session, answers queries",
	Config:     func() any { return new(Config) },
	Migrations: migrations,
	Commands: func() []*cobra.Command {
		return []*cobra.Command{eventsCommand(), sessionsCommand(), schemasCommand()}
	},
	Producers: func() []*cobra.Command { return []*cobra.Command{produceWebCommand()} },
	Try: func(url, keyFile string) string {
		return "curl -H \"Authorization: Bearer $(cat " + keyFile + ")\" " + url + "/collector/events -d \\\n" +
			`  '{"session_id":"s-1","category":"page interaction","name":"pageview","data":{"path":"/"},"timestamp":"` + "'$(date -u +%FT%TZ)'" + `"}'`
	},
	New: newService,
}

const (
	tag         = "collector"
	streamFacts = "COLLECTOR"
)

// service is the collector at work.
type service struct {
	p       app.Platform
	cfg     *Config
	events  *eventService
	rejects *rejectService
	schemas *schemaService
	storer  *storer
	live    *live
}

func newService(p app.Platform) (app.Service, error) {
	cfg := p.Config.(*Config)
	m := newMetrics(p.Metrics)
	events := &eventStore{db: p.DB}
	s := &service{p: p, cfg: cfg, live: &live{bus: p.Bus, now: p.Now}}
	s.schemas = &schemaService{cfg: cfg, store: &schemaStore{p.DB}, relay: p.Outbox, log: p.Log, now: p.Now}
	s.events = &eventService{cfg: cfg, store: events, schemas: s.schemas, keys: p.Seal, metrics: m, now: p.Now}
	s.rejects = &rejectService{store: &rejectStore{p.DB}, events: s.events, now: p.Now}
	s.storer = &storer{store: events, rejects: s.rejects.store, keys: p.Seal, live: s.live, metrics: m, now: p.Now}
	return s, nil
}

// Routes declares the operations under /collector.
func (s *service) Routes(r *web.Router) error {
	events := &eventHTTP{events: s.events, guard: s.p.Guard, now: s.p.Now}
	events.routes(r)
	(&sessionHTTP{events: s.events, pages: events}).routes(r)
	(&rejectHTTP{rejects: s.rejects}).routes(r)
	(&schemaHTTP{schemas: s.schemas}).routes(r)
	(&statHTTP{events: s.events.store, now: s.p.Now}).routes(r)
	(&liveHTTP{live: s.live, places: make(chan struct{}, maxWatchers)}).routes(r)
	return clientHTTP{}.routes(r)
}

// Start declares the streams and loads keys and schemas.
func (s *service) Start(ctx context.Context) error {
	for _, stream := range []bus.Stream{
		{Name: streamIngest, Subjects: []string{subjectIngest}, Queue: true, MaxAge: ingestAge, MaxBytes: int64(s.cfg.QueueBytes)},
		{Name: streamFacts, Subjects: []string{"collector.schema.>"}, MaxAge: 7 * 24 * time.Hour, MaxBytes: 64 << 20},
	} {
		if err := s.p.Bus.Declare(ctx, stream); err != nil {
			return fmt.Errorf("declare stream %s: %w", stream.Name, err)
		}
	}
	transit, err := s.p.Seal.Transit(ctx, "collector.ingest", ingestAge)
	if err != nil {
		return err
	}
	refused, err := s.p.Seal.Transit(ctx, "collector.reject", s.cfg.RejectRetention)
	if err != nil {
		return err
	}
	s.storer.transit, s.storer.refused, s.rejects.transit = transit, refused, refused
	s.events.group = s.p.Bus.Group(bus.GroupConfig{Subject: subjectIngest, MaxItems: frameItems, Seal: transit.Seal})
	s.events.maxItem = s.p.Bus.MaxItem()
	return s.schemas.load(ctx)
}

// Run stores accepted events until ctx ends.
func (s *service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.events.group.Run(ctx) })
	g.Go(func() error {
		return s.p.Bus.Consume(ctx, bus.Consumer{Stream: streamIngest, Name: "collector-store", Subject: subjectIngest,
			Batch: 64, BatchBytes: 1 << 20, Workers: s.cfg.Workers, MaxDeliver: 10,
			Rest: s.events.flood.rest,
			// Also how long what a killed instance had in hand stays unseen.
			AckWait: 10 * time.Second}, s.storer.handle)
	})
	g.Go(func() error { return s.schemas.watch(ctx, s.p.Bus) })
	g.Go(func() error { return s.live.run(ctx) })
	g.Go(func() error { return s.sweep(ctx) })
	return g.Wait()
}

// sweep removes what is past its retention, every ten minutes of the product's
// clock.
func (s *service) sweep(ctx context.Context) error {
	const every = 10 * time.Minute
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for last := s.p.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		now := s.p.Now()
		if now.Sub(last).Abs() < every { // a clock that was set back counts too
			continue
		}
		last = now
		if err := s.events.expire(ctx, s.rejects.store); err != nil && ctx.Err() == nil {
			s.p.Log.WarnContext(ctx, "cannot remove what is past its retention; will retry", "error", err)
		}
		// What changed while this instance could not hear of it.
		if err := s.schemas.load(ctx); err != nil && ctx.Err() == nil {
			s.p.Log.WarnContext(ctx, "cannot reload the schemas; will retry", "error", err)
		}
	}
}

// Ready tells whether events can be stored.
func (s *service) Ready(ctx context.Context) error {
	if err := s.p.Bus.Ready(); err != nil {
		return err
	}
	return s.p.DB.Ping(ctx)
}

// NewEvent describes an event in a request.
type NewEvent struct {
	SessionID string         `json:"session_id" minLength:"1" maxLength:"256" doc:"Made up by the application; several applications may share one." example:"e2085be5-9137-4e4e-80b5-f1ffddc25423"`
	Category  string         `json:"category" minLength:"1" maxLength:"256" example:"page interaction"`
	Name      string         `json:"name" minLength:"1" maxLength:"256" doc:"Name of the event." example:"pageview"`
	Data      map[string]any `json:"data" doc:"What fits the schema of this category and name, if there is one."`
	Timestamp string         `json:"timestamp" doc:"When it occurred: RFC 3339, or YYYY-MM-DD HH:MM:SS[.ffffff] in UTC; at most 5 minutes in the future." example:"2021-01-01 09:15:27.243860"`
	ID        string         `json:"id,omitempty" maxLength:"256" doc:"Given by the client: the same id from the same application is stored once."`
	UserID    string         `json:"user_id,omitempty" maxLength:"256"`
}

// ingestBody describes the three shapes of a request to store events.
func ingestBody(r *web.Router) *huma.RequestBody {
	body := r.RequestOf("What to store.", NewEvent{})
	media := body.Content["application/json"]
	one := media.Schema
	least, most := 1, maxBatch
	many := &huma.Schema{Type: huma.TypeArray, Items: one, MinItems: &least, MaxItems: &most}
	media.Schema = &huma.Schema{OneOf: []*huma.Schema{one, many, {
		Type: huma.TypeObject, Required: []string{"events"}, Properties: map[string]*huma.Schema{"events": many}, AdditionalProperties: false,
	}}}
	return body
}
