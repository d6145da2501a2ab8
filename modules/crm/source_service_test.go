package crm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"switchboard/platform/apptest"
	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/errs"
	"switchboard/platform/kafka"
)

// intray is where sources publish to in a test.
type intray struct {
	mu     sync.Mutex
	events []rawEvent
	fail   error
	failed int
}

func (in *intray) publish(_ context.Context, events []rawEvent) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.fail != nil {
		in.failed++
		return in.fail
	}
	for _, e := range events {
		e.Value = bytes.Clone(e.Value)
		in.events = append(in.events, e)
	}
	return nil
}

func (in *intray) failing(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fail, in.failed = err, 0
}

func (in *intray) failures() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.failed
}

func (in *intray) all() []rawEvent {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.events)
}

func (in *intray) forget() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.events = nil
}

// has is for Within: at least n different events have come.
func (in *intray) has(n int) func() string {
	return func() string {
		if got := len(byPlace(in.all())); got < n {
			return fmt.Sprintf("%d of %d events", got, n)
		}
		return ""
	}
}

func placeName(e rawEvent) string { return e.Log + "/" + strconv.FormatInt(e.Seq, 10) }

func byPlace(events []rawEvent) map[string]rawEvent {
	out := map[string]rawEvent{}
	for _, e := range events {
		out[placeName(e)] = e
	}
	return out
}

// sourcing is a run of sources.
type sourcing struct {
	*sources
	in   *intray
	stop func()
}

// source runs sources until the end of the test. They look often.
func source(t *testing.T, cfg Config, cluster kafka.Config, b *bus.Bus, in *intray) *sourcing {
	t.Helper()
	if cfg.KafkaGroup == "" {
		cfg.KafkaGroup = "g"
	}
	s := newSources(&cfg, cluster, b, in.publish, slog.New(slog.DiscardHandler), time.Now)
	if s.kafka != nil {
		s.kafka.every = 50 * time.Millisecond
	}
	if s.nats != nil {
		s.nats.every = 50 * time.Millisecond
	}
	if err := s.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop := func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return &sourcing{s, in, stop}
}

// is is for Within: a source is in a state, for a reason that says something.
func (s *sourcing) is(source, state, reason string) func() string {
	return func() string {
		for _, st := range s.status() {
			if st.Source == source && (st.State != state || !strings.Contains(st.Reason, reason)) {
				return fmt.Sprintf("%s is %s: %s", source, st.State, st.Reason)
			}
		}
		return ""
	}
}

// lags is for Within: all partitions that a source tells of together.
func (s *sourcing) lags(source string, want int64) func() string {
	return func() string {
		lag, end := int64(0), int64(0)
		for _, st := range s.status() {
			for _, p := range st.Partitions {
				if st.Source == source {
					lag += p.Lag
					end += p.End
				}
			}
		}
		if lag != want || end == 0 {
			return fmt.Sprintf("the lag of %s is %d (ends %d): %+v", source, lag, end, s.status())
		}
		return ""
	}
}

// fake starts a Kafka cluster until the end of the test.
func fake(t *testing.T, opts ...kfake.Opt) (*kfake.Cluster, kafka.Config) {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, kafka.Config{Brokers: c.ListenAddrs()}
}

func withTopics(partitions int32) kfake.Opt {
	return kfake.SeedTopics(partitions, topicUser, topicBooking)
}

// admin is a client of a cluster until the end of the test.
func admin(t *testing.T, cfg kafka.Config) (*kgo.Client, *kadm.Client) {
	t.Helper()
	cl, err := cfg.Open(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond), kgo.RecordDeliveryTimeout(20*time.Second), kgo.UnknownTopicRetries(100))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl, kadm.NewClient(cl)
}

// line is a record of the platform as the files have it.
type line struct {
	Topic, Value string
	Key          string `json:"key_hex"`
}

// lines reads events of the platform.
func lines(t *testing.T, files ...string) (all []line) {
	t.Helper()
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		s := bufio.NewScanner(bytes.NewReader(data))
		for s.Scan() {
			var l line
			if err := json.Unmarshal(s.Bytes(), &l); err != nil {
				t.Fatal(err)
			}
			all = append(all, l)
		}
	}
	if len(all) == 0 {
		t.Fatal("no events")
	}
	return all
}

