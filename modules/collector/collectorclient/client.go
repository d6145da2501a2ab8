package collectorclient

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Options are a client's settings. URL and Key are needed; for the rest zero
// means the default.
type Options struct {
	URL           string // of the product, without /collector/events
	Key           string // with the scope collector:write; the application is the one it belongs to
	SigningSecret string // signs each request, for applications that must

	FlushEvery    time.Duration // an event waits at most so long for its batch; 1 s
	MaxBatch      int           // events in a request; 500, at most 1000
	MaxBatchBytes int           // of JSON in a request; 1 MiB, at most 8 MiB
	MaxQueue      int           // events waiting, then Track gives ErrQueueFull; 10,000
	MaxQueueBytes int           // the same in bytes; 64 MiB
	GzipAbove     int           // bodies of more bytes are compressed; 1 KiB; negative: never
	RetryMin      time.Duration // first back-off; 500 ms
	RetryMax      time.Duration // longest back-off; 1 min

	SpoolDir  string    // keeps the queue across restarts; none: in memory only
	SpoolSync SpoolSync // when the spool is forced to disk

	// HTTPClient sends the requests; by default one of our own with a time-out
	// of 30 s. Redirects are never followed: a POST would become a GET.
	HTTPClient *http.Client
	// OnError is told of each rejected event and each failed attempt, by the
	// sending goroutine: it should return soon and must not call Flush or
	// Close.
	OnError func(error)
	// Now is the clock of timestamps, ids and signatures; time.Now.
	Now func() time.Time
}

// Stats are what a client has done so far.
type Stats struct {
	Queued   int    // waiting, or being sent
	Accepted uint64 // by the collector
	Rejected uint64 // by the collector, for good
	Refused  uint64 // by Track, since the queue was full
}

