package crm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

func crmStatus(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show how far the CRM is behind, and why", Args: cobra.NoArgs,
		Long: "Show how far the CRM is behind, and why.\n" +
			"With --watch go on, until interrupted: on a terminal as a page, else as a line whenever something has changed.",
		Example: "  app crm status\n  app crm status --watch\n  app crm status --json"}
	watch := cmd.Flags().Bool("watch", false, "go on")
	interval := cmd.Flags().Duration("interval", time.Second, "how often to look with --watch, at least 100ms")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *interval < 100*time.Millisecond {
			return app.Usage(errors.New("--interval is at least 100ms"))
		}
		var s statusAnswer
		if !*watch {
			return ask(cmd, connect, http.MethodGet, integrationPath+"/status", nil, nil, &s, s.print)
		}
		c, err := connect()
		if err != nil {
			return err
		}
		w := statusWatch{out: cmd.OutOrStdout(), asJSON: asJSON(cmd)}
		w.page = onTerminal(w.out) && !w.asJSON
		return w.follow(cmd.Context(), c, *interval)
	}
	return cmd
}

// statusAnswer is the state as the API gives it.
type statusAnswer struct {
	State   string   `json:"state"`
	Reasons []string `json:"reasons"`
	CRM     struct {
		Address string     `json:"address"`
		Breaker string     `json:"breaker"`
		Until   *time.Time `json:"until"`
		Calls   []struct {
			Kind   string `json:"kind"`
			Call   string `json:"call"`
			Result string `json:"result"`
			Count  int64  `json:"count"`
		} `json:"calls"`
	} `json:"crm"`
	Sources []struct {
		Source     string `json:"source"`
		State      string `json:"state"`
		Reason     string `json:"reason"`
		Lag        int64  `json:"lag"`
		Partitions []struct {
			Topic     string     `json:"topic"`
			Partition int32      `json:"partition"`
			Position  int64      `json:"position"`
			Lag       int64      `json:"lag"`
			At        *time.Time `json:"at"`
		} `json:"partitions"`
	} `json:"sources"`
	Unfolded  *uint64 `json:"bus_messages"`
	Positions []struct {
		Log    string     `json:"log"`
		Events int64      `json:"events"`
		Seq    int64      `json:"seq"`
		At     *time.Time `json:"at"`
	} `json:"positions"`
	Users int64 `json:"users"`
	Trips int64 `json:"trips"`
	Dirty struct {
		Units         int64   `json:"units"`
		Objects       int64   `json:"objects"`
		Waiting       int64   `json:"waiting"`
		OldestSeconds float64 `json:"oldest_seconds"`
	} `json:"dirty"`
	DeadLetters struct {
		Events int64 `json:"events"`
		Users  int64 `json:"users"`
		Trips  int64 `json:"trips"`
	} `json:"dead_letters"`
	Backfill *backfillAnswer `json:"backfill"`
}

// print prints all of it.
func (s *statusAnswer) print(w io.Writer) error {
	namedLine(w, "state", strings.ReplaceAll(s.State, "_", " "))
	for _, reason := range s.Reasons {
		namedLine(w, "", app.Printable(reason))
	}
	breaker := s.CRM.Breaker
	if s.CRM.Until != nil {
		breaker += ", next call at " + shortTime(s.CRM.Until)
	}
	namedLine(w, "CRM", app.Printable(s.CRM.Address))
	namedLine(w, "breaker", breaker)
	namedLine(w, "known", fmt.Sprintf("%s, %s", count(s.Users, "user", "users"), count(s.Trips, "trip", "trips")))
	toSend := fmt.Sprintf("%s of %s", count(s.Dirty.Objects, "object", "objects"), count(s.Dirty.Units, "user", "users"))
	if s.Dirty.Objects > 0 {
		toSend += ", the oldest for " + age(s.Dirty.OldestSeconds)
	}
	namedLine(w, "to be sent", toSend)
	if s.Dirty.Waiting > 0 {
		namedLine(w, "waiting", count(s.Dirty.Waiting, "trip whose user has not come yet", "trips whose users have not come yet"))
	}
	if d := s.DeadLetters; d.Events+d.Users+d.Trips > 0 {
		namedLine(w, "dead letters", fmt.Sprintf("%s, %s, %s", count(d.Events, "event", "events"), count(d.Users, "user", "users"), count(d.Trips, "trip", "trips")))
	}
	if s.Unfolded != nil {
		namedLine(w, "on the bus", count(int64(*s.Unfolded), "message", "messages"))
	}
	if s.Backfill != nil {
		namedLine(w, "backfill", s.Backfill.line())
	}
	return errors.Join(s.tables(w)...)
}

