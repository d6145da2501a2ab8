package telephony

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"switchboard/platform/app"
)

const (
	// boardLook is how often the board asks for calls at most, and boardDraw how
	// often it is drawn at least, so that times go on.
	boardLook = time.Second
	boardDraw = time.Second
	// boardCalls is how many calls it asks for; of more it says so.
	boardCalls = 1000
)

// board is what the live board shows.
type board struct {
	mu       sync.Mutex
	calls    []callAnswer // active, newest first
	more     bool         // there are more than these
	events   int64        // heard of
	finished int64        // calls of which the end was heard of
	link     string       // how the connection is; "" if well
	trouble  string       // why calls could not be read
	stale    bool         // something happened since the calls were read
	changed  chan struct{}
}

func newBoard() *board { return &board{stale: true, changed: make(chan struct{}, 1)} }

func (b *board) update(fn func()) {
	b.mu.Lock()
	fn()
	b.mu.Unlock()
	select {
	case b.changed <- struct{}{}:
	default: // it will be drawn anyway
	}
}

// heard takes in what the stream tells, and ends it after limit events.
func (b *board) heard(limit int) func(tailNote) error {
	return func(note tailNote) error {
		done := false
		b.update(func() {
			switch {
			case note.Lost != nil:
				b.link = fmt.Sprintf("not connected: %v; trying again in %s", note.Lost, note.Again.Round(100*time.Millisecond))
			case note.Up:
				b.link, b.stale = "", true
			default:
				b.events++
				b.stale = true
				done = b.events == int64(limit)
				var e loggedAnswer
				if e.read(note.Event) == nil && kinds[e.text("type")] == kindFinished {
					b.finished++
				}
			}
		})
		if done {
			return io.EOF
		}
		return nil
	}
}

