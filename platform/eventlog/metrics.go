package eventlog

import "github.com/prometheus/client_golang/prometheus"

// instruments are the figures of a service. Entries are counted, not lines.
type instruments struct {
	written *prometheus.CounterVec
	missed  *prometheus.CounterVec
	waiting *prometheus.GaugeVec
}

func newInstruments(reg prometheus.Registerer) *instruments {
	labels := []string{"module", "strategy"}
	m := &instruments{
		written: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventlog_entries_total", Help: "Entries that a strategy of the event log has written."}, labels),
		missed:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventlog_missed_total", Help: "Entries that a strategy of the event log could not take or write."}, labels),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "eventlog_queue", Help: "Entries that wait for a strategy of the event log."}, labels),
	}
	if reg != nil {
		reg.MustRegister(m.written, m.missed, m.waiting)
	}
	return m
}
