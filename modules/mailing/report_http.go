package mailing

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// reportHTTP serves
//
//	GET  /mailing/reports        the days that were reported, or are to be
//	GET  /mailing/reports/{day}  the report of a day
//	POST /mailing/reports/{day}  send it again
type reportHTTP struct{ reports *reportService }

// DailyReportState is what became of a day's report.
type DailyReportState struct {
	Day         reportDay `json:"day" doc:"In the time zone mailing.report_time_zone." example:"2026-11-21"`
	Status      string    `json:"status" enum:"pending,sending,sent,failed"`
	Attempts    int64     `json:"attempts" doc:"Since it was last asked for."`
	SentAt      *web.Time `json:"sent_at,omitempty" doc:"When it was last sent."`
	NextAttempt *web.Time `json:"next_attempt_at,omitempty" doc:"While it is pending."`
	Error       string    `json:"error,omitempty" doc:"Why the last attempt failed."`
}

func (r *reportRow) show() DailyReportState {
	out := DailyReportState{Day: r.Day, Status: r.Status, Attempts: r.Attempts, Error: r.Error}
	if r.SentAt != nil {
		at := web.Time(*r.SentAt)
		out.SentAt = &at
	}
	if r.Status == reportPending {
		at := web.Time(r.next())
		out.NextAttempt = &at
	}
	return out
}

// DailyReport is what a day's report says.
type DailyReport struct {
	Day        reportDay             `json:"day" example:"2026-11-21"`
	From       web.Time              `json:"from" doc:"Beginning of the day."`
	To         web.Time              `json:"to" doc:"Its end."`
	AsOf       web.Time              `json:"as_of" doc:"When the messages were counted by status."`
	Subject    string                `json:"subject"`
	Sent       int64                 `json:"sent" doc:"Messages that the provider took on that day."`
	SentBefore int64                 `json:"sent_before" doc:"The same of the day before."`
	Hours      []DailyReportHour     `json:"hours" nullable:"false"`
	Running    int64                 `json:"running" doc:"How many campaigns were running."`
	Totals     map[string]int64      `json:"totals" doc:"Messages of these campaigns by status, of all days."`
	Campaigns  []DailyReportCampaign `json:"campaigns" nullable:"false" doc:"Those that sent most; at most 50."`
}

// DailyReportHour is an hour of a day.
type DailyReportHour struct {
	From web.Time `json:"from"`
	Sent int64    `json:"sent"`
}

// DailyReportCampaign is what became of a campaign's messages.
type DailyReportCampaign struct {
	ID       int64            `json:"id"`
	Name     string           `json:"name"`
	Status   string           `json:"status"`
	Sent     int64            `json:"sent" doc:"That day."`
	Total    int64            `json:"total" doc:"All its messages."`
	ByStatus map[string]int64 `json:"by_status"`
}

func (c reportCounts) show() map[string]int64 {
	out := map[string]int64{}
	for status, n := range c {
		if n != 0 {
			out[reportStatuses[status]] = n
		}
	}
	return out
}

func (f *dayFigures) show() DailyReport {
	out := DailyReport{Day: f.Day, From: web.Time(f.From), To: web.Time(f.To), AsOf: web.Time(f.AsOf), Subject: f.subject(), Sent: f.sent(),
		SentBefore: f.SentBefore, Hours: make([]DailyReportHour, len(f.Hours)), Running: f.Running, Totals: f.Totals.show(), Campaigns: make([]DailyReportCampaign, len(f.Campaigns))}
	for i, n := range f.Hours {
		out.Hours[i] = DailyReportHour{web.Time(f.From.Add(time.Duration(i) * time.Hour)), n}
	}
	for i, c := range f.Campaigns {
		out.Campaigns[i] = DailyReportCampaign{c.ID, c.Name, c.Status, c.Sent, c.Counts.total(), c.Counts.show()}
	}
	return out
}

