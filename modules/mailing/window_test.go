package mailing

import (
	"fmt"
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"

	"switchboard/platform/errs"
)

func mustZone(t interface{ Fatal(...any) }, name string) *time.Location {
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func mustWindow(t interface{ Fatal(...any) }, from, to string) *window {
	w, err := parseWindow(from, to)
	if err != nil {
		t.Fatal(err)
	}
	return &w
}

// closes is the end of the opening that at lies in, in UTC, or 8 days later
// when it is open for longer, as all day long. It is at itself if the window is
// closed then.
func closes(w *window, at time.Time, zone *time.Location) time.Time {
	t := at
	for w.contains(t, zone) {
		if w.allDay() || t.Sub(at) > windowHorizon {
			return at.UTC().Add(windowHorizon)
		}
		t = wallReaches(t, zone, w.To)
	}
	return t.UTC()
}

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// openings walks through the window from a moment on: when it opens and closes.
func openings(w *window, from time.Time, zone *time.Location, n int) []string {
	var out []string
	for at := from; len(out) < n; {
		open, ok := w.next(at, zone)
		if !ok {
			return append(out, "never")
		}
		at = closes(w, open, zone)
		out = append(out, open.In(zone).Format("2006-01-02T15:04:05Z07:00")+" to "+at.In(zone).Format("2006-01-02T15:04:05Z07:00"))
	}
	return out
}

func TestWindowThroughTheYearsOfTenZones(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, zone, from, to string
		at                   string
		want                 []string
	}{
		{"an ordinary day in UTC", "UTC", "09:00", "21:00", "2026-01-02T03:04:05Z",
			[]string{"2026-01-02T09:00:00Z to 2026-01-02T21:00:00Z", "2026-01-03T09:00:00Z to 2026-01-03T21:00:00Z"}},
		{"it is open already", "UTC", "09:00", "21:00", "2026-01-02T09:00:00Z",
			[]string{"2026-01-02T09:00:00Z to 2026-01-02T21:00:00Z"}},
		{"the end is outside", "UTC", "09:00", "21:00", "2026-01-02T21:00:00Z",
			[]string{"2026-01-03T09:00:00Z to 2026-01-03T21:00:00Z"}},
		{"across midnight, before it", "UTC", "22:00", "06:00", "2026-01-02T23:00:00Z",
			[]string{"2026-01-02T23:00:00Z to 2026-01-03T06:00:00Z", "2026-01-03T22:00:00Z to 2026-01-04T06:00:00Z"}},
		{"across midnight, after it", "UTC", "22:00", "06:00", "2026-01-03T05:59:59Z",
			[]string{"2026-01-03T05:59:59Z to 2026-01-03T06:00:00Z"}},
		{"until midnight", "UTC", "22:00", "24:00", "2026-01-02T00:00:00Z",
			[]string{"2026-01-02T22:00:00Z to 2026-01-03T00:00:00Z", "2026-01-03T22:00:00Z to 2026-01-04T00:00:00Z"}},
		{"until midnight, said as 00:00", "UTC", "22:00", "00:00", "2026-01-02T00:00:00Z",
			[]string{"2026-01-02T22:00:00Z to 2026-01-03T00:00:00Z"}},
		{"from midnight", "UTC", "00:00", "06:00", "2026-01-02T06:00:00Z",
			[]string{"2026-01-03T00:00:00Z to 2026-01-03T06:00:00Z"}},

		{"New York, forward: the day is an hour shorter", "America/New_York", "00:00", "06:00", "2026-03-08T00:00:00-05:00",
			[]string{"2026-03-08T00:00:00-05:00 to 2026-03-08T06:00:00-04:00", "2026-03-09T00:00:00-04:00 to 2026-03-09T06:00:00-04:00"}},
		{"New York, forward: opens after the gap", "America/New_York", "02:30", "03:30", "2026-03-07T12:00:00-05:00",
			[]string{"2026-03-08T03:00:00-04:00 to 2026-03-08T03:30:00-04:00", "2026-03-09T02:30:00-04:00 to 2026-03-09T03:30:00-04:00"}},
		{"New York, forward: closes at the gap", "America/New_York", "01:30", "02:30", "2026-03-07T12:00:00-05:00",
			[]string{"2026-03-08T01:30:00-05:00 to 2026-03-08T03:00:00-04:00", "2026-03-09T01:30:00-04:00 to 2026-03-09T02:30:00-04:00"}},
		{"New York, forward: swallowed, so the next day", "America/New_York", "02:15", "02:45", "2026-03-07T12:00:00-05:00",
			[]string{"2026-03-09T02:15:00-04:00 to 2026-03-09T02:45:00-04:00"}},
		{"New York, forward: all but the gap, across midnight", "America/New_York", "03:00", "02:00", "2026-03-08T01:59:00-05:00",
			[]string{"2026-03-08T01:59:00-05:00 to 2026-03-09T02:00:00-04:00"}},
		{"New York, back: open twice", "America/New_York", "01:15", "01:45", "2026-10-31T12:00:00-04:00",
			[]string{"2026-11-01T01:15:00-04:00 to 2026-11-01T01:45:00-04:00", "2026-11-01T01:15:00-05:00 to 2026-11-01T01:45:00-05:00",
				"2026-11-02T01:15:00-05:00 to 2026-11-02T01:45:00-05:00"}},
		{"New York, back: from the hour on it stays open", "America/New_York", "01:00", "03:00", "2026-10-31T12:00:00-04:00",
			[]string{"2026-11-01T01:00:00-04:00 to 2026-11-01T03:00:00-05:00"}},
		{"New York, back: closed by the clock going back", "America/New_York", "01:30", "03:00", "2026-10-31T12:00:00-04:00",
			[]string{"2026-11-01T01:30:00-04:00 to 2026-11-01T01:00:00-05:00", "2026-11-01T01:30:00-05:00 to 2026-11-01T03:00:00-05:00"}},
		{"New York, back: opened again by it", "America/New_York", "00:00", "01:30", "2026-10-31T12:00:00-04:00",
			[]string{"2026-11-01T00:00:00-04:00 to 2026-11-01T01:30:00-04:00", "2026-11-01T01:00:00-05:00 to 2026-11-01T01:30:00-05:00"}},

		{"Berlin, forward", "Europe/Berlin", "02:00", "04:00", "2026-03-28T12:00:00+01:00",
			[]string{"2026-03-29T03:00:00+02:00 to 2026-03-29T04:00:00+02:00"}},
		{"Berlin, forward, across midnight", "Europe/Berlin", "21:00", "09:00", "2026-03-28T12:00:00+01:00",
			[]string{"2026-03-28T21:00:00+01:00 to 2026-03-29T09:00:00+02:00", "2026-03-29T21:00:00+02:00 to 2026-03-30T09:00:00+02:00"}},
		{"Berlin, back, across midnight", "Europe/Berlin", "21:00", "09:00", "2026-10-24T12:00:00+02:00",
			[]string{"2026-10-24T21:00:00+02:00 to 2026-10-25T09:00:00+01:00", "2026-10-25T21:00:00+01:00 to 2026-10-26T09:00:00+01:00"}},
		{"Berlin, back: open twice", "Europe/Berlin", "02:00", "02:30", "2026-10-24T12:00:00+02:00",
			[]string{"2026-10-25T02:00:00+02:00 to 2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+01:00 to 2026-10-25T02:30:00+01:00"}},
		{"Berlin, back: in the second of the two hours", "Europe/Berlin", "02:00", "02:30", "2026-10-25T02:10:00+01:00",
			[]string{"2026-10-25T02:10:00+01:00 to 2026-10-25T02:30:00+01:00", "2026-10-26T02:00:00+01:00 to 2026-10-26T02:30:00+01:00"}},

		{"Moscow has no summer time", "Europe/Moscow", "09:00", "21:00", "2026-03-28T22:00:00+03:00",
			[]string{"2026-03-29T09:00:00+03:00 to 2026-03-29T21:00:00+03:00", "2026-03-30T09:00:00+03:00 to 2026-03-30T21:00:00+03:00"}},
		{"Moscow, 2011: forward for good", "Europe/Moscow", "02:30", "03:30", "2011-03-26T12:00:00+03:00",
			[]string{"2011-03-27T03:00:00+04:00 to 2011-03-27T03:30:00+04:00"}},
		{"Moscow, 2014: back for good", "Europe/Moscow", "01:15", "01:45", "2014-10-25T12:00:00+04:00",
			[]string{"2014-10-26T01:15:00+04:00 to 2014-10-26T01:45:00+04:00", "2014-10-26T01:15:00+03:00 to 2014-10-26T01:45:00+03:00"}},

		{"Kolkata, half an hour off", "Asia/Kolkata", "09:00", "21:00", "2026-03-08T03:29:59.5Z",
			[]string{"2026-03-08T09:00:00+05:30 to 2026-03-08T21:00:00+05:30", "2026-03-09T09:00:00+05:30 to 2026-03-09T21:00:00+05:30"}},
		{"Kathmandu, three quarters off", "Asia/Kathmandu", "23:30", "00:15", "2026-10-24T12:00:00Z",
			[]string{"2026-10-24T23:30:00+05:45 to 2026-10-25T00:15:00+05:45", "2026-10-25T23:30:00+05:45 to 2026-10-26T00:15:00+05:45"}},
		{"Kathmandu, 1986: a gap of 15 minutes at midnight", "Asia/Kathmandu", "00:00", "00:30", "1985-12-31T12:00:00+05:30",
			[]string{"1986-01-01T00:15:00+05:45 to 1986-01-01T00:30:00+05:45"}},

		{"Lord Howe, forward by 30 minutes: swallowed", "Australia/Lord_Howe", "02:05", "02:25", "2026-10-03T12:00:00+10:30",
			[]string{"2026-10-05T02:05:00+11:00 to 2026-10-05T02:25:00+11:00"}},
		{"Lord Howe, forward by 30 minutes: the rest of it", "Australia/Lord_Howe", "02:05", "02:45", "2026-10-03T12:00:00+10:30",
			[]string{"2026-10-04T02:30:00+11:00 to 2026-10-04T02:45:00+11:00"}},
		{"Lord Howe, back by 30 minutes: open twice", "Australia/Lord_Howe", "01:35", "01:55", "2026-04-04T12:00:00+11:00",
			[]string{"2026-04-05T01:35:00+11:00 to 2026-04-05T01:55:00+11:00", "2026-04-05T01:35:00+10:30 to 2026-04-05T01:55:00+10:30"}},

		{"Sao Paulo, 2018: midnight does not exist", "America/Sao_Paulo", "00:00", "02:00", "2018-11-03T12:00:00-03:00",
			[]string{"2018-11-04T01:00:00-02:00 to 2018-11-04T02:00:00-02:00", "2018-11-05T00:00:00-02:00 to 2018-11-05T02:00:00-02:00"}},
		{"Sao Paulo, 2018: across the midnight that does not exist", "America/Sao_Paulo", "23:00", "00:30", "2018-11-03T12:00:00-03:00",
			[]string{"2018-11-03T23:00:00-03:00 to 2018-11-04T01:00:00-02:00"}},
		{"Sao Paulo, 2019: the day before midnight twice", "America/Sao_Paulo", "23:30", "24:00", "2019-02-16T12:00:00-02:00",
			[]string{"2019-02-16T23:30:00-02:00 to 2019-02-16T23:00:00-03:00", "2019-02-16T23:30:00-03:00 to 2019-02-17T00:00:00-03:00"}},
		{"Sao Paulo no longer changes", "America/Sao_Paulo", "09:00", "21:00", "2026-10-31T22:00:00-03:00",
			[]string{"2026-11-01T09:00:00-03:00 to 2026-11-01T21:00:00-03:00"}},

		{"Apia, 2011: a day that does not exist", "Pacific/Apia", "09:00", "21:00", "2011-12-29T22:00:00-10:00",
			[]string{"2011-12-31T09:00:00+14:00 to 2011-12-31T21:00:00+14:00"}},
		{"Apia, 2011: open on both sides of that day", "Pacific/Apia", "22:00", "06:00", "2011-12-29T22:00:00-10:00",
			[]string{"2011-12-29T22:00:00-10:00 to 2011-12-31T06:00:00+14:00"}},
		{"Apia, 2021: back", "Pacific/Apia", "03:15", "03:45", "2021-04-03T12:00:00+14:00",
			[]string{"2021-04-04T03:15:00+14:00 to 2021-04-04T03:45:00+14:00", "2021-04-04T03:15:00+13:00 to 2021-04-04T03:45:00+13:00"}},

		{"Casablanca, back for Ramadan", "Africa/Casablanca", "02:15", "02:45", "2026-02-14T12:00:00+01:00",
			[]string{"2026-02-15T02:15:00+01:00 to 2026-02-15T02:45:00+01:00", "2026-02-15T02:15:00Z to 2026-02-15T02:45:00Z"}},
		{"Casablanca, forward after it", "Africa/Casablanca", "02:15", "03:45", "2026-03-21T12:00:00Z",
			[]string{"2026-03-22T03:00:00+01:00 to 2026-03-22T03:45:00+01:00"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := openings(mustWindow(t, c.from, c.to), instant(t, c.at), mustZone(t, c.zone), len(c.want))
			for i := range c.want {
				if got[i] != c.want[i] {
					t.Errorf("opening %d: %s, want %s", i+1, got[i], c.want[i])
				}
			}
		})
	}
}

