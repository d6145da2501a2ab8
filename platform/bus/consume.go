package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/errs"
)

// Consumer is a share in a stream's messages under a durable name: all
// instances that consume under it divide the messages among themselves.
type Consumer struct {
	// Stream it reads and Name under which its position is kept.
	Stream, Name string
	// Subject filter; "" means every message of the stream.
	Subject string
	// Batch is the most messages handed over at once; 1 by default. A handler
	// gets what is there, nothing waits for a batch to fill.
	Batch int
	// BatchBytes bounds a batch as well; 8 MiB by default.
	BatchBytes int
	// Workers is the number of concurrent handlers; 1 by default, which keeps
	// the order of messages as long as none fails.
	Workers int
	// MaxDeliver is after how many failures a message becomes a dead letter; 5
	// by default. Failures of kind errs.Unavailable do not count.
	MaxDeliver int
	// AckWait is after how long the messages of an instance that died go to
	// another; 30 s by default. A handler may take longer: it is kept alive.
	AckWait time.Duration
	// Rest, if set, is called after a batch that took so long, full or not, and
	// returns when the worker may go on. Rest makes batches larger under load and
	// leaves the machine to others; a message that comes after a quiet time is
	// handed over at once.
	Rest func(ctx context.Context, took time.Duration, full bool)
}

// Handler deals with messages. See Consume for what its errors mean.
type Handler func(ctx context.Context, msgs []Message) error

const (
	// drainTime is what a handler has left after the shutdown began.
	drainTime = 10 * time.Second
	// pullExpires is how long a request for messages stays open at the server.
	pullExpires = 20 * time.Second
	// pullLinger is how long a begun batch waits for the word that it is
	// complete; normally that follows within microseconds.
	pullLinger = 50 * time.Millisecond

	maxRetryDelay       = time.Minute
	maxUnavailableDelay = 5 * time.Second
)

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks the error of a message that can never be handled: it becomes
// a dead letter at once. It returns nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

func (c Consumer) withDefaults() Consumer {
	c.Batch = max(c.Batch, 1)
	c.Workers = max(c.Workers, 1)
	if c.BatchBytes <= 0 {
		c.BatchBytes = 8 << 20
	}
	if c.MaxDeliver <= 0 {
		c.MaxDeliver = 5
	}
	if c.AckWait <= 0 {
		c.AckWait = 30 * time.Second
	}
	return c
}

func (c Consumer) durable() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: c.Name, FilterSubject: c.Subject,
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: c.AckWait, MaxDeliver: -1,
		// Messages that wait for their next try count too, hence the room.
		MaxAckPending: min(max(8*c.Batch*c.Workers, 1024), 65536),
		MaxWaiting:    max(512, 4*c.Workers),
	}
}

// Consume hands the messages of a stream to h until ctx ends; then the handlers
// finish (their context lives 10 s longer) and it returns nil. Delivery is at
// least once. After
//
//   - nil the messages are acknowledged;
//   - an error of kind errs.Unavailable all are delivered again later, with
//     growing pauses up to 5 s, for ever;
//   - Permanent(err) the message becomes a dead letter at once;
//   - another error it is tried again with growing pauses and becomes a dead
//     letter after MaxDeliver failures.
//
// When a batch of several fails in one of the last two ways its messages are
// handed over again one by one, so that only the culprits suffer. A panic is
// such another error. A stream that is missing is waited for. Errors:
// Invalid for a consumer that cannot be.
func (b *Bus) Consume(ctx context.Context, c Consumer, h Handler) error {
	c = c.withDefaults()
	if c.Stream == "" || c.Name == "" || strings.ContainsAny(c.Name, ". *>\t") {
		return errs.New(errs.Invalid, "bus: a consumer needs a stream and a name without dots or spaces")
	}
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	b.mu.Lock()
	b.watched[&c] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.watched, &c)
		b.mu.Unlock()
	}()
	// The handlers' context outlives ctx by the time to drain.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if pause(work, drainTime) {
			cancel()
		}
	})()
	run := &consumption{b: b, c: c, h: h, work: work, failures: map[uint64]int{}}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		l, err := b.attach(ctx)
		if err != nil {
			return nil // ctx or the bus ended
		}
		began := time.Now()
		err = run.on(ctx, l)
		if ctx.Err() != nil {
			return nil
		}
		if errs.KindOf(err) == errs.Invalid {
			return err
		}
		if time.Since(began) > 10*time.Second {
			wait = 50 * time.Millisecond
		}
		if err != nil {
			b.log.Warn("bus consumer interrupted, trying again", "consumer", c.Name, "stream", c.Stream, "error", err)
			pause(ctx, wait)
		}
	}
}

