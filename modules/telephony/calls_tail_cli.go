package telephony

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

func callsTail(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "tail", Short: "Watch calls live: a board on a terminal, else a line for each event", Args: cobra.NoArgs,
		Long: "Watch calls as their events are stored. On a terminal it is a board with the calls that are not\n" +
			"finished; q or Ctrl-C ends it. Elsewhere, and with --events, it is a line for each event, with\n" +
			"--json as the server sends it. A connection that breaks is made again; what was stored in between\n" +
			"is on the board, but not among the lines.",
		Example: "  app calls tail\n  app calls tail --events\n  app calls tail --json --limit 10"}
	events := cmd.Flags().Bool("events", false, "a line for each event, on a terminal too")
	limit := cmd.Flags().Int("limit", 0, "stop after so many events; 0 to go on until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		s := newCallStream(c)
		if *events || asJSON(cmd) || !isTerminal(cmd.OutOrStdout()) {
			return tailLines(cmd.Context(), s, cmd.OutOrStdout(), cmd.ErrOrStderr(), asJSON(cmd), *limit)
		}
		return tailBoard(cmd.Context(), s, c, cmd.InOrStdin(), cmd.OutOrStdout(), *limit)
	}
	return cmd
}

// callStream hears of every event as it is stored, over as many connections as
// it takes.
type callStream struct {
	url    string
	header http.Header
	http   *http.Client
	// pause gives how long to wait before the n-th try to connect again.
	pause func(n int) time.Duration
	// ping is how often the connection is tried while nothing comes.
	ping time.Duration
}

func newCallStream(c *app.Client) *callStream {
	return &callStream{url: c.URL + "/telephony/ws", header: http.Header{"Authorization": {"Bearer " + c.Key}}, http: c.HTTP, pause: tailPause, ping: 20 * time.Second}
}

// tailPause doubles from half a second to 15 s, less up to a quarter by chance,
// so that many who lost one server do not come back at once.
func tailPause(n int) time.Duration {
	d := min(500*time.Millisecond<<min(n, 10), 15*time.Second)
	return d - time.Duration(rand.Int64N(int64(d/4)))
}

// tailNote is what the stream tells: an event, or how the connection is.
type tailNote struct {
	Event json.RawMessage // as the server sent it; nil if there is none
	Up    bool            // connected, and hearing of events
	Lost  error           // not connected any more, for this reason
	Again time.Duration   // and when the next try is
}

// maxTailFrame bounds a frame in bytes: an event is at most 1 MiB.
const maxTailFrame = 8 << 20

// run hands notes to tell until ctx ends, tell fails, or the server will not
// have us. It gives nil for the first, and for io.EOF of tell. It fails too if
// the first connection cannot be made.
func (s *callStream) run(ctx context.Context, tell func(tailNote) error) error {
	for tries, ever := 0, false; ; {
		up, err := s.connection(ctx, tell)
		var final *tailEnd
		switch {
		case errors.As(err, &final) && errors.Is(final.err, io.EOF), ctx.Err() != nil:
			return nil
		case final != nil:
			return final.err
		case !up && !ever:
			return err
		}
		if ever = true; up {
			tries = 0
		}
		wait := s.pause(tries)
		tries++
		if err := tell(tailNote{Lost: err, Again: wait}); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// tailEnd is an error that another connection would not mend.
type tailEnd struct{ err error }

func (e *tailEnd) Error() string { return e.err.Error() }
func (e *tailEnd) Unwrap() error { return e.err }

// connection serves one connection to its end, which is always an error; up
// tells whether it heard of events.
func (s *callStream) connection(ctx context.Context, tell func(tailNote) error) (up bool, err error) {
	dialling, cancel := context.WithTimeout(ctx, 15*time.Second)
	conn, resp, err := websocket.Dial(dialling, s.url, &websocket.DialOptions{HTTPHeader: s.header, HTTPClient: s.http})
	cancel()
	if err != nil {
		return false, refusal(resp, err)
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxTailFrame)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if err := conn.Write(ctx, websocket.MessageText, []byte(`{"event":"Subscribe","data":{}}`)); err != nil {
		return false, err
	}
	pinged := make(chan struct{})
	go func() {
		defer close(pinged)
		stop(s.keepAlive(ctx, conn))
	}()
	defer func() { stop(nil); <-pinged }()
	for {
		_, text, err := conn.Read(ctx)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
				err = cause
			}
			return up, plainClose(err)
		}
		var frame struct {
			Event  string          `json:"event"`
			Status string          `json:"status"`
			Data   json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(text, &frame); err != nil {
			return up, fmt.Errorf("the server sent what is no frame: %w", err)
		}
		switch {
		case frame.Event == "Subscribe" && frame.Status == "Ok" && !up:
			up, err = true, tell(tailNote{Up: true})
		case frame.Event == "CallEvent" && frame.Status == "Ok":
			err = tell(tailNote{Event: frame.Data})
		case frame.Status == "Failed":
			err = fmt.Errorf("the server does not tell of events: %s", app.Printable(string(frame.Data)))
		}
		if err != nil {
			return up, &tailEnd{err}
		}
	}
}

// keepAlive finds a connection dead that nobody closed.
func (s *callStream) keepAlive(ctx context.Context, conn *websocket.Conn) error {
	tick := time.NewTicker(s.ping)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		within, cancel := context.WithTimeout(ctx, s.ping)
		err := conn.Ping(within)
		cancel()
		if err != nil && ctx.Err() == nil {
			return errors.New("the server does not answer any more")
		}
	}
}

