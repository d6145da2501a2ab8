package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"slices"
	"sync"

	"switchboard/platform/errs"
)

const (
	keySize     = 32
	nonceSize   = 12
	tagSize     = 16
	wrappedSize = nonceSize + keySize + tagSize

	sealedV1 = 1 // first byte of everything sealed: AES-256-GCM, random nonce

	// Overhead is how much longer than its plain form a sealed field is, in bytes.
	Overhead = 1 + nonceSize + tagSize
)

// ErrErased says that the person has been erased: the key is gone for good.
var ErrErased = errs.New(errs.NotFound, "the person has been erased")

var errDamaged = errors.New("sealed data does not open: damaged, or of another subject, context or key")

// Cipher seals and opens the data of one subject. It is safe for concurrent
// use. Fetch it for one batch and let it go: a Cipher that is held outlives an
// erasure.
type Cipher struct {
	subject Subject
	aead    cipher.AEAD
	scratch *sync.Pool // of *[]byte, for the additional data
}

// Seal appends the sealed form of plain to dst, [Overhead] bytes longer than
// plain. Context says what the data is ("collector.event.v1"); it is not stored
// and must be the same at Open. A nil Cipher, that of an erased person, keeps
// nothing: it returns dst as it was.
func (c *Cipher) Seal(dst, plain []byte, context string) []byte {
	if c == nil {
		return dst
	}
	dst = slices.Grow(dst, len(plain)+Overhead)
	dst = append(dst, sealedV1)
	aad := c.aad(context)
	dst = c.aead.Seal(dst, nil, plain, *aad)
	c.scratch.Put(aad)
	return dst
}

// Open appends the plain form of sealed to dst. It fails with ErrErased on a
// nil Cipher, and when sealed is damaged or belongs to another subject or context.
func (c *Cipher) Open(dst, sealed []byte, context string) ([]byte, error) {
	if c == nil {
		return dst, ErrErased
	}
	if len(sealed) < Overhead || sealed[0] != sealedV1 {
		return dst, errDamaged
	}
	aad := c.aad(context)
	out, err := c.aead.Open(dst, nil, sealed[1:], *aad)
	c.scratch.Put(aad)
	if err != nil {
		return dst, errDamaged
	}
	return out, nil
}

// Subject gives the person whose data this cipher opens; zero for the system's.
func (c *Cipher) Subject() Subject { return c.subject }

// aad binds sealed data to its subject and its meaning, so that a row copied
// from one person or column to another does not open there. The caller puts it
// back: a slice on the stack would escape through the interface call.
func (c *Cipher) aad(context string) *[]byte {
	b := c.scratch.Get().(*[]byte)
	*b = append(append((*b)[:0], c.subject[:]...), context...)
	return b
}

func newScratch() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, 0, 96); return &b }}
}

// newAEAD builds AES-256-GCM that makes its own random nonce and puts it first.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// wrapper wraps keys under the master. Owner binds a wrapped key to its row.
type wrapper struct{ aead cipher.AEAD }

func newWrapper(m Master) (wrapper, error) {
	aead, err := newAEAD(m.derive("wrap"))
	return wrapper{aead}, err
}

// newKey makes a random key and gives its wrapped form too.
func (w wrapper) newKey(owner []byte) (key, wrapped []byte) {
	key = make([]byte, keySize)
	rand.Read(key)
	return key, w.aead.Seal(make([]byte, 0, wrappedSize), nil, key, owner)
}

func (w wrapper) unwrap(wrapped, owner []byte) ([]byte, error) {
	key, err := w.aead.Open(make([]byte, 0, keySize), nil, wrapped, owner)
	if err != nil || len(key) != keySize {
		return nil, errors.New("a wrapped key does not open: damaged, or of another master key")
	}
	return key, nil
}

// open unwraps a key and builds its AEAD.
func (w wrapper) open(wrapped, owner []byte) (cipher.AEAD, error) {
	key, err := w.unwrap(wrapped, owner)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return newAEAD(key)
}
