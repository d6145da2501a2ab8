package crm

import (
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

func crmReconcile(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "reconcile", Short: "Compare the CRM with what it should show, and repair it", Args: cobra.NoArgs,
		Long: "Read all users and trips of the CRM and compare them with what it should show. What differs or is missing is\n" +
			"sent again; that goes on after this command. What the CRM has too much stays.",
		Example: "  app crm reconcile\n  app crm reconcile --no-repair --limit 20\n  app crm reconcile --json"}
	noRepair := cmd.Flags().Bool("no-repair", false, "only tell what differs")
	limit := cmd.Flags().Int("limit", 50, fmt.Sprintf("most differences to print, 0 to %d", maxDifferences))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *limit < 0 || *limit > maxDifferences {
			return app.Usage(fmt.Errorf("--limit is 0 to %d", maxDifferences))
		}
		var r Reconciliation
		return ask(cmd, connect, http.MethodPost, integrationPath+"/reconcile", nil, map[string]any{"repair": !*noRepair, "limit": *limit}, &r, r.print)
	}
	return cmd
}

func (r *Reconciliation) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "KIND\tCOMPARED\tEQUAL\tDIFFERENT\tMISSING\tWAITING\tREFUSED\tEXTRA\tDUPLICATE")
	for _, of := range []struct {
		name string
		c    *Comparison
	}{{"users", &r.Users}, {"trips", &r.Trips}} {
		_, _ = fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", of.name, of.c.Compared, of.c.Equal, of.c.Different, of.c.Missing, of.c.Waiting, of.c.Refused, of.c.Extra, of.c.Duplicate)
	}
	if len(r.Differences) > 0 {
		_, _ = fmt.Fprintln(table)
	}
	err := table.Flush()
	for _, d := range r.Differences {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", d.Kind, app.Printable(d.ID), d.What, strings.Join(d.Fields, ", "))
	}
	if r.Truncated {
		_, _ = fmt.Fprintln(table, "…")
	}
	if err := errors.Join(err, table.Flush()); err != nil {
		return err
	}
	if r.Repairing > 0 {
		_, err = fmt.Fprintf(w, "\n%s sent again\n", count(r.Repairing, "object is", "objects are"))
	}
	return err
}

func crmBackfill(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "backfill", Short: "Read the sources and send everything again", Args: cobra.NoArgs,
		Long: "Have the server read again what the sources still hold, and then send every user and trip, as for a CRM that is\n" +
			"new or lost what it had. It goes on after this command; see how far it is with app crm status.",
		Example: "  app crm backfill\n  app crm backfill --from 2026-01-02T00:00:00Z\n  app crm status --watch"}
	from := cmd.Flags().String("from", "", "only events of the sources since then, RFC 3339; all without")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		in := map[string]any{}
		if *from != "" {
			if _, err := time.Parse(time.RFC3339, *from); err != nil {
				return app.Usage(errors.New("--from is a time as in 2026-01-02T00:00:00Z"))
			}
			in["from"] = *from
		}
		var b backfillAnswer
		return ask(cmd, connect, http.MethodPost, integrationPath+"/backfill", nil, in, &b, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, b.line())
			return err
		})
	}
	return cmd
}

// backfillAnswer is a backfill as the API gives it.
type backfillAnswer struct {
	State  string `json:"state"`
	Reason string `json:"reason"`
	Users  int64  `json:"users"`
	Trips  int64  `json:"trips"`
}

func (b *backfillAnswer) line() string {
	text := b.State
	if b.State != backfillReading {
		text += fmt.Sprintf(", %s and %s marked", count(b.Users, "user", "users"), count(b.Trips, "trip", "trips"))
	}
	if b.Reason != "" {
		text += ": " + app.Printable(b.Reason)
	}
	return text
}
