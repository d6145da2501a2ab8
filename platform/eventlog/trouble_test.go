package eventlog_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/config"
	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/store"
)

// hold keeps a write transaction of the database open until told to let go.
func hold(t testing.TB, db *store.DB) (release func()) {
	t.Helper()
	held, free, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- db.Tx(context.Background(), func(tx store.Querier) error {
			if db.Engine() == store.Postgres {
				if _, err := tx.ExecContext(context.Background(), `lock table eventlog_entry`); err != nil {
					return err
				}
			}
			close(held)
			<-free
			return nil
		})
	}()
	<-held
	return func() {
		close(free)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// rename makes every write fail, or work again.
func rename(t testing.TB, db *store.DB, from, to string) {
	t.Helper()
	if err := db.Tx(context.Background(), func(tx store.Querier) error {
		_, err := tx.ExecContext(context.Background(), `alter table `+from+` rename to `+to)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// Each strategy in turn dies, or is slow, under load, and comes back. The
// others get everything; what it missed is counted to the entry.
func TestOneInTroubleCostsTheOthersNothing(t *testing.T) {
	t.Parallel()
	const room, before, during, after = 64, 10, 200, 20
	all := []string{eventlog.SQL, eventlog.JetStream, eventlog.Slog, eventlog.Console}
	for _, c := range []struct {
		strategy, how string
		missed        int // of those that came during the trouble
	}{
		{eventlog.SQL, "dead", during - room},
		{eventlog.SQL, "slow", during - room},
		{eventlog.JetStream, "dead", during - room},
		{eventlog.JetStream, "slow", during - room},
		{eventlog.Slog, "dead", during}, // a line that failed is not tried again
		{eventlog.Slog, "slow", during - room},
		{eventlog.Console, "dead", during},
		{eventlog.Console, "slow", during - room},
	} {
		t.Run(c.strategy+" "+c.how, func(t *testing.T) {
			t.Parallel()
			server := bustest.NewServer(t)
			line := newValve(t, server.URL)
			p := newPlace(t, store.Config{Dir: t.TempDir()}, bustest.Open(t, bus.Config{URL: line.url, PublishTimeout: 300 * time.Millisecond}))
			console, records := &screen{}, &screen{}
			l := p.open(eventlog.Config{Strategies: all, QueueEntries: room}, outputs{console: console, records: onlyShop{slog.NewTextHandler(records, nil)}})
			n := 0
			flood := func(count int, spare string) {
				t.Helper()
				for range count {
					l.log(eventlog.Entry{ID: fmt.Sprint(n), Event: "order.created", Text: "x"})
					n++
					// A healthy one has time; it is not what is tested here.
					for _, s := range all {
						if s != spare {
							eventually(t, s+" has all", func() bool { return l.figures(s).waiting < room/2 })
						}
					}
				}
				for _, s := range all {
					if s != spare {
						eventually(t, s+" has all", func() bool { f := l.figures(s); return f.waiting == 0 && f.written+f.missed == n })
					}
				}
			}
			flood(before, "")
			recovered := breakIt(t, p, c.strategy, c.how, server, line, console, records)
			flood(during, c.strategy)
			eventually(t, "the missed are counted", func() bool { return l.figures(c.strategy).missed == c.missed })
			recovered()
			eventually(t, "it has written what waited", func() bool { return l.figures(c.strategy).waiting == 0 })
			flood(after, "")
			l.flushAnyway()
			for _, s := range all {
				want := figures{written: n}
				if s == c.strategy {
					want = figures{written: n - c.missed, missed: c.missed}
				}
				if got := l.figures(s); got != want {
					t.Errorf("%s: %+v, want %+v", s, got, want)
				}
			}
			streamed := n
			if c.strategy == eventlog.JetStream {
				streamed -= c.missed
			}
			for name, got := range map[string]int{
				eventlog.SQL: len(unique(t, l.all(eventlog.Query{}))), eventlog.JetStream: len(unique(t, p.streamed(l, streamed))),
				eventlog.Console: len(console.lines()), eventlog.Slog: len(records.lines()),
			} {
				want := n
				if name == c.strategy {
					want -= c.missed
				}
				if got != want {
					t.Errorf("%s holds %d, want %d", name, got, want)
				}
			}
		})
	}
}

// onlyShop drops the complaints of the log itself.
type onlyShop struct{ slog.Handler }

func (h onlyShop) Handle(ctx context.Context, r slog.Record) error {
	if r.Message != "order.created" {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h onlyShop) WithAttrs(attrs []slog.Attr) slog.Handler {
	return onlyShop{h.Handler.WithAttrs(attrs)}
}

func breakIt(t *testing.T, p *place, strategy, how string, server *bustest.Server, line *valve, console, records *screen) (recover func()) {
	switch {
	case strategy == eventlog.SQL && how == "slow":
		return hold(t, p.db)
	case strategy == eventlog.SQL:
		rename(t, p.db, "eventlog_entry", "gone")
		return func() { rename(t, p.db, "gone", "eventlog_entry") }
	case strategy == eventlog.JetStream && how == "slow":
		line.gate.Lock()
		return line.gate.Unlock
	case strategy == eventlog.JetStream:
		server.Stop()
		return server.Start
	}
	s := console
	if strategy == eventlog.Slog {
		s = records
	}
	s.set(how == "dead", how == "slow")
	return func() { s.set(false, false) }
}

// flushAnyway waits like flush, whatever was missed.
func (l *logging) flushAnyway() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	_ = l.Flush(ctx)
	if ctx.Err() != nil {
		l.t.Fatal("flush did not end")
	}
}

func unique(t *testing.T, entries []eventlog.Entry) map[string]bool {
	t.Helper()
	seen := map[string]bool{}
	for _, e := range entries {
		if seen[e.ID] {
			t.Errorf("the entry %s is there twice", e.ID)
		}
		seen[e.ID] = true
	}
	return seen
}

// A server that is not there, and one that takes connections and never answers.
func TestAMongoDBThatIsAwayCostsNobody(t *testing.T) {
	t.Parallel()
	for name, silent := range map[string]bool{"nobody listens": false, "it never answers": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const room, logged = 50, 80
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if !silent {
				_ = listener.Close()
			}
			defer listener.Close()
			console := &screen{}
			p := newPlace(t, store.Config{Dir: t.TempDir()}, nil)
			l := p.open(eventlog.Config{Strategies: []string{eventlog.MongoDB, eventlog.Console}, QueueEntries: room,
				MongoDBURL: config.Secret("mongodb://user:password@" + listener.Addr().String())}, outputs{console: console, drain: time.Millisecond})
			for i := range logged {
				l.log(eventlog.Entry{Event: "x"})
				eventually(t, "the console has it", func() bool { return l.figures(eventlog.Console).written == i+1 })
			}
			if got, want := l.figures(eventlog.MongoDB), (figures{missed: logged - room, waiting: room}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			l.stop()
			if got, want := l.figures(eventlog.MongoDB), (figures{missed: logged}); got != want {
				t.Errorf("after the stop: %+v, want %+v", got, want)
			}
			if n := len(console.lines()); n != logged {
				t.Errorf("%d lines", n)
			}
		})
	}
}

// Entries survive a database that fails for a while, each once, although the
// bus would hand some out twice.
func TestSQLWritesAtLeastOnceAndKeepsOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p *place) {
		l := p.open(eventlog.Config{Strategies: []string{eventlog.SQL}}, outputs{})
		rename(t, p.db, "eventlog_entry", "gone")
		var g sync.WaitGroup
		for range 2 {
			g.Go(func() {
				for i := range 300 {
					if err := l.Log.Log(t.Context(), eventlog.Entry{ID: fmt.Sprint(i), Event: "x", Refs: []eventlog.Ref{{Kind: "room", ID: "r"}, {Kind: "room", ID: "r"}}}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		g.Wait()
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := l.Flush(short); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("a flush while the database fails: %v", err)
		}
		rename(t, p.db, "gone", "eventlog_entry")
		l.flush()
		for _, q := range []eventlog.Query{{}, {Ref: eventlog.Ref{Kind: "room", ID: "r"}}} {
			if n := len(unique(t, l.all(q))); n != 300 {
				t.Errorf("%d entries, want 300", n)
			}
		}
		if got, want := l.figures(eventlog.SQL), (figures{written: 600}); got != want {
			t.Errorf("%+v", got)
		}
	})
}

func TestJetStreamWritesAtLeastOnce(t *testing.T) {
	t.Parallel()
	server := bustest.NewServer(t)
	p := newPlace(t, store.Config{Dir: t.TempDir()}, bustest.Open(t, bus.Config{URL: server.URL, PublishTimeout: 300 * time.Millisecond}))
	l := p.open(eventlog.Config{Strategies: []string{eventlog.JetStream}}, outputs{})
	e := eventlog.Entry{ID: "first", Event: "order.created", Text: "orderId: 7", Refs: []eventlog.Ref{{Kind: "room", ID: "r"}}, Targets: []string{"a", "b"}, TargetKind: "socket", Data: []byte(`{"a":1}`)}
	l.log(e)
	l.flush()
	server.Stop()
	for i := range 50 {
		l.log(eventlog.Entry{ID: fmt.Sprint(i), Event: "x"})
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := l.Flush(short); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("a flush while the bus is away: %v", err)
	}
	server.Start()
	l.flush()
	got := p.streamed(l, 51)
	if n := len(unique(t, got)); n != 51 {
		t.Errorf("%d entries", n)
	}
	e.Time, e.Module = p.now(), "shop"
	if fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", e) {
		t.Errorf("have %+v\nwant %+v", got[0], e)
	}
	for i, e := range got[1:] {
		if e.ID != fmt.Sprint(i) {
			t.Fatalf("the %d. entry is %s: they are not in order", i, e.ID)
		}
	}
}
