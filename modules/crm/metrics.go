package crm

import (
	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/breaker"
)

// metrics of crm; none has a label that a client can choose.
type metrics struct {
	events  *prometheus.CounterVec
	folding prometheus.Histogram
	calls   *prometheus.CounterVec
	took    prometheus.Histogram
	moves   *prometheus.CounterVec
	dirty   *prometheus.GaugeVec
	oldest  prometheus.Gauge
	lag     *prometheus.GaugeVec
	dead    prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, b *breaker.Breaker) *metrics {
	m := &metrics{
		events:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "crm_events_total", Help: "Events read, by topic and by what became of them: folded, dead (not understood), erased (their person was)."}, []string{"topic", "result"}),
		folding: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "crm_fold_delay_seconds", Help: "Time from an event to when it was folded into what the CRM should show.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 20)}),
		calls:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "crm_calls_total", Help: "Calls to the CRM, by kind of object, call and result."}, []string{"kind", "call", "result"}),
		took:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "crm_call_duration_seconds", Help: "Time of a call to the CRM.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}),
		moves:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "crm_breaker_changes_total", Help: "Changes of the circuit breaker, by the new state."}, []string{"state"}),
		dirty:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "crm_dirty", Help: "What the CRM does not show yet: units (a user and trips) and objects; and what waits: trips whose user has not come."}, []string{"of"}),
		oldest:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "crm_dirty_oldest_seconds", Help: "For how long the oldest of them waits."}),
		lag:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "crm_source_lag", Help: "Events at a source that are not on the bus yet."}, []string{"source"}),
		dead:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "crm_dead_letters", Help: "Events that could not be understood, and objects that the CRM refuses."}),
	}
	reg.MustRegister(m.events, m.folding, m.calls, m.took, m.moves, m.dirty, m.oldest, m.lag, m.dead,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "crm_breaker_state", Help: "The circuit breaker to the CRM: 0 closed, 1 half open, 2 open, 3 the CRM asked for a pause, 4 it does not accept the token."},
			func() float64 { state, _ := b.State(); return float64(state) }))
	return m
}
