package bus

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/errs"
)

// serverName is what the embedded server calls itself.
const serverName = "switchboard"

// Bounds of an Intake. They are for the messages that wait: a batch in hand
// comes on top.
const (
	intakeWaiting      = 32 << 20
	intakeBatch        = 1000
	intakeBatchBytes   = 4 << 20
	intakeRemembered   = 100_000
	intakeRememberedAt = 2 * time.Minute // the window of a stream by default
)

// Intake plays a stream for foreign publishers without keeping one: what they
// publish on subject goes to h, in order and as many at once as have gathered.
// After h returned nil each message that has a reply subject is answered as
// JetStream answers a publish on the stream; after an error they get its error
// form. A second message with the same Nats-Msg-Id within two minutes is
// answered as a duplicate. A message without a reply subject is handed over
// again until h takes it. When more waits than fits in memory, further messages
// are refused, or lost if nobody waits for an answer. It runs until ctx ends,
// then finishes what it has and returns nil. h is not called concurrently.
//
// It is for the embedded server: elsewhere a true stream can do this, and with
// one the publisher would get two answers.
func (b *Bus) Intake(ctx context.Context, stream, subject string, h func(ctx context.Context, msgs []Message) error) error {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	in := &intake{b: b, stream: stream, subject: subject, h: h, wake: make(chan struct{}, 1), last: uint64(time.Now().UnixMicro()), seen: map[string]uint64{}}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ending := make(chan struct{})
	var working sync.WaitGroup
	working.Go(func() { in.work(work, ending) })
	defer working.Wait()
	defer context.AfterFunc(ctx, func() {
		if pause(work, drainTime) {
			cancel()
		}
	})()
	defer close(ending)
	for {
		l, err := b.attach(ctx)
		if err != nil {
			return nil // ctx or the bus ended
		}
		if err := in.receive(ctx, l); err != nil {
			if errors.Is(err, nats.ErrBadSubject) {
				return errs.Wrap(errs.Invalid, err, "bus: take in %q", subject)
			}
			b.log.Warn("bus intake ended, trying again", "subject", subject, "error", err)
			pause(ctx, 100*time.Millisecond)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// intake is one running Intake.
type intake struct {
	b               *Bus
	stream, subject string
	h               func(ctx context.Context, msgs []Message) error
	wake            chan struct{}

	mu      sync.Mutex
	waiting []taken
	bytes   int
	lost    int // since it was last told

	// Of the one who works.
	last  uint64            // sequence of the last answer
	seen  map[string]uint64 // sequences by message id
	order []remembered      // the ids, oldest first
}

type taken struct {
	l *link
	m *nats.Msg
}

type remembered struct {
	id string
	at time.Time
}

// receive takes messages over one link until ctx ends or the link is gone.
func (in *intake) receive(ctx context.Context, l *link) error {
	closed := make(chan struct{})
	sub, err := l.nc.Subscribe(in.subject, func(m *nats.Msg) { in.put(l, m) })
	if err != nil {
		return err
	}
	sub.SetClosedHandler(func(string) { close(closed) })
	select {
	case <-l.gone:
		_ = sub.Unsubscribe()
		return nil
	case <-ctx.Done():
	}
	// What the server has sent already is still taken.
	if sub.Drain() == nil {
		select {
		case <-closed:
		case <-l.gone:
		case <-time.After(2 * time.Second):
		}
	}
	return nil
}

// put lets a message wait for its turn, or refuses it. It does not block.
func (in *intake) put(l *link, m *nats.Msg) {
	in.mu.Lock()
	size := intakeSize(m)
	full := in.bytes > 0 && in.bytes+size > intakeWaiting
	if !full {
		in.waiting = append(in.waiting, taken{l, m})
		in.bytes += size
	} else if m.Reply == "" {
		in.lost++
	}
	in.mu.Unlock()
	if full {
		in.refuse(taken{l, m}, jsError{Code: 503, ErrCode: 10023, Description: "too many messages are waiting"})
		return
	}
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// intakeSize is about what a message holds in memory.
func intakeSize(m *nats.Msg) int { return m.Size() + 512 }

// take gives the next messages, in order.
func (in *intake) take() []taken {
	in.mu.Lock()
	defer in.mu.Unlock()
	n, size := 0, 0
	for n < len(in.waiting) && n < intakeBatch {
		s := intakeSize(in.waiting[n].m)
		if n > 0 && size+s > intakeBatchBytes {
			break
		}
		size += s
		n++
	}
	got := append([]taken(nil), in.waiting[:n]...)
	clear(in.waiting[:n])
	if in.waiting = in.waiting[n:]; len(in.waiting) == 0 {
		in.waiting = nil
	}
	in.bytes -= size
	if in.lost > 0 {
		in.b.log.Error("bus intake is too slow: messages without a reply subject were lost", "subject", in.subject, "messages", in.lost)
		in.lost = 0
	}
	return got
}

func (in *intake) empty() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.waiting) == 0
}

// putBack lets messages wait in front of the others.
func (in *intake) putBack(list []taken) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, t := range list {
		in.bytes += intakeSize(t.m)
	}
	in.waiting = append(list, in.waiting...)
}

// work hands over until ending is closed and nothing waits any more.
func (in *intake) work(ctx context.Context, ending <-chan struct{}) {
	for bad := 0; ; {
		batch := in.take()
		if len(batch) == 0 {
			select {
			case <-in.wake:
			case <-ending:
				if in.empty() {
					return
				}
			}
			continue
		}
		silent := in.deal(ctx, batch)
		if len(silent) == 0 {
			bad = 0
			continue
		}
		select {
		case <-ending:
			in.b.log.Error("bus intake ends: messages without a reply subject are lost", "subject", in.subject, "messages", len(silent))
			continue
		default:
		}
		in.putBack(silent)
		select {
		case <-time.After(unavailableDelay(bad)):
		case <-ending:
		}
		bad++
	}
}

// deal hands a batch over and answers it. It returns those that were not taken
// and have nobody who would send them again.
func (in *intake) deal(ctx context.Context, batch []taken) (silent []taken) {
	in.forget(time.Now())
	fresh := make([]taken, 0, len(batch))
	msgs := make([]Message, 0, len(batch))
	var again []taken
	ids := map[string]bool{}
	now := time.Now().UTC()
	for _, t := range batch {
		id := t.m.Header.Get(jetstream.MsgIDHeader)
		if e, wrong := in.unmet(t.m.Header); wrong {
			in.refuse(t, e)
			continue
		}
		if id != "" {
			if _, known := in.seen[id]; known || ids[id] {
				again = append(again, t)
				continue
			}
			ids[id] = true
		}
		fresh = append(fresh, t)
		msgs = append(msgs, fromNATS(t.m.Subject, t.m.Header, t.m.Data, 0, now))
	}
	var err error
	if len(msgs) > 0 {
		err = in.call(ctx, msgs)
	}
	if err != nil {
		in.b.log.Warn("bus intake cannot hand over", "subject", in.subject, "messages", len(msgs), "error", err)
	}
	for _, t := range fresh {
		switch {
		case err == nil:
			in.last++
			if id := t.m.Header.Get(jetstream.MsgIDHeader); id != "" {
				in.seen[id] = in.last
				in.order = append(in.order, remembered{id, now})
			}
			in.answer(t, jsAnswer{Stream: in.stream, Seq: in.last})
		case t.m.Reply == "":
			silent = append(silent, t)
		default:
			in.refuse(t, jsError{Code: 503, ErrCode: 10077, Description: "the message could not be stored"})
		}
	}
	for _, t := range again {
		if seq, known := in.seen[t.m.Header.Get(jetstream.MsgIDHeader)]; known {
			in.answer(t, jsAnswer{Stream: in.stream, Seq: seq, Duplicate: true})
		} else {
			in.refuse(t, jsError{Code: 503, ErrCode: 10077, Description: "the message could not be stored"})
		}
	}
	return silent
}

func (in *intake) call(ctx context.Context, msgs []Message) (err error) {
	defer in.b.rescue(&err, "intake "+in.subject)
	return in.h(ctx, msgs)
}

// forget drops the ids whose window is over.
func (in *intake) forget(now time.Time) {
	for len(in.order) > 0 && (len(in.order) > intakeRemembered || now.Sub(in.order[0].at) > intakeRememberedAt) {
		delete(in.seen, in.order[0].id)
		in.order = in.order[1:]
	}
}

// unmet tells what a publisher expects of the stream that does not hold, or
// that nobody can tell without one.
func (in *intake) unmet(h nats.Header) (jsError, bool) {
	if want := h.Get(jetstream.ExpectedStreamHeader); want != "" && want != in.stream {
		return jsError{Code: 400, ErrCode: 10060, Description: "expected stream does not match"}, true
	}
	for name := range h {
		if strings.HasPrefix(name, "Nats-Expected-Last-") {
			return jsError{Code: 400, ErrCode: 10071, Description: "wrong last sequence: it is not kept here"}, true
		}
	}
	return jsError{}, false
}

// jsAnswer is JetStream's answer to a publish.
type jsAnswer struct {
	Error     *jsError `json:"error,omitempty"`
	Stream    string   `json:"stream"`
	Seq       uint64   `json:"seq"`
	Duplicate bool     `json:"duplicate,omitempty"`
}

type jsError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (in *intake) refuse(t taken, e jsError) { in.answer(t, jsAnswer{Error: &e, Stream: in.stream}) }

func (in *intake) answer(t taken, a jsAnswer) {
	if t.m.Reply == "" {
		return
	}
	body, err := json.Marshal(a)
	if err == nil {
		err = t.l.nc.Publish(t.m.Reply, body)
	}
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		in.b.log.Warn("bus intake could not answer", "subject", in.subject, "error", err)
	}
}

