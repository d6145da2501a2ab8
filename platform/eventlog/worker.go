package eventlog

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"switchboard/platform/errs"
)

// strategy is a place where entries are written. One goroutine calls it.
type strategy interface {
	// write writes records in order. The first done of them are settled; the
	// error is about the next one or, if it is not errs.Invalid, about all the
	// rest. errs.Invalid means that trying again is no use. What is not settled
	// may come again. It ends by itself, within seconds for each server it asks.
	write(ctx context.Context, batch []*record) (done int, err error)
	// close lets go of what write opened.
	close()
}

// worker moves the entries of one module to one strategy.
type worker struct {
	module, name string
	to           strategy
	q            *queue
	log          *slog.Logger
	promises     bool // at least once
	repeats      bool // what failed is tried again

	written  prometheus.Counter
	lost     prometheus.Counter
	waiting  prometheus.Gauge
	missed   atomic.Uint64
	troubles atomic.Uint64          // failed tries
	trouble  atomic.Pointer[string] // the last one

	// Of complain alone.
	saidAt               time.Time
	saidMissed, saidFail uint64
}

const (
	batchEntries = 1024
	batchBytes   = 2 << 20
	// gatherFor is how long a database rests after it took few entries: a write
	// costs about the same for one as for many. The first after a quiet time are
	// written at once.
	gatherFor = 20 * time.Millisecond
	// writeTimeout bounds one request, so that a server that hangs is asked again.
	writeTimeout = 15 * time.Second

	firstPause   = 50 * time.Millisecond
	longestPause = 5 * time.Second
	// drainPause is the longest while stopping: time is short.
	drainPause = 200 * time.Millisecond

	complainEvery = 10 * time.Second
)

func newWorker(module, name string, to strategy, cfg Config, m *instruments, log *slog.Logger) *worker {
	promises := name == SQL || name == JetStream
	return &worker{
		module: module, name: name, to: to, log: log,
		q:        newQueue(cfg.QueueEntries, int(cfg.QueueBytes)),
		promises: promises,
		// A line that a writer took in part must not come again.
		repeats: promises || name == MongoDB,
		written: m.written.WithLabelValues(module, name),
		lost:    m.missed.WithLabelValues(module, name),
		waiting: m.waiting.WithLabelValues(module, name),
	}
}

// put queues r, or counts it as missed.
func (w *worker) put(r *record) {
	if w.q.put(r) {
		w.waiting.Inc()
		return
	}
	w.miss(1, "its queue is full")
}

func (w *worker) miss(n int, why string) {
	w.lost.Add(float64(n))
	w.missed.Add(uint64(n))
	w.trouble.Store(&why)
}

// run writes until stop is closed and the queue is empty, or work ends. What is
// left in the queue then is missed.
func (w *worker) run(work context.Context, stop <-chan struct{}) {
	defer w.end()
	var batch []*record
	pause := firstPause
	alone := 0 // so many records go one by one, since one of them is refused
	for work.Err() == nil {
		entries := batchEntries
		if alone > 0 {
			entries = 1
		}
		clear(batch)
		if batch = w.q.peek(batch[:0], entries, batchBytes); len(batch) == 0 {
			if !w.q.wait(stop) {
				return
			}
			continue
		}
		done, err := w.write(work, batch)
		if done > 0 {
			w.written.Add(float64(done))
			w.settle(done)
			pause = firstPause
			alone = max(0, alone-done)
		}
		switch {
		case err == nil:
			if w.name == SQL && len(batch) < batchEntries/2 {
				w.gather(work, stop)
			}
		case errs.KindOf(err) == errs.Invalid && len(batch)-done > 1:
			alone = len(batch) - done
		case errs.KindOf(err) == errs.Invalid || !w.repeats:
			w.miss(1, err.Error())
			w.settle(1)
			alone = max(0, alone-1)
		default:
			text := err.Error()
			w.trouble.Store(&text)
			w.troubles.Add(1)
			rest(work, stop, pause)
			pause = min(2*pause, longestPause)
		}
	}
}

func (w *worker) gather(work context.Context, stop <-chan struct{}) {
	t := time.NewTimer(gatherFor)
	defer t.Stop()
	select {
	case <-t.C:
	case <-stop:
	case <-work.Done():
	}
}

// settle lets go of the n oldest records, counted before.
func (w *worker) settle(n int) {
	w.waiting.Sub(float64(n))
	w.q.settle(n)
}

func (w *worker) end() {
	w.abandon()
	w.to.close()
}

// abandon counts what is still in the queue as missed and takes no more.
func (w *worker) abandon() {
	if n := w.q.close(func(left int) { w.miss(left, "the product stopped before it could be written") }); n > 0 {
		w.waiting.Sub(float64(n))
	}
}

// write is one try. A strategy that panics has failed like any other.
func (w *worker) write(ctx context.Context, batch []*record) (done int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %T", p)
		}
	}()
	return w.to.write(ctx, batch)
}

// rest waits before the next try, less when a stop begins or has begun.
func rest(work context.Context, stop <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d - d/10 + rand.N(d/5+1))
	defer t.Stop()
	select {
	case <-t.C:
		return
	case <-work.Done():
		return
	case <-stop:
	}
	short := time.NewTimer(min(d, drainPause))
	defer short.Stop()
	select {
	case <-t.C:
	case <-short.C:
	case <-work.Done():
	}
}

// complain tells the log, once in a while, what went wrong since the last time.
func (w *worker) complain(now time.Time, last bool) {
	missed, fails := w.missed.Load(), w.troubles.Load()
	if missed == w.saidMissed && fails == w.saidFail || now.Sub(w.saidAt) < complainEvery && !last {
		return
	}
	why := ""
	if p := w.trouble.Load(); p != nil {
		why = *p
	}
	w.log.Warn("event log: a strategy is in trouble", "of", w.module, "strategy", w.name,
		"missed", missed-w.saidMissed, "failed_writes", fails-w.saidFail, "waiting", w.q.len(), "error", why)
	w.saidAt, w.saidMissed, w.saidFail = now, missed, fails
}
