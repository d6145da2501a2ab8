package seal_test

import (
	"strings"
	"testing"
	"unicode"

	"switchboard/platform/seal"
)

func TestPhoneBringsANumberToOneForm(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ number, want string }{
		{"5511999998888", "5511999998888"},
		{"+5511999998888", "5511999998888"},
		{"005511999998888", "5511999998888"},
		{"+55 (11) 99999-8888", "5511999998888"},
		{"  +55 11 99999 8888\t", "5511999998888"},
		{"55.11.99999.8888", "5511999998888"},
		{"tel:+55-11-99999-8888", "5511999998888"},
		{"TEL:005511999998888", "5511999998888"},
		{"tel: +55 11 99999 8888", "5511999998888"},
		{"(+55) 11 99999 8888", "5511999998888"},
		{"(00) 55 11 99999 8888", "5511999998888"},
		{"+005511999998888", "5511999998888"},
		{"+49 (0)30 / 12 34 56", "4930123456"},
		{"0049 ( 0 ) 30 123456", "4930123456"},
		{"(0)30 123456", "030123456"},
		{"+39 (06) 123456", "3906123456"},
		{"030/123456", "030123456"},
		{"8 (916) 123-45-67", "89161234567"},
		{"７９１６１２３４５６７", "79161234567"},
		{"＋７（９１６）１２３－４５－６７", "79161234567"},
		{"٩٦٦٥٠١٢٣٤٥٦٧", "966501234567"},
		{"+۹۸ ۹۱۲ ۳۴۵ ۶۷۸۹", "989123456789"},
		{"९८७६५४३२१०", "9876543210"},
		{"\u202a+55 11 99999‑8888\u202c", "5511999998888"},
		{"+55\u00a011\u202f99999–8888", "5511999998888"},
		{"900", "900"},
		{"00012345", "012345"},
		{"0000123456", "123456"},
		{"12345678901234567890", "12345678901234567890"},

		{"", ""},
		{"   ", ""},
		{"tel:", ""},
		{"12", ""},
		{"0012", ""},
		{"000", ""},
		{"123456789012345678901", ""},
		{"anonymous", ""},
		{"1-800-FLOWERS", ""},
		{"030 123456 ext. 7", ""},
		{"030 123456#7", ""},
		{"55+11999998888", ""},
		{"++5511999998888", ""},
		{"00+5511999998888", ""},
		{"030 123456\n030 123457", ""},
		{"tel:tel:5511999998888", ""},
		{"5511,99999", ""},
		{"5511\xff99999", ""},
		{"5511½99999", ""},
		{strings.Repeat(" ", 300) + "5511999998888", ""},
	} {
		got, ok := seal.Phone(c.number)
		want := seal.Alias{}
		if c.want != "" {
			want = seal.Alias{Kind: "phone", Value: c.want}
		}
		if got != want || ok != (c.want != "") {
			t.Errorf("%q: %q %v, want %q", c.number, got.Value, ok, c.want)
		}
	}
}

func TestPhoneInAddsTheCountryCode(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ code, number, want string }{
		{"55", "11 99999-8888", "5511999998888"},
		{"55", "011 99999-8888", "5511999998888"},
		{"+55", "11 3333-4444", "551133334444"},
		{"0055", "11 3333-4444", "551133334444"},
		{"55", "+55 11 3333-4444", "551133334444"},
		{"55", "0049 30 123456", "4930123456"},
		{"55", "+4930123", "4930123"},
		{"55", "551133334444", "551133334444"},
		{"55", "0123456789012", "0123456789012"},
		{"49", "030 123456", "4930123456"},
		{"49", "(0)30 123456", "4930123456"},
		{"49", "(030) 123456", "4930123456"},
		{"", "030 123456", "030123456"},
		{"1", "(650) 555-1234", "16505551234"},

		{"55", "", ""},
		{"55", "0", ""},
		{"55", "anonymous", ""},
		{"BR", "11 99999-8888", ""},
		{"0", "11 99999-8888", ""},
		{"00", "11 99999-8888", ""},
		{"12345", "11 99999-8888", ""},
		{" ", "11 99999-8888", ""},
	} {
		got, ok := seal.PhoneIn(c.code, c.number)
		if got.Value != c.want || ok != (c.want != "") || ok && got.Kind != "phone" {
			t.Errorf("%q %q: %q %v, want %q", c.code, c.number, got.Value, ok, c.want)
		}
	}
}

// The digits of every script are found by their place in a run of ten.
func TestDigitsOfEveryScriptComeInRunsOfTen(t *testing.T) {
	t.Parallel()
	for _, run := range unicode.Nd.R16 {
		if run.Stride != 1 || (run.Hi-run.Lo+1)%10 != 0 {
			t.Errorf("%#x to %#x", run.Lo, run.Hi)
		}
	}
	for _, run := range unicode.Nd.R32 {
		if run.Stride != 1 || (run.Hi-run.Lo+1)%10 != 0 {
			t.Errorf("%#x to %#x", run.Lo, run.Hi)
		}
	}
}

func FuzzPhone(f *testing.F) {
	for _, s := range []string{"+55 (11) 99999-8888", "tel:+49 (0)30/1", "0000123", "00(0)00123", "+0(0)0123", "٠٠٩٦٦", "x"} {
		f.Add("55", s)
	}
	f.Fuzz(func(t *testing.T, code, number string) {
		got, ok := seal.Phone(number)
		if !ok {
			if got != (seal.Alias{}) {
				t.Fatalf("refused with %q", got.Value)
			}
			if in, ok := seal.PhoneIn(code, number); ok || in != got {
				t.Fatalf("with a country code it is %q", in.Value)
			}
			return
		}
		plain := func(s string, most int) {
			if len(s) < 3 || len(s) > most || strings.Trim(s, "0123456789") != "" {
				t.Fatalf("%q", s)
			}
		}
		plain(got.Value, 20)
		if again, ok := seal.Phone(got.Value); !ok || again != got {
			t.Fatalf("%q, then %q", got.Value, again.Value)
		}
		if in, ok := seal.PhoneIn(code, number); ok {
			plain(in.Value, 20)
			if again, ok := seal.PhoneIn(code, "+"+in.Value); !ok || again != in {
				t.Fatalf("with the country code %q, then %q", in.Value, again.Value)
			}
		}
	})
}
