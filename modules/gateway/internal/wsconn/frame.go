package wsconn

import (
	"encoding/binary"

	"github.com/gobwas/ws"
)

// Frame is an outgoing message (or several that belong together), encoded once
// and shared by all receivers; it never changes.
type Frame struct{ b []byte }

// NewTextFrame encodes a text message. The payload is copied and must be UTF-8.
func NewTextFrame(payload []byte) *Frame { return newFrame(ws.OpText, payload) }

// NewBinaryFrame encodes a binary message. The payload is copied.
func NewBinaryFrame(payload []byte) *Frame { return newFrame(ws.OpBinary, payload) }

// JoinFrames makes one frame of several messages, which then are queued, or
// dropped, together.
func JoinFrames(frames ...*Frame) *Frame {
	n := 0
	for _, f := range frames {
		n += len(f.b)
	}
	b := make([]byte, 0, n)
	for _, f := range frames {
		b = append(b, f.b...)
	}
	return &Frame{b}
}

// Len is how many bytes the frame takes on the wire and in a queue.
func (f *Frame) Len() int { return len(f.b) }

// Payload is what the first message of the frame holds; it must not be changed.
func (f *Frame) Payload() []byte {
	at, n := 2, int(f.b[1])
	switch n {
	case 126:
		at, n = 4, int(binary.BigEndian.Uint16(f.b[2:]))
	case 127:
		at, n = 10, int(binary.BigEndian.Uint64(f.b[2:])) //nolint:gosec // our own length
	}
	return f.b[at : at+n : at+n]
}

func newFrame(op ws.OpCode, payload []byte) *Frame {
	b := make([]byte, 0, 10+len(payload))
	b = append(b, 0x80|byte(op))
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return &Frame{append(b, payload...)}
}

func newCloseFrame(code int, reason string) *Frame {
	if code == 0 || code == int(ws.StatusNoStatusRcvd) {
		return newFrame(ws.OpClose, nil)
	}
	if len(reason) > maxControl-2 {
		reason = reason[:maxControl-2]
	}
	return newFrame(ws.OpClose, ws.NewCloseFrameBody(ws.StatusCode(code), reason)) //nolint:gosec // a status code
}
