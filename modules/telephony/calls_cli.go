package telephony

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"switchboard/platform/app"
)

func callsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "calls", Short: "Query calls, watch them live, delegate and dial", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	connect := app.ClientFlags(cmd)
	cmd.AddCommand(callsList(connect), callsShow(connect), callsTail(connect), callsDelegate(connect), callsDial(connect), callsRebuild(connect), callsStats(connect))
	return cmd
}

// asJSON tells whether the answer is for a script.
func asJSON(cmd *cobra.Command) bool {
	v, err := cmd.Flags().GetBool("json")
	return err == nil && v
}

// isTerminal tells whether a person reads what is written to w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// paint colours texts on a terminal, unless the user wants none.
type paint bool

func paintFor(w io.Writer) paint { return paint(isTerminal(w) && os.Getenv("NO_COLOR") == "") }

// Colours of ECMA-48. Each is written in two digits, so that columns of
// painted texts stay in line.
const (
	colourRed    = "31"
	colourGreen  = "32"
	colourYellow = "33"
	colourBlue   = "34"
	colourGrey   = "90"
)

var stateColours = map[string]string{"NEW": colourBlue, "STANDBY": colourBlue, "WAITING": colourYellow, "ONGOING": colourGreen, "FINISHED": colourGrey}

func (p paint) text(colour, text string) string {
	if !p || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// duration shows seconds for people: 4.2s, 1m05s, 2h03m. Nil is a dash.
func duration(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	d := time.Duration(*seconds * float64(time.Second))
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

// percent shows a part of 1. Nil is a dash.
func percent(part *float64) string {
	if part == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", *part*100)
}

// shortTime is a time for a table: UTC, to the second.
func shortTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// callAnswer is a call as the API gives it.
type callAnswer struct {
	ID          int64     `json:"id"`
	CallID      string    `json:"call_id"`
	State       string    `json:"state"`
	Outcome     string    `json:"outcome"`
	Direction   string    `json:"direction"`
	OurNumber   string    `json:"our_number"`
	TheirNumber string    `json:"their_number"`
	Queue       string    `json:"queue"`
	Code        string    `json:"code"`
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
	Wait        *float64  `json:"wait_seconds"`
	Talk        *float64  `json:"talk_seconds"`
	Events      int64     `json:"events"`
	Delegation  *struct {
		State       string `json:"state"`
		Destination string `json:"destination"`
		Customer    string `json:"customer"`
		Attempts    int64  `json:"attempts"`
		Detail      string `json:"detail"`
	} `json:"delegation"`
	Actors []struct {
		Actor     string   `json:"actor"`
		Rings     int64    `json:"rings"`
		NoAnswers int64    `json:"no_answers"`
		Answers   int64    `json:"answers"`
		Talk      *float64 `json:"talk_seconds"`
	} `json:"actors"`
}

func callsList(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List calls, newest first", Args: cobra.NoArgs,
		Example: "  app calls list --active\n  app calls list --state WAITING --queue 900\n" +
			"  app calls list --their-number 11999990000 --from 2026-01-02T00:00:00Z --limit 0 --json"}
	flags := map[string]*string{
		"state":        cmd.Flags().String("state", "", "only calls in this state: NEW, STANDBY, WAITING, ONGOING, FINISHED"),
		"direction":    cmd.Flags().String("direction", "", "only inbound or outbound calls"),
		"their_number": cmd.Flags().String("their-number", "", "only calls with this number"),
		"our_number":   cmd.Flags().String("our-number", "", "only calls of this number of ours"),
		"queue":        cmd.Flags().String("queue", "", "only calls of this queue"),
		"from":         cmd.Flags().String("from", "", "only calls that began then or later, RFC 3339"),
		"to":           cmd.Flags().String("to", "", "only calls that began then or earlier, RFC 3339"),
	}
	active := cmd.Flags().Bool("active", false, "only calls that are not finished; =false: only those that are")
	limit := cmd.Flags().Int("limit", 50, "most calls to print; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		q := url.Values{}
		for name, value := range flags {
			if *value != "" {
				q.Set(name, *value)
			}
		}
		q.Set("state", strings.ToUpper(q.Get("state")))
		if q.Get("state") == "" {
			q.Del("state")
		}
		if cmd.Flags().Changed("active") {
			q.Set("active", fmt.Sprint(*active))
		}
		return app.EachPage(cmd, c, "/telephony/calls", q, *limit, callTable)
	}
	return cmd
}

// callTable prints calls as lines for people.
func callTable(w io.Writer) (func(json.RawMessage) error, func() error) {
	table, p := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), paintFor(w)
	_, _ = fmt.Fprintf(table, "CALL\t%s\tOUTCOME\tDIRECTION\tTHEIR NUMBER\tQUEUE\tCREATED\tWAIT\tTALK\n", p.text("39", "STATE"))
	return func(raw json.RawMessage) error {
		var c callAnswer
		if err := json.Unmarshal(raw, &c); err != nil {
			return err
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", app.Printable(c.CallID), p.text(stateColours[c.State], c.State), app.OrDash(c.Outcome), app.OrDash(c.Direction),
			app.OrDash(c.TheirNumber), app.OrDash(c.Queue), shortTime(c.CreatedAt), duration(c.Wait), duration(c.Talk))
		return err
	}, table.Flush
}

