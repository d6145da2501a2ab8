package mailing

import (
	"strings"
	"time"
)

// callback is what a provider tells of a message later.
type callback struct {
	Message int64
	Status  string
	At      *time.Time // when it happened there
	Reason  string     // of a failure; foreign text
}

// What a provider can tell.
const (
	toldFailed       = "failed"
	toldDelivered    = "delivered"
	toldUnsubscribed = "unsubscribed"
)

// told are the statuses by weight. A message keeps the heaviest, so that
// callbacks may come in any order and any number of times: a failure that was
// mended by a delivery is none, and who unsubscribed had got it.
var told = []string{toldFailed, toldDelivered, toldUnsubscribed}

// lighterThan gives what a status takes the place of.
func lighterThan(status string) []string {
	lighter := []string{""}
	for _, s := range told {
		if s == status {
			break
		}
		lighter = append(lighter, s)
	}
	return lighter
}

// codeOf is a provider's reason if it is a code, else "failed": what a
// foreign system writes must not rest in the clear.
func codeOf(reason string) string {
	if code := strings.ToLower(strings.TrimSpace(reason)); isCode(code) {
		return code
	}
	return toldFailed
}
