package crm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"switchboard/platform/errs"
)

// kafkaBackfill reads the topics beside the group, up to an end.
type kafkaBackfill struct {
	*kafkaSource
	cl     *kgo.Client
	adm    *kadm.Client
	topics kadm.TopicDetails          // that are there
	left   map[string]map[int32]int64 // where each partition is done that is not yet
}

// backfill publishes what the topics hold from a time on, up to what is there
// now: the same events under the same names.
func (k *kafkaSource) backfill(ctx context.Context, from time.Time) error {
	cl, err := k.cfg.Open(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(kafkaFetch), kgo.FetchMaxPartitionBytes(kafkaFetch/4),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	b := &kafkaBackfill{kafkaSource: k, cl: cl, adm: kadm.NewClient(cl), left: map[string]map[int32]int64{}}
	err = b.begin(ctx, from)
	for err == nil && len(b.left) > 0 {
		err = b.step(ctx)
	}
	return errs.Wrap(errs.Unavailable, err, "read Kafka from its beginning")
}

// begin finds out where each partition begins and ends.
func (b *kafkaBackfill) begin(ctx context.Context, from time.Time) error {
	all, err := b.adm.ListTopics(ctx, topicUser, topicBooking)
	if err != nil {
		return err
	}
	b.topics = kadm.TopicDetails{}
	for name, t := range all {
		if t.Err == nil {
			b.topics[name] = t
		}
	}
	if len(b.topics) == 0 {
		return nil
	}
	begin, err := b.adm.ListStartOffsets(ctx, b.topics.Names()...)
	if err == nil && !from.IsZero() {
		begin, err = b.adm.ListOffsetsAfterMilli(ctx, from.UnixMilli(), b.topics.Names()...)
	}
	if err != nil {
		return err
	}
	end, err := b.adm.ListCommittedOffsets(ctx, b.topics.Names()...)
	if err != nil {
		return err
	}
	start := map[string]map[int32]kgo.Offset{}
	for topic, partitions := range end {
		for partition, e := range partitions {
			first, ok := begin.Lookup(topic, partition)
			if !ok || e.Err != nil || first.Err != nil {
				return errors.Join(e.Err, first.Err, fmt.Errorf("partition %s/%d has no bounds", topic, partition))
			}
			if first.Offset < 0 || first.Offset >= e.Offset {
				continue
			}
			if b.left[topic] == nil {
				b.left[topic], start[topic] = map[int32]int64{}, map[int32]kgo.Offset{}
			}
			b.left[topic][partition], start[topic][partition] = e.Offset, kgo.NewOffset().At(first.Offset)
		}
	}
	b.cl.AddConsumePartitions(start)
	return nil
}

// step reads once and publishes what came.
func (b *kafkaBackfill) step(ctx context.Context) error {
	try, cancel := context.WithTimeout(ctx, b.every)
	fetches := b.cl.PollRecords(try, kafkaBatch)
	cancel()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, e := range fetches.Errors() {
		if !errors.Is(e.Err, context.DeadlineExceeded) {
			return e.Err
		}
	}
	var events []rawEvent
	fetches.EachRecord(func(r *kgo.Record) {
		until, ok := b.left[r.Topic][r.Partition]
		if ok && r.Offset < until && !r.Attrs.IsControl() {
			events = append(events, kafkaEvent(r, kafkaLog(r.Topic, r.Partition, b.topics[r.Topic].ID)))
		}
		if ok && r.Offset >= until-1 {
			b.done(r.Topic, r.Partition)
		}
	})
	if len(events) > 0 {
		return b.deliver(ctx, b.board, events, nil)
	}
	// Retention may have taken what is waited for.
	begin, err := b.adm.ListStartOffsets(ctx, b.topics.Names()...)
	if err != nil {
		return err
	}
	begin.Each(func(first kadm.ListedOffset) {
		if until, ok := b.left[first.Topic][first.Partition]; ok && first.Offset >= until {
			b.done(first.Topic, first.Partition)
		}
	})
	return nil
}

// done notes that nothing more is wanted of a partition.
func (b *kafkaBackfill) done(topic string, partition int32) {
	delete(b.left[topic], partition)
	if len(b.left[topic]) == 0 {
		delete(b.left, topic)
	}
}
