package collector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"switchboard/platform/errs"
)

// Candidate is one element of a request body: an event, or what keeps it from
// being one.
type Candidate struct {
	Event
	// Raw is the element as it was sent; it aliases the body.
	Raw []byte
	// Errors says what is wrong with it, locations relative to the event.
	Errors []errs.Field
}

// Batch is a decoded request body.
type Batch struct {
	Candidates []Candidate
	// Prefix is where the events stand in the body: "body" for a single event,
	// "body" with an index for an array, "body.events" with an index.
	Prefix string
	Single bool
}

// location is the place in the body of a field of event i.
func (b *Batch) location(i int, field string) string {
	at := b.Prefix
	if !b.Single {
		at = fmt.Sprintf("%s[%d]", b.Prefix, i)
	}
	if field == "" {
		return at
	}
	return at + "." + field
}

// located gives the errors of event i with their places in the body.
func (b *Batch) located(i int) []errs.Field {
	out := make([]errs.Field, len(b.Candidates[i].Errors))
	for n, f := range b.Candidates[i].Errors {
		f.Location = clip(b.location(i, f.Location))
		out[n] = f
	}
	return out
}

// What is told about one event is bounded, however hostile its names: it goes
// into the answer and, with the reject, over the bus.
const (
	maxFaults   = 20
	maxLocation = 300 // bytes
)

// clip shortens a location that is too long to be of use.
func clip(location string) string {
	if len(location) <= maxLocation {
		return location
	}
	return strings.ToValidUTF8(location[:maxLocation], "") + "…"
}

// malformed says that a body is not JSON and where. It is told apart from an
// Invalid error, since HTTP answers it with 400.
type malformed struct{ errs.Field }

func (m *malformed) Error() string { return "the body is not valid JSON: " + m.Message }

var decoders = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

// DecodeBatch reads a request body: one event, {"events":[…]} or a bare array,
// at most 1,000 events. The whole text must be JSON in UTF-8 without duplicate
// names (RFC 8259 section 4, I-JSON), else the error is *malformed; a body of
// another shape is an Invalid error. What is wrong with single events stands
// in their Errors.
func DecodeBatch(body []byte) (*Batch, error) {
	if len(bytes.TrimLeft(body, " \t\r\n")) == 0 {
		return nil, &malformed{errs.Field{Location: "body", Message: "it is empty"}}
	}
	dec := decoders.Get().(*jsontext.Decoder)
	defer decoders.Put(dec)
	dec.Reset(bytes.NewBuffer(body))
	d := &batchDecoder{dec: dec, body: body}
	b, err := d.batch()
	if err == nil {
		_, err = dec.ReadToken()
		if err == io.EOF {
			return b, nil
		}
		if err == nil {
			err = &malformed{errs.Field{Location: "body", Message: "there is something after the first value"}}
		}
	}
	var invalid *errs.Error
	var bad *malformed
	if errors.As(err, &invalid) || errors.As(err, &bad) {
		return nil, err
	}
	return nil, explain(body, err)
}

type batchDecoder struct {
	dec  *jsontext.Decoder
	body []byte
}

func (d *batchDecoder) batch() (*Batch, error) {
	switch d.dec.PeekKind() {
	case '[':
		b := &Batch{Prefix: "body"}
		return b, d.array(b)
	case '{':
		return d.object()
	}
	// Reading first lets broken JSON be reported as such.
	if err := d.dec.SkipValue(); err != nil {
		return nil, err
	}
	return nil, errs.InvalidFields("the body is not an event",
		errs.Field{Location: "body", Message: `want an event, {"events":[…]} or an array of events`})
}

