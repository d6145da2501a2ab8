package web

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/auth"
)

// Op describes one route: what its gates ask for and what the OpenAPI says.
type Op struct {
	ID          string // operation id, unique in the product: "collector-send-events"
	Method      string // "" with Handle means any method (and stays out of the OpenAPI)
	Path        string // as in net/http: "/collector/sessions/{session_id}"; a final slash takes the subtree
	Summary     string
	Description string
	Tag         string // the module; the first segment of the path if empty
	Deprecated  bool
	Hidden      bool // stays out of the OpenAPI

	Scope      string // the scope a key needs; "" only with Public
	Public     bool   // no credential is asked for
	OwnAuth    bool   // the handler authenticates on its own: it takes more than keys
	KeyInQuery bool   // the key may come as ?key=, for clients that can send no header
	KeyInBasic bool   // the key may come as the password of HTTP Basic (RFC 7617), for clients that can send nothing else
	CORS       bool   // browsers of other origins may call it, if the key lists the origin

	Status  int   // of success; 0 = 200, or 204 without a body
	Creates bool  // honours Idempotency-Key
	MaxBody int64 // bytes, on the wire and inflated; 0 = the configured limits
	Stream  bool  // long-lived answer: no write deadline, its context ends when the server stops
	Errors  []int // statuses worth telling in the OpenAPI besides the default problem

	// For plain handlers, which have no types to read this from; see
	// Router.RequestOf and Router.ResponseOf. Path parameters are added.
	Parameters []*huma.Param
	Request    *huma.RequestBody
	Responses  map[string]*huma.Response
}

var opID = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// check finds the mistakes of the one who wrote the Op.
func (op *Op) check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("web: route %s %s: %s", op.Method, op.Path, fmt.Sprintf(format, args...))
	}
	switch {
	case !strings.HasPrefix(op.Path, "/"):
		return fail("the path must begin with a slash")
	case op.Scope == "" && !op.Public:
		return fail("needs a Scope, or Public")
	case op.Scope != "" && op.Public:
		return fail("has both a Scope and Public")
	case op.Scope != "" && !slices.Contains(auth.Scopes(), op.Scope):
		return fail("scope %q does not exist", op.Scope)
	case op.OwnAuth && (op.Public || op.Creates || op.CORS):
		return fail("OwnAuth goes with a Scope alone")
	case op.Public && op.Creates:
		return fail("an Idempotency-Key belongs to a key, so the route cannot be Public")
	case op.Stream && op.Creates:
		return fail("a stream cannot be repeated for an Idempotency-Key")
	case op.KeyInBasic && op.CORS:
		return fail("a browser sends a Basic credential by itself, so that KeyInBasic does not go with CORS")
	case op.Method == "" && (op.Creates || op.CORS):
		return fail("needs a Method")
	case op.Hidden || op.Method == "":
		return nil
	case !opID.MatchString(op.ID):
		return fail("id %q is not of the form collector-send-events", op.ID)
	case op.Summary == "":
		return fail("needs a Summary")
	}
	return nil
}

// pattern is the op in the language of http.ServeMux.
func (op *Op) pattern() string {
	path := op.Path
	if path == "/" {
		path = "/{$}"
	}
	return strings.TrimSpace(op.Method + " " + path)
}

// metadataKey carries an Op through huma to the adapter.
const metadataKey = "web.op"

// Operation gives op as a huma operation, for huma helpers such as
// sse.Register that take one. It must be mounted on Router.API.
func (op Op) Operation(r *Router) huma.Operation {
	r.module = op.tag()
	o := huma.Operation{
		OperationID: op.ID, Method: op.Method, Path: op.openAPIPath(),
		Summary: op.Summary, Description: op.Description, Tags: []string{op.tag()},
		Deprecated: op.Deprecated, Hidden: op.Hidden || op.Method == "",
		DefaultStatus: op.Status, Errors: slices.Clone(op.Errors),
		// The limits of this package are before huma's.
		MaxBodyBytes: -1, BodyReadTimeout: -1,
		Metadata:   map[string]any{metadataKey: op},
		Parameters: slices.Clone(op.Parameters), RequestBody: op.Request,
		Responses: map[string]*huma.Response{},
	}
	for status, response := range op.Responses {
		o.Responses[status] = response
	}
	o.Responses["default"] = r.problemResponse
	if op.Creates {
		o.Parameters = append(o.Parameters, idempotencyParam)
	}
	if !op.Public {
		o.Description = strings.TrimSpace(o.Description + "\n\nScope: `" + op.Scope + "`.")
		o.Security = []map[string][]string{{schemeBearer: {op.Scope}}, {schemeHeader: {op.Scope}}}
		if op.KeyInQuery {
			o.Security = append(o.Security, map[string][]string{schemeQuery: {op.Scope}})
		}
		if op.KeyInBasic {
			r.API.OpenAPI().Components.SecuritySchemes[schemeBasic] = basicScheme
			o.Security = append(o.Security, map[string][]string{schemeBasic: {op.Scope}})
		}
	}
	return o
}

func (op *Op) tag() string {
	if op.Tag != "" {
		return op.Tag
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(op.Path, "/"), "/")
	return first
}

var pathParam = regexp.MustCompile(`\{([^}.$]+)(\.\.\.)?\}`)

// openAPIPath is the path without what only net/http understands.
func (op *Op) openAPIPath() string { return pathParam.ReplaceAllString(op.Path, "{$1}") }

// pathParams describes the path parameters that op does not describe itself.
func (op *Op) pathParams() []*huma.Param {
	var list []*huma.Param
	for _, m := range pathParam.FindAllStringSubmatch(op.Path, -1) {
		if !slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.In == "path" && p.Name == m[1] }) {
			list = append(list, &huma.Param{Name: m[1], In: "path", Required: true, Schema: &huma.Schema{Type: "string"}})
		}
	}
	return list
}

var idempotencyParam = &huma.Param{
	Name: headerIdempotencyKey, In: "header",
	Description: "Of the client's choice. The same key and body within 24 hours give the first answer again; the same key with another body is refused.",
	Schema:      &huma.Schema{Type: "string", MinLength: ptr(1), MaxLength: ptr(maxIdempotencyKey)},
}

func ptr[T any](v T) *T { return &v }

// knownMethod keeps made-up methods out of logs and metrics.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return method
	}
	return "OTHER"
}
