package config

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"
)

const hidden = "***"

// Secret is a setting that must not be seen: it prints, logs and marshals
// (JSON, YAML, text) as "***", or as nothing when it is empty. It decodes like
// a string. Out of its reach are the verb %p (go vet refuses it) and an unexported
// field of a struct that fmt prints as a whole.
type Secret string

// Reveal gives the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String gives "***".
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString gives "***" in quotes.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// Format writes "***" for every verb; without it fmt would print the secret
// in its complaint about a verb that does not suit a string.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		_, _ = io.WriteString(f, s.GoString())
		return
	}
	_, _ = io.WriteString(f, s.String())
}

// LogValue gives "***" to slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText gives "***"; encoding/json and YAML use it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
