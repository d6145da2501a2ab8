package collector

import (
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

func sessionsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "sessions", Short: "List sessions and show one with its events", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	connect := app.ClientFlags(cmd)
	list := &cobra.Command{Use: "list", Short: "List sessions, newest first", Args: cobra.NoArgs, Example: "  app sessions list --limit 10"}
	limit := list.Flags().Int("limit", 50, "most sessions to print; 0 for all")
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		return app.EachPage(cmd, c, "/collector/sessions", nil, *limit, func(w io.Writer) (func(json.RawMessage) error, func() error) {
			table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "FIRST\tLAST\tEVENTS\tAPPS\tSESSION")
			return func(raw json.RawMessage) error {
				var s Session
				if err := json.Unmarshal(raw, &s); err != nil {
					return err
				}
				_, err := fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\n", s.FirstAt, s.LastAt, s.Events, strings.Join(s.Apps, ","), s.SessionID)
				return err
			}, table.Flush
		})
	}
	show := &cobra.Command{Use: "show SESSION", Short: "Show a session and its events in order", Args: cobra.ExactArgs(1),
		Example: "  app sessions show e2085be5-9137-4e4e-80b5-f1ffddc25423"}
	show.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		path := "/collector/sessions/" + url.PathEscape(args[0])
		asJSON, err := cmd.Flags().GetBool("json")
		if err != nil {
			return err
		}
		if !asJSON {
			var s Session
			if err := c.Do(cmd.Context(), http.MethodGet, path, url.Values{"limit": {"1"}}, nil, &s); err != nil {
				return err
			}
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "session     %s\nfirst       %s\nlast        %s\nevents      %d\napps        %s\ncategories  %s\n\n",
				s.SessionID, s.FirstAt, s.LastAt, s.Events, strings.Join(s.Apps, ", "), strings.Join(s.Categories, ", "))
		}
		return app.EachPage(cmd, c, path, nil, 0, eventTable)
	}
	cmd.AddCommand(list, show)
	return cmd
}
