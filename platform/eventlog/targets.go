package eventlog

import (
	"encoding/base64"
	"encoding/binary"

	"switchboard/platform/errs"
)

// Forms of packed targets; the first byte.
const (
	packedTexts = 1 // each with its length before it
	packedIDs   = 2 // base64url of one length, decoded: the length in bytes, then all of them
)

// packTargets writes targets in little room: ids of random bytes in base64url
// take three quarters of their text, and nothing could make them smaller.
func packTargets(targets []string) []byte {
	if len(targets) == 0 {
		return nil
	}
	if n := len(targets[0]); n > 0 && n <= maxName && sameLength(targets, n) {
		size := base64.RawURLEncoding.DecodedLen(n)
		out := binary.AppendUvarint(append(make([]byte, 0, 4+size*len(targets)), packedIDs), uint64(size))
		var err error
		for _, t := range targets {
			// Strict refuses a text that would come back as another.
			if out, err = base64.RawURLEncoding.Strict().AppendDecode(out, []byte(t)); err != nil {
				break
			}
		}
		if err == nil && base64.RawURLEncoding.EncodedLen(size) == n {
			return out
		}
	}
	out := []byte{packedTexts}
	for _, t := range targets {
		out = append(binary.AppendUvarint(out, uint64(len(t))), t...)
	}
	return out
}

func sameLength(targets []string, n int) bool {
	for _, t := range targets {
		if len(t) != n {
			return false
		}
	}
	return true
}

var errPacked = errs.New(errs.Internal, "event log: damaged targets")

// unpackTargets is the opposite of packTargets.
func unpackTargets(packed []byte) ([]string, error) {
	if len(packed) == 0 {
		return nil, nil
	}
	form, packed := packed[0], packed[1:]
	var out []string
	switch form {
	case packedIDs:
		size, n := binary.Uvarint(packed)
		if packed = packed[max(n, 0):]; n <= 0 || size == 0 || uint64(len(packed))%size != 0 {
			return nil, errPacked
		}
		out = make([]string, 0, uint64(len(packed))/size)
		for ; len(packed) > 0; packed = packed[size:] {
			out = append(out, base64.RawURLEncoding.EncodeToString(packed[:size]))
		}
	case packedTexts:
		for len(packed) > 0 {
			size, n := binary.Uvarint(packed)
			if n <= 0 || uint64(len(packed)-n) < size {
				return nil, errPacked
			}
			out = append(out, string(packed[n:n+int(size)]))
			packed = packed[n+int(size):]
		}
	default:
		return nil, errPacked
	}
	return out, nil
}
