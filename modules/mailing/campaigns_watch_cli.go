package mailing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"switchboard/platform/app"
)

func campaignsWatch(connect func() (*app.Client, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "watch CAMPAIGN", Short: "Follow a campaign until it is finished or canceled", Args: cobra.ExactArgs(1),
		Long:    "Follow a campaign until it is finished or canceled: on a terminal as a bar, else as a line whenever something has changed.",
		Example: "  app mailing campaigns watch 1\n  app mailing campaigns watch 1 --interval 5s --json"}
	interval := cmd.Flags().Duration("interval", time.Second, "how often to look, at least 100ms")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := campaignPath(args[0], "")
		if err != nil {
			return err
		}
		if *interval < 100*time.Millisecond {
			return app.Usage(errors.New("--interval is at least 100ms"))
		}
		c, err := connect()
		if err != nil {
			return err
		}
		w := &campaignWatch{out: cmd.OutOrStdout(), asJSON: wantsJSON(cmd)}
		w.bar = onTerminal(w.out) && !w.asJSON
		return w.follow(cmd.Context(), c, path, *interval)
	}
	return cmd
}

// campaignWatch shows how far a campaign has got.
type campaignWatch struct {
	out         io.Writer
	asJSON, bar bool
	shown       []byte // the answer that was shown last
	audience    int64  // clients that the filter picks: messages are made as they go
}

func (w *campaignWatch) follow(ctx context.Context, c *app.Client, path string, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		var raw json.RawMessage
		if err := c.Do(ctx, http.MethodGet, path+"/stats", nil, nil, &raw); err != nil {
			if ctx.Err() != nil {
				return w.end()
			}
			return errors.Join(w.end(), err)
		}
		var s CampaignDetailStats
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		if w.shown == nil && !w.asJSON {
			var p CampaignPreview
			if err := c.Do(ctx, http.MethodGet, path+"/preview", nil, nil, &p); err == nil { // else it is known as it goes
				w.audience = p.Matching
			}
		}
		if err := w.show(raw, &s); err != nil {
			return err
		}
		// A canceled campaign still settles what it had in hand.
		open := s.ByStatus.Pending + s.ByStatus.Sending + s.ByStatus.Retrying
		if s.Status == string(campaignFinished) || s.Status == string(campaignCanceled) && open == 0 {
			return w.end()
		}
		select {
		case <-ctx.Done():
			return w.end()
		case <-tick.C:
		}
	}
}

// show tells what is new.
func (w *campaignWatch) show(raw []byte, s *CampaignDetailStats) error {
	if bytes.Equal(raw, w.shown) {
		return nil
	}
	w.shown = raw
	var err error
	switch {
	case w.asJSON:
		_, err = fmt.Fprintln(w.out, strings.TrimSpace(string(raw)))
	case w.bar:
		_, err = fmt.Fprintf(w.out, "\r%s\x1b[K", campaignBar(s, w.audience, 40))
	default:
		_, err = fmt.Fprintln(w.out, campaignBar(s, w.audience, 0))
	}
	return err
}

// end leaves the bar as it is.
func (w *campaignWatch) end() error {
	if !w.bar || w.shown == nil {
		return nil
	}
	_, err := fmt.Fprintln(w.out)
	return err
}

// campaignBar draws a campaign in one line: what was sent (#), what will not go
// (x), what is on its way (>), what is left (.), and the numbers that are not
// zero. Until the campaign is over it has at least a message for each of its
// audience. A width of 0 leaves the drawing out.
func campaignBar(s *CampaignDetailStats, audience int64, width int) string {
	by, total := &s.ByStatus, s.Total
	if s.Status != string(campaignFinished) && s.Status != string(campaignCanceled) {
		total = max(total, audience)
	}
	var b strings.Builder
	if width > 0 {
		// Rounded at each border, so that the parts never exceed the whole.
		upTo, drawn := int64(0), 0
		b.WriteByte('[')
		for _, part := range []struct {
			n    int64
			mark string
		}{{by.Sent, "#"}, {by.Failed + by.Expired + by.Canceled, "x"}, {by.Sending + by.Retrying, ">"}} {
			upTo += part.n
			end := 0
			if total > 0 {
				end = int(min(upTo, total) * int64(width) / total)
			}
			b.WriteString(strings.Repeat(part.mark, max(0, end-drawn)))
			drawn = max(drawn, end)
		}
		b.WriteString(strings.Repeat(".", width-drawn) + "] ")
	}
	final := by.Sent + by.Failed + by.Expired + by.Canceled
	done := int64(0)
	if total > 0 {
		done = final * 100 / total
	}
	fmt.Fprintf(&b, "%3d%%  %s  %d of %d", done, app.Printable(s.Status), final, total)
	for i, n := range by.list() {
		if n > 0 {
			fmt.Fprintf(&b, ", %s %d", messageStatusNames[i], n)
		}
	}
	return b.String()
}
