package mailing

import (
	"embed"
	"fmt"
	htmltemplate "html/template"
	"math"
	"slices"
	"strconv"
	"strings"
	texttemplate "text/template"
	"time"
	"unicode"

	"switchboard/platform/errs"
)

//go:embed report/*.tmpl
var reportFiles embed.FS

// reportDay is a day of the report's time zone, as in 2026-11-21: days sort as
// their texts do.
type reportDay string

// parseReportDay reads a day; the error is Invalid and names path.day.
func parseReportDay(text string) (reportDay, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil || t.Year() < 2000 {
		return "", errs.InvalidFields("this is not a day", errs.Field{Location: "path.day", Message: "must be a day such as 2026-01-31", Value: text})
	}
	return reportDay(text), nil
}

// date is midnight in UTC of the day.
func (d reportDay) date() time.Time {
	t, _ := time.Parse(time.DateOnly, string(d)) // was read by parseReportDay, or made of a time
	return t
}

func (d reportDay) add(days int) reportDay {
	return reportDay(d.date().AddDate(0, 0, days).Format(time.DateOnly))
}

// String gives the day as people write it: 21 November 2026.
func (d reportDay) String() string { return d.date().Format("2 January 2006") }

// reportSchedule says when days begin and when they are reported.
type reportSchedule struct {
	zone   *time.Location
	minute int // of the day after
}

// parseReportSchedule reads a time of day and the name of a time zone. The
// error is Invalid.
func parseReportSchedule(at, zone string) (reportSchedule, error) {
	t, err := time.Parse("15:04", at)
	if err != nil {
		return reportSchedule{}, errs.New(errs.Invalid, "mailing.report_at: %q is not a time of day such as 08:00", at)
	}
	location, err := time.LoadLocation(zone)
	if err != nil || zone == "" || zone == "Local" {
		return reportSchedule{}, errs.New(errs.Invalid, "mailing.report_time_zone: %q is not a time zone such as Europe/Berlin", zone)
	}
	return reportSchedule{location, t.Hour()*60 + t.Minute()}, nil
}

// moment is when the clocks of the zone first show a minute of a day. If they
// skip it, it is when they jump.
func (s reportSchedule) moment(d reportDay, minute int) time.Time {
	wall := d.date().Add(time.Duration(minute) * time.Minute) // as if in UTC
	before := wall.Add(-36 * time.Hour).In(s.zone)
	var jump time.Time
	for at := before; ; {
		_, offset := at.Zone()
		start, end := at.ZoneBounds()
		got := wall.Add(-time.Duration(offset) * time.Second)
		if (start.IsZero() || !got.Before(start)) && (end.IsZero() || got.Before(end)) {
			return got
		}
		if !jump.IsZero() && got.Before(jump) {
			return jump.UTC() // shown neither before the jump nor after it
		}
		if end.IsZero() {
			return got
		}
		jump, at = end, end
	}
}

// span gives the beginning and the end of a day.
func (s reportSchedule) span(d reportDay) (from, to time.Time) {
	return s.moment(d, 0), s.moment(d.add(1), 0)
}

// due is when a day is reported.
func (s reportSchedule) due(d reportDay) time.Time { return s.moment(d.add(1), s.minute) }

// last is the last day whose report is due.
func (s reportSchedule) last(now time.Time) reportDay {
	d := reportDay(now.In(s.zone).Format(time.DateOnly))
	for now.Before(s.due(d)) {
		d = d.add(-1)
	}
	return d
}

// Bounds of the retries of a report.
const (
	reportFirstPause = time.Minute
	reportLongPause  = time.Hour
	reportPatience   = 24 * time.Hour
	// reportClaim is after how long a sender is taken for dead. It is far longer
	// than one may take.
	reportClaim = 10 * time.Minute
)

// reportPause is how long to wait after so many attempts.
func reportPause(attempts int64) time.Duration {
	if attempts < 1 {
		return 0
	}
	return min(reportFirstPause<<min(attempts-1, 10), reportLongPause)
}

// reportStatuses are the statuses of messages, by number.
var reportStatuses = [7]string{"pending", "sending", "sent", "retrying", "failed", "expired", "canceled"}

// reportCounts are numbers of messages by status.
type reportCounts [len(reportStatuses)]int64

func (c reportCounts) total() (n int64) {
	for _, one := range c {
		n += one
	}
	return n
}

