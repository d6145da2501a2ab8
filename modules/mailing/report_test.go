package mailing

import (
	"bytes"
	"encoding/base64"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"switchboard/platform/apptest"
)

func reportZone(t testing.TB, at, zone string) reportSchedule {
	t.Helper()
	s, err := parseReportSchedule(at, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestADayOfTheReportIsOneOfItsZone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		zone, day string
		from, due string
		hours     float64
	}{
		{"UTC", "2026-11-21", "2026-11-21T00:00:00Z", "2026-11-22T08:30:00Z", 24},
		{"Europe/Moscow", "2026-11-21", "2026-11-20T21:00:00Z", "2026-11-22T05:30:00Z", 24},
		{"Europe/Berlin", "2026-03-29", "2026-03-28T23:00:00Z", "2026-03-30T06:30:00Z", 23},
		{"Europe/Berlin", "2026-10-25", "2026-10-24T22:00:00Z", "2026-10-26T07:30:00Z", 25},
		{"Europe/Berlin", "2026-10-24", "2026-10-23T22:00:00Z", "2026-10-25T07:30:00Z", 24}, // sent on the long day
		{"America/New_York", "2026-03-08", "2026-03-08T05:00:00Z", "2026-03-09T12:30:00Z", 23},
		{"Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00:00Z", "2026-04-05T22:00:00Z", 24.5}, // half an hour
		{"America/Havana", "2026-03-08", "2026-03-08T05:00:00Z", "2026-03-09T12:30:00Z", 23},        // no midnight: it begins at 01:00
		{"America/Havana", "2026-11-01", "2026-11-01T04:00:00Z", "2026-11-02T13:30:00Z", 25},        // two midnights: the first
		{"Pacific/Apia", "2011-12-29", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", 24},          // the day after did not exist
		{"Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00Z", "2011-12-30T18:30:00Z", 0},
		{"Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00Z", "2011-12-31T18:30:00Z", 24},
	} {
		s := reportZone(t, "08:30", c.zone)
		from, to := s.span(reportDay(c.day))
		due := s.due(reportDay(c.day))
		if got := from.UTC().Format(time.RFC3339); got != c.from || to.Sub(from).Hours() != c.hours || due.UTC().Format(time.RFC3339) != c.due {
			t.Errorf("%s in %s: from %s, %v hours, due %s", c.day, c.zone, got, to.Sub(from).Hours(), due.UTC().Format(time.RFC3339))
		}
		if c.hours == 0 {
			continue
		}
		if got := s.last(due); got != reportDay(c.day) && s.due(got) != due {
			t.Errorf("%s in %s: at its hour the last one is %s", c.day, c.zone, string(got))
		}
		if got := s.last(due.Add(-time.Microsecond)); got >= reportDay(c.day) {
			t.Errorf("%s in %s: before its hour the last one is %s", c.day, c.zone, string(got))
		}
	}
}

// Whatever the zone: days follow each other without a gap, and each is due
// after its end, once.
func TestDaysOfAReportFollowEachOther(t *testing.T) {
	t.Parallel()
	for _, zone := range []string{"UTC", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Asia/Beirut", "America/Asuncion", "Africa/Casablanca", "Asia/Kathmandu", "Pacific/Chatham", "Pacific/Apia"} {
		for _, at := range []string{"00:00", "02:30", "23:59"} {
			s := reportZone(t, at, zone)
			day := reportDay("2011-06-01")
			_, end := s.span(day)
			due := s.due(day)
			for range 800 {
				day = day.add(1)
				from, to := s.span(day)
				if !from.Equal(end) || to.Before(from) || to.Sub(from) > 26*time.Hour {
					t.Fatalf("%s: %s goes from %s to %s, the day before ended at %s", zone, string(day), from, to, end)
				}
				if next := s.due(day); next.Before(due) || next.Before(to) {
					t.Fatalf("%s at %s: %s is due at %s; it ends at %s, and the day before was due at %s", zone, at, string(day), next, to, due)
				} else {
					due = next
				}
				end = to
			}
		}
	}
}

func TestBadSettingsOfTheScheduleAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{{"8", "UTC", "report_at"}, {"24:00", "UTC", "report_at"}, {"", "UTC", "report_at"}, {"08:00", "Mars/Base", "report_time_zone"}, {"08:00", "", "report_time_zone"}, {"08:00", "Local", "report_time_zone"}} {
		if _, err := parseReportSchedule(c[0], c[1]); err == nil || !strings.Contains(err.Error(), "mailing."+c[2]) {
			t.Errorf("%q: %v", c, err)
		}
	}
}

