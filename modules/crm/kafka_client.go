package crm

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"switchboard/platform/kafka"
)

const (
	// kafkaBatch is how many records are published at once.
	kafkaBatch = 1000
	// kafkaFetch bounds what is fetched ahead, per broker.
	kafkaFetch = 16 << 20
	// sessionTimeout is after how long without a sign of life the partitions of an
	// instance go to others.
	sessionTimeout = 10 * time.Second
	// kafkaLeave is how long a stop waits for the brokers.
	kafkaLeave = 2 * time.Second
	// kafkaCommit is how long a commit is tried. The next one covers it.
	kafkaCommit = 5 * time.Second
	// topicMark begins the note that a commit carries: of which topic the offset
	// is. A topic that was deleted and made anew has the name of the old one.
	topicMark = "topic "
)

// kafkaSource reads the platform's topics as a member of a consumer group.
type kafkaSource struct {
	cfg     kafka.Config
	group   string
	log     *slog.Logger
	board   *sourceBoard
	deliver deliverFunc
	every   time.Duration // between looks at the cluster
}

// errAnew ends a session whose topics are not those it began with.
var errAnew = errors.New("a topic was deleted and made anew")

// run reads until ctx ends.
func (k *kafkaSource) run(ctx context.Context) error {
	for {
		err := k.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		k.log.WarnContext(ctx, "reading from Kafka begins again", "reason", err)
		k.board.readFailed(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(k.every, time.Second)):
		}
	}
}

// kafkaSession is one membership in the group.
type kafkaSession struct {
	*kafkaSource
	cl      *kgo.Client
	adm     *kadm.Client
	missing int // topics, at the last look

	mu     sync.Mutex
	topics map[string]kadm.TopicID            // as they were first seen in this session
	marks  map[string]map[int32]string        // notes of the commits that were found
	next   map[string]map[int32]kafkaPosition // after what was published
}

type kafkaPosition struct {
	offset int64
	at     time.Time
}

// session reads until ctx ends or something happened after which it must begin
// again.
func (k *kafkaSource) session(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s := &kafkaSession{kafkaSource: k, topics: map[string]kadm.TopicID{}, next: map[string]map[int32]kafkaPosition{}}
	var err error
	s.cl, err = k.cfg.Open(
		kgo.ConsumerGroup(k.group), kgo.ConsumeTopics(topicUser, topicBooking),
		kgo.SessionTimeout(sessionTimeout),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.OnOffsetsFetched(s.found), kgo.AdjustFetchOffsetsFn(s.adjust),
		kgo.FetchMaxBytes(kafkaFetch), kgo.FetchMaxPartitionBytes(kafkaFetch/4),
		kgo.MetadataMinAge(max(k.every/5, 10*time.Millisecond)), kgo.MetadataMaxAge(30*time.Second),
	)
	if err != nil {
		return err
	}
	s.adm = kadm.NewClient(s.cl)
	var looking sync.WaitGroup
	looking.Go(func() { s.watch(ctx, stop) })
	defer looking.Wait()
	defer stop(nil)
	defer s.leave()
	for {
		if err := s.step(ctx); err != nil {
			return err
		}
	}
}

// leave says goodbye to the group, if there is somebody to hear it.
func (s *kafkaSession) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), kafkaLeave)
	defer cancel()
	s.cl.AllowRebalance()
	_ = s.cl.LeaveGroupContext(ctx)
	s.cl.Close()
}

