package collector

import "github.com/prometheus/client_golang/prometheus"

// metrics of the collector; none has a label that a client can choose.
type metrics struct {
	received *prometheus.CounterVec
	stored   prometheus.Counter
	doubled  prometheus.Counter
	erased   prometheus.Counter
	delay    prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		received: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "collector_events_received_total", Help: "Events in requests, by what became of them."}, []string{"result"}),
		stored:   prometheus.NewCounter(prometheus.CounterOpts{Name: "collector_events_stored_total", Help: "Events written to the tables."}),
		doubled:  prometheus.NewCounter(prometheus.CounterOpts{Name: "collector_events_doubled_total", Help: "Events that were stored already: the same id, or a frame delivered again."}),
		erased:   prometheus.NewCounter(prometheus.CounterOpts{Name: "collector_events_erased_total", Help: "Events dropped because their person was erased."}),
		delay:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "collector_store_delay_seconds", Help: "Time from acceptance of an event to its being queryable.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}),
	}
	reg.MustRegister(m.received, m.stored, m.doubled, m.erased, m.delay)
	return m
}