func TestAllDayNeverCloses(t *testing.T) {
	t.Parallel()
	for _, w := range []*window{nil, mustWindow(t, "00:00", "24:00")} {
		for _, name := range testZones {
			zone := mustZone(t, name)
			// Over the change of clocks of 2026 in New York, at midnight and before it.
			for _, text := range []string{"2026-03-08T06:59:59.999Z", "2026-03-08T07:00:00Z", "2018-11-04T03:00:00Z"} {
				at := instant(t, text)
				if open, ok := w.next(at, zone); !ok || !open.Equal(at) {
					t.Errorf("%v in %s opens at %v (%v), want at once", w, name, open, ok)
				}
				if end := closes(w, at, zone); !end.After(at) {
					t.Errorf("%v in %s closes at %v", w, name, end)
				}
			}
		}
	}
}

func TestWindowGivesUTC(t *testing.T) {
	t.Parallel()
	w, zone := mustWindow(t, "09:00", "21:00"), mustZone(t, "Asia/Kathmandu")
	at := instant(t, "2026-01-02T00:00:00Z").In(zone)
	open, _ := w.next(at, zone)
	if open.Location() != time.UTC || closes(w, open, zone).Location() != time.UTC || closes(w, at, zone).Location() != time.UTC {
		t.Error("not in UTC")
	}
}

