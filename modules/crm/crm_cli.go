package crm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"switchboard/platform/app"
)

func crmCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "crm", Short: "Look at the CRM, and at what keeps it in step", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	connect := app.ClientFlags(cmd)
	cmd.AddCommand(crmStatus(connect), crmTrace(connect), crmDeadLetters(connect), crmReconcile(connect), crmBackfill(connect),
		crmObjects(connect, kindUser), crmObjects(connect, kindTrip), crmFaults(connect))
	return cmd
}

// group is a command of commands.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(commands...)
	return cmd
}

// asJSON tells whether the answer is for a script.
func asJSON(cmd *cobra.Command) bool {
	v, err := cmd.Flags().GetBool("json")
	return err == nil && v
}

// onTerminal tells whether a person reads what is written to w.
func onTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// ask calls a route. For a script the answer is printed as it is, and show is
// not called.
func ask(cmd *cobra.Command, connect func() (*app.Client, error), method, path string, query url.Values, in, out any, show func(io.Writer) error) error {
	c, err := connect()
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := c.Do(cmd.Context(), method, path, query, in, &raw); err != nil {
		return err
	}
	if asJSON(cmd) {
		return printRaw(cmd.OutOrStdout(), raw)
	}
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			return fmt.Errorf("read the answer of %s %s: %w", method, path, err)
		}
	}
	return show(cmd.OutOrStdout())
}

// printRaw prints an answer in one line.
func printRaw(w io.Writer, raw json.RawMessage) error {
	var line bytes.Buffer
	if json.Compact(&line, raw) != nil { // nothing, or no JSON
		line.Reset()
		line.WriteString(strings.TrimSpace(string(raw)))
	}
	if line.Len() == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "%s\n", &line)
	return err
}

// shortTime is a time for a table: UTC, to the second. Nil is a dash.
func shortTime(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// age shows seconds for people: 4.2s, 1m05s, 2h03m.
func age(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// namedLine prints a line of a list of names and values, unless there is no value.
func namedLine(w io.Writer, name, value string) {
	if value != "" {
		_, _ = fmt.Fprintf(w, "%-14s %s\n", name, value)
	}
}

// count is a number of things.
func count(n int64, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

const integrationPath = "/crm/integration"