func (c reportCounts) sent() int64    { return c[2] }
func (c reportCounts) failed() int64  { return c[4] }
func (c reportCounts) waiting() int64 { return c[0] + c[1] + c[3] }
func (c reportCounts) given() int64   { return c[5] + c[6] } // given up without a failure

// dayFigures is what happened on a day. It holds counts and names of campaigns,
// nothing about people.
type dayFigures struct {
	Day        reportDay
	From, To   time.Time
	AsOf       time.Time // when the statuses were counted
	Hours      []int64   // sent in each hour since From: 24, or more or fewer where clocks change
	SentBefore int64     // sent the day before
	Campaigns  []campaignFigures
	Running    int64        // how many campaigns there were, also those not in Campaigns
	Totals     reportCounts // of all of them
}

// campaignFigures is what became of a campaign's messages.
type campaignFigures struct {
	ID     int64
	Name   string
	Status string
	Sent   int64 // that day
	Counts reportCounts
}

// maxReportCampaigns is how many campaigns a report lists: those that sent most
// that day.
const maxReportCampaigns = 50

func (f *dayFigures) sent() (n int64) {
	for _, one := range f.Hours {
		n += one
	}
	return n
}

// subject is that of the mail.
func (f *dayFigures) subject() string {
	return fmt.Sprintf("Mailing: %s sent on %s", grouped(f.sent()), f.Day)
}

// reportView is a report as the templates take it.
type reportView struct {
	Subject, Date, Zone, Sent, Change, AsOf string
	Up, Down                                bool
	Facts                                   []reportFact
	Chart                                   htmltemplate.URL
	Width, Height                           int // of the chart, in CSS pixels
	Alt                                     string
	Hours                                   []reportHour
	Campaigns                               []reportCampaign
	More                                    string
}

type reportFact struct{ Number, Label string }

type reportHour struct{ Label, Bar, Sent string }

type reportCampaign struct {
	Name, Status, Sent, Counts string
	Parts                      []reportPart
}

// reportPart is a part of a campaign's bar.
type reportPart struct {
	Percent int
	Color   string
}

// dailyReport is a report to be read.
type dailyReport struct {
	Subject, Text, HTML string
	Chart               []byte // PNG
}

// reportTemplates are the texts of a report.
type reportTemplates struct {
	html *htmltemplate.Template
	text *texttemplate.Template
}

func newReportTemplates() (reportTemplates, error) {
	html, err := htmltemplate.ParseFS(reportFiles, "report/report.html.tmpl")
	if err != nil {
		return reportTemplates{}, err
	}
	text, err := texttemplate.ParseFS(reportFiles, "report/report.txt.tmpl")
	return reportTemplates{html, text}, err
}

// render makes a report whose HTML shows the chart from a place that is made
// of the picture: a cid: or data: URL.
func (t reportTemplates) render(f *dayFigures, zone *time.Location, place func(png []byte) string) (*dailyReport, error) {
	chart, err := reportChart(f.Hours, func(hour int) int { return f.From.Add(time.Duration(hour) * time.Hour).In(zone).Hour() })
	if err != nil {
		return nil, err
	}
	v := f.view(zone)
	v.Chart = htmltemplate.URL(place(chart)) // of a scheme that templates do not know: made by us
	var html, text strings.Builder
	if err := t.html.Execute(&html, v); err != nil {
		return nil, fmt.Errorf("report of %s: %w", string(f.Day), err)
	}
	if err := t.text.Execute(&text, v); err != nil {
		return nil, fmt.Errorf("report of %s: %w", string(f.Day), err)
	}
	return &dailyReport{v.Subject, text.String(), html.String(), chart}, nil
}

