package logs

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Personal is a text about a person. It logs and prints as "[redacted]" under
// every verb; encoding/json and database/sql see the plain text. Convert it to
// string to read it. A type made from it (type Phone Personal) does not inherit
// this: tag its fields with pii instead.
type Personal string

// String gives "[redacted]".
func (Personal) String() string { return redacted }

// GoString gives "[redacted]".
func (Personal) GoString() string { return redacted }

// Format writes "[redacted]" for every verb.
func (Personal) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue gives "[redacted]" to slog.
func (Personal) LogValue() slog.Value { return slog.StringValue(redacted) }