func TestPausesBetweenAttemptsGrowToAnHour(t *testing.T) {
	t.Parallel()
	var got []string
	for n := range int64(9) {
		got = append(got, reportPause(n).String())
	}
	if want := "0s 1m0s 2m0s 4m0s 8m0s 16m0s 32m0s 1h0m0s 1h0m0s"; strings.Join(got, " ") != want || reportPause(1000) != time.Hour {
		t.Errorf("%s, %s", got, reportPause(1000))
	}
}

// sampleDay is a day as it may be.
func sampleDay(t testing.TB) (*dayFigures, *time.Location) {
	t.Helper()
	s := reportZone(t, "08:00", "Europe/Moscow")
	f := &dayFigures{Day: "2026-11-21", SentBefore: 11402, Running: 4, Totals: reportCounts{902, 12, 31344, 44, 188, 310, 0}, AsOf: s.due("2026-11-21"),
		Hours: []int64{0, 0, 0, 0, 0, 0, 12, 84, 216, 734, 1421, 1830, 1644, 1203, 988, 1105, 1012, 876, 611, 402, 202, 0, 0, 0},
		Campaigns: []campaignFigures{
			{7, "Black Friday: early access", "running", 8114, reportCounts{760, 12, 18902, 44, 142, 140}},
			{9, "Delivery slots, west & north", "finished", 3020, reportCounts{0, 0, 8960, 0, 31, 9}},
			{11, "Loyalty points expire in December", "running", 1206, reportCounts{142, 0, 3482, 0, 15, 0}},
			{12, "", "paused", 0, reportCounts{0, 0, 0, 0, 0, 161}},
		}}
	f.From, f.To = s.span(f.Day)
	return f, s.zone
}

