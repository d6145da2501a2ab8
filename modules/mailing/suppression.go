package mailing

import (
	"regexp"
	"time"
)

// suppression is a number that gets nothing, whatever a campaign says.
type suppression struct {
	Number    string // empty if the person was erased, or the client deleted
	Reason    string
	CreatedAt time.Time
}

// Why a number is suppressed, unless whoever added it says so.
const (
	suppressedByHand       = "manual"
	suppressedUnsubscribed = "unsubscribed"
)

// mobileNumber is a number that campaigns are sent to.
var mobileNumber = regexp.MustCompile(`^7[0-9]{10}$`)

// Bounds of a code.
const (
	maxCode       = 64
	maxCodeDigits = 6
)

// isCode tells whether text may rest and be logged in the clear: 1 to 64 of
// a to z, 0 to 9, _, - and space, the first not a space, with too few digits
// for a phone number.
func isCode(text string) bool {
	digits := 0
	for i := range len(text) {
		switch c := text[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'z', c == '_', c == '-', c == ' ' && i > 0:
		default:
			return false
		}
	}
	return text != "" && len(text) <= maxCode && digits <= maxCodeDigits
}
