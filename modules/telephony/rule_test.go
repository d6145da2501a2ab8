package telephony

import (
	"strings"
	"testing"
	"time"
)

func TestTheFirstRuleThatFitsSaysWhereACallGoes(t *testing.T) {
	t.Parallel()
	r, err := parseRules([]string{
		"our=0800-000-0000 days=mon-fri hours=18:00-08:00 -> 950",
		"our=08000000000 hours=12:00-13:00 -> lunch",
		"known=crm customer=returning -> 902",
		"days=sat,sun -> 960",
		"days=fri-mon hours=22:00-24:00 -> late",
	}, "America/Sao_Paulo")
	if err != nil {
		t.Fatal(err)
	}
	at := func(text string) time.Time {
		t.Helper()
		got, err := time.ParseInLocation("Mon 2006-01-02 15:04", text, r.zone)
		if err != nil || got.Format("Mon") != text[:3] {
			t.Fatalf("%s: %v", text, err)
		}
		return got.UTC()
	}
	const free = "+0800 0000 000"
	for _, c := range []struct {
		name, our, at string
		returning     bool
		knows, want   string
	}{
		{name: "in the evening", our: free, at: "Mon 2026-11-23 18:00", want: "950"},
		{name: "just before", our: free, at: "Mon 2026-11-23 17:59"},
		{name: "after midnight it is still Friday's night", our: free, at: "Sat 2026-11-21 07:59", want: "950"},
		{name: "Saturday morning after it", our: free, at: "Sat 2026-11-21 08:00", want: "960"},
		{name: "Sunday's night is no night of the week", our: free, at: "Mon 2026-11-23 03:00"},
		{name: "at noon", our: free, at: "Tue 2026-11-24 12:30", want: "lunch"},
		{name: "another number", our: "0800000001", at: "Tue 2026-11-24 12:30"},
		{name: "no number", at: "Tue 2026-11-24 12:30"},
		{name: "known and returning", our: "1", at: "Tue 2026-11-24 10:00", returning: true, knows: "crm", want: "902"},
		{name: "known, but new", our: "1", at: "Tue 2026-11-24 10:00", knows: "crm"},
		{name: "returning, but unknown", our: "1", at: "Tue 2026-11-24 10:00", returning: true, knows: "mailing"},
		{name: "before a rule further down", our: "1", at: "Sun 2026-11-22 10:00", returning: true, knows: "crm", want: "902"},
		{name: "a range over the end of the week", our: "1", at: "Mon 2026-11-23 23:59", want: "late"},
		{name: "which has an end", our: "1", at: "Tue 2026-11-24 23:59"},
	} {
		got, _ := r.destination(caller{Our: c.our, Returning: c.returning, At: at(c.at), Known: func(directory string) bool { return directory == c.knows }})
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got, ok := r.destination(caller{At: at("Tue 2026-11-24 10:00"), Returning: true}); ok {
		t.Errorf("without a directory: %q", got)
	}
}

func TestHoursAreThoseOfTheClockOnTheWall(t *testing.T) {
	t.Parallel()
	// Berlin: on 2026-03-29 02:00 becomes 03:00, on 2026-10-25 03:00 becomes 02:00.
	r, err := parseRules([]string{"hours=02:00-03:00 -> nobody", "days=sun hours=03:00-06:00 -> early", "days=sat hours=22:00-06:00 -> night"}, "Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for utc, want := range map[string]string{
		"2026-03-29T00:59:00Z": "night",  // 01:59
		"2026-03-29T01:00:00Z": "early",  // 03:00: there is no 02:30 in this night
		"2026-10-25T00:30:00Z": "nobody", // 02:30 in summer
		"2026-10-25T01:30:00Z": "nobody", // 02:30 in winter
		"2026-10-25T02:00:00Z": "early",
		"2026-10-24T21:30:00Z": "night",
		"2026-10-25T05:00:00Z": "",
	} {
		at, err := time.Parse(time.RFC3339, utc)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := r.destination(caller{At: at}); got != want {
			t.Errorf("%s: %q, want %q", utc, got, want)
		}
	}
}

func TestARuleThatMakesNoSenseIsNamedWithTheReason(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"our=1":                              "has no arrow",
		"our=1 ->":                           "the destination is missing",
		"-> a b":                             "the destination has other characters",
		"-> " + strings.Repeat("9", 65):      "longer than 64 bytes",
		"our=abc -> 1":                       "is not a number",
		"our -> 1":                           "is not a number",
		"customer=old -> 1":                  "neither new nor returning",
		"known=me -> 1":                      "neither mailing nor crm",
		"days= -> 1":                         "has no day",
		"days=mo -> 1":                       "has other days",
		"days=mon-fry -> 1":                  "has other days",
		"hours=8-18 -> 1":                    "is not a span of time",
		"hours=08:00-24:01 -> 1":             "is not a span of time",
		"hours=24:00-08:00 -> 1":             "is not a span of time",
		"hours=08:00-08:00 -> 1":             "ends when it begins",
		"hours=08:60-09:00 -> 1":             "is not a span of time",
		"their=1 -> 1":                       "is not one of our=",
		"our=1 our=2 -> 1":                   "has two conditions our",
		strings.Repeat("our=1 ", 500) + "->": "longer than 1024 bytes",
	} {
		_, err := parseRules([]string{"-> 1", text}, "UTC")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "rule 2, ") {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	for _, zone := range []string{"Mars", "Local", "../etc/passwd"} {
		if _, err := parseRules(nil, zone); err == nil || !strings.Contains(err.Error(), "is not a time zone") {
			t.Errorf("%s: %v", zone, err)
		}
	}
	if _, err := parseRules(make([]string, maxRules+1), "UTC"); err == nil {
		t.Error("any number of rules is taken")
	}
}

func FuzzRule(f *testing.F) {
	f.Add("our=0800000000 days=mon-fri,sun hours=18:00-08:00 known=crm customer=new -> 950")
	f.Add("days=sat+sun->x")
	f.Add("->")
	f.Fuzz(func(t *testing.T, text string) {
		one, err := parseRule(text)
		if err != nil {
			return
		}
		if one.destination == "" || len(one.destination) > maxDestination || strings.ContainsAny(one.destination, " \n\x00") {
			t.Errorf("the destination is %q", one.destination)
		}
		if one.hours && (one.from < 0 || one.from >= 24*60 || one.to < 0 || one.to > 24*60 || one.from == one.to) {
			t.Errorf("from %d to %d", one.from, one.to)
		}
		s := rules{zone: time.UTC, list: []rule{one}}
		fits := 0
		for minute := range 7 * 24 * 60 {
			at := time.Date(2026, 11, 23, 0, minute, 0, 0, time.UTC)
			if to, ok := s.destination(caller{Our: one.our, Returning: one.customer == "returning", At: at, Known: func(string) bool { return true }}); ok {
				fits++
				if to != one.destination {
					t.Errorf("goes to %q", to)
				}
			}
		}
		if fits == 0 {
			t.Error("it never fits")
		}
	})
}