// send writes events, spread over partitions, and gives what should come of
// them, without the id of the topic.
func send(t *testing.T, cl *kgo.Client, partitions int, list []line) map[string]string {
	t.Helper()
	want := map[string]string{}
	for i, l := range list {
		key, err := hex.DecodeString(l.Key)
		if err != nil {
			t.Fatal(err)
		}
		r := &kgo.Record{Topic: l.Topic, Partition: int32(i % partitions), Key: key, Value: []byte(l.Value)}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		want[fmt.Sprintf("kafka/%s/%d/%d", r.Topic, r.Partition, r.Offset)] = l.Value
	}
	return want
}

// compareEvents wants just these events, in any number.
func compareEvents(t *testing.T, got []rawEvent, want map[string]string) {
	t.Helper()
	have := map[string]string{}
	for _, e := range got {
		log, _, _ := strings.Cut(e.Log, "@")
		have[log+"/"+strconv.FormatInt(e.Seq, 10)] = string(e.Value)
		if topic := strings.Split(e.Log, "/")[1]; e.Topic != topic {
			t.Errorf("the topic is %s in the log %s", e.Topic, e.Log)
		}
		if e.At.IsZero() || e.At.After(time.Now().Add(time.Minute)) {
			t.Errorf("%s is of %v", placeName(e), e.At)
		}
	}
	for name, value := range want {
		if have[name] != value {
			t.Errorf("%s: got %q, want %q", name, have[name], value)
		}
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			t.Errorf("%s came from nowhere", name)
		}
	}
}

func numbered(topic string, from, to int) (list []line) {
	for i := from; i < to; i++ {
		list = append(list, line{Topic: topic, Value: fmt.Sprintf(`{"n":%d}`, i)})
	}
	return list
}

func TestKafkaEventsComeAsTheyWereSent(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t, withTopics(3))
	cl, adm := admin(t, cfg)
	in := &intray{}
	s := source(t, Config{}, cfg, bustest.Embedded(t), in)
	list := append(lines(t, "events.jsonl", "edge-cases.jsonl"), line{Topic: topicUser, Value: ""}, line{Topic: topicUser, Value: "no json \xff\x00", Key: "ffffffffffff"})
	want := send(t, cl, 3, list)
	apptest.Within(t, 20*time.Second, in.has(len(list)))
	compareEvents(t, in.all(), want)
	for name, group := range perLog(in.all()) {
		if !slices.IsSorted(group) {
			t.Errorf("%s is out of order", name)
		}
	}
	apptest.Within(t, 10*time.Second, s.lags("kafka", 0))
	apptest.Within(t, 10*time.Second, s.is("kafka", sourceReading, ""))
	if st := s.status(); len(st) != 1 || len(st[0].Partitions) != 6 || st[0].Partitions[0].Topic != topicBooking || st[0].Partitions[0].At.IsZero() {
		t.Errorf("%+v", st)
	}
	s.stop()
	committed, err := adm.FetchOffsets(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	committed.Each(func(o kadm.OffsetResponse) { sum += o.At })
	if sum != int64(len(list)) {
		t.Errorf("committed %d of %d", sum, len(list))
	}
}

func perLog(events []rawEvent) map[string][]int64 {
	out := map[string][]int64{}
	for _, e := range events {
		out[e.Log] = append(out[e.Log], e.Seq)
	}
	return out
}

