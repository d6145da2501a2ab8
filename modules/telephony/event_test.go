package telephony

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"switchboard/platform/errs"
)

func TestAllTypesOfThePlatformAreKnown(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/events/*.json")
	if err != nil || len(files) != 26 || len(kinds) != 26 {
		t.Fatalf("%d files, %d kinds (%v)", len(files), len(kinds), err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		e, err := decodeEvent(body)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if e.Kind == kindOther || e.Type+".json" != filepath.Base(file) {
			t.Errorf("%s is read as %q", file, e.Type)
		}
		var want, got map[string]any
		if json.Unmarshal(body, &want) != nil || json.Unmarshal(e.Raw, &got) != nil || len(want) != len(got) {
			t.Errorf("%s: a field is lost: %s", file, e.Raw)
		}
	}
}

func TestWhatIsNoEventIsRefusedWithTheField(t *testing.T) {
	t.Parallel()
	const ok = `"timestamp":"2017-01-01T00:00:00Z"`
	for name, c := range map[string]struct{ body, field string }{
		"empty":                        {"", "body"},
		"blank":                        {" \n", "body"},
		"no JSON":                      {"hello", "body"},
		"cut off":                      {`{"type":"call.new"`, "body"},
		"two values":                   {`{} {}`, "body"},
		"an array":                     {`[]`, "body"},
		"a text":                       {`"call.new"`, "body"},
		"null":                         {`null`, "body"},
		"no type":                      {`{` + ok + `}`, "body.type"},
		"an empty type":                {`{"type":"",` + ok + `}`, "body.type"},
		"a type that is an object":     {`{"type":{},` + ok + `}`, "body.type"},
		"a type that is too long":      {`{"type":"` + strings.Repeat("x", 129) + `",` + ok + `}`, "body.type"},
		"no timestamp":                 {`{"type":"x"}`, "body.timestamp"},
		"a timestamp that is none":     {`{"type":"x","timestamp":"yesterday"}`, "body.timestamp"},
		"a timestamp that is a number": {`{"type":"x","timestamp":1571099400}`, "body.timestamp"},
		"a timestamp that is null":     {`{"type":"x","timestamp":null}`, "body.timestamp"},
		"a day that is none":           {`{"type":"x","timestamp":"2019-02-30T00:00:00Z"}`, "body.timestamp"},
		"a call without an id":         {`{"type":"call.new",` + ok + `}`, "body.call_id"},
		"an id that is null":           {`{"type":"call.unheard-of","call_id":null,` + ok + `}`, "body.call_id"},
		"an id that is too long":       {`{"type":"call.new","call_id":"` + strings.Repeat("1", 257) + `",` + ok + `}`, "body.call_id"},
		"a name twice":                 {`{"type":"x","type":"y",` + ok + `}`, "body"},
		"a name twice further down":    {`{"type":"x","data":{"a":1,"a":2},` + ok + `}`, "body"},
		"no UTF-8":                     {"{\"type\":\"\xff\"," + ok + `}`, "body"},
		"half a surrogate":             {`{"type":"\ud800",` + ok + `}`, "body"},
		"a number that is too long":    {`{"type":"x","their_number":"` + strings.Repeat("1", 1025) + `",` + ok + `}`, "body.their_number"},
		"depth":                        {strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000), "body"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := decodeEvent([]byte(c.body))
			if errs.KindOf(err) != errs.Invalid {
				t.Fatalf("%v", err)
			}
			if fields := errs.FieldsOf(err); len(fields) == 0 || fields[0].Location != c.field || fields[0].Message == "" {
				t.Errorf("%+v, want %s", fields, c.field)
			}
		})
	}
}

func TestNumbersAreReadAsText(t *testing.T) {
	t.Parallel()
	const body = `{ "call_id" : 1463669263.30038, "type":"call.new", "their_number": 11999990000, "queue":900, "extra":{"b":[1.50]}, "timestamp":"2019-10-15T00:30:00.1234567-03:00"}`
	e, err := decodeEvent([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if e.CallID != "1463669263.30038" || e.TheirNumber != "11999990000" || e.Queue != "900" || !e.At.Equal(time.Date(2019, 10, 15, 3, 30, 0, 123456000, time.UTC)) {
		t.Errorf("%+v", e)
	}
	if want := `{"call_id":1463669263.30038,"type":"call.new","their_number":11999990000,"queue":900,"extra":{"b":[1.50]},"timestamp":"2019-10-15T00:30:00.1234567-03:00"}`; string(e.Raw) != want {
		t.Errorf("kept as %s", e.Raw)
	}
}

func TestOnlyTheSameEventIsADuplicate(t *testing.T) {
	t.Parallel()
	form := func(body string) string {
		e, err := decodeEvent([]byte(body))
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		canonical, err := e.canonical()
		if err != nil {
			t.Fatal(err)
		}
		return string(canonical)
	}
	const first = `{"type":"x","n":12345678901234567890,"s":"A/\u00e9","timestamp":"2017-01-01T00:00:00Z"}`
	for body, same := range map[string]bool{
		`{"timestamp":"2017-01-01T00:00:00Z", "s":"\u0041\/é","n":12345678901234567890,"type":"x"}`: true,
		`{"type":"x","n":12345678901234567891,"s":"A/é","timestamp":"2017-01-01T00:00:00Z"}`:        false,
		`{"type":"x","n":"12345678901234567890","s":"A/é","timestamp":"2017-01-01T00:00:00Z"}`:      false,
		`{"type":"x","n":12345678901234567890,"s":"A/é","timestamp":"2017-01-01T00:00:01Z"}`:        false,
		`{"type":"x","n":12345678901234567890,"timestamp":"2017-01-01T00:00:00Z"}`:                  false,
	} {
		if got := form(body) == form(first); got != same {
			t.Errorf("%s: the same: %v", body, got)
		}
	}
}

func TestTheActorsPartIsTakenOutAndPutBack(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"type":"actor.entered","call_id":"1","actor":"user.name@email.com","number":"200","queue":"900","timestamp":"2017-01-01T00:00:00Z"}`,
		`{"number":200,"actor":"user.name@email.com","type":"x","timestamp":"2017-01-01T00:00:00Z"}`,
		`{"actor":"a\"null","type":"x","timestamp":"2017-01-01T00:00:00Z","number":null}`,
		`{"type":"x","timestamp":"2017-01-01T00:00:00Z","actor":{"a":[1]}}`,
		`{"type":"x","timestamp":"2017-01-01T00:00:00Z"}`,
	} {
		e, err := decodeEvent([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		rest, actor, err := e.split()
		if err != nil || bytes.Contains(rest, []byte("user.name")) || bytes.Contains(rest, []byte("200")) || !json.Valid(rest) {
			t.Errorf("%s: without the actor %s (%v)", body, rest, err)
		}
		if whole, err := join(rest, actor); err != nil || string(whole) != body {
			t.Errorf("%s: put together %s (%v)", body, whole, err)
		}
	}
	for _, damaged := range []string{`x`, `[{"at":9,"value":1}]`, `[{"at":-1,"value":1}]`, `[{"at":4,"value":1},{"at":0,"value":1}]`} {
		if _, err := join([]byte(`{"a":null}`), []byte(damaged)); err == nil {
			t.Errorf("%s is taken", damaged)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	files, _ := filepath.Glob("testdata/events/*.json")
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"type":"x","actor":1,"actor":2,"timestamp":"2017-01-01 00:00:00"}`))
	f.Add([]byte(`{"number":[],"type":"call.x","call_id":1e5,"timestamp":"2017-01-01T00:00:00+23:59"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := decodeEvent(body)
		if err != nil {
			if errs.KindOf(err) != errs.Invalid || len(errs.FieldsOf(err)) == 0 {
				t.Fatalf("%v", err)
			}
			return
		}
		if e.Type == "" || e.At.IsZero() || strings.HasPrefix(e.Type, "call.") && e.CallID == "" || !json.Valid(e.Raw) {
			t.Fatalf("%+v", e)
		}
		again, err := decodeEvent(e.Raw)
		if err != nil || !bytes.Equal(again.Raw, e.Raw) {
			t.Fatalf("read again: %s (%v)", e.Raw, err)
		}
		if _, err := e.canonical(); err != nil {
			t.Fatal(err)
		}
		rest, actor, err := e.split()
		if err != nil {
			t.Fatal(err)
		}
		if whole, err := join(rest, actor); err != nil || !bytes.Equal(whole, e.Raw) {
			t.Fatalf("put together %s (%v)", whole, err)
		}
	})
}
