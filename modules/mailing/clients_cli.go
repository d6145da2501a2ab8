package mailing

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"switchboard/platform/app"
)

func clientsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "clients", Short: "Query, add, delete and import clients", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	connect := app.ClientFlags(cmd)
	cmd.AddCommand(clientsList(connect), clientsAdd(connect), clientsShow(connect), clientsDelete(connect), clientsImport(connect))
	return cmd
}

// wantsJSON tells whether the answer is for a script.
func wantsJSON(cmd *cobra.Command) bool {
	v, err := cmd.Flags().GetBool("json")
	return err == nil && v
}

// onTerminal tells whether a person reads what is written to w.
func onTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// clientAnswerLine is a client as the API gives it.
type clientAnswerLine struct {
	ID           int64          `json:"id"`
	PhoneNumber  string         `json:"phone_number"`
	OperatorCode string         `json:"operator_code"`
	Tag          string         `json:"tag"`
	Timezone     string         `json:"timezone"`
	Attributes   map[string]any `json:"attributes"`
	CreatedAt    time.Time      `json:"created_at"`
	UpdatedAt    time.Time      `json:"updated_at"`
}

// number is the client's, or says why there is none.
func (c *clientAnswerLine) number() string {
	if c.PhoneNumber == "" {
		return "(erased)"
	}
	return app.Printable(c.PhoneNumber)
}

func clientsList(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List clients", Args: cobra.NoArgs,
		Example: "  app mailing clients list --tag vip\n  app mailing clients list --operator-code 916 --operator-code 926 --limit 0 --json\n  app mailing clients list --phone 79161234567"}
	codes := cmd.Flags().StringArray("operator-code", nil, "only clients of this operator; may be repeated")
	tags := cmd.Flags().StringArray("tag", nil, "only clients with this tag; may be repeated")
	phone := cmd.Flags().String("phone", "", "only the client with this number")
	limit := cmd.Flags().Int("limit", 50, "most clients to print; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		q := url.Values{"operator_code": *codes, "tag": *tags}
		if *phone != "" {
			q.Set("phone_number", *phone)
		}
		return app.EachPage(cmd, c, "/mailing/clients", q, *limit, clientTable)
	}
	return cmd
}

// clientTable prints clients as lines for people.
func clientTable(w io.Writer) (func(json.RawMessage) error, func() error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tPHONE NUMBER\tOPERATOR\tTAG\tTIME ZONE\tATTRIBUTES\tCREATED")
	return func(raw json.RawMessage) error {
		var c clientAnswerLine
		if err := json.Unmarshal(raw, &c); err != nil {
			return err
		}
		_, err := fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%d\t%s\n", c.ID, c.number(), app.Printable(c.OperatorCode), app.Printable(c.Tag), app.Printable(c.Timezone), len(c.Attributes),
			c.CreatedAt.UTC().Format(time.RFC3339))
		return err
	}, table.Flush
}

// printClient prints a client: as it is for scripts, else line by line.
func printClient(cmd *cobra.Command, raw json.RawMessage) error {
	text := strings.TrimSpace(string(raw))
	if wantsJSON(cmd) {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
		return err
	}
	var c clientAnswerLine
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&c); err != nil {
		return fmt.Errorf("read the client: %w", err)
	}
	w := bufio.NewWriter(cmd.OutOrStdout())
	line := func(name, value string) { _, _ = fmt.Fprintf(w, "%-14s %s\n", name, value) }
	line("id", strconv.FormatInt(c.ID, 10))
	line("phone number", c.number())
	line("operator code", app.Printable(c.OperatorCode))
	line("tag", app.Printable(c.Tag))
	line("time zone", app.Printable(c.Timezone))
	for _, name := range slices.Sorted(maps.Keys(c.Attributes)) {
		value, err := json.Marshal(c.Attributes[name])
		if err != nil {
			return err
		}
		line("attribute", app.Printable(name+" = "+string(value)))
	}
	line("created", c.CreatedAt.UTC().Format(time.RFC3339))
	line("changed", c.UpdatedAt.UTC().Format(time.RFC3339))
	return w.Flush()
}

