// Package errs holds the five kinds of error that the product knows. The
// domain returns them; platform/web turns them into HTTP problems and
// platform/app into exit codes, each in one place.
package errs

import (
	"errors"
	"fmt"
)

// Kind says what an error means to the one who caused it.
type Kind int

// The kinds. Internal is the kind of every error that has none: a fault of
// ours whose text is logged and never shown to a client.
const (
	Internal    Kind = iota
	Invalid          // the request can never succeed as it is
	NotFound         // the thing does not exist
	Conflict         // the request contradicts the present state
	Denied           // the credential does not allow it
	Unavailable      // it would work later: full disk, database away, shutting down
)

var names = [...]string{"internal", "invalid", "not found", "conflict", "denied", "unavailable"}

func (k Kind) String() string { return names[k] }

// Field is one reason, bound to a place in the input.
type Field struct {
	// Location is the path of the offending value, such as "body.events[3].timestamp".
	Location string `json:"location,omitempty"`
	// Message says what is wrong with it, without repeating the value.
	Message string `json:"message"`
	// Value is the offending value where it is neither personal nor secret.
	Value any `json:"value,omitempty"`
}

// Error is an error with a kind and, for Invalid, the fields at fault.
type Error struct {
	Kind   Kind
	Text   string
	Fields []Field
	Cause  error
}

func (e *Error) Error() string {
	switch {
	case e.Cause == nil:
		return e.Text
	case e.Text == "":
		return e.Cause.Error()
	}
	return e.Text + ": " + e.Cause.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// New makes an error of a kind. Its text may be shown to the client.
func New(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// Wrap gives err a kind and says what was being done. It returns nil for nil.
func Wrap(kind Kind, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...), Cause: err}
}

// InvalidFields is an Invalid error that names the fields at fault.
func InvalidFields(text string, fields ...Field) error {
	return &Error{Kind: Invalid, Text: text, Fields: fields}
}

// KindOf gives the kind of err, found through its chain; Internal if it has none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// FieldsOf gives the fields of the first Error in err's chain.
func FieldsOf(err error) []Field {
	var e *Error
	if errors.As(err, &e) {
		return e.Fields
	}
	return nil
}