func (s *statusAnswer) tables(w io.Writer) (failed []error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	begin := func(heading string) { _, _ = fmt.Fprint(table, "\n"+heading+"\n") }
	if len(s.Sources) > 0 {
		begin("SOURCE\tSTATE\tTOPIC\tPARTITION\tPOSITION\tLAG\tLAST EVENT")
	}
	for _, from := range s.Sources {
		state := from.State
		if from.Reason != "" {
			state += " (" + app.Printable(from.Reason) + ")"
		}
		if len(from.Partitions) == 0 {
			_, _ = fmt.Fprintf(table, "%s\t%s\t-\t-\t-\t%d\t-\n", app.Printable(from.Source), state, from.Lag)
		}
		for _, p := range from.Partitions {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", app.Printable(from.Source), state, app.Printable(p.Topic), p.Partition, p.Position, p.Lag, shortTime(p.At))
		}
	}
	failed = append(failed, table.Flush())
	if len(s.Positions) > 0 {
		begin("LOG\tEVENTS\tPLACE\tLAST EVENT")
	}
	for _, p := range s.Positions {
		_, _ = fmt.Fprintf(table, "%s\t%d\t%d\t%s\n", app.Printable(p.Log), p.Events, p.Seq, shortTime(p.At))
	}
	failed = append(failed, table.Flush())
	if len(s.CRM.Calls) > 0 {
		begin("CALLS OF\tCALL\tRESULT\tCOUNT")
	}
	for _, c := range s.CRM.Calls {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\n", c.Kind, c.Call, strings.ReplaceAll(c.Result, "_", " "), c.Count)
	}
	return append(failed, table.Flush())
}

// line is all of it in one.
func (s *statusAnswer) line() string {
	lag := int64(0)
	for _, from := range s.Sources {
		lag += from.Lag
	}
	text := fmt.Sprintf("%s  lag %d, to be sent %d, breaker %s, dead letters %d", strings.ReplaceAll(s.State, "_", " "), lag, s.Dirty.Objects, s.CRM.Breaker,
		s.DeadLetters.Events+s.DeadLetters.Users+s.DeadLetters.Trips)
	if s.Backfill != nil {
		text += ", backfill " + s.Backfill.State
	}
	return text
}

// statusWatch shows the state again and again.
type statusWatch struct {
	out          io.Writer
	asJSON, page bool
	shown        []byte // what was shown last
}

func (w *statusWatch) follow(ctx context.Context, c *app.Client, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		var raw json.RawMessage
		if err := c.Do(ctx, http.MethodGet, integrationPath+"/status", nil, nil, &raw); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := w.show(raw); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// show shows what is new.
func (w *statusWatch) show(raw json.RawMessage) error {
	var s statusAnswer
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	var text bytes.Buffer
	switch {
	case w.asJSON:
		if err := printRaw(&text, raw); err != nil {
			return err
		}
	case w.page:
		text.WriteString("\x1b[H\x1b[2J")
		if err := s.print(&text); err != nil {
			return err
		}
	default:
		text.WriteString(s.line() + "\n")
	}
	if bytes.Equal(text.Bytes(), w.shown) {
		return nil
	}
	w.shown = text.Bytes()
	_, err := w.out.Write(w.shown)
	return err
}
