package wsconn

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// maxControl is the largest payload of a control frame (RFC 6455, 5.5).
const maxControl = 125

// CloseError is a close frame, received or sent: code and reason as in RFC 6455, 7.4.
type CloseError struct {
	Code   int
	Reason string
	Peer   bool // the peer's wish; not a fault of its, nor ours
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("websocket closed: %d %s", e.Code, e.Reason)
}

func protocolError(why string) error {
	return &CloseError{Code: int(ws.StatusProtocolError), Reason: why}
}

// A parser turns what a client sends, cut anywhere, into messages and control
// frames. It keeps nothing of what it is fed but unfinished messages.
type parser struct {
	max int // bytes of a message

	head  [14]byte // of a header that has not arrived whole
	nhead int

	inFrame bool // the header is known, left bytes of the payload are to come
	op      ws.OpCode
	fin     bool
	mask    [4]byte
	pos     int // bytes of the frame's payload seen, for the mask
	left    int

	msgOp ws.OpCode // of the unfinished message; OpContinuation if there is none
	msg   []byte
	ctl   []byte // of the unfinished control frame
}

// feed takes the next bytes, which it changes, and calls emit for each whole
// message, ping, pong and close frame; the payload is valid during the call.
func (p *parser) feed(b []byte, emit func(op ws.OpCode, payload []byte) error) error {
	for len(b) > 0 || (p.inFrame && p.left == 0) {
		if !p.inFrame {
			n, ok, err := p.header(b)
			if err != nil {
				return err
			}
			b = b[n:]
			if !ok {
				return nil
			}
		}
		n := min(p.left, len(b))
		part := b[:n]
		b = b[n:]
		ws.Cipher(part, p.mask, p.pos)
		p.pos += n
		p.left -= n
		if err := p.payload(part, emit); err != nil {
			return err
		}
	}
	return nil
}

// header takes bytes of b for a frame's header and reports how many, and
// whether it is whole and was accepted.
func (p *parser) header(b []byte) (n int, whole bool, err error) {
	h := p.head[:p.nhead]
	for {
		need := 2
		if len(h) >= 2 {
			need = headerLen(h[1])
		}
		if len(h) >= need && len(h) >= 2 {
			break
		}
		take := min(need-len(h), len(b)-n)
		if take == 0 {
			p.nhead = len(h)
			return n, false, nil
		}
		h = append(h, b[n:n+take]...)
		n += take
		if len(h) == 2 {
			if err := p.opening(h[0], h[1]); err != nil {
				return n, false, err
			}
		}
	}
	p.nhead = 0
	return n, true, p.start(h)
}

func headerLen(b1 byte) int {
	switch b1 & 0x7f {
	case 126:
		return 2 + 2 + 4
	case 127:
		return 2 + 8 + 4
	}
	return 2 + 4
}

// opening checks what the first two bytes of a frame say.
func (p *parser) opening(b0, b1 byte) error {
	op := ws.OpCode(b0 & 0x0f)
	fin := b0&0x80 != 0
	switch {
	case b0&0x70 != 0:
		return protocolError("reserved bits")
	case op.IsReserved():
		return protocolError("reserved opcode")
	case b1&0x80 == 0:
		return protocolError("unmasked frame")
	case op.IsControl() && (!fin || b1&0x7f > maxControl):
		return protocolError("malformed control frame")
	case op == ws.OpContinuation && p.msgOp == ws.OpContinuation:
		return protocolError("nothing to continue")
	case (op == ws.OpText || op == ws.OpBinary) && p.msgOp != ws.OpContinuation:
		return protocolError("message within a message")
	}
	p.op, p.fin = op, fin
	return nil
}

// start begins the payload of the frame whose whole header is h.
func (p *parser) start(h []byte) error {
	size := uint64(h[1] & 0x7f)
	switch size {
	case 126:
		size = uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		size = binary.BigEndian.Uint64(h[2:])
	}
	if !p.op.IsControl() && size > uint64(p.max-len(p.msg)) { //nolint:gosec // the message is never larger than max
		return &CloseError{Code: int(ws.StatusMessageTooBig), Reason: "message too big"}
	}
	p.left = int(size) //nolint:gosec // checked above
	p.pos = 0
	copy(p.mask[:], h[len(h)-4:])
	p.inFrame = true
	if p.op == ws.OpText || p.op == ws.OpBinary {
		p.msgOp = p.op
	}
	return nil
}

// payload takes the next part of the frame's payload, unmasked.
func (p *parser) payload(part []byte, emit func(op ws.OpCode, payload []byte) error) error {
	if p.op.IsControl() {
		if p.left > 0 || len(p.ctl) > 0 {
			p.ctl = append(p.ctl, part...)
			part = p.ctl
		}
		if p.left > 0 {
			return nil
		}
		p.inFrame, p.ctl = false, nil
		return emit(p.op, part)
	}
	if p.left > 0 || !p.fin || len(p.msg) > 0 {
		p.msg = append(p.msg, part...)
		part = p.msg
	}
	if p.left > 0 {
		return nil
	}
	p.inFrame = false
	if !p.fin {
		return nil
	}
	op := p.msgOp
	p.msgOp, p.msg = ws.OpContinuation, nil
	if op == ws.OpText && !utf8.Valid(part) {
		return &CloseError{Code: int(ws.StatusInvalidFramePayloadData), Reason: "text is not UTF-8"}
	}
	return emit(op, part)
}

// closeFrame reads the payload of a close frame (RFC 6455, 5.5.1 and 7.4).
func closeFrame(b []byte) (*CloseError, error) {
	if len(b) == 0 {
		return &CloseError{Code: int(ws.StatusNoStatusRcvd), Peer: true}, nil
	}
	if len(b) == 1 {
		return nil, protocolError("malformed close frame")
	}
	code := ws.StatusCode(binary.BigEndian.Uint16(b))
	if code < 1000 || code > 4999 || code.IsProtocolReserved() ||
		(code < 3000 && !code.IsProtocolDefined() && (code < 1012 || code > 1014)) {
		return nil, protocolError("invalid close code")
	}
	if !utf8.Valid(b[2:]) {
		return nil, &CloseError{Code: int(ws.StatusInvalidFramePayloadData), Reason: "close reason is not UTF-8"}
	}
	return &CloseError{Code: int(code), Reason: string(b[2:]), Peer: true}, nil
}
