package socketio

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"switchboard/modules/gateway/internal/wsconn"
)

// Types of Engine.IO packets.
const (
	packetOpen    = '0'
	packetClose   = '1'
	packetPing    = '2'
	packetPong    = '3'
	packetMessage = '4'
	packetUpgrade = '5'
	packetNoop    = '6'
	packetBinary  = 'b' // a message, in a polling payload
)

// separator stands between the packets of a polling payload.
const separator = '\x1e'

// Message is an event (or any other packet), encoded once for all its receivers
// and both transports.
type Message struct {
	frame       *wsconn.Frame
	text        []byte // the first packet; nil if that is binary. Shares the frame's memory
	attachments [][]byte
}

// NewMessage encodes an event with raw JSON arguments, which are sent as they
// are and must be valid JSON. The error is ErrReservedName.
func NewMessage(namespace, event string, args ...json.RawMessage) (*Message, error) {
	vs := make([]any, len(args))
	for i, a := range args {
		vs[i] = a
	}
	return EncodeMessage(namespace, event, vs...)
}

// EncodeMessage encodes an event with arguments as [Socket.Emit] takes them.
func EncodeMessage(namespace, event string, args ...any) (*Message, error) {
	if ReservedName(event) {
		return nil, ErrReservedName
	}
	return newPacket(typeEvent, namespace, 0, false, &event, args)
}

// Len is how many bytes the message takes in a queue.
func (m *Message) Len() int { return m.frame.Len() }

func newPacket(typ byte, namespace string, id uint64, hasID bool, event *string, args []any) (*Message, error) {
	data, attachments, err := encodeArgs(event, args)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(data) {
		return nil, errors.New("socketio: arguments are not UTF-8")
	}
	b := appendHeader(make([]byte, 0, len(data)+len(namespace)+16), typ, len(attachments), namespace, id, hasID)
	return newMessage(append(b, data...), attachments), nil
}

// newMessage makes a message of an encoded packet, none if nil, and attachments.
func newMessage(text []byte, attachments [][]byte) *Message {
	frames := make([]*wsconn.Frame, 0, 1+len(attachments))
	if text != nil {
		frames = append(frames, wsconn.NewTextFrame(text))
	}
	for _, a := range attachments {
		frames = append(frames, wsconn.NewBinaryFrame(a))
	}
	m := &Message{frame: frames[0]}
	if len(frames) > 1 {
		m.frame = wsconn.JoinFrames(frames...)
	}
	if text != nil {
		m.text = m.frame.Payload()
	}
	for _, a := range attachments {
		m.attachments = append(m.attachments, bytes.Clone(a))
	}
	return m
}

// appendPayload appends the message to a polling payload.
func (m *Message) appendPayload(b []byte) []byte {
	if m.text != nil {
		b = append(appendSeparator(b), m.text...)
	}
	for _, a := range m.attachments {
		b = append(appendSeparator(b), packetBinary)
		b = base64.StdEncoding.AppendEncode(b, a)
	}
	return b
}

func appendSeparator(b []byte) []byte {
	if len(b) > 0 {
		b = append(b, separator)
	}
	return b
}

// decodePayload calls f for each packet of a polling payload, until f or the
// payload is at fault. Text packets begin with their type.
func decodePayload(b []byte, f func(data []byte, binary bool) error) error {
	for more := true; more; {
		var p []byte
		p, b, more = bytes.Cut(b, []byte{separator})
		binary := len(p) > 0 && p[0] == packetBinary
		if binary {
			raw := make([]byte, base64.StdEncoding.DecodedLen(len(p)-1))
			n, err := base64.StdEncoding.Decode(raw, p[1:])
			if err != nil {
				return errPacket
			}
			p = raw[:n]
		} else if !utf8.Valid(p) {
			return errPacket
		}
		if err := f(p, binary); err != nil {
			return err
		}
	}
	return nil
}

var (
	pingMessage = newMessage([]byte{packetPing}, nil)
	probeAnswer = newMessage([]byte("3probe"), nil)
)
