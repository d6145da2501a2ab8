package web

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/danielgtaylor/huma/v2"
)

// Names of the security schemes in the OpenAPI.
const (
	schemeBearer = "bearer"
	schemeHeader = "apiKey"
	schemeQuery  = "apiKeyQuery"
	schemeBasic  = "basic" // described once an operation takes it
)

var basicScheme = &huma.SecurityScheme{
	Type: "http", Scheme: "basic",
	Description: "The same key as the password, with any user name, for clients that can send nothing else, where an operation allows it.",
}

// describe is huma's configuration: none of its own pages, no $schema links.
func (r *Router) describe(title, version string) huma.Config {
	cfg := huma.DefaultConfig(title, version)
	cfg.CreateHooks = nil
	cfg.DocsPath, cfg.SchemasPath, cfg.OpenAPIPath = "", "", ""
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}
	// Bodies are JSON whatever they are called: curl and sendBeacon send it
	// under names of their own.
	cfg.Formats = map[string]huma.Format{"application/json": format, "json": format,
		"application/x-www-form-urlencoded": format, "text/plain": format}
	cfg.Components = &huma.Components{
		Schemas: huma.NewMapRegistry("#/components/schemas/", r.name),
		SecuritySchemes: map[string]*huma.SecurityScheme{
			schemeBearer: {Type: "http", Scheme: "bearer", Description: "A key: `Authorization: Bearer sb_<id>_<secret>`."},
			schemeHeader: {Type: "apiKey", In: "header", Name: "X-API-Key", Description: "The same key in a header of its own."},
			schemeQuery:  {Type: "apiKey", In: "query", Name: "key", Description: "The same key, for clients that cannot send headers, where an operation allows it."},
		},
	}
	return cfg
}

// name gives the name of a schema: the module, then the type, so that two
// modules may each have an Event.
//
//	modules/collector.Event                 CollectorEvent
//	modules/telephony/telephonyapi.Call     TelephonyApiCall
//	web.Page[modules/collector.Event]       CollectorEventPage
//	platform/auth.Key                       AuthKey
//
// A type without a name gets huma's hint, after the module whose operation
// uses it.
func (r *Router) name(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Name() == "" {
		return prefixed(pascal(r.module), pascal(huma.DefaultSchemaNamer(t, hint)))
	}
	if t == reflect.TypeFor[ProblemDocument]() {
		return "Problem"
	}
	return schemaName(t.PkgPath(), t.Name())
}

// schemaName names a type by its package and its name as reflect writes it:
// a type parameter stands there as path/to/pkg.Type.
func schemaName(pkg, name string) string {
	outer, params, generic := strings.Cut(name, "[")
	name = prefixed(modulePrefix(pkg), pascal(outer))
	if !generic {
		return name
	}
	// The parameters come first: they carry the module.
	var b strings.Builder
	for _, p := range splitParams(strings.TrimSuffix(params, "]")) {
		p, list := strings.CutPrefix(p, "[]")
		p = strings.TrimLeft(p, "*")
		path, typ := "", p
		head, _, _ := strings.Cut(p, "[")
		if dot := strings.LastIndexByte(head, '.'); dot > strings.LastIndexByte(head, '/') {
			path, typ = p[:dot], p[dot+1:]
		}
		b.WriteString(schemaName(path, typ))
		if list {
			b.WriteString("List")
		}
	}
	return b.String() + name
}

// splitParams cuts at the commas that are not inside brackets.
func splitParams(s string) []string {
	var list []string
	depth, from := 0, 0
	for i, c := range s {
		switch c {
		case '[':
			depth++
		case ']':
			depth--
		case ',':
			if depth == 0 {
				list = append(list, s[from:i])
				from = i + 1
			}
		}
	}
	return append(list, s[from:])
}

// modulePrefix is what the package adds to the names of its types.
func modulePrefix(pkg string) string {
	if _, path, ok := strings.Cut("/"+pkg, "/modules/"); ok {
		module, sub, _ := strings.Cut(path, "/")
		sub = sub[strings.LastIndexByte(sub, '/')+1:]
		return pascal(module) + pascal(strings.TrimPrefix(sub, module))
	}
	if _, path, ok := strings.Cut("/"+pkg, "/platform/"); ok && path != "web" && path != "errs" {
		return pascal(path)
	}
	return ""
}

// prefixed puts prefix before name unless name begins with it already.
func prefixed(prefix, name string) string {
	if rest, ok := strings.CutPrefix(name, prefix); ok && (rest == "" || unicode.IsUpper(rune(rest[0])) || prefix == "") {
		return name
	}
	return prefix + name
}

// pascal joins the words of s: "event-log/x" becomes EventLogX.
func pascal(s string) string {
	var b strings.Builder
	up := true
	for _, c := range s {
		switch {
		case !unicode.IsLetter(c) && !unicode.IsDigit(c):
			up = true
		case up:
			b.WriteRune(unicode.ToUpper(c))
			up = false
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// RequestOf describes the JSON body of a plain handler by the type of v.
func (r *Router) RequestOf(description string, v any) *huma.RequestBody {
	return &huma.RequestBody{Description: description, Required: true, Content: r.jsonOf(v)}
}

// ResponseOf describes an answer of a plain handler by the type of v; nil
// means that it has no body.
func (r *Router) ResponseOf(description string, v any) *huma.Response {
	if v == nil {
		return &huma.Response{Description: description}
	}
	return &huma.Response{Description: description, Content: r.jsonOf(v)}
}

func (r *Router) jsonOf(v any) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{"application/json": {Schema: r.schemaOf(v)}}
}

// schemaOf adds the type of v to the components and refers to it.
func (r *Router) schemaOf(v any) *huma.Schema {
	t := reflect.TypeOf(v)
	return r.API.OpenAPI().Components.Schemas.Schema(t, true, pascal(t.String()))
}

// spec is the rendered OpenAPI.
type spec struct{ json, yaml []byte }

// OpenAPI renders the description of all routes mounted so far, OpenAPI 3.1,
// as indented JSON and as YAML. It is made once: nothing may be mounted after
// the first call. Equal routes give equal bytes.
func (r *Router) OpenAPI() (json, yaml []byte, err error) {
	s, err := r.spec()
	return s.json, s.yaml, err
}

func (r *Router) render() (spec, error) {
	api := r.API.OpenAPI()
	used := map[string]bool{}
	for _, item := range api.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete, item.Head, item.Options} {
			if op != nil {
				for _, tag := range op.Tags {
					used[tag] = true
				}
			}
		}
	}
	api.Tags = nil
	for _, name := range slices.Sorted(maps.Keys(used)) {
		api.Tags = append(api.Tags, &huma.Tag{Name: name, Description: r.tags[name]})
	}
	plain, err := json.Marshal(api)
	if err != nil {
		return spec{}, err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, plain, "", "  "); err != nil {
		return spec{}, err
	}
	indented.WriteByte('\n')
	text, err := api.YAML()
	return spec{json: indented.Bytes(), yaml: text}, err
}

func (r *Router) serveSpec(contentType string, pick func(spec) []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s, err := r.spec()
		if err != nil {
			Fail(w, req, err)
			return
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(pick(s))
	})
}
