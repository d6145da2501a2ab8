package eventlog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/config"
	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/logs"
	"switchboard/platform/store"
)

func TestWhatCannotBeAnEntryIsRefused(t *testing.T) {
	t.Parallel()
	l := newPlace(t, store.Config{Dir: t.TempDir()}, nil).open(eventlog.Config{Strategies: []string{eventlog.Console}}, outputs{})
	for name, e := range map[string]eventlog.Entry{
		"no event":           {},
		"another's":          {Event: "x", Module: "crm"},
		"event not UTF-8":    {Event: "\xff"},
		"event with a zero":  {Event: "a\x00b"},
		"text not UTF-8":     {Event: "x", Text: "\xff"},
		"long id":            {Event: "x", ID: strings.Repeat("i", 2000)},
		"data not JSON":      {Event: "x", Data: json.RawMessage("{")},
		"ref without an id":  {Event: "x", Refs: []eventlog.Ref{{Kind: "room"}}},
		"ref without a kind": {Event: "x", Refs: []eventlog.Ref{{ID: "room"}}},
		"serial of letters":  {Event: "x", Refs: []eventlog.Ref{{Kind: "room", ID: "7a", Serial: true}}},
		"serial below zero":  {Event: "x", Refs: []eventlog.Ref{eventlog.SerialRef("room", -1)}},
		"many refs":          {Event: "x", Refs: make([]eventlog.Ref, 65)},
		"large":              {Event: "x", Text: strings.Repeat("x", 9<<20)},
	} {
		if err := l.Log.Log(t.Context(), e); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	l.stop()
	if got := l.figures(eventlog.Console); got != (figures{}) {
		t.Errorf("refused entries were counted: %+v", got)
	}
}

func TestSettingsThatMakeNoSenseAreNamed(t *testing.T) {
	t.Parallel()
	type settings struct{ Log eventlog.Config }
	load := func(env ...string) (*settings, error) {
		s := new(settings)
		_, err := config.Load(config.Source{Env: env}, config.Section{Name: "shop", Value: s})
		if err == nil {
			err = s.Log.Validate()
		}
		return s, err
	}
	s, err := load()
	if err != nil || fmt.Sprint(s.Log.Strategies) != "[sql]" || s.Log.Retention != 30*24*time.Hour {
		t.Fatalf("%+v %v", s, err)
	}
	for env, key := range map[string]string{
		"APP_SHOP_LOG_STRATEGIES=sql,redis":   "log.strategies",
		"APP_SHOP_LOG_STRATEGIES=sql,sql":     "log.strategies",
		"APP_SHOP_LOG_STRATEGIES=mongodb":     "log.mongodb_url",
		"APP_SHOP_LOG_QUEUE_ENTRIES=-1":       "log.queue_entries",
		"APP_SHOP_LOG_QUEUE_BYTES=1KiB":       "log.queue_bytes",
		"APP_SHOP_LOG_RETENTION=1s":           "log.retention",
		"APP_SHOP_LOG_STREAM_AGE=1s":          "log.stream_age",
		"APP_SHOP_LOG_STREAM_BYTES=1KiB":      "log.stream_bytes",
		"APP_SHOP_LOG_NOT_A_KEY=":             "",
		"APP_SHOP_LOG_MONGODB_DATABASE=other": "",
	} {
		_, err := load(env)
		if (err != nil) != (key != "") || err != nil && (errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), key)) {
			if !strings.HasSuffix(env, "=") {
				t.Errorf("%s: %v", env, err)
			}
		}
	}
	bad := eventlog.Config{Strategies: []string{"mongodb"}, MongoDBURL: "mongodb://me:hunter2@[::1"}
	if err := bad.Validate(); err == nil || strings.Contains(err.Error(), "hunter2") || len(errs.FieldsOf(err)) != 1 || errs.FieldsOf(err)[0].Location != "log.mongodb_url" {
		t.Errorf("a broken URL: %v", err)
	}
	if err := (eventlog.Config{Strategies: []string{"redis"}}).Validate(); len(errs.FieldsOf(err)) != 1 || errs.FieldsOf(err)[0].Location != "log.strategies" {
		t.Errorf("an unknown strategy: %v", err)
	}
}

