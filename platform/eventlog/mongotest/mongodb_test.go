package mongotest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/FerretDB/FerretDB/ferretdb"
	"github.com/prometheus/client_golang/prometheus"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"switchboard/platform/config"
	"switchboard/platform/eventlog"
)

// server is a MongoDB that can be stopped and started again on its port and
// with its data. Making one sets a global variable of theirs: the tests are not
// parallel.
type server struct {
	t    *testing.T
	addr string
	dir  string
	stop func()
}

func newServer(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, addr: l.Addr().String(), dir: t.TempDir()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.stop != nil {
			s.stop()
		}
	})
	return s
}

func (s *server) start() {
	s.t.Helper()
	db, err := ferretdb.New(&ferretdb.Config{
		Listener: ferretdb.ListenerConfig{TCP: s.addr}, Handler: "sqlite", SQLiteURL: "file:" + s.dir + "/",
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatalf("start the server: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- db.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("the server: %v", err)
		}
		s.stop = nil
	}
}

// find gives the documents of the collection, by the order of their entries.
func (s *server) find() []bson.M {
	s.t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI("mongodb://" + s.addr))
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Disconnect(context.Background())
	cursor, err := client.Database("switchboard").Collection("eventlog").Find(s.t.Context(), bson.M{}, options.Find().SetSort(bson.M{"_id": 1}))
	if err != nil {
		s.t.Fatal(err)
	}
	var docs []bson.M
	if err := cursor.All(s.t.Context(), &docs); err != nil {
		s.t.Fatal(err)
	}
	return docs
}

// screen is a console that can be read while it is written to.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) lines() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), "\n")
}

type logging struct {
	*eventlog.Log
	t      *testing.T
	reg    *prometheus.Registry
	screen screen
	stop   func()
}

func open(t *testing.T, s *server, cfg eventlog.Config) *logging {
	t.Helper()
	cfg.Strategies = []string{eventlog.MongoDB, eventlog.Console}
	cfg.MongoDBURL = config.Secret("mongodb://" + s.addr)
	l := &logging{t: t, reg: prometheus.NewRegistry()}
	service := eventlog.New(eventlog.Deps{Metrics: l.reg, Console: &l.screen})
	var err error
	if l.Log, err = service.Open("shop", cfg); err != nil {
		t.Fatal(err)
	}
	if err := service.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(l.stop)
	return l
}

func (l *logging) log(e eventlog.Entry) {
	l.t.Helper()
	if err := l.Log.Log(l.t.Context(), e); err != nil {
		l.t.Fatal(err)
	}
}

// metric gives a figure of the strategy mongodb.
func (l *logging) metric(name string) int {
	l.t.Helper()
	families, err := l.reg.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, label := range m.Label {
				if f.GetName() == name && label.GetValue() == eventlog.MongoDB {
					return int(m.GetCounter().GetValue() + m.GetGauge().GetValue())
				}
			}
		}
	}
	return -1
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestEachLineIsADocument(t *testing.T) {
	s := newServer(t)
	s.start()
	l := open(t, s, eventlog.Config{})
	at := time.Date(2021, 5, 25, 21, 46, 0, 4e6, time.UTC)
	l.log(eventlog.Entry{ID: "e1", Time: at, Event: "order.created", Text: "orderId: cfa3f520", Refs: []eventlog.Ref{{Kind: "room", ID: "9d283b4a"}},
		Targets: []string{"82c0fb8b", "7ac982c2"}, TargetKind: "socket", Data: json.RawMessage(`{"$where":1}`)})
	l.log(eventlog.Entry{ID: "e2", Time: at, Event: "order.paid"})
	l.stop()

	docs := s.find()
	var got strings.Builder
	for _, d := range docs {
		fmt.Fprintln(&got, d["_id"], d["entry"], d["module"], d["event"], d["text"], d["target"], d["target_kind"], d["data"], d["time"].(bson.DateTime).Time().Equal(at))
	}
	want := `shop:e1 e1 shop order.created orderId: cfa3f520 <nil> <nil> {"$where":1} true
shop:e1#1 e1 shop order.created event sent to: 82c0fb8b 82c0fb8b socket <nil> true
shop:e1#2 e1 shop order.created event sent to: 7ac982c2 7ac982c2 socket <nil> true
shop:e2 e2 shop order.paid  <nil> <nil> <nil> true
`
	if got.String() != want {
		t.Errorf("documents:\n%swant:\n%s", got.String(), want)
	}
	if got := fmt.Sprint(docs[0]["refs"]); !strings.Contains(got, "9d283b4a") {
		t.Errorf("refs: %s", got)
	}
	if n := l.metric("eventlog_entries_total"); n != 2 {
		t.Errorf("%d entries counted", n)
	}
}

func TestAnEntryToThousandsIsStoredWhole(t *testing.T) {
	s := newServer(t)
	s.start()
	l := open(t, s, eventlog.Config{})
	targets := make([]string, 2500)
	for i := range targets {
		targets[i] = fmt.Sprintf("socket-%d", i)
	}
	for i := range 3 {
		l.log(eventlog.Entry{ID: fmt.Sprint(i), Event: "x", Targets: targets})
	}
	l.stop()
	if n := len(s.find()); n != 3*2501 {
		t.Errorf("%d documents", n)
	}
}

func TestAnEntryThatComesAgainIsThereOnce(t *testing.T) {
	s := newServer(t)
	s.start()
	l := open(t, s, eventlog.Config{})
	for range 2 {
		for i := range 20 {
			l.log(eventlog.Entry{ID: fmt.Sprint(i), Event: "x", Targets: []string{"a", "b"}})
		}
	}
	l.stop()
	if n := len(s.find()); n != 60 {
		t.Errorf("%d documents", n)
	}
	if missed := l.metric("eventlog_missed_total"); missed != 0 {
		t.Errorf("%d missed", missed)
	}
}

// A server that is away costs the others nothing. What does not fit in the
// queue meanwhile is missed and counted; all else is there when it is back.
func TestADeadServerCostsTheOthersNothing(t *testing.T) {
	const room, logged = 50, 80
	s := newServer(t)
	l := open(t, s, eventlog.Config{QueueEntries: room})
	n := 0
	flood := func() {
		for range logged {
			l.log(eventlog.Entry{ID: fmt.Sprint(n), Event: "x"})
			n++
			// The console is not to miss anything for our haste.
			eventually(t, "the console has the line", func() bool { return l.screen.lines() == n })
		}
	}
	check := func(missed, documents int) {
		t.Helper()
		if got := l.metric("eventlog_missed_total"); got != missed {
			t.Errorf("%d missed, want %d", got, missed)
		}
		if got := len(s.find()); got != documents {
			t.Errorf("%d documents, want %d", got, documents)
		}
	}
	flood() // not there yet
	s.start()
	eventually(t, "what waited is written", func() bool { return l.metric("eventlog_queue") == 0 })
	check(logged-room, room)

	s.stop()
	flood() // gone
	s.start()
	eventually(t, "what waited is written", func() bool { return l.metric("eventlog_queue") == 0 })
	check(2*(logged-room), 2*room)

	l.log(eventlog.Entry{ID: "last", Event: "x"})
	l.stop()
	check(2*(logged-room), 2*room+1)
}
