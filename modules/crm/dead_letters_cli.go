package crm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

const deadPathPrefix = integrationPath + "/dead-letters"

func crmDeadLetters(connect func() (*app.Client, error)) *cobra.Command {
	return group("dead-letters", "Look at what goes no further, and try it again", deadList(connect), deadShow(connect), deadRedrive(connect), deadDiscard(connect))
}

// deadAnswer is a dead letter as the API gives it.
type deadAnswer struct {
	ID        string     `json:"id"`
	Kind      string     `json:"kind"`
	Reason    string     `json:"reason"`
	CreatedAt *time.Time `json:"created_at"`
	Topic     string     `json:"topic"`
	Log       string     `json:"log"`
	Seq       *int64     `json:"seq"`
	At        *time.Time `json:"at"`
	ObjectID  string     `json:"object_id" pii:"id"`
	Content   *string    `json:"content" pii:"content"`
	Bytes     []byte     `json:"content_bytes" pii:"content"`
}

// about says what a letter is about.
func (d *deadAnswer) about() string {
	if d.Seq != nil {
		return fmt.Sprintf("%s place %d", app.Printable(d.Log), *d.Seq)
	}
	return app.OrDash(d.ObjectID)
}

func wantedKind(kind string) error {
	if kind != "" && !slices.Contains([]string{deadEvent, deadUser, deadTrip}, kind) {
		return app.Usage(fmt.Errorf("--kind is event, user or trip"))
	}
	return nil
}

func deadList(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List dead letters, newest first", Args: cobra.NoArgs,
		Example: "  app crm dead-letters list\n  app crm dead-letters list --kind event --limit 0 --json"}
	kind := cmd.Flags().String("kind", "", "only this kind: event, user, trip")
	limit := cmd.Flags().Int("limit", 50, "most letters to print; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := wantedKind(*kind); err != nil {
			return err
		}
		c, err := connect()
		if err != nil {
			return err
		}
		q := url.Values{}
		if *kind != "" {
			q.Set("kind", *kind)
		}
		return app.EachPage(cmd, c, deadPathPrefix, q, *limit, func(w io.Writer) (func(json.RawMessage) error, func() error) {
			table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "LETTER\tKIND\tSINCE\tABOUT\tREASON")
			return func(raw json.RawMessage) error {
				var d deadAnswer
				if err := json.Unmarshal(raw, &d); err != nil {
					return fmt.Errorf("read a dead letter: %w", err)
				}
				_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", app.Printable(d.ID), d.Kind, shortTime(d.CreatedAt), d.about(), app.Printable(d.Reason))
				return err
			}, table.Flush
		})
	}
	return cmd
}

func deadShow(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "show LETTER", Short: "Show a dead letter", Args: cobra.ExactArgs(1),
		Example: "  app crm dead-letters show 01981d3e-8f3a-7c52-9a53-0f8e2f6f1d11\n  app crm dead-letters show 01981d3e-8f3a-7c52-9a53-0f8e2f6f1d11 --content"}
	content := cmd.Flags().Bool("content", false, "also what an event held, which may be personal")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q := url.Values{}
		if *content {
			q.Set("content", "true")
		}
		var d deadAnswer
		return ask(cmd, connect, http.MethodGet, deadPathPrefix+"/"+escape(args[0]), q, nil, &d, func(w io.Writer) error {
			namedLine(w, "letter", app.Printable(d.ID))
			namedLine(w, "kind", d.Kind)
			namedLine(w, "reason", app.Printable(d.Reason))
			namedLine(w, "since", shortTime(d.CreatedAt))
			namedLine(w, "about", d.about())
			namedLine(w, "topic", app.Printable(d.Topic))
			if d.At != nil {
				namedLine(w, "happened", shortTime(d.At))
			}
			switch {
			case d.Content != nil:
				namedLine(w, "content", app.Printable(*d.Content))
			case d.Bytes != nil:
				namedLine(w, "content", fmt.Sprintf("%q", d.Bytes))
			}
			return nil
		})
	}
	return cmd
}

// redriveAnswer is what became of letters.
type redriveAnswer struct {
	Folded  int64 `json:"folded"`
	Sending int64 `json:"sending"`
	Gone    int64 `json:"gone"`
	Dead    int64 `json:"dead"`
	Reasons []struct {
		Reason string `json:"reason"`
		Count  int64  `json:"count"`
	} `json:"reasons"`
}

func deadRedrive(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "redrive [LETTER]", Short: "Try a dead letter again, or --all", Args: cobra.MaximumNArgs(1),
		Long: "Try a dead letter again, or all of them. Events are read anew, and override nothing newer. Users and trips\n" +
			"are sent to the CRM again; their letters go when it takes them. Fails if events are still not understood.",
		Example: "  app crm dead-letters redrive 01981d3e-8f3a-7c52-9a53-0f8e2f6f1d11\n  app crm dead-letters redrive --all --kind event"}
	all := cmd.Flags().Bool("all", false, "all letters")
	kind := cmd.Flags().String("kind", "", "with --all: only this kind: event, user, trip")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *all == (len(args) == 1) || *kind != "" && !*all {
			return app.Usage(errors.New("give a letter, or --all, which may go with --kind"))
		}
		if err := wantedKind(*kind); err != nil {
			return err
		}
		path, in := deadPathPrefix+"/redrive", any(nil)
		if !*all {
			path = deadPathPrefix + "/" + escape(args[0]) + "/redrive"
		} else if *kind != "" {
			in = map[string]string{"kind": *kind}
		}
		c, err := connect()
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := c.Do(cmd.Context(), http.MethodPost, path, nil, in, &raw); err != nil {
			return err
		}
		var r redriveAnswer
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		if asJSON(cmd) {
			err = printRaw(cmd.OutOrStdout(), raw)
		} else {
			err = r.print(cmd.OutOrStdout())
		}
		if err == nil && r.Dead > 0 {
			err = errors.New(count(r.Dead, "event is", "events are") + " still not understood")
		}
		return err
	}
	return cmd
}

func (r *redriveAnswer) print(w io.Writer) error {
	namedLine(w, "folded", count(r.Folded, "event", "events"))
	namedLine(w, "sending", count(r.Sending, "user or trip", "users and trips"))
	if r.Gone > 0 {
		namedLine(w, "gone", count(r.Gone, "letter about what is not there any more", "letters about what is not there any more"))
	}
	if r.Dead > 0 {
		namedLine(w, "dead", count(r.Dead, "event", "events"))
	}
	for _, reason := range r.Reasons {
		namedLine(w, "", fmt.Sprintf("%d: %s", reason.Count, app.Printable(reason.Reason)))
	}
	return nil
}

func deadDiscard(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "discard LETTER…", Short: "Throw dead letters away", Args: cobra.MinimumNArgs(1),
		Example: "  app crm dead-letters discard 01981d3e-8f3a-7c52-9a53-0f8e2f6f1d11"}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		for _, id := range args {
			if err := c.Do(cmd.Context(), http.MethodDelete, deadPathPrefix+"/"+escape(id), nil, nil, nil); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}