// A Client queues events and sends them. Its methods may be called by any
// number of goroutines.
type Client struct {
	opts    Options
	sender  sender
	ownHTTP bool

	mu       sync.Mutex
	queue    [][]byte // encoded events, oldest first
	bytes    int      // of queue
	head     uint64   // events that ever left the queue
	waiters  []waiter
	closing  bool
	closeErr error
	stats    Stats
	spool    *spool // nil without SpoolDir

	wake   chan struct{} // something to look at
	urge   chan struct{} // somebody wants an attempt now
	done   chan struct{} // the sending goroutine has ended
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// waiter is one call of Flush.
type waiter struct {
	upto uint64 // done when head is there
	done chan error
}

// New checks the options, opens the spool and starts the client. End it with
// [Client.Close].
func New(opts Options) (*Client, error) {
	base, err := url.Parse(opts.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("collectorclient: URL: %w", err)
	case base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "":
		return nil, fmt.Errorf("collectorclient: URL %q is not like https://host", opts.URL)
	}
	if err := checkKey(opts.Key); err != nil {
		return nil, err
	}
	ownHTTP := opts.HTTPClient == nil
	opts.setDefaults()
	hc := *opts.HTTPClient
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	zip, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	c := &Client{
		opts: opts, ownHTTP: ownHTTP,
		sender: sender{
			url: base.JoinPath(route).String(), key: opts.Key, secret: opts.SigningSecret,
			http: &hc, gzipAbove: opts.GzipAbove, now: opts.Now, gzip: zip,
		},
		wake: make(chan struct{}, 1),
		urge: make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	damaged := 0
	if opts.SpoolDir != "" {
		if c.spool, c.queue, damaged, err = openSpool(opts.SpoolDir); err != nil {
			return nil, err
		}
		for _, line := range c.queue {
			c.bytes += len(line)
		}
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	go c.run(damaged)
	return c, nil
}

func (o *Options) setDefaults() {
	o.FlushEvery = or(o.FlushEvery, time.Second)
	o.MaxBatch = min(or(o.MaxBatch, 500), maxPerPost)
	o.MaxBatchBytes = min(or(o.MaxBatchBytes, 1<<20), maxBody)
	o.MaxQueue = or(o.MaxQueue, 10_000)
	o.MaxQueueBytes = or(o.MaxQueueBytes, 64<<20)
	if o.GzipAbove == 0 {
		o.GzipAbove = 1 << 10
	}
	o.RetryMin = or(o.RetryMin, 500*time.Millisecond)
	o.RetryMax = max(or(o.RetryMax, time.Minute), o.RetryMin)
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout:     90 * time.Second,
			MaxIdleConnsPerHost: 1,
		}}
	}
	if o.OnError == nil {
		o.OnError = func(err error) { slog.Warn("collector client", "error", err) }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

func or[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Track queues one event: its session, its category, its name (for some
// applications their own name) and its data, which must become a JSON object;
// nil is {}. It waits for the spool's disk at most, never for the network.
//
// The error is [ErrInvalid], [ErrTooLarge], [ErrQueueFull] or [ErrClosed], or
// the spool's; the event is not queued then. Only when the spool's fsync
// fails the event is queued in spite of the error.
func (c *Client) Track(session, category, name string, data any, opts ...TrackOption) error {
	now := c.opts.Now()
	e := event{SessionID: session, Category: category, Name: name, at: now}
	for _, o := range opts {
		o(&e)
	}
	if e.ID == "" {
		e.ID = newID(now)
	}
	line, err := e.encode(data)
	if err != nil {
		return err
	}
	if len(line)+len(envelope) > maxBody {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, len(line))
	}
	mark, err := c.enqueue(line)
	if err != nil {
		return err
	}
	nudge(c.wake)
	if c.spool != nil && c.opts.SpoolSync == SyncAlways {
		return c.spool.sync(mark)
	}
	return nil
}

func (c *Client) enqueue(line []byte) (mark int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return 0, ErrClosed
	}
	if len(c.queue) >= c.opts.MaxQueue || c.bytes+len(line) > c.opts.MaxQueueBytes {
		c.stats.Refused++
		return 0, ErrQueueFull
	}
	if c.spool != nil {
		if mark, err = c.spool.append(line); err != nil {
			return 0, err
		}
	}
	c.queue = append(c.queue, line)
	c.bytes += len(line)
	return mark, nil
}

// Flush sends what has been tracked so far without waiting for a full batch
// or a back-off (a Retry-After is waited for), and returns when the collector
// has taken or rejected all of it. It gives an [*UnsentError] when ctx ends
// first or the collector refuses the key; the events stay queued.
func (c *Client) Flush(ctx context.Context) error {
	c.mu.Lock()
	if c.closing || len(c.queue) == 0 {
		defer c.mu.Unlock()
		if c.closing {
			return ErrClosed
		}
		return nil
	}
	w := waiter{upto: c.head + uint64(len(c.queue)), done: make(chan error, 1)}
	c.waiters = append(c.waiters, w)
	c.mu.Unlock()
	nudge(c.wake)
	nudge(c.urge)
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		if w.upto <= c.head {
			return nil
		}
		return c.unsent(w.upto-c.head, ctx.Err())
	}
}

// Close refuses further events, sends what is queued and ends the client's
// goroutine. It tries until all is sent, ctx ends (give it one that does) or
// the collector refuses the key; the goroutine has ended in each case. What is
// unsent then, it says with an [*UnsentError]: kept in the spool, or lost
// without one.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	nudge(c.wake)
	nudge(c.urge)
	stop := context.AfterFunc(ctx, func() { c.cancel(context.Cause(ctx)) })
	defer stop()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeErr
}

// Stats tells what the client has done so far.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Queued = len(c.queue)
	return s
}

// run is the client's goroutine: it sends the queue until it is told to stop.
func (c *Client) run(damaged int) {
	defer close(c.done)
	defer c.cancel(nil)
	if damaged > 0 {
		c.opts.OnError(fmt.Errorf("collectorclient: %d damaged lines in the spool left out", damaged))
	}
	limit := c.opts.MaxBatchBytes
	failures := 0
	var last error
	for c.waitForWork(failures > 0) {
		select {
		case <-c.urge: // served by this attempt
		default:
		}
		batch, size := c.batch(limit)
		out := c.sender.send(c.ctx, batch)
		switch out.verdict {
		case split:
			limit = size / 2
		case settled:
			failures, last = 0, nil
			c.settle(len(batch), out)
		default:
			if c.ctx.Err() != nil {
				continue
			}
			last = out.failure
			wait := c.backoff(out, failures)
			failures++
			if c.fail(out, wait) {
				c.finish(last)
				return
			}
			c.pause(wait, out.after == 0)
		}
	}
	c.finish(last)
}

