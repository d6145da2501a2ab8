package crm

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/web"
)

// mockAlone is the product with the routes of the mock.
func mockAlone(t *testing.T) *apptest.Product {
	t.Helper()
	return apptest.Start(t, []app.Module{{Name: "crm", Doc: "a part of the crm", Config: func() any { return &struct{}{} }, Migrations: os.DirFS("."),
		New: func(app.Platform) (app.Service, error) { return mockPart{mock.New("/crm")}, nil }}})
}

type mockPart struct{ m *mock.Mock }

func (s mockPart) Routes(r *web.Router) error { mockHTTP(s).routes(r); return nil }
func (mockPart) Start(context.Context) error  { return nil }
func (mockPart) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
func (mockPart) Ready(context.Context) error { return nil }

const (
	mockUser = `{"Id":"u1","LastName":"Zhutaekipo","FirstName":null,"Email":"a@trafi.com","LastTripType":null,"LastTripId":null,"LastTripDate":"2023-04-25T12:56:15.1234567+03:00"}`
	mockTrip = `{"Id":"t1","UserId":"u1","From":null,"To":"Žuvėdra","Price":0.7341908652109,"StartDate":"2023-04-25T12:56:15.1234567+03:00","EndDate":null,"Type":"Scooter"}`
)

func TestMockOverTheProduct(t *testing.T) {
	t.Parallel()
	p := mockAlone(t)
	names := regexp.MustCompile(`"\w+":`)
	for _, c := range []struct{ path, id, object string }{{"/crm/users", "u1", mockUser}, {"/crm/trips", "t1", mockTrip}} {
		for _, step := range []struct {
			method, path, body string
			status             int
			want               string // "" is a problem
		}{
			{"GET", c.path, "", 200, "[]"},
			{"GET", c.path + "/" + c.id, "", 404, ""},
			{"POST", c.path + "/" + c.id, c.object, 404, ""},
			{"POST", c.path, c.object, 201, c.object},
			{"POST", c.path, c.object, 409, ""},
			{"POST", c.path + "/", c.object, 409, ""},
			{"POST", c.path, names.ReplaceAllStringFunc(strings.ReplaceAll(c.object, c.id, "x"), strings.ToUpper), 201, "any"},
			{"GET", c.path + "/" + c.id, "", 200, c.object},
			{"GET", c.path + "/" + c.id + "/", "", 200, c.object},
			{"POST", c.path + "/" + c.id + "/", c.object, 200, c.object},
			{"POST", c.path, "{", 400, ""},
			{"POST", c.path, "", 400, ""},
			{"POST", c.path + "/" + c.id, "[]", 400, ""},
			{"POST", c.path + "/" + c.id, `{"Email":5}`, 400, ""},
			{"POST", c.path, `{"x":"` + strings.Repeat("x", mock.MaxBody) + `"}`, 413, ""},
			{"PUT", c.path, c.object, 405, ""},
			{"DELETE", c.path + "/" + c.id, "", 405, ""},
			{"HEAD", c.path, "", 405, "none"},
			{"HEAD", c.path + "/" + c.id, "", 405, "none"},
		} {
			resp, text := p.Exchange(p.Request(p.Key, step.method, step.path, step.body))
			if resp.StatusCode != step.status || step.want != "any" && step.want != "none" && step.want != "" && string(text) != step.want {
				t.Errorf("%s %s: %d, want %d: %s", step.method, step.path, resp.StatusCode, step.status, text)
			}
			var problem web.ProblemDocument
			if step.want == "" && (json.Unmarshal(text, &problem) != nil || problem.Status != step.status || resp.Header.Get("Content-Type") != "application/problem+json") {
				t.Errorf("%s %s: no problem: %s", step.method, step.path, text)
			}
			if resp.Header.Get("X-Request-Id") == "" {
				t.Errorf("%s %s has no request id", step.method, step.path)
			}
			if step.status == 201 && step.want != "any" && resp.Header.Get("Location") != c.path+"/"+c.id {
				t.Errorf("Location: %s", resp.Header.Get("Location"))
			}
		}
	}
	for key, want := range map[string]int{"": 401, p.NewKey(map[string]any{"scopes": []string{"mailing:read"}}): 403} {
		if status := p.CallAs(key, "GET", "/crm/users", nil, nil); status != want {
			t.Errorf("%d, want %d", status, want)
		}
	}
	reader := p.NewKey(map[string]any{"scopes": []string{"crm:read"}})
	if get, post := p.CallAs(reader, "GET", "/crm/users", nil, nil), p.CallAs(reader, "POST", "/crm/users/u1", mockUser, nil); get != 200 || post != 403 {
		t.Errorf("%d %d", get, post)
	}
}

