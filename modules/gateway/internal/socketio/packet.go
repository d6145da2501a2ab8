package socketio

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Types of Socket.IO packets.
const (
	typeConnect      = '0'
	typeDisconnect   = '1'
	typeEvent        = '2'
	typeAck          = '3'
	typeConnectError = '4'
	typeBinaryEvent  = '5'
	typeBinaryAck    = '6'
)

// maxAttachments is what the reference's decoder takes.
const maxAttachments = 10

// maxAckID is the largest integer that clients, in JavaScript, can mean.
const maxAckID = 1 << 53

var errPacket = errors.New("malformed packet")

// packet is a decoded Socket.IO packet; its attachments follow it.
type packet struct {
	typ       byte // typeBinaryEvent is typeEvent here, typeBinaryAck typeAck
	namespace string
	id        uint64
	hasID     bool
	event     string          // of an event
	args      Args            // of an event or an acknowledgement
	auth      json.RawMessage // of a CONNECT; nil if absent
	missing   int             // attachments
}

// decodePacket decodes what an Engine.IO text message holds. Nothing of b is kept.
func decodePacket(b []byte) (*packet, error) {
	if len(b) == 0 || b[0] < typeConnect || b[0] > typeBinaryAck {
		return nil, errPacket
	}
	p := &packet{typ: b[0], namespace: "/"}
	b = b[1:]
	if p.typ == typeBinaryEvent || p.typ == typeBinaryAck {
		n, rest, ok := digits(b)
		if !ok || n > maxAttachments || len(rest) == 0 || rest[0] != '-' {
			return nil, errPacket
		}
		p.missing = int(n)
		p.typ -= typeBinaryEvent - typeEvent
		b = rest[1:]
	}
	if len(b) > 0 && b[0] == '/' {
		name, rest, _ := bytes.Cut(b, []byte{','})
		p.namespace, b = string(name), rest
	}
	if n, rest, ok := digits(b); ok {
		p.id, p.hasID, b = n, true, rest
	} else if len(b) > 0 && b[0] >= '0' && b[0] <= '9' {
		return nil, errPacket
	}
	return p, p.payload(b)
}

// digits reads a number from the front of b.
func digits(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		n = n*10 + uint64(b[i]-'0')
		if n > maxAckID {
			return 0, b, false
		}
		i++
	}
	return n, b[i:], i > 0
}

// payload decodes the JSON at the end of a packet.
func (p *packet) payload(b []byte) error {
	switch p.typ {
	case typeConnect:
		if len(b) == 0 {
			return nil
		}
		if b[0] != '{' || !json.Valid(b) {
			return errPacket
		}
		p.auth = bytes.Clone(b)
		return nil
	case typeDisconnect:
		if len(b) > 0 {
			return errPacket
		}
		return nil
	case typeConnectError: // never sent by a client
		return errPacket
	}
	if len(b) == 0 || b[0] != '[' {
		return errPacket
	}
	if err := json.Unmarshal(b, &p.args.Values); err != nil {
		return fmt.Errorf("%w: %w", errPacket, err)
	}
	if p.typ == typeAck {
		return nil
	}
	if p.args.Len() == 0 {
		return errPacket
	}
	name := p.args.Values[0]
	p.args.Values = p.args.Values[1:]
	switch c := name[0]; {
	case c == '"':
		if err := json.Unmarshal(name, &p.event); err != nil {
			return errPacket
		}
	case c == '-' || (c >= '0' && c <= '9'): // the reference allows numbers
		p.event = string(name)
	default:
		return errPacket
	}
	if ReservedName(p.event) {
		return ErrReservedName
	}
	return nil
}

// attach adds an attachment and reports whether it was the last; data is copied.
func (p *packet) attach(data []byte) (last bool, err error) {
	p.args.Attachments = append(p.args.Attachments, bytes.Clone(data))
	p.missing--
	if p.missing > 0 {
		return false, nil
	}
	return true, p.args.check()
}

// ReservedName reports whether Socket.IO keeps a name for itself, so that it
// cannot be an event's.
func ReservedName(event string) bool {
	switch event {
	case "connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener":
		return true
	}
	return false
}

// Args are the arguments of an event or an acknowledgement, as the client wrote
// them. Binary stands in Values as {"_placeholder":true,"num":n}, anywhere, and
// in Attachments[n].
type Args struct {
	Values      []json.RawMessage
	Attachments [][]byte
}

// Len is the number of arguments.
func (a Args) Len() int { return len(a.Values) }

