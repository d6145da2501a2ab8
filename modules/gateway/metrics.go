package gateway

import "github.com/prometheus/client_golang/prometheus"

// metrics of the gateway; none has a label that a client can choose.
type metrics struct {
	emits       prometheus.Counter
	deliveries  prometheus.Counter
	connects    *prometheus.CounterVec
	disconnects *prometheus.CounterVec
	recoveries  *prometheus.CounterVec
	joins       *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, h *hub) *metrics {
	m := &metrics{
		emits:       prometheus.NewCounter(prometheus.CounterOpts{Name: "gateway_emits_total", Help: "Events accepted by this instance."}),
		deliveries:  prometheus.NewCounter(prometheus.CounterOpts{Name: "gateway_deliveries_total", Help: "Events queued for sockets of this instance, one for each socket."}),
		connects:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gateway_connects_total", Help: "Sockets that wanted to connect, by what came of it."}, []string{"result"}),
		disconnects: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gateway_disconnects_total", Help: "Sockets that are gone, by reason."}, []string{"reason"}),
		recoveries:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gateway_recoveries_total", Help: "Sockets that wanted their lost connection back, by what came of it: recovered, unknown or gap."}, []string{"result"}),
		joins:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gateway_joins_total", Help: "Requests to join a room, by what came of them."}, []string{"result"}),
	}
	reg.MustRegister(m.emits, m.deliveries, m.connects, m.disconnects, m.recoveries, m.joins,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gateway_sockets", Help: "Sockets connected to this instance."}, func() float64 { return float64(h.count("")) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gateway_history_bytes", Help: "Memory that the events kept for recovery take."}, func() float64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return float64(h.history.bytes)
		}))
	return m
}