func TestAModuleHasOneLog(t *testing.T) {
	t.Parallel()
	s := eventlog.New(eventlog.Deps{})
	if _, err := s.Open("shop", eventlog.Config{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("shop", eventlog.Config{}); errs.KindOf(err) != errs.Conflict {
		t.Error(err)
	}
	if _, err := s.Open("Shop.>", eventlog.Config{}); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
	if _, err := s.Open("crm", eventlog.Config{Strategies: []string{"redis"}}); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
}

// What was logged before the service runs is written when it does.
func TestFlushIsABarrier(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p *place) {
		l := p.wire(eventlog.Config{Strategies: []string{eventlog.SQL}}, outputs{})
		l.log(eventlog.Entry{ID: "early", Event: "x"})
		l.run()
		for i := range 50 {
			l.log(eventlog.Entry{ID: fmt.Sprint(i), Event: "x"})
			l.flush()
			if n := len(l.all(eventlog.Query{})); n != i+2 {
				t.Fatalf("%d entries after the flush of %d", n, i+2)
			}
		}
		l.stop()
		l.flush() // nothing waits
		l.log(eventlog.Entry{Event: "late"})
		if err := l.Flush(t.Context()); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("after the stop: %v", err)
		}
	})
}

func TestFlushTellsOfAMiss(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p *place) {
		l := p.open(eventlog.Config{Strategies: []string{eventlog.SQL}, QueueEntries: 3}, outputs{})
		release := hold(t, p.db)
		for i := range 5 {
			l.log(eventlog.Entry{ID: fmt.Sprint(i), Event: "x"})
		}
		release()
		if err := l.Flush(t.Context()); errs.KindOf(err) != errs.Unavailable || l.Missed() != 2 {
			t.Errorf("%d missed: %v", l.Missed(), err)
		}
		l.flush()
		for i := range 5 { // as the bus would bring them again
			l.log(eventlog.Entry{ID: fmt.Sprint(i), Event: "x"})
			l.flush()
		}
		if n := len(unique(t, l.all(eventlog.Query{}))); n != 5 {
			t.Errorf("%d entries", n)
		}
	})
}

func TestTheQueueIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	p := newPlace(t, store.Config{Dir: t.TempDir()}, nil)
	console := &screen{}
	console.set(false, true)
	l := p.open(eventlog.Config{Strategies: []string{eventlog.Console}, QueueBytes: 64 << 10}, outputs{console: console})
	for range 10 {
		l.log(eventlog.Entry{Event: "x", Text: strings.Repeat("x", 20<<10)})
	}
	if got, want := l.figures(eventlog.Console), (figures{missed: 7, waiting: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	console.set(false, false)
}

// A stop writes what waits. One that cannot be written does not hold it up.
func TestStop(t *testing.T) {
	t.Parallel()
	t.Run("drains", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t, store.Config{Dir: t.TempDir()}, nil)
		l := p.open(eventlog.Config{Strategies: []string{eventlog.SQL, eventlog.Console}}, outputs{})
		for i := range 2000 {
			l.log(eventlog.Entry{ID: fmt.Sprint(i), Event: "x"})
		}
		l.stop()
		for _, s := range []string{eventlog.SQL, eventlog.Console} {
			if got, want := l.figures(s), (figures{written: 2000}); got != want {
				t.Errorf("%s: %+v", s, got)
			}
		}
	})
	t.Run("leaves what is stuck", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t, store.Config{Dir: t.TempDir()}, nil)
		console := &screen{}
		console.set(false, true)
		defer console.set(false, false)
		l := p.open(eventlog.Config{Strategies: []string{eventlog.SQL, eventlog.Console}}, outputs{console: console, drain: time.Millisecond})
		rename(t, p.db, "eventlog_entry", "gone")
		for range 10 {
			l.log(eventlog.Entry{Event: "x"})
		}
		l.stop()
		for _, s := range []string{eventlog.SQL, eventlog.Console} {
			if got, want := l.figures(s), (figures{missed: 10}); got != want {
				t.Errorf("%s: %+v", s, got)
			}
		}
	})
}