func TestClosedWindowClosesAtOnce(t *testing.T) {
	t.Parallel()
	at := instant(t, "2026-01-02T08:00:00Z")
	if got := closes(mustWindow(t, "09:00", "21:00"), at, time.UTC); !got.Equal(at) {
		t.Errorf("closes at %v", got)
	}
}

func TestParseWindow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to string
		want     window
		at       []string
	}{
		{"09:00", "21:00", window{540, 1260}, nil},
		{"22:30", "06:15", window{1350, 375}, nil},
		{"00:00", "24:00", window{0, 1440}, nil},
		{"23:59", "00:00", window{1439, 0}, nil},
		{"12:00", "24:00", window{720, 1440}, nil},
		{"09:00", "09:00", window{}, []string{"body.window.to"}},
		{"24:00", "09:00", window{}, []string{"body.window.from"}},
		{"09:00", "24:01", window{}, []string{"body.window.to"}},
		{"9:00", "21:60", window{}, []string{"body.window.from", "body.window.to"}},
		{"", "", window{}, []string{"body.window.from", "body.window.to"}},
		{"09.00", "2१:00", window{}, []string{"body.window.from", "body.window.to"}},
		{"-1:00", "+9:00", window{}, []string{"body.window.from", "body.window.to"}},
	} {
		got, err := parseWindow(c.from, c.to)
		var at []string
		for _, f := range errs.FieldsOf(err) {
			at = append(at, f.Location)
		}
		if got != c.want || fmt.Sprint(at) != fmt.Sprint(c.at) || (err != nil) != (c.at != nil) || err != nil && errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q to %q: %v, %v", c.from, c.to, got, err)
		}
		if err == nil && (clock(got.From) != c.from || clock(got.To) != c.to) {
			t.Errorf("%v is shown as %s to %s", got, clock(got.From), clock(got.To))
		}
	}
}