// Bytes is the i-th argument if that is itself binary.
func (a Args) Bytes(i int) ([]byte, bool) {
	if i < 0 || i >= len(a.Values) || len(a.Attachments) == 0 {
		return nil, false
	}
	var p struct {
		Placeholder bool `json:"_placeholder"`
		Num         *int `json:"num"`
	}
	if err := json.Unmarshal(a.Values[i], &p); err != nil || !p.Placeholder ||
		p.Num == nil || *p.Num < 0 || *p.Num >= len(a.Attachments) {
		return nil, false
	}
	return a.Attachments[*p.Num], true
}

// Decode decodes the i-th argument with encoding/json; an argument that is not
// there leaves v as it is and is an error.
func (a Args) Decode(i int, v any) error {
	if i < 0 || i >= len(a.Values) {
		return fmt.Errorf("socketio: no argument %d", i)
	}
	return json.Unmarshal(a.Values[i], v)
}

// check refuses placeholders of attachments that are not there: a client that
// they are echoed to could not decode them.
func (a Args) check() error {
	for _, v := range a.Values {
		if !bytes.Contains(v, []byte(`_placeholder`)) && !bytes.Contains(v, []byte(`\u`)) {
			continue
		}
		var x any
		if err := json.Unmarshal(v, &x); err != nil {
			return errPacket
		}
		if !placeholdersIn(x, len(a.Attachments)) {
			return errPacket
		}
	}
	return nil
}

func placeholdersIn(x any, n int) bool {
	switch x := x.(type) {
	case []any:
		for _, e := range x {
			if !placeholdersIn(e, n) {
				return false
			}
		}
	case map[string]any:
		if x["_placeholder"] == true {
			num, ok := x["num"].(float64)
			return ok && num >= 0 && num < float64(n) && num == float64(int(num))
		}
		for _, e := range x {
			if !placeholdersIn(e, n) {
				return false
			}
		}
	}
	return true
}

// appendHeader appends an Engine.IO message's type and a Socket.IO packet up to its payload.
func appendHeader(b []byte, typ byte, attachments int, namespace string, id uint64, hasID bool) []byte {
	b = append(b, packetMessage)
	if attachments > 0 {
		b = append(b, typ+typeBinaryEvent-typeEvent)
		b = strconv.AppendInt(b, int64(attachments), 10)
		b = append(b, '-')
	} else {
		b = append(b, typ)
	}
	if namespace != "/" {
		b = append(append(b, namespace...), ',')
	}
	if hasID {
		b = strconv.AppendUint(b, id, 10)
	}
	return b
}

// appendJSON appends v as JSON.
func appendJSON(b []byte, v any) ([]byte, error) {
	buf := bytes.NewBuffer(b)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'}), nil
}

// encodeArgs encodes arguments, behind the name of an event if there is one, to
// a JSON array and attachments.
func encodeArgs(event *string, args []any) (data []byte, attachments [][]byte, err error) {
	// The attachments of an Args come first, so that its placeholders hold.
	spread := false
	for _, v := range args {
		if a, ok := v.(Args); ok && len(a.Attachments) > 0 {
			if spread {
				return nil, nil, errors.New("socketio: two Args with attachments")
			}
			spread = true
			attachments = append(attachments, a.Attachments...)
		}
	}
	data = []byte{'['}
	if event != nil {
		if data, err = appendJSON(data, *event); err != nil {
			return nil, nil, err
		}
		data = append(data, ',')
	}
	for i, v := range args {
		switch v := v.(type) {
		case json.RawMessage:
			data = append(data, v...)
		case []byte:
			data = fmt.Appendf(data, `{"_placeholder":true,"num":%d}`, len(attachments))
			attachments = append(attachments, v)
		case Args:
			if v.Len() == 0 {
				continue
			}
			data = append(data, bytes.Join(rawBytes(v.Values), []byte{','})...)
		default:
			if data, err = appendJSON(data, v); err != nil {
				return nil, nil, fmt.Errorf("socketio: argument %d: %w", i, err)
			}
		}
		data = append(data, ',')
	}
	if n := len(data) - 1; data[n] == ',' {
		data = data[:n]
	}
	if len(attachments) > maxAttachments {
		return nil, nil, fmt.Errorf("socketio: %d attachments are more than %d", len(attachments), maxAttachments)
	}
	return append(data, ']'), attachments, nil
}

func rawBytes(values []json.RawMessage) [][]byte {
	b := make([][]byte, len(values))
	for i, v := range values {
		b[i] = v
	}
	return b
}