func TestAnOffsetIsCommittedAfterItsEventIsOnTheBus(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t, withTopics(2))
	cl, _ := admin(t, cfg)
	b := bustest.Embedded(t)
	want := send(t, cl, 2, numbered(topicUser, 0, 40))
	in := &intray{fail: errs.New(errs.Unavailable, "no space")}
	s := source(t, Config{}, cfg, b, in)
	apptest.Within(t, 20*time.Second, s.is("kafka", sourceFailing, "no space"))
	apptest.Within(t, 20*time.Second, s.lags("kafka", 40))
	apptest.Within(t, 20*time.Second, func() string {
		if in.failures() < 3 {
			return "it is not tried again"
		}
		return ""
	})
	// The process ends before anything was published: nothing is lost.
	s.stop()
	s = source(t, Config{}, cfg, b, &intray{})
	apptest.Within(t, 20*time.Second, s.in.has(40))
	compareEvents(t, s.in.all(), want)
	apptest.Within(t, 20*time.Second, s.lags("kafka", 0))
	// While publishing fails events wait, and go on when it works.
	s.in.failing(errs.New(errs.Unavailable, "away"))
	more := send(t, cl, 2, numbered(topicUser, 40, 60))
	apptest.Within(t, 20*time.Second, s.lags("kafka", 20))
	s.in.failing(nil)
	apptest.Within(t, 20*time.Second, s.in.has(60))
	apptest.Within(t, 20*time.Second, s.is("kafka", sourceReading, ""))
	apptest.Within(t, 20*time.Second, s.lags("kafka", 0))
	s.stop()
	// What was committed does not come again.
	s = source(t, Config{}, cfg, b, &intray{})
	last := send(t, cl, 2, numbered(topicUser, 60, 62))
	apptest.Within(t, 20*time.Second, s.in.has(2))
	compareEvents(t, s.in.all(), last)
	if len(more) != 20 {
		t.Error(len(more))
	}
}

func TestTwoConsumersShareThePartitionsAndLoseNothing(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t, withTopics(4))
	cl, _ := admin(t, cfg)
	b := bustest.Embedded(t)
	first := source(t, Config{}, cfg, b, &intray{})
	want := send(t, cl, 4, numbered(topicUser, 0, 100))
	apptest.Within(t, 20*time.Second, first.in.has(50))
	second := source(t, Config{}, cfg, b, &intray{})
	// Events go on coming until both have some.
	n := 100
	apptest.Within(t, 30*time.Second, func() string {
		for name, value := range send(t, cl, 4, numbered(topicUser, n, n+8)) {
			want[name] = value
		}
		n += 8
		if len(second.in.all()) < 20 {
			return "the second one has nothing to do"
		}
		return ""
	})
	// One that is stuck gives its partitions up, and nothing is lost.
	second.in.failing(errs.New(errs.Unavailable, "stuck"))
	for name, value := range send(t, cl, 4, numbered(topicUser, n, n+40)) {
		want[name] = value
	}
	n += 40
	second.stop()
	apptest.Within(t, 30*time.Second, func() string {
		if got := len(byPlace(append(first.in.all(), second.in.all()...))); got < n {
			return fmt.Sprintf("%d of %d events", got, n)
		}
		return ""
	})
	compareEvents(t, append(first.in.all(), second.in.all()...), want)
	apptest.Within(t, 20*time.Second, first.lags("kafka", 0))
}

// freePort is one on which nobody listens.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestABrokerMayBeAwayAtTheStartAndLater(t *testing.T) {
	t.Parallel()
	port, dir := freePort(t), t.TempDir()
	cfg := kafka.Config{Brokers: []string{fmt.Sprintf("127.0.0.1:%d", port)}}
	begin := func() *kfake.Cluster {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(dir))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	s := source(t, Config{}, cfg, bustest.Embedded(t), &intray{})
	apptest.Within(t, 20*time.Second, s.is("kafka", sourceFailing, ""))
	c := begin()
	// It has no topics yet.
	apptest.Within(t, 20*time.Second, s.is("kafka", sourceWaiting, topicUser))
	cl, adm := admin(t, cfg)
	for _, topic := range []string{topicUser, topicBooking} {
		if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
		if topic == topicUser {
			apptest.Within(t, 20*time.Second, s.is("kafka", sourceWaiting, "not there yet: "+topicBooking))
		}
	}
	want := send(t, cl, 1, append(numbered(topicUser, 0, 10), numbered(topicBooking, 0, 10)...))
	apptest.Within(t, 30*time.Second, s.in.has(20))
	apptest.Within(t, 20*time.Second, s.is("kafka", sourceReading, ""))
	c.Close()
	apptest.Within(t, 20*time.Second, s.is("kafka", sourceFailing, ""))
	begin()
	for name, value := range send(t, cl, 1, numbered(topicUser, 10, 20)) {
		want[name] = value
	}
	apptest.Within(t, 30*time.Second, s.in.has(30))
	compareEvents(t, s.in.all(), want)
	apptest.Within(t, 20*time.Second, s.is("kafka", sourceReading, ""))
}

