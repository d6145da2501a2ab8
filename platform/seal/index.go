package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
)

// indexer computes blind indexes. HMAC states are reused: after the first sum a
// state holds its key's two blocks ready, so that an index costs three SHA-256
// blocks and no allocation.
type indexer struct{ states sync.Pool }

type indexState struct {
	mac hash.Hash
	buf []byte
}

func newIndexer(key []byte) *indexer {
	return &indexer{states: sync.Pool{New: func() any {
		return &indexState{mac: hmac.New(sha256.New, key), buf: make([]byte, 0, 128)}
	}}}
}

func (x *indexer) index(kind, value string) Index {
	s := x.states.Get().(*indexState)
	// The length of kind goes first: ("a", "bc") and ("ab", "c") differ.
	s.buf = binary.BigEndian.AppendUint32(s.buf[:0], uint32(len(kind)))
	s.buf = append(append(s.buf, kind...), value...)
	s.mac.Reset()
	s.mac.Write(s.buf)
	s.buf = s.mac.Sum(s.buf[:0])
	out := Index(s.buf[:16])
	x.states.Put(s)
	return out
}
