package collector

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

func schemasCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "schemas", Short: "List, show, put and delete the schemas of events", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	connect := app.ClientFlags(cmd)
	path := func(args []string) string {
		return "/collector/schemas/" + url.PathEscape(args[0]) + "/" + url.PathEscape(args[1])
	}
	show := func(cmd *cobra.Command, s *json.RawMessage) error {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", *s)
		return err
	}
	cmd.AddCommand(
		&cobra.Command{Use: "list", Short: "List current schemas", Args: cobra.NoArgs, Example: "  app schemas list",
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := connect()
				if err != nil {
					return err
				}
				return app.EachPage(cmd, c, "/collector/schemas", nil, 0, schemaTable)
			}},
		&cobra.Command{Use: "show CATEGORY NAME", Short: "Print a schema", Args: cobra.ExactArgs(2), Example: "  app schemas show \"page interaction\" pageview",
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := connect()
				if err != nil {
					return err
				}
				var s struct {
					Schema json.RawMessage `json:"schema"`
				}
				if err := c.Do(cmd.Context(), http.MethodGet, path(args), nil, nil, &s); err != nil {
					return err
				}
				return show(cmd, &s.Schema)
			}},
		&cobra.Command{Use: "put CATEGORY NAME FILE", Short: "Set a schema from a file of JSON Schema; - reads standard input", Args: cobra.ExactArgs(3),
			Example: "  app schemas put \"page interaction\" pageview pageview.json",
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := connect()
				if err != nil {
					return err
				}
				var in io.Reader = cmd.InOrStdin()
				if args[2] != "-" {
					f, err := os.Open(args[2])
					if err != nil {
						return err
					}
					defer f.Close()
					in = f
				}
				resp, err := c.Open(cmd.Context(), http.MethodPut, path(args), nil, in)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				raw, err := io.ReadAll(resp.Body)
				if err != nil {
					return err
				}
				answer := json.RawMessage(raw)
				if asJSON, err := cmd.Flags().GetBool("json"); err != nil || asJSON {
					return show(cmd, &answer)
				}
				var s Schema
				if err := json.Unmarshal(raw, &s); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "version %d of the schema of %s / %s\n", s.Version, s.Category, s.Name)
				return err
			}},
		&cobra.Command{Use: "delete CATEGORY NAME", Short: "End a schema; its versions are kept", Args: cobra.ExactArgs(2), Example: "  app schemas delete \"page interaction\" pageview",
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := connect()
				if err != nil {
					return err
				}
				return c.Do(cmd.Context(), http.MethodDelete, path(args), nil, nil, nil)
			}},
	)
	return cmd
}

func schemaTable(w io.Writer) (func(json.RawMessage) error, func() error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "CATEGORY\tNAME\tVERSION\tSINCE")
	return func(raw json.RawMessage) error {
		var s Schema
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", s.Category, s.Name, s.Version, s.CreatedAt)
		return err
	}, table.Flush
}