// External tells whether the streams lie on a server of its own, and not in the
// data directory of a process of the product, be it this one or another.
func (b *Bus) External() bool {
	l := b.link.Load()
	return !b.embedded() && l != nil && l.nc.ConnectedServerName() != serverName
}

// Embedded tells whether the server runs in this process.
func (b *Bus) Embedded() bool { return b.embedded() }

// Ensure makes a stream unless there is one of that name, which it leaves as it
// is: streams that others may have made. Unlike a declared one it is not part
// of backups.
func (b *Bus) Ensure(ctx context.Context, s Stream) error {
	l, err := b.attach(ctx)
	if err != nil {
		return err
	}
	switch _, err = l.js.Stream(ctx, s.Name); {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return b.declareOn(ctx, l, s.withDefaults())
	}
	return errs.Wrap(errs.Unavailable, err, "bus: look for stream %s", s.Name)
}

// StreamState is what there is of a stream.
type StreamState struct {
	// Created tells a stream from one of the same name that was made anew.
	Created     time.Time
	First, Last uint64
}

// StreamState looks at a stream. Errors: NotFound, Unavailable.
func (b *Bus) StreamState(ctx context.Context, name string) (StreamState, error) {
	l, err := b.attach(ctx)
	if err != nil {
		return StreamState{}, err
	}
	st, err := l.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return StreamState{}, errs.Wrap(errs.NotFound, err, "bus: there is no stream %s", name)
	}
	if err != nil {
		return StreamState{}, errs.Wrap(errs.Unavailable, err, "bus: look at stream %s", name)
	}
	info := st.CachedInfo()
	return StreamState{info.Created.UTC(), info.State.FirstSeq, info.State.LastSeq}, nil
}

