package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"switchboard/platform/auth"
	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/logs"
	"switchboard/platform/metrics"
	"switchboard/platform/outbox"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// title names the product in its OpenAPI.
const title = "Switchboard"

// product is everything that runs in one process.
type product struct {
	set      *settings
	log      *slog.Logger
	console  io.Writer
	now      func() time.Time
	registry *prometheus.Registry

	closers  []func() error // in the order of opening
	dbs      []*store.DB
	bus      *bus.Bus
	keys     *seal.Keyring
	guard    *auth.Guard
	events   *eventlog.Service
	server   *web.Server
	parts    []running // of the platform, beside the listener and the event log
	modules  []running // which stop before the platform does
	listener net.Listener
}

type running struct {
	name string
	run  func(context.Context) error
}

// describe wires the modules without any I/O, for their routes alone.
func describe(set *settings, modules []Module) (*web.Server, error) {
	server, err := web.New(set.web, web.Deps{Title: title, Version: version()})
	if err != nil {
		return nil, err
	}
	p := &product{set: set, log: slog.New(slog.DiscardHandler), now: time.Now, registry: prometheus.NewRegistry(), events: eventlog.New(eventlog.Deps{}), server: server}
	for _, m := range modules {
		if _, err := p.wire(m, nil, nil); err != nil {
			return nil, err
		}
	}
	p.ownRoutes(server.Router())
	return server, server.Router().Validate()
}

// wire makes a module's service and mounts its routes.
func (p *product) wire(m Module, db *store.DB, relay *outbox.Relay) (Service, error) {
	s, err := m.New(Platform{
		Config: p.set.modules[m.Name], Log: logs.For(p.log, m.Name), DB: db, Bus: p.bus, Outbox: relay,
		Seal: p.keys, Guard: p.guard, EventLog: p.events, Metrics: p.registry, Kafka: p.set.kafka, SMTPURL: p.set.SMTPURL, Now: p.now,
	})
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Name, err)
	}
	p.server.Router().Tag(m.Name, m.Doc)
	if err := s.Routes(p.server.Router()); err != nil {
		return nil, fmt.Errorf("module %s: routes: %w", m.Name, err)
	}
	return s, nil
}

// open brings everything up to where requests can be served. What was opened
// is closed again when it fails.
func open(ctx context.Context, set *settings, modules []Module, log *slog.Logger, console io.Writer, now func() time.Time) (*product, error) {
	p := &product{set: set, log: log, console: console, now: now, registry: metrics.New()}
	if err := p.open(ctx, modules); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *product) open(ctx context.Context, modules []Module) error {
	release, err := lockDir(p.set.DataDir)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, func() error { release(); return nil })
	// The port is taken first: a second server on it should fail at once, and
	// not after having touched anything.
	if p.listener, err = net.Listen("tcp", p.set.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	p.closers = append(p.closers, func() error {
		if err := p.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	if err := p.openPlatform(ctx); err != nil {
		return err
	}
	for _, m := range modules {
		if err := p.openModule(ctx, m); err != nil {
			return err
		}
	}
	p.ownRoutes(p.server.Router())
	if err := p.server.Router().Validate(); err != nil {
		return err
	}
	return p.importBus(ctx)
}

func (p *product) openPlatform(ctx context.Context) error {
	keysDB, err := p.openDB(ctx, "keys", seal.Migrations())
	if err != nil {
		return err
	}
	authDB, err := p.openDB(ctx, "auth", auth.Migrations())
	if err != nil {
		return err
	}
	webDB, err := p.openDB(ctx, "web", web.Migrations())
	if err != nil {
		return err
	}
	if p.bus, err = bus.Open(ctx, p.set.bus, logs.For(p.log, "bus"), p.registry); err != nil {
		return fmt.Errorf("open the bus: %w", err)
	}
	p.closers = append(p.closers, p.bus.Close)
	p.parts = append(p.parts, running{"bus", p.bus.Run})
	master, generated, err := seal.LoadMaster(p.set.DataDir, p.set.MasterKey)
	if err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	if generated {
		p.log.WarnContext(ctx, "a master key was made in the data directory, beside what it protects; set master_key for anything but a local run")
	}
	if p.keys, err = seal.Open(ctx, keysDB, p.bus, master, p.now, logs.For(p.log, "seal")); err != nil {
		return fmt.Errorf("open the keys: %w", err)
	}
	p.parts = append(p.parts, running{"seal", p.keys.Run})
	if p.guard, err = auth.Open(ctx, authDB, p.keys, p.bus, p.set.auth, p.now, logs.For(p.log, "auth")); err != nil {
		return fmt.Errorf("open the credentials: %w", err)
	}
	if _, err := p.guard.EnsureAdmin(ctx, p.set.DataDir, p.set.AdminKey); err != nil {
		return fmt.Errorf("admin key: %w", err)
	}
	p.parts = append(p.parts, running{"auth", p.guard.Run})
	p.events = eventlog.New(eventlog.Deps{OpenDB: p.openDB, Bus: p.bus, Keyring: p.keys, Log: p.log, Console: p.console, Metrics: p.registry, Now: p.now,
		Drain: p.set.ShutdownTimeout * 3 / 4})
	p.server, err = web.New(p.set.web, web.Deps{Guard: p.guard, Keyring: p.keys, DB: webDB, Log: p.log, Metrics: p.registry, Now: p.now, Title: title, Version: version()})
	return err
}

func (p *product) openModule(ctx context.Context, m Module) error {
	db, err := p.openDB(ctx, m.Name, m.Migrations)
	if err != nil {
		return err
	}
	if err := outbox.Ensure(ctx, db); err != nil {
		return fmt.Errorf("module %s: %w", m.Name, err)
	}
	relay := outbox.NewRelay(db, p.bus, p.now, logs.For(p.log, m.Name))
	s, err := p.wire(m, db, relay)
	if err != nil {
		return err
	}
	if err := p.events.Start(ctx); err != nil {
		return fmt.Errorf("module %s: %w", m.Name, err)
	}
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("module %s: start: %w", m.Name, err)
	}
	p.server.Health(m.Name, s.Ready)
	p.modules = append(p.modules, running{m.Name, s.Run}, running{m.Name + " outbox", relay.Run})
	return nil
}

func (p *product) openDB(ctx context.Context, name string, migrations fs.FS) (*store.DB, error) {
	db, err := store.Open(ctx, store.Config{Dir: p.set.DataDir, URL: p.set.DatabaseURL, Sync: p.set.store.Sync}, name, migrations)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", name, err)
	}
	p.closers = append(p.closers, db.Close)
	p.dbs = append(p.dbs, db)
	return db, nil
}

