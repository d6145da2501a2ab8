package collector_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"switchboard/platform/apptest"
)

// schema is a version of a schema as it is given back.
type schema struct {
	Category  string `json:"category"`
	Name      string `json:"name"`
	Version   int    `json:"version"`
	Schema    any    `json:"schema"`
	Deleted   bool   `json:"deleted"`
	CreatedAt string `json:"created_at"`
}

func TestSchemaIsVersionedAndItsHistoryKept(t *testing.T) {
	t.Parallel()
	p := start(t)
	const path = "/collector/schemas/page%20interaction/cta%2Fclick"
	put := func(body string) (schema, int) {
		var s schema
		status := p.Call(http.MethodPut, path, body, &s)
		return s, status
	}
	expect := func(step, body string, version, status int) {
		t.Helper()
		s, got := put(body)
		if got != status || s.Version != version || s.Category != "page interaction" || s.Name != "cta/click" || s.Deleted || s.CreatedAt == "" {
			t.Errorf("%s: %d %+v, want %d with version %d", step, got, s, status, version)
		}
	}
	if status := p.Call(http.MethodGet, path, nil, nil); status != http.StatusNotFound {
		t.Errorf("before: %d", status)
	}
	if status := p.Call(http.MethodDelete, path, nil, nil); status != http.StatusNotFound {
		t.Errorf("delete before: %d", status)
	}
	expect("the first", `{"type":"object"}`, 1, http.StatusCreated)
	expect("the same again", `{"type":"object"}`, 1, http.StatusOK)
	expect("another", `{"type":"object","required":["a"]}`, 2, http.StatusOK)
	if status := p.Call(http.MethodDelete, path, nil, nil); status != http.StatusNoContent {
		t.Errorf("delete: %d", status)
	}
	if status := p.Call(http.MethodDelete, path, nil, nil); status != http.StatusNotFound {
		t.Errorf("delete again: %d", status)
	}
	if status := p.Call(http.MethodGet, path, nil, nil); status != http.StatusNotFound {
		t.Errorf("after: %d", status)
	}
	if got := list[schema](t, p, "/collector/schemas"); len(got.Items) != 0 {
		t.Errorf("a deleted schema is listed: %+v", got.Items)
	}
	expect("anew", `true`, 4, http.StatusCreated)

	history := walk[schema](t, p, path+"/versions?limit=1")
	var seen []string
	for _, v := range history {
		seen = append(seen, fmt.Sprintf("%d deleted=%t %v", v.Version, v.Deleted, v.Schema))
	}
	want := "4 deleted=false true; 3 deleted=true <nil>; 2 deleted=false map[required:[a] type:object]; 1 deleted=false map[type:object]"
	if got := strings.Join(seen, "; "); got != want {
		t.Errorf("history: %s\nwant     %s", got, want)
	}
	var old schema
	if status := p.Call(http.MethodGet, path+"?version=1", nil, &old); status != http.StatusOK || old.Version != 1 {
		t.Errorf("version 1: %d %+v", status, old)
	}
	if status := p.Call(http.MethodGet, path+"?version=5", nil, nil); status != http.StatusNotFound {
		t.Errorf("version 5: %d", status)
	}
	if status := p.Call(http.MethodGet, "/collector/schemas/x/y/versions", nil, nil); status != http.StatusNotFound {
		t.Errorf("versions of nothing: %d", status)
	}
	// The text goes back as it came.
	if _, body := p.Exchange(p.Request(p.Key, http.MethodGet, path+"?version=2", nil)); !strings.Contains(string(body), `"schema":{"type":"object","required":["a"]}`) {
		t.Errorf("got %s", body)
	}
	p.Restart()
	if s := list[schema](t, p, "/collector/schemas"); len(s.Items) != 1 || s.Items[0].Version != 4 {
		t.Errorf("after a restart: %+v", s.Items)
	}
}

