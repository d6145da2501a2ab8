package mailing

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchboard/platform/errs"
)

func TestFiltersAreReadAndWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:                        `{}`,
		` null `:                  `{}`,
		`{}`:                      `{}`,
		`{"tag":null}`:            `{}`,
		`{"tag":[]}`:              `{}`,
		`{"tag":"vip"}`:           `{"tag":["vip"]}`,
		`{"operator_code":"916"}`: `{"operator_code":["916"]}`,
		`{"tag":["b","a","b"]}`:   `{"tag":["a","b"]}`,
		`{"tag":["<\"ü\">"]}`:     `{"tag":["\u003c\"ü\"\u003e"]}`,
		"{\"tag\" : \t\"a\"\n}":   `{"tag":["a"]}`,
		`{"operator_code":["926","916"],"tag":["vip"]}`: `{"operator_code":["916","926"],"tag":["vip"]}`,
	} {
		f, err := parseFilter(json.RawMessage(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		written, err := json.Marshal(f)
		if err != nil || string(written) != want {
			t.Errorf("%s: %s (%v), want %s", text, written, err, want)
		}
		var again filter
		if err := json.Unmarshal(written, &again); err != nil || !again.equal(f) {
			t.Errorf("%s: %+v (%v)", written, again, err)
		}
	}
}

func TestFiltersThatCannotBe(t *testing.T) {
	t.Parallel()
	many := `["` + strings.Repeat(`a","`, 100) + `a"]`
	for text, want := range map[string]string{
		`[]`:                                     "body.filter",
		`"vip"`:                                  "body.filter",
		`{`:                                      "body.filter",
		`{"x":1}`:                                "body.filter",
		`{"Tag":"a"}`:                            "body.filter",
		`{"tag":""}`:                             "body.filter.tag",
		`{"tag":1}`:                              "body.filter.tag",
		`{"tag":[null]}`:                         "body.filter.tag",
		`{"tag":[["a"]]}`:                        "body.filter.tag",
		`{"tag":` + many + `}`:                   "body.filter.tag",
		`{"operator_code":"91"}`:                 "body.filter.operator_code",
		`{"operator_code":916}`:                  "body.filter.operator_code",
		`{"tag":{},"operator_code":["a"],"y":0}`: "body.filter body.filter.operator_code body.filter.tag",
	} {
		_, err := parseFilter(json.RawMessage(text))
		var at []string
		for _, f := range errs.FieldsOf(err) {
			at = append(at, f.Location)
		}
		if errs.KindOf(err) != errs.Invalid || strings.Join(at, " ") != want {
			t.Errorf("%s: %v %s, want %s", text, err, at, want)
		}
	}
}

func TestAFilterPicksByBothOfItsMembers(t *testing.T) {
	t.Parallel()
	clients := []*client{{ID: 1, OperatorCode: "916", Tag: "a"}, {ID: 2, OperatorCode: "926", Tag: "a"}, {ID: 3, OperatorCode: "916", Tag: "b"}}
	for text, want := range map[string]string{
		`{}`: "[1 2 3]", `{"tag":"a"}`: "[1 2]", `{"operator_code":"916"}`: "[1 3]", `{"operator_code":"916","tag":"a"}`: "[1]",
		`{"operator_code":["916","926"],"tag":["a","b"]}`: "[1 2 3]", `{"tag":"c"}`: "[]", `{"operator_code":"926","tag":"b"}`: "[]",
	} {
		f, err := parseFilter(json.RawMessage(text))
		if err != nil {
			t.Fatal(err)
		}
		got := []int64{}
		for _, c := range clients {
			if f.matches(c) {
				got = append(got, c.ID)
			}
		}
		if diff := cmp.Diff(want, fmt.Sprint(got)); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, text := range []string{``, `{"tag":"a"}`, `{"operator_code":["916",null]}`, `{"tag":["\ud800"]}`, `{"tag":"a","tag":["b"]}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parseFilter(text)
		if err != nil {
			if errs.KindOf(err) != errs.Invalid || len(errs.FieldsOf(err)) == 0 {
				t.Fatal(err)
			}
			return
		}
		if len(got.Tag) > maxFilterValues || len(got.OperatorCode) > maxFilterValues {
			t.Fatal("too many values")
		}
		written, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseFilter(written)
		if err != nil || !again.equal(got) {
			t.Fatalf("%s: %v %v", written, again, err)
		}
	})
}
