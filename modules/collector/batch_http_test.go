package collector_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// zipped compresses a body.
func zipped(t testing.TB, body []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// event1 is an event as text in which NAME=value pairs replace fields; the
// values are JSON.
func eventText(pairs ...string) string {
	values := map[string]string{
		"session_id": `"s-1"`, "category": `"page interaction"`, "name": `"pageview"`,
		"data": `{"path":"/"}`, "timestamp": `"2021-01-01 09:15:27.243860"`,
	}
	order := []string{"session_id", "category", "name", "data", "timestamp"}
	for i := 0; i < len(pairs); i += 2 {
		if !slices.Contains(order, pairs[i]) {
			order = append(order, pairs[i])
		}
		values[pairs[i]] = pairs[i+1]
	}
	var parts []string
	for _, name := range order {
		parts = append(parts, fmt.Sprintf("%q:%s", name, values[name]))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// nested is an object of n levels.
func nested(n int) string {
	return `{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`
}

// A request that cannot be accepted as a whole is refused with the place and
// the reason; of a syntax error nothing is kept, of a refused event its reject.
func TestBadBodiesAreRefusedWithPlaceAndReason(t *testing.T) {
	t.Parallel()
	p := start(t, apptest.Env("APP_WEB_MAX_INFLATED=16MiB"))
	many := func(n int) string { return strings.TrimSuffix(strings.Repeat(eventText()+",", n), ",") }
	long := strings.Repeat("x", 257)
	broken := zipped(t, []byte(eventText()))
	rejects := 0
	for _, c := range []struct {
		name, body string
		status     int
		at, reason string
	}{
		{"nothing", "", 400, "body", "it is empty"},
		{"blanks", " \r\n\t", 400, "body", "it is empty"},
		{"words", "hello", 400, "body", "line 1, column 1"},
		{"half an object", `{"session_id":"s-1"`, 400, "body", "ends too early"},
		{"half a string", `{"session_id":"s-1`, 400, "body.session_id", "ends too early"},
		{"half a list", `[` + eventText(), 400, "body", "ends too early"},
		{"a missing comma", "[\n{\"a\":1}\n{}]", 400, "body", "line 3, column 1"},
		{"a missing value", `{"name":}`, 400, "body.name", "column 9"},
		{"a bracket of the other kind", `{"name":"x"]`, 400, "body", "column 12"},
		{"two values", eventText() + eventText(), 400, "body", "after the first value"},
		{"something behind", eventText() + " x", 400, "body", ""},
		{"a byte order mark", "\ufeff" + eventText(), 400, "body", "column 1"},
		{"single quotes", `{'name':'x'}`, 400, "body", "column 2"},
		{"a comment", `{/* x */}`, 400, "body", "column 2"},
		{"NaN", eventText("data", `{"a":NaN}`), 400, "body.data.a", ""},
		{"infinity", eventText("data", `{"a":[-Infinity]}`), 400, "body.data.a[0]", ""},
		{"a leading zero", eventText("data", `{"a":007}`), 400, "body.data", ""},
		{"hexadecimal", eventText("data", `{"a":0x7}`), 400, "body.data", ""},
		{"broken UTF-8", eventText("session_id", "\"\xff\""), 400, "body.session_id", "not UTF-8"},
		{"broken UTF-8 in data", eventText("data", "{\"a\":\"\xc3\x28\"}"), 400, "body.data.a", "not UTF-8"},
		{"UTF-16", "{\x00\"\x00}\x00", 400, "body", ""},
		{"half a surrogate pair", eventText("user_id", `"\ud83e"`), 400, "body.user_id", ""},
		{"half a surrogate pair in data", eventText("data", `{"a":"\udd8a x"}`), 400, "body.data.a", ""},
		{"a bare control character in a string", eventText("name", "\"a\nb\""), 400, "body.name", ""},
		{"a bare zero byte in a string", eventText("data", "{\"a\":\"\x00\"}"), 400, "body.data.a", ""},
		{"a name twice", eventText("name", `"a","name":"b"`), 400, "body.name", "stands twice"},
		{"a name twice in data", eventText("data", `{"a":1,"b":{"c":1,"c":2}}`), 400, "body.data.b.c", "stands twice"},
		{"a name twice, once escaped", eventText("data", `{"a":1,"\u0061":2}`), 400, "body.data.a", "stands twice"},
		{"a name twice in a list", `[` + eventText() + `,` + eventText("data", `{"a/b":1,"a/b":2}`) + `]`, 400, "body[1].data.a/b", "stands twice"},
		{"events twice", `{"events":[` + eventText() + `],"events":[]}`, 400, "body.events", "stands twice"},
		{"20,000 levels", eventText("data", nested(20_000)), 400, "body.data.a" + strings.Repeat("[0]", 96) + "[…", "nested too deeply"},
		{"20,000 levels of lists", strings.Repeat("[", 20_000), 400, "body" + strings.Repeat("[0]", 98) + "[0…", "nested too deeply"},

		{"a number", `5`, 422, "body", "want an event"},
		{"a string", `"event"`, 422, "body", "want an event"},
		{"null", `null`, 422, "body", "want an event"},
		{"true", ` true `, 422, "body", "want an event"},
		{"no events", `[]`, 422, "body", "no events"},
		{"an object without events", `{"events":[]}`, 422, "body.events", "no events"},
		{"1,001 events", `[` + many(1001) + `]`, 422, "body", "more than 1000"},
		{"an object of 1,001 events", `{"events":[` + many(1001) + `]}`, 422, "body.events", "more than 1000"},
		{"a field beside events", `{"events":[` + eventText() + `],"source":"web"}`, 422, "body.source", "unknown beside events"},
		{"an event's field beside events", `{"name":"x","events":[` + eventText() + `]}`, 422, "body.name", "unknown beside events"},

		{"an empty object", `{}`, 422, "body.session_id body.category body.name body.data body.timestamp", "is missing"},
		{"events that are no list", `{"events":5}`, 422, "body.events body.session_id body.category body.name body.data body.timestamp", "is unknown"},
		{"null in the place of texts", eventText("session_id", "null", "category", "null", "name", "null"), 422, "body.session_id body.category body.name", "is null: want a string"},
		{"numbers in the place of texts", eventText("session_id", "1", "category", "2", "name", "3", "timestamp", "1609459200", "id", "4", "user_id", "5"), 422,
			"body.session_id body.category body.name body.timestamp body.id body.user_id", "is a number: want a string"},
		{"lists and booleans in the place of texts", eventText("name", "[]", "category", "true", "session_id", "{}"), 422, "body.session_id body.category body.name", "want a string"},
		{"data that is null", eventText("data", "null"), 422, "body.data", "is null: want an object"},
		{"data that is a list", eventText("data", "[{}]"), 422, "body.data", "is an array: want an object"},
		{"data that is a number", eventText("data", "-1e5"), 422, "body.data", "is a number: want an object"},
		{"data that is true", eventText("data", "true"), 422, "body.data", "is a boolean: want an object"},
		{"empty texts", eventText("session_id", `""`, "category", `""`, "name", `""`), 422, "body.session_id body.category body.name", "1 to 256 characters"},
		{"long texts", eventText("session_id", `"`+long+`"`, "category", `"`+long+`"`, "name", `"`+long+`"`, "id", `"`+long+`"`, "user_id", `"`+long+`"`), 422,
			"body.session_id body.category body.name body.id body.user_id", "too long"},
		{"a long text of wide letters", eventText("session_id", `"`+strings.Repeat("ä", 257)+`"`), 422, "body.session_id", "too long"},
		{"a zero character", eventText("session_id", `"a\u0000b"`), 422, "body.session_id", "control character"},
		{"a line feed", eventText("name", `"a\nb"`), 422, "body.name", "control character"},
		{"a C1 control", eventText("category", `"a\u0085b"`), 422, "body.category", "control character"},
		{"a delete", eventText("user_id", `"\u007f"`), 422, "body.user_id", "control character"},
		{"an empty timestamp", eventText("timestamp", `""`), 422, "body.timestamp", "not a timestamp"},
		{"the 30th of February", eventText("timestamp", `"2021-02-30 00:00:00"`), 422, "body.timestamp", "not a timestamp"},
		{"the year 0", eventText("timestamp", `"0000-01-01 00:00:00"`), 422, "body.timestamp", "before 1970"},
		{"the year 1969", eventText("timestamp", `"1969-12-31T23:59:59.999999Z"`), 422, "body.timestamp", "before 1970"},
		{"the year 9999", eventText("timestamp", `"9999-12-31 23:59:59.999999"`), 422, "body.timestamp", "in the future"},
		{"the year 9999, beyond it in UTC", eventText("timestamp", `"9999-12-31T23:59:59-23:59"`), 422, "body.timestamp", "in the future"},
		{"65 levels", eventText("data", nested(65)), 422, "body.data", "deeper than 64"},
		{"9,000 levels", eventText("data", nested(9000)), 422, "body.data", "deeper than 64"},
		{"as many levels as can be read", eventText("data", nested(9998)), 422, "body.data", "deeper than 64"},
		{"unknown fields", eventText("extra", "1", "Name", `"x"`), 422, "body.extra body.Name", "is unknown"},
	} {
		got := refused(t, p, p.Request(p.Key, http.MethodPost, "/collector/events", c.body))
		if got.Status != c.status || locations(got.Errors) != c.at {
			t.Errorf("%s: %d at %q, want %d at %q (%s %v)", c.name, got.Status, locations(got.Errors), c.status, c.at, got.Detail, got.Errors)
			continue
		}
		if text := fmt.Sprint(got.Detail, got.Errors); !strings.Contains(text, c.reason) {
			t.Errorf("%s: %s does not say %q", c.name, text, c.reason)
		}
		if got.Status == 422 && got.Detail == "no event is acceptable" {
			rejects++
		}
	}
	for _, c := range []struct {
		name, coding string
		body         []byte
		status       int
	}{
		{"9 MiB", "", bytes.Repeat([]byte(" "), 9<<20), 413},
		{"a bomb", "gzip", zipped(t, make([]byte, 17<<20)), 413},
		{"a bomb within a string", "gzip", zipped(t, []byte(eventText("data", `{"a":"`+strings.Repeat("x", 17<<20)+`"}`))), 413},
		{"gzip that is none", "gzip", []byte(eventText()), 400},
		{"gzip that is cut", "gzip", broken[:len(broken)-6], 400},
		{"gzip with another checksum", "gzip", append(slices.Clone(broken[:len(broken)-8]), 1, 2, 3, 4, 5, 6, 7, 8), 400},
		{"gzip of nothing", "gzip", zipped(t, nil), 400},
		{"another coding", "br", []byte("x"), 415},
	} {
		req := p.Request(p.Key, http.MethodPost, "/collector/events", c.body)
		if c.coding != "" {
			req.Header.Set("Content-Encoding", c.coding)
		}
		if got := refused(t, p, req); got.Status != c.status {
			t.Errorf("%s: %d, want %d (%s)", c.name, got.Status, c.status, got.Detail)
		}
	}
	// What was refused for itself can be read, and nothing else is there.
	kept(t, p, rejects)
	post(t, p, eventText("id", `"last"`))
	if got := stored(t, p, 1); got[0].ID != "last" {
		t.Errorf("%+v was stored", got[0])
	}
}

// What looks odd and is not wrong comes back as it went in.
func TestUnusualEventsPassThroughUntouched(t *testing.T) {
	t.Parallel()
	p := start(t)
	for i, pairs := range [][]string{
		{"data", `{"n":1e999,"m":-0.0,"big":123456789012345678901234567890.123456789012345678901234567890}`},
		{"data", `{"z":"\u0000\n\u007f","a":"<b>&amp;\u2028","esc":"\/\"\\"}`},
		{"data", `{"":{"":[]},"é":"🦊","\ud83e\udd8a":null}`},
		{"data", `{ "a" : [ 1 , { } ] }`},
		{"data", nested(64)},
		{"data", `{"a":"` + strings.Repeat("[{", 200) + `"}`},
		{"session_id", `"` + strings.Repeat("ä", 256) + `"`},
		{"session_id", `" s "`, "category", `"<script>"`, "name", `"🦊"`, "user_id", `"o'Brien"`},
		{"id", `null`, "user_id", `null`},
		{"id", `""`, "user_id", `""`},
		{"timestamp", `"1970-01-01 00:00:00"`},
		{"data", `{"a":"` + strings.Repeat("x", 7<<20) + `"}`},
	} {
		at := fmt.Sprintf("2021-01-01T00:00:%02d.000000Z", i)
		want := eventText(append([]string{"timestamp", `"` + at + `"`}, pairs...)...)
		post(t, p, want)
		if pairs[0] == "timestamp" {
			at = "1970-01-01 00:00:00"
		}
		got := stored(t, p, 1, "from", at, "to", at)
		var sent event
		if err := json.Unmarshal([]byte(want), &sent); err != nil {
			t.Fatal(err)
		}
		e := got[0]
		if e.SessionID != sent.SessionID || e.Category != sent.Category || e.Name != sent.Name || e.UserID != sent.UserID {
			t.Errorf("%.80s came back as %+v", want, e)
		}
		var wantData, gotData bytes.Buffer
		if err := json.Compact(&wantData, sent.Data); err != nil {
			t.Fatal(err)
		}
		if err := json.Compact(&gotData, e.Data); err != nil {
			t.Fatal(err)
		}
		if plain(wantData.String()) != plain(gotData.String()) {
			t.Errorf("data %.120s came back as %.120s", wantData.String(), gotData.String())
		}
	}
}

// plain undoes the escapes that JSON may or may not use.
func plain(s string) string {
	return strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&", `\/`, "/", `\u2028`, "\u2028").Replace(s)
}

// One bad event never spoils its batch: the others are stored, and the answer
// says which it was and why.
func TestOneBadEventNeverSpoilsItsBatch(t *testing.T) {
	t.Parallel()
	p := start(t)
	if status := p.Call(http.MethodPut, "/collector/schemas/measured/number", `{"properties":{"n":{"minimum":0,"multipleOf":0.5}},"uniqueItems":true}`, nil); status != http.StatusCreated {
		t.Fatalf("put schema: %d", status)
	}
	hostile := strings.Repeat("<", 3<<20)
	for _, c := range []struct{ name, bad, at string }{
		{"no object", `5`, "body[1]"},
		{"null", `null`, "body[1]"},
		{"a list of good events", `[` + eventText() + `]`, "body[1]"},
		{"an envelope of good events", `{"events":[` + eventText() + `]}`, "body[1].events body[1].session_id body[1].category body[1].name body[1].data body[1].timestamp"},
		{"an empty object", `{}`, "body[1].session_id body[1].category body[1].name body[1].data body[1].timestamp"},
		{"a bad time", eventText("timestamp", `"soon"`), "body[1].timestamp"},
		{"deep data", eventText("data", nested(5000)), "body[1].data"},
		{"a list as deep as can be read", strings.Repeat("[", 9999) + strings.Repeat("]", 9999), "body[1]"},
		{"an object as deep as can be read", eventText("data", nested(9998)), "body[1].data"},
		{"a number that no schema can be held against", eventText("category", `"measured"`, "name", `"number"`, "data", `{"n":1e1000001}`), "body[1].data.n"},
		{"a very small number", eventText("category", `"measured"`, "name", `"number"`, "data", `{"n":[{"m":1e-99999999999999}]}`), "body[1].data.n[0].m"},
		{"a number that is long to reckon with", eventText("category", `"measured"`, "name", `"number"`, "data", `{"n":1e999999}`), "body[1].data.n"},
	} {
		got := post(t, p, `[`+eventText()+`,`+c.bad+`,`+eventText()+`]`)
		if got.Accepted != 2 || len(got.Rejected) != 1 || got.Rejected[0].Index != 1 || locations(got.Rejected[0].Errors) != c.at {
			t.Errorf("%s: %+v, want a reject at %q", c.name, got, c.at)
		}
	}
	// Names and texts of any length must not make the answer, or what travels on
	// the bus, larger than it can be.
	for name, bad := range map[string]string{
		"a long unknown name":              `{"` + hostile + `":1}`,
		"a long unknown name in data":      eventText("category", `"measured"`, "name", `"strict"`, "data", `{"`+hostile+`":{"a":1}}`),
		"a long value":                     eventText("timestamp", `"`+hostile+`"`),
		"a hundred thousand unknown names": `{` + strings.TrimSuffix(strings.Repeat(`"%":1,`, 0), ",") + unknown(100_000) + `}`,
		"more than the bus carries":        eventText("data", `{"a":"`+strings.Repeat("x", 20<<20)+`"}`),
	} {
		if name == "a long unknown name in data" {
			p.Call(http.MethodPut, "/collector/schemas/measured/strict", `{"additionalProperties":{"type":"string"}}`, nil)
		}
		req := p.Request(p.Key, http.MethodPost, "/collector/events", zipped(t, []byte(`{"events":[`+eventText()+`,`+bad+`,`+eventText()+`]}`)))
		req.Header.Set("Content-Encoding", "gzip")
		resp, body := p.Exchange(req)
		var got receipt
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusAccepted || got.Accepted != 2 || len(got.Rejected) != 1 || got.Rejected[0].Index != 1 {
			t.Errorf("%s: %s %.200s", name, resp.Status, body)
		}
		if len(body) > 100<<10 {
			t.Errorf("%s: an answer of %d bytes", name, len(body))
		}
	}
	stored(t, p, 2*17)
	kept(t, p, 17)
}

// unknown writes n fields that no event has.
func unknown(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"f%d":1`, i)
	}
	return b.String()[1:]
}

func TestReceiptSaysWhatBecameOfEachEvent(t *testing.T) {
	t.Parallel()
	p := start(t)
	var batch []string
	wantIDs, wantRejected := []string{}, []int{}
	for i := range 20 {
		switch {
		case i%3 == 0:
			batch = append(batch, eventText("id", `""`, "session_id", fmt.Sprint(i)))
			wantRejected = append(wantRejected, i)
		default:
			id := fmt.Sprint("e-", i)
			batch = append(batch, eventText("id", `"`+id+`"`))
			wantIDs = append(wantIDs, id)
		}
	}
	got := post(t, p, fields{"events": raw(batch)})
	if !slices.Equal(got.IDs, wantIDs) || got.Accepted != len(wantIDs) {
		t.Errorf("ids %v, want %v", got.IDs, wantIDs)
	}
	var indexes []int
	for _, r := range got.Rejected {
		indexes = append(indexes, r.Index)
		if want := fmt.Sprintf("body.events[%d].session_id", r.Index); locations(r.Errors) != want {
			t.Errorf("event %d: %q, want %q", r.Index, locations(r.Errors), want)
		}
	}
	if !slices.Equal(indexes, wantRejected) {
		t.Errorf("rejected %v, want %v", indexes, wantRejected)
	}
	stored(t, p, len(wantIDs))
	kept(t, p, len(wantRejected))

	// With nothing refused the list is empty, not null.
	_, body := p.Exchange(p.Request(p.Key, http.MethodPost, "/collector/events", eventText("id", `"one"`)))
	if string(bytes.TrimSpace(body)) != `{"accepted":1,"rejected":[],"ids":["one"]}` {
		t.Errorf("got %s", body)
	}
}

func raw(texts []string) (out []json.RawMessage) {
	for _, t := range texts {
		out = append(out, json.RawMessage(t))
	}
	return out
}

func TestFullBatchKeepsItsOrderOverManyFrames(t *testing.T) {
	t.Parallel()
	p := start(t)
	var batch []string
	filler := strings.Repeat("x", 2000) // 2 MB in all: more than one message of the bus holds
	for i := range 1000 {
		batch = append(batch, eventText("name", fmt.Sprintf(`"n%d"`, i%7), "data", `{"a":"`+filler+`"}`))
	}
	req := p.Request(p.Key, http.MethodPost, "/collector/events", zipped(t, []byte("["+strings.Join(batch, ",")+"]")))
	req.Header.Set("Content-Encoding", "gzip")
	resp, body := p.Exchange(req)
	var got receipt
	if err := json.Unmarshal(body, &got); err != nil || resp.StatusCode != http.StatusAccepted || got.Accepted != 1000 || len(got.IDs) != 1000 {
		t.Fatalf("%s %v %.200s", resp.Status, err, body)
	}
	// All at one time: the order is that of the batch.
	for i, e := range stored(t, p, 1000) {
		if e.ID != got.IDs[i] {
			t.Fatalf("place %d holds %s, want %s", i, e.ID, got.IDs[i])
		}
	}
}

func TestOnlyKeysWithTheScopeMayWriteAndRead(t *testing.T) {
	t.Parallel()
	now := newClock()
	p := start(t, apptest.Now(now.now))
	writer := p.NewKey(fields{"app": "shop", "scopes": []string{"collector:write"}})
	reader := p.NewKey(fields{"app": "desk", "scopes": []string{"collector:read"}})
	short := p.NewKey(fields{"app": "shop", "scopes": []string{"collector:write"}, "expires_in": "1h"})
	var revoked struct{ ID, Key string }
	if status := p.Call(http.MethodPost, "/admin/keys", fields{"name": "old", "scopes": []string{"collector:write"}}, &revoked); status != http.StatusCreated {
		t.Fatalf("make a key: %d", status)
	}
	postAs(t, p, short, pageview("s-1"))
	postAs(t, p, revoked.Key, pageview("s-1"))
	if status := p.Call(http.MethodDelete, "/admin/keys/"+revoked.ID, nil, nil); status != http.StatusNoContent {
		t.Fatalf("revoke: %d", status)
	}
	now.advance(2 * time.Hour)
	for _, c := range []struct {
		name, key, method, path string
		status                  int
	}{
		{"no key", "", "POST", "/collector/events", 401},
		{"a wrong key", "sb_nobody_0123456789", "POST", "/collector/events", 401},
		{"a key with another secret", writer[:len(writer)-4] + "0000", "POST", "/collector/events", 401},
		{"an expired key", short, "POST", "/collector/events", 401},
		{"a revoked key", revoked.Key, "POST", "/collector/events", 401},
		{"a key to read", reader, "POST", "/collector/events", 403},
		{"a key to read", reader, "PUT", "/collector/schemas/a/b", 403},
		{"a key to read", reader, "DELETE", "/collector/schemas/a/b", 403},
		{"a key to read", reader, "POST", "/collector/rejects/00000000-0000-0000-0000-000000000000/retry", 403},
		{"a key to write", writer, "GET", "/collector/events", 403},
		{"a key to write", writer, "POST", "/collector/events/search", 403},
		{"a key to write", writer, "GET", "/collector/sessions", 403},
		{"a key to write", writer, "GET", "/collector/sessions/s-1", 403},
		{"a key to write", writer, "GET", "/collector/rejects", 403},
		{"a key to write", writer, "GET", "/collector/schemas", 403},
		{"a key to write", writer, "GET", "/collector/stats", 403},
		{"a key to write", writer, "GET", "/collector/live", 403},
		{"no key", "", "GET", "/collector/live", 401},
	} {
		var body any
		if c.method != "GET" {
			body = pageview("s-2")
		}
		req := p.Request(c.key, c.method, c.path, body)
		resp, text := p.Exchange(req)
		if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s %s: %s %s, want %d", c.name, c.method, c.path, resp.Status, text, c.status)
		}
		if c.status == 401 && resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", c.name)
		}
		if c.status == 403 && !strings.Contains(string(text), "collector:") {
			t.Errorf("%s: %s %s: %s does not name the scope", c.name, c.method, c.path, text)
		}
	}
	postAs(t, p, writer, pageview("s-1"))
	if status := p.CallAs(reader, http.MethodGet, "/collector/events", nil, nil); status != http.StatusOK {
		t.Errorf("a key to read: %d", status)
	}
	stored(t, p, 3, "session_id", "s-1")
	stored(t, p, 0, "session_id", "s-2")
}
