package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/sse"

	"switchboard/platform/web"
)

// document reads the parts of an OpenAPI that the tests look at.
type document struct {
	OpenAPI string `json:"openapi"`
	Info    struct{ Title, Version string }
	Tags    []struct{ Name, Description string }
	Paths   map[string]map[string]struct {
		OperationID string `json:"operationId"`
		Tags        []string
		Description string
		Security    []map[string][]string
		Parameters  []struct {
			Name, In string
			Required bool
		}
		RequestBody struct {
			Content map[string]struct{ Schema map[string]any }
		} `json:"requestBody"`
		Responses map[string]struct {
			Content map[string]struct{ Schema map[string]any }
		}
	}
	Components struct {
		Schemas         map[string]any
		SecuritySchemes map[string]any `json:"securitySchemes"`
	}
}

func described(t *testing.T) (*web.Router, document) {
	t.Helper()
	server := must[*web.Server](t)(web.New(web.Config{}, web.Deps{Title: "Switchboard", Version: "1.2.3"}))
	r := server.Router()
	things(r)
	r.Tag("collector", "What happened.")
	r.Handle(web.Op{
		ID: "collector-put-file", Method: "PUT", Path: "/collector/files/{category}/{rest...}", Summary: "Put", Scope: "collector:write", KeyInQuery: true,
		Request:   r.RequestOf("A thing", thing{}),
		Responses: map[string]*huma.Response{"200": r.ResponseOf("The page", web.Page[thing]{}), "204": r.ResponseOf("Nothing", nil)},
		Errors:    []int{409},
	}, http.NotFoundHandler())
	web.Register(r, web.Op{ID: "collector-unnamed", Method: "POST", Path: "/collector/unnamed", Summary: "Unnamed", Scope: "collector:write"},
		func(context.Context, *struct{ Body struct{ X int } }) (*struct{ Body web.Page[thing] }, error) {
			return nil, nil
		})
	op := web.Op{ID: "collector-live", Method: "GET", Path: "/collector/live", Summary: "Live", Scope: "collector:read", Stream: true}
	sse.Register(r.API, op.Operation(r), map[string]any{"thing": thing{}}, func(context.Context, *struct{}, sse.Sender) {})
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	data, _, err := r.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	return r, doc
}

func TestOpenAPIDescribesEveryRoute(t *testing.T) {
	t.Parallel()
	_, doc := described(t)
	if doc.OpenAPI != "3.1.0" || doc.Info.Title != "Switchboard" || doc.Info.Version != "1.2.3" {
		t.Errorf("%s %+v", doc.OpenAPI, doc.Info)
	}
	for _, path := range []string{"/docs/", "/openapi.json", "/debug/pprof/", "/sub/"} {
		if doc.Paths[path] != nil {
			t.Errorf("%s is described", path)
		}
	}
	tags := make([]string, 0, len(doc.Tags))
	for _, tag := range doc.Tags {
		tags = append(tags, tag.Name)
	}
	if !slices.Equal(tags, []string{"collector", "system"}) || doc.Tags[0].Description != "What happened." {
		t.Errorf("tags %+v", doc.Tags)
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if r := op.Responses["default"].Content["application/problem+json"].Schema["$ref"]; r != "#/components/schemas/Problem" {
				t.Errorf("%s %s: default answer %v", method, path, r)
			}
			if len(op.Tags) != 1 || op.OperationID == "" {
				t.Errorf("%s %s: %+v", method, path, op)
			}
		}
	}
	if open := doc.Paths["/healthz"]["get"]; open.Security != nil {
		t.Errorf("healthz asks for %v", open.Security)
	}
	create := doc.Paths["/collector/things"]["post"]
	if len(create.Security) != 2 || create.Security[0]["bearer"][0] != "collector:write" || !strings.Contains(create.Description, "`collector:write`") {
		t.Errorf("security %v", create.Security)
	}
	if !slices.ContainsFunc(create.Parameters, func(p struct {
		Name, In string
		Required bool
	}) bool {
		return p.Name == "Idempotency-Key" && p.In == "header" && !p.Required
	}) {
		t.Errorf("parameters %+v", create.Parameters)
	}
	put := doc.Paths["/collector/files/{category}/{rest}"]["put"]
	if len(put.Parameters) != 2 || put.Parameters[0].Name != "category" || put.Parameters[1].Name != "rest" || !put.Parameters[1].Required {
		t.Errorf("path parameters %+v", put.Parameters)
	}
	if put.RequestBody.Content["application/json"].Schema["$ref"] != "#/components/schemas/WebTestThing" ||
		put.Responses["200"].Content["application/json"].Schema["$ref"] != "#/components/schemas/WebTestThingPage" ||
		put.Responses["409"].Content["application/problem+json"].Schema == nil || len(put.Security) != 3 {
		t.Errorf("put %+v", put)
	}
	if doc.Paths["/collector/live"]["get"].Responses["200"].Content["text/event-stream"].Schema == nil {
		t.Error("the stream is not described")
	}
	var names []string
	for name := range doc.Components.Schemas {
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"CollectorUnnamedRequest", "Field", "ModuleState", "Problem", "Readiness", "WebTestThing", "WebTestThingPage"}; !slices.Equal(names, want) {
		t.Errorf("schemas %v, want %v", names, want)
	}
	for _, scheme := range []string{"bearer", "apiKey", "apiKeyQuery"} {
		if doc.Components.SecuritySchemes[scheme] == nil {
			t.Errorf("no security scheme %s", scheme)
		}
	}
}

