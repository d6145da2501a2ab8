package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// textHandler writes a line for people:
//
//	15:04:05.000 INFO  collector event refused reason="too large"
type textHandler struct {
	mu       *sync.Mutex
	w        io.Writer
	terminal bool
	colour   bool
	module   string
	attrs    []byte // already written out, each with a space before it
	group    string // prefix of the keys to come, "a.b."
}

func newTextHandler(w io.Writer, terminal, colour bool) *textHandler {
	return &textHandler{mu: &sync.Mutex{}, w: w, terminal: terminal, colour: colour}
}

func (h *textHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *textHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.group += name + "."
	return &c
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	if c.group == "" && len(attrs) == 1 && attrs[0].Key == moduleKey && c.module == "" && attrs[0].Value.Kind() == slog.KindString {
		c.module = attrs[0].Value.String()
		return &c
	}
	buf := bytes.NewBuffer(bytes.Clone(h.attrs))
	for _, a := range attrs {
		c.attr(buf, c.group, a)
	}
	c.attrs = buf.Bytes()
	return &c
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	buf := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() < 64<<10 {
			buf.Reset()
			buffers.Put(buf)
		}
	}()
	if !r.Time.IsZero() {
		h.paint(buf, dim, h.time(r.Time))
		buf.WriteByte(' ')
	}
	h.paint(buf, levelColour(r.Level), fmt.Sprintf("%-5s", r.Level))
	if h.module != "" {
		buf.WriteByte(' ')
		h.paint(buf, cyan, bare(h.module))
	}
	buf.WriteByte(' ')
	message(buf, r.Message)
	buf.Write(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		h.attr(buf, h.group, a)
		return true
	})
	buf.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.w.Write(buf.Bytes())
	return err
}

// time is the time of day where someone watches, else the moment in UTC.
func (h *textHandler) time(t time.Time) string {
	if h.terminal {
		return t.Format("15:04:05.000")
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func (h *textHandler) attr(buf *bytes.Buffer, group string, a slog.Attr) {
	a.Value = a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return
	}
	if a.Value.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, m := range a.Value.Group() {
			h.attr(buf, group, m)
		}
		return
	}
	buf.WriteByte(' ')
	h.paint(buf, dim, bare(group+a.Key)+"=")
	s, isJSON := text(a.Value)
	if !isJSON || !printable(s) {
		s = bare(s)
	}
	buf.WriteString(s)
}

// text shows a value; what has parts is shown as JSON, whose own quotes are
// enough.
func text(v slog.Value) (s string, isJSON bool) {
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().UTC().Format("2006-01-02T15:04:05.000000Z"), false
	case slog.KindAny:
	default:
		return v.String(), false
	}
	defer func() { // a method of the value failed, on a nil pointer for one
		if p := recover(); p != nil {
			s, isJSON = fmt.Sprintf("!PANIC:%T", v.Any()), false
		}
	}()
	switch x := v.Any().(type) {
	case nil:
		return "null", false
	case error:
		return x.Error(), false
	case json.Marshaler:
	case fmt.Stringer:
		return x.String(), false
	}
	data, err := encode(v.Any())
	if err != nil {
		return "!ERROR:" + err.Error(), false
	}
	var str string
	if len(data) > 0 && data[0] == '"' && json.Unmarshal(data, &str) == nil {
		return str, false
	}
	return string(data), true
}

// bare leaves a text as it is when it reads as one word, else puts it in
// quotes, so that no value can begin a line or look like another attribute.
func bare(s string) string {
	if s == "" {
		return `""`
	}
	for _, r := range s {
		if r == ' ' || r == '"' || r == '=' || r == utf8.RuneError || !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// message is not quoted, but keeps to its line and away from the terminal.
func message(buf *bytes.Buffer, s string) {
	if printable(s) {
		buf.WriteString(s)
		return
	}
	q := strconv.Quote(s)
	buf.WriteString(q[1 : len(q)-1])
}

const (
	dim    = "2"
	cyan   = "36"
	red    = "31"
	yellow = "33"
	green  = "32"
	blue   = "34"
)

func levelColour(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return red
	case l >= slog.LevelWarn:
		return yellow
	case l >= slog.LevelInfo:
		return green
	}
	return blue
}

func (h *textHandler) paint(buf *bytes.Buffer, colour, s string) {
	if !h.colour {
		buf.WriteString(s)
		return
	}
	buf.WriteString("\x1b[" + colour + "m" + s + "\x1b[0m")
}