// consumption is one running Consume.
type consumption struct {
	b    *Bus
	c    Consumer
	h    Handler
	work context.Context // of the handlers

	mu       sync.Mutex
	failures map[uint64]int // by sequence; unlike Delivered it leaves out Unavailable
}

// on consumes over one link until ctx ends or the link or the consumer is gone.
func (r *consumption) on(ctx context.Context, l *link) error {
	create, cancel := context.WithTimeout(ctx, 10*time.Second)
	err := r.b.place(create, l, r.c)
	cancel()
	if err != nil {
		var api *jetstream.APIError
		if errors.As(err, &api) && api.Code == 400 && !errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrInvalidSubject) {
			return errs.Wrap(errs.Invalid, err, "bus: consumer %s", r.c.Name)
		}
		return errs.Wrap(errs.Unavailable, err, "bus: consumer %s", r.c.Name)
	}
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	var workers sync.WaitGroup
	failed := make(chan error, r.c.Workers)
	for range r.c.Workers {
		workers.Go(func() {
			defer cancel() // one that lost the consumer ends all
			failed <- r.worker(ctx, l)
		})
	}
	workers.Wait()
	for range r.c.Workers {
		if err := <-failed; err != nil {
			return err
		}
	}
	return nil
}

// place makes or finds the consumer on the server.
func (b *Bus) place(ctx context.Context, l *link, c Consumer) error {
	b.takeOver(ctx, l, c)
	placed, err := l.js.CreateOrUpdateConsumer(ctx, c.Stream, c.durable())
	if err != nil {
		return err
	}
	stream, err := l.js.Stream(ctx, c.Stream)
	if err != nil {
		return err
	}
	at, last := placed.CachedInfo().Delivered.Stream, stream.CachedInfo().State.LastSeq
	if at <= last {
		return nil
	}
	// A server that lost the end of a stream, and the description of a consumer
	// but not its state, would pass over all new messages up to that place.
	b.log.Error("BUS LOST MESSAGES: a consumer was further than its stream is now; it begins anew", "consumer", c.Name, "stream", c.Stream, "at", at, "last", last)
	if err := l.js.DeleteConsumer(ctx, c.Stream, c.Name); err != nil {
		return err
	}
	_, err = l.js.CreateOrUpdateConsumer(ctx, c.Stream, c.durable())
	return err
}

// takeOver forgets what the server had handed out before this process started,
// or before the guard restarted the server: nobody has it in hand any more, and
// waiting for its AckWait would keep it from being handled for that long. It
// does so for queues, which hold just what is not handled, and only while no
// other process can be a client of the server.
func (b *Bus) takeOver(ctx context.Context, l *link, c Consumer) {
	b.mu.Lock()
	queue, key := b.streams[c.Stream].Queue, c.Stream+" "+c.Name
	first := queue && !l.taken[key]
	if first {
		if l.taken == nil {
			l.taken = map[string]bool{}
		}
		l.taken[key] = true
	}
	b.mu.Unlock()
	if !first || !b.embedded() || b.cfg.Listen != "" {
		return
	}
	// With another consumer left, the sweep would take that one's place for all.
	if stream, err := l.js.Stream(ctx, c.Stream); err == nil && stream.CachedInfo().State.Consumers == 1 {
		_ = l.js.DeleteConsumer(ctx, c.Stream, c.Name)
	}
}