// refusal says why there is no connection. One that the server refuses for what
// we are will be refused again.
func refusal(resp *http.Response, err error) error {
	if resp == nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	var p struct {
		Detail string `json:"detail"`
	}
	text := "the server answered " + resp.Status
	if resp.Body != nil {
		defer resp.Body.Close()
		if json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&p) == nil && p.Detail != "" {
			text = fmt.Sprintf("%s (%d)", app.Printable(p.Detail), resp.StatusCode)
		}
	}
	if resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusRequestTimeout && resp.StatusCode != http.StatusTooManyRequests {
		return &tailEnd{errors.New(text)}
	}
	return errors.New(text)
}

// plainClose says in words how a connection ended.
func plainClose(err error) error {
	var closed websocket.CloseError
	switch {
	case errors.As(err, &closed) && closed.Reason != "":
		return errors.New(app.Printable(closed.Reason))
	case errors.As(err, &closed):
		return fmt.Errorf("the server closed the connection (%d)", int(closed.Code))
	case errors.Is(err, io.EOF):
		return errors.New("the connection broke")
	}
	return err
}

// tailLines prints a line for each event. complaints hears of the connection.
func tailLines(ctx context.Context, s *callStream, out, complaints io.Writer, raw bool, limit int) error {
	n, lost, p := 0, false, paintFor(out)
	return s.run(ctx, func(note tailNote) error {
		switch {
		case note.Lost != nil:
			lost = true
			_, _ = fmt.Fprintf(complaints, "%v; trying again in %s\n", note.Lost, note.Again.Round(100*time.Millisecond))
			return nil
		case note.Up:
			if lost {
				_, _ = fmt.Fprintln(complaints, "connected again; what was stored meanwhile is not shown")
			}
			return nil
		}
		line := string(note.Event)
		if !raw {
			var err error
			if line, err = eventLine(p, note.Event); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
		if n++; n == limit {
			return io.EOF
		}
		return nil
	})
}

// eventLine shows an event in a line.
func eventLine(p paint, raw json.RawMessage) (string, error) {
	var e loggedAnswer
	if err := e.read(raw); err != nil {
		return "", err
	}
	when := "-"
	if at, ok := e.at(); ok {
		when = at.UTC().Format("2006-01-02 15:04:05.000")
	}
	kind := e.text("type")
	line := fmt.Sprintf("%s  %s  %s  %s", p.text(colourGrey, when), p.text(kindColour(kind), fmt.Sprintf("%-24s", kind)), app.OrDash(e.Call), e.tells())
	return strings.TrimRight(line, " "), nil
}

// kindColour is that of the state which a type of event brings a call into.
func kindColour(name string) string {
	k := kinds[name]
	if k == kindQueueAbandon || k == kindOverflow || k == kindNoAnswer {
		return colourRed
	}
	if !strings.HasPrefix(name, "call.") {
		return ""
	}
	return stateColours[k.implies().String()]
}
