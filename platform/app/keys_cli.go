package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"switchboard/platform/auth"
)

func keysCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Make, list, rotate and revoke API keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	connect := ClientFlags(cmd)
	cmd.AddCommand(keysCreate(connect), keysList(connect), keysRotate(connect), keysRevoke(connect))
	return cmd
}

func keysCreate(connect func() (*Client, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create", Short: "Make a key; its secret is shown this once", Args: cobra.NoArgs,
		Example: "  app keys create --name shop --app shop --scope collector:write --origin https://shop.example\n" +
			"  app keys create --name dashboards --scope collector:read --expires-in 720h",
	}
	f := cmd.Flags()
	name := f.String("name", "", "name of the key, for people (required)")
	app := f.String("app", "", "application that the key belongs to")
	scopes := f.StringSlice("scope", nil, "scope, repeatable (required): "+strings.Join(auth.Scopes(), " "))
	origins := f.StringSlice("origin", nil, "origin of web pages that may use it, repeatable")
	signed := f.Bool("signed", false, "demand signed requests; prints the signing secret")
	expires := f.String("expires-in", "", "time until it expires, as in 720h")
	for _, required := range []string{"name", "scope"} {
		if err := cmd.MarkFlagRequired(required); err != nil {
			panic(err) // the flag is defined above
		}
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		in := map[string]any{"name": *name, "app": *app, "scopes": *scopes, "origins": *origins, "signed": *signed, "expires_in": *expires}
		for k, v := range in {
			if s, ok := v.(string); ok && s == "" {
				delete(in, k)
			}
		}
		return showKey(cmd, connect, http.MethodPost, "/admin/keys", in)
	}
	return cmd
}

// showKey calls a route that answers with a key and prints that.
func showKey(cmd *cobra.Command, connect func() (*Client, error), method, path string, in any) error {
	c, err := connect()
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := c.Do(cmd.Context(), method, path, nil, in, &raw); err != nil {
		return err
	}
	if wantsJSON(cmd) {
		_, err = cmd.OutOrStdout().Write(raw)
		return err
	}
	var k newAdminKey
	if err := json.Unmarshal(raw, &k); err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	_, _ = fmt.Fprintf(w, "key      %s\n", k.Key)
	if k.SigningSecret != "" {
		_, _ = fmt.Fprintf(w, "signing  %s\n", k.SigningSecret)
	}
	_, err = fmt.Fprintf(w, "id       %s\nIt is shown this once.\n", k.ID)
	return err
}

func keysList(connect func() (*Client, error)) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List keys, without their secrets", Args: cobra.NoArgs, Example: "  app keys list\n  app keys list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			return EachPage(cmd, c, "/admin/keys", nil, 0, func(w io.Writer) (func(json.RawMessage) error, func() error) {
				table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				_, _ = fmt.Fprintln(table, "ID\tNAME\tAPP\tSCOPES\tLAST USED\tSTATE")
				return func(raw json.RawMessage) error {
					var k AdminKey
					if err := json.Unmarshal(raw, &k); err != nil {
						return err
					}
					used, state := "never", "good"
					if k.LastUsedAt != nil {
						used = k.LastUsedAt.String()
					}
					switch {
					case k.RevokedAt != nil:
						state = "revoked"
					case k.ExpiresAt != nil:
						state = "until " + k.ExpiresAt.String()
					}
					_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Name, k.App, strings.Join(k.Scopes, ","), used, state)
					return err
				}, table.Flush
			})
		},
	}
}

func keysRotate(connect func() (*Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "rotate ID", Short: "Give a key a new secret", Args: cobra.ExactArgs(1), Example: "  app keys rotate 0a1b2c3d4e5f --overlap 1h"}
	overlap := cmd.Flags().String("overlap", "24h", "how long the old secret stays good")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return showKey(cmd, connect, http.MethodPost, "/admin/keys/"+url.PathEscape(args[0])+"/rotate", map[string]string{"overlap": *overlap})
	}
	return cmd
}

func keysRevoke(connect func() (*Client, error)) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Revoke a key for good", Args: cobra.ExactArgs(1), Example: "  app keys revoke 0a1b2c3d4e5f",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			return c.Do(cmd.Context(), http.MethodDelete, "/admin/keys/"+url.PathEscape(args[0]), nil, nil, nil)
		},
	}
}

// EachPage goes through the pages of a list, up to limit entries (0 = all). It
// prints the entries as JSON lines where --json asks for it, else hands each to
// the printer that table makes, and ends with the printer's second function.
func EachPage(cmd *cobra.Command, c *Client, path string, query url.Values, limit int, table func(io.Writer) (entry func(json.RawMessage) error, end func() error)) error {
	w := cmd.OutOrStdout()
	entry := func(raw json.RawMessage) error { _, err := fmt.Fprintf(w, "%s\n", raw); return err }
	end := func() error { return nil }
	if !wantsJSON(cmd) {
		entry, end = table(w)
	}
	query = cloneValues(query)
	query.Set("limit", "1000")
	if limit > 0 && limit < 1000 {
		query.Set("limit", fmt.Sprint(limit))
	}
	for n := 0; ; {
		var page struct {
			Items []json.RawMessage `json:"items"`
			Next  *string           `json:"next"`
		}
		if err := c.Do(cmd.Context(), http.MethodGet, path, query, nil, &page); err != nil {
			return err
		}
		for _, raw := range page.Items {
			if err := entry(raw); err != nil {
				return err
			}
			if n++; n == limit {
				return end()
			}
		}
		if page.Next == nil {
			return end()
		}
		query.Set("cursor", *page.Next)
	}
}

func cloneValues(v url.Values) url.Values {
	out := url.Values{}
	for k, list := range v {
		out[k] = append([]string(nil), list...)
	}
	return out
}