func clientsAdd(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "add PHONE", Short: "Add a client", Args: cobra.ExactArgs(1),
		Example: "  app mailing clients add 79161234567 --tag vip --timezone Europe/Moscow\n" +
			"  app mailing clients add 79161234567 --tag vip --timezone Asia/Omsk --operator-code 926 --attribute name=Anna --attribute city=Omsk"}
	tag := cmd.Flags().String("tag", "", "tag of the client (required)")
	zone := cmd.Flags().String("timezone", "", "IANA time zone of the client (required)")
	code := cmd.Flags().String("operator-code", "", "code of the operator; that of the number if absent")
	attributes := cmd.Flags().StringArray("attribute", nil, "a text for messages, as name=value; may be repeated")
	for _, name := range []string{"tag", "timezone"} {
		_ = cmd.MarkFlagRequired(name) // it is there
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body := map[string]any{"phone_number": args[0], "tag": *tag, "timezone": *zone}
		if cmd.Flags().Changed("operator-code") {
			body["operator_code"] = *code
		}
		given := map[string]string{}
		for _, text := range *attributes {
			name, value, ok := strings.Cut(text, "=")
			if !ok {
				return app.Usage(errors.New("--attribute takes name=value"))
			}
			given[name] = value
		}
		if len(given) > 0 {
			body["attributes"] = given
		}
		c, err := connect()
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := c.Do(cmd.Context(), http.MethodPost, "/mailing/clients", nil, body, &raw); err != nil {
			return err
		}
		return printClient(cmd, raw)
	}
	return cmd
}

func clientsShow(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show a client", Args: cobra.ExactArgs(1), Example: "  app mailing clients show 17\n  app mailing clients show 17 --json"}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := c.Do(cmd.Context(), http.MethodGet, "/mailing/clients/"+url.PathEscape(args[0]), nil, nil, &raw); err != nil {
			return err
		}
		return printClient(cmd, raw)
	}
	return cmd
}

func clientsDelete(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "delete ID…", Short: "Delete clients and cancel what is pending for them", Args: cobra.MinimumNArgs(1),
		Example: "  app mailing clients delete 17\n  app mailing clients delete 17 18 19"}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		for _, id := range args {
			if err := c.Do(cmd.Context(), http.MethodDelete, "/mailing/clients/"+url.PathEscape(id), nil, nil, nil); err != nil {
				return fmt.Errorf("client %s: %w", app.Printable(id), err)
			}
		}
		return nil
	}
	return cmd
}

func clientsImport(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "import FILE|-", Short: "Import clients from CSV or NDJSON", Args: cobra.ExactArgs(1),
		Long: "Import clients from a file, or from standard input as -. CSV has a header with phone_number, tag,\n" +
			"timezone and, if you like, operator_code in any order; further columns become attributes. NDJSON has a\n" +
			"client on each line. Bad lines are reported on standard error and passed over. If this command is\n" +
			"ended, what was stored stays, and the same file can be imported again.\n" +
			"With --json the server's lines are printed as they come.",
		Example: "  app mailing clients import clients.csv\n  app mailing clients import clients.ndjson --existing skip\n  zcat clients.csv.gz | app mailing clients import - --format csv --allow-errors"}
	format := cmd.Flags().String("format", "", "csv or ndjson; by the name of the file if absent")
	mode := cmd.Flags().String("existing", "update", "what to do about numbers that are there already: update, skip or error")
	allow := cmd.Flags().Bool("allow-errors", false, "bad lines are no failure of the command")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q := url.Values{"existing": {*mode}, "format": {*format}}
		if *format == "" {
			switch strings.ToLower(filepath.Ext(args[0])) {
			case ".csv", ".tsv", ".txt":
				q.Set("format", "csv")
			case ".ndjson", ".jsonl":
				q.Set("format", "ndjson")
			default:
				return app.Usage(errors.New("the name does not tell the format: give --format csv or --format ndjson"))
			}
		}
		in := &countedReader{in: cmd.InOrStdin()}
		if args[0] != "-" {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
				in.total = info.Size()
			}
			in.in = file
		}
		c, err := connect()
		if err != nil {
			return err
		}
		resp, err := c.Open(cmd.Context(), http.MethodPost, "/mailing/clients/import", q, in)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return followImport(cmd, resp.Body, in, *allow)
	}
	return cmd
}

