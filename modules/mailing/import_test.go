package mailing

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// taken gives what a source gives: a client's number and tag, or line and
// fault.
func taken(t testing.TB, source importSource) (out []string) {
	t.Helper()
	for last := int64(0); ; {
		l, err := source.next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			return append(out, err.Error())
		}
		if l.Line <= last {
			t.Fatalf("line %d after %d", l.Line, last)
		}
		last = l.Line
		if (l.Client == nil) == (len(l.Faults) == 0) {
			t.Fatalf("line %d is neither good nor bad: %+v", l.Line, l)
		}
		if l.Client != nil {
			out = append(out, fmt.Sprintf("%s %q", l.Client.PhoneNumber, l.Client.Tag))
		}
		for _, f := range l.Faults {
			if f.Line != l.Line {
				t.Fatalf("a fault of line %d in line %d", f.Line, l.Line)
			}
			out = append(out, fmt.Sprintf("%d %s: %s", f.Line, f.Field, f.Message))
		}
	}
}

func TestCSVIsReadAsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	const number = "79160000000"
	long := strings.Repeat("x", maxImportLine)
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"commas":               {"phone_number,tag,timezone\n" + number + ",a,UTC\n", []string{number + ` "a"`}},
		"tabs":                 {"timezone\ttag\tPhone_Number\nUTC\ta;b,c\t" + number, []string{number + ` "a;b,c"`}},
		"semicolons":           {"phone_number;tag;timezone;a\n" + number + ";a,b;UTC;\n", []string{number + ` "a,b"`}},
		"quoted header":        {"\"phone_number\",\"tag\",\"timezone\"\n" + number + ",a,UTC", []string{number + ` "a"`}},
		"blank before header":  {"\n \nphone_number,tag,timezone\n" + number + ",a,UTC", []string{number + ` "a"`}},
		"quotation marks":      {"phone_number,tag,timezone\n" + number + `,"say ""a, b""",UTC`, []string{number + ` "say \"a, b\""`}},
		"spaces":               {"phone_number, tag ,timezone\n " + number + " , a , UTC ", []string{number + ` "a"`}},
		"nothing":              {"phone_number,tag,timezone\n\n\r\n", nil},
		"too few and too many": {"phone_number,tag,timezone\na,b\na,b,c,d", []string{"2 : has 2 fields where the header has 3", "3 : has 4 fields where the header has 3"}},
		"a stray mark":         {"phone_number,tag,timezone\n" + number + ",a\"b,UTC\n" + number + ",a,UTC", []string{"2 : a quotation mark is in the wrong place or missing", number + ` "a"`}},
		"behind a mark":        {"phone_number,tag,timezone\n" + number + ",\"a\"b,UTC\n" + number + ",a,UTC", []string{"2 : a quotation mark is in the wrong place or missing", number + ` "a"`}},
		"open to the end":      {"phone_number,tag,timezone\n" + number + ",\"a,UTC\n" + number + ",a,UTC", []string{"2 : a quotation mark is in the wrong place or missing", number + ` "a"`}},
		"two open":             {"phone_number,tag,timezone\n" + number + ",\"a,UTC\n" + number + ",b,UTC\n" + number + ",\"c,UTC\n" + number + ",d,UTC", []string{"2 : a quotation mark is in the wrong place or missing", number + ` "b"`, "4 : a quotation mark is in the wrong place or missing", number + ` "d"`}},
		"a long line":          {"phone_number,tag,timezone\n" + long + "," + long + "\n" + number + ",a,UTC", []string{"2 : the line is longer than 65536 bytes", number + ` "a"`}},
		"open before a long":   {"phone_number,tag,timezone\n\"" + "\n" + long + "y\n" + number + ",a,UTC", []string{"2 : a quotation mark is in the wrong place or missing", "3 : the line is longer than 65536 bytes", number + ` "a"`}},
		"a lone return":        {"phone_number,tag,timezone\n" + number + ",a\rb,UTC", []string{"2 tag: must not hold control characters"}},
	} {
		for _, in := range []io.Reader{strings.NewReader(c.text), iotest.OneByteReader(strings.NewReader(c.text))} {
			source, err := newCSV(in)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(c.want, taken(t, source)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	}
}

func TestARecordGoesOnForAHundredLines(t *testing.T) {
	t.Parallel()
	record := func(breaks int) string {
		return "phone_number,tag,timezone,note\n79160000000,a,UTC,\"" + strings.Repeat("x\n", breaks) + "\"\n79160000001,b,UTC,"
	}
	source, err := newCSV(strings.NewReader(record(100)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := source.next()
	if err != nil || l.Client == nil || l.Client.Attributes["note"] != strings.Repeat("x\n", 100) {
		t.Errorf("%+v %v", l, err)
	}
	source, err = newCSV(strings.NewReader(record(101)))
	if err != nil {
		t.Fatal(err)
	}
	if got := taken(t, source); len(got) != 103 || got[102] != `79160000001 "b"` {
		t.Errorf("%d lines: %v", len(got), got)
	}
}

func TestWhatCameBeforeABrokenBodyIsGiven(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	source, err := newCSV(io.MultiReader(strings.NewReader("phone_number,tag,timezone\n79160000000,a,UTC\n7916"), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`79160000000 "a"`, "broken"}, taken(t, source)); diff != "" {
		t.Error(diff)
	}
	if got := taken(t, newNDJSON(iotest.ErrReader(broken))); len(got) != 1 || got[0] != "broken" {
		t.Error(got)
	}
}

func TestNumbersOfAttributesStayAsTheyAre(t *testing.T) {
	t.Parallel()
	l, err := newNDJSON(strings.NewReader("\uFEFF" + `{"phone_number":"79160000000","tag":"a","timezone":"UTC","attributes":{"n":123456789012345678901,"x":1.50}}`)).next()
	if err != nil || l.Client == nil {
		t.Fatalf("%+v %v", l, err)
	}
	if diff := cmp.Diff(map[string]any{"n": json.Number("123456789012345678901"), "x": json.Number("1.50")}, l.Client.Attributes); diff != "" {
		t.Error(diff)
	}
}

// reads checks what must hold of any text: it comes to an end, each line is
// told of at most once, and nothing that is stored is invalid.
func reads(t *testing.T, text []byte, source importSource) {
	lines := int64(bytes.Count(text, []byte("\n")) + 1)
	for last := int64(0); ; {
		l, err := source.next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if l.Line <= last || l.Line > lines {
			t.Fatalf("line %d after %d of %d", l.Line, last, lines)
		}
		last = l.Line
		switch {
		case l.Client == nil && len(l.Faults) == 0, l.Client != nil && len(l.Faults) > 0:
			t.Fatalf("%+v", l)
		case l.Client != nil:
			if wrong := l.Client.check(); len(wrong) > 0 {
				t.Fatalf("%+v %v", l.Client, wrong)
			}
		}
	}
}

func FuzzCSV(f *testing.F) {
	for _, text := range []string{"79160000000,a,UTC", "\"79160000000\",\"a\n\",UTC\n,,", "\"\n\"\"\n\"", "\xff,\r\n", `"a""b",c,d`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		text = slices.Concat([]byte("phone_number,tag,timezone\n"), text)
		source, err := newCSV(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		reads(t, text, source)
	})
}

func FuzzCSVHeader(f *testing.F) {
	for _, text := range []string{"phone_number;tag;timezone;x\n1;2;3;4", "\uFEFF\n\n\"tag\"", "\t\t\t", ""} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if source, err := newCSV(bytes.NewReader(text)); err == nil {
			reads(t, text, source)
		}
	})
}

func FuzzNDJSON(f *testing.F) {
	for _, text := range []string{`{"phone_number":"79160000000","tag":"a","timezone":"UTC","attributes":{"a":[1]}}`, "null\n{}\n[]", `{"tag":"\ud800"}`, "\uFEFF{"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) { reads(t, text, newNDJSON(bytes.NewReader(text))) })
}