// ConsumerState tells how far a consumer of a stream is: up to which sequence
// all is acknowledged, and how many messages are not. Errors: NotFound,
// Unavailable.
func (b *Bus) ConsumerState(ctx context.Context, stream, name string) (acked, left uint64, err error) {
	l, err := b.attach(ctx)
	if err != nil {
		return 0, 0, err
	}
	c, err := l.js.Consumer(ctx, stream, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound):
		return 0, 0, errs.Wrap(errs.NotFound, err, "bus: there is no consumer %s", name)
	case err != nil:
		return 0, 0, errs.Wrap(errs.Unavailable, err, "bus: look at consumer %s", name)
	}
	info := c.CachedInfo()
	return info.AckFloor.Stream, info.NumPending + uint64(info.NumAckPending), nil
}

// Sender publishes from outside on any NATS server with JetStream, as those do
// who feed the product. It makes no streams.
type Sender struct {
	nc *nats.Conn
	js jetstream.JetStream
}

// NewSender connects. Errors: Unavailable.
func NewSender(url string) (*Sender, error) {
	nc, err := nats.Connect(url, nats.Name("switchboard producer"), nats.MaxReconnects(-1))
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "connect to NATS")
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(512), jetstream.WithPublishAsyncTimeout(defaultPublishTimeout))
	if err != nil {
		nc.Close()
		return nil, errs.Wrap(errs.Unavailable, err, "connect to NATS")
	}
	return &Sender{nc, js}, nil
}

// Send publishes data and returns when it was stored.
func (s *Sender) Send(ctx context.Context, subject string, data []byte) error {
	_, err := s.js.Publish(ctx, subject, data)
	return errs.Wrap(errs.Unavailable, err, "publish on %s", subject)
}

// SendAll publishes messages in order, without waiting for each, and returns
// when all were stored.
func (s *Sender) SendAll(ctx context.Context, msgs []Message) error {
	acks := make([]jetstream.PubAckFuture, 0, len(msgs))
	for _, m := range msgs {
		f, err := s.js.PublishMsgAsync(m.nats())
		if err != nil {
			return errs.Wrap(errs.Unavailable, err, "publish on %s", m.Subject)
		}
		acks = append(acks, f)
	}
	for i, f := range acks {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return errs.Wrap(errs.Unavailable, err, "publish on %s", msgs[i].Subject)
		case <-ctx.Done():
			return errs.Wrap(errs.Unavailable, ctx.Err(), "publish on %s", msgs[i].Subject)
		}
	}
	return nil
}

// Close ends the connection.
func (s *Sender) Close() { s.nc.Close() }