// look reads the active calls again if something happened, at most once in
// boardLook, until ctx ends.
func (b *board) look(ctx context.Context, c *app.Client) error {
	tick := time.NewTicker(boardLook)
	defer tick.Stop()
	for {
		b.mu.Lock()
		stale := b.stale
		b.stale = false
		b.mu.Unlock()
		if stale {
			var page struct {
				Items []callAnswer `json:"items"`
				Next  *string      `json:"next"`
			}
			err := c.Do(ctx, http.MethodGet, "/telephony/calls", url.Values{"active": {"true"}, "limit": {fmt.Sprint(boardCalls)}}, nil, &page)
			b.update(func() {
				if err != nil {
					b.trouble, b.stale = err.Error(), true
					return
				}
				b.trouble, b.calls, b.more = "", page.Items, page.Next != nil
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// draw gives the board's lines for a screen of this size.
func (b *board) draw(now time.Time, width, height int, p paint) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	counts := map[string]int{}
	for i := range b.calls {
		counts[b.calls[i].State]++
	}
	var head []string
	for _, state := range []string{"NEW", "STANDBY", "WAITING", "ONGOING"} {
		head = append(head, p.text(stateColours[state], fmt.Sprintf("%s %d", state, counts[state])))
	}
	head = append(head, p.text(colourGrey, fmt.Sprintf("finished %d meanwhile", b.finished)), fmt.Sprintf("events %d", b.events))
	lines := []string{strings.Join(head, "   ")}
	switch {
	case b.link != "":
		lines = append(lines, p.text(colourRed, shorten(app.Printable(b.link), width)))
	case b.trouble != "":
		lines = append(lines, p.text(colourRed, shorten(app.Printable(b.trouble), width)))
	case b.more:
		lines = append(lines, fmt.Sprintf("There are more; these are the newest %d.", len(b.calls)))
	default:
		lines = append(lines, "")
	}
	row := func(state, call, their, queue, age string) string {
		return shorten(fmt.Sprintf("%-8s  %-24s  %-16s  %-10s  %8s", state, call, their, queue, age), width)
	}
	lines = append(lines, p.text(colourGrey, row("STATE", "CALL", "THEIR NUMBER", "QUEUE", "SINCE")))
	for i := range b.calls {
		if len(lines) >= height-1 {
			break
		}
		c := &b.calls[i]
		age := max(now.Sub(c.CreatedAt).Seconds(), 0)
		line := row(c.State, app.Printable(c.CallID), app.OrDash(c.TheirNumber), app.OrDash(c.Queue), duration(&age))
		if n := len(c.State); len(line) >= n {
			line = p.text(stateColours[c.State], line[:n]) + line[n:]
		}
		lines = append(lines, line)
	}
	if len(b.calls) == 0 {
		lines = append(lines, "No call is active.")
	}
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	return append(lines[:max(height-1, 1)], p.text(colourGrey, shorten("q ends", width)))
}

// shorten shortens a text to a width in characters.
func shorten(text string, width int) string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width])
}

// What a terminal is told: ECMA-48, and the alternate screen that xterm made
// common.
const (
	screenEnter = "\x1b[?1049h\x1b[?25l\x1b[2J"
	screenLeave = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	lineClear   = "\x1b[K"
)

// tailBoard shows the live board on a terminal until ctx ends, q or Ctrl-C is
// pressed, or limit events came; 0 is no limit.
func tailBoard(ctx context.Context, s *callStream, c *app.Client, in io.Reader, out io.Writer, limit int) error {
	size := func() (int, int) { return 80, 24 }
	if f, ok := out.(*os.File); ok {
		size = func() (int, int) {
			w, h, err := term.GetSize(int(f.Fd()))
			if err != nil || w < 1 || h < 1 {
				return 80, 24
			}
			return w, h
		}
	}
	keys, restore := readKeys(in)
	defer restore()
	return runBoard(ctx, s, c, keys, out, size, paintFor(out), limit)
}

// readKeys gives the keys pressed on a terminal one by one, without waiting for
// a line. What it gives is closed, and the terminal as before, after restore.
// Where it cannot, there are no keys, and Ctrl-C is a signal as ever.
func readKeys(in io.Reader) (keys <-chan byte, restore func()) {
	none := func() {}
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, none
	}
	// A file of its own: closing it ends the reading.
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return nil, none
	}
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		_ = tty.Close()
		return nil, none
	}
	out, ended := make(chan byte), make(chan struct{})
	go func() {
		defer close(out)
		buf := make([]byte, 1)
		for {
			if _, err := tty.Read(buf); err != nil {
				return
			}
			select {
			case out <- buf[0]:
			case <-ended:
				return
			}
		}
	}()
	return out, func() {
		close(ended)
		_ = tty.Close()
		_ = term.Restore(int(f.Fd()), before)
	}
}

const keyCtrlC = 3

var errQuit = errors.New("quit")

// runBoard draws until it is told to end.
func runBoard(ctx context.Context, s *callStream, c *app.Client, keys <-chan byte, out io.Writer, size func() (width, height int), p paint, limit int) error {
	b := newBoard()
	if _, err := io.WriteString(out, screenEnter); err != nil {
		return err
	}
	defer func() { _, _ = io.WriteString(out, screenLeave) }()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := s.run(ctx, b.heard(limit)); err != nil || ctx.Err() != nil {
			return err
		}
		return errQuit
	})
	g.Go(func() error { return b.look(ctx, c) })
	g.Go(func() error {
		tick := time.NewTicker(boardDraw)
		defer tick.Stop()
		drawn := time.Time{}
		for {
			// A busy board is drawn some times a second, not at each event.
			if now := time.Now(); now.Sub(drawn) >= boardDraw/8 {
				drawn = now
				width, height := size()
				screen := screenHome + strings.Join(b.draw(now, width, height, p), lineClear+"\r\n") + lineClear
				if _, err := io.WriteString(out, screen); err != nil {
					return err
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case key, ok := <-keys:
				if ok && (key == 'q' || key == 'Q' || key == keyCtrlC) {
					return errQuit
				}
				if !ok {
					keys = nil
				}
			case <-b.changed:
			case <-tick.C:
			}
		}
	})
	if err := g.Wait(); err != nil && !errors.Is(err, errQuit) {
		return err
	}
	return nil
}
