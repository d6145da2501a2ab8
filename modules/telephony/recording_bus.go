package telephony

import (
	"context"
	"encoding/json"
	"time"

	"golang.org/x/sync/errgroup"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
)

const (
	streamRecording  = "TELEPHONY_RECORDING"
	subjectRecording = "telephony.recording"
	recordingWorkers = 2
	recordingTick    = 10 * time.Second
)

// start declares the queue of recordings.
func (s *recordingService) start(ctx context.Context) error {
	if !s.fetches() {
		return nil
	}
	return s.Bus.Declare(ctx, bus.Stream{Name: streamRecording, Subjects: []string{subjectRecording}, Queue: true, MaxBytes: 64 << 20})
}

// run fetches recordings until ctx ends. A message brings the first attempt;
// those that follow come from the table, so that nothing waits in a worker.
func (s *recordingService) run(ctx context.Context) error {
	if !s.fetches() {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.Bus.Consume(ctx, bus.Consumer{Stream: streamRecording, Name: "telephony-recording", Workers: recordingWorkers},
			func(_ context.Context, msgs []bus.Message) error {
				for _, m := range msgs {
					var p planned
					if err := json.Unmarshal(m.Data, &p); err != nil {
						return bus.Permanent(errs.Wrap(errs.Invalid, err, "read the message"))
					}
					// Its end cuts a fetch short: the next start goes on.
					if err := s.fetch(ctx, p.Event); err != nil {
						if ctx.Err() != nil {
							return errs.Wrap(errs.Unavailable, err, "shutting down")
						}
						return err
					}
				}
				return nil
			})
	})
	g.Go(func() error {
		tick := time.NewTicker(recordingTick)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
					s.Log.Warn("recordings cannot be fetched, trying again", "error", err)
				}
			}
		}
	})
	return g.Wait()
}
