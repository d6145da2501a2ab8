package seal

import (
	"strings"
	"unicode"
)

// Limits of a number in digits. ITU-T E.164 allows 15; platforms put prefixes
// of their own before it, and inside a company three are enough.
const (
	minPhone = 3
	maxPhone = 20
)

// Phone makes the alias of a phone number, as people and platforms write it:
// with spaces, dots, hyphens, slashes and parentheses, with + or 00 before the
// country code, as a tel: URI, in the digits of any script. It is the one
// place where a number is brought to one form: ASCII digits, without the
// international prefix and without the (0) of "+49 (0)30 …".
//
// It is false for anything else, and for fewer than 3 or more than 20 digits.
// The national and the international form of a number are two aliases: see
// PhoneIn.
func Phone(number string) (Alias, bool) { return PhoneIn("", number) }

// PhoneIn is Phone for a number that may lack its country code. If it came
// without + or 00 and has fewer than 12 digits after one leading 0 (the trunk
// prefix), that 0 is dropped and countryCode, such as "55" or "+55", put before
// it. A longer number is taken to bear a country code. An empty countryCode
// adds nothing; one that is not 1 to 4 digits, the first not 0, makes it false.
func PhoneIn(countryCode, number string) (Alias, bool) {
	digits, international, ok := phoneDigits(number)
	if !ok || len(digits) < minPhone || len(digits) > maxPhone {
		return Alias{}, false
	}
	if countryCode != "" {
		code, _, ok := phoneDigits(countryCode)
		if !ok || len(code) < 1 || len(code) > 4 || code[0] == '0' {
			return Alias{}, false
		}
		if national := strings.TrimPrefix(digits, "0"); !international && len(national) < 12 {
			digits = code + national
		}
	}
	return Alias{Kind: "phone", Value: digits}, true
}

// phoneDigits reads the digits of a number without its international prefix,
// and whether it had one.
func phoneDigits(number string) (digits string, international, ok bool) {
	if len(number) > 256 {
		return "", false, false
	}
	number = strings.TrimSpace(number)
	if len(number) >= 4 && strings.EqualFold(number[:4], "tel:") {
		number = number[4:]
	}
	got := make([]byte, 0, maxPhone)
	group := -1 // where the open parenthesis stands in got
	for _, r := range number {
		d, isDigit := digitOf(r)
		switch {
		case isDigit:
			got = append(got, '0'+d)
			// Any number of times: what remains must read the same again.
			if string(got) == "00" {
				international, got, group = true, got[:0], -1
			}
		case r == '+' || r == '＋':
			if international || len(got) > 0 {
				return "", false, false
			}
			international = true
		case r == '(' || r == '（':
			group = len(got)
		case r == ')' || r == '）':
			// The trunk prefix, which is not dialled after a country code.
			if international && group > 0 && string(got[group:]) == "0" {
				got = got[:group]
			}
			group = -1
		case !separates(r):
			return "", false, false
		}
	}
	return string(got), international, true
}

// separates tells whether r may stand between digits. A line break may not: it
// separates two numbers.
func separates(r rune) bool {
	switch r {
	case '\n', '\r', '\v', '\f', '\u0085', '\u2028', '\u2029':
		return false
	case '.', '/', '．', '／', '−':
		return true
	}
	// Address books put invisible marks of writing direction around numbers.
	return unicode.IsSpace(r) || unicode.Is(unicode.Pd, r) || unicode.Is(unicode.Cf, r)
}

// digitOf gives the value of a decimal digit of any script.
func digitOf(r rune) (byte, bool) {
	if r <= unicode.MaxASCII {
		return byte(r) - '0', r >= '0' && r <= '9'
	}
	// Unicode keeps the digits of a script in a run from zero to nine.
	for _, run := range unicode.Nd.R16 {
		if r >= rune(run.Lo) && r <= rune(run.Hi) {
			return byte((r - rune(run.Lo)) % 10), true
		}
	}
	for _, run := range unicode.Nd.R32 {
		if r >= rune(run.Lo) && r <= rune(run.Hi) {
			return byte((r - rune(run.Lo)) % 10), true
		}
	}
	return 0, false
}
