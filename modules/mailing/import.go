package mailing

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"switchboard/platform/errs"
)

// importFault says what is wrong with a line, without repeating it.
type importFault struct {
	Line           int64
	Field, Message string
}

// importLine is a line of an import: a client, or what is wrong with it.
type importLine struct {
	Line   int64
	Client *client
	Faults []importFault
	Size   int // bytes of its text
}

// importSource gives the lines of an import, io.EOF after the last one.
type importSource interface {
	next() (importLine, error)
}

// Limits of an import.
const (
	maxImportLine = 64 << 10 // bytes of a line, and of a record of several lines
	maxLookAhead  = 100      // lines of a record
)

const byteOrderMark = "\uFEFF"

// textLine is a line as it was read, without its end.
type textLine struct {
	text string
	n    int64
	long bool // longer than maxImportLine; text is empty
}

// textLines reads lines of bounded length. Lines that were read too far can be
// put back.
type textLines struct {
	in   *bufio.Reader
	n    int64
	back []textLine
}

func newTextLines(in io.Reader) *textLines {
	return &textLines{in: bufio.NewReaderSize(in, maxImportLine+2)} // and the end of the line
}

// next gives the next line, io.EOF after the last.
func (l *textLines) next() (textLine, error) {
	if len(l.back) > 0 {
		line := l.back[0]
		l.back = l.back[1:]
		return line, nil
	}
	text, err := l.in.ReadSlice('\n')
	long := false
	for err == bufio.ErrBufferFull {
		long = true
		text, err = l.in.ReadSlice('\n')
	}
	if err != nil && err != io.EOF {
		return textLine{}, err // what came of the line is not all of it
	}
	if err == io.EOF && len(text) == 0 && !long {
		return textLine{}, io.EOF
	}
	l.n++
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if long || len(text) > maxImportLine {
		return textLine{n: l.n, long: true}, nil
	}
	line := textLine{text: string(text), n: l.n}
	if l.n == 1 {
		line.text = strings.TrimPrefix(line.text, byteOrderMark)
	}
	return line, nil
}

// bad is a line with what is wrong with it.
func bad(line int64, faults ...importFault) importLine {
	for i := range faults {
		faults[i].Line = line
	}
	return importLine{Line: line, Faults: faults}
}

// check says what makes a line unreadable, whatever it holds.
func (l *textLine) check() (message string) {
	switch {
	case l.long:
		return fmt.Sprintf("the line is longer than %d bytes", maxImportLine)
	case !utf8.ValidString(l.text):
		return "the line is not valid UTF-8"
	}
	return ""
}

// imported is a line's client, or what is wrong with it.
func imported(line int64, size int, n *newClient) importLine {
	c, err := n.client()
	if err == nil {
		return importLine{Line: line, Client: c, Size: size}
	}
	out := importLine{Line: line}
	for _, f := range errs.FieldsOf(err) {
		out.Faults = append(out.Faults, importFault{line, strings.TrimPrefix(f.Location, "body."), f.Message})
	}
	return out
}

// csvSource reads clients out of delimited text (RFC 4180) with a header.
type csvSource struct {
	lines   *textLines
	comma   byte
	columns []string
}

// csvColumns are those that are not attributes; operator_code may be missing.
var csvColumns = []string{"phone_number", "operator_code", "tag", "timezone"}

// newCSV reads the header: the names of columns in any order, between commas,
// semicolons or tabs. The error is Invalid for a header that cannot be used.
func newCSV(in io.Reader) (*csvSource, error) {
	s := &csvSource{lines: newTextLines(in)}
	var header textLine
	for strings.TrimSpace(header.text) == "" {
		var err error
		if header, err = s.lines.next(); err == io.EOF {
			return nil, errHeader("is missing")
		} else if err != nil {
			return nil, err
		}
		if message := header.check(); message != "" {
			return nil, errHeader("cannot be read: " + message)
		}
	}
	s.comma = delimiterOf(header.text)
	names, ok, _ := splitRecord(header.text, s.comma)
	if !ok {
		return nil, errHeader("has a quotation mark in the wrong place")
	}
	for i, name := range names {
		name = strings.TrimSpace(name)
		if slices.Contains(csvColumns, strings.ToLower(name)) {
			name = strings.ToLower(name)
		}
		switch {
		case !isAttributeName(name):
			return nil, errHeader(fmt.Sprintf("has a name for column %d that is not 1 to 64 letters, digits and underscores, the first no digit", i+1))
		case slices.Contains(s.columns, name):
			return nil, errHeader(fmt.Sprintf("names column %d as another one", i+1))
		}
		s.columns = append(s.columns, name)
	}
	for _, name := range csvColumns {
		if name != "operator_code" && !slices.Contains(s.columns, name) {
			return nil, errHeader("lacks the column " + name)
		}
	}
	return s, nil
}

func errHeader(message string) error {
	return errs.InvalidFields("the file has no header that can be used: phone_number,operator_code,tag,timezone and names of attributes",
		errs.Field{Location: "body", Message: "the header " + message})
}

// delimiterOf is what stands between the columns of a header: what stands there
// most often.
func delimiterOf(header string) byte {
	comma, most := byte(','), 0
	for _, c := range []byte{',', ';', '\t'} {
		if n := strings.Count(header, string(c)); n > most {
			comma, most = c, n
		}
	}
	return comma
}

