package collector

import (
	"encoding/binary"
	"errors"
	"time"
)

// An item is what travels on the bus in a sealed frame: an accepted event, or
// a refused one on its way to the rejects.
type item struct {
	Event
	// EventID identifies the event everywhere: given by us (UUIDv7), or the
	// blind index of the application and the client's own id.
	EventID    [16]byte
	App        string
	ReceivedAt time.Time
	// Reject is set for a refused event; then Event holds only what could be
	// read of it, and Data the element as it was sent.
	Reject *refusal
}

// refusal says why an event was refused.
type refusal struct {
	Reason string // shape, schema
	Errors []byte // JSON array of errs.Field
}

const (
	itemEvent  = 1
	itemReject = 2
)

var errItem = errors.New("collector: broken item")

// encode writes the item: a kind byte, then its fields, texts with their
// length before them.
func (it *item) encode() []byte {
	b := make([]byte, 0, 96+len(it.SessionID)+len(it.Category)+len(it.Name)+len(it.App)+len(it.ID)+len(it.UserID)+len(it.Data))
	kind := byte(itemEvent)
	if it.Reject != nil {
		kind = itemReject
	}
	b = append(b, kind)
	b = append(b, it.EventID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(it.Timestamp.UnixMicro()))
	b = binary.BigEndian.AppendUint64(b, uint64(it.ReceivedAt.UnixMicro()))
	for _, s := range [...]string{it.App, it.SessionID, it.Category, it.Name, it.ID, it.UserID} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(len(it.Data)))
	b = append(b, it.Data...)
	if it.Reject != nil {
		b = binary.AppendUvarint(b, uint64(len(it.Reject.Reason)))
		b = append(b, it.Reject.Reason...)
		b = append(b, it.Reject.Errors...)
	}
	return b
}

// decodeItem reads what encode wrote. The item's Data aliases b.
func decodeItem(b []byte) (*item, error) {
	if len(b) < 33 || b[0] != itemEvent && b[0] != itemReject {
		return nil, errItem
	}
	it := &item{EventID: [16]byte(b[1:17])}
	it.Timestamp = time.UnixMicro(int64(binary.BigEndian.Uint64(b[17:]))).UTC()
	it.ReceivedAt = time.UnixMicro(int64(binary.BigEndian.Uint64(b[25:]))).UTC()
	kind := b[0]
	b = b[33:]
	next := func() ([]byte, bool) {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return nil, false
		}
		field := b[size : size+int(n)]
		b = b[size+int(n):]
		return field, true
	}
	for _, to := range [...]*string{&it.App, &it.SessionID, &it.Category, &it.Name, &it.ID, &it.UserID} {
		field, ok := next()
		if !ok {
			return nil, errItem
		}
		*to = string(field)
	}
	data, ok := next()
	if !ok {
		return nil, errItem
	}
	it.Data = data
	if kind == itemReject {
		reason, ok := next()
		if !ok {
			return nil, errItem
		}
		it.Reject = &refusal{Reason: string(reason), Errors: b}
	}
	return it, nil
}