func (r *consumption) worker(ctx context.Context, l *link) error {
	p, err := newPuller(r.b, l, r.c)
	if err != nil {
		return err
	}
	defer p.release()
	for bad := 0; ; {
		got, err := p.take(ctx)
		if err != nil || ctx.Err() != nil || p.lost() {
			p.giveBack(got)
			return err
		}
		if len(got) == 0 {
			continue
		}
		began := time.Now()
		if !r.handle(l, got, bad) {
			// The handler's dependency is away: the whole worker waits with it.
			pause(ctx, unavailableDelay(bad))
			bad++
			continue
		}
		bad = 0
		if r.c.Rest != nil {
			r.c.Rest(ctx, time.Since(began), len(got) >= r.c.Batch)
		}
	}
}

// delivery is a message with what acknowledging it needs.
type delivery struct {
	Message
	reply string
}

// handle runs the handler and settles the messages. It is false when they must
// wait for something that is unavailable; bad counts how often in a row before.
func (r *consumption) handle(l *link, got []delivery, bad int) bool {
	msgs := make([]Message, len(got))
	again := 0
	for i, d := range got {
		msgs[i] = d.Message
		if d.Delivered > 1 {
			again++
		}
	}
	r.b.m.delivered.WithLabelValues(r.c.Name).Add(float64(len(got)))
	if again > 0 {
		r.b.m.redeliveries.WithLabelValues(r.c.Name).Add(float64(again))
	}
	alive := r.keepAlive(l, got)
	defer alive()
	err := r.call(msgs)
	switch {
	case err == nil:
		for _, d := range got {
			r.ack(l, d)
		}
		return true
	case errs.KindOf(err) == errs.Unavailable && !isPermanent(err):
		r.postpone(l, got, bad, err)
		return false
	case len(got) == 1:
		r.failed(l, got[0], err)
		return true
	}
	r.b.log.Warn("bus batch failed, handling it one by one", "consumer", r.c.Name, "messages", len(got), "error", err)
	for i, d := range got {
		err := r.call(msgs[i : i+1 : i+1])
		switch {
		case err == nil:
			r.ack(l, d)
		case errs.KindOf(err) == errs.Unavailable && !isPermanent(err):
			r.postpone(l, got[i:], bad, err)
			return false
		default:
			r.failed(l, d, err)
		}
	}
	return true
}

func isPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}

func (r *consumption) call(msgs []Message) (err error) {
	defer r.b.rescue(&err, r.c.Name)
	return r.h(r.work, msgs)
}

// keepAlive tells the server that the messages are being worked on, until the
// returned function is called.
func (r *consumption) keepAlive(l *link, got []delivery) func() {
	every := r.c.AckWait / 3
	var mu sync.Mutex
	done := false
	var t *time.Timer
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(every, func() {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return
		}
		for _, d := range got {
			_ = l.nc.Publish(d.reply, []byte("+WPI"))
		}
		t.Reset(every)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		done = true
		t.Stop()
	}
}

func (r *consumption) ack(l *link, d delivery) {
	r.forget(d.Seq)
	_ = l.nc.Publish(d.reply, []byte("+ACK"))
}

func (r *consumption) postpone(l *link, got []delivery, bad int, err error) {
	if bad == 0 {
		r.b.log.Warn("bus consumer waits for something unavailable", "consumer", r.c.Name, "messages", len(got), "error", err)
	}
	delay := unavailableDelay(bad)
	for _, d := range got {
		nak(l, d, delay)
	}
}