func (d *batchDecoder) array(b *Batch) error {
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	for d.dec.PeekKind() != ']' {
		if len(b.Candidates) == maxBatch {
			return errs.InvalidFields("too many events", errs.Field{Location: b.Prefix, Message: "has more than 1000 events"})
		}
		b.Candidates = append(b.Candidates, Candidate{})
		if err := d.element(&b.Candidates[len(b.Candidates)-1]); err != nil {
			return err
		}
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	if len(b.Candidates) == 0 {
		return errs.InvalidFields("no events", errs.Field{Location: b.Prefix, Message: "has no events"})
	}
	return nil
}

// element reads one element of an array.
func (d *batchDecoder) element(c *Candidate) error {
	if kind := d.dec.PeekKind(); kind != '{' {
		raw, err := d.value()
		if err != nil {
			return err
		}
		c.Raw = raw
		c.Errors = []errs.Field{{Message: fmt.Sprintf("is %s: want an object", kindName(kind))}}
		return nil
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	start := int(d.dec.InputOffset()) - 1
	seen := fieldSet(0)
	for d.dec.PeekKind() != '}' {
		name, err := d.dec.ReadToken()
		if err != nil {
			return err
		}
		if err := d.field(c, name.String(), &seen); err != nil {
			return err
		}
	}
	return d.end(c, start, seen)
}

// object reads a body that begins with "{": an event, or the envelope of many.
func (d *batchDecoder) object() (*Batch, error) {
	if _, err := d.dec.ReadToken(); err != nil {
		return nil, err
	}
	start := int(d.dec.InputOffset()) - 1
	single := &Batch{Prefix: "body", Single: true, Candidates: make([]Candidate, 1)}
	c, seen := &single.Candidates[0], fieldSet(0)
	var many *Batch
	var others []string
	for d.dec.PeekKind() != '}' {
		token, err := d.dec.ReadToken()
		if err != nil {
			return nil, err
		}
		name := token.String()
		if name == "events" && d.dec.PeekKind() == '[' {
			many = &Batch{Prefix: "body.events"}
			if err := d.array(many); err != nil {
				return nil, err
			}
			continue
		}
		if len(others) < maxFaults {
			others = append(others, name)
		}
		if err := d.field(c, name, &seen); err != nil {
			return nil, err
		}
	}
	if many == nil {
		return single, d.end(c, start, seen)
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return nil, err
	}
	if len(others) > 0 {
		faults := make([]errs.Field, len(others))
		for i, name := range others {
			faults[i] = errs.Field{Location: clip("body." + name), Message: "is unknown beside events"}
		}
		return nil, errs.InvalidFields("the body has unknown fields", faults...)
	}
	return many, nil
}

func (d *batchDecoder) end(c *Candidate, start int, seen fieldSet) error {
	if _, err := d.dec.ReadToken(); err != nil {
		return err
	}
	c.Raw = d.body[start:d.dec.InputOffset()]
	for i, name := range fieldNames[:requiredFields] {
		if seen&(1<<i) == 0 {
			c.Errors = append(c.Errors, errs.Field{Location: name, Message: "is missing"})
		}
	}
	return nil
}

// fieldSet is the set of fields seen, by their index in fieldNames.
type fieldSet uint

var fieldNames = [...]string{"session_id", "category", "name", "data", "timestamp", "id", "user_id"}

const requiredFields = 5

func (d *batchDecoder) field(c *Candidate, name string, seen *fieldSet) error {
	index := -1
	for i, n := range fieldNames {
		if n == name {
			index = i
		}
	}
	if index < 0 {
		if len(c.Errors) < maxFaults {
			c.Errors = append(c.Errors, errs.Field{Location: name, Message: "is unknown"})
		}
		return d.dec.SkipValue()
	}
	*seen |= 1 << index
	kind := d.dec.PeekKind()
	optional := index >= requiredFields
	switch want := jsontext.Kind('"'); {
	case name == "data":
		raw, err := d.value()
		if err != nil {
			return err
		}
		if kind != '{' {
			c.Errors = append(c.Errors, errs.Field{Location: name, Message: fmt.Sprintf("is %s: want an object", kindName(kind))})
		}
		c.Data = raw
		return nil
	case kind == 'n' && optional:
		return d.dec.SkipValue()
	case kind != want:
		if err := d.dec.SkipValue(); err != nil {
			return err
		}
		c.Errors = append(c.Errors, errs.Field{Location: name, Message: fmt.Sprintf("is %s: want a string", kindName(kind))})
		return nil
	}
	token, err := d.dec.ReadToken()
	if err != nil {
		return err
	}
	text := token.String()
	switch name {
	case "session_id":
		c.SessionID = text
	case "category":
		c.Category = text
	case "name":
		c.Name = text
	case "id":
		c.ID = text
	case "user_id":
		c.UserID = text
	case "timestamp":
		t, err := ParseTimestamp(text)
		if err != nil {
			c.Errors = append(c.Errors, errs.Field{Location: name, Message: err.Error()})
		}
		c.Timestamp = t
	}
	return nil
}

// value reads the next value and gives its text within the body. The decoder
// only lends its own slice until the next read.
func (d *batchDecoder) value() (json.RawMessage, error) {
	v, err := d.dec.ReadValue()
	if err != nil {
		return nil, err
	}
	end := int(d.dec.InputOffset())
	return json.RawMessage(d.body[end-len(v) : end : end]), nil
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '[':
		return "an array"
	}
	return "an object"
}

// explain turns a syntax error into one a person can act on: what, and the
// line and column where.
func explain(body []byte, err error) error {
	var syntax *jsontext.SyntacticError
	if !errors.As(err, &syntax) {
		return &malformed{errs.Field{Location: "body", Message: err.Error()}}
	}
	at := min(int(syntax.ByteOffset), len(body))
	comma := trailingComma(body, at)
	message := syntax.Err.Error()
	switch {
	case errors.Is(syntax.Err, jsontext.ErrDuplicateName):
		message = "the name stands twice in one object"
	case errors.Is(syntax.Err, io.ErrUnexpectedEOF):
		message = "it ends too early"
	case strings.Contains(message, "invalid UTF-8"):
		message = "it is not UTF-8"
	case comma >= 0:
		at, message = comma, "a comma stands before the closing bracket"
	case strings.Contains(message, "depth"):
		message = "it is nested too deeply"
	}
	line := 1 + bytes.Count(body[:at], []byte("\n"))
	column := 1 + utf8.RuneCount(body[bytes.LastIndexByte(body[:at], '\n')+1:at])
	location := "body"
	for _, part := range strings.Split(strings.TrimPrefix(string(syntax.JSONPointer), "/"), "/") {
		if len(location) > maxLocation {
			break
		}
		switch _, err := strconv.ParseUint(part, 10, 32); {
		case part == "":
		case err == nil:
			location += "[" + part + "]"
		default:
			location += "." + strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		}
	}
	return &malformed{errs.Field{Location: clip(location), Message: fmt.Sprintf("%s (line %d, column %d)", message, line, column)}}
}

// trailingComma gives the place of a comma before a closing bracket around at,
// -1 if there is none.
func trailingComma(body []byte, at int) int {
	const space = " \t\r\n"
	comma := at
	if at == len(body) || body[at] != ',' {
		comma = len(bytes.TrimRight(body[:at], space)) - 1
	}
	if comma < 0 || body[comma] != ',' {
		return -1
	}
	if after := bytes.TrimLeft(body[comma+1:], space); len(after) == 0 || after[0] != '}' && after[0] != ']' {
		return -1
	}
	return comma
}
