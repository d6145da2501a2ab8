package collector

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/web"
)

// schemaHTTP serves
//
//	GET    /collector/schemas                          list current schemas
//	GET    /collector/schemas/{category}/{name}          one schema
//	GET    /collector/schemas/{category}/{name}/versions its history
//	PUT    /collector/schemas/{category}/{name}          add a version
//	DELETE /collector/schemas/{category}/{name}          end it, keeping the history
type schemaHTTP struct{ schemas *schemaService }

func (h *schemaHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "collector-list-schemas", Method: http.MethodGet, Path: "/collector/schemas", Tag: tag,
		Summary: "List current schemas", Scope: "collector:read", Errors: []int{422}}, h.list)
	web.Register(r, web.Op{ID: "collector-get-schema", Method: http.MethodGet, Path: "/collector/schemas/{category}/{name}", Tag: tag,
		Summary: "Get the schema of a kind of event", Scope: "collector:read", Errors: []int{404, 422}}, h.get)
	web.Register(r, web.Op{ID: "collector-list-schema-versions", Method: http.MethodGet, Path: "/collector/schemas/{category}/{name}/versions", Tag: tag,
		Summary: "List the versions of a schema", Description: "Newest first; deletions are versions without a schema.",
		Scope: "collector:read", Errors: []int{404, 422}}, h.versions)
	r.Handle(web.Op{ID: "collector-put-schema", Method: http.MethodPut, Path: "/collector/schemas/{category}/{name}", Tag: tag,
		Summary:     "Set the schema of a kind of event",
		Description: "The body is the JSON Schema (2020-12) that data must fit from now on. A changed text is a new version.",
		Scope:       "collector:write", Status: http.StatusOK, Errors: []int{400, 413, 422},
		Request: &huma.RequestBody{Description: "A JSON Schema.", Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{}}}},
		Responses: map[string]*huma.Response{
			"200": r.ResponseOf("A new version, or the same if the text is.", Schema{}),
			"201": r.ResponseOf("The first version.", Schema{}),
		},
	}, http.HandlerFunc(h.put))
	web.Register(r, web.Op{ID: "collector-delete-schema", Method: http.MethodDelete, Path: "/collector/schemas/{category}/{name}", Tag: tag,
		Summary: "End the schema of a kind of event", Description: "Its versions are kept.",
		Scope: "collector:write", Status: http.StatusNoContent, Errors: []int{404}}, h.remove)
}

// Schema is a version of the schema of a kind of event.
type Schema struct {
	Category  string          `json:"category"`
	Name      string          `json:"name"`
	Version   int64           `json:"version"`
	Schema    json.RawMessage `json:"schema,omitempty" doc:"The JSON Schema; absent in a version that is a deletion."`
	Deleted   bool            `json:"deleted,omitempty"`
	CreatedAt web.Time        `json:"created_at"`
}

func schemaOf(r schemaRow) Schema {
	return Schema{Category: r.Category, Name: r.Name, Version: r.Version, Schema: json.RawMessage(r.Body), Deleted: r.Body == "", CreatedAt: web.Time(r.CreatedAt.Time())}
}

// SchemaPath names a schema in a URL.
type SchemaPath struct {
	Category string `path:"category"`
	Name     string `path:"name" doc:"Name of the event."`
}

type listSchemasInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

type schemaCursor struct {
	Category string `json:"c"`
	Name     string `json:"n"`
}

type schemaPage struct{ Body web.Page[Schema] }

func schemaPageOf(rows []schemaRow, limit int, cursor func(schemaRow) any) *schemaPage {
	next := ""
	if len(rows) > limit {
		rows = rows[:limit]
		next = web.Cursor(cursor(rows[limit-1]))
	}
	items := make([]Schema, len(rows))
	for i := range rows {
		items[i] = schemaOf(rows[i])
	}
	return &schemaPage{web.NewPage(items, next)}
}

func (h *schemaHTTP) list(ctx context.Context, in *listSchemasInput) (*schemaPage, error) {
	var c schemaCursor
	if in.Cursor != "" {
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
	}
	rows, err := h.schemas.store.current(ctx, c.Category, c.Name, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return schemaPageOf(rows, in.Limit, func(r schemaRow) any { return schemaCursor{r.Category, r.Name} }), nil
}

type getSchemaInput struct {
	SchemaPath
	Version int64 `query:"version" minimum:"1" doc:"A version of the history; the current one if absent."`
}

func (h *schemaHTTP) get(ctx context.Context, in *getSchemaInput) (*struct{ Body Schema }, error) {
	row, err := h.schemas.get(ctx, in.Category, in.Name, in.Version)
	if err != nil {
		return nil, err
	}
	return &struct{ Body Schema }{schemaOf(row)}, nil
}

type listVersionsInput struct {
	SchemaPath
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

type versionCursor struct {
	Before int64 `json:"b"`
}

func (h *schemaHTTP) versions(ctx context.Context, in *listVersionsInput) (*schemaPage, error) {
	c := versionCursor{math.MaxInt64}
	if in.Cursor != "" {
		if err := web.ParseCursor(in.Cursor, &c); err != nil {
			return nil, err
		}
	}
	rows, err := h.schemas.history(ctx, in.Category, in.Name, c.Before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return schemaPageOf(rows, in.Limit, func(r schemaRow) any { return versionCursor{r.Version} }), nil
}

func (h *schemaHTTP) put(w http.ResponseWriter, r *http.Request) {
	if err := unbound(r.Context()); err != nil {
		web.Fail(w, r, err)
		return
	}
	body, err := web.ReadBody(w, r, maxSchemaBytes)
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	row, created, err := h.schemas.put(r.Context(), r.PathValue("category"), r.PathValue("name"), body)
	var bad *malformed
	if errors.As(err, &bad) {
		web.Problem(w, r, http.StatusBadRequest, bad.Error(), bad.Field)
		return
	}
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	web.WriteJSON(w, status, schemaOf(row))
}

func (h *schemaHTTP) remove(ctx context.Context, in *SchemaPath) (*struct{}, error) {
	if err := unbound(ctx); err != nil {
		return nil, err
	}
	return nil, h.schemas.remove(ctx, in.Category, in.Name)
}