// failed settles one message whose handler failed.
func (r *consumption) failed(l *link, d delivery, err error) {
	n := r.fail(d.Seq)
	if !isPermanent(err) && n < r.c.MaxDeliver {
		r.b.log.Warn("bus message failed, trying again", "consumer", r.c.Name, "stream", r.c.Stream, "seq", d.Seq, "failures", n, "error", err)
		nak(l, d, retryDelay(n))
		return
	}
	// First the dead letter, then the end: a kill between the two doubles it
	// (or not: it has an id), never loses it.
	if _, perr := r.b.Publish(r.work, deadLetter(r.c, d.Message, n, err)); perr != nil {
		r.b.log.Error("bus dead letter not stored, trying again", "consumer", r.c.Name, "seq", d.Seq, "error", perr)
		nak(l, d, maxUnavailableDelay)
		return
	}
	r.b.log.Error("bus message is a dead letter now", "consumer", r.c.Name, "stream", r.c.Stream, "seq", d.Seq, "failures", n, "error", err)
	r.b.m.deadLetters.WithLabelValues(r.c.Name).Inc()
	r.forget(d.Seq)
	_ = l.nc.Publish(d.reply, []byte("+TERM"))
}

func (r *consumption) fail(seq uint64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.failures) > 10_000 {
		// They went to other instances: forgetting costs a few tries more.
		clear(r.failures)
	}
	r.failures[seq]++
	return r.failures[seq]
}

func (r *consumption) forget(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.failures) > 0 {
		delete(r.failures, seq)
	}
}

func nak(l *link, d delivery, delay time.Duration) {
	if delay <= 0 {
		_ = l.nc.Publish(d.reply, []byte("-NAK"))
		return
	}
	_ = l.nc.Publish(d.reply, fmt.Appendf(nil, `-NAK {"delay":%d}`, delay.Nanoseconds()))
}

// retryDelay before the next try after n failures.
func retryDelay(n int) time.Duration {
	return jitter(grow(100*time.Millisecond, 3, n-1, maxRetryDelay))
}

// unavailableDelay after n such failures in a row before this one.
func unavailableDelay(n int) time.Duration {
	return jitter(grow(100*time.Millisecond, 2, n, maxUnavailableDelay))
}

func grow(d time.Duration, factor, times int, most time.Duration) time.Duration {
	for range times {
		if d *= time.Duration(factor); d >= most {
			return most
		}
	}
	return d
}

// jitter spreads d by a fifth so that instances do not come back in step.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// puller asks the server for messages over one inbox.
type puller struct {
	b       *Bus
	l       *link
	c       Consumer
	sub     *nats.Subscription
	ch      chan *nats.Msg
	inbox   string
	n       int             // number of the request
	current string          // its reply subject
	open    bool            // the server may still send something for it
	left    int             // messages that it may still send
	whole   bool            // the next message alone is above BatchBytes
	rejoin  <-chan struct{} // closed when the connection, and the request with it, was lost
}

func newPuller(b *Bus, l *link, c Consumer) (*puller, error) {
	p := &puller{b: b, l: l, c: c, inbox: nats.NewInbox(), ch: make(chan *nats.Msg, 4*c.Batch+16)}
	var err error
	if p.sub, err = l.nc.ChanSubscribe(p.inbox+".*", p.ch); err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "bus: subscribe")
	}
	return p, nil
}

// lost tells that the link has been given up.
func (p *puller) lost() bool {
	select {
	case <-p.l.gone:
		return true
	default:
		return false
	}
}

// request asks for what is there now, or else for the first that comes.
func (p *puller) request() error {
	p.rejoin = p.b.rejoin()
	p.n++
	p.current = fmt.Sprintf("%s.%d", p.inbox, p.n)
	batch, limit := p.c.Batch, fmt.Sprintf(`,"max_bytes":%d`, p.c.BatchBytes)
	if p.whole || batch == 1 {
		batch, limit = 1, ""
	}
	p.whole = false
	body := fmt.Appendf(nil, `{"batch":%d,"no_wait":true,"expires":%d%s}`, batch, pullExpires.Nanoseconds(), limit)
	if err := p.l.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+p.c.Stream+"."+p.c.Name, p.current, body); err != nil {
		return errs.Wrap(errs.Unavailable, err, "bus: pull")
	}
	p.open, p.left = true, batch
	return nil
}