// step reads once and publishes what came. An offset is committed when the event
// before it is on the bus; a process that ends in between reads again.
func (s *kafkaSession) step(ctx context.Context) error {
	fetches := s.cl.PollRecords(ctx, kafkaBatch)
	defer s.cl.AllowRebalance()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, e := range fetches.Errors() {
		switch lost := (*kgo.ErrDataLoss)(nil); {
		case errors.Is(e.Err, kgo.ErrClientClosed), errors.Is(e.Err, kerr.UnknownTopicID), errors.Is(e.Err, kerr.InconsistentTopicID):
			return fmt.Errorf("read %s: %w", e.Topic, e.Err)
		case errors.As(e.Err, &lost):
			s.log.ErrorContext(ctx, "KAFKA LOST EVENTS: the topic is read again from its beginning", "topic", e.Topic, "partition", e.Partition, "error", e.Err)
		default:
			s.log.WarnContext(ctx, "Kafka cannot be read", "topic", e.Topic, "partition", e.Partition, "error", e.Err)
			s.board.readFailed(e.Err)
		}
	}
	events, done := s.events(fetches)
	if len(events) == 0 {
		return nil
	}
	// While the bus is away nothing keeps the group from dividing the partitions
	// anew: then somebody else publishes the same, which is no harm.
	if err := s.deliver(ctx, s.board, events, s.cl.AllowRebalance); err != nil {
		return err
	}
	s.published(done)
	if err := s.commit(ctx, done); err != nil {
		s.log.WarnContext(ctx, "an offset was not committed", "error", err)
	}
	return nil
}

// events gives what was fetched, and behind what.
func (s *kafkaSession) events(fetches kgo.Fetches) (events []rawEvent, done map[string]map[int32]kafkaPosition) {
	done = map[string]map[int32]kafkaPosition{}
	for _, f := range fetches {
		for _, t := range f.Topics {
			id := s.id(t)
			for _, p := range t.Partitions {
				log := kafkaLog(t.Topic, p.Partition, id)
				for _, r := range p.Records {
					events = append(events, kafkaEvent(r, log))
					if done[r.Topic] == nil {
						done[r.Topic] = map[int32]kafkaPosition{}
					}
					done[r.Topic][r.Partition] = kafkaPosition{r.Offset + 1, r.Timestamp}
				}
			}
		}
	}
	return events, done
}

func kafkaEvent(r *kgo.Record, log string) rawEvent {
	return rawEvent{Topic: r.Topic, Log: log, Seq: r.Offset, At: r.Timestamp.UTC(), Value: r.Value}
}

// kafkaLog names a partition of one life of a topic.
func kafkaLog(topic string, partition int32, id [16]byte) string {
	return fmt.Sprintf("kafka/%s/%d@%s", topic, partition, hex.EncodeToString(id[:4]))
}

// id of the topic: brokers that do not tell with the records do with the rest.
func (s *kafkaSession) id(t kgo.FetchTopic) [16]byte {
	if t.TopicID != [16]byte{} {
		return t.TopicID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.topics[t.Topic]
}

func (s *kafkaSession) published(done map[string]map[int32]kafkaPosition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, partitions := range done {
		for partition, p := range partitions {
			if s.next[topic] == nil {
				s.next[topic] = map[int32]kafkaPosition{}
			}
			s.next[topic][partition] = p
		}
	}
}

// commit tells the group where to go on, with a note of which topic it is.
func (s *kafkaSession) commit(ctx context.Context, done map[string]map[int32]kafkaPosition) (err error) {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	notes := map[string]string{}
	s.mu.Lock()
	for topic, partitions := range done {
		offsets[topic] = map[int32]kgo.EpochOffset{}
		for partition, p := range partitions {
			offsets[topic][partition] = kgo.EpochOffset{Epoch: -1, Offset: p.offset}
		}
		notes[topic] = topicMark + s.topics[topic].String()
	}
	s.mu.Unlock()
	// What was published counts even when this is the end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), kafkaCommit)
	defer cancel()
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			t := &req.Topics[i]
			for j := range t.Partitions {
				if note, ok := notes[t.Topic]; ok {
					t.Partitions[j].Metadata = &note
				}
			}
		}
		return nil
	})
	s.cl.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, failed error) {
		if err = failed; err != nil {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				err = errors.Join(err, kerr.ErrorForCode(p.ErrorCode))
			}
		}
	})
	return err
}