func TestOpenAPIIsTheSameEveryTime(t *testing.T) {
	t.Parallel()
	a, _ := described(t)
	firstJSON, firstYAML, _ := a.OpenAPI()
	for range 5 {
		b, _ := described(t)
		json, yaml, err := b.OpenAPI()
		if err != nil || !bytes.Equal(json, firstJSON) || !bytes.Equal(yaml, firstYAML) {
			t.Fatal("two renderings differ")
		}
	}
	if !bytes.Contains(firstYAML, []byte("openapi: 3.1.0")) {
		t.Error("the YAML is none")
	}
}

var external = regexp.MustCompile(`(?i)(https?:)?//[a-z]`)

func TestDocsPageIsServedFromTheBinary(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, things)
	none := []string{"Authorization", ""}
	for path, contentType := range map[string]string{
		"/openapi.json": "application/openapi+json", "/openapi.json/": "application/openapi+json", "/openapi.yaml": "application/openapi+yaml",
	} {
		if a := p.do("GET", path, "", none...); a.status != 200 || a.header.Get("Content-Type") != contentType {
			t.Errorf("%s: %d %s", path, a.status, a.header.Get("Content-Type"))
		}
	}
	for _, path := range []string{"/docs/", "/docs"} {
		page := p.do("GET", path, "", none...)
		if page.status != 200 || !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") || !strings.Contains(page.body, "Switchboard") {
			t.Fatalf("%s: %d %s", path, page.status, page.body)
		}
		if external.MatchString(page.body) {
			t.Errorf("%s names another host: %s", path, external.FindString(page.body))
		}
		csp := page.header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'self'") || strings.Contains(csp, "unsafe-eval") || strings.Contains(csp, "script-src") || external.MatchString(csp) {
			t.Errorf("%s: policy %s", path, csp)
		}
		if regexp.MustCompile(`<script>|<style>| on\w+=`).MatchString(page.body) {
			t.Errorf("%s has inline code", path)
		}
		for _, m := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page.body, -1) {
			asset := p.do("GET", m[1], "", none...)
			if asset.status != 200 || len(asset.body) < 100 {
				t.Errorf("%s: %d, %d bytes", m[1], asset.status, len(asset.body))
			}
			if ct := asset.header.Get("Content-Type"); strings.HasSuffix(m[1], ".js") && !strings.Contains(ct, "javascript") || strings.HasSuffix(m[1], ".css") && !strings.Contains(ct, "css") {
				t.Errorf("%s as %s", m[1], ct)
			}
		}
	}
	if a := p.do("GET", "/docs/other.js", "", none...); a.status != 404 {
		t.Errorf("an unknown file: %d", a.status)
	}
}