func TestSchemasAreListedByPages(t *testing.T) {
	t.Parallel()
	p := start(t)
	for _, c := range []string{"a", "b"} {
		for _, n := range []string{"x", "y", "z"} {
			p.Call(http.MethodPut, "/collector/schemas/"+c+"/"+n, `{}`, nil)
		}
	}
	var seen []string
	for _, s := range walk[schema](t, p, "/collector/schemas?limit=2") {
		seen = append(seen, s.Category+s.Name)
	}
	if got := strings.Join(seen, " "); got != "ax ay az bx by bz" {
		t.Errorf("got %s", got)
	}
}

func TestInvalidSchemaIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	// What a schema refers to is never fetched.
	var fetched atomic.Int32
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		_, _ = w.Write([]byte(`{}`))
	}))
	t.Cleanup(outside.Close)
	file := filepath.Join(t.TempDir(), "schema.json")
	if err := os.WriteFile(file, []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t)
	for _, c := range []struct {
		name, body string
		status     int
		reason     string
	}{
		{"nothing", ``, 400, "JSON"},
		{"no JSON", `{"type":`, 400, "JSON"},
		{"two values", `{} {}`, 400, "JSON"},
		{"broken UTF-8", "{\"title\":\"\xff\"}", 400, "UTF-8"},
		{"half a surrogate pair", `{"title":"\ud83e"}`, 400, "JSON"},
		{"a name twice", `{"type":"object","type":"array"}`, 400, "twice"},
		{"a number", `5`, 422, "want an object or a boolean"},
		{"a list", `[]`, 422, "want an object or a boolean"},
		{"null", `null`, 422, "want an object or a boolean"},
		{"an unknown type", `{"type":"objekt"}`, 422, "type"},
		{"a type that is a number", `{"type":5}`, 422, "type"},
		{"required that is a text", `{"required":"a"}`, 422, "required"},
		{"properties that are a list", `{"properties":[]}`, 422, "properties"},
		{"a pattern that is none", `{"properties":{"a":{"pattern":"("}}}`, 422, "pattern"},
		{"a negative length", `{"minLength":-1}`, 422, "minLength"},
		{"an unknown dialect", `{"$schema":"https://example.com/dialect"}`, 422, "refer to itself"},
		{"a reference to nowhere", `{"$ref":"#/$defs/none"}`, 422, ""},
		{"a reference to a web address", `{"$ref":"` + outside.URL + `/a.json"}`, 422, "refer to itself"},
		{"a dynamic reference to a web address", `{"$dynamicRef":"` + outside.URL + `/a.json"}`, 422, "refer to itself"},
		{"a base in the web", `{"$id":"` + outside.URL + `/x","$ref":"a.json"}`, 422, "refer to itself"},
		{"a dialect in the web", `{"$schema":"` + outside.URL + `/a.json"}`, 422, "refer to itself"},
		{"a reference to a file", `{"$ref":"file://` + file + `"}`, 422, "refer to itself"},
		{"a reference to a path", `{"$ref":"` + file + `"}`, 422, "refer to itself"},
		{"a reference to a neighbour", `{"$ref":"other.json"}`, 422, "refer to itself"},
		{"300 KiB", `{"title":"` + strings.Repeat("x", 300<<10) + `"}`, 413, "larger than"},
		{"a reference in a circle", `{"$ref":"#"}`, 422, "circle"},
		{"a longer circle", `{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"allOf":[{"$ref":"#/$defs/a"}]}},"$ref":"#/$defs/a"}`, 422, "circle"},
	} {
		got := refused(t, p, p.Request(p.Key, http.MethodPut, "/collector/schemas/a/b", c.body))
		if text := fmt.Sprint(got.Detail, got.Errors); got.Status != c.status || !strings.Contains(text, c.reason) {
			t.Errorf("%s: %d %s, want %d with %q", c.name, got.Status, text, c.status, c.reason)
		}
		if text := fmt.Sprint(got); strings.Contains(text, "file:///") && !strings.Contains(c.body, "file:///") {
			t.Errorf("%s: shows a path of ours: %s", c.name, text)
		}
	}
	for _, name := range []string{"%00", "%0a", strings.Repeat("x", 257), "%ff"} {
		for _, path := range []string{"/collector/schemas/" + name + "/b", "/collector/schemas/a/" + name} {
			if got := refused(t, p, p.Request(p.Key, http.MethodPut, path, `{}`)); got.Status != http.StatusUnprocessableEntity {
				t.Errorf("PUT %.40s: %d", path, got.Status)
			}
		}
	}
	if n := fetched.Load(); n > 0 {
		t.Errorf("%d requests went out", n)
	}
	if got := list[schema](t, p, "/collector/schemas"); len(got.Items) != 0 {
		t.Errorf("stored: %+v", got.Items)
	}
}

