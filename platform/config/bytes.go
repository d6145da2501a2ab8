package config

import (
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Bytes is a size in bytes, written "8MiB", "1GB" or "512". It prints and
// marshals the way it is written.
type Bytes int64

var units = []struct {
	name string
	size int64
}{ // largest first
	{"TiB", 1 << 40}, {"TB", 1e12},
	{"GiB", 1 << 30}, {"GB", 1e9},
	{"MiB", 1 << 20}, {"MB", 1e6},
	{"KiB", 1 << 10}, {"KB", 1e3},
}

// String gives the size in the largest unit that divides it.
func (b Bytes) String() string {
	if b > 0 {
		for _, u := range units {
			if int64(b)%u.size == 0 {
				return strconv.FormatInt(int64(b)/u.size, 10) + u.name
			}
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText gives String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads a size.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := ParseBytes(string(text))
	if err == nil {
		*b = v
	}
	return err
}

var errBytes = errors.New("is not a size such as 8MiB, 1GB or 512")

// ParseBytes reads a size. Units are KiB, MiB, GiB, TiB (powers of 1024), KB,
// MB, GB, TB (powers of 1000) and B, in any case; a bare number is bytes. A
// fraction must come out as whole bytes; a size is never negative. The error
// does not repeat the text.
func ParseBytes(text string) (Bytes, error) {
	s := strings.TrimSpace(text)
	end := strings.LastIndexAny(s, "0123456789") + 1
	number, unit := s[:end], strings.TrimSpace(s[end:])
	size := int64(1)
	if unit != "" && !strings.EqualFold(unit, "B") {
		size = 0
		for _, u := range units {
			if strings.EqualFold(unit, u.name) {
				size = u.size
			}
		}
	}
	if size == 0 || number == "" || len(number) > 40 || strings.Trim(number, "0123456789.") != "" {
		return 0, errBytes
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, errBytes
	}
	r.Mul(r, new(big.Rat).SetInt64(size))
	if !r.IsInt() {
		return 0, errors.New("is not a whole number of bytes")
	}
	if !r.Num().IsInt64() {
		return 0, errors.New("is larger than " + strconv.FormatInt(math.MaxInt64, 10) + " bytes")
	}
	return Bytes(r.Num().Int64()), nil
}
