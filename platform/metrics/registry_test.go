package metrics_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/metrics"
)

func TestRegistryHasRuntimeProcessAndBuild(t *testing.T) {
	t.Parallel()
	reg := metrics.New()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "collector_events_total", Help: "Events."}))
	body := scrape(t, reg, "").Body.String()
	for _, name := range []string{"go_goroutines ", "process_start_time_seconds ", "go_build_info{", "collector_events_total 0"} {
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("no %s in:\n%s", name, body)
		}
	}
}

func TestTwoRegistriesCountApart(t *testing.T) {
	t.Parallel()
	one, two := metrics.New(), metrics.New()
	one.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total"}))
	if strings.Contains(scrape(t, two, "").Body.String(), "x_total") {
		t.Error("shared")
	}
}

func TestOpenMetricsIsServedOnRequest(t *testing.T) {
	t.Parallel()
	r := scrape(t, metrics.New(), "application/openmetrics-text; version=1.0.0")
	if got := r.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/openmetrics-text") {
		t.Error(got)
	}
	if !strings.HasSuffix(r.Body.String(), "# EOF\n") {
		t.Error("no end mark")
	}
}

type broken struct{}

func (broken) Describe(ch chan<- *prometheus.Desc) {
	ch <- prometheus.NewDesc("broken", "Fails.", nil, nil)
}

func (broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(prometheus.NewDesc("broken", "Fails.", nil, nil), http.ErrAbortHandler)
}

func TestOneBrokenCollectorDoesNotHideTheOthers(t *testing.T) {
	t.Parallel()
	reg := metrics.New()
	reg.MustRegister(broken{})
	if r := scrape(t, reg, ""); r.Code != http.StatusOK || !strings.Contains(r.Body.String(), "go_goroutines") {
		t.Errorf("%d", r.Code)
	}
}

func scrape(t *testing.T, reg *prometheus.Registry, accept string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	metrics.Handler(reg).ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	return w
}