func TestSchemaMayReferToItselfAndToKnownDialects(t *testing.T) {
	t.Parallel()
	p := start(t)
	for i, body := range []string{
		`{"$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{"tree":{"properties":{"kids":{"items":{"$ref":"#/$defs/tree"}}}}},"$ref":"#/$defs/tree"}`,
		`{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}`,
		`{"$id":"https://example.com/event","$defs":{"a":{"$anchor":"a","type":"object"}},"$ref":"#a"}`,
	} {
		if status := p.Call(http.MethodPut, fmt.Sprintf("/collector/schemas/good/n%d", i), body, nil); status != http.StatusCreated {
			t.Errorf("%s: %d", body, status)
		}
		if status := p.Call(http.MethodPost, "/collector/events", pageview("s-1", fields{"category": "good", "name": fmt.Sprint("n", i)}), nil); status != http.StatusAccepted {
			t.Errorf("an event of %s: %d", body, status)
		}
	}
}

func TestFaultsInDataAreNamedWithoutTheirValues(t *testing.T) {
	t.Parallel()
	p := start(t)
	if status := p.Call(http.MethodPut, "/collector/schemas/order/paid", `{
		"properties": {
			"mail": {"format": "email"}, "code": {"pattern": "^[a-z]+$"}, "sum": {"type": "number", "minimum": 0, "multipleOf": 0.01},
			"state": {"enum": ["open", "done"]}, "kind": {"const": "card"}, "tags": {"items": {"type": "string", "maxLength": 3}, "uniqueItems": true, "maxItems": 3},
			"when": {"format": "date-time"}, "nest": {"properties": {"n": {"type": ["integer", "null"]}}, "required": ["m"]},
			"bag": {"propertyNames": {"pattern": "^[a-z]$"}}, "either": {"oneOf": [{"type": "string"}, {"type": "integer"}]}, "not": {"not": {}}
		}, "dependentRequired": {"a": ["b"]}, "minProperties": 1
	}`, nil); status != http.StatusCreated {
		t.Fatalf("put schema: %d", status)
	}
	const secret = "Ada9876543"
	for _, c := range []struct{ data, at string }{
		{`{"mail":"` + secret + `"}`, "body.data.mail"},
		{`{"code":"` + secret + `"}`, "body.data.code"},
		{`{"sum":-9876543}`, "body.data.sum"},
		{`{"sum":9876543.001}`, "body.data.sum"},
		{`{"sum":"` + secret + `"}`, "body.data.sum"},
		{`{"state":"` + secret + `"}`, "body.data.state"},
		{`{"kind":"` + secret + `"}`, "body.data.kind"},
		{`{"tags":["abc","` + secret + `"]}`, "body.data.tags[1]"},
		{`{"tags":["a","a"]}`, "body.data.tags"},
		{`{"tags":["a","b","c","d"]}`, "body.data.tags"},
		{`{"when":"` + secret + `"}`, "body.data.when"},
		{`{"nest":{"n":1.5}}`, "body.data.nest.m body.data.nest.n"},
		{`{"bag":{"` + secret + `":1}}`, "body.data"}, // a name has no place of its own
		{`{"either":{"x":"` + secret + `"}}`, "body.data.either body.data.either"},
		{`{"not":"` + secret + `"}`, "body.data.not"},
		{`{"a":1}`, "body.data"},
		{`{}`, "body.data"},
	} {
		got := refused(t, p, p.Request(p.Key, http.MethodPost, "/collector/events", eventText("category", `"order"`, "name", `"paid"`, "data", c.data)))
		seen := strings.Fields(locations(got.Errors))
		if got.Status != http.StatusUnprocessableEntity || !sameSet(seen, strings.Fields(c.at)) {
			t.Errorf("%s: %d at %v, want %s", c.data, got.Status, seen, c.at)
		}
		for _, f := range got.Errors {
			if f.Message == "" || strings.Contains(f.Message, secret) || strings.Contains(f.Message, "9876543") {
				t.Errorf("%s: %q", c.data, f.Message)
			}
		}
	}
}

