package telephony

import "github.com/prometheus/client_golang/prometheus"

// metrics of telephony; none has a label that a client can choose.
type metrics struct {
	stored      prometheus.Counter
	doubled     prometheus.Counter
	delegations *prometheus.CounterVec
	recordings  *prometheus.CounterVec
	unheard     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, boards func() float64) *metrics {
	m := &metrics{
		stored:      prometheus.NewCounter(prometheus.CounterOpts{Name: "telephony_events_stored_total", Help: "Events appended to the call log."}),
		doubled:     prometheus.NewCounter(prometheus.CounterOpts{Name: "telephony_events_doubled_total", Help: "Events that were in the log already."}),
		delegations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "telephony_delegations_total", Help: "Calls that stood by, by what came of it."}, []string{"state"}),
		recordings:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "telephony_recordings_total", Help: "Recordings that were to be fetched, by what came of it."}, []string{"state"}),
		unheard:     prometheus.NewCounter(prometheus.CounterOpts{Name: "telephony_directories_unheard_total", Help: "Questions whether a module knows a caller that nobody answered in time."}),
	}
	reg.MustRegister(m.stored, m.doubled, m.delegations, m.recordings, m.unheard,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "telephony_boards", Help: "WebSockets of boards open at this instance."}, boards))
	return m
}
