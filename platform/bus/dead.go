package bus

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/errs"
)

// deadStream keeps what no handler could deal with.
var deadStream = Stream{Name: "DEAD", Subjects: []string{"dead.>"}, MaxAge: 30 * 24 * time.Hour, MaxBytes: 1 << 30}

const (
	headerDeadSubject   = "Dead-Subject"
	headerDeadStream    = "Dead-Stream"
	headerDeadSeq       = "Dead-Seq"
	headerDeadID        = "Dead-Id"
	headerDeadError     = "Dead-Error"
	headerDeadTime      = "Dead-Time" // of the original message
	headerDeadDelivered = "Dead-Failures"
)

// DeadLetter is a message that a consumer could not handle.
type DeadLetter struct {
	// Seq names the dead letter for Redrive and DiscardDead.
	Seq uint64
	// Consumer that failed, and the Error of its last failure.
	Consumer, Error string
	// Failures is how often it failed.
	Failures int
	// At is when it became a dead letter.
	At time.Time
	// Stream that held the message.
	Stream string
	// Message as it was: its subject, header, data, sequence and time.
	Message Message
}

// DeadLetterQuery selects dead letters.
type DeadLetterQuery struct {
	// Consumer whose dead letters to list; "" for all.
	Consumer string
	// After is the Seq of the last one already seen.
	After uint64
	// Limit of the answer; 100 by default.
	Limit int
}

func deadLetter(c Consumer, m Message, failures int, cause error) Message {
	h := maps.Clone(m.Header)
	if h == nil {
		h = map[string]string{}
	}
	h[headerDeadSubject], h[headerDeadStream] = m.Subject, c.Stream
	h[headerDeadSeq] = strconv.FormatUint(m.Seq, 10)
	h[headerDeadTime] = m.Time.Format(time.RFC3339Nano)
	h[headerDeadError] = oneLine(cause.Error())
	h[headerDeadDelivered] = strconv.Itoa(failures)
	if m.ID != "" {
		h[headerDeadID] = m.ID
	}
	return Message{
		Subject: "dead." + c.Name, Data: m.Data, Header: h,
		ID: "dead." + c.Name + "." + c.Stream + "." + h[headerDeadSeq],
	}
}

// oneLine makes a text fit for a header.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 1000 {
		text = text[:1000]
	}
	return strings.ToValidUTF8(text, "?")
}

// DeadLetters lists dead letters, oldest first.
func (b *Bus) DeadLetters(ctx context.Context, q DeadLetterQuery) ([]DeadLetter, error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	if strings.ContainsAny(q.Consumer, ". *>\t") {
		return nil, errs.New(errs.Invalid, "bus: %q is no name of a consumer", q.Consumer)
	}
	subject := "dead.>"
	if q.Consumer != "" {
		subject = "dead." + q.Consumer
	}
	st, err := b.deadStream(ctx)
	if err != nil {
		return nil, err
	}
	var out []DeadLetter
	for seq := q.After + 1; len(out) < q.Limit; {
		raw, err := st.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, errs.Wrap(errs.Unavailable, err, "bus: read dead letters")
		}
		out = append(out, toDeadLetter(raw))
		seq = raw.Sequence + 1
	}
	return out, nil
}

func (b *Bus) deadStream(ctx context.Context) (jetstream.Stream, error) {
	l, err := b.attach(ctx)
	if err != nil {
		return nil, err
	}
	st, err := l.js.Stream(ctx, deadStream.Name)
	return st, errs.Wrap(errs.Unavailable, err, "bus: dead letters")
}

func (b *Bus) deadLetter(ctx context.Context, seq uint64) (jetstream.Stream, DeadLetter, error) {
	st, err := b.deadStream(ctx)
	if err != nil {
		return nil, DeadLetter{}, err
	}
	raw, err := st.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, DeadLetter{}, errs.New(errs.NotFound, "there is no dead letter %d", seq)
	}
	if err != nil {
		return nil, DeadLetter{}, errs.Wrap(errs.Unavailable, err, "bus: read dead letter")
	}
	return st, toDeadLetter(raw), nil
}

func toDeadLetter(raw *jetstream.RawStreamMsg) DeadLetter {
	m := fromNATS(raw.Subject, raw.Header, raw.Data, raw.Sequence, raw.Time)
	d := DeadLetter{
		Seq: m.Seq, Consumer: strings.TrimPrefix(m.Subject, "dead."), At: raw.Time.UTC(),
		Error: m.Header[headerDeadError], Stream: m.Header[headerDeadStream],
	}
	d.Failures, _ = strconv.Atoi(m.Header[headerDeadDelivered])
	d.Message = Message{Subject: m.Header[headerDeadSubject], ID: m.Header[headerDeadID], Data: m.Data}
	d.Message.Seq, _ = strconv.ParseUint(m.Header[headerDeadSeq], 10, 64)
	d.Message.Time, _ = time.Parse(time.RFC3339Nano, m.Header[headerDeadTime])
	for k, v := range m.Header {
		if !strings.HasPrefix(k, "Dead-") {
			if d.Message.Header == nil {
				d.Message.Header = map[string]string{}
			}
			d.Message.Header[k] = v
		}
	}
	return d
}

// Redrive publishes a dead letter on its first subject again, for all its
// consumers, and removes it from the dead letters. NotFound when there is none.
func (b *Bus) Redrive(ctx context.Context, seq uint64) error {
	st, d, err := b.deadLetter(ctx, seq)
	if err != nil {
		return err
	}
	if d.Message.Subject == "" {
		return errs.New(errs.Conflict, "dead letter %d has no subject to go back to", seq)
	}
	// The id keeps a kill before the removal from doubling it.
	again := d.Message.again("redrive." + strconv.FormatUint(seq, 10))
	if _, err := b.publish(ctx, again, b.cfg.PublishTimeout); err != nil {
		return err
	}
	return deleteDead(ctx, st, seq)
}

// DiscardDead removes a dead letter for good. NotFound when there is none.
func (b *Bus) DiscardDead(ctx context.Context, seq uint64) error {
	st, _, err := b.deadLetter(ctx, seq)
	if err != nil {
		return err
	}
	return deleteDead(ctx, st, seq)
}

func deleteDead(ctx context.Context, st jetstream.Stream, seq uint64) error {
	// The secure form overwrites the bytes on the disk as well.
	err := st.SecureDeleteMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	return errs.Wrap(errs.Unavailable, err, "bus: remove dead letter")
}
