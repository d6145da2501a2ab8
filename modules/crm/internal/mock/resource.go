package mock

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// form is what the description says of a value.
type form uint8

const (
	text form = iota
	date
	number
)

// field is one property.
type field struct {
	name     string
	form     form
	nullable bool
}

// resource is one of the two collections. Its first field is the Id.
type resource struct {
	name   string // in the path
	fields []field
}

var resources = [...]resource{
	{"users", []field{{"Id", text, false}, {"LastName", text, false}, {"FirstName", text, true}, {"Email", text, false},
		{"LastTripType", text, true}, {"LastTripId", text, true}, {"LastTripDate", date, false}}},
	{"trips", []field{{"Id", text, false}, {"UserId", text, false}, {"From", text, true}, {"To", text, true}, {"Price", number, false},
		{"StartDate", date, false}, {"EndDate", date, true}, {"Type", text, false}}},
}

// maxFields bounds the fields of a resource.
const maxFields = 8

// values are those of an object by field, as JSON; nil is absent or null.
type values [maxFields][]byte

// wrong is one place of a body that is at fault.
type wrong struct {
	Location string `json:"location"`
	Message  string `json:"message"`
}

// decode reads the body of a POST. The values may share its memory.
func (r *resource) decode(body []byte) (id string, v values, detail string, at []wrong) {
	if why := notJSON(body); why != "" {
		return "", v, why, []wrong{{"body", why}}
	}
	body = bytes.TrimLeft(body, " \t\r\n")
	if body[0] != '{' {
		return "", v, "the body is not an object", []wrong{{"body", "must be an object"}}
	}
	var faults [maxFields]string
	members(body, func(name, value []byte) {
		if i := r.index(name); i >= 0 {
			v[i], faults[i] = r.fields[i].form.read(value)
		}
	})
	for i, f := range r.fields {
		if faults[i] == "" && v[i] == nil && !f.nullable && i > 0 {
			faults[i] = "required, and not nullable"
		}
		if faults[i] != "" {
			at = append(at, wrong{"body." + f.name, faults[i]})
		}
	}
	if v[0] != nil && faults[0] == "" {
		if id = plain(v[0]); id == "" {
			at = append([]wrong{{"body.Id", "must not be empty"}}, at...)
		}
	}
	if at != nil {
		detail = "the body is not as described"
	}
	return id, v, detail, at
}

// notJSON says why a body is not one JSON text in UTF-8, "" if it is.
func notJSON(body []byte) string {
	if json.Valid(body) && utf8.Valid(body) {
		return ""
	}
	if len(body) == 0 {
		return "a body is required"
	}
	var whole json.RawMessage
	var syntax *json.SyntaxError
	if errors.As(json.Unmarshal(body, &whole), &syntax) {
		return "not valid JSON at byte " + strconv.FormatInt(syntax.Offset, 10)
	}
	return "not valid JSON: broken UTF-8"
}

// index finds the field of a name, a JSON string, in any letter case; -1 if
// there is none.
func (r *resource) index(name []byte) int {
	name = name[1 : len(name)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		var s string
		_ = json.Unmarshal([]byte(`"`+string(name)+`"`), &s) // it is valid
		name = []byte(s)
	}
	for i := range r.fields {
		if sameFold(r.fields[i].name, name) {
			return i
		}
	}
	return -1
}

// sameFold compares an ASCII name. Unlike bytes.EqualFold it takes no other
// letters for ASCII ones, such as the Kelvin sign.
func sameFold(name string, b []byte) bool {
	if len(name) != len(b) {
		return false
	}
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		d := name[i]
		if 'A' <= d && d <= 'Z' {
			d |= 0x20
		}
		if c != d {
			return false
		}
	}
	return true
}

// read checks a valid JSON value. It gives nil for null.
func (f form) read(value []byte) (v []byte, fault string) {
	if value[0] == 'n' {
		return nil, ""
	}
	if f == number {
		if value[0] != '-' && (value[0] < '0' || value[0] > '9') {
			return nil, "must be a number"
		}
		if _, err := strconv.ParseFloat(string(value), 64); err != nil {
			return nil, "must be a number of double precision"
		}
		return value, ""
	}
	if value[0] != '"' {
		return nil, "must be a text"
	}
	if bytes.IndexByte(value, '\\') >= 0 {
		if !paired(value) {
			return nil, "must be Unicode: half of a surrogate pair stands alone"
		}
		value = appendText(nil, plain(value)) // one way of writing
	}
	if f == date && !isDate(value[1:len(value)-1]) {
		return nil, "must be a date-time with an offset (RFC 3339)"
	}
	return value, ""
}

// isDate tells whether b is a date-time of RFC 3339. Package time takes an hour
// of one digit, a comma and an offset of a day as well.
func isDate(b []byte) bool {
	var t time.Time
	if t.UnmarshalText(b) != nil || b[len("2006-01-02T15")] != ':' || b[len("2006-01-02T15:04:05")] == ',' {
		return false
	}
	_, offset := t.Zone()
	return max(offset, -offset) < 24*60*60
}

// plain gives what a valid JSON string says.
func plain(value []byte) string {
	if bytes.IndexByte(value, '\\') < 0 {
		return string(value[1 : len(value)-1])
	}
	var s string
	_ = json.Unmarshal(value, &s) // it is valid
	return s
}

// paired tells whether the \u escapes of a valid JSON string make whole
// characters. encoding/json would replace what is broken, silently.
func paired(value []byte) bool {
	for i := 0; i < len(value); i++ {
		if value[i] != '\\' {
			continue
		}
		i++
		if value[i] != 'u' {
			continue
		}
		r := escaped(value[i+1:])
		i += 4
		if !utf16.IsSurrogate(r) {
			continue
		}
		if rest := value[i+1:]; len(rest) < 6 || rest[0] != '\\' || rest[1] != 'u' || utf16.DecodeRune(r, escaped(rest[2:])) == utf8.RuneError {
			return false
		}
		i += 6
	}
	return true
}

// escaped reads four hexadecimal digits.
func escaped(b []byte) rune {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 16) // the JSON is valid
	return rune(n)
}

// appendText writes s as a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string has a JSON form
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// render writes an object: all properties, in the order of the description.
func (r *resource) render(id string, v *values) []byte {
	size := len(id) + 4
	for i, f := range r.fields {
		size += len(f.name) + len(v[i]) + 8
	}
	b := make([]byte, 0, size)
	for i, f := range r.fields {
		b = append(b, ",\""...)
		b = append(b, f.name...)
		b = append(b, "\":"...)
		switch {
		case i == 0:
			b = appendText(b, id)
		case v[i] == nil:
			b = append(b, "null"...)
		default:
			b = append(b, v[i]...)
		}
	}
	b[0] = '{'
	return append(b, '}')
}

// members calls f with each name and value of an object. The object must be
// valid JSON and begin with its brace.
func members(object []byte, f func(name, value []byte)) {
	for i := space(object, 1); object[i] != '}'; {
		end := valueEnd(object, i)
		name := object[i:end]
		i = space(object, space(object, end)+1) // the colon
		end = valueEnd(object, i)
		f(name, object[i:end])
		if i = space(object, end); object[i] == ',' {
			i = space(object, i+1)
		}
	}
}

// space gives where white space ends.
func space(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t' {
		i++
	}
	return i
}

// valueEnd gives where the value at i ends, within an object.
func valueEnd(b []byte, i int) int {
	for depth := 0; ; i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // of a number or a word, the object's end
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\r', '\t':
			if depth == 0 {
				return i
			}
		}
	}
}