// sameSet tells whether two lists hold the same texts in any order.
func sameSet(a, b []string) bool {
	count := map[string]int{}
	for _, s := range a {
		count[s]++
	}
	for _, s := range b {
		count[s]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestSchemaHoldsFromTheAnswerOnAndUntilItIsDeleted(t *testing.T) {
	t.Parallel()
	p := start(t)
	try := func() int { return p.Call(http.MethodPost, "/collector/events", pageview("s-1"), nil) }
	const path = "/collector/schemas/page%20interaction/pageview"
	for round := range 5 {
		if status := try(); status != http.StatusAccepted {
			t.Errorf("round %d, without a schema: %d", round, status)
		}
		p.Call(http.MethodPut, path, `{"required":["missing"]}`, nil)
		if status := try(); status != http.StatusUnprocessableEntity {
			t.Errorf("round %d, with a schema: %d", round, status)
		}
		p.Call(http.MethodPut, path, `{"required":["path"]}`, nil)
		if status := try(); status != http.StatusAccepted {
			t.Errorf("round %d, with another schema: %d", round, status)
		}
		p.Call(http.MethodPut, path, `false`, nil)
		if status := try(); status != http.StatusUnprocessableEntity {
			t.Errorf("round %d, with a schema that nothing fits: %d", round, status)
		}
		p.Call(http.MethodDelete, path, nil, nil)
	}
}

func TestStrictCollectorRefusesKindsWithoutASchema(t *testing.T) {
	t.Parallel()
	p := start(t, apptest.Env("APP_COLLECTOR_STRICT=true"))
	putSchemas(t, p)
	post(t, p, pageview("s-1"))
	got := refused(t, p, p.Request(p.Key, http.MethodPost, "/collector/events", pageview("s-1", fields{"name": "other"})))
	if got.Status != http.StatusUnprocessableEntity || locations(got.Errors) != "body.category" || !strings.Contains(got.Errors[0].Message, "collector.strict") {
		t.Errorf("got %+v", got)
	}
	stored(t, p, 1)
	if r := kept(t, p, 1); r[0].Reason != "schema" || r[0].Name != "other" {
		t.Errorf("rejected as %+v", r[0])
	}
}

// Whoever puts a schema at the same time as others: each text gets its own
// version, none is lost.
func TestConcurrentPutsMakeOneVersionEach(t *testing.T) {
	t.Parallel()
	p := start(t)
	const writers = 8
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			if status := p.Call(http.MethodPut, "/collector/schemas/a/b", fmt.Sprintf(`{"title":"%d"}`, i), nil); status >= 300 {
				t.Errorf("put %d: %d", i, status)
			}
		})
	}
	wg.Wait()
	titles := map[any]int{}
	for _, v := range walk[schema](t, p, "/collector/schemas/a/b/versions") {
		titles[v.Schema.(map[string]any)["title"]] = v.Version
	}
	if len(titles) != writers {
		t.Errorf("versions: %v", titles)
	}
}
