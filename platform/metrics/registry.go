package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// New makes a registry that holds the metrics of the Go runtime (go_), of the
// process (process_) and of the build (go_build_info).
func New() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	return reg
}

// maxScrapes bounds the scrapes served at once; more are answered 503. The
// page is public by default and costs a walk over everything counted.
const maxScrapes = 8

// Handler serves the metrics of reg in the Prometheus text format, or as
// OpenMetrics to a client that asks for it. A collector that fails is left out
// and does not hide the others.
func Handler(reg *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxScrapes,
		Registry:            reg,
	})
}
