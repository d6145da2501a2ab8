package telephony

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

func callsRebuild(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "rebuild", Short: "Rebuild calls and statistics from the call log", Args: cobra.NoArgs,
		Long: "Throw calls, known customers, actors and statistics away and build them from the call log anew.\n" +
			"The server goes on meanwhile with those it has. If this command is ended, nothing has changed.",
		Example: "  app calls rebuild\n  app calls rebuild --json"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		resp, err := c.Open(cmd.Context(), http.MethodPost, "/telephony/calls/rebuild", nil, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		shown := io.Discard
		if isTerminal(cmd.ErrOrStderr()) {
			shown = cmd.ErrOrStderr()
		}
		return followRebuild(resp.Body, cmd.OutOrStdout(), shown, asJSON(cmd))
	}
	return cmd
}

// rebuildAnswer is a line of the answer.
type rebuildAnswer struct {
	Done    int64    `json:"done"`
	Total   int64    `json:"total"`
	Seconds *float64 `json:"seconds"`
	Rate    float64  `json:"events_per_second"`
	Error   string   `json:"error"`
}

// followRebuild reads the lines of a rebuild to its end. out gets them as they
// are, or a line at the end; bar is where progress is drawn.
func followRebuild(stream io.Reader, out, bar io.Writer, lines bool) error {
	in := bufio.NewScanner(stream)
	began := time.Now()
	for in.Scan() {
		if len(strings.TrimSpace(in.Text())) == 0 {
			continue
		}
		var a rebuildAnswer
		if err := json.Unmarshal(in.Bytes(), &a); err != nil {
			return fmt.Errorf("read the progress: %w", err)
		}
		if lines {
			if _, err := fmt.Fprintf(out, "%s\n", in.Bytes()); err != nil {
				return err
			}
		} else {
			_, _ = fmt.Fprintf(bar, "\r%s\x1b[K", progressBar(a.Done, a.Total, time.Since(began)))
		}
		switch {
		case a.Error != "":
			if !lines {
				_, _ = fmt.Fprintln(bar)
			}
			return fmt.Errorf("rebuild failed: %s", app.Printable(a.Error))
		case a.Seconds != nil:
			if lines {
				return nil
			}
			_, _ = fmt.Fprint(bar, "\r\x1b[K")
			_, err := fmt.Fprintf(out, "rebuilt from %d events in %s, %.0f events/s\n", a.Total, duration(a.Seconds), a.Rate)
			return err
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("the rebuild's progress broke off: %w", err)
	}
	return errors.New("the rebuild's progress broke off; nothing has changed unless the server had just finished")
}

// progressBar draws how much of it is done.
func progressBar(done, total int64, took time.Duration) string {
	const width = 30
	part := 1.0
	if total > 0 {
		part = min(max(float64(done)/float64(total), 0), 1)
	}
	full := int(part * width)
	text := fmt.Sprintf("[%s%s] %3.0f%%  %d of %d events", strings.Repeat("#", full), strings.Repeat(".", width-full), part*100, done, total)
	if done > 0 && done < total && took > time.Second {
		left := time.Duration(float64(took) * float64(total-done) / float64(done)).Seconds()
		text += ", " + duration(&left) + " left"
	}
	return text
}
