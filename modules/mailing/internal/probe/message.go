package probe

import (
	"bytes"
	"hash/maphash"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// message is the body of a request.
type message struct {
	phone uint64
	hash  uint32
	text  string // only if it is asked for
	wrong string // what is wrong with it; "" if nothing
}

// maxBody is the largest body that is read, in bytes.
const maxBody = 64 << 10

// reader reads bodies; it is used again.
type reader struct {
	raw  []byte
	text []byte
	in   bytes.Buffer
	dec  *jsontext.Decoder
}

var readers = sync.Pool{New: func() any { return &reader{raw: make([]byte, 0, 2<<10)} }}

// readMessage reads a body to its end, for only then the server notices that
// the client leaves. It says no if there is no whole body.
func readMessage(r *http.Request, id int64, seed maphash.Seed, withText bool) (m message, ok bool) {
	b := readers.Get().(*reader)
	defer readers.Put(b)
	b.raw = b.raw[:0]
	for {
		if len(b.raw) == cap(b.raw) {
			b.raw = append(b.raw, 0)[:len(b.raw)]
		}
		n, err := r.Body.Read(b.raw[len(b.raw):cap(b.raw)])
		b.raw = b.raw[:len(b.raw)+n]
		switch {
		case len(b.raw) > maxBody:
			return message{wrong: "the body is larger than 64 KiB"}, true
		case err == io.EOF:
			m.wrong = b.parse(&m, id, seed, withText)
			return m, true
		case err != nil:
			return m, false
		}
	}
}

func (b *reader) parse(m *message, id int64, seed maphash.Seed, withText bool) (wrong string) {
	const invalid = "the body is not a JSON object"
	b.in = *bytes.NewBuffer(b.raw)
	if b.dec == nil {
		b.dec = jsontext.NewDecoder(&b.in)
	} else {
		b.dec.Reset(&b.in)
	}
	if t, err := b.dec.ReadToken(); err != nil || t.Kind() != '{' {
		return invalid
	}
	hasID, hasPhone, hasText, right := false, false, false, false
	for b.dec.PeekKind() != '}' {
		name, err := b.dec.ReadValue()
		if err != nil {
			return invalid
		}
		// The name is gone once the value is read.
		isID, isPhone, isText := string(name) == `"id"`, string(name) == `"phone"`, string(name) == `"text"`
		value, err := b.dec.ReadValue()
		if err != nil {
			return invalid
		}
		switch {
		case isID:
			n, err := strconv.ParseInt(string(value), 10, 64)
			if hasID = true; err != nil {
				wrong = "id is not an integer"
			}
			right = err == nil && n == id
		case isPhone:
			hasPhone = true
			if m.phone, err = strconv.ParseUint(string(value), 10, 63); err != nil || m.phone == 0 {
				wrong = "phone is not a positive integer"
			}
		case isText:
			hasText = true
			if value.Kind() != '"' {
				wrong = "text is not a string"
				continue
			}
			if b.text, err = jsontext.AppendUnquote(b.text[:0], value); err != nil || len(b.text) == 0 {
				wrong = "text is empty"
			}
			m.hash = uint32(maphash.Bytes(seed, b.text))
			if withText {
				m.text = string(b.text)
			}
		}
	}
	if _, err := b.dec.ReadToken(); err != nil {
		return invalid
	}
	if _, err := b.dec.ReadToken(); err != io.EOF {
		return invalid
	}
	switch {
	case wrong != "":
		return wrong
	case !hasID:
		return "id is required"
	case !right:
		return "id is not the msgId of the path"
	case !hasPhone:
		return "phone is required"
	case !hasText:
		return "text is required"
	}
	return ""
}
