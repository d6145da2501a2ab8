package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/auth"
	"switchboard/platform/logs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// Deps is what a Server needs from the rest of the platform. To describe the
// routes without serving them, all but Title and Version may be left out.
type Deps struct {
	Guard   *auth.Guard
	Keyring *seal.Keyring        // seals the answers kept for Idempotency-Key
	DB      *store.DB            // database "web", opened with Migrations
	Log     *slog.Logger         // nothing is logged without
	Metrics *prometheus.Registry // an own one without
	Now     func() time.Time     // time.Now without
	Title   string
	Version string
}

// Server is the one listener of the product. New makes it, modules fill its
// Router, Serve runs it.
type Server struct {
	cfg         Config
	guard       *auth.Guard
	log         *slog.Logger
	proxies     []netip.Prefix
	meter       *meter
	router      *Router
	idempotency *idempotency
	health      health

	stopping context.Context // ends when the server begins to stop
	stop     context.CancelFunc
	active   atomic.Int64 // requests being answered, hijacked ones too
}

// New makes a Server with the routes of this package. It listens to nothing
// and starts no goroutine. The error is errs.Invalid for a bad Config.
func New(cfg Config, deps Deps) (*Server, error) {
	adoptHuma()
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Metrics == nil {
		deps.Metrics = prometheus.NewRegistry()
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	s := &Server{cfg: cfg, guard: deps.Guard, log: logs.For(deps.Log, "web")}
	s.proxies, _ = cfg.proxies() // Validate has seen them
	if s.meter, err = newMeter(deps.Metrics); err != nil {
		return nil, fmt.Errorf("web: metrics: %w", err)
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.idempotency = newIdempotency(deps.DB, deps.Keyring, deps.Now, s.log)
	s.health.log = s.log
	s.router = newRouter(s, deps.Title, deps.Version)
	if err := s.ownRoutes(deps); err != nil {
		return nil, err
	}
	return s, nil
}

// Router gives the place where modules mount their routes, before Serve.
func (s *Server) Router() *Router { return s.router }

// Constant header values; setting a shared slice costs no allocation.
var (
	headerJSON     = []string{"application/json"}
	headerProblem  = []string{problemType}
	headerNosniff  = []string{"nosniff"}
	headerReferrer = []string{"no-referrer"}
	headerCSP      = []string{"default-src 'none'; frame-ancestors 'none'"}
	headerNoStore  = []string{"no-store"}
)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{ResponseWriter: w, server: s, start: time.Now(), id: requestID(r)}
	h := w.Header()
	h["X-Request-Id"] = []string{x.id}
	h["X-Content-Type-Options"] = headerNosniff
	h["Referrer-Policy"] = headerReferrer
	h["Content-Security-Policy"] = headerCSP // a page sets its own
	if r.Body != nil && r.Body != http.NoBody {
		x.hurry()
	}
	s.active.Add(1)
	s.meter.inflight.Inc()
	defer x.finish(r)
	s.router.mux.ServeHTTP(x, r)
	if !x.routed {
		s.unrouted(x, r)
	}
}

// unrouted deals with what the mux answered by itself, which was held back: a
// path that has a route with or without its last slash is served there, all
// else becomes a problem.
func (s *Server) unrouted(x *exchange, r *http.Request) {
	path := r.URL.Path
	other := ""
	if strings.HasSuffix(path, "/") && len(path) > 1 {
		other = strings.TrimSuffix(path, "/")
	} else if x.status >= 300 && x.status < 400 {
		other = path + "/" // the mux knows the subtree /docs/ and would redirect /docs
	}
	if other != "" {
		x.forget()
		r2 := r.WithContext(r.Context())
		r2.URL = &url.URL{}
		*r2.URL = *r.URL
		r2.URL.Path = other
		if raw := r.URL.RawPath; strings.HasSuffix(raw, "/") {
			r2.URL.RawPath = strings.TrimSuffix(raw, "/")
		} else if raw != "" {
			r2.URL.RawPath = raw + "/"
		}
		s.router.mux.ServeHTTP(x, r2)
		if x.routed {
			return
		}
	}
	p := newProblem(http.StatusNotFound, "there is nothing at this path")
	if x.status == http.StatusMethodNotAllowed {
		allow := x.Header().Get("Allow")
		p = newProblem(http.StatusMethodNotAllowed, "this path takes "+allow).with("Allow", allow)
	}
	x.forget()
	x.routed = true
	write(x, r, p)
}

// forget drops what the mux wrote.
func (x *exchange) forget() {
	x.status = 0
	for _, name := range []string{"Location", "Allow", "Content-Type", "Content-Length"} {
		x.Header().Del(name)
	}
}

func (x *exchange) liftWriteDeadline() {
	_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(time.Time{})
}

// requestID takes the id over from the request if it is one, or makes one.
func requestID(r *http.Request) string {
	if ids := r.Header["X-Request-Id"]; len(ids) == 1 && visible(ids[0], 128) {
		return ids[0]
	}
	const digits = "0123456789abcdefghjkmnpqrstvwxyz"
	var id [24]byte
	a, b := rand.Uint64(), rand.Uint64()
	for i := range id[:12] {
		id[i], id[i+12] = digits[a&31], digits[b&31]
		a, b = a>>5, b>>5
	}
	return string(id[:])
}

// visible tells whether s is 1 to limit visible ASCII characters.
func visible(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Serve answers requests on l until ctx ends. Then it stops accepting, ends
// the contexts of streams, and waits for the requests that are being answered,
// sockets included, at most for timeout; what is left is cut off and logged.
// Health goes to stopping at once. It returns nil after a stop, whether or not
// something was cut off, and closes l in any case.
func (s *Server) Serve(ctx context.Context, l net.Listener, timeout time.Duration) error {
	if err := s.ready(); err != nil {
		_ = l.Close()
		return err
	}
	base, cut := context.WithCancel(context.Background())
	defer cut()
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.cfg.ReadHeaderTimeout,
		// Bodies have a deadline of their own, see admit: one for the whole
		// connection would end streams and long polls.
		WriteTimeout:   s.cfg.WriteTimeout,
		IdleTimeout:    s.cfg.IdleTimeout,
		MaxHeaderBytes: int(s.cfg.MaxHeader),
		BaseContext:    func(net.Listener) context.Context { return base },
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	srv.ErrorLog.SetFlags(0)
	srv.ErrorLog.SetOutput(connLog{s.log})

	if err := s.idempotency.takeOver(ctx); err != nil {
		s.log.Warn("idempotency keys of the process before stay claimed for a while", "error", err)
	}
	sweeping, endSweep := context.WithCancel(ctx)
	swept := make(chan struct{})
	go func() { defer close(swept); s.idempotency.run(sweeping) }()
	defer func() { endSweep(); <-swept }()

	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	s.health.serving.Store(true)
	select {
	case err := <-failed:
		s.stop()
		_ = srv.Close()
		return fmt.Errorf("web: serve: %w", err)
	case <-ctx.Done():
	}
	s.stop()
	patience, end := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer end()
	err := srv.Shutdown(patience)
	if err == nil {
		err = s.drained(patience)
	}
	if left := s.active.Load(); err != nil && left > 0 {
		s.log.Warn("requests were cut off", "requests", left)
	}
	cut()
	_ = srv.Close()
	if err != nil { // those that heed their context get a moment to put things away
		moment, end := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		_ = s.drained(moment)
		end()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("web: serve: %w", err)
	}
	return nil
}

// drained waits for hijacked connections, which http.Server does not know.
func (s *Server) drained(ctx context.Context) error { return idle(ctx, &s.active) }

// idle waits until nothing is active.
func idle(ctx context.Context, active *atomic.Int64) error {
	for wait := time.Millisecond; active.Load() > 0; wait = min(2*wait, 50*time.Millisecond) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ready tells what is missing to serve.
func (s *Server) ready() error {
	switch {
	case s.guard == nil:
		return errors.New("web: cannot serve without a Guard")
	case s.idempotency.db == nil || s.idempotency.keyring == nil:
		return errors.New("web: cannot serve without a DB and a Keyring")
	}
	return s.router.Validate()
}
