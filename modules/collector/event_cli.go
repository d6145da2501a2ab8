package collector

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

func eventsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "events", Short: "Query and watch collected events", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	connect := app.ClientFlags(cmd)
	cmd.AddCommand(eventsQuery(connect), eventsTail(connect))
	return cmd
}

// eventFlags adds the filters that query and tail share.
func eventFlags(cmd *cobra.Command) func() url.Values {
	flags := map[string]*string{
		"session_id": cmd.Flags().String("session", "", "only this session"),
		"category":   cmd.Flags().String("category", "", "only this category"),
		"name":       cmd.Flags().String("name", "", "only events of this name"),
		"app":        cmd.Flags().String("app", "", "only events of this application"),
	}
	return func() url.Values {
		q := url.Values{}
		for key, value := range flags {
			if *value != "" {
				q.Set(key, *value)
			}
		}
		return q
	}
}

func eventsQuery(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: "query", Short: "Query events by session, category, name, application and time", Args: cobra.NoArgs,
		Example: "  app events query --category \"page interaction\" --from \"2021-01-01 00:00:00\" --to 2021-01-02T00:00:00Z\n" +
			"  app events query --session e2085be5-9137-4e4e-80b5-f1ffddc25423 --json",
	}
	filters := eventFlags(cmd)
	from := cmd.Flags().String("from", "", "occurred then or later: RFC 3339, or \"YYYY-MM-DD HH:MM:SS\" in UTC")
	to := cmd.Flags().String("to", "", "occurred then or earlier")
	desc := cmd.Flags().Bool("desc", false, "newest first")
	limit := cmd.Flags().Int("limit", 100, "most events to print; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		q := filters()
		for key, value := range map[string]string{"from": *from, "to": *to} {
			if value != "" {
				q.Set(key, value)
			}
		}
		if *desc {
			q.Set("order", "desc")
		}
		return app.EachPage(cmd, c, "/collector/events", q, *limit, eventTable)
	}
	return cmd
}

// eventTable prints events as lines for people.
func eventTable(w io.Writer) (func(json.RawMessage) error, func() error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	return func(raw json.RawMessage) error { return printEvent(table, raw) }, table.Flush
}

func printEvent(w io.Writer, raw json.RawMessage) error {
	var e Recorded
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Timestamp, e.SessionID, e.App, e.Category, e.Name, e.Data)
	return err
}

func eventsTail(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: "tail", Short: "Watch events as they are stored", Args: cobra.NoArgs,
		Example: "  app events tail\n  app events tail --category \"page interaction\" --json",
	}
	filters := eventFlags(cmd)
	limit := cmd.Flags().Int("limit", 0, "stop after so many events; 0 to go on until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		resp, err := c.Open(cmd.Context(), http.MethodGet, "/collector/live", filters(), nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		asJSON, err := cmd.Flags().GetBool("json")
		if err != nil {
			return err
		}
		return tail(cmd, resp.Body, asJSON, *limit)
	}
	return cmd
}

// tail prints what a stream of events brings.
func tail(cmd *cobra.Command, stream io.Reader, asJSON bool, limit int) error {
	w, kind := cmd.OutOrStdout(), ""
	lines := bufio.NewScanner(stream)
	lines.Buffer(make([]byte, 64<<10), 32<<20)
	for n := 0; lines.Scan(); {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case field == "event":
			kind = value
		case field == "data" && kind == "missed":
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s events were left out: this reader is too slow\n", value)
		case field == "data":
			var err error
			if asJSON {
				_, err = fmt.Fprintln(w, value)
			} else {
				err = printEvent(w, json.RawMessage(value))
			}
			if err != nil {
				return err
			}
			if n++; n == limit {
				return nil
			}
		}
	}
	if err := lines.Err(); err != nil && cmd.Context().Err() == nil {
		return fmt.Errorf("the stream broke: %w", err)
	}
	return nil
}
