package collector

import (
	"strings"
	"testing"
	"time"

	"switchboard/platform/web"
)

func TestParseTimestampReadsTwoForms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		// Without a zone it is UTC, with a blank and any fraction.
		"2021-01-01 09:15:27.243860":    "2021-01-01T09:15:27.243860Z",
		"2021-01-01 09:15:27":           "2021-01-01T09:15:27.000000Z",
		"2021-01-01 09:15:27.2":         "2021-01-01T09:15:27.200000Z",
		"2021-01-01 09:15:27.243860999": "2021-01-01T09:15:27.243860Z",
		"2024-02-29 00:00:00":           "2024-02-29T00:00:00.000000Z",
		// RFC 3339.
		"2021-01-01T09:15:27Z":                "2021-01-01T09:15:27.000000Z",
		"2021-01-01T09:15:27.24386Z":          "2021-01-01T09:15:27.243860Z",
		"2021-01-01T09:15:27+00:00":           "2021-01-01T09:15:27.000000Z",
		"2021-01-01T09:15:27-00:00":           "2021-01-01T09:15:27.000000Z",
		"2021-01-01T09:15:27.5+05:30":         "2021-01-01T03:45:27.500000Z",
		"2021-01-01T00:00:00+14:00":           "2020-12-31T10:00:00.000000Z",
		"2021-01-01T09:15:27.123456789-09:30": "2021-01-01T18:45:27.123456Z",
		// Neither.
		"": "", "yesterday": "", "2021-01-01": "", "09:15:27": "", "1609492527": "",
		"2021-01-01 09:15:27.243860Z": "", "2021-01-01 09:15:27+00:00": "", "2021-01-01T09:15:27": "", "2021-01-01T09:15:27.5": "",
		"2021-01-01t09:15:27z": "", "2021-01-01  09:15:27": "", " 2021-01-01 09:15:27": "", "2021-01-01 09:15:27 ": "",
		"2021-1-1 09:15:27": "", "2021-01-01 9:15:27": "", "2021/01/01 09:15:27": "", "2021-01-01 09:15": "", "20210101T091527Z": "",
		"2021-01-01 09:15:27.": "", "2021-01-01 09:15:27,5": "", "2021-01-01T09:15:27.Z": "", "2021-01-01 09:15:27.1234567890": "",
		"2021-02-29 00:00:00": "", "2021-13-01 00:00:00": "", "2021-00-01 00:00:00": "", "2021-01-32 00:00:00": "",
		"2021-01-01 24:00:00": "", "2021-01-01 00:60:00": "", "2021-06-30T23:59:60Z": "", "2021-01-01T00:00:00+24:00": "", "2021-01-01T00:00:00+00:60": "",
		"2021-01-01T09:15:27+0000": "", "2021-01-01T09:15:27+00": "", "2021-01-01T09:15:27 +00:00": "", "2021-01-01T09:15:27Z[UTC]": "",
		"+2021-01-01 00:00:00": "", "-2021-01-01 00:00:00": "", "12021-01-01 00:00:00": "", "２０２１-01-01 00:00:00": "",
		"2021-01-01 09:15:27" + strings.Repeat("0", 100): "",
	} {
		got, err := ParseTimestamp(text)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q was read as %s", text, web.Time(got).String())
		case want != "" && (err != nil || web.Time(got).String() != want || got.Location() != time.UTC):
			t.Errorf("%q: %s, %v; want %s", text, web.Time(got).String(), err, want)
		}
	}
}

// What is accepted comes back from its written form as the same instant, and
// is what the standard library reads.
func FuzzParseTimestamp(f *testing.F) {
	for _, text := range []string{"2021-01-01 09:15:27.243860", "2021-01-01T09:15:27+05:30", "9999-12-31T23:59:59.999999999-23:59", "0000-01-01T00:00:00+23:59", "2021-06-30T23:59:60Z"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseTimestamp(text)
		if err != nil {
			return
		}
		standard := strings.Replace(text, " ", "T", 1)
		if standard != text {
			standard += "Z"
		}
		if want, err := time.Parse(time.RFC3339Nano, standard); err != nil || !want.Truncate(time.Microsecond).Equal(got) {
			t.Fatalf("%q is %s, the standard library says %s, %v", text, got, want, err)
		}
		if got.Year() < 0 || got.Year() > 9999 {
			return // has no written form; such events are refused
		}
		if back, err := ParseTimestamp(web.Time(got).String()); err != nil || !back.Equal(got) {
			t.Fatalf("%q is written as %s, which is %s, %v", text, web.Time(got).String(), back, err)
		}
	})
}
