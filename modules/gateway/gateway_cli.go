package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

func gatewayCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "gateway", Short: "Publish events, watch them, and see who is connected", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	connect := app.ClientFlags(cmd)
	cmd.AddCommand(gatewayPublish(connect), gatewayTail(connect), gatewayRooms(connect), gatewaySockets(connect), gatewayDeliveries(connect), gatewayTokens(connect))
	return cmd
}

// inJSON tells whether the answer is for a script.
func inJSON(cmd *cobra.Command) bool {
	v, err := cmd.Flags().GetBool("json")
	return err == nil && v
}

func gatewayPublish(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: "publish EVENT [DATA]", Short: "Send an event to a room or to everyone connected",
		Long: "Send an event to the sockets in a room, or to all. DATA is JSON and is passed on as it stands;\n" +
			"- reads it from standard input, without it the event carries null.",
		Args: cobra.RangeArgs(1, 2),
		Example: "  app gateway publish order.created '{\"orderId\":\"cfa3\"}' --room orders\n" +
			"  app gateway publish maintenance '\"in five minutes\"'\n" +
			"  app gateway publish report.ready - --room reports < report.json",
	}
	room := cmd.Flags().String("room", "", "only to the sockets in this room")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		data := []byte("null")
		switch {
		case len(args) == 2 && args[1] == "-":
			if data, err = io.ReadAll(cmd.InOrStdin()); err != nil {
				return fmt.Errorf("read the data: %w", err)
			}
		case len(args) == 2:
			data = []byte(args[1])
		}
		if !json.Valid(data) {
			return app.Usage(errors.New("the data is not JSON; a text needs its quotes, as in '\"hello\"'"))
		}
		resp, err := c.Open(cmd.Context(), http.MethodPost, "/events", nil, bytes.NewReader(publishBody(args[0], *room, data)))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if inJSON(cmd) {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", bytes.TrimSpace(answer))
			return err
		}
		var e struct {
			ID         string `json:"id"`
			Recipients int    `json:"recipients"`
		}
		if err := json.Unmarshal(answer, &e); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "id          %s\nrecipients  %d\n", e.ID, e.Recipients)
		return err
	}
	return cmd
}

// publishBody writes a request by hand, because encoding/json would rewrite the
// data.
func publishBody(event, room string, data []byte) []byte {
	quote := func(text string) []byte {
		out, _ := json.Marshal(text) // a string has a JSON form
		return out
	}
	body := append([]byte(`{"event":`), quote(event)...)
	if room != "" {
		body = append(append(body, `,"room":`...), quote(room)...)
	}
	return append(append(append(body, `,"data":`...), data...), '}')
}

func gatewayTail(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: "tail", Short: "Watch events as sockets get them", Args: cobra.NoArgs,
		Long:    "Watch the events of some rooms and those to everyone, by Server-Sent Events.",
		Example: "  app gateway tail --room orders --room lobby\n  app gateway tail --room orders --json --limit 10",
	}
	rooms := cmd.Flags().StringArray("room", nil, "join this room, repeatable")
	limit := cmd.Flags().Int("limit", 0, "stop after so many events; 0 to go on until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		q := url.Values{}
		for _, room := range *rooms {
			q.Add("room", room)
		}
		resp, err := c.Open(cmd.Context(), http.MethodGet, "/gateway/sse", q, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		err = eachMessage(resp.Body, watch(cmd, *limit))
		if err != nil && !errors.Is(err, io.EOF) && cmd.Context().Err() == nil {
			return fmt.Errorf("the stream broke: %w", err)
		}
		return nil
	}
	return cmd
}

// eachMessage reads Server-Sent Events (WHATWG HTML, section 9.2) until the
// stream ends or fn fails; io.EOF from fn is an end, too.
func eachMessage(stream io.Reader, fn func(kind string, data []byte) error) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(make([]byte, 64<<10), 32<<20)
	var kind string
	var data []byte
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			if data != nil {
				if err := fn(kind, bytes.TrimSuffix(data, []byte("\n"))); err != nil {
					return err
				}
			}
			kind, data = "", nil
		case field == "event":
			kind = value
		case field == "data":
			data = append(append(data, value...), '\n')
		}
	}
	return lines.Err()
}