func callsShow(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "show CALL", Short: "Show a call with its delegation and all its events", Args: cobra.ExactArgs(1),
		Long:    "Show a call, what was done about it, and its events with their time since the call began.\nWith --json the first line is the call, and each further one an event.",
		Example: "  app calls show 1463669263.30033\n  app calls show 1463669263.30033 --json"}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		path := "/telephony/calls/" + url.PathEscape(args[0])
		var raw json.RawMessage
		if err := c.Do(cmd.Context(), http.MethodGet, path, nil, nil, &raw); err != nil {
			return err
		}
		var call callAnswer
		if err := json.Unmarshal(raw, &call); err != nil {
			return fmt.Errorf("read the call: %w", err)
		}
		if asJSON(cmd) {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", strings.TrimSpace(string(raw))); err != nil {
				return err
			}
		} else {
			printCall(cmd.OutOrStdout(), &call)
			if err := app.EachPage(cmd, c, path+"/recordings", nil, 0, recordingLines(c.URL+path)); err != nil {
				return err
			}
			_, _ = fmt.Fprintln(cmd.OutOrStdout())
		}
		return app.EachPage(cmd, c, path+"/events", nil, 0, func(w io.Writer) (func(json.RawMessage) error, func() error) {
			return timeline(w, call.CreatedAt)
		})
	}
	return cmd
}

// printCall prints what is known of a call, but for its events.
func printCall(w io.Writer, c *callAnswer) {
	p := paintFor(w)
	state := p.text(stateColours[c.State], c.State)
	if c.Outcome != "" {
		state += ", " + c.Outcome
	}
	line := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "%-12s %s\n", name, value)
		}
	}
	line("call", app.Printable(c.CallID))
	line("state", state)
	line("direction", c.Direction)
	line("their number", app.Printable(c.TheirNumber))
	line("our number", app.Printable(c.OurNumber))
	line("queue", app.Printable(c.Queue))
	line("code", app.Printable(c.Code))
	line("began", shortTime(c.CreatedAt))
	line("last event", shortTime(c.UpdatedAt))
	if c.Wait != nil {
		line("waited", duration(c.Wait))
	}
	if c.Talk != nil {
		line("talked", duration(c.Talk))
	}
	if d := c.Delegation; d != nil {
		text := d.State
		if d.Destination != "" {
			text += " to " + app.Printable(d.Destination)
		}
		text += fmt.Sprintf(", %s customer, attempts %d", d.Customer, d.Attempts)
		if d.Detail != "" {
			text += ": " + app.Printable(d.Detail)
		}
		line("delegation", text)
	}
	for _, a := range c.Actors {
		text := fmt.Sprintf("%s: rang %d, did not answer %d, answered %d", app.Printable(a.Actor), a.Rings, a.NoAnswers, a.Answers)
		if a.Talk != nil && a.Answers > 0 {
			text += ", talked " + duration(a.Talk)
		}
		line("actor", text)
	}
}

// recordingLines prints where recordings are: here, or at the platform.
func recordingLines(call string) func(w io.Writer) (func(json.RawMessage) error, func() error) {
	return func(w io.Writer) (func(json.RawMessage) error, func() error) {
		return func(raw json.RawMessage) error {
			var r struct {
				ID     int64  `json:"id"`
				URL    string `json:"url"`
				State  string `json:"state"`
				Size   int64  `json:"size"`
				Detail string `json:"detail"`
			}
			if err := json.Unmarshal(raw, &r); err != nil {
				return err
			}
			text := app.Printable(r.URL)
			switch {
			case r.State == "kept":
				text = fmt.Sprintf("kept, %d bytes: %s/recordings/%d", r.Size, call, r.ID)
			case r.State != "link":
				text = strings.TrimSpace(fmt.Sprintf("%s %s %s", r.State, app.Printable(r.Detail), text))
			}
			_, err := fmt.Fprintf(w, "%-12s %s\n", "recording", text)
			return err
		}, func() error { return nil }
	}
}

// loggedAnswer is an event as the API gives it.
type loggedAnswer struct {
	ID     int64           `json:"id"`
	Call   string          `json:"aggregate_id"` // where it comes over a socket
	Event  json.RawMessage `json:"event"`
	fields map[string]any
}

