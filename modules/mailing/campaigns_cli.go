package mailing

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

func campaignsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "campaigns", Short: "Plan campaigns, follow them, and re-send what failed", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	connect := app.ClientFlags(cmd)
	cmd.AddCommand(campaignsList(connect), campaignsCreate(connect), campaignsShow(connect), campaignsUpdate(connect), campaignsDelete(connect),
		campaignsTurn(connect, "pause", "Pause a campaign", "It does not start, or sends no more, until it is resumed."),
		campaignsTurn(connect, "resume", "Resume a paused campaign", "It goes on where it was."),
		campaignsTurn(connect, "cancel", "Cancel a campaign", "What has not gone will not go. It cannot be resumed."),
		campaignsTest(connect), campaignsPreview(connect), campaignsStats(connect), campaignsMessages(connect), campaignsFailures(connect),
		campaignsResend(connect), campaignsWatch(connect))
	return cmd
}

// campaignLine is a campaign as the API gives it.
type campaignLine struct {
	ID      int64     `json:"id"`
	Name    string    `json:"name"`
	Text    string    `json:"text"`
	StartAt time.Time `json:"start_at"`
	EndAt   time.Time `json:"end_at"`
	Filter  struct {
		OperatorCode []string `json:"operator_code"`
		Tag          []string `json:"tag"`
	} `json:"filter"`
	Window *struct {
		From string `json:"from"`
		To   string `json:"to"`
	} `json:"window"`
	Status    string    `json:"status"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

func (c *campaignLine) picks() string {
	var parts []string
	if len(c.Filter.OperatorCode) > 0 {
		parts = append(parts, "operator "+strings.Join(c.Filter.OperatorCode, ", "))
	}
	if len(c.Filter.Tag) > 0 {
		parts = append(parts, "tag "+strings.Join(c.Filter.Tag, ", "))
	}
	if len(parts) == 0 {
		return "everyone"
	}
	return app.Printable(strings.Join(parts, " and "))
}

func (c *campaignLine) hours() string {
	if c.Window == nil {
		return "always"
	}
	return app.Printable(c.Window.From + "-" + c.Window.To)
}

// utc is a time for people, to the second; a dash for none.
func utc(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// campaignPath is the address of what a command names.
func campaignPath(id, rest string) (string, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n < 1 {
		return "", app.Usage(errors.New("a campaign is named by its id, a positive number"))
	}
	return "/mailing/campaigns/" + id + rest, nil
}

// askCampaign calls a route of the campaign that the command names. For scripts it prints
// the answer as it is, else print does.
func askCampaign[T any](cmd *cobra.Command, connect func() (*app.Client, error), method, id, rest string, in any, print func(io.Writer, *T)) error {
	path, err := campaignPath(id, rest)
	if err != nil {
		return err
	}
	return askPath(cmd, connect, method, path, in, print)
}

func askPath[T any](cmd *cobra.Command, connect func() (*app.Client, error), method, path string, in any, print func(io.Writer, *T)) error {
	c, err := connect()
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := c.Do(cmd.Context(), method, path, nil, in, &raw); err != nil {
		return err
	}
	if wantsJSON(cmd) {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.TrimSpace(string(raw)))
		return err
	}
	var answer T
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	w := bufio.NewWriter(cmd.OutOrStdout())
	print(w, &answer)
	return w.Flush()
}

func campaignsList(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List campaigns, newest first", Args: cobra.NoArgs,
		Example: "  app mailing campaigns list\n  app mailing campaigns list --status running\n  app mailing campaigns list --limit 0 --json"}
	status := cmd.Flags().String("status", "", "only campaigns in this status: scheduled, running, paused, finished, canceled")
	limit := cmd.Flags().Int("limit", 50, "most campaigns to print; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		q := url.Values{}
		if *status != "" {
			q.Set("status", *status)
		}
		return app.EachPage(cmd, c, "/mailing/campaigns", q, *limit, campaignTable)
	}
	return cmd
}

// campaignTable prints campaigns as lines for people.
func campaignTable(w io.Writer) (func(json.RawMessage) error, func() error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tSTATUS\tSTART\tEND\tWINDOW\tCLIENTS\tNAME")
	return func(raw json.RawMessage) error {
		var c campaignLine
		if err := json.Unmarshal(raw, &c); err != nil {
			return err
		}
		_, err := fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", c.ID, app.Printable(c.Status), utc(&c.StartAt), utc(&c.EndAt), c.hours(), c.picks(), app.Printable(c.Name))
		return err
	}, table.Flush
}

// printCampaign prints a campaign line by line.
func printCampaign(w io.Writer, c *campaignLine) {
	line := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "%-8s %s\n", name, value)
		}
	}
	line("id", strconv.FormatInt(c.ID, 10))
	line("name", app.Printable(c.Name))
	line("status", app.Printable(c.Status))
	line("text", app.Printable(c.Text))
	line("start", utc(&c.StartAt))
	line("end", utc(&c.EndAt))
	line("window", c.hours())
	line("clients", c.picks())
	line("created", utc(&c.CreatedAt))
	line("changed", utc(&c.UpdatedAt))
}

// campaignFlags are what a campaign is made of.
type campaignFlags struct {
	name, text, textFile, start, end, window *string
	length                                   *time.Duration
	codes, tags                              *[]string
}

func flagsOfCampaign(cmd *cobra.Command) *campaignFlags {
	f := &campaignFlags{
		name:     cmd.Flags().String("name", "", "name of the campaign"),
		text:     cmd.Flags().String("text", "", "text of the message, with variables such as {{.attributes.name}}"),
		textFile: cmd.Flags().String("text-file", "", "file with the text"),
		start:    cmd.Flags().String("start", "", "when it starts, RFC 3339; \"now\""),
		end:      cmd.Flags().String("end", "", "when it ends, RFC 3339"),
		length:   cmd.Flags().Duration("for", 0, "how long after the start it ends, instead of --end"),
		window:   cmd.Flags().String("window", "", "hours of the client's day in which it may be reached: 09:00-21:00"),
		codes:    cmd.Flags().StringArray("operator-code", nil, "only clients of this operator; may be repeated"),
		tags:     cmd.Flags().StringArray("tag", nil, "only clients with this tag; may be repeated"),
	}
	cmd.MarkFlagsMutuallyExclusive("text", "text-file")
	cmd.MarkFlagsMutuallyExclusive("end", "for")
	return f
}

// body is what the flags say, and nothing of what they do not.
func (f *campaignFlags) body(cmd *cobra.Command) (map[string]any, error) {
	changed, body := cmd.Flags().Changed, map[string]any{}
	for name, value := range map[string]*string{"name": f.name, "text": f.text} {
		if changed(name) {
			body[name] = *value
		}
	}
	if changed("text-file") {
		text, err := os.ReadFile(*f.textFile)
		if err != nil {
			return nil, app.Usage(err)
		}
		body["text"] = strings.TrimRight(string(text), "\r\n")
	}
	var start time.Time
	if changed("start") {
		if start = time.Now(); *f.start != "now" {
			var err error
			if start, err = time.Parse(time.RFC3339, *f.start); err != nil {
				return nil, app.Usage(errors.New("--start is a time as in 2026-01-02T09:00:00+03:00, or now"))
			}
		}
		body["start_at"] = start.Format(time.RFC3339Nano)
	}
	switch {
	case changed("end"):
		end, err := time.Parse(time.RFC3339, *f.end)
		if err != nil {
			return nil, app.Usage(errors.New("--end is a time as in 2026-01-02T21:00:00+03:00"))
		}
		body["end_at"] = end.Format(time.RFC3339Nano)
	case changed("for"):
		if start.IsZero() || *f.length <= 0 {
			return nil, app.Usage(errors.New("--for is a duration such as 12h, and goes with --start"))
		}
		body["end_at"] = start.Add(*f.length).Format(time.RFC3339Nano)
	}
	if changed("window") {
		from, to, ok := strings.Cut(*f.window, "-")
		if !ok {
			return nil, app.Usage(errors.New("--window is two times of day, as in 09:00-21:00"))
		}
		body["window"] = map[string]string{"from": strings.TrimSpace(from), "to": strings.TrimSpace(to)}
	}
	if changed("operator-code") || changed("tag") {
		body["filter"] = map[string][]string{"operator_code": append([]string{}, *f.codes...), "tag": append([]string{}, *f.tags...)}
	}
	return body, nil
}

func campaignsCreate(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Plan a campaign", Args: cobra.NoArgs,
		Long: "Plan a campaign. It starts by itself, and no client gets it twice. Without --operator-code and --tag everyone gets it.",
		Example: "  app mailing campaigns create --text 'Hello {{.attributes.name}}!' --start now --for 12h --window 09:00-21:00 --tag vip\n" +
			"  app mailing campaigns create --name 'Spring sale' --text-file sale.txt --start 2026-03-01T09:00:00+03:00 --end 2026-03-02T21:00:00+03:00"}
	flags := flagsOfCampaign(cmd)
	cmd.MarkFlagsOneRequired("text", "text-file")
	cmd.MarkFlagsOneRequired("end", "for")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.Flags().Changed("start") {
			if err := cmd.Flags().Set("start", "now"); err != nil {
				return err
			}
		}
		body, err := flags.body(cmd)
		if err != nil {
			return err
		}
		return askPath(cmd, connect, http.MethodPost, "/mailing/campaigns", body, printCampaign)
	}
	return cmd
}

func campaignsShow(connect func() (*app.Client, error)) *cobra.Command {
	return &cobra.Command{Use: "show CAMPAIGN", Short: "Show a campaign", Args: cobra.ExactArgs(1),
		Example: "  app mailing campaigns show 1\n  app mailing campaigns show 1 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return askCampaign(cmd, connect, http.MethodGet, args[0], "", nil, printCampaign)
		}}
}

func campaignsUpdate(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "update CAMPAIGN", Short: "Change a campaign", Args: cobra.ExactArgs(1),
		Long: "Change what is given. After the start only the end, the window and, for what has not gone yet, the text can be changed.",
		Example: "  app mailing campaigns update 1 --end 2026-03-03T21:00:00+03:00\n  app mailing campaigns update 1 --no-window --text 'Last day!'\n" +
			"  app mailing campaigns update 1 --everyone"}
	flags := flagsOfCampaign(cmd)
	always := cmd.Flags().Bool("no-window", false, "reach clients at any hour")
	everyone := cmd.Flags().Bool("everyone", false, "for all clients")
	cmd.MarkFlagsMutuallyExclusive("window", "no-window")
	cmd.MarkFlagsMutuallyExclusive("everyone", "tag")
	cmd.MarkFlagsMutuallyExclusive("everyone", "operator-code")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body, err := flags.body(cmd)
		if err != nil {
			return err
		}
		if *always {
			body["window"] = nil
		}
		if *everyone {
			body["filter"] = map[string]any{}
		}
		if len(body) == 0 {
			return app.Usage(errors.New("nothing to change: give at least one flag"))
		}
		return askCampaign(cmd, connect, http.MethodPatch, args[0], "", body, printCampaign)
	}
	return cmd
}

func campaignsDelete(connect func() (*app.Client, error)) *cobra.Command {
	return &cobra.Command{Use: "delete CAMPAIGN", Short: "Delete a campaign with its messages", Args: cobra.ExactArgs(1),
		Long:    "Delete a campaign with its messages. One that has begun has to be finished or canceled first.",
		Example: "  app mailing campaigns delete 1",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := campaignPath(args[0], "")
			if err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			return c.Do(cmd.Context(), http.MethodDelete, path, nil, nil, nil)
		}}
}

// campaignsTurn is a command that takes a campaign to another status.
func campaignsTurn(connect func() (*app.Client, error), name, short, more string) *cobra.Command {
	return &cobra.Command{Use: name + " CAMPAIGN", Short: short, Long: short + ". " + more, Args: cobra.ExactArgs(1),
		Example: "  app mailing campaigns " + name + " 1",
		RunE: func(cmd *cobra.Command, args []string) error {
			return askCampaign(cmd, connect, http.MethodPost, args[0], "/"+name, nil, func(w io.Writer, c *campaignLine) {
				_, _ = fmt.Fprintf(w, "campaign %d is %s\n", c.ID, app.Printable(c.Status))
			})
		}}
}

func campaignsTest(connect func() (*app.Client, error)) *cobra.Command {
	return &cobra.Command{Use: "test CAMPAIGN CLIENT...", Short: "Send a campaign's text to some clients now", Args: cobra.RangeArgs(2, 21),
		Long:    "Send a campaign's text to some clients now, whatever its filter and window say. It counts nowhere.",
		Example: "  app mailing campaigns test 1 42\n  app mailing campaigns test 1 42 43 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := idsOf(args[1:])
			if err != nil {
				return err
			}
			return askCampaign(cmd, connect, http.MethodPost, args[0], "/test", map[string]any{"client_ids": ids}, func(w io.Writer, t *CampaignTest) {
				_, _ = fmt.Fprintf(w, "accepted by the provider: %d of %d\n", t.Sent, len(ids))
			})
		}}
}

// idsOf reads ids of clients or messages.
func idsOf(args []string) ([]int64, error) {
	ids := make([]int64, len(args))
	for i, arg := range args {
		var err error
		if ids[i], err = strconv.ParseInt(arg, 10, 64); err != nil || ids[i] < 1 {
			return nil, app.Usage(errors.New("ids are positive numbers"))
		}
	}
	return ids, nil
}

func campaignsPreview(connect func() (*app.Client, error)) *cobra.Command {
	return &cobra.Command{Use: "preview CAMPAIGN", Short: "Show who would get a campaign, and when", Args: cobra.ExactArgs(1),
		Example: "  app mailing campaigns preview 1\n  app mailing campaigns preview 1 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return askCampaign(cmd, connect, http.MethodGet, args[0], "/preview", nil, printPreview)
		}}
}

func printPreview(w io.Writer, p *CampaignPreview) {
	_, _ = fmt.Fprintf(w, "clients       %d\nsuppressed    %d\nunreachable   %d\nwould get it  %d\n", p.Matching, p.Suppressed, p.Unreachable, p.Recipients)
	if p.FirstAt != nil && p.LastAt != nil {
		_, _ = fmt.Fprintf(w, "first         %s\nlast          %s\n", p.FirstAt, p.LastAt)
	}
	if len(p.Zones) > 0 {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "\nTIME ZONE\tCLIENTS\tREACHED FROM")
		for _, z := range p.Zones {
			_, _ = fmt.Fprintf(table, "%s\t%d\t%s\n", app.Printable(z.Timezone), z.Clients, utc((*time.Time)(z.OpensAt)))
		}
		_ = table.Flush()
	}
	if len(p.Clients) > 0 {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "\nCLIENT\tPHONE NUMBER\tTIME ZONE\tREACHED\tTEXT")
		for _, c := range p.Clients {
			reached := utc((*time.Time)(c.ReachedAt))
			if c.Reason != "" {
				reached = "not: " + app.Printable(c.Reason)
			}
			_, _ = fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\n", c.ClientID, app.Printable(c.PhoneNumber), app.Printable(c.Timezone), reached, app.Printable(shorten(c.Text, 60)))
		}
		_ = table.Flush()
	}
}

func campaignsStats(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "stats [CAMPAIGN]", Short: "Count messages by status, of one campaign or of all", Args: cobra.MaximumNArgs(1),
		Example: "  app mailing campaigns stats\n  app mailing campaigns stats 1 --json"}
	limit := cmd.Flags().Int("limit", 50, "most campaigns to print; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return askCampaign(cmd, connect, http.MethodGet, args[0], "/stats", nil, func(w io.Writer, s *CampaignDetailStats) {
				_, _ = fmt.Fprintf(w, "%-9s %s\n%-9s %d\n", "status", app.Printable(s.Status), "total", s.Total)
				for i, n := range s.ByStatus.list() {
					_, _ = fmt.Fprintf(w, "%-9s %d\n", messageStatusNames[i], n)
				}
			})
		}
		c, err := connect()
		if err != nil {
			return err
		}
		return app.EachPage(cmd, c, "/mailing/stats", nil, *limit, func(w io.Writer) (func(json.RawMessage) error, func() error) {
			table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
			_, _ = fmt.Fprintf(table, "CAMPAIGN\tTOTAL\t%s\t\n", strings.ToUpper(strings.Join(messageStatusNames[:], "\t")))
			return func(raw json.RawMessage) error {
				var s CampaignStats
				if err := json.Unmarshal(raw, &s); err != nil {
					return err
				}
				_, err := fmt.Fprintf(table, "%d\t%d", s.CampaignID, s.Total)
				for _, n := range s.ByStatus.list() {
					_, _ = fmt.Fprintf(table, "\t%d", n)
				}
				_, _ = fmt.Fprintln(table, "\t")
				return err
			}, table.Flush
		})
	}
	return cmd
}

// list gives the numbers in the order of the statuses.
func (c *MessageCounts) list() [len(messageStatusNames)]int64 {
	return [...]int64{c.Pending, c.Sending, c.Sent, c.Retrying, c.Failed, c.Expired, c.Canceled}
}

func campaignsMessages(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "messages CAMPAIGN", Short: "List the messages of a campaign", Args: cobra.ExactArgs(1),
		Example: "  app mailing campaigns messages 1 --status failed --status expired\n  app mailing campaigns messages 1 --client 42\n" +
			"  app mailing campaigns messages 1 --csv > messages.csv"}
	status := cmd.Flags().StringArray("status", nil, "only messages in this status: "+strings.Join(messageStatusNames[:], ", ")+"; may be repeated")
	client := cmd.Flags().Int64("client", 0, "only the message for this client")
	asCSV := cmd.Flags().Bool("csv", false, "print all of them as CSV")
	limit := cmd.Flags().Int("limit", 50, "most messages to print; 0 for all")
	cmd.MarkFlagsMutuallyExclusive("csv", "client")
	cmd.MarkFlagsMutuallyExclusive("csv", "limit")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := campaignPath(args[0], "/messages")
		if err != nil {
			return err
		}
		c, err := connect()
		if err != nil {
			return err
		}
		q := url.Values{"status": *status}
		if *asCSV {
			resp, err := c.Open(cmd.Context(), http.MethodGet, path+".csv", q, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(cmd.OutOrStdout(), resp.Body)
			return err
		}
		if *client > 0 {
			q.Set("client_id", strconv.FormatInt(*client, 10))
		}
		return app.EachPage(cmd, c, path, q, *limit, messageTable)
	}
	return cmd
}

// messageTable prints messages as lines for people.
func messageTable(w io.Writer) (func(json.RawMessage) error, func() error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "MESSAGE\tCLIENT\tSTATUS\tATTEMPTS\tSENT\tDUE\tLAST ERROR")
	return func(raw json.RawMessage) error {
		var m Message
		if err := json.Unmarshal(raw, &m); err != nil {
			return err
		}
		due := "-"
		if s, ok := parseMessageStatus(m.Status); ok && !s.final() {
			due = utc((*time.Time)(&m.DueAt))
		}
		_, err := fmt.Fprintf(table, "%d\t%d\t%s\t%d\t%s\t%s\t%s\n", m.ID, m.ClientID, app.Printable(m.Status), m.Attempts, utc((*time.Time)(m.SentAt)), due, app.Printable(m.LastError))
		return err
	}, table.Flush
}

func campaignsFailures(connect func() (*app.Client, error)) *cobra.Command {
	return &cobra.Command{Use: "failures CAMPAIGN", Short: "Show why messages of a campaign did not go", Args: cobra.ExactArgs(1),
		Example: "  app mailing campaigns failures 1\n  app mailing campaigns failures 1 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return askCampaign(cmd, connect, http.MethodGet, args[0], "/failures", nil, func(w io.Writer, f *Failures) {
				table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				_, _ = fmt.Fprintln(table, "MESSAGES\tSTATUS\tFOR ONE\tREASON")
				for _, r := range f.Reasons {
					_, _ = fmt.Fprintf(table, "%d\t%s\t%d\t%s\n", r.Messages, app.Printable(r.Status), r.MessageID, app.Printable(r.LastError))
				}
				_ = table.Flush()
				if f.More {
					_, _ = fmt.Fprintln(w, "… and less frequent ones")
				}
			})
		}}
}

func campaignsResend(connect func() (*app.Client, error)) *cobra.Command {
	return &cobra.Command{Use: "resend CAMPAIGN [MESSAGE...]", Short: "Queue failed messages again, all or some", Args: cobra.RangeArgs(1, 1001),
		Long:    "Queue failed messages of a campaign again, all or some, under the ids they have.\nA campaign that finished before its end runs again; one that is canceled or has ended is refused.",
		Example: "  app mailing campaigns resend 1\n  app mailing campaigns resend 1 1042 1043",
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{}
			if len(args) > 1 {
				ids, err := idsOf(args[1:])
				if err != nil {
					return err
				}
				body["message_ids"] = ids
			}
			return askCampaign(cmd, connect, http.MethodPost, args[0], "/resend", body, func(w io.Writer, r *Resent) {
				_, _ = fmt.Fprintf(w, "queued again: %d\n", r.Queued)
			})
		}}
}
