package collector

import (
	"errors"
	"time"
)

var errTimestamp = errors.New(`not a timestamp: want "YYYY-MM-DD HH:MM:SS[.ffffff]" (UTC) or RFC 3339`)

// ParseTimestamp reads the two forms in which clients write a time: RFC 3339
// (section 5.6, with "T" and a zone), and "YYYY-MM-DD HH:MM:SS[.ffffff]"
// without a zone, which is UTC. Fractions finer than a microsecond are cut.
// The result is in UTC.
func ParseTimestamp(s string) (time.Time, error) {
	// time.Parse is laxer than both forms ("T9:15:27", a comma before the
	// fraction, "+24:60"), so that is checked here.
	const shape = "dddd-dd-ddxdd:dd:dd"
	if len(s) < len(shape) || len(s) > 40 {
		return time.Time{}, errTimestamp
	}
	for i := range len(shape) {
		switch c := s[i]; shape[i] {
		case 'd':
			if c < '0' || c > '9' {
				return time.Time{}, errTimestamp
			}
		case 'x':
		default:
			if c != shape[i] {
				return time.Time{}, errTimestamp
			}
		}
	}
	rest := s[len(shape):]
	if rest != "" && rest[0] == '.' {
		n := 1
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		if n == 1 || n > 10 {
			return time.Time{}, errTimestamp
		}
		rest = rest[n:]
	}
	switch {
	case s[10] == ' ' && rest == "":
		s = s[:10] + "T" + s[11:] + "Z"
	case s[10] == 'T' && (rest == "Z" || len(rest) == 6 && (rest[0] == '+' || rest[0] == '-') && rest[1:3] <= "23" && rest[4:] <= "59"):
	default:
		return time.Time{}, errTimestamp
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, errTimestamp
	}
	return t.UTC().Truncate(time.Microsecond), nil
}
