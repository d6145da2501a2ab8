package mailing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"slices"
	"strings"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/store"
)

// reportConfig says who gets the daily report and when.
type reportConfig struct {
	To       []string
	At       string // of the day after, as in 08:00
	TimeZone string // whose days are reported
	// Settled hears of each attempt: sent, retried or failed. It may be nil.
	Settled func(result string)
}

// maxReportRecipients is how many may get the report.
const maxReportRecipients = 50

// reportSendLimit bounds an attempt. It is far shorter than reportClaim, so that
// nobody takes over what is still being sent.
const reportSendLimit = 5 * time.Minute

// reportService sends the report of each day once, the day after.
type reportService struct {
	reportConfig
	schedule  reportSchedule
	store     *reportStore
	client    *reportMailClient // nil: there is no server
	templates reportTemplates
	logged    eventlog.Logger
	log       *slog.Logger
	now       func() time.Time
	wake      chan struct{} // somebody asked for a report

	planned      reportDay // the last day that the schedule was applied to
	installation string
}

// newReportService makes the service. client may be nil: then nothing is sent.
// The error is Invalid for a bad setting.
func newReportService(cfg reportConfig, db *store.DB, client *reportMailClient, logged eventlog.Logger, log *slog.Logger, now func() time.Time) (*reportService, error) {
	s := &reportService{reportConfig: cfg, store: &reportStore{db}, client: client, logged: logged, log: log, now: now, wake: make(chan struct{}, 1)}
	var err error
	if s.schedule, err = parseReportSchedule(cfg.At, cfg.TimeZone); err != nil {
		return nil, err
	}
	if len(cfg.To) > maxReportRecipients {
		return nil, errs.New(errs.Invalid, "mailing.report_to: more than %d addresses", maxReportRecipients)
	}
	s.To = nil
	for i, to := range cfg.To {
		address, err := mail.ParseAddress(to)
		if err != nil {
			return nil, errs.New(errs.Invalid, "mailing.report_to: entry %d is not an e-mail address", i+1)
		}
		if !slices.Contains(s.To, address.Address) {
			s.To = append(s.To, address.Address)
		}
	}
	s.templates, err = newReportTemplates()
	return s, err
}

// why gives the reason why no report can be sent, nothing if it can.
func (s *reportService) why() string {
	switch {
	case len(s.To) == 0:
		return "nobody is to get reports: mailing.report_to is empty"
	case s.client == nil:
		return "there is no mail server: smtp_url is empty"
	}
	return ""
}

