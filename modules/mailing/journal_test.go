package mailing

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/eventlog"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
	"switchboard/platform/web"
)

// journalDesk is the part of the module that takes callbacks, keeps suppressions and
// answers from the log; nothing is sent.
type journalDesk struct {
	p            app.Platform
	log          *eventlog.Log
	clients      *clientService
	suppressions *suppressionService
	callbacks    *callbackService
}

func (d *journalDesk) module() app.Module {
	return app.Module{Name: tag, Doc: "a part of mailing", Config: func() any { return &struct{}{} }, Migrations: os.DirFS("."),
		New: func(p app.Platform) (app.Service, error) {
			log, err := p.EventLog.Open(tag, eventlog.Config{Strategies: []string{eventlog.SQL}})
			d.p, d.log = p, log
			d.clients = newClientService(p.DB, p.Seal, log, p.Now)
			d.suppressions = newSuppressionService(p.DB, p.Seal, log, p.Now)
			d.callbacks = newCallbackService(p.DB, d.suppressions, d.clients, log, p.Now)
			return d, err
		}}
}

func (d *journalDesk) Routes(r *web.Router) error {
	(&suppressionHTTP{d.suppressions}).routes(r)
	(&callbackHTTP{d.callbacks}).routes(r)
	(&logHTTP{d.log}).routes(r)
	return nil
}
func (*journalDesk) Start(context.Context) error     { return nil }
func (*journalDesk) Run(ctx context.Context) error   { <-ctx.Done(); return nil }
func (*journalDesk) Ready(ctx context.Context) error { return nil }

func modulesOf(d *journalDesk) []app.Module { return []app.Module{d.module()} }

// onDesks runs a test on both engines.
func onDesks(t *testing.T, test func(t *testing.T, d *journalDesk, p *apptest.Product), options ...apptest.Option) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		d := &journalDesk{}
		test(t, d, apptest.Start(t, []app.Module{d.module()}, options...))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		d := &journalDesk{}
		test(t, d, apptest.Start(t, []app.Module{d.module()}, append([]apptest.Option{apptest.Args("--database-url=" + storetest.Postgres(t))}, options...)...))
	})
}

// client makes a client.
func (d *journalDesk) client(t *testing.T, number string) int64 {
	t.Helper()
	c := &client{PhoneNumber: number, OperatorCode: number[1:4], Timezone: "UTC"}
	rows, err := d.clients.seal(t.Context(), []*client{c})
	if err != nil {
		t.Fatal(err)
	}
	err = d.p.DB.Tx(t.Context(), func(tx store.Querier) error {
		if rows[0].ID, err = nextIDs(t.Context(), tx, "client", 1); err != nil {
			return err
		}
		return d.clients.store.insert(t.Context(), tx, rows)
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows[0].ID
}

// message makes a message for a client as the dispatcher leaves it.
func (d *journalDesk) message(t *testing.T, id, clientID int64, number string, status messageStatus, lastError string) {
	t.Helper()
	alias, err := suppressionAlias(number, "")
	if err != nil {
		t.Fatal(err)
	}
	phone := d.p.Seal.Index(alias.Kind, alias.Value)
	err = d.p.DB.Tx(t.Context(), func(tx store.Querier) error {
		_, err := tx.ExecContext(t.Context(), `insert into mailing_message (id, campaign, client, phone, status, attempts, due_at, claim, created_at, sent_at, delivered, last_error)
			values ($1, $2, $3, $4, $5, 1, 0, 0, 0, null, '', $6)`, id, 100+id, clientID, phone[:], int64(status), lastError)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// told is what is known of a message: delivered, and the last error.
func (d *journalDesk) told(t *testing.T, id int64) string {
	t.Helper()
	var delivered, lastError string
	if err := d.p.DB.Read().QueryRowContext(t.Context(), `select delivered, last_error from mailing_message where id = $1`, id).Scan(&delivered, &lastError); err != nil {
		t.Fatal(err)
	}
	return delivered + "/" + lastError
}

type logPage struct {
	Items []LogEntry `json:"items"`
	Next  *string    `json:"next"`
}

// logged waits until the log of a thing has n entries, and gives their events,
// newest first, with their data.
func logged(t *testing.T, p *apptest.Product, path string, n int) []string {
	t.Helper()
	var out []string
	apptest.Eventually(t, func() string {
		var page logPage
		if status := p.Call(http.MethodGet, path, nil, &page); status != http.StatusOK {
			return path + ": not answered"
		}
		out = nil
		for _, e := range page.Items {
			out = append(out, strings.TrimSpace(e.Event+" "+string(e.Data)))
		}
		if len(out) < n {
			return path + " has only " + strings.Join(out, ", ")
		}
		return ""
	})
	return out
}

func TestEntriesReferToWhatTheyAreAbout(t *testing.T) {
	t.Parallel()
	e := entryOf(eventMessageSent, 7, 12, 3, map[string]any{"attempt": 2, "seconds": 0.25})
	if got := []any{e.Event, e.Text, string(e.Data), len(e.Refs), e.Refs[1]}; got[0] != "message.sent" || got[1] != "campaign: 7, message: 12, client: 3" ||
		got[2] != `{"attempt":2,"seconds":0.25}` || got[3] != 3 || got[4] != eventlog.SerialRef(refMessage, 12) {
		t.Errorf("%q", got)
	}
	if e := entryOf(eventSenderPaused, 0, 0, 0, nil); e.Text != "" || len(e.Refs) != 0 || e.Data != nil {
		t.Errorf("%+v", e)
	}
}

// ticks is a clock that is a second later whenever it is asked.
func ticks() func() time.Time {
	c := make(chan time.Time, 1)
	c <- time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	return func() time.Time { at := (<-c).Add(time.Second); c <- at; return at }
}
