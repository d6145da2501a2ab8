package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"strings"

	"switchboard/platform/errs"
)

const (
	prefix = "sb_"

	idAlphabet     = "0123456789abcdefghijklmnopqrstuvwxyz"
	secretAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

	idLength     = 12
	secretLength = 43 // of 62 characters: 256 bits

	// presetID is the id of a preset admin key that has no sb_ form.
	presetID = "admin"
	// leastPreset is the least length of a preset, and of the secret in one.
	leastPreset = 16
	maxID       = 32
)

// random gives n characters, each equally likely.
func random(alphabet string, n int) string {
	out := make([]byte, 0, n)
	limit := 256 - 256%len(alphabet)
	var buf [64]byte
	for len(out) < n {
		rand.Read(buf[:]) // never fails: crypto/rand ends the process instead
		for _, b := range buf {
			if int(b) < limit && len(out) < n {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(out)
}

func newID() string { return random(idAlphabet, idLength) }

// newCredential makes the credential of key id. Tools that look for leaked
// secrets know it by its prefix.
func newCredential(id string) string { return prefix + id + "_" + random(secretAlphabet, secretLength) }

// idOf gives the id inside a credential of the form sb_<id>_<secret>; any other
// text can only be the preset admin key.
func idOf(credential string) string {
	rest, ok := strings.CutPrefix(credential, prefix)
	if !ok {
		return presetID
	}
	id, secret, ok := strings.Cut(rest, "_")
	if !ok || !validID(id) || len(secret) < leastPreset {
		return presetID
	}
	return id
}

// validID tells whether a key can have this id.
func validID(id string) bool {
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return id != "" && len(id) <= maxID
}

// hashOf hashes a whole credential. A fast hash will do: 256 random bits cannot
// be tried through, and a preset is as strong as its owner made it.
func hashOf(credential string) [sha256.Size]byte {
	var buf [128]byte // keeps ordinary credentials off the heap
	return sha256.Sum256(append(buf[:0], credential...))
}

func validPreset(preset string) error {
	if len([]rune(preset)) < leastPreset {
		return errs.New(errs.Invalid, "admin_key: needs at least %d characters", leastPreset)
	}
	for _, c := range preset {
		if c <= ' ' || c > '~' {
			return errs.New(errs.Invalid, "admin_key: only printable ASCII without spaces can be sent in a header")
		}
	}
	return nil
}
