package mailing

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/eventlog"
	"switchboard/platform/web"
)

// happens logs what happened to campaign 1: message i to client 10+i, a minute
// after each other.
func (d *journalDesk) happens(t *testing.T, begin time.Time, events ...string) {
	t.Helper()
	for i, event := range events {
		e := entryOf(event, 1, int64(i+1), int64(11+i), map[string]any{"attempt": i})
		e.Time, e.ID = begin.Add(time.Duration(i)*time.Minute), fmt.Sprintf("%s.%d", event, begin.Unix()+int64(i))
		if err := d.log.Log(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.log.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLogsAnswerByCampaignMessageAndClient(t *testing.T) {
	t.Parallel()
	onDesks(t, func(t *testing.T, d *journalDesk, p *apptest.Product) {
		begin := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
		d.happens(t, begin, eventMessageRetry, eventMessageSent, eventMessageFailed, eventMessageSent)
		if err := d.log.Log(t.Context(), entryOf(eventCampaignStarted, 2, 0, 0, nil)); err != nil {
			t.Fatal(err)
		}
		const (
			first, second, third, fourth = `message.retry {"attempt":0}`, `message.sent {"attempt":1}`, `message.failed {"attempt":2}`, `message.sent {"attempt":3}`
		)
		for path, want := range map[string][]string{
			"/mailing/campaigns/1/log":                           {fourth, third, second, first},
			"/mailing/messages/2/log":                            {second},
			"/mailing/clients/13/log":                            {third},
			"/mailing/clients/99/log":                            {},
			"/mailing/campaigns/1/log?event=message.sent":        {fourth, second},
			"/mailing/campaigns/1/log?from=2026-03-01T09:01:00Z": {fourth, third, second},
			"/mailing/campaigns/1/log?from=2026-03-01T09:01:00Z&to=2026-03-01T12:02:00%2B03:00": {third, second},
			"/mailing/campaigns/1/log/": {fourth, third, second, first},
		} {
			if got := logged(t, p, path, len(want)); !slices.Equal(got, want) {
				t.Errorf("%s: %q", path, got)
			}
		}
		var page logPage
		p.Call(http.MethodGet, "/mailing/messages/2/log", nil, &page)
		if e := page.Items[0]; e.CampaignID != 1 || e.MessageID != 2 || e.ClientID != 12 || e.Time.String() != "2026-03-01T09:01:00.000000Z" || e.ID == "" {
			t.Errorf("%+v", e)
		}
		// An import tells of many clients at once.
		if err := d.log.Log(t.Context(), eventlog.Entry{Event: "client.created", Refs: []eventlog.Ref{eventlog.SerialRef(refClient, 70), eventlog.SerialRef(refClient, 71), eventlog.SerialRef(refClient, 72)}}); err != nil {
			t.Fatal(err)
		}
		logged(t, p, "/mailing/clients/71/log", 1)
		if p.Call(http.MethodGet, "/mailing/clients/71/log", nil, &page); page.Items[0].ClientID != 71 {
			t.Errorf("%+v", page.Items[0])
		}
		var got []string
		for cursor := ""; ; {
			var page logPage
			if status := p.Call(http.MethodGet, "/mailing/campaigns/1/log?limit=1&cursor="+url.QueryEscape(cursor), nil, &page); status != http.StatusOK || len(page.Items) > 1 {
				t.Fatal(status, page.Items)
			}
			for _, e := range page.Items {
				got = append(got, e.Event+" "+string(e.Data))
			}
			if page.Next == nil {
				break
			}
			cursor = *page.Next
		}
		if want := []string{fourth, third, second, first}; !slices.Equal(got, want) {
			t.Errorf("page by page: %q", got)
		}
	}, apptest.Now(func() time.Time { return time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC) }))
}

func TestLogsAskForTheirScope(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{(&journalDesk{}).module()})
	for scope, want := range map[string]int{"logs:read": http.StatusOK, "mailing:read": http.StatusForbidden} {
		key := p.NewKey(map[string]any{"scopes": []string{scope}})
		for _, of := range []string{"campaigns", "messages", "clients"} {
			if status := p.CallAs(key, http.MethodGet, "/mailing/"+of+"/1/log", nil, nil); status != want {
				t.Errorf("%s with %s: %d", of, scope, status)
			}
		}
	}
	for _, path := range []string{"0/log", "x/log", "1/log?limit=0", "1/log?limit=1001", "1/log?cursor=x", "1/log?from=yesterday"} {
		if status := p.Call(http.MethodGet, "/mailing/campaigns/"+path, nil, nil); status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d", path, status)
		}
	}
	// A cursor of another list.
	if status := p.Call(http.MethodGet, "/mailing/campaigns/1/log?cursor="+url.QueryEscape(web.Cursor(logCursor{"x"})), nil, nil); status != http.StatusUnprocessableEntity {
		t.Errorf("a wrong cursor: %d", status)
	}
}
