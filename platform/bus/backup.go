package bus

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"switchboard/platform/errs"
)

// An export is a line of magic and then records, each with its length before
// it as an unsigned varint: a kind byte and
//
//	's'  the JSON of a Stream
//	'm'  a message of the stream before: varint length and JSON of its head, then its data
//	'e'  the end, with the count of messages in decimal
const exportMagic = "SWITCHBOARD BUS 1\n"

const (
	recordStream  = 's'
	recordMessage = 'm'
	recordEnd     = 'e'
	// maxRecord bounds what Import believes a length to be.
	maxRecord = maxPayload + 1<<20
)

type exportHead struct {
	Subject string            `json:"subject"`
	ID      string            `json:"id,omitempty"`
	Header  map[string]string `json:"header,omitempty"`
	Seq     uint64            `json:"seq"`
	Time    time.Time         `json:"time"`
}

// Export writes every stored message of every declared stream and of the dead
// letters, in order. What is published meanwhile may or may not be in it.
// Payloads are written as they are stored, sealed ones sealed.
func (b *Bus) Export(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriterSize(w, 256<<10)
	if _, err := out.WriteString(exportMagic); err != nil {
		return err
	}
	total := 0
	for _, s := range b.declared() {
		n, err := b.exportStream(ctx, out, s)
		if err != nil {
			return err
		}
		total += n
	}
	if err := writeRecord(out, recordEnd, []byte(strconv.Itoa(total))); err != nil {
		return err
	}
	return out.Flush()
}

func (b *Bus) exportStream(ctx context.Context, out *bufio.Writer, s Stream) (n int, err error) {
	text, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	if err := writeRecord(out, recordStream, text); err != nil {
		return 0, err
	}
	l, err := b.attach(ctx)
	if err != nil {
		return 0, err
	}
	st, err := l.js.Stream(ctx, s.Name)
	if err != nil {
		return 0, errs.Wrap(errs.Unavailable, err, "bus: export %s", s.Name)
	}
	last := st.CachedInfo().State.LastSeq
	for seq := st.CachedInfo().State.FirstSeq; seq <= last; n++ {
		// Asking for the next one of any subject steps over removed ones.
		raw, err := st.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(">"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return n, errs.Wrap(errs.Unavailable, err, "bus: export %s", s.Name)
		}
		if raw.Sequence > last {
			break
		}
		m := fromNATS(raw.Subject, raw.Header, raw.Data, raw.Sequence, raw.Time)
		head, err := json.Marshal(exportHead{m.Subject, m.ID, m.Header, m.Seq, m.Time})
		if err != nil {
			return n, err
		}
		body := binary.AppendUvarint(make([]byte, 0, len(head)+len(m.Data)+binary.MaxVarintLen32), uint64(len(head)))
		body = append(append(body, head...), m.Data...)
		if err := writeRecord(out, recordMessage, body); err != nil {
			return n, err
		}
		seq = raw.Sequence + 1
	}
	return n, nil
}

func writeRecord(out *bufio.Writer, kind byte, body []byte) error {
	var head [binary.MaxVarintLen64 + 1]byte
	n := binary.PutUvarint(head[:], uint64(len(body)+1))
	head[n] = kind
	if _, err := out.Write(head[:n+1]); err != nil {
		return err
	}
	_, err := out.Write(body)
	return err
}

// Import stores the messages of an export again, behind those that are there,
// with new sequence numbers and their first times. Streams that
// are not declared yet are. Consumers see all of them. Invalid for a file that is
// no export or not whole: what came before the damage has been imported.
func (b *Bus) Import(ctx context.Context, r io.Reader) error {
	in := bufio.NewReaderSize(r, 256<<10)
	magic := make([]byte, len(exportMagic))
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != exportMagic {
		return errs.New(errs.Invalid, "bus: this is no export of a bus")
	}
	im := importer{b: b, run: strconv.FormatInt(time.Now().UnixNano(), 36)}
	for {
		kind, body, err := readRecord(in)
		if err != nil {
			return err
		}
		switch kind {
		case recordStream:
			err = im.stream(ctx, body)
		case recordMessage:
			err = im.message(ctx, body)
		case recordEnd:
			if want := string(body); want != strconv.Itoa(im.n) {
				return errs.New(errs.Invalid, "bus: the export holds %d messages, but says %s", im.n, want)
			}
			return nil
		default:
			err = errs.New(errs.Invalid, "bus: a damaged export")
		}
		if err != nil {
			return err
		}
	}
}

func readRecord(in *bufio.Reader) (kind byte, body []byte, err error) {
	size, err := binary.ReadUvarint(in)
	if err != nil || size == 0 || size > maxRecord {
		return 0, nil, errs.New(errs.Invalid, "bus: the export is damaged or cut off")
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(in, body); err != nil {
		return 0, nil, errs.New(errs.Invalid, "bus: the export is cut off")
	}
	return body[0], body[1:], nil
}

type importer struct {
	b   *Bus
	run string // makes the message ids of this import its own
	n   int
}

func (im *importer) stream(ctx context.Context, body []byte) error {
	var s Stream
	if err := json.Unmarshal(body, &s); err != nil {
		return errs.Wrap(errs.Invalid, err, "bus: a damaged export")
	}
	for _, have := range im.b.declared() {
		if have.Name == s.Name {
			return nil // the program knows better than an old export
		}
	}
	return im.b.Declare(ctx, s)
}

func (im *importer) message(ctx context.Context, body []byte) error {
	size, w := binary.Uvarint(body)
	if w <= 0 || size > uint64(len(body)-w) {
		return errs.New(errs.Invalid, "bus: a damaged export")
	}
	var head exportHead
	if err := json.Unmarshal(body[w:w+int(size)], &head); err != nil {
		return errs.Wrap(errs.Invalid, err, "bus: a damaged export")
	}
	m := Message{Subject: head.Subject, ID: head.ID, Header: head.Header, Data: body[w+int(size):], Time: head.Time}
	out := m.again("import." + im.run + "." + strconv.Itoa(im.n))
	if _, err := im.b.publish(ctx, out, im.b.cfg.PublishTimeout); err != nil {
		return err
	}
	im.n++
	return nil
}
