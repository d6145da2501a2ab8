package collector

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
)

// bodies are requests to begin fuzzing with: those of testdata, and corners.
func bodies(f *testing.F) {
	f.Helper()
	for _, name := range []string{"testdata/events.json", "testdata/invalid.jsonl"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		for line := range bytes.Lines(text) {
			f.Add(line)
		}
	}
	for _, body := range []string{
		``, `[]`, `{}`, `null`, `{"events":[]}`, `{"events":5}`, `[{"id":null,"user_id":"\ud83e\udd8a"}]`, `[[[{}]]]`, `{"a":1,"a":2}`, "\"\xff\"", `{"events":[{}],"x":1}`,
		`{"session_id":"s","category":"c","name":"n","data":{"a":[1e999,-0.0,"\u0000"]},"timestamp":"2021-01-01T00:00:00Z","id":"i","user_id":"u"} `,
	} {
		f.Add([]byte(body))
	}
}

// Whatever the body: DecodeBatch does not panic, takes exactly what is JSON,
// reads the same of it as another parser, and all that it takes can travel and
// be stored.
func FuzzDecodeBatch(f *testing.F) {
	bodies(f)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		b, err := DecodeBatch(body)
		if !bytes.Equal(body, before) {
			t.Fatal("the body was changed")
		}
		var bad *malformed
		valid := jsontext.Value(body).IsValid()
		switch {
		case errors.As(err, &bad):
			if valid {
				t.Fatalf("valid JSON is refused: %v", err)
			}
			if len(bad.Location) > maxLocation+len("…") || !utf8.ValidString(bad.Location) || !utf8.ValidString(bad.Message) {
				t.Fatalf("a reason that cannot be told: %q", bad.Field)
			}
			return
		case err != nil:
			if errs.KindOf(err) != errs.Invalid || len(errs.FieldsOf(err)) == 0 {
				t.Fatalf("an error without place: %v", err)
			}
			return
		case !valid || !json.Valid(body):
			t.Fatal("broken JSON is taken")
		case len(b.Candidates) == 0 || len(b.Candidates) > maxBatch || b.Single && len(b.Candidates) != 1:
			t.Fatalf("%d candidates", len(b.Candidates))
		}
		for i := range b.Candidates {
			c := &b.Candidates[i]
			if !json.Valid(c.Raw) {
				t.Fatalf("candidate %d: %q is no JSON", i, c.Raw)
			}
			if len(c.Errors) == 0 {
				sameFields(t, c)
				c.Errors = c.check(now, time.Minute)
			}
			it := &item{Event: c.Event, EventID: key16("e"), App: "shop", ReceivedAt: now}
			text := it.encode()
			if len(c.Errors) > 0 {
				for _, e := range b.located(i) {
					if e.Message == "" || len(e.Location) > maxLocation+len("…") || !strings.HasPrefix(e.Location, b.Prefix) {
						t.Fatalf("candidate %d: %+v", i, e)
					}
				}
				text = rejectItem(c, "shop", now, reasonShape, b.located(i))
			}
			back, err := decodeItem(text)
			if err != nil {
				t.Fatalf("candidate %d does not travel: %v", i, err)
			}
			if len(c.Errors) == 0 {
				sameItem(t, back, it)
				sealsAndOpens(t, &c.Event)
				continue
			}
			part := refusedPart{Payload: back.Data}
			if err := json.Unmarshal(back.Reject.Errors, &part.Errors); err != nil || len(part.Errors) != len(c.Errors) {
				t.Fatalf("candidate %d: errors %s: %v", i, back.Reject.Errors, err)
			}
			plain, err := json.Marshal(part)
			if err == nil {
				err = json.Unmarshal(plain, &part)
			}
			if err != nil {
				t.Fatalf("candidate %d cannot be kept: %v", i, err)
			}
		}
	})
}

// sameFields holds a candidate without errors against encoding/json.
func sameFields(t *testing.T, c *Candidate) {
	t.Helper()
	var want map[string]json.RawMessage
	if err := json.Unmarshal(c.Raw, &want); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{"session_id": c.SessionID, "category": c.Category, "name": c.Name, "id": c.ID, "user_id": c.UserID} {
		var text string
		if raw := want[name]; raw != nil {
			if err := json.Unmarshal(raw, &text); err != nil {
				t.Fatal(err)
			}
		}
		if text != got {
			t.Fatalf("%s is %q, want %q", name, got, text)
		}
		delete(want, name)
	}
	if !bytes.Equal(bytes.TrimSpace(want["data"]), c.Data) {
		t.Fatalf("data is %q, want %q", c.Data, want["data"])
	}
	var at string
	if err := json.Unmarshal(want["timestamp"], &at); err != nil {
		t.Fatal(err)
	}
	if parsed, err := ParseTimestamp(at); err != nil || !parsed.Equal(c.Timestamp) {
		t.Fatalf("timestamp %q is %s", at, c.Timestamp)
	}
	if len(want) != 2 {
		t.Fatalf("unknown fields are taken: %v", want)
	}
}

func sealsAndOpens(t *testing.T, e *Event) {
	t.Helper()
	plain, err := seal.MarshalPrivate(e)
	if err != nil {
		t.Fatal(err)
	}
	var back Event
	if err := seal.UnmarshalPrivate(plain, &back); err != nil {
		t.Fatal(err)
	}
	if back.ID != e.ID || back.SessionID != e.SessionID || back.UserID != e.UserID || !bytes.Equal(back.Data, e.Data) {
		t.Fatalf("%+v was sealed, %+v opened", e, back)
	}
}

func sameItem(t *testing.T, got, want *item) {
	t.Helper()
	a, b := *got, *want
	if !a.Timestamp.Equal(b.Timestamp) || !a.ReceivedAt.Equal(b.ReceivedAt) || !bytes.Equal(a.Data, b.Data) {
		t.Fatalf("got %+v, want %+v", a, b)
	}
	a.Timestamp, a.ReceivedAt, a.Data = b.Timestamp, b.ReceivedAt, b.Data
	if !reflect.DeepEqual(a, b) {
		t.Fatalf("got %+v, want %+v", a, b)
	}
}

func TestLocationsAreClippedBetweenLetters(t *testing.T) {
	t.Parallel()
	long := clip("body." + strings.Repeat("ä", 300))
	if !utf8.ValidString(long) || len(long) > maxLocation+len("…") || !strings.HasSuffix(long, "ä…") {
		t.Errorf("got %q", long)
	}
	if short := "body.events[3].data.form"; clip(short) != short {
		t.Errorf("got %q", clip(short))
	}
}
