package mailing

import (
	"strings"
	"testing"
)

func TestReasonsAreKeptIfTheyAreCodes(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		"":                       "failed",
		"EXPIRED":                "expired",
		" absent-subscriber_27 ": "absent-subscriber_27",
		"blocked by operator":    "blocked by operator",
		"абонент":                "failed",
		"user@example.com":       "failed",
		"79161234567":            "failed",
		"7 916 123 45 67":        "failed",
		"smpp 000045":            "smpp 000045",
		"a\nb":                   "failed",
		strings.Repeat("x", 64):  strings.Repeat("x", 64),
		strings.Repeat("x", 65):  "failed",
	} {
		if got := codeOf(reason); got != want {
			t.Errorf("%q: %q, want %q", reason, got, want)
		}
	}
}