// watch prints the messages of a stream, and ends it with io.EOF at the limit.
func watch(cmd *cobra.Command, limit int) func(kind string, data []byte) error {
	w, n := cmd.OutOrStdout(), 0
	return func(kind string, data []byte) error {
		if kind == "gap" {
			_, err := fmt.Fprintln(cmd.ErrOrStderr(), "some events were missed")
			return err
		}
		line := string(data)
		if !inJSON(cmd) {
			var e struct {
				Event string          `json:"event"`
				Room  string          `json:"room"`
				Data  json.RawMessage `json:"data"`
			}
			if err := json.Unmarshal(data, &e); err != nil {
				return fmt.Errorf("read an event: %w", err)
			}
			room := e.Room
			if room == "" {
				room = "(everyone)"
			}
			var flat bytes.Buffer
			if err := json.Compact(&flat, e.Data); err != nil {
				return fmt.Errorf("read an event: %w", err)
			}
			line = fmt.Sprintf("%s  %s  %s  %s", time.Now().Format("15:04:05.000"), room, e.Event, flat.Bytes())
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
		if n++; n == limit {
			return io.EOF
		}
		return nil
	}
}

func gatewayRooms(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "rooms [ROOM]", Short: "List rooms, or the sockets in one", Args: cobra.MaximumNArgs(1),
		Example: "  app gateway rooms\n  app gateway rooms orders --json"}
	limit := cmd.Flags().Int("limit", 100, "most entries to print; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		if len(args) == 1 {
			return app.EachPage(cmd, c, "/gateway/rooms/"+url.PathEscape(args[0]), nil, *limit, socketTable)
		}
		return app.EachPage(cmd, c, "/gateway/rooms", nil, *limit, func(w io.Writer) (func(json.RawMessage) error, func() error) {
			table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "SOCKETS\tROOM")
			return func(raw json.RawMessage) error {
				var r struct {
					Room    string `json:"room"`
					Sockets int    `json:"sockets"`
				}
				if err := json.Unmarshal(raw, &r); err != nil {
					return err
				}
				_, err := fmt.Fprintf(table, "%d\t%s\n", r.Sockets, r.Room)
				return err
			}, table.Flush
		})
	}
	return cmd
}

// socketTable prints sockets as lines for people.
func socketTable(w io.Writer) (func(json.RawMessage) error, func() error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SOCKET\tUSER\tTRANSPORT\tREMOTE\tSINCE\tQUEUED\tINSTANCE\tROOMS")
	return func(raw json.RawMessage) error {
		var s struct {
			ID          string    `json:"id"`
			User        string    `json:"user"`
			Rooms       []string  `json:"rooms"`
			Transport   string    `json:"transport"`
			Remote      string    `json:"remote"`
			ConnectedAt time.Time `json:"connected_at"`
			Queued      int       `json:"queued_bytes"`
			Instance    string    `json:"instance"`
		}
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", s.ID, s.User, s.Transport, s.Remote,
			s.ConnectedAt.UTC().Format(time.RFC3339), s.Queued, s.Instance, strings.Join(s.Rooms, ", "))
		return err
	}, table.Flush
}

func gatewaySockets(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "sockets", Short: "List who is connected, or disconnect one", Args: cobra.NoArgs,
		Example: "  app gateway sockets\n  app gateway sockets --limit 0 --json\n  app gateway sockets disconnect 8Kz0cQ3vXyT1bq2uAAAB"}
	limit := cmd.Flags().Int("limit", 100, "most sockets to print; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		return app.EachPage(cmd, c, "/gateway/sockets", nil, *limit, socketTable)
	}
	cmd.AddCommand(&cobra.Command{Use: "disconnect ID", Short: "Disconnect a socket", Args: cobra.ExactArgs(1),
		Example: "  app gateway sockets disconnect 8Kz0cQ3vXyT1bq2uAAAB",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			return c.Do(cmd.Context(), http.MethodDelete, "/gateway/sockets/"+url.PathEscape(args[0]), nil, nil, nil)
		}})
	return cmd
}

