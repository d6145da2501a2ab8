package mailing

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/config"
	"switchboard/platform/web"
)

// reportsAlone is a module with the reports and nothing else.
type reportsAlone struct {
	p       app.Platform
	reports *reportService
}

func (s *reportsAlone) Routes(r *web.Router) error      { (&reportHTTP{s.reports}).routes(r); return nil }
func (*reportsAlone) Start(context.Context) error       { return nil }
func (s *reportsAlone) Run(ctx context.Context) error   { return s.reports.run(ctx) }
func (s *reportsAlone) Ready(ctx context.Context) error { return s.p.DB.Ping(ctx) }

func startReports(t *testing.T, clock *reportClock, address string) (*apptest.Product, *reportsAlone) {
	t.Helper()
	s := &reportsAlone{}
	p := apptest.Start(t, []app.Module{{Name: tag, Doc: "reports", Config: func() any { return &struct{}{} }, Migrations: migrations,
		New: func(p app.Platform) (app.Service, error) {
			client, err := newReportMailClient(config.Secret(address), "reports@sender.test")
			if err != nil {
				return nil, err
			}
			s.p = p
			s.reports, err = newReportService(reportConfig{To: []string{"anna@firm.test"}, At: "08:00", TimeZone: "UTC"}, p.DB, client, &reportEvents{}, p.Log, clock.now)
			return s, err
		}}})
	return p, s
}

func TestReportsCanBeReadAndAskedFor(t *testing.T) {
	t.Parallel()
	server := startMailServer(t, &mailServer{}, false)
	clock := &reportClock{}
	clock.set("2026-11-22T07:00:00Z")
	p, s := startReports(t, clock, "smtp://"+server.Addr)
	addReportCampaign(t, s.p.DB, 1, "First <one>", "running", "2026-11-21T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-18T00:00:00Z")
	addReportMessages(t, s.p.DB, 1, "2026-11-21T00:00:00Z", "2026-11-21T13:10:00Z")
	addReportCounts(t, s.p.DB, 1, reportCounts{7, 0, 5, 1, 2, 0, 0})
	reader, writer := p.NewKey(map[string]any{"scopes": []string{"mailing:read"}}), p.NewKey(map[string]any{"scopes": []string{"mailing:write"}})

	resp, page := p.Exchange(p.Request(reader, http.MethodGet, "/mailing/reports/2026-11-21", nil))
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || resp.Header.Get("Content-Security-Policy") != reportPolicy ||
		!strings.Contains(string(page), "First &lt;one&gt;") || !strings.Contains(string(page), `src="data:image/png;base64,`) {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	resp, text := p.Exchange(p.Request(reader, http.MethodGet, "/mailing/reports/2026-11-21?format=text", nil))
	if resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" || !strings.HasPrefix(string(text), "Mailing: 2 sent on 21 November 2026\n") {
		t.Errorf("%s %s", resp.Status, text)
	}
	var got DailyReport
	if status := p.CallAs(reader, http.MethodGet, "/mailing/reports/2026-11-21?format=json", nil, &got); status != http.StatusOK || got.Sent != 2 || len(got.Hours) != 24 ||
		len(got.Campaigns) != 1 || got.Campaigns[0].Total != 15 || got.Totals["failed"] != 2 || got.From.String() != "2026-11-21T00:00:00.000000Z" {
		t.Errorf("%d %+v", status, got)
	}

	var row DailyReportState
	if status := p.CallAs(writer, http.MethodPost, "/mailing/reports/2026-11-21", nil, &row); status != http.StatusAccepted || row.Status != "pending" || row.Day != "2026-11-21" {
		t.Errorf("%d %+v", status, row)
	}
	var list struct {
		Items []DailyReportState
		Next  *string
	}
	apptest.Eventually(t, func() string {
		if p.CallAs(reader, http.MethodGet, "/mailing/reports", nil, &list); len(list.Items) == 1 && list.Items[0].Status == "sent" && list.Items[0].SentAt != nil && len(server.took()) == 1 {
			return ""
		}
		return fmt.Sprintf("%+v, %d mails", list, len(server.took()))
	})
	p.CallAs(writer, http.MethodPost, "/mailing/reports/2026-11-20", nil, nil)
	if p.CallAs(reader, http.MethodGet, "/mailing/reports?limit=1", nil, &list); len(list.Items) != 1 || list.Items[0].Day != "2026-11-21" || list.Next == nil {
		t.Fatalf("%+v", list)
	}
	if p.CallAs(reader, http.MethodGet, "/mailing/reports?limit=1&cursor="+*list.Next, nil, &list); len(list.Items) != 1 || list.Items[0].Day != "2026-11-20" || list.Next != nil {
		t.Errorf("%+v", list)
	}

	for _, c := range []struct {
		key, method, path string
		status            int
		says              string
	}{
		{reader, http.MethodGet, "/mailing/reports/yesterday", 422, "path.day"},
		{reader, http.MethodGet, "/mailing/reports/2026-02-30", 422, "path.day"},
		{reader, http.MethodGet, "/mailing/reports/2026-11-23", 422, "has not begun"},
		{reader, http.MethodGet, "/mailing/reports/2026-11-22", 200, "22 November"},
		{reader, http.MethodGet, "/mailing/reports/2026-11-21?format=pdf", 422, "query.format"},
		{writer, http.MethodPost, "/mailing/reports/2026-11-22", 422, "is not over"},
		{writer, http.MethodPost, "/mailing/reports/x", 422, "path.day"},
		{reader, http.MethodPost, "/mailing/reports/2026-11-21", 403, "mailing:write"},
		{writer, http.MethodGet, "/mailing/reports/2026-11-21", 403, "mailing:read"},
		{"", http.MethodGet, "/mailing/reports", 401, ""},
	} {
		if resp, text := p.Exchange(p.Request(c.key, c.method, c.path, nil)); resp.StatusCode != c.status || !strings.Contains(string(text), c.says) {
			t.Errorf("%s %s: %s %s", c.method, c.path, resp.Status, text)
		}
	}
}

func TestAReportThatNobodyCanGetIsAConflict(t *testing.T) {
	t.Parallel()
	clock := &reportClock{}
	clock.set("2026-11-22T07:00:00Z")
	p, _ := startReports(t, clock, "")
	resp, text := p.Exchange(p.Request(p.Key, http.MethodPost, "/mailing/reports/2026-11-21", nil))
	if resp.StatusCode != http.StatusConflict || !strings.Contains(string(text), "smtp_url") {
		t.Errorf("%s %s", resp.Status, text)
	}
}
