package bus

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// sweepEvery is how long an acknowledged message of a queue may stay.
const sweepEvery = time.Second

// sweeping sweeps until ctx ends, also while publishers are refused: on a full
// disk it is what makes room. It is apart from the guard, whom a server that
// does not answer must not hold up.
func (b *Bus) sweeping(ctx context.Context) {
	for pause(ctx, sweepEvery) {
		if l := b.link.Load(); l != nil {
			b.sweep(ctx, l)
		}
	}
}

// sweep removes from the queues what every consumer is past. JetStream's own
// work queues remove each message as it is acknowledged, and write a tombstone
// for it through to the disk: with synced writes that doubles the cost of a
// message. One purge up to the floor of the acknowledgements costs next to
// nothing, and may be done by any instance.
func (b *Bus) sweep(ctx context.Context, l *link) {
	for _, s := range b.declared() {
		if !s.Queue {
			continue
		}
		if err := sweepQueue(ctx, l, s.Name); err != nil && ctx.Err() == nil {
			b.log.Debug("bus queue not swept, will retry", "stream", s.Name, "error", err)
		}
	}
}

func sweepQueue(ctx context.Context, l *link, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := l.js.Stream(ctx, name)
	if err != nil {
		return err
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return nil
	}
	consumers := stream.ListConsumers(ctx)
	floor, found := uint64(0), false
	for c := range consumers.Info() {
		if !found || c.AckFloor.Stream < floor {
			floor, found = c.AckFloor.Stream, true
		}
	}
	if err := consumers.Err(); err != nil || !found || floor < state.FirstSeq {
		return err
	}
	// A floor beyond the end is that of a stream that was longer once: such a
	// purge would take what nobody has seen.
	if now, err := stream.Info(ctx); err != nil || floor > now.State.LastSeq {
		return err
	}
	return stream.Purge(ctx, jetstream.WithPurgeSequence(floor+1))
}