func gatewayDeliveries(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "deliveries", Short: "Show which socket got which event, newest first", Args: cobra.NoArgs,
		Example: "  app gateway deliveries --event order.created --room orders\n" +
			"  app gateway deliveries --socket 8Kz0cQ3vXyT1bq2uAAAB --from 2026-01-02T00:00:00Z --json"}
	flags := map[string]*string{
		"event":  cmd.Flags().String("event", "", "only events of this name"),
		"room":   cmd.Flags().String("room", "", "only events to this room"),
		"socket": cmd.Flags().String("socket", "", "only what this socket got"),
		"from":   cmd.Flags().String("from", "", "only then or later, RFC 3339"),
		"to":     cmd.Flags().String("to", "", "only then or earlier, RFC 3339"),
	}
	limit := cmd.Flags().Int("limit", 100, "most deliveries to print; 0 for all")
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
		return app.EachPage(cmd, c, "/gateway/deliveries", q, *limit, func(w io.Writer) (func(json.RawMessage) error, func() error) {
			table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "TIME\tSOCKET\tROOM\tEVENT\tID")
			return func(raw json.RawMessage) error {
				var d struct {
					ID     string `json:"id"`
					Time   string `json:"time"`
					Event  string `json:"event"`
					Room   string `json:"room"`
					Socket string `json:"socket"`
				}
				if err := json.Unmarshal(raw, &d); err != nil {
					return err
				}
				_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", d.Time, d.Socket, d.Room, d.Event, d.ID)
				return err
			}, table.Flush
		})
	}
	return cmd
}

func gatewayTokens(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "tokens", Short: "Issue and revoke tokens for browsers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	create := &cobra.Command{Use: "create", Short: "Issue a token that may join some rooms", Args: cobra.NoArgs,
		Example: "  app gateway tokens create --room orders.17 --user 42\n  app gateway tokens create --room 'orders.*' --room lobby --ttl 24h --json"}
	rooms := create.Flags().StringArray("room", nil, "room it may join, repeatable; orders.* is all that begin with \"orders.\" (required)")
	ttl := create.Flags().String("ttl", "1h", "how long it is good")
	user := create.Flags().String("user", "", "whose it is")
	if err := create.MarkFlagRequired("room"); err != nil {
		panic(err) // the flag is defined above
	}
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		in := map[string]any{"rooms": *rooms, "ttl": *ttl}
		if *user != "" {
			in["user"] = *user
		}
		var raw json.RawMessage
		if err := c.Do(cmd.Context(), http.MethodPost, "/gateway/tokens", nil, in, &raw); err != nil {
			return err
		}
		if inJSON(cmd) {
			_, err := cmd.OutOrStdout().Write(raw)
			return err
		}
		var t struct {
			ID        string `json:"id"`
			Token     string `json:"token"`
			ExpiresAt string `json:"expires_at"`
		}
		if err := json.Unmarshal(raw, &t); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "token    %s\nid       %s\nexpires  %s\n", t.Token, t.ID, t.ExpiresAt)
		return err
	}
	cmd.AddCommand(create, &cobra.Command{Use: "revoke ID", Short: "Revoke a token, and disconnect who uses it", Args: cobra.ExactArgs(1),
		Example: "  app gateway tokens revoke 6749a1b08f3c5d7e9a1b2c3d4e5f6071",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			return c.Do(cmd.Context(), http.MethodDelete, "/gateway/tokens/"+url.PathEscape(args[0]), nil, nil, nil)
		}})
	return cmd
}
