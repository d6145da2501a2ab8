package eventlog_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/eventlog"
	"switchboard/platform/web"
)

// shop is the smallest module that logs.
type shop struct {
	log  *eventlog.Log
	seen chan<- *eventlog.Log
}

type shopSettings struct{ Log eventlog.Config }

// Validate judges the log's settings.
func (s *shopSettings) Validate() error { return s.Log.Validate() }

func shopModule(seen chan<- *eventlog.Log) app.Module {
	return app.Module{Name: "shop", Doc: "sells", Config: func() any { return new(shopSettings) },
		New: func(p app.Platform) (app.Service, error) {
			log, err := p.EventLog.Open("shop", p.Config.(*shopSettings).Log)
			return &shop{log, seen}, err
		}}
}

func (s *shop) Routes(*web.Router) error        { return nil }
func (s *shop) Ready(context.Context) error     { return nil }
func (s *shop) Start(ctx context.Context) error { s.seen <- s.log; return s.log.Log(ctx, started()) }

// Run logs its end, when the listener has stopped already.
func (s *shop) Run(ctx context.Context) error {
	<-ctx.Done()
	return s.log.Log(ctx, eventlog.Entry{ID: "end", Event: "end"})
}

func started() eventlog.Entry { return eventlog.Entry{ID: "start", Event: "start", Text: "it begins"} }

// The host runs the log longer than the modules and stops it before what it
// stands on: what a module logs at its very end is there after a restart.
func TestTheHostDrainsTheLog(t *testing.T) {
	t.Parallel()
	seen := make(chan *eventlog.Log, 2)
	console := &screen{}
	p := apptest.Start(t, []app.Module{shopModule(seen)}, apptest.Env("APP_SHOP_LOG_STRATEGIES=sql,jetstream,console"), func(o *app.Options) { o.Stdout = console })
	<-seen
	p.Restart()
	log := <-seen
	if err := log.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	page, err := log.Find(t.Context(), eventlog.Query{})
	if got := ids(page.Entries); err != nil || got != "end start" {
		t.Errorf("%q, %v", got, err)
	}
	p.Stop()
	if out := strings.Join(console.lines(), "\n"); strings.Count(out, "[start] it begins +") != 2 || strings.Count(out, "[end] +") != 2 {
		t.Errorf("the console:\n%s", out)
	}
}

func TestTheDatabaseIsMadeOnlyForSQL(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]bool{"": true, "APP_SHOP_LOG_STRATEGIES=console": false} {
		seen := make(chan *eventlog.Log, 1)
		p := apptest.Start(t, []app.Module{shopModule(seen)}, apptest.Env(env))
		_, err := os.Stat(filepath.Join(p.Dir, "eventlog.db"))
		if (err == nil) != want {
			t.Errorf("%q: eventlog.db: %v", env, err)
		}
		p.Stop()
	}
}
