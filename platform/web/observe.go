package web

import (
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meter holds the metrics. They are labelled by route pattern, never by path.
type meter struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inflight prometheus.Gauge
	none     *series // requests that matched no route
}

func newMeter(reg prometheus.Registerer) (*meter, error) {
	m := &meter{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Requests by route, method and class of status.",
		}, []string{"route", "method", "class"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Time from request header to the end of the answer; streams are left out.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route", "method"}),
		inflight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "http_requests_in_flight", Help: "Requests being answered, streams and sockets among them.",
		}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.inflight} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	m.none = m.series("unmatched", "any")
	return m, nil
}

// series is the metrics of one route, looked up once and only when used, so
// that a route without traffic does not show.
type series struct {
	m             *meter
	route, method string
	class         [6]atomic.Pointer[prometheus.Counter]
	duration      atomic.Pointer[prometheus.Observer]
}

func (m *meter) series(route, method string) *series {
	if method == "" {
		method = "any"
	}
	return &series{m: m, route: route, method: method}
}

func (s *series) count(status int) {
	class := min(max(status/100, 0), 5)
	c := s.class[class].Load()
	if c == nil {
		made := s.m.requests.WithLabelValues(s.route, s.method, strconv.Itoa(class)+"xx")
		c = &made
		s.class[class].Store(c)
	}
	(*c).Inc()
}

func (s *series) observe(d time.Duration) {
	o := s.duration.Load()
	if o == nil {
		made := s.m.duration.WithLabelValues(s.route, s.method)
		o = &made
		s.duration.Store(o)
	}
	(*o).Observe(d.Seconds())
}

// finish is deferred around every request: it recovers from a panic, counts,
// and writes the log line. Route patterns are logged, never paths, queries or
// addresses: session ids and phone numbers travel there.
func (x *exchange) finish(r *http.Request) {
	s := x.server
	v := recover()
	abort := v != nil && x.recovered(r, v)
	if x.status == 0 && !x.hijacked {
		x.status = http.StatusOK // net/http answers so when a handler writes nothing
	}
	took := time.Since(x.start)
	se, stream := s.meter.none, false
	if x.route != nil {
		se, stream = x.route.series, x.route.op.Stream
	}
	se.count(x.status)
	if !stream && !x.hijacked {
		se.observe(took)
	}
	if s.cfg.AccessLog == logAll || x.failure != nil || x.status >= 400 && s.cfg.AccessLog != logOff {
		x.log(r, se.route, took)
	}
	s.meter.inflight.Dec()
	s.active.Add(-1)
	if abort {
		panic(http.ErrAbortHandler)
	}
}

// recovered answers after a panic. It reports whether the connection must be
// cut, because the answer had begun.
func (x *exchange) recovered(r *http.Request, v any) bool {
	begun := x.status != 0
	if v == http.ErrAbortHandler {
		return true
	}
	x.server.log.Error("handler panicked", "panic", v, "request_id", x.id, "stack", string(debug.Stack()))
	x.routed, x.capture = true, nil
	if x.hijacked {
		return false
	}
	if !begun {
		write(x, r, newProblem(http.StatusInternalServerError, "an internal error occurred; the request id finds it in the log"))
	}
	return begun
}

func (x *exchange) log(r *http.Request, route string, took time.Duration) {
	level, msg := slog.LevelInfo, "request"
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs,
		slog.String("route", route),
		slog.String("method", knownMethod(r.Method)),
		slog.Int("status", x.status),
		slog.Duration("duration", took),
		slog.Int64("bytes", x.bytes),
		slog.String("request_id", x.id))
	if x.key != "" {
		attrs = append(attrs, slog.String("key", x.key))
	}
	if x.failure != nil {
		level, msg = slog.LevelError, "request failed"
		attrs = append(attrs, slog.Any("error", x.failure))
	}
	x.server.log.LogAttrs(r.Context(), level, msg, attrs...)
}

// address finds what must not get into the log from net/http's own messages.
var address = regexp.MustCompile(`(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.%\w]+\])(:\d+)?`)

// connLog takes what net/http has to say about connections.
type connLog struct{ log *slog.Logger }

func (c connLog) Write(p []byte) (int, error) {
	c.log.Debug("http connection", "detail", address.ReplaceAllString(string(p), "[address]"))
	return len(p), nil
}
