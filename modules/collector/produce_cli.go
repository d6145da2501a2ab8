package collector

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"switchboard/platform/app"
)

func produceWebCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "web", Short: "Play the visitors of a web shop", Args: cobra.NoArgs,
		Long:    "Send the events of a web shop's visitors at a given rate: sessions that look around, fill a cart and\nbuy, some events out of order, some broken. It ends after --count events, after --for, or when interrupted.",
		Example: "  app produce web --rate 50\n  app produce web --rate 500 --batch 50 --count 10000 --seed 7",
	}
	connect := app.ClientFlags(cmd)
	f := cmd.Flags()
	perSecond := f.Float64("rate", 20, "events per second")
	batch := f.Int("batch", 1, "events per request, 1 to 1000")
	visitors := f.Int("visitors", 20, "visitors at a time")
	late := f.Float64("late", 0.05, "share of events that come out of order")
	bad := f.Float64("bad", 0.02, "share of events that are broken")
	count := f.Int("count", 0, "events to send; 0 goes on until interrupted")
	limit := f.Duration("for", 0, "time after which to end; 0 goes on until interrupted")
	seed := f.Uint64("seed", 0, "repeats the same visitors; 0 is random")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case *batch < 1 || *batch > maxBatch:
			return app.Usage(fmt.Errorf("--batch is not between 1 and %d", maxBatch))
		case *perSecond <= 0 || *visitors < 1 || *visitors > 100_000:
			return app.Usage(fmt.Errorf("--rate and --visitors must be positive, visitors at most 100000"))
		case *late < 0 || *bad < 0 || *late+*bad > 1:
			return app.Usage(fmt.Errorf("--late and --bad are shares: between 0 and 1 together"))
		}
		c, err := connect()
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		if *limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, *limit)
			defer cancel()
		}
		if *seed == 0 {
			*seed = rand.Uint64()
		}
		p := &production{client: c, shop: newShop(*seed, *visitors, *late, *bad), limiter: rate.NewLimiter(rate.Limit(*perSecond), max(*batch, int(*perSecond)/10+1))}
		if err := p.run(ctx, *batch, *count); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "sent %d events: %d accepted, %d rejected\n", p.accepted+p.rejected, p.accepted, p.rejected)
		return err
	}
	return cmd
}

// production sends what a shop makes.
type production struct {
	client             *app.Client
	shop               *shop
	limiter            *rate.Limiter
	accepted, rejected int
}

func (p *production) run(ctx context.Context, batch, count int) error {
	for sent := 0; count == 0 || sent < count; {
		n := batch
		if count > 0 {
			n = min(batch, count-sent)
		}
		if p.limiter.WaitN(ctx, n) != nil {
			return nil // the time is over
		}
		if err := p.send(ctx, n); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		sent += n
	}
	return nil
}

// send posts one batch. A refusal of all of it is part of the play.
func (p *production) send(ctx context.Context, n int) error {
	body, err := p.shop.batch(n, time.Now)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.client.URL+"/collector/events", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+p.client.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusAccepted:
		var r Receipt
		if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
			return err
		}
		p.accepted += r.Accepted
		p.rejected += len(r.Rejected)
	case http.StatusUnprocessableEntity:
		p.rejected += n
	default:
		return fmt.Errorf("the collector answered %s", resp.Status)
	}
	return nil
}