// countedReader counts what was sent of a file.
type countedReader struct {
	in    io.Reader
	total int64 // 0: not known
	read  atomic.Int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	r.read.Add(int64(n))
	return n, err
}

// importAnswerLine is a line of the server's answer.
type importAnswerLine struct {
	Done    *bool `json:"done"`
	Line    int64 `json:"line"`
	Created int64 `json:"created"`
	Updated int64 `json:"updated"`
	Skipped int64 `json:"skipped"`
	Failed  int64 `json:"failed"`
	Error   *struct {
		Line    int64  `json:"line"`
		Field   string `json:"field"`
		Message string `json:"message"`
	} `json:"error"`
	Seconds float64 `json:"seconds"`
}

// followImport reads the answer to its end.
func followImport(cmd *cobra.Command, stream io.Reader, sent *countedReader, allow bool) error {
	out, complaints := cmd.OutOrStdout(), cmd.ErrOrStderr()
	bar := io.Discard
	if onTerminal(complaints) {
		bar = complaints
	}
	lines := wantsJSON(cmd)
	in := bufio.NewScanner(stream)
	for in.Scan() {
		if len(strings.TrimSpace(in.Text())) == 0 {
			continue
		}
		var a importAnswerLine
		if err := json.Unmarshal(in.Bytes(), &a); err != nil {
			return fmt.Errorf("read the progress: %w", err)
		}
		if lines {
			if _, err := fmt.Fprintf(out, "%s\n", in.Bytes()); err != nil {
				return err
			}
		}
		switch {
		case a.Done != nil:
			if !lines {
				_, _ = fmt.Fprint(bar, "\r\x1b[K")
				if _, err := fmt.Fprintf(out, "imported %d lines in %.1fs: %d created, %d updated, %d skipped, %d failed\n",
					a.Created+a.Updated+a.Skipped+a.Failed, a.Seconds, a.Created, a.Updated, a.Skipped, a.Failed); err != nil {
					return err
				}
			}
			switch {
			case !*a.Done && a.Error != nil:
				return fmt.Errorf("the import broke off after line %d: %s", a.Line, app.Printable(a.Error.Message))
			case !*a.Done:
				return fmt.Errorf("the import broke off after line %d", a.Line)
			case a.Failed > 0 && !allow:
				return fmt.Errorf("%d lines failed; the others are stored", a.Failed)
			}
			return nil
		case lines:
		case a.Error != nil:
			where := fmt.Sprintf("line %d: ", a.Error.Line)
			if a.Error.Field != "" {
				where += app.Printable(a.Error.Field) + " "
			}
			_, _ = fmt.Fprint(bar, "\r\x1b[K")
			_, _ = fmt.Fprintln(complaints, where+app.Printable(a.Error.Message))
		default:
			_, _ = fmt.Fprintf(bar, "\r%s\x1b[K", importBar(&a, sent.read.Load(), sent.total))
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("the import's answer broke off; what was stored stays: %w", err)
	}
	return errors.New("the import's answer broke off; what was stored stays")
}

// importBar draws how much of a file is done, as far as that is known.
func importBar(a *importAnswerLine, sent, total int64) string {
	text := fmt.Sprintf("line %d  %d created  %d updated  %d skipped  %d failed", a.Line, a.Created, a.Updated, a.Skipped, a.Failed)
	if total <= 0 {
		return text
	}
	const width = 30
	part := min(float64(sent)/float64(total), 1)
	full := int(part * width)
	return fmt.Sprintf("[%s%s] %3.0f%%  %s", strings.Repeat("#", full), strings.Repeat(".", width-full), part*100, text)
}
