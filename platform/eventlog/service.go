package eventlog

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// Deps is what the event log stands on. What no strategy in use needs may be
// left out.
type Deps struct {
	// OpenDB opens the database [Database] with these migrations. It is called
	// once, by Start, and only if a module uses the strategy sql.
	OpenDB  func(ctx context.Context, name string, migrations fs.FS) (*store.DB, error)
	Bus     *bus.Bus
	Keyring *seal.Keyring
	// Log takes the records of the strategy slog, and complaints.
	Log *slog.Logger
	// Console takes the lines of the strategy console.
	Console io.Writer
	Metrics prometheus.Registerer
	Now     func() time.Time
	// Drain bounds how long Run goes on writing after its context ended; 10 s
	// if 0.
	Drain time.Duration
}

// Service runs the logs of all modules.
type Service struct {
	deps    Deps
	now     func() time.Time
	metrics *instruments
	console *console

	mu      sync.Mutex
	logs    []*Log
	started int // of logs
	running bool
	db      *store.DB
}

const defaultDrain = 10 * time.Second

// New makes the service. It does no I/O.
func New(d Deps) *Service {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Console == nil {
		d.Console = io.Discard
	}
	if d.Drain == 0 {
		d.Drain = defaultDrain
	}
	return &Service{deps: d, now: d.Now, metrics: newInstruments(d.Metrics), console: newConsole(d.Console, d.Now)}
}

var validModule = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)

// Open gives the log of a module, once for each. It does no I/O, so that a
// module may call it in its New; entries wait until Start and Run. The error is
// errs.Invalid for bad settings, errs.Conflict for a module that has its log
// already or comes after Run.
func (s *Service) Open(module string, cfg Config) (*Log, error) {
	if !validModule.MatchString(module) {
		return nil, errs.New(errs.Invalid, "event log: %q cannot name a module", module)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return nil, errs.New(errs.Conflict, "event log: %s comes too late, the log is running", module)
	}
	for _, l := range s.logs {
		if l.module == module {
			return nil, errs.New(errs.Conflict, "event log: the module %s has its log already", module)
		}
	}
	l := &Log{service: s, module: module, cfg: cfg}
	for _, name := range cfg.Strategies {
		l.workers = append(l.workers, s.worker(l, name))
	}
	s.logs = append(s.logs, l)
	return l, nil
}

// worker makes the queue and the strategy behind it.
func (s *Service) worker(l *Log, name string) *worker {
	var to strategy
	switch name {
	case SQL:
		l.sql = &sqlStrategy{module: l.module, keys: s.deps.Keyring}
		to = l.sql
	case JetStream:
		to = &streamStrategy{module: l.module, bus: s.deps.Bus}
	case MongoDB:
		to = newMongo(l.cfg)
	case Slog:
		to = &slogStrategy{log: s.deps.Log, module: l.module}
	case Console:
		to = s.console
	}
	return newWorker(l.module, name, to, l.cfg, s.metrics, s.deps.Log)
}

// Start prepares what the strategies of the logs opened so far need: the
// database with its migrations, the stream, the keys. It may be called again
// after further ones were opened. A MongoDB is connected when there is
// something to write: it may be down.
func (s *Service) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs[s.started:] {
		for _, w := range l.workers {
			var err error
			switch to := w.to.(type) {
			case *sqlStrategy:
				err = s.startSQL(ctx, to, l.cfg)
			case *streamStrategy:
				err = s.startStream(ctx, to, l.cfg)
			}
			if err != nil {
				return errs.Wrap(errs.KindOf(err), err, "event log of %s: %s", l.module, w.name)
			}
		}
		s.started++
	}
	return nil
}

func (s *Service) startSQL(ctx context.Context, to *sqlStrategy, cfg Config) error {
	if s.db == nil {
		db, err := s.deps.OpenDB(ctx, Database, migrations)
		if err != nil {
			return err
		}
		s.db = db
	}
	transit, err := s.deps.Keyring.Transit(ctx, "eventlog."+to.module, cfg.Retention)
	if err != nil {
		return err
	}
	to.start(s.db, transit, cfg.Retention)
	return nil
}

// startStream declares the stream as large as the largest wish of all modules.
func (s *Service) startStream(ctx context.Context, to *streamStrategy, cfg Config) error {
	stream := bus.Stream{Name: streamName, Subjects: []string{subjectPrefix + ">"}}
	for _, l := range s.logs {
		if l.cfg.uses(JetStream) {
			stream.MaxAge = max(stream.MaxAge, l.cfg.StreamAge)
			stream.MaxBytes = max(stream.MaxBytes, int64(l.cfg.StreamBytes))
		}
	}
	if err := s.deps.Bus.Declare(ctx, stream); err != nil {
		return err
	}
	transit, err := s.deps.Keyring.Transit(ctx, "eventlog.stream."+to.module, cfg.StreamAge)
	if err != nil {
		return err
	}
	to.start(transit)
	return nil
}

// Run writes what is logged. After ctx has ended it goes on until every queue
// is empty, for Deps.Drain at most; what is left then is missed.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	s.running = true
	logs := s.logs
	s.mu.Unlock()

	work, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	drained, quiet := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drained)
		var g sync.WaitGroup
		for _, l := range logs {
			for _, w := range l.workers {
				g.Go(func() { w.run(work, ctx.Done()) })
			}
		}
		g.Wait()
	}()
	go func() {
		defer close(quiet)
		s.sweep(ctx, logs)
		<-drained
		complain(logs, true)
	}()
	<-ctx.Done()
	if !within(drained, s.deps.Drain) {
		abandon()
		// A write that no context can end, as to a pipe that nobody reads,
		// must not hold up the stop for ever.
		within(drained, stuck)
		for _, l := range logs {
			for _, w := range l.workers {
				w.abandon()
			}
		}
	}
	within(quiet, stuck)
	return nil
}

const stuck = 2 * time.Second

func within(done <-chan struct{}, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// sweep removes what is past its retention, every ten minutes of the product's
// clock, and tells the log of trouble, until ctx ends.
func (s *Service) sweep(ctx context.Context, logs []*Log) {
	const every = 10 * time.Minute
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for last := (time.Time{}); ; {
		if now := s.now(); now.Sub(last).Abs() >= every { // a clock that was set back counts too
			last = now
			for _, l := range logs {
				if l.sql == nil {
					continue
				}
				if err := l.sql.expire(ctx, now); err != nil && ctx.Err() == nil {
					s.deps.Log.WarnContext(ctx, "event log: cannot remove what is past its retention; will retry", "module", l.module, "error", err)
				}
			}
		}
		complain(logs, false)
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

func complain(logs []*Log, last bool) {
	for _, l := range logs {
		for _, w := range l.workers {
			w.complain(time.Now(), last)
		}
	}
}

// log gives the log of a module, nil if there is none.
func (s *Service) log(module string) *Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs {
		if l.module == module {
			return l
		}
	}
	return nil
}
