package collector

import (
	"crypto/sha256"
	"encoding/binary"
)

// kind is a category, an event name and an application.
type kind struct{ Category, Name, App string }

// id is the kind's key: the first 63 bits of a hash, the same on all instances.
func (k kind) id() int64 {
	h := sha256.New()
	for _, s := range [...]string{k.Category, k.Name, k.App} {
		_, _ = h.Write(binary.AppendUvarint(nil, uint64(len(s))))
		_, _ = h.Write([]byte(s))
	}
	return int64(binary.BigEndian.Uint64(h.Sum(nil)) >> 1)
}