func TestATopicThatIsMadeAnewIsAnotherLog(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t, withTopics(1))
	cl, adm := admin(t, cfg)
	b := bustest.Embedded(t)
	anew := func() {
		if _, err := adm.DeleteTopics(t.Context(), topicUser); err != nil {
			t.Fatal(err)
		}
		if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, topicUser); err != nil {
			t.Fatal(err)
		}
		cl.PurgeTopicsFromClient(topicUser)
	}
	s := source(t, Config{}, cfg, b, &intray{})
	send(t, cl, 1, numbered(topicUser, 0, 5))
	apptest.Within(t, 20*time.Second, s.in.has(5))
	// Under the eyes of the one who reads.
	anew()
	send(t, cl, 1, numbered(topicUser, 5, 8))
	apptest.Within(t, 30*time.Second, s.in.has(8))
	apptest.Within(t, 20*time.Second, s.lags("kafka", 0))
	s.stop()
	// While nobody reads: the offset that was committed would skip three events.
	anew()
	send(t, cl, 1, numbered(topicUser, 8, 18))
	commitOld(t, adm)
	s2 := source(t, Config{}, cfg, b, s.in)
	apptest.Within(t, 30*time.Second, s.in.has(18))
	apptest.Within(t, 20*time.Second, s2.lags("kafka", 0))
	logs := perLog(s.in.all())
	if len(logs) != 3 {
		t.Errorf("%d logs: %v", len(logs), logs)
	}
	values := map[string]bool{}
	for _, e := range s.in.all() {
		values[string(e.Value)] = true
	}
	if len(values) != 18 {
		t.Errorf("%d of 18 events", len(values))
	}
}

// commitOld leaves the group with an offset of the topic that is no more, as a
// cluster does that has not cleaned up.
func commitOld(t *testing.T, adm *kadm.Client) {
	t.Helper()
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: topicUser, Partition: 0, At: 3, LeaderEpoch: -1, Metadata: topicMark + kadm.TopicID{1}.String()})
	if err := adm.CommitAllOffsets(t.Context(), "g", offsets); err != nil {
		t.Fatal(err)
	}
}

func TestABackfillReadsKafkaFromItsBeginning(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t, withTopics(2))
	cl, _ := admin(t, cfg)
	s := source(t, Config{}, cfg, bustest.Embedded(t), &intray{})
	want := send(t, cl, 2, append(numbered(topicUser, 0, 30), numbered(topicBooking, 0, 5)...))
	apptest.Within(t, 20*time.Second, s.in.has(35))
	first := byPlace(s.in.all())
	s.in.forget()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.backfill(ctx, time.Time{}); err != nil {
		t.Fatal(err)
	}
	compareEvents(t, s.in.all(), want)
	for name := range byPlace(s.in.all()) {
		if _, ok := first[name]; !ok {
			t.Errorf("%s has another name now", name)
		}
	}
	s.in.forget()
	if err := s.backfill(ctx, time.Now().Add(time.Minute)); err != nil || len(s.in.all()) != 0 {
		t.Errorf("%v, %d events of the future", err, len(s.in.all()))
	}
	s.in.failing(errs.New(errs.Unavailable, "away"))
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.backfill(short, time.Time{}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("while the bus is away: %v", err)
	}
}

func TestAValueThatDoesNotFitIsCut(t *testing.T) {
	t.Parallel()
	if got := cut([]byte("fits"), 4); string(got) != "fits" {
		t.Errorf("%q", got)
	}
	large := []byte(`{"Event":{"Id":"` + strings.Repeat("x", 200_000) + `"},"Id":1}`)
	got := cut(large, 100_000)
	if len(got) > 100_000 || !bytes.HasPrefix(got, large[:1000]) || !bytes.HasSuffix(got, fmt.Appendf(nil, "cut: %d bytes", len(large))) || json.Valid(got) {
		t.Errorf("%d bytes: …%s", len(got), got[len(got)-40:])
	}
}