var testZones = []string{"America/New_York", "Europe/Moscow", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo",
	"Pacific/Apia", "Africa/Casablanca", "Asia/Kathmandu", "UTC"}

// wallInside compares what the wall clock shows as text, which is what the
// window means and shares nothing with how it is computed.
func wallInside(from, to string, at time.Time, zone *time.Location) bool {
	shows := at.In(zone).Format("15:04")
	if from < to {
		return from <= shows && shows < to
	}
	return shows >= from || shows < to
}

func TestWindowProperties(t *testing.T) {
	t.Parallel()
	zones := map[string]*time.Location{}
	for _, name := range testZones {
		zones[name] = mustZone(t, name)
	}
	// Changes of clocks, near which most of what can go wrong does.
	changes := []int64{}
	for _, text := range []string{"2026-03-08T07:00:00Z", "2026-11-01T06:00:00Z", "2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z", "2011-03-26T23:00:00Z",
		"2014-10-25T22:00:00Z", "2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z", "2018-11-04T03:00:00Z", "2019-02-17T02:00:00Z", "2011-12-30T10:00:00Z",
		"2021-04-03T14:00:00Z", "2026-02-15T02:00:00Z", "2026-03-22T02:00:00Z", "1985-12-31T18:30:00Z"} {
		changes = append(changes, instant(t, text).Unix())
	}
	rapid.Check(t, func(rt *rapid.T) {
		zone := zones[rapid.SampledFrom(testZones).Draw(rt, "zone")]
		w := window{rapid.IntRange(0, 1439).Draw(rt, "from"), rapid.IntRange(0, 1440).Draw(rt, "to")}
		if w.From == w.To {
			rt.Skip("not a window")
		}
		base := rapid.OneOf(rapid.SampledFrom(changes), rapid.Int64Range(0, 4e9)).Draw(rt, "base")
		at := time.Unix(base, 0).Add(time.Duration(rapid.Int64Range(int64(-36*time.Hour), int64(36*time.Hour)).Draw(rt, "off"))).UTC()

		open, ok := w.next(at, zone)
		switch {
		case !ok:
			rt.Fatalf("%v never opens after %v", w, at)
		case open.Before(at):
			rt.Fatalf("opens at %v, before %v", open, at)
		case !wallInside(clock(w.From), clock(w.To), open, zone):
			rt.Fatalf("not open at %v", open.In(zone))
		}
		if again, _ := w.next(open, zone); !again.Equal(open) {
			rt.Fatalf("next of an opening is %v, not itself, %v", again, open)
		}
		for step := at; step.Before(open); step = step.Add(time.Minute) {
			if wallInside(clock(w.From), clock(w.To), step, zone) {
				rt.Fatalf("open at %v, before %v", step.In(zone), open.In(zone))
			}
		}
		end := closes(&w, open, zone)
		if !end.After(open) {
			rt.Fatalf("closes at %v, not after %v", end, open)
		}
		for step := open; step.Before(end) && step.Sub(open) < 50*time.Hour; step = step.Add(time.Minute) {
			if !wallInside(clock(w.From), clock(w.To), step, zone) {
				rt.Fatalf("closed at %v, before %v", step.In(zone), end.In(zone))
			}
		}
		if !w.allDay() && wallInside(clock(w.From), clock(w.To), end, zone) {
			rt.Fatalf("still open at its end %v", end.In(zone))
		}
	})
}