// url is where the server is reached from this machine.
func (p *product) url() string {
	host, port, err := net.SplitHostPort(p.listener.Addr().String())
	if err != nil {
		return "http://" + p.listener.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// run serves until ctx ends or a part fails, then stops in order: the
// listener, the modules, their event log, what they stand on, the databases.
func (p *product) run(ctx context.Context, ready func()) error {
	if err := writeFile(p.set.path(fileServer), p.url()+"\n"); err != nil {
		return errors.Join(err, p.close())
	}
	defer func() { _ = os.Remove(p.set.path(fileServer)) }()

	// Modules outlive ctx until the listener has drained, since a request in
	// hand may need them, and the platform outlives the modules.
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	stopPlatform := p.start(ctx, p.parts, stopServing)
	stopEvents := p.start(ctx, []running{{"event log", p.events.Run}}, stopServing)
	stopModules := p.start(ctx, p.modules, stopServing)
	ready()
	err := p.server.Serve(serving, p.listener, p.set.ShutdownTimeout)
	return errors.Join(err, stopModules(), stopEvents(), stopPlatform(), p.close())
}

// start runs parts until the returned function is called, which waits for
// their end and tells what failed. One that fails by itself calls failed.
func (p *product) start(ctx context.Context, parts []running, failed func()) (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var g errgroup.Group
	for _, r := range parts {
		g.Go(func() error {
			err := r.run(ctx)
			if err != nil && ctx.Err() == nil {
				p.log.Error("a part failed: stopping", "part", r.name, "error", err)
				failed()
				return fmt.Errorf("%s: %w", r.name, err)
			}
			return nil
		})
	}
	return func() error {
		cancel()
		return waitAtMost(g.Wait, p.set.ShutdownTimeout)
	}
}

// waitAtMost waits for wait to return, for a time that is bounded.
func waitAtMost(wait func() error, limit time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return errs.New(errs.Unavailable, "work in hand did not end within %s", limit)
	}
}

// close gives back what was opened, last first.
func (p *product) close() error {
	var all []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		all = append(all, p.closers[i]())
	}
	p.closers = nil
	return errors.Join(all...)
}

// writeFile replaces a small file at once, readable by the owner alone.
func writeFile(path, text string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
