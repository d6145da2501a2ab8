package eventlog

import (
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// console writes lines for people:
//
//	[App] 16366 - 05/25/2021, 9:46:00 PM  [order.created] orderId: cfa3… +4ms
//
// with the process, the time of the entry in the local zone, and the
// milliseconds since the line before was written. All modules share one, since
// they share the screen.
type console struct {
	now func() time.Time
	pid int

	mu    sync.Mutex
	w     io.Writer
	last  time.Time
	lines []byte
}

func newConsole(w io.Writer, now func() time.Time) *console {
	return &console{w: w, now: now, pid: os.Getpid()}
}

// write gathers the lines of an entry: a write for each would cost a system
// call for each receiver.
func (c *console) write(_ context.Context, batch []*record) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range batch {
		c.lines = c.append(c.lines[:0], &r.Entry, "", r.Text)
		for _, target := range r.Targets {
			if len(c.lines) > gathered {
				if _, err := c.w.Write(c.lines); err != nil {
					return i, err
				}
				c.lines = c.lines[:0]
			}
			c.lines = c.append(c.lines, &r.Entry, sentTo, target)
		}
		if _, err := c.w.Write(c.lines); err != nil {
			return i, err
		}
	}
	return len(batch), nil
}

const gathered = 32 << 10

func (c *console) close() {}

const consoleTime = "01/02/2006, 3:04:05 PM"

// append appends one line.
func (c *console) append(b []byte, e *Entry, before, text string) []byte {
	now := c.now()
	since := int64(0)
	if !c.last.IsZero() {
		since = max(0, now.Sub(c.last).Milliseconds())
	}
	c.last = now
	b = append(b, "[App] "...)
	b = strconv.AppendInt(b, int64(c.pid), 10)
	b = append(b, " - "...)
	b = e.Time.In(now.Location()).AppendFormat(b, consoleTime)
	b = append(b, "  ["...)
	b = oneLine(b, e.Event)
	b = append(b, ']')
	if text != "" {
		b = append(b, ' ')
		b = append(b, before...)
		b = oneLine(b, text)
	}
	b = append(b, " +"...)
	b = strconv.AppendInt(b, since, 10)
	return append(b, "ms\n"...)
}

// oneLine appends s without what could forge another line or command a
// terminal: control characters, and those that turn the direction of writing.
func oneLine(b []byte, s string) []byte {
	if !strings.ContainsFunc(s, commands) {
		return append(b, s...)
	}
	for _, r := range s {
		if commands(r) {
			quoted := strconv.QuoteRune(r)
			b = append(b, quoted[1:len(quoted)-1]...)
		} else {
			b = utf8.AppendRune(b, r)
		}
	}
	return b
}

func commands(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}