func (f *dayFigures) view(zone *time.Location) *reportView {
	sent := f.sent()
	v := &reportView{Subject: f.subject(), Date: f.Day.date().Format("Monday, 2 January 2006"), Zone: zone.String(), Sent: grouped(sent),
		AsOf: f.AsOf.In(zone).Format("2 January 2006, 15:04"), Width: chartWidth, Height: chartHeight}
	switch before := f.SentBefore; {
	case before == sent:
		v.Change = "as many as the day before"
	case before == 0:
		v.Change, v.Up = "none the day before", true
	case sent > before:
		v.Change, v.Up = fmt.Sprintf("%s more than the day before (%s)", percent(sent-before, before), grouped(before)), true
	default:
		v.Change, v.Down = fmt.Sprintf("%s less than the day before (%s)", percent(before-sent, before), grouped(before)), true
	}
	v.Facts = []reportFact{{grouped(f.Running), plural(f.Running, "campaign", "campaigns")}, {grouped(f.Totals.failed()), "failed"},
		{grouped(f.Totals.given()), "expired or canceled"}, {grouped(f.Totals.waiting()), "still to go"}}
	v.Alt, v.Hours = f.hours(zone)
	listed := int64(0)
	for i := range f.Campaigns {
		c := &f.Campaigns[i]
		listed += c.Sent
		v.Campaigns = append(v.Campaigns, c.view())
	}
	if more := f.Running - int64(len(f.Campaigns)); more > 0 {
		v.More = fmt.Sprintf("%s more %s sent %s that day.", grouped(more), plural(more, "campaign", "campaigns"), grouped(max(sent-listed, 0)))
	}
	return v
}

// hours gives the hours between the first and the last with a message, and one
// sentence for those who do not see the chart.
func (f *dayFigures) hours(zone *time.Location) (alt string, rows []reportHour) {
	top, most := 0, int64(0)
	for i, n := range f.Hours {
		if n > most {
			top, most = i, n
		}
	}
	label := func(i int) string { return f.From.Add(time.Duration(i) * time.Hour).In(zone).Format("15:04") }
	if most == 0 {
		return "Bar chart of messages sent by hour: none all day.", nil
	}
	busy := func(n int64) bool { return n > 0 }
	first := slices.IndexFunc(f.Hours, busy)
	last := len(f.Hours) - 1
	for f.Hours[last] == 0 {
		last--
	}
	for i := first; i <= last; i++ {
		bar := strings.Repeat("#", int(math.Ceil(float64(f.Hours[i])*40/float64(most))))
		rows = append(rows, reportHour{label(i), fmt.Sprintf("%-40s", bar), fmt.Sprintf("%9s", grouped(f.Hours[i]))})
	}
	return fmt.Sprintf("Bar chart of messages sent by hour: from %s to %s, most in the hour from %s, %s.", label(first), label(last+1), label(top), grouped(most)), rows
}

func (c *campaignFigures) view() reportCampaign {
	v := reportCampaign{Name: reportName(c.Name), Status: c.Status, Sent: grouped(c.Sent)}
	if v.Name == "" {
		v.Name = fmt.Sprintf("Campaign %d", c.ID)
	}
	total := c.Counts.total()
	counts := []string{"no messages yet"}
	if total > 0 {
		counts = []string{fmt.Sprintf("%s of %s sent", grouped(c.Counts.sent()), grouped(total))}
	}
	for status, n := range c.Counts {
		if status != 2 && n > 0 {
			counts = append(counts, grouped(n)+" "+reportStatuses[status])
		}
	}
	v.Counts = strings.Join(counts, ", ")
	if total == 0 {
		v.Parts = []reportPart{{100, "#c9d3e0"}}
		return v
	}
	// What is there is seen, however little it is; the largest part makes up for it.
	left, largest := 100, 0
	for _, part := range []struct {
		n     int64
		color string
	}{{c.Counts.sent(), "#2f9e6e"}, {c.Counts.failed(), "#d6453d"}, {c.Counts.given(), "#8d97a5"}, {c.Counts.waiting(), "#c9d3e0"}} {
		if part.n == 0 {
			continue
		}
		p := max(int(math.Round(float64(part.n)*100/float64(total))), 1)
		v.Parts = append(v.Parts, reportPart{p, part.color})
		if left -= p; p > v.Parts[largest].Percent {
			largest = len(v.Parts) - 1
		}
	}
	v.Parts[largest].Percent += left
	return v
}

// reportName makes a name fit for a line of text: no line breaks, nothing that
// turns the direction of what follows.
func reportName(name string) string {
	name = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\u200d' { // joins emoji
			return r
		}
		return ' '
	}, name)), " ")
	if runes := []rune(name); len(runes) > 80 {
		return string(runes[:79]) + "…"
	}
	return name
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// grouped writes 12340 as 12,340.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func percent(part, whole int64) string {
	p := float64(part) * 100 / float64(whole)
	if p < 10 {
		return strconv.FormatFloat(p, 'f', 1, 64) + "%"
	}
	return grouped(int64(math.Round(p))) + "%"
}