// found keeps the notes of the commits from which reading is to go on.
func (s *kafkaSession) found(ctx context.Context, cl *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	// It may be called before the session has its client.
	if _, err := s.look(ctx, kadm.NewClient(cl)); err != nil {
		return err
	}
	marks := map[string]map[int32]string{}
	note := func(topic string, partition int32, text *string) {
		if text == nil || !strings.HasPrefix(*text, topicMark) {
			return
		}
		if marks[topic] == nil {
			marks[topic] = map[int32]string{}
		}
		marks[topic][partition] = *text
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			note(t.Topic, p.Partition, p.Metadata)
		}
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				note(t.Topic, p.Partition, p.Metadata)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marks = marks
	return nil
}

// adjust begins at the start where the commit is of a topic that is no more.
func (s *kafkaSession) adjust(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, partitions := range offsets {
		now := topicMark + s.topics[topic].String()
		for partition := range partitions {
			if was, ok := s.marks[topic][partition]; ok && was != now {
				s.log.WarnContext(ctx, "a topic was deleted and made anew: it is read from its beginning", "topic", topic, "partition", partition)
				partitions[partition] = kgo.NewOffset().AtStart()
			}
		}
	}
	return offsets, nil
}

// look asks for the topics, and fails if one is not the one it was.
func (s *kafkaSession) look(ctx context.Context, adm *kadm.Client) (kadm.TopicDetails, error) {
	topics, err := adm.ListTopics(ctx, topicUser, topicBooking)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range topics {
		if t.Err != nil {
			continue
		}
		was, known := s.topics[name]
		if !known {
			s.topics[name] = t.ID
		} else if was != t.ID {
			return nil, errAnew
		}
	}
	return topics, nil
}

// watch keeps the status, and ends the session when a topic was made anew.
func (s *kafkaSession) watch(ctx context.Context, stop context.CancelCauseFunc) {
	for {
		try, cancel := context.WithTimeout(ctx, max(s.every, 2*time.Second))
		err := s.observe(try)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errAnew):
			stop(errAnew)
			return
		}
		s.board.looked(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.every):
		}
	}
}

// observe notes where each partition begins and ends, and how far the group is.
func (s *kafkaSession) observe(ctx context.Context) error {
	topics, err := s.look(ctx, s.adm)
	if err != nil {
		return err
	}
	var there []string
	var missing []string
	for _, name := range []string{topicUser, topicBooking} {
		switch t := topics[name]; {
		case t.Err == nil:
			there = append(there, name)
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			missing = append(missing, name)
		default:
			return fmt.Errorf("topic %s: %w", name, t.Err)
		}
	}
	if len(missing) < s.missing {
		s.cl.ForceMetadataRefresh() // one has appeared
	}
	s.missing = len(missing)
	list, err := s.partitions(ctx, there)
	if err == nil {
		s.board.set(list, missing)
	}
	return err
}

func (s *kafkaSession) partitions(ctx context.Context, topics []string) ([]partitionStatus, error) {
	if len(topics) == 0 {
		return nil, nil
	}
	begin, err := s.adm.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, err
	}
	end, err := s.adm.ListCommittedOffsets(ctx, topics...) // of transactions, not of the group
	if err != nil {
		return nil, err
	}
	group, err := s.adm.FetchOffsetsForTopics(ctx, s.group, topics...)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []partitionStatus
	for topic, partitions := range end {
		for partition, e := range partitions {
			if e.Err != nil {
				return nil, e.Err
			}
			p := partitionStatus{Topic: topic, Partition: partition, End: e.Offset}
			if b, ok := begin.Lookup(topic, partition); ok {
				p.Position = max(b.Offset, 0)
			}
			if c, ok := group.Lookup(topic, partition); ok && c.At >= 0 {
				if note := c.Metadata; !strings.HasPrefix(note, topicMark) || note == topicMark+s.topics[topic].String() {
					p.Position = max(p.Position, c.At)
				}
			}
			// What another member has committed since counts more.
			if own := s.next[topic][partition]; own.offset >= p.Position {
				p.Position, p.At = own.offset, own.at.UTC()
			}
			p.Lag = max(p.End-p.Position, 0)
			list = append(list, p)
		}
	}
	slices.SortFunc(list, comparePartitions)
	return list, nil
}
