package telephony

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // machines without a zone database have rules too
)

const (
	maxRules       = 1000
	maxRule        = 1 << 10 // bytes of a rule
	maxDestination = 64      // bytes
)

// rules say where calls go. The first that fits counts.
type rules struct {
	zone *time.Location
	list []rule
}

// rule is a set of conditions; what is not set does not restrict.
type rule struct {
	our         string // digits
	customer    string // new or returning
	known       string // a directory
	days        *[7]bool
	from, to    int // minutes of the day; to is exclusive and may be before from
	hours       bool
	destination string
}

// caller is what rules ask about a call.
type caller struct {
	Our       string // number that was called
	Returning bool
	At        time.Time
	Known     func(directory string) bool // asked last, for it takes its time
}

// parseRules reads rules of the form "conditions -> destination". Days and
// hours are those of the time zone. The error names the rule and the reason.
func parseRules(list []string, timeZone string) (*rules, error) {
	zone, err := time.LoadLocation(timeZone)
	if err != nil || timeZone == "Local" {
		return nil, fmt.Errorf("%.60q is not a time zone such as America/Sao_Paulo", timeZone)
	}
	if len(list) > maxRules {
		return nil, fmt.Errorf("more than %d rules", maxRules)
	}
	out := &rules{zone: zone}
	for i, text := range list {
		r, err := parseRule(text)
		if err != nil {
			return nil, fmt.Errorf("rule %d, %.60q: %w", i+1, text, err)
		}
		out.list = append(out.list, r)
	}
	return out, nil
}

func parseRule(text string) (r rule, err error) {
	if len(text) > maxRule {
		return r, fmt.Errorf("is longer than %d bytes", maxRule)
	}
	conditions, destination, ok := strings.Cut(text, "->")
	if !ok {
		return r, fmt.Errorf("has no arrow before a destination, as in our=0800000000 -> 950")
	}
	r.destination = strings.TrimSpace(destination)
	if err := checkDestination(r.destination); err != nil {
		return r, fmt.Errorf("the destination %w", err)
	}
	seen := map[string]bool{}
	for condition := range strings.FieldsSeq(conditions) {
		name, value, _ := strings.Cut(condition, "=")
		if seen[name] {
			return r, fmt.Errorf("has two conditions %s", name)
		}
		seen[name] = true
		if err := r.condition(name, value); err != nil {
			return r, fmt.Errorf("the condition %.40q %w", condition, err)
		}
	}
	return r, nil
}

// checkDestination says what is wrong with the name of a queue, peer or number.
func checkDestination(text string) error {
	switch {
	case text == "":
		return fmt.Errorf("is missing")
	case len(text) > maxDestination:
		return fmt.Errorf("is longer than %d bytes", maxDestination)
	case strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }):
		return fmt.Errorf("has other characters than letters, digits and signs of ASCII")
	}
	return nil
}

func (r *rule) condition(name, value string) error {
	switch name {
	case "our":
		if r.our = digits(value); r.our == "" || len(value) > maxDestination {
			return fmt.Errorf("is not a number")
		}
	case "customer":
		if value != "new" && value != "returning" {
			return fmt.Errorf("is neither new nor returning")
		}
		r.customer = value
	case "known":
		if value != "mailing" && value != "crm" {
			return fmt.Errorf("is neither mailing nor crm")
		}
		r.known = value
	case "days":
		return r.parseDays(value)
	case "hours":
		return r.parseHours(value)
	default:
		return fmt.Errorf("is not one of our=, customer=, days=, hours=, known=")
	}
	return nil
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts

// parseDays reads days and ranges of days. They may be joined by a plus as
// well, for a comma ends a rule in an environment variable.
func (r *rule) parseDays(value string) error {
	r.days = new([7]bool)
	for part := range strings.FieldsFuncSeq(value+",", func(c rune) bool { return c == ',' || c == '+' }) {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, to := slices.Index(dayNames, first), slices.Index(dayNames, last)
		if from < 0 || to < 0 {
			return fmt.Errorf("has other days than mon, tue, wed, thu, fri, sat, sun and ranges of them")
		}
		for day := from; ; day = (day + 1) % 7 {
			r.days[day] = true
			if day == to {
				break
			}
		}
	}
	if *r.days == [7]bool{} {
		return fmt.Errorf("has no day")
	}
	return nil
}

func (r *rule) parseHours(value string) error {
	first, last, _ := strings.Cut(value, "-")
	from, ok := minutes(first)
	to, ok2 := minutes(last)
	if !ok || !ok2 || from == 24*60 {
		return fmt.Errorf("is not a span of time such as 08:00-18:00")
	}
	if from == to {
		return fmt.Errorf("ends when it begins: a whole day is 00:00-24:00")
	}
	r.hours, r.from, r.to = true, from, to
	return nil
}

// minutes reads a time of the day, from 00:00 to 24:00.
func minutes(text string) (int, bool) {
	if len(text) != 5 || text[2] != ':' {
		return 0, false
	}
	h, err := strconv.ParseUint(text[:2], 10, 8)
	m, err2 := strconv.ParseUint(text[3:], 10, 8)
	n := int(h)*60 + int(m)
	return n, err == nil && err2 == nil && m < 60 && n <= 24*60
}

// destination gives where a call goes; false if no rule fits.
func (s *rules) destination(c caller) (string, bool) {
	our := digits(c.Our)
	at := c.At.In(s.zone)
	for i := range s.list {
		r := &s.list[i]
		if (r.our == "" || r.our == our) &&
			(r.customer == "" || (r.customer == "returning") == c.Returning) &&
			r.holds(at) && (r.known == "" || c.Known != nil && c.Known(r.known)) {
			return r.destination, true
		}
	}
	return "", false
}

// holds tells whether a moment lies in the rule's days and hours, by the clock
// on the wall. Hours that cross midnight belong to the day on which they began.
func (r *rule) holds(at time.Time) bool {
	day, now := int(at.Weekday()), at.Hour()*60+at.Minute()
	switch {
	case !r.hours:
	case r.from < r.to:
		if now < r.from || now >= r.to {
			return false
		}
	case now < r.to:
		day = (day + 6) % 7
	case now < r.from:
		return false
	}
	return r.days == nil || r.days[day]
}

// digits leaves the digits of a number.
func digits(number string) string {
	return strings.Map(func(c rune) rune {
		if c < '0' || c > '9' {
			return -1
		}
		return c
	}, number)
}