// run sends reports when they are due until ctx ends. Without recipients or a
// server it does nothing.
func (s *reportService) run(ctx context.Context) error {
	if s.why() != "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	failing := false
	for {
		err := s.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !failing {
			s.log.WarnContext(ctx, "daily reports cannot be looked after; will retry", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-tick.C:
		}
	}
}

// look sends what is due.
func (s *reportService) look(ctx context.Context) error {
	if err := s.plan(ctx); err != nil {
		return err
	}
	rows, err := s.store.open(ctx, 100)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := s.attend(ctx, row); err != nil || ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// plan makes the report of the last day pending; days before that are left out,
// however long nobody was there to report them.
func (s *reportService) plan(ctx context.Context) error {
	day := s.schedule.last(s.now())
	if day == s.planned {
		return nil
	}
	_, end := s.schedule.span(day)
	if any, err := s.store.anyBefore(ctx, end); err != nil {
		return err
	} else if any {
		due := s.schedule.due(day)
		err := s.store.schedule(ctx, &reportRow{Day: day, Status: reportPending, ClaimedAt: due, reportState: reportState{GiveUp: due.Add(reportPatience)}})
		if err != nil {
			return err
		}
	}
	s.planned = day
	return nil
}

// next is when the next attempt may begin.
func (r *reportRow) next() time.Time {
	if r.Status == reportSending {
		return r.ClaimedAt.Add(reportClaim)
	}
	return r.ClaimedAt.Add(reportPause(r.Attempts))
}

// attend sends a report if its time has come and nobody else is at it.
func (s *reportService) attend(ctx context.Context, row *reportRow) error {
	now := s.now()
	if !now.Before(row.GiveUp) && (row.Status == reportPending || !now.Before(row.next())) {
		return s.giveUp(ctx, row)
	}
	if now.Before(row.next()) {
		return nil
	}
	before := *row
	mine, err := s.store.claim(ctx, row, now)
	if err != nil || !mine {
		return err
	}
	claimed := *row
	sending, cancel := context.WithTimeout(ctx, reportSendLimit)
	err = s.send(sending, row)
	cancel()
	// What became of it is kept even while the server stops.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	switch {
	case err == nil:
		at := s.now()
		row.Status, row.SentAt, row.Error = reportSent, &at, ""
	case ctx.Err() != nil: // the next start goes on where this one stopped
		row.Status, row.Attempts, row.ClaimedAt = reportPending, before.Attempts, before.ClaimedAt
	case errors.Is(err, errNoFigures): // the rest is for the log
		row.Status, row.Error = reportPending, errNoFigures.Error()
	default:
		row.Status, row.Error = reportPending, err.Error()
	}
	if changed, serr := s.store.settle(last, &claimed, row); serr != nil || !changed {
		return serr // somebody took it over
	}
	switch {
	case err == nil:
		s.tell(last, eventReportSent, row, "sent")
		s.log.InfoContext(ctx, "the daily report was sent", "day", string(row.Day), "attempts", row.Attempts)
	case ctx.Err() == nil:
		s.settled("retried")
		s.log.WarnContext(ctx, "the daily report was not sent; will retry", "day", string(row.Day), "attempts", row.Attempts, "next", row.next(), "error", err)
	}
	return nil
}

func (s *reportService) giveUp(ctx context.Context, row *reportRow) error {
	failed := *row
	failed.Status = reportFailed
	changed, err := s.store.settle(ctx, row, &failed)
	if err != nil || !changed {
		return err
	}
	s.tell(ctx, eventReportFailed, &failed, reportFailed)
	s.log.ErrorContext(ctx, "the daily report is given up", "day", string(row.Day), "attempts", row.Attempts, "reason", row.Error)
	return nil
}

func (s *reportService) settled(result string) {
	if s.Settled != nil {
		s.Settled(result)
	}
}

// tell counts and logs what became of a report.
func (s *reportService) tell(ctx context.Context, event string, row *reportRow, result string) {
	s.settled(result)
	data, _ := json.Marshal(map[string]any{"day": row.Day, "attempt": row.Attempts}) // has a JSON form
	_ = s.logged.Log(ctx, eventlog.Entry{Event: event, Time: s.now(), Refs: []eventlog.Ref{{Kind: "report", ID: string(row.Day)}}, Data: data})
}

var errNoFigures = errors.New("the day could not be counted")

// send mails a report to those who have not got it yet, and notes who has.
func (s *reportService) send(ctx context.Context, row *reportRow) error {
	if s.installation == "" {
		id, err := s.store.installation(ctx)
		if err != nil {
			return errors.Join(errNoFigures, err)
		}
		s.installation = id
	}
	chartID := fmt.Sprintf("sent-by-hour.%s@%s", string(row.Day), s.client.domain())
	report, err := s.render(ctx, row.Day, func([]byte) string { return "cid:" + chartID })
	if err != nil {
		return errors.Join(errNoFigures, err)
	}
	var mails []reportMail
	var marks []string
	for _, to := range s.To {
		mark := s.fingerprint(to)
		if slices.Contains(row.Delivered, mark) {
			continue
		}
		marks = append(marks, mark)
		mails = append(mails, reportMail{To: to, Date: s.now(), Report: report, ChartID: chartID,
			MessageID: fmt.Sprintf("mailing-report.%s.%d.%s@%s", string(row.Day), row.Round, s.installation, s.client.domain())})
	}
	if len(mails) == 0 {
		return nil
	}
	failed := 0
	var first error
	for i, err := range s.client.send(ctx, mails) {
		if err == nil {
			row.Delivered = append(row.Delivered, marks[i])
			continue
		}
		if failed++; first == nil {
			first = err
		}
	}
	if first != nil && len(s.To) > 1 {
		return fmt.Errorf("%d of %d recipients: %w", failed, len(s.To), first)
	}
	return first
}

// fingerprint stands for a recipient where no address may be.
func (s *reportService) fingerprint(address string) string {
	sum := sha256.Sum256([]byte(s.installation + " " + strings.ToLower(address)))
	return hex.EncodeToString(sum[:8])
}

// render makes the report of a day, with what is known now; place is that of
// reportTemplates.render.
func (s *reportService) render(ctx context.Context, day reportDay, place func(png []byte) string) (*dailyReport, error) {
	f, err := s.figures(ctx, day)
	if err != nil {
		return nil, err
	}
	return s.templates.render(f, s.schedule.zone, place)
}

// figures counts a day, as far as it has come. Invalid for a day to come.
func (s *reportService) figures(ctx context.Context, day reportDay) (*dayFigures, error) {
	f := &dayFigures{Day: day, AsOf: s.now()}
	f.From, f.To = s.schedule.span(day)
	before, _ := s.schedule.span(day.add(-1))
	if f.AsOf.Before(f.From) {
		return nil, errs.InvalidFields("this day has nothing to report", errs.Field{Location: "path.day", Message: "has not begun", Value: day})
	}
	if err := s.store.figures(ctx, f, before); err != nil {
		return nil, fmt.Errorf("count the day %s: %w", string(day), err)
	}
	return f, nil
}

// again has a day's report sent as soon as may be, also if it was sent before.
// Conflict if nobody can get it or it is just being sent; Invalid if the day is
// not over.
func (s *reportService) again(ctx context.Context, day reportDay) (*reportRow, error) {
	if _, end := s.schedule.span(day); s.now().Before(end) {
		return nil, errs.InvalidFields("the day is not over", errs.Field{Location: "path.day", Message: "is not over", Value: day})
	}
	if why := s.why(); why != "" {
		return nil, errs.New(errs.Conflict, "%s", why)
	}
	row, err := s.store.again(ctx, day, s.now())
	if err != nil {
		return nil, err
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return row, nil
}

// list gives days before a day, the last ones first, and whether there are more.
func (s *reportService) list(ctx context.Context, before reportDay, limit int) (rows []*reportRow, more bool, err error) {
	rows, err = s.store.list(ctx, before, limit+1)
	if len(rows) > limit {
		rows, more = rows[:limit], true
	}
	return rows, more, err
}