// splitRecord takes a record apart. It is false for one with a quotation mark
// where none may be; open says that a quoted field goes on behind the end.
func splitRecord(text string, comma byte) (fields []string, ok, open bool) {
	for {
		if !strings.HasPrefix(text, `"`) {
			end := strings.IndexByte(text, comma)
			field := text
			if end >= 0 {
				field = text[:end]
			}
			if strings.IndexByte(field, '"') >= 0 {
				return nil, false, false
			}
			fields = append(fields, field)
			if end < 0 {
				return fields, true, false
			}
			text = text[end+1:]
			continue
		}
		var field strings.Builder
		text = text[1:]
		for {
			end := strings.IndexByte(text, '"')
			if end < 0 {
				return nil, false, true
			}
			field.WriteString(text[:end])
			text = text[end+1:]
			if !strings.HasPrefix(text, `"`) {
				break
			}
			field.WriteByte('"')
			text = text[1:]
		}
		fields = append(fields, field.String())
		if text == "" {
			return fields, true, false
		}
		if text[0] != comma {
			return nil, false, false
		}
		text = text[1:]
	}
}

func (s *csvSource) next() (importLine, error) {
	for {
		line, err := s.lines.next()
		if err != nil {
			return importLine{}, err
		}
		if message := line.check(); message != "" {
			return bad(line.n, importFault{Message: message}), nil
		}
		if strings.TrimSpace(line.text) == "" {
			continue
		}
		fields, ok, open := splitRecord(line.text, s.comma)
		if open {
			if fields, ok, err = s.further(line.text); err != nil {
				return importLine{}, err
			}
		}
		switch {
		case !ok:
			return bad(line.n, importFault{Message: "a quotation mark is in the wrong place or missing"}), nil
		case len(fields) != len(s.columns):
			return bad(line.n, importFault{Message: fmt.Sprintf("has %d fields where the header has %d", len(fields), len(s.columns))}), nil
		}
		return s.client(line.n, fields), nil
	}
}

// further reads the lines that a quoted field goes on in. If they do not make a
// record with the first one, they are put back: then that line alone is bad.
func (s *csvSource) further(text string) (fields []string, ok bool, err error) {
	var ahead []textLine
	for len(ahead) < maxLookAhead {
		line, err := s.lines.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, false, err
		}
		ahead = append(ahead, line)
		if line.check() != "" || len(text)+1+len(line.text) > maxImportLine {
			break
		}
		text += "\n" + line.text
		if strings.IndexByte(line.text, '"') < 0 {
			continue // the field goes on
		}
		fields, ok, open := splitRecord(text, s.comma)
		if open {
			continue
		}
		if ok && len(fields) == len(s.columns) {
			return fields, true, nil
		}
		break
	}
	s.lines.back = append(ahead, s.lines.back...)
	return nil, false, nil
}

func (s *csvSource) client(line int64, fields []string) importLine {
	var n newClient
	size := 0
	for i, name := range s.columns {
		value := fields[i]
		size += len(value)
		switch name {
		case "phone_number":
			n.PhoneNumber = strings.TrimSpace(value)
		case "operator_code":
			if value = strings.TrimSpace(value); value != "" {
				n.OperatorCode = &value
			}
		case "tag":
			n.Tag = strings.TrimSpace(value)
		case "timezone":
			n.Timezone = strings.TrimSpace(value)
		default:
			if value == "" {
				continue
			}
			if n.Attributes == nil {
				n.Attributes = map[string]any{}
			}
			n.Attributes[name] = value
		}
	}
	return imported(line, size, &n)
}

// ndjsonSource reads clients out of lines of JSON.
type ndjsonSource struct{ lines *textLines }

func newNDJSON(in io.Reader) *ndjsonSource { return &ndjsonSource{newTextLines(in)} }

func (s *ndjsonSource) next() (importLine, error) {
	for {
		line, err := s.lines.next()
		if err != nil {
			return importLine{}, err
		}
		if message := line.check(); message != "" {
			return bad(line.n, importFault{Message: message}), nil
		}
		if strings.TrimSpace(line.text) == "" {
			continue
		}
		n, faults := decodeClient([]byte(line.text))
		if len(faults) > 0 {
			return bad(line.n, faults...), nil
		}
		return imported(line.n, len(line.text), n), nil
	}
}

// decodeClient reads a client as it would come in the body of a request.
func decodeClient(text []byte) (n *newClient, faults []importFault) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil || members == nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, []importFault{{Message: fmt.Sprintf("is not JSON at byte %d", syntax.Offset)}}
		}
		return nil, []importFault{{Message: "is not an object"}}
	}
	n = &newClient{}
	wrong := func(field, message string) { faults = append(faults, importFault{Field: field, Message: message}) }
	textOf := func(name string, raw json.RawMessage, into *string) {
		var value *string
		if json.Unmarshal(raw, &value) != nil || value == nil {
			wrong(name, "must be a text")
			return
		}
		*into = *value
	}
	for name, raw := range members {
		switch name {
		case "phone_number":
			textOf(name, raw, &n.PhoneNumber)
		case "operator_code":
			n.OperatorCode = new(string)
			textOf(name, raw, n.OperatorCode)
		case "tag":
			textOf(name, raw, &n.Tag)
		case "timezone":
			textOf(name, raw, &n.Timezone)
		case "attributes":
			dec := json.NewDecoder(bytes.NewReader(raw))
			dec.UseNumber()
			if dec.Decode(&n.Attributes) != nil || n.Attributes == nil {
				wrong(name, "must be an object")
			}
		default:
			wrong("", "has a member that is not known")
		}
	}
	slices.SortFunc(faults, func(a, b importFault) int { return strings.Compare(a.Field, b.Field) })
	return n, faults
}