func (h *reportHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "mailing-list-reports", Method: http.MethodGet, Path: "/mailing/reports", Tag: tag,
		Summary: "List the daily reports", Description: "The last day first. A day is here once its report is due or was asked for.",
		Scope: "mailing:read", Errors: []int{422}}, h.list)
	web.Register(r, web.Op{ID: "mailing-send-report", Method: http.MethodPost, Path: "/mailing/reports/{day}", Tag: tag,
		Summary:     "Send a day's report again",
		Description: "Goes to all of mailing.report_to, whether they got it before or not. Answers at once; what became of it is in the list. A failure is retried for 24 hours.",
		Scope:       "mailing:write", Status: http.StatusAccepted, Errors: []int{409, 422}}, h.again)
	text := func() map[string]*huma.MediaType {
		content := r.ResponseOf("", DailyReport{}).Content
		content["text/html"], content["text/plain"] = &huma.MediaType{}, &huma.MediaType{}
		return content
	}
	r.Handle(web.Op{ID: "mailing-get-report", Method: http.MethodGet, Path: "/mailing/reports/{day}", Tag: tag,
		Summary:     "Read the report of a day",
		Description: "As it would be sent now; of today, as far as the day has come.",
		Scope:       "mailing:read", Errors: []int{422},
		Parameters: []*huma.Param{
			{Name: "day", In: "path", Required: true, Description: "In the time zone mailing.report_time_zone.", Schema: &huma.Schema{Type: huma.TypeString, Format: "date"}},
			{Name: "format", In: "query", Description: "What to make of it.", Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"html", "text", "json"}, Default: "html"}},
		},
		Responses: map[string]*huma.Response{"200": {Description: "The report.", Content: text()}},
	}, http.HandlerFunc(h.get))
}

type listReportsInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

func (h *reportHTTP) list(ctx context.Context, in *listReportsInput) (*struct{ Body web.Page[DailyReportState] }, error) {
	var before reportDay
	if in.Cursor != "" {
		if err := web.ParseCursor(in.Cursor, &before); err != nil {
			return nil, err
		}
	}
	rows, more, err := h.reports.list(ctx, before, in.Limit)
	if err != nil {
		return nil, err
	}
	items := make([]DailyReportState, len(rows))
	for i, row := range rows {
		items[i] = row.show()
	}
	next := ""
	if more {
		next = web.Cursor(rows[len(rows)-1].Day)
	}
	return &struct{ Body web.Page[DailyReportState] }{web.NewPage(items, next)}, nil
}

type reportInput struct {
	Day string `path:"day" doc:"In the time zone mailing.report_time_zone." example:"2026-11-21"`
}

func (h *reportHTTP) again(ctx context.Context, in *reportInput) (*struct{ Body DailyReportState }, error) {
	day, err := parseReportDay(in.Day)
	if err != nil {
		return nil, err
	}
	row, err := h.reports.again(ctx, day)
	if err != nil {
		return nil, err
	}
	return &struct{ Body DailyReportState }{row.show()}, nil
}

// The page shows nothing but itself: styles in attributes, the chart in a data:
// URL.
const reportPolicy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (h *reportHTTP) get(w http.ResponseWriter, r *http.Request) {
	if err := h.write(w, r); err != nil {
		web.Fail(w, r, err)
	}
}

func (h *reportHTTP) write(w http.ResponseWriter, r *http.Request) error {
	format := r.URL.Query().Get("format")
	switch format {
	case "", "html", "text", "json":
	default:
		return errs.InvalidFields("there is no such format", errs.Field{Location: "query.format", Message: "must be html, text or json", Value: format})
	}
	day, err := parseReportDay(r.PathValue("day"))
	if err != nil {
		return err
	}
	if format == "json" {
		f, err := h.reports.figures(r.Context(), day)
		if err == nil {
			web.WriteJSON(w, http.StatusOK, f.show())
		}
		return err
	}
	report, err := h.reports.render(r.Context(), day, func(png []byte) string {
		return "data:image/png;base64," + base64.StdEncoding.EncodeToString(png)
	})
	if err != nil {
		return err
	}
	header, body := w.Header(), report.HTML
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", reportPolicy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	if format == "text" {
		header.Set("Content-Type", "text/plain; charset=utf-8")
		body = report.Text
	}
	_, _ = w.Write([]byte(body)) // nobody could act on a fault of the connection
	return nil
}
