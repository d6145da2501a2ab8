package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"switchboard/platform/errs"
)

const (
	maxName  = 256     // bytes of an event's name
	maxData  = 1 << 20 // bytes of its data
	maxBatch = 1000    // events in a request
)

// reserved names mean something of their own to a Socket.IO client (Socket.IO
// server API, reserved event names; Node.js EventEmitter).
var reserved = []string{"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}

// Emit is an event to be sent: to the sockets of a room, or to all.
type Emit struct {
	Event string          `json:"event" doc:"The event's name, up to 256 bytes of free text but for the reserved names of Socket.IO."`
	Room  string          `json:"room,omitempty" pii:"room" doc:"Send to the sockets in this room; without it to all."`
	Data  json.RawMessage `json:"data,omitempty" pii:"content" doc:"Any JSON value up to 1 MiB, passed on as it stands; null if absent."`
}

// faults lists what is wrong with e, with locations below at.
func (e *Emit) faults(at string) (fields []errs.Field) {
	wrong := func(field, message string) {
		fields = append(fields, errs.Field{Location: at + "." + field, Message: message})
	}
	switch {
	case e.Event == "":
		wrong("event", "is required")
	case len(e.Event) > maxName:
		wrong("event", fmt.Sprintf("is longer than %d bytes", maxName))
	case slices.Contains(reserved, e.Event):
		wrong("event", "is a name that Socket.IO reserves")
	case strings.ContainsFunc(e.Event, control):
		wrong("event", "holds control characters")
	}
	if e.Room != "" {
		if message := roomFault(e.Room); message != "" {
			wrong("room", message)
		}
	}
	if len(e.Data) > maxData {
		wrong("data", fmt.Sprintf("is larger than %d bytes", maxData))
	}
	return fields
}

// roomFault says why a text is no name of a room, "" if it is one.
func roomFault(room string) string {
	switch {
	case room == "":
		return "is empty"
	case len(room) > maxName:
		return fmt.Sprintf("is longer than %d bytes", maxName)
	case !utf8.ValidString(room) || strings.ContainsFunc(room, control):
		return "holds control characters"
	}
	return ""
}

func control(r rune) bool { return r < 0x20 || r == 0x7f }

// subjectOf is what an event is about, for the log: the last of the data's own
// fields that is named like an id, as "orderId: cfa3…".
func subjectOf(data json.RawMessage) (subject string) {
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	if token, err := dec.ReadToken(); err != nil || token.Kind() != jsontext.Kind('{') {
		return ""
	}
	for dec.PeekKind() == jsontext.Kind('"') {
		token, err := dec.ReadToken()
		if err != nil {
			return subject
		}
		name, kind := token.String(), dec.PeekKind()
		if name != "id" && !strings.HasSuffix(name, "Id") && !strings.HasSuffix(name, "_id") ||
			kind != jsontext.Kind('"') && kind != jsontext.Kind('0') {
			if dec.SkipValue() != nil {
				return subject
			}
			continue
		}
		if token, err = dec.ReadToken(); err != nil {
			return subject
		}
		if value := token.String(); len(value) <= maxName {
			subject = name + ": " + value
		}
	}
	return subject
}

// item is an accepted event on its way over the bus.
type item struct {
	ID     [16]byte
	Origin [8]byte // the instance that accepted it
	Ref    uint64  // its request there
	Index  uint32  // its place in that request
	Emit
}

const itemVersion = 1

var errItem = errors.New("not an event of the gateway")

// encode is version, id, origin, ref, index, then event, room and data, the first
// two with their lengths before them.
func (it *item) encode() []byte {
	b := make([]byte, 0, 64+len(it.Event)+len(it.Room)+len(it.Data))
	b = append(b, itemVersion)
	b = append(b, it.ID[:]...)
	b = append(b, it.Origin[:]...)
	b = binary.BigEndian.AppendUint64(b, it.Ref)
	b = binary.BigEndian.AppendUint32(b, it.Index)
	for _, s := range []string{it.Event, it.Room} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return append(b, it.Data...)
}

// decodeItem reads what encode wrote. Data is a part of b.
func decodeItem(b []byte) (*item, error) {
	const head = 1 + 16 + 8 + 8 + 4
	if len(b) < head || b[0] != itemVersion {
		return nil, errItem
	}
	it := &item{}
	copy(it.ID[:], b[1:])
	copy(it.Origin[:], b[17:])
	it.Ref = binary.BigEndian.Uint64(b[25:])
	it.Index = binary.BigEndian.Uint32(b[33:])
	b = b[head:]
	for _, s := range []*string{&it.Event, &it.Room} {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return nil, errItem
		}
		*s = string(b[size : size+int(n)])
		b = b[size+int(n):]
	}
	it.Data = b
	return it, nil
}
