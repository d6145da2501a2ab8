package collector

import (
	"encoding/json"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"switchboard/platform/errs"
)

// Limits of an event, in characters (Unicode code points) and levels.
const (
	maxText  = 256 // session_id, category, name, id, user_id
	maxDepth = 64  // nesting of data
	maxBatch = 1000
)

// oldest is the earliest time an event may have occurred: what lies before the
// Unix epoch is a client's clock or parser gone wrong.
var oldest = time.Unix(0, 0)

// Event is one interaction as its application tells it.
type Event struct {
	// ID is the client's own id; empty if it gave none. The same id from the
	// same application is stored once.
	ID        string `pii:"event_id"`
	SessionID string `pii:"session_id"`
	Category  string
	Name      string
	UserID    string          `pii:"user_id"`
	Data      json.RawMessage `pii:"content"`
	Timestamp time.Time
}

// check reports what is wrong with the event by itself, now being the time at
// which it is judged. Locations are relative to the event.
func (e *Event) check(now time.Time, tolerance time.Duration) []errs.Field {
	var fields []errs.Field
	for _, f := range [...]struct {
		name, value string
		required    bool
	}{
		{"session_id", e.SessionID, true},
		{"category", e.Category, true},
		{"name", e.Name, true},
		{"id", e.ID, false},
		{"user_id", e.UserID, false},
	} {
		if why := checkText(f.value, f.required); why != "" {
			fields = append(fields, errs.Field{Location: f.name, Message: why})
		}
	}
	if deeper(e.Data, maxDepth) {
		fields = append(fields, errs.Field{Location: "data", Message: fmt.Sprintf("is nested deeper than %d levels", maxDepth)})
	}
	switch {
	case e.Timestamp.After(now.Add(tolerance)):
		fields = append(fields, errs.Field{Location: "timestamp", Message: fmt.Sprintf("lies more than %s in the future", tolerance)})
	case e.Timestamp.Before(oldest):
		fields = append(fields, errs.Field{Location: "timestamp", Message: "lies before 1970"})
	}
	return fields
}

func checkText(s string, required bool) string {
	switch {
	case s == "" && required:
		return "is empty: want 1 to 256 characters"
	case len(s) > maxText && utf8.RuneCountInString(s) > maxText:
		return "is too long: want 1 to 256 characters"
	case !utf8.ValidString(s):
		return "is not UTF-8"
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return "has a control character"
		}
	}
	return ""
}

// deeper tells whether data, which is known to be valid JSON, is nested deeper
// than so many levels.
func deeper(data []byte, levels int) bool {
	if len(data) <= 2*levels {
		return false // too short to be that deep
	}
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > levels {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