// waitForWork returns true when there is something to send and it is time to
// (due: it already is), false when the client shall end.
func (c *Client) waitForWork(due bool) bool {
	var timer *time.Timer
	var expired <-chan time.Time
	for {
		c.mu.Lock()
		n, closing := len(c.queue), c.closing
		due = due || closing || len(c.waiters) > 0 || n >= c.opts.MaxBatch || c.bytes >= c.opts.MaxBatchBytes
		c.mu.Unlock()
		switch {
		case c.ctx.Err() != nil, n == 0 && closing:
			return false
		case n > 0 && due:
			return true
		case n > 0 && timer == nil:
			timer = time.NewTimer(c.opts.FlushEvery)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-expired:
			due = true
		case <-c.wake:
		case <-c.ctx.Done():
		}
	}
}

// batch gives the oldest events that fit one request, at least one, and their
// bytes. They stay in the queue until they are settled.
func (c *Client) batch(limit int) (batch [][]byte, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size = len(envelope)
	for n, line := range c.queue {
		if n == c.opts.MaxBatch || n > 0 && size+len(line)+1 > limit {
			break
		}
		batch = append(batch, line)
		size += len(line) + 1
	}
	return batch, size
}

// settle takes the oldest n events off the queue and tells who waits for them.
func (c *Client) settle(n int, out outcome) {
	c.mu.Lock()
	for i := range n {
		c.bytes -= len(c.queue[i])
		c.queue[i] = nil
	}
	c.queue = c.queue[n:]
	c.head += uint64(n)
	bad := 0
	if out.rejected != nil {
		bad = len(out.rejected.Rejections)
	}
	c.stats.Rejected += uint64(bad)
	c.stats.Accepted += uint64(max(n-bad, 0))
	var err error
	if c.spool != nil {
		err = c.spool.done(n, c.queue)
	}
	served, waiting := []waiter(nil), []waiter(nil)
	for _, w := range c.waiters {
		if w.upto <= c.head {
			served = append(served, w)
		} else {
			waiting = append(waiting, w)
		}
	}
	c.waiters = waiting
	c.mu.Unlock()
	if out.rejected != nil {
		c.opts.OnError(out.rejected)
	}
	if err != nil {
		c.opts.OnError(err)
	}
	for _, w := range served { // last: Flush returns when all is reported
		w.done <- nil
	}
}

// fail reports a failed attempt and says whether the client should give up,
// because it is closing and trying again is of no use.
func (c *Client) fail(out outcome, wait time.Duration) (end bool) {
	c.mu.Lock()
	out.failure.Queued, out.failure.Retry = len(c.queue), wait
	var failed []waiter
	if out.verdict == refused {
		failed, c.waiters = c.waiters, nil
		end = c.closing
	}
	head := c.head
	c.mu.Unlock()
	c.opts.OnError(out.failure)
	for _, w := range failed {
		w.done <- c.unsent(w.upto-head, out.failure)
	}
	return end
}

// backoff says how long to wait after a failed attempt: at least what the
// collector asks for; else a random part of a time that doubles with each
// failure; when it needs a person, about the longest.
func (c *Client) backoff(out outcome, failures int) time.Duration {
	longest := c.opts.RetryMax
	if out.verdict == refused {
		return longest/2 + rand.N(longest/2+1)
	}
	if out.after > 0 {
		return out.after + rand.N(c.opts.RetryMin+1)
	}
	ceiling := longest
	if failures < 30 {
		ceiling = min(ceiling, c.opts.RetryMin<<failures)
	}
	return rand.N(ceiling + 1)
}

// pause waits; a Flush or Close that begins meanwhile may cut it short.
func (c *Client) pause(wait time.Duration, urgeable bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var urge <-chan struct{}
	if urgeable {
		urge = c.urge
	}
	select {
	case <-timer.C:
	case <-urge:
	case <-c.ctx.Done():
	}
}

// finish closes what the client opened and tells everyone how it ended.
func (c *Client) finish(last error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		c.closeErr = c.unsent(uint64(len(c.queue)), errors.Join(context.Cause(c.ctx), last))
	}
	for _, w := range c.waiters {
		w.done <- c.unsent(w.upto-c.head, ErrClosed)
	}
	c.waiters = nil
	if c.spool != nil {
		c.closeErr = errors.Join(c.closeErr, c.spool.close())
	}
	if c.ownHTTP {
		c.sender.http.CloseIdleConnections()
	}
}

// unsent makes the error for n events that are still queued.
func (c *Client) unsent(n uint64, err error) error {
	return &UnsentError{Count: int(n), Spooled: c.spool != nil, Err: err}
}

func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