func renderedDay(t testing.TB, f *dayFigures, zone *time.Location) *dailyReport {
	t.Helper()
	templates, err := newReportTemplates()
	if err != nil {
		t.Fatal(err)
	}
	r, err := templates.render(f, zone, func(p []byte) string { return "data:image/png;base64," + base64.StdEncoding.EncodeToString(p) })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAReportSaysWhatHappened(t *testing.T) {
	t.Parallel()
	f, zone := sampleDay(t)
	r := renderedDay(t, f, zone)
	if r.Subject != "Mailing: 12,340 sent on 21 November 2026" {
		t.Error(r.Subject)
	}
	for _, want := range []string{"Saturday, 21 November 2026", "12,340  sent, 8.2% more than the day before (11,402)", "188  failed", "958  still to go",
		"11:00  " + strings.Repeat("#", 40) + "     1,830", "Black Friday: early access (running)", "Campaign 12 (paused)",
		"8,114 sent that day; in all 18,902 of 20,000 sent, 760 pending, 12 sending, 44 retrying, 142 failed, 140 expired", "22 November 2026, 08:00 Europe/Moscow"} {
		if !strings.Contains(r.Text, want) {
			t.Errorf("the text lacks %q:\n%s", want, r.Text)
		}
	}
	for _, want := range []string{"12,340", "8,114", "Delivery slots, west &amp; north", `alt="Bar chart of messages sent by hour: from 06:00 to 21:00, most in the hour from 11:00, 1,830."`} {
		if !strings.Contains(r.HTML, want) {
			t.Errorf("the HTML lacks %q", want)
		}
	}
	if bad := regexp.MustCompile(`(?i)https?:|//[a-z]|<script|<link|ZgotmplZ|url\(`).FindAllString(regexp.MustCompile(`base64,[^"]*`).ReplaceAllString(r.HTML, ""), -1); bad != nil {
		t.Errorf("the HTML reaches out: %q", bad)
	}
	if img, err := png.Decode(bytes.NewReader(r.Chart)); err != nil || img.Bounds().Dx() != 2*chartWidth || img.Bounds().Dy() != 2*chartHeight {
		t.Errorf("the chart: %v", err)
	}
}

func TestNamesOfCampaignsCannotBreakAReport(t *testing.T) {
	t.Parallel()
	f, zone := sampleDay(t)
	f.Campaigns[0].Name = "<img src=x onerror=alert(1)>\r\nBcc: all\u202e\x00\"'{{.Zone}}"
	f.Campaigns[1].Name = strings.Repeat("long ", 50)
	r := renderedDay(t, f, zone)
	if strings.Contains(r.HTML, "<img src=x") || strings.Contains(r.Text, "\nBcc") || strings.ContainsAny(r.Text+r.HTML, "\r\u202e\x00") {
		t.Error(r.Text)
	}
	if !strings.Contains(r.Text, `<img src=x onerror=alert(1)> Bcc: all "'{{.Zone}} (running)`) || strings.Contains(r.Text, strings.Repeat("long ", 20)) {
		t.Error(r.Text)
	}
}

func TestAReportOfAnEmptyDayIsOneToo(t *testing.T) {
	t.Parallel()
	f, zone := sampleDay(t)
	f.Hours, f.Campaigns, f.Running, f.SentBefore = make([]int64, 24), nil, 0, 0
	r := renderedDay(t, f, zone)
	for _, want := range []string{"Mailing: 0 sent on 21 November 2026", "as many as the day before", "None all day.", "None was running."} {
		if !strings.Contains(r.Text, want) {
			t.Errorf("the text lacks %q:\n%s", want, r.Text)
		}
	}
	f.Hours, f.Running = nil, 70
	if r := renderedDay(t, f, zone); !strings.Contains(r.Text, "70 more campaigns sent 0 that day.") {
		t.Error(r.Text)
	}
}

func TestHoursAreThoseOfTheClockOnDaysThatAreLonger(t *testing.T) {
	t.Parallel()
	s := reportZone(t, "08:00", "Europe/Berlin")
	f := &dayFigures{Day: "2026-10-25", Hours: make([]int64, 25), AsOf: s.due("2026-10-25")}
	f.From, f.To = s.span(f.Day)
	f.Hours[1], f.Hours[2], f.Hours[3], f.Hours[4] = 1, 2, 3, 4
	var got []string
	_, rows := f.hours(s.zone)
	for _, r := range rows {
		got = append(got, r.Label+strings.TrimSpace(r.Sent))
	}
	if want := []string{"01:001", "02:002", "02:003", "03:004"}; !cmp.Equal(got, want) {
		t.Errorf("%q", got)
	}
	renderedDay(t, f, s.zone)
}

func TestTheScaleOfTheChartIsRound(t *testing.T) {
	t.Parallel()
	for most, want := range map[int64]int64{0: 1, 4: 1, 5: 2, 9: 5, 20: 5, 21: 10, 1830: 500, 1_000_000: 500_000} {
		if got := chartStep(most); got != want {
			t.Errorf("up to %d: %d, want %d", most, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 500: "500", 1500: "1.5k", 20_000: "20k", 2_500_000: "2.5M"} {
		if got := shortNumber(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

// The picture in docs/ is a report in a browser.
func TestThePictureOfAReport(t *testing.T) {
	t.Parallel()
	f, zone := sampleDay(t)
	dir, err := os.MkdirTemp("", "report") // t.TempDir would fail on files that appear while it is removed
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := apptest.Program(t, "chromium", "chromium-browser", "google-chrome")
	page, picture := filepath.Join(dir, "report.html"), filepath.Join(dir, "report.png")
	if err := os.WriteFile(page, []byte(renderedDay(t, f, zone).HTML), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage",
		"--hide-scrollbars", "--user-data-dir="+filepath.Join(dir, "profile"), "--window-size=900,1010", "--screenshot="+picture, "file://"+page)
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	// The chart is there: its colours are nowhere else.
	blue := 0
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			if r, g, b, _ := img.At(x, y).RGBA(); r>>8 == 0x3b && g>>8 == 0x7d && b>>8 == 0xdd {
				blue++
			}
		}
	}
	if blue < 5000 {
		t.Errorf("the page has %d pixels of the chart's colour", blue)
	}
	if keep := os.Getenv("REPORT_PICTURE"); keep != "" {
		if err := os.WriteFile(keep, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