// read takes the event apart.
func (e *loggedAnswer) read(raw []byte) error {
	if err := json.Unmarshal(raw, e); err != nil {
		return fmt.Errorf("read an event: %w", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(e.Event)))
	dec.UseNumber()
	if err := dec.Decode(&e.fields); err != nil {
		return fmt.Errorf("read an event: %w", err)
	}
	if e.Call == "" {
		e.Call = e.text("call_id")
	}
	return nil
}

// text gives a member of the event; "" for one that is missing, null or an object.
func (e *loggedAnswer) text(name string) string {
	switch v := e.fields[name].(type) {
	case string:
		return app.Printable(v)
	case json.Number:
		return v.String()
	}
	return ""
}

func (e *loggedAnswer) at() (time.Time, bool) {
	text, _ := e.fields["timestamp"].(string)
	t, err := parseTime(text)
	return t, err == nil
}

// tells says in a line what the event tells beside its type and call.
func (e *loggedAnswer) tells() string {
	var parts []string
	for _, f := range []struct{ member, label string }{{"direction", ""}, {"their_number", "from"}, {"queue", "queue"}, {"actor", ""}, {"number", "at"},
		{"destination", "to"}, {"ringtime", "rang"}, {"attempt", "attempt"}, {"attempts", "attempts"}, {"code", "code"}, {"url", ""}} {
		value := e.text(f.member)
		switch {
		case value == "":
			continue
		case f.member == "their_number" && e.text("direction") == "outbound":
			value = "to " + value
		case f.member == "code" && !strings.HasPrefix(e.text("type"), "dialer."):
			continue
		case f.label != "":
			value = f.label + " " + value
		}
		parts = append(parts, value)
	}
	return strings.Join(parts, "  ")
}

// timeline prints events with their time since the beginning.
func timeline(w io.Writer, begin time.Time) (func(json.RawMessage) error, func() error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	return func(raw json.RawMessage) error {
		var e loggedAnswer
		if err := e.read(raw); err != nil {
			return err
		}
		offset := "-"
		if at, ok := e.at(); ok {
			offset = fmt.Sprintf("%+.1fs", at.Sub(begin).Seconds())
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\n", offset, e.text("type"), e.tells())
		return err
	}, table.Flush
}

// printAnswer prints an object of scalars: as it is for scripts, else a line
// for each member that names gives, in their order.
func printAnswer(cmd *cobra.Command, raw json.RawMessage, names ...string) error {
	text := strings.TrimSpace(string(raw))
	if asJSON(cmd) {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
		return err
	}
	var members map[string]any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if text != "" && dec.Decode(&members) != nil {
		return errors.New("the server's answer is not JSON")
	}
	for _, name := range names {
		switch v := members[name].(type) {
		case string, json.Number, bool:
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%-12s %s\n", strings.ReplaceAll(name, "_", " "), app.Printable(fmt.Sprint(v))); err != nil {
				return err
			}
		}
	}
	return nil
}

func callsDelegate(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "delegate CALL DESTINATION", Short: "Send a call that stands by to a queue or number", Args: cobra.ExactArgs(2),
		Example: "  app calls delegate 1463669263.30033 901"}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := c.Do(cmd.Context(), http.MethodPost, "/telephony/calls/"+url.PathEscape(args[0])+"/delegate", nil, map[string]any{"destination": args[1]}, &raw); err != nil {
			return err
		}
		return printAnswer(cmd, raw, "status", "call_id", "state", "destination", "attempts", "detail")
	}
	return cmd
}

func callsDial(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "dial NUMBER…", Short: "Have the platform call numbers and connect them", Args: cobra.MinimumNArgs(1),
		Long:    "Have the platform call numbers and connect those who answer with a destination. What becomes\nof them comes as events dialer.*, with the code.",
		Example: "  app calls dial 5511999998888 --destination 100\n  app calls dial 5511999998888 5511999997777 --destination 900 --type queue --code spring --retries 2 --retry-gap 30s --ttl 1h"}
	flags := map[string]*string{
		"destination":      cmd.Flags().String("destination", "", "whom to connect: a peer, a queue (required)"),
		"destination_type": cmd.Flags().String("type", "", "what the destination is, such as peer"),
		"code":             cmd.Flags().String("code", "", "name of this dialling in its events"),
		"retries":          cmd.Flags().String("retries", "", "how often to call again who does not answer"),
		"retry_gap":        cmd.Flags().String("retry-gap", "", "how long to wait before that, such as 10s"),
		"ttl":              cmd.Flags().String("ttl", "", "how long to try at all, such as 5m"),
	}
	if err := cmd.MarkFlagRequired("destination"); err != nil {
		panic(err) // the flag is defined above
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		in := map[string]any{"numbers": args}
		for name, value := range flags {
			if *value != "" {
				in[name] = *value
			}
		}
		var raw json.RawMessage
		if err := c.Do(cmd.Context(), http.MethodPost, "/telephony/dial", nil, in, &raw); err != nil {
			return err
		}
		return printAnswer(cmd, raw, "status", "code", "numbers", "destination")
	}
	return cmd
}
