package mailing

import (
	"fmt"
	"time"

	"switchboard/platform/errs"
)

// dayMinutes are the minutes of a day by the clock on the wall.
const dayMinutes = 24 * 60

// windowHorizon is how far openings are searched for.
const windowHorizon = 8 * 24 * time.Hour

// window is the part of the local day in which a client may be reached, in
// minutes since midnight by the clock on the wall: From is inside, To is not.
// From > To crosses midnight. {0, 1440} is the whole day. From == To is
// invalid.
//
// A moment is inside if its local wall time is: where clocks are put forward,
// what the gap swallows of a window is not made up for, and where they are put
// back, a window in the repeated hour opens twice.
type window struct{ From, To int }

// parseWindow reads two times of day, "09:00". To may be "24:00".
func parseWindow(from, to string) (window, error) {
	var fields []errs.Field
	f, ok := parseClock(from)
	if !ok || f == dayMinutes {
		fields = append(fields, errs.Field{Location: "body.window.from", Message: "must be a time of day from 00:00 to 23:59", Value: from})
	}
	t, ok := parseClock(to)
	if !ok {
		fields = append(fields, errs.Field{Location: "body.window.to", Message: "must be a time of day from 00:00 to 24:00", Value: to})
	}
	if len(fields) == 0 && f == t {
		fields = append(fields, errs.Field{Location: "body.window.to", Message: "must differ from the time the window opens", Value: to})
	}
	if len(fields) > 0 {
		return window{}, errs.InvalidFields("the window is not valid", fields...)
	}
	return window{f, t}, nil
}

// parseClock reads HH:MM as minutes since midnight, 24:00 included.
func parseClock(text string) (int, bool) {
	if len(text) != 5 || text[2] != ':' {
		return 0, false
	}
	for _, i := range []int{0, 1, 3, 4} {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
	}
	minute := int(text[3]-'0')*10 + int(text[4]-'0')
	total := (int(text[0]-'0')*10+int(text[1]-'0'))*60 + minute
	return total, minute < 60 && total <= dayMinutes
}

// clock shows minutes since midnight as HH:MM.
func clock(minutes int) string { return fmt.Sprintf("%02d:%02d", minutes/60, minutes%60) }

// allDay tells whether the window never closes.
func (w *window) allDay() bool { return w == nil || w.To-w.From == dayMinutes }

// equal tells whether both are the same hours.
func (w *window) equal(other *window) bool {
	return w == other || w != nil && other != nil && *w == *other
}

// contains tells whether the local wall time of at is inside. A nil window
// contains every moment.
func (w *window) contains(at time.Time, zone *time.Location) bool {
	if w.allDay() {
		return true
	}
	now := timeOfDay(at.In(zone))
	from, to := time.Duration(w.From)*time.Minute, time.Duration(w.To)*time.Minute
	if w.From < w.To {
		return from <= now && now < to
	}
	return now >= from || now < to
}

// next is at itself if the window is open then, else the moment at which it
// opens next, in UTC. It is not ok if it does not open within 8 days.
func (w *window) next(at time.Time, zone *time.Location) (open time.Time, ok bool) {
	for t := at; t.Sub(at) <= windowHorizon; {
		if w.contains(t, zone) {
			return t.UTC(), true
		}
		t = wallReaches(t, zone, w.From)
	}
	return time.Time{}, false
}

// wallReaches is the first moment after t at which the wall clock shows minute,
// or at which the clock is changed, if that comes first.
func wallReaches(t time.Time, zone *time.Location, minute int) time.Time {
	local := t.In(zone)
	ahead := time.Duration(minute)*time.Minute - timeOfDay(local)
	if ahead <= 0 {
		ahead += 24 * time.Hour
	}
	reached := local.Add(ahead)
	if _, changed := local.ZoneBounds(); !changed.IsZero() && changed.Before(reached) {
		return changed
	}
	return reached
}

// timeOfDay is what the wall clock shows.
func timeOfDay(local time.Time) time.Duration {
	hour, minute, second := local.Clock()
	return time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second + time.Duration(local.Nanosecond())
}