// Nothing personal lies in the clear on disk, of the database and of the bus.
func TestWhatRestsIsSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := newPlace(t, store.Config{Dir: dir}, bustest.Open(t, bus.Config{Dir: filepath.Join(dir, "bus")}))
	l := p.open(eventlog.Config{Strategies: []string{eventlog.SQL, eventlog.JetStream}}, outputs{})
	canaries := []string{"canary-text-5d1b", "canary-ref-99ab", "canary-data-77f0", "canary-target-31cc"}
	for i := range 500 {
		l.log(eventlog.Entry{ID: fmt.Sprint(i), Event: "order.created", Text: canaries[0], Refs: []eventlog.Ref{{Kind: "room", ID: canaries[1]}},
			Data: json.RawMessage(`"` + canaries[2] + `"`), Targets: []string{canaries[3], "another"}})
	}
	l.flush()
	if page := l.find(eventlog.Query{Target: canaries[3], Limit: 1}); len(page.Entries) != 1 || page.Entries[0].Text != canaries[0] {
		t.Errorf("%+v", page)
	}
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		for _, c := range canaries {
			if bytes.Contains(text, []byte(c)) {
				t.Errorf("%s holds %s", filepath.Base(path), c)
			}
		}
		return err
	})
	if err != nil || files < 2 {
		t.Fatalf("%d files, %v", files, err)
	}
	for _, e := range p.streamed(l, 500)[:1] {
		if e.Text != canaries[0] {
			t.Errorf("%+v", e)
		}
	}
}

// The product's log has the line, without what may be personal.
func TestSlogRedacts(t *testing.T) {
	t.Parallel()
	p := newPlace(t, store.Config{Dir: t.TempDir()}, nil)
	text := &screen{}
	log, err := logs.New(text, logs.Config{Format: "json"}, false)
	if err != nil {
		t.Fatal(err)
	}
	l := p.open(eventlog.Config{Strategies: []string{eventlog.Slog}}, outputs{records: log.Handler()})
	l.log(eventlog.Entry{ID: "e1", Event: "order.created", Text: "Jane Doe", Refs: []eventlog.Ref{{Kind: "room", ID: "Jane's"}},
		Data: json.RawMessage(`"Jane"`), Targets: []string{"s1", "s2"}, TargetKind: "socket"})
	l.stop()
	want := `{"time":"2026-11-21T12:00:00Z","level":"INFO","msg":"order.created","module":"shop","entry":"e1","text":"[redacted]","room":"[redacted]","data":"[redacted]"}
{"time":"2026-11-21T12:00:00Z","level":"INFO","msg":"order.created","module":"shop","entry":"e1","sent_to":"socket","target":"s1"}
{"time":"2026-11-21T12:00:00Z","level":"INFO","msg":"order.created","module":"shop","entry":"e1","sent_to":"socket","target":"s2"}`
	if got := strings.Join(text.lines(), "\n"); got != want {
		t.Errorf("have\n%s\nwant\n%s", got, want)
	}
}

// The database is made where a module logs to sql, and only there.
func TestNoStrategyNoFile(t *testing.T) {
	t.Parallel()
	p := newPlace(t, store.Config{Dir: t.TempDir()}, nil)
	l := p.open(eventlog.Config{Strategies: []string{eventlog.Console}}, outputs{})
	l.log(eventlog.Entry{Event: "x"})
	l.flush()
	if _, err := os.Stat(filepath.Join(p.cfg.Dir, "eventlog.db")); !os.IsNotExist(err) {
		t.Errorf("eventlog.db: %v", err)
	}
	if _, err := l.Find(context.Background(), eventlog.Query{}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("find without sql: %v", err)
	}
}

func BenchmarkLogToThousandTargets(b *testing.B) {
	p := newPlace(b, store.Config{Dir: b.TempDir()}, nil)
	l := p.open(eventlog.Config{Strategies: []string{eventlog.SQL}}, outputs{})
	targets := make([]string, 1000)
	for i := range targets {
		targets[i] = fmt.Sprintf("%020d", i)
	}
	for b.Loop() {
		for range 400 {
			l.log(eventlog.Entry{Event: "order.created", Text: "orderId: 7", Refs: []eventlog.Ref{{Kind: "room", ID: "r"}}, Targets: targets})
		}
		l.flush()
	}
}

// BenchmarkLogSerials logs entries about things in the order of their numbers.
func BenchmarkLogSerials(b *testing.B) {
	p := newPlace(b, store.Config{Dir: b.TempDir()}, nil)
	l := p.open(eventlog.Config{Strategies: []string{eventlog.SQL}}, outputs{})
	n := 0
	for b.Loop() {
		for range 8192 {
			n++
			l.log(eventlog.Entry{Event: "message.sent", Text: "campaign: 1, message: " + fmt.Sprint(n), Data: []byte(`{"attempt":1}`), Refs: []eventlog.Ref{
				eventlog.SerialRef("campaign", 1), eventlog.SerialRef("message", int64(n)), eventlog.SerialRef("client", int64(n))}})
		}
		l.flush()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "us/entry")
}
