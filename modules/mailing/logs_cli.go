package mailing

import (
	"context"
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

func logsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "logs", Short: "Look up what happened to a campaign, a message or a client", Args: cobra.NoArgs,
		Long: "Print the newest entries of the log of a campaign, a message or a client, oldest first.\n" +
			"With --follow go on with those that come, until interrupted.",
		Example: "  app logs --campaign 1\n  app logs --message 2 --json\n  app logs --client 3 --event message.sent --from 2026-01-02T00:00:00Z\n  app logs --campaign 1 --follow"}
	connect := app.ClientFlags(cmd)
	ids := map[string]*int64{
		"campaigns": cmd.Flags().Int64("campaign", 0, "id of a campaign"),
		"messages":  cmd.Flags().Int64("message", 0, "id of a message"),
		"clients":   cmd.Flags().Int64("client", 0, "id of a client"),
	}
	query := map[string]*string{
		"event": cmd.Flags().String("event", "", "only this event, as in message.sent"),
		"from":  cmd.Flags().String("from", "", "only what happened then or later, RFC 3339"),
		"to":    cmd.Flags().String("to", "", "only what happened then or earlier, RFC 3339"),
	}
	limit := cmd.Flags().Int("limit", 100, fmt.Sprintf("most entries to begin with, 1 to %d", maxLogLines))
	follow := cmd.Flags().Bool("follow", false, "go on with what happens from now on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := logLines{query: url.Values{}, out: cmd.OutOrStdout(), every: time.Second}
		for of, id := range ids {
			if *id == 0 {
				continue
			}
			if *id < 0 || l.path != "" {
				return app.Usage(errors.New("give one of --campaign, --message and --client, with an id"))
			}
			l.path = fmt.Sprintf("/mailing/%s/%d/log", of, *id)
		}
		if l.path == "" {
			return app.Usage(errors.New("give one of --campaign, --message and --client, with an id"))
		}
		if *limit < 1 || *limit > maxLogLines {
			return app.Usage(fmt.Errorf("--limit is 1 to %d", maxLogLines))
		}
		if *follow && *query["to"] != "" {
			return app.Usage(errors.New("--follow has no end, so that it goes without --to"))
		}
		for name, value := range query {
			if *value != "" {
				l.query.Set(name, *value)
			}
		}
		var err error
		if l.client, err = connect(); err != nil {
			return err
		}
		if v, err := cmd.Flags().GetBool("json"); err == nil && v {
			l.asJSON = true
		}
		if _, err := l.print(cmd.Context(), *limit); err != nil || !*follow {
			return err
		}
		return l.follow(cmd.Context(), cmd.ErrOrStderr())
	}
	return cmd
}

const (
	// maxLogLines bounds what is held to be turned round.
	maxLogLines = 10_000
	// logOverlap is how far back is looked again: an entry is written a moment
	// after it happened.
	logOverlap = 10 * time.Second
	// logPatience is how long --follow waits for an answer.
	logPatience = 10 * time.Second
)

// logAnswer is an entry as the API gives it.
type logAnswer struct {
	ID         string          `json:"id"`
	Time       time.Time       `json:"time"`
	Event      string          `json:"event"`
	CampaignID int64           `json:"campaign_id"`
	MessageID  int64           `json:"message_id"`
	ClientID   int64           `json:"client_id"`
	Data       json.RawMessage `json:"data"`
	raw        json.RawMessage
}

// logLines prints a log, oldest first, each entry once.
type logLines struct {
	client *app.Client
	path   string
	query  url.Values
	out    io.Writer
	asJSON bool
	every  time.Duration // between two looks

	begun bool                 // the heading is printed
	last  time.Time            // of the newest entry
	seen  map[string]time.Time // entries that the next look may find again
}

// print prints the newest entries that were not printed yet, up to limit, and
// tells whether there were more.
func (l *logLines) print(ctx context.Context, limit int) (more bool, err error) {
	query := url.Values{}
	for name, values := range l.query {
		query[name] = values
	}
	if !l.last.IsZero() {
		if from, err := time.Parse(time.RFC3339, query.Get("from")); err != nil || from.Before(l.last.Add(-logOverlap)) {
			query.Set("from", l.last.Add(-logOverlap).Format(time.RFC3339Nano))
		}
	}
	var fresh []logAnswer
	for len(fresh) < limit {
		query.Set("limit", fmt.Sprint(min(limit, 1000)))
		var page struct {
			Items []json.RawMessage `json:"items"`
			Next  *string           `json:"next"`
		}
		if err := l.client.Do(ctx, http.MethodGet, l.path, query, nil, &page); err != nil {
			return false, err
		}
		for _, raw := range page.Items {
			e := logAnswer{raw: raw}
			if err := json.Unmarshal(raw, &e); err != nil {
				return false, fmt.Errorf("read an entry: %w", err)
			}
			if _, printed := l.seen[e.ID]; printed {
				continue
			}
			if len(fresh) == limit {
				more = true
				break
			}
			fresh = append(fresh, e)
		}
		if page.Next == nil {
			break
		}
		query.Set("cursor", *page.Next)
		more = len(fresh) == limit
	}
	slices.Reverse(fresh)
	slices.SortStableFunc(fresh, func(a, b logAnswer) int { return a.Time.Compare(b.Time) })
	l.remember(fresh)
	return more, l.write(fresh)
}

// remember notes what the next look may find again.
func (l *logLines) remember(fresh []logAnswer) {
	if n := len(fresh); n > 0 {
		l.last = slices.MaxFunc([]time.Time{l.last, fresh[n-1].Time}, time.Time.Compare)
	}
	kept := map[string]time.Time{}
	for id, at := range l.seen {
		if !at.Before(l.last.Add(-logOverlap)) {
			kept[id] = at
		}
	}
	for _, e := range fresh {
		if !e.Time.Before(l.last.Add(-logOverlap)) {
			kept[e.ID] = e.Time
		}
	}
	l.seen = kept
}

func (l *logLines) write(fresh []logAnswer) error {
	if l.asJSON {
		for _, e := range fresh {
			if _, err := fmt.Fprintf(l.out, "%s\n", e.raw); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(l.out, 0, 0, 2, ' ', 0)
	if !l.begun {
		l.begun = true
		_, _ = fmt.Fprintf(table, "%-27s\t%-21s\t%-9s\t%-9s\t%-9s\tDETAILS\n", "TIME", "EVENT", "CAMPAIGN", "MESSAGE", "CLIENT")
	}
	for _, e := range fresh {
		_, _ = fmt.Fprintf(table, "%-27s\t%-21s\t%-9s\t%-9s\t%-9s\t%s\n", e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), app.Printable(e.Event),
			idOrDash(e.CampaignID), idOrDash(e.MessageID), idOrDash(e.ClientID), app.Members(e.Data))
	}
	return table.Flush()
}

// follow looks again and again until ctx ends. A server that is away is waited
// for.
func (l *logLines) follow(ctx context.Context, complaints io.Writer) error {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for away := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		look, done := context.WithTimeout(ctx, logPatience)
		more, err := l.print(look, maxLogLines)
		done()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !away:
			_, _ = fmt.Fprintf(complaints, "app: %v; trying again\n", err)
		case more:
			_, _ = fmt.Fprintf(complaints, "app: too much happened at once, the oldest of it is left out\n")
		}
		away = err != nil
	}
}

func idOrDash(id int64) string {
	if id == 0 {
		return "-"
	}
	return fmt.Sprint(id)
}
