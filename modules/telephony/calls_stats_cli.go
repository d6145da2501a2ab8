package telephony

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

// statAnswer is a row of statistics as the API gives it.
type statAnswer struct {
	Hour         *time.Time `json:"hour"`
	Queue        *string    `json:"queue"`
	Actor        *string    `json:"actor"`
	Calls        int64      `json:"calls"`
	Offered      int64      `json:"offered"`
	Answered     int64      `json:"answered"`
	Abandoned    int64      `json:"abandoned"`
	AbandonRate  *float64   `json:"abandon_rate"`
	ServiceLevel *float64   `json:"service_level"`
	Rings        int64      `json:"rings"`
	NoAnswers    int64      `json:"no_answers"`
	Wait         struct {
		Average *float64 `json:"average"`
	} `json:"wait_seconds"`
	Talk struct {
		Total   *float64 `json:"total"`
		Average *float64 `json:"average"`
	} `json:"talk_seconds"`
}

func callsStats(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "stats", Short: "Count calls, waits and talks per queue, hour or actor", Args: cobra.NoArgs,
		Long:    "Count calls of the last 24 hours, or of another time, by queue, hour or actor.\nWaits and talks are averages. With --json each line is a row of the table, without the total.",
		Example: "  app calls stats\n  app calls stats --by hour --queue 900\n  app calls stats --by actor --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --json"}
	by := cmd.Flags().StringSlice("by", []string{"queue"}, "a row for each of these: hour, queue, actor")
	flags := map[string]*string{
		"queue": cmd.Flags().String("queue", "", "only calls of this queue"),
		"actor": cmd.Flags().String("actor", "", "only what this actor did; the name as the platform posts it"),
		"from":  cmd.Flags().String("from", "", "only hours from this one on, RFC 3339"),
		"to":    cmd.Flags().String("to", "", "only hours before then, RFC 3339"),
	}
	limit := cmd.Flags().Int("limit", 0, "most rows to print; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range *by {
			if !slices.Contains([]string{"hour", "queue", "actor"}, name) {
				return app.Usage(fmt.Errorf("--by takes hour, queue and actor, not %q", name))
			}
		}
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
		var all struct {
			From  string     `json:"from"`
			To    string     `json:"to"`
			Total statAnswer `json:"total"`
		}
		if !asJSON(cmd) {
			if err := c.Do(cmd.Context(), http.MethodGet, "/telephony/stats", q, nil, &all); err != nil {
				return err
			}
			// The rows are of the same hours, whatever the clock does.
			q.Set("from", all.From)
			q.Set("to", all.To)
		}
		q.Set("by", strings.Join(*by, ","))
		t := statTable{by: *by, ofActors: slices.Contains(*by, "actor") || q.Has("actor"), total: &all.Total}
		if t.ofActors && !q.Has("actor") {
			t.total = nil // a call of two actors is in two rows
		}
		return app.EachPage(cmd, c, "/telephony/stats", q, *limit, t.print)
	}
	return cmd
}

// statTable prints statistics for people.
type statTable struct {
	by       []string
	ofActors bool
	total    *statAnswer // nil: none
}

func (t statTable) print(w io.Writer) (func(json.RawMessage) error, func() error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := strings.ToUpper(strings.Join(t.by, "\t"))
	if t.ofActors {
		_, _ = fmt.Fprintln(table, head+"\tCALLS\tANSWERED\tRINGS\tNO ANSWER\tTALK\tTALKED IN ALL")
	} else {
		_, _ = fmt.Fprintln(table, head+"\tCALLS\tOFFERED\tANSWERED\tABANDONED\tABANDON RATE\tSERVICE LEVEL\tWAIT\tTALK")
	}
	return func(raw json.RawMessage) error {
			var s statAnswer
			if err := json.Unmarshal(raw, &s); err != nil {
				return err
			}
			_, err := fmt.Fprintln(table, t.label(&s)+"\t"+t.figures(&s))
			return err
		}, func() error {
			if t.total != nil {
				_, _ = fmt.Fprintln(table, "total"+strings.Repeat("\t", len(t.by))+t.figures(t.total))
			}
			return table.Flush()
		}
}

// label is what a row is about.
func (t statTable) label(s *statAnswer) string {
	var parts []string
	for _, by := range t.by {
		text := "(erased)"
		switch {
		case by == "hour" && s.Hour != nil:
			text = shortTime(*s.Hour)
		case by == "queue" && s.Queue != nil && *s.Queue == "":
			text = "(none)"
		case by == "queue" && s.Queue != nil:
			text = app.Printable(*s.Queue)
		case by == "actor" && s.Actor != nil:
			text = app.Printable(*s.Actor)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "\t")
}

func (t statTable) figures(s *statAnswer) string {
	if t.ofActors {
		return fmt.Sprintf("%d\t%d\t%d\t%d\t%s\t%s", s.Calls, s.Answered, s.Rings, s.NoAnswers, duration(s.Talk.Average), duration(s.Talk.Total))
	}
	return fmt.Sprintf("%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s", s.Calls, s.Offered, s.Answered, s.Abandoned, percent(s.AbandonRate), percent(s.ServiceLevel),
		duration(s.Wait.Average), duration(s.Talk.Average))
}
