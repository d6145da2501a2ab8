package mailing

import (
	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/breaker"
)

// metrics of mailing; none has a label that a client can choose.
type metrics struct {
	messages *prometheus.CounterVec
	attempts *prometheus.CounterVec
	took     prometheus.Histogram
	resent   prometheus.Counter
	reports  *prometheus.CounterVec
	queue    *prometheus.GaugeVec
	running  *prometheus.GaugeVec
	delay    prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, b *breaker.Breaker) *metrics {
	m := &metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailing_messages_total", Help: "Messages that became final, by status."}, []string{"status"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailing_attempts_total", Help: "Attempts to send, by what the provider made of them."}, []string{"result"}),
		took:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailing_attempt_duration_seconds", Help: "Time of an attempt to send.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}),
		resent:   prometheus.NewCounter(prometheus.CounterOpts{Name: "mailing_resent_total", Help: "Attempts for messages that a worker which died may have sent before, under the same id."}),
		reports:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailing_reports_total", Help: "Attempts to send a daily report, by what came of them."}, []string{"result"}),
	}
	m.queue = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mailing_queue_messages", Help: "Messages that are not final, by status."}, []string{"status"})
	m.running = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mailing_campaigns", Help: "Campaigns that are not over, by status."}, []string{"status"})
	m.delay = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailing_due_delay_seconds", Help: "Time from when a message could go to when a worker got it.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 16)})
	reg.MustRegister(m.messages, m.attempts, m.took, m.resent, m.reports, m.queue, m.running, m.delay,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mailing_sender_state", Help: "Why nothing is sent: 0 all goes, 1 one is tried, 2 too many failures, 3 the provider asked for a pause, 4 it does not accept the token."},
			func() float64 { state, _ := b.State(); return float64(state) }))
	return m
}