// take returns the messages that are there, waiting for the first. It returns
// none when the caller should look around and call again, and what it has with an error
// when the consumer is gone.
func (p *puller) take(ctx context.Context) ([]delivery, error) {
	var got []delivery
	var linger <-chan time.Time
	silence := time.NewTimer(pullExpires + 5*time.Second)
	defer silence.Stop()
	for len(got) < p.c.Batch {
		if !p.open && len(p.ch) == 0 {
			if len(got) > 0 {
				break
			}
			if err := p.request(); err != nil {
				return nil, err
			}
		}
		select {
		case m, ok := <-p.ch:
			if !ok {
				return got, nil
			}
			if m.Reply == "" || !strings.HasPrefix(m.Reply, "$JS.ACK.") {
				if done, err := p.status(m); err != nil || done {
					return got, err
				}
				continue
			}
			if d, err := toDelivery(m); err == nil {
				got = append(got, d)
			}
			if p.left--; p.left <= 0 {
				p.open = false
			}
			if linger == nil {
				linger = time.After(pullLinger)
			}
		case <-linger:
			return got, nil
		case <-p.rejoin:
			p.open = false
			return got, nil
		case <-silence.C:
			p.open = false
			return got, nil
		case <-p.l.gone:
			return got, nil
		case <-ctx.Done():
			return got, nil
		}
	}
	return got, nil
}

// status deals with a message of the server about a request. done means that
// the request has ended.
func (p *puller) status(m *nats.Msg) (done bool, err error) {
	if m.Subject != p.current || !p.open {
		return false, nil // of a request that has ended for us already
	}
	code, text := m.Header.Get("Status"), strings.ToLower(m.Header.Get("Description"))
	switch {
	case code == "100": // heartbeat
		return false, nil
	case code == "409" && strings.Contains(text, "batch completed"):
	case code == "409" && strings.Contains(text, "message size exceeds maxbytes"):
		p.whole = true
	case code == "409" && (strings.Contains(text, "consumer deleted") || strings.Contains(text, "push based")), code == "503":
		p.open = false
		return true, errs.New(errs.Unavailable, "the consumer is away: %s %s", code, text)
	case code == "409", code == "400", code == "408" && strings.Contains(text, "requests pending"):
		// Too many requests, a change of leader, a server that shuts down, or
		// other requests that wait for room among the unacknowledged.
		p.b.log.Debug("bus pull refused", "consumer", p.c.Name, "status", code, "text", text)
		select {
		case <-time.After(jitter(20 * time.Millisecond)):
		case <-p.l.gone:
		}
	}
	p.open = false
	return true, nil
}

// release gives back what arrived too late and ends the subscription.
func (p *puller) release() {
	if p.lost() {
		_ = p.sub.Unsubscribe()
		return
	}
	// Draining tells the server first and goes on receiving until it answered,
	// else a message on its way would wait for its AckWait.
	_ = p.sub.Drain()
	_ = p.l.nc.FlushTimeout(time.Second)
	var late []delivery
	for {
		select {
		case m, ok := <-p.ch:
			if ok {
				if d, err := toDelivery(m); err == nil {
					late = append(late, d)
				}
				continue
			}
		default:
		}
		break
	}
	p.giveBack(late)
	_ = p.l.nc.FlushTimeout(time.Second)
}

// giveBack returns messages that nobody has looked at.
func (p *puller) giveBack(got []delivery) {
	for _, d := range got {
		nak(p.l, d, 0)
	}
}

func toDelivery(m *nats.Msg) (delivery, error) {
	meta, err := m.Metadata()
	if err != nil {
		return delivery{}, err
	}
	d := delivery{Message: fromNATS(m.Subject, m.Header, m.Data, meta.Sequence.Stream, meta.Timestamp), reply: m.Reply}
	d.Delivered = int(meta.NumDelivered)
	return d, nil
}
