package mock

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzDecode compares the reader of bodies with encoding/json.
func FuzzDecode(f *testing.F) {
	for _, body := range []string{aUser, aTrip, strings.ToLower(aTrip), `{}`, `{"Id":"\u0000\ud83d\ude80","x":[{"a":"}"}],"Id":null}`, `{"\u0049d":"x" , "price":-1e-9}`,
		`{"LastTripDate":"2023-04-25T12:56:15\u002e5Z"}`, `[]`, `nul`, "{\"Id\":\"\xff\"}", `{"Id":"\ud800"}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		for i := range resources {
			r := &resources[i]
			id, v, detail, at := r.decode(body)
			if !bytes.Equal(body, before) {
				t.Fatal("the body was changed")
			}
			last, isObject := lastValues(r, body)
			if (detail == "") != (len(at) == 0) || !isObject && (detail == "" || at[0].Location != "body") {
				t.Fatalf("%q: %q %v", body, detail, at)
			}
			if !isObject {
				continue
			}
			// Every field is at fault if and only if its last value is.
			faulty := map[string]bool{}
			for _, w := range at {
				faulty[w.Location] = true
			}
			for j, field := range r.fields {
				value, came := last[field.name]
				want := j > 0 && !field.nullable
				if came && string(value) != "null" {
					switch value[0] {
					case '"':
						var s string
						_ = json.Unmarshal(value, &s)
						want = field.form == number || field.form == date && !isDate([]byte(s)) || j == 0 && s == "" || !paired(value)
					case '{', '[', 't', 'f':
						want = true
					default:
						var n float64
						want = field.form != number || json.Unmarshal(value, &n) != nil
					}
				}
				if faulty["body."+field.name] != want {
					t.Fatalf("%q: %s is at fault: %t: %v", body, field.name, !want, at)
				}
			}
			if detail != "" {
				continue
			}
			if id == "" {
				id = "made"
			}
			state := r.render(id, &v)
			id2, v2, detail, _ := r.decode(state)
			if again := r.render(id2, &v2); detail != "" || !bytes.Equal(again, state) || !utf8.Valid(state) {
				t.Fatalf("%q became %s, then %s: %s", body, state, again, detail)
			}
			sameValues(t, r, last, state)
		}
	})
}

// lastValues reads an object with encoding/json: the last value by field.
func lastValues(r *resource, body []byte) (map[string]json.RawMessage, bool) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if brace, err := dec.Token(); err != nil || brace != json.Delim('{') {
		return nil, false
	}
	last := map[string]json.RawMessage{}
	for dec.More() {
		name, _ := dec.Token()
		var value json.RawMessage
		_ = dec.Decode(&value) // it is valid
		for _, field := range r.fields {
			if strings.EqualFold(name.(string), field.name) && len(name.(string)) == len(field.name) {
				last[field.name] = value
			}
		}
	}
	return last, true
}

// sameValues compares a state with what was posted.
func sameValues(t *testing.T, r *resource, posted map[string]json.RawMessage, state []byte) {
	var kept map[string]json.RawMessage
	if err := json.Unmarshal(state, &kept); err != nil || len(kept) != len(r.fields) {
		t.Fatalf("%s: %v", state, err)
	}
	for _, field := range r.fields[1:] {
		var in, out any
		if value := posted[field.name]; value != nil {
			_ = json.Unmarshal(value, &in)
		}
		if _ = json.Unmarshal(kept[field.name], &out); in != out {
			t.Fatalf("%s: %v became %v", field.name, in, out)
		}
	}
}
