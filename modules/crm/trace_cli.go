package crm

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

func crmTrace(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "trace ID", Short: "Show what the CRM should show of a user, how far that is, and what happened", Args: cobra.ExactArgs(1),
		Long: "Show what the CRM should show of a user or trip, whether that was sent, and what happened, oldest first.\n" +
			"The id is that at the platform. With --json the first line is the user or trip, and each further one an entry.",
		Example: "  app crm trace 7c9e6679-7425-40de-944b-e07fc1f90ae7\n  app crm trace --trip 0f8fad5b-d9cb-469f-a165-70867728950e --json"}
	trip := cmd.Flags().Bool("trip", false, "the id is that of a trip")
	limit := cmd.Flags().Int("limit", 1000, "most entries to print; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		k := kindUser
		if *trip {
			k = kindTrip
		}
		path := integrationPath + k.collection() + "/" + escape(args[0])
		var t traceAnswer
		if err := ask(cmd, connect, http.MethodGet, path, nil, nil, &t, t.print); err != nil {
			return err
		}
		c, err := connect()
		if err != nil {
			return err
		}
		return app.EachPage(cmd, c, path+"/log", nil, *limit, traceTable)
	}
	return cmd
}

// traceAnswer is a user or trip as the API gives it.
type traceAnswer struct {
	User          *userAnswer `json:"user"`
	Trip          *tripAnswer `json:"trip"`
	State         string      `json:"state"`
	AtCRM         string      `json:"at_crm"`
	CRMID         string      `json:"crm_id"`
	Current       bool        `json:"current"`
	SentAt        *time.Time  `json:"sent_at"`
	DirtySince    *time.Time  `json:"dirty_since"`
	NextAttemptAt *time.Time  `json:"next_attempt_at"`
	Attempts      int64       `json:"attempts"`
	LastError     string      `json:"last_error"`
	Refusal       string      `json:"refusal"`
	Log           string      `json:"log"`
	Seq           int64       `json:"seq"`
	At            time.Time   `json:"at"`
}

func (t *traceAnswer) print(w io.Writer) error {
	if t.User != nil {
		t.User.print(w)
	}
	if t.Trip != nil {
		t.Trip.print(w)
	}
	namedLine(w, "state", strings.ReplaceAll(t.State, "_", " "))
	at := map[string]string{"unknown": "never sent", "tried": "its creation was tried", "there": "there"}[t.AtCRM]
	if t.CRMID != "" {
		at += " as " + app.Printable(t.CRMID)
	}
	if t.SentAt != nil {
		at += ", sent at " + shortTime(t.SentAt)
		if !t.Current {
			at += ", something else"
		}
	}
	namedLine(w, "at the CRM", at)
	if t.DirtySince != nil {
		namedLine(w, "to be sent", "since "+shortTime(t.DirtySince))
	}
	if t.NextAttemptAt != nil {
		namedLine(w, "next attempt", fmt.Sprintf("%s, after %d that failed", shortTime(t.NextAttemptAt), t.Attempts))
	}
	namedLine(w, "last error", app.Printable(t.LastError))
	namedLine(w, "refused", app.Printable(t.Refusal))
	namedLine(w, "newest event", fmt.Sprintf("%s, %s place %d", shortTime(&t.At), app.Printable(t.Log), t.Seq))
	_, err := fmt.Fprintln(w)
	return err
}

// traceTable prints what happened.
func traceTable(w io.Writer) (func(json.RawMessage) error, func() error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "TIME\tEVENT\tTRIP\tDETAILS")
	return func(raw json.RawMessage) error {
		var e struct {
			Time  time.Time       `json:"time"`
			Event string          `json:"event"`
			Trip  string          `json:"trip"`
			Data  json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("read an entry: %w", err)
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), app.Printable(e.Event), app.OrDash(e.Trip[:min(len(e.Trip), 8)]), app.Members(e.Data))
		return err
	}, table.Flush
}