// An Id that is one slash alone is the one that net/http's routes cannot take.
func TestMockTakesIdsWithSlashesOverTheProduct(t *testing.T) {
	t.Parallel()
	p := mockAlone(t)
	for _, id := range []string{"a/b", "/a", "a/", "//", ".", "..", "a b%2F", "東京 👩‍🚀", "?#"} {
		quoted, _ := json.Marshal(id)
		body := strings.Replace(mockUser, `"u1"`, string(quoted), 1)
		resp, text := p.Exchange(p.Request(p.Key, "POST", "/crm/users", body))
		where := resp.Header.Get("Location")
		if resp.StatusCode != 201 {
			t.Fatalf("%q: %d %s", id, resp.StatusCode, text)
		}
		var got struct{ ID string }
		if status := p.Call("GET", where, nil, &got); status != 200 || got.ID != id {
			t.Errorf("%q at %s: %d %q", id, where, status, got.ID)
		}
		if status := p.Call("POST", where+"/", body, &got); status != 200 || got.ID != id {
			t.Errorf("%q at %s/: %d %q", id, where, status, got.ID)
		}
	}
}

func TestMockTakesGzipAndIdempotencyKeys(t *testing.T) {
	t.Parallel()
	p := mockAlone(t)
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	_, _ = zw.Write([]byte(mockUser))
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{201, 201} {
		req := p.Request(p.Key, "POST", "/crm/users", zipped.Bytes())
		req.Header.Set("Content-Encoding", "gzip")
		req.Header.Set("Idempotency-Key", "k")
		if resp, text := p.Exchange(req); resp.StatusCode != want || string(text) != mockUser || resp.Header.Get("Location") != "/crm/users/u1" {
			t.Errorf("%d: %d %s", i, resp.StatusCode, text)
		}
	}
	// A first answer that was lost is not given again: the effect is there.
	if status := p.Call("PUT", "/crm/mock/faults", `{"lost":1}`, nil); status != 200 {
		t.Fatal(status)
	}
	post := func() (int, error) {
		req := p.Request(p.Key, "POST", "/crm/trips", io.MultiReader(strings.NewReader(mockTrip))) // not to be sent again by the client itself
		req.Header.Set("Idempotency-Key", "l")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	if status, err := post(); err == nil {
		t.Errorf("%d", status)
	}
	_ = p.Call("PUT", "/crm/mock/faults", `{}`, nil)
	if status, err := post(); err != nil || status != 409 {
		t.Errorf("%d %v", status, err)
	}
}

func TestMockFaultsOverTheListener(t *testing.T) {
	t.Parallel()
	p := mockAlone(t)
	history := func() int {
		var page web.Page[MockChange]
		if status := p.Call("GET", "/crm/mock/history?kind=users&id=u1", nil, &page); status != 200 {
			t.Fatal(status)
		}
		return len(page.Items)
	}
	for _, c := range []struct {
		faults string
		status int // 0: the connection is cut
		effect bool
	}{
		{`{"latency":"5ms","jitter":"1ms"}`, 200, true},
		{`{"errors":1}`, 503, false},
		{`{"throttle":1}`, 429, false},
		{`{"resets":1}`, 0, false},
		{`{"lost":1}`, 0, true},
		{`{"garbage":1}`, 200, true},
		{`{"down":true}`, 0, false},
		{`{"refuse":["u1"]}`, 400, false},
	} {
		if reset, created := p.Call("DELETE", "/crm/mock", nil, nil), p.Call("POST", "/crm/users", mockUser, nil); reset != 204 || created != 201 {
			t.Fatal(reset, created)
		}
		if status := p.Call("PUT", "/crm/mock/faults", c.faults, nil); status != 200 {
			t.Fatal(status)
		}
		resp, err := http.DefaultClient.Do(p.Request(p.Key, "POST", "/crm/users/u1", mockUser))
		switch {
		case c.status == 0:
			if err == nil {
				t.Errorf("%s: %d", c.faults, resp.StatusCode)
			}
		case err != nil || resp.StatusCode != c.status:
			t.Errorf("%s: %v %v", c.faults, resp, err)
		default:
			text, err := io.ReadAll(resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil || json.Valid(text) == strings.Contains(c.faults, "garbage") {
				t.Errorf("%s: %s %v", c.faults, text, err)
			}
			if after := resp.Header.Get("Retry-After"); (after == "1") != (c.status == 429) {
				t.Errorf("%s: Retry-After %s", c.faults, after)
			}
		}
		if status := p.Call("PUT", "/crm/mock/faults", `{}`, nil); status != 200 {
			t.Fatal(status)
		}
		if done := history() == 2; done != c.effect {
			t.Errorf("%s: an effect: %t", c.faults, done)
		}
	}
	for _, text := range []string{"Zhutaekipo", "panic", "level=ERROR"} {
		if strings.Contains(p.Log.String(), text) {
			t.Errorf("%q is in the log:\n%s", text, p.Log)
		}
	}
}

func TestMockFaultsAreCheckedAndShown(t *testing.T) {
	t.Parallel()
	p := mockAlone(t)
	for _, bad := range []string{`{"errors":2}`, `{"errors":-0.1}`, `{"errors":0.6,"lost":0.6}`, `{"ids":"other"}`, `{"latency":20}`, `{"latency":"soon"}`, `{"latency":"-1s"}`, `{"latency":"1h"}`, `{"error":1}`, `{"refuse":[1]}`, `{`} {
		if status := p.Call("PUT", "/crm/mock/faults", bad, nil); status != 422 && status != 400 {
			t.Errorf("%s: %d", bad, status)
		}
	}
	var f map[string]any
	none := map[string]any{"latency": "0s", "jitter": "0s", "errors": 0., "throttle": 0., "resets": 0., "lost": 0., "garbage": 0., "down": false, "ids": "conflict", "refuse": []any{}}
	if p.Call("GET", "/crm/mock/faults", nil, &f); !reflect.DeepEqual(f, none) {
		t.Errorf("%v", f)
	}
	if status := p.Call("PUT", "/crm/mock/faults", f, &f); status != 200 || !reflect.DeepEqual(f, none) { // what is given is taken
		t.Errorf("%d %v", status, f)
	}
	p.Call("PUT", "/crm/mock/faults", `{"latency":"20ms","ids":"own","refuse":["x"]}`, nil)
	if p.Call("GET", "/crm/mock/faults", nil, &f); f["latency"] != "20ms" || f["ids"] != "own" || fmt.Sprint(f["refuse"]) != "[x]" {
		t.Errorf("%v", f)
	}
}

func TestMockHistoryIsPaged(t *testing.T) {
	t.Parallel()
	p := mockAlone(t)
	const n = 7
	for i := range n {
		path := "/crm/users"
		if i > 0 {
			path += "/u1"
			p.Call("POST", "/crm/trips", strings.Replace(mockTrip, `"t1"`, fmt.Sprintf(`"t%d"`, i), 1), nil)
		}
		p.Call("POST", path, strings.Replace(mockUser, "Zhutaekipo", fmt.Sprint("name ", i), 1), nil)
	}
	var names []string
	for at, pages := "", 0; ; pages++ {
		var page web.Page[MockChange]
		if status := p.Call("GET", "/crm/mock/history?kind=users&id=u1&limit=3"+at, nil, &page); status != 200 || pages > n {
			t.Fatal(status, pages)
		}
		for _, c := range page.Items {
			var user struct{ LastName string }
			_ = json.Unmarshal(c.State, &user)
			names = append(names, user.LastName)
		}
		if page.Next == nil {
			break
		}
		at = "&cursor=" + *page.Next
	}
	if len(names) != n || !slices.IsSorted(names) {
		t.Errorf("%v", names)
	}
	if status := p.Call("GET", "/crm/mock/history?cursor=x", nil, nil); status != 422 {
		t.Errorf("%d", status)
	}
	var c mock.Counts
	if p.Call("GET", "/crm/mock", nil, &c); c.Users != 1 || c.Trips != n-1 || c.Calls["users.replace"] != n-1 || c.Answers["201"] != n {
		t.Errorf("%+v", c)
	}
}

// The OpenAPI says of the CRM what the client's description says.
func TestMockIsDescribed(t *testing.T) {
	t.Parallel()
	p := mockAlone(t)
	type schema struct {
		Ref        string `json:"$ref"`
		Type       any
		Format     string
		Required   []string
		Properties map[string]schema
	}
	type content map[string]struct{ Schema, Example any }
	var api struct {
		Paths map[string]map[string]struct {
			OperationID string
			RequestBody struct{ Content content }
			Responses   map[string]struct {
				Headers map[string]any
				Content content
			}
			Security []map[string][]string
		}
		Components struct{ Schemas map[string]schema }
	}
	if status := p.Call("GET", "/openapi.json", nil, &api); status != 200 {
		t.Fatal(status)
	}
	text, err := os.ReadFile("internal/mock/testdata/description.json")
	if err != nil {
		t.Fatal(err)
	}
	var description map[string]schema
	if err := json.Unmarshal(text, &description); err != nil {
		t.Fatal(err)
	}
	for name, want := range description {
		got := api.Components.Schemas[name]
		slices.Sort(want.Required)
		slices.Sort(got.Required)
		if !slices.Equal(got.Required, want.Required) || len(got.Properties) != len(want.Properties) {
			t.Errorf("%s: %v, want %v", name, got.Required, want.Required)
		}
		for property, w := range want.Properties {
			g := got.Properties[property]
			if !reflect.DeepEqual(g.Type, w.Type) || w.Format != "" && g.Format != w.Format {
				t.Errorf("%s.%s: %v %s, want %v %s", name, property, g.Type, g.Format, w.Type, w.Format)
			}
		}
		if posted := api.Components.Schemas[name+"Posted"]; slices.Contains(posted.Required, "Id") || len(posted.Required) != len(want.Required)-1 || len(posted.Properties) != len(want.Properties) {
			t.Errorf("%sPosted: %v", name, posted.Required)
		}
	}
	for path, want := range map[string]map[string][]string{
		"/crm/users": {"get": {"200"}, "post": {"201", "400", "409"}}, "/crm/users/{id}": {"get": {"200", "404"}, "post": {"200", "400", "404"}},
		"/crm/trips": {"get": {"200"}, "post": {"201", "400", "409"}}, "/crm/trips/{id}": {"get": {"200", "404"}, "post": {"200", "400", "404"}},
	} {
		for method, statuses := range want {
			op := api.Paths[path][method]
			for _, status := range statuses {
				answer, ok := op.Responses[status]
				if !ok || status < "300" && answer.Content["application/json"].Example == nil || status > "300" && answer.Content["application/problem+json"].Schema == nil {
					t.Errorf("%s %s: %s", method, path, status)
				}
				if (answer.Headers["Location"] != nil) != (status == "201") {
					t.Errorf("%s %s: %s: Location", method, path, status)
				}
			}
			example := op.RequestBody.Content["application/json"].Example
			if method == "get" {
				continue
			}
			// What the explorer proposes is taken.
			at := path
			if id, ok := example.(map[string]any)["Id"].(string); ok {
				at = strings.Replace(path, "{id}", id, 1)
			}
			if status := p.Call("POST", at, example, nil); status != 201 && status != 200 && status != 404 {
				t.Errorf("%s: the example is answered %d", path, status)
			}
		}
	}
	if resp, page := p.Exchange(p.Request("", "GET", "/docs/", nil)); resp.StatusCode != 200 || !bytes.Contains(page, []byte("swagger")) {
		t.Errorf("/docs/: %d", resp.StatusCode)
	}
}
