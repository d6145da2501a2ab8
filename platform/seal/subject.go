package seal

import (
	"bytes"
	"crypto/rand"
	"database/sql/driver"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"switchboard/platform/errs"
)

// Subject is the opaque id of a person, a UUIDv7. The zero Subject stands for
// a person who has been erased. It can be stored in a blob column as it is.
type Subject [16]byte

// newSubject makes an id whose first 48 bits are the time in milliseconds, so
// that new rows lie side by side.
func newSubject(now time.Time) Subject {
	var s Subject
	rand.Read(s[6:]) // never fails: crypto/rand ends the process instead
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		s[i] = byte(ms >> (40 - 8*i))
	}
	s[6] = s[6]&0x0f | 0x70
	s[8] = s[8]&0x3f | 0x80
	return s
}

// ParseSubject reads the form that String writes.
func ParseSubject(text string) (Subject, error) {
	var s Subject
	err := s.UnmarshalText([]byte(text))
	return s, err
}

// IsZero tells whether s is the zero Subject: erased, or not set.
func (s Subject) IsZero() bool { return s == Subject{} }

// String gives the UUID form: 36 characters, lowercase.
func (s Subject) String() string { return string(s.appendText(nil)) }

func (s Subject) appendText(dst []byte) []byte {
	var buf [36]byte
	hex.Encode(buf[0:8], s[0:4])
	hex.Encode(buf[9:13], s[4:6])
	hex.Encode(buf[14:18], s[6:8])
	hex.Encode(buf[19:23], s[8:10])
	hex.Encode(buf[24:36], s[10:16])
	buf[8], buf[13], buf[18], buf[23] = '-', '-', '-', '-'
	return append(dst, buf[:]...)
}

// MarshalText writes the UUID form.
func (s Subject) MarshalText() ([]byte, error) { return s.appendText(nil), nil }

// UnmarshalText reads the UUID form, or 32 hex digits; else errs.Invalid.
func (s *Subject) UnmarshalText(text []byte) error {
	digits := text
	if len(text) == 36 && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-' {
		digits = bytes.ReplaceAll(text, []byte("-"), nil)
	}
	var got Subject
	if len(digits) != 32 {
		return errs.New(errs.Invalid, "a subject is a UUID of 36 characters, not %d", len(text))
	}
	if _, err := hex.Decode(got[:], digits); err != nil {
		return errs.New(errs.Invalid, "a subject is a UUID in hex digits")
	}
	*s = got
	return nil
}

// Value stores s as 16 bytes.
func (s Subject) Value() (driver.Value, error) { return s[:], nil }

// Scan reads what Value stored.
func (s *Subject) Scan(src any) error { return scan16(s[:], src) }

// Index is the blind index of an alias or of any other value that must be
// found by equality: a keyed HMAC-SHA256, truncated. It tells nothing without
// the index key. It can be stored in a blob column as it is.
type Index [16]byte

// String gives 32 hex digits.
func (x Index) String() string { return hex.EncodeToString(x[:]) }

// Value stores x as 16 bytes.
func (x Index) Value() (driver.Value, error) { return x[:], nil }

// Scan reads what Value stored.
func (x *Index) Scan(src any) error { return scan16(x[:], src) }

func scan16(dst []byte, src any) error {
	b, ok := src.([]byte)
	if !ok || len(b) != len(dst) {
		return fmt.Errorf("scan %T of %d bytes as a 16-byte id", src, len(b))
	}
	copy(dst, b)
	return nil
}

// Alias is one of the names by which the outside knows a person. Value is
// taken as it is: whoever makes an alias brings phones (by Phone) and e-mails to
// one form.
type Alias struct {
	// Kind says what Value is: session_id, user_id, phone, email, actor, …
	// Kinds are constants of the program, never input.
	Kind string
	// Value is the name itself. It is never stored.
	Value string
}

// String hides the value.
func (a Alias) String() string { return a.Kind + ":[redacted]" }

// GoString hides the value.
func (a Alias) GoString() string { return a.String() }

// LogValue hides the value.
func (a Alias) LogValue() slog.Value { return slog.StringValue(a.String()) }
