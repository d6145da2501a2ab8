package bus

import (
	"encoding/binary"

	"switchboard/platform/errs"
)

// A frame is a version byte and then each item with its length before it as an
// unsigned varint. A sealed frame is another version byte and a sealed plain
// frame.
const (
	framePlain  = 1
	frameSealed = 2
)

// OpenFrame gives the items of a message that a Group published. open undoes
// GroupConfig.Seal and may be nil when that was. The items lie in data (or in
// what open returned) without being copied. A frame that is damaged yields an
// errs.Invalid error; errors of open are returned as they are.
func OpenFrame(data []byte, open func(sealed []byte) ([]byte, error)) (items [][]byte, err error) {
	if len(data) == 0 {
		return nil, errs.New(errs.Invalid, "bus: an empty frame")
	}
	if data[0] == frameSealed {
		if open == nil {
			return nil, errs.New(errs.Invalid, "bus: the frame is sealed")
		}
		if data, err = open(data[1:]); err != nil {
			return nil, err
		}
		if len(data) == 0 {
			return nil, errs.New(errs.Invalid, "bus: an empty frame")
		}
	}
	if data[0] != framePlain {
		return nil, errs.New(errs.Invalid, "bus: unknown version %d of a frame", data[0])
	}
	n := 0
	for rest := data[1:]; len(rest) > 0; n++ {
		size, w := binary.Uvarint(rest)
		if w <= 0 || size > uint64(len(rest)-w) {
			return nil, errs.New(errs.Invalid, "bus: a damaged frame")
		}
		rest = rest[w+int(size):]
	}
	items = make([][]byte, 0, n)
	for rest := data[1:]; len(rest) > 0; {
		size, w := binary.Uvarint(rest)
		end := w + int(size)
		items = append(items, rest[w:end:end])
		rest = rest[end:]
	}
	return items, nil
}

// appendItem adds an item to a plain frame.
func appendItem(frame, item []byte) []byte {
	if len(frame) == 0 {
		frame = append(frame, framePlain)
	}
	frame = binary.AppendUvarint(frame, uint64(len(item)))
	return append(frame, item...)
}

// itemSize is the most that an item takes up in a frame.
func itemSize(item []byte) int { return len(item) + binary.MaxVarintLen32 }
