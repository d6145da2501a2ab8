package app

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode"
)

// Printable is a foreign text in one line, without what would control a terminal
// or turn the direction of writing.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
			return '·'
		}
		return r
	}, text)
}

// OrDash is Printable, and a dash where there is nothing.
func OrDash(text string) string {
	if text == "" {
		return "-"
	}
	return Printable(text)
}

// Members is a JSON object in one line, printable: name=value, by name.
func Members(data json.RawMessage) string {
	var members map[string]json.RawMessage
	if len(data) == 0 || json.Unmarshal(data, &members) != nil {
		return Printable(string(data))
	}
	parts := make([]string, 0, len(members))
	for name, raw := range members {
		value := string(raw)
		var text string
		if json.Unmarshal(raw, &text) == nil {
			value = text
		}
		parts = append(parts, Printable(name+"="+value))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}
