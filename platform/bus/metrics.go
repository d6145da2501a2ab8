package bus

import (
	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/errs"
)

// instruments are the figures of a bus. Labels are names of subjects of
// groups, streams and consumers, which are few and fixed.
type instruments struct {
	reg prometheus.Registerer
	all []prometheus.Collector

	publishes    *prometheus.CounterVec // result: ok, refused, failed
	retries      prometheus.Counter
	latency      prometheus.Histogram
	frames       *prometheus.CounterVec // subject
	frameItems   *prometheus.CounterVec // subject
	delivered    *prometheus.CounterVec // consumer
	redeliveries *prometheus.CounterVec // consumer
	deadLetters  *prometheus.CounterVec // consumer
	pending      *prometheus.GaugeVec   // stream, consumer
	unacked      *prometheus.GaugeVec   // stream, consumer
	streamBytes  *prometheus.GaugeVec   // stream
	restarts     prometheus.Counter
	alarms       prometheus.Gauge
	free         prometheus.Gauge
	ready        prometheus.Gauge
}

func newInstruments(reg prometheus.Registerer) (*instruments, error) {
	m := &instruments{reg: reg}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bus_" + name, Help: help}, labels)
		m.all = append(m.all, c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "bus_" + name, Help: help}, labels)
		m.all = append(m.all, g)
		return g
	}
	m.publishes = counter("publishes_total", "Messages published, by result.", "result")
	m.retries = counter("publish_retries_total", "Publishes repeated because no answer came.").WithLabelValues()
	m.latency = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "bus_publish_seconds", Help: "Time from publishing a message to its durable acknowledgement.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
	m.all = append(m.all, m.latency)
	m.frames = counter("frames_total", "Frames of a group commit that were stored, by subject.", "subject")
	m.frameItems = counter("frame_items_total", "Items within the frames that were stored, by subject.", "subject")
	m.delivered = counter("delivered_total", "Messages handed to a consumer's handler.", "consumer")
	m.redeliveries = counter("redeliveries_total", "Messages handed to a consumer's handler again.", "consumer")
	m.deadLetters = counter("dead_letters_total", "Messages moved to the dead letters.", "consumer")
	m.pending = gauge("consumer_pending", "Messages of the stream that the consumer has not been given yet.", "stream", "consumer")
	m.unacked = gauge("consumer_unacknowledged", "Messages given to the consumer and not acknowledged yet.", "stream", "consumer")
	m.streamBytes = gauge("stream_bytes", "Bytes that a declared stream holds.", "stream")
	m.restarts = counter("guard_restarts_total", "Restarts of the embedded server by the guard.").WithLabelValues()
	m.alarms = gauge("ledger_alarms", "Streams that held less at a start than the ledger had recorded.").WithLabelValues()
	m.free = gauge("free_bytes", "Free space on the disk of the embedded server, -1 if unknown.").WithLabelValues()
	m.ready = gauge("ready", "1 while the bus takes messages.").WithLabelValues()
	m.ready.Set(1)
	if reg == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return nil, errs.Wrap(errs.Internal, err, "bus: register metrics")
		}
	}
	return m, nil
}

func (m *instruments) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}
