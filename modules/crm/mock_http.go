package crm

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// mockHTTP serves the client's CRM, as its description has it:
//
//	GET    /crm/users       all users
//	POST   /crm/users       create one
//	GET    /crm/users/{id}  one user
//	POST   /crm/users/{id}  replace it
//	GET    /crm/trips       the same for trips
//	POST   /crm/trips
//	GET    /crm/trips/{id}
//	POST   /crm/trips/{id}
//
// and what makes it fail and tells what it was asked:
//
//	GET    /crm/mock         what it holds and was asked
//	DELETE /crm/mock         forget all objects
//	GET    /crm/mock/history the states that objects had
//	GET    /crm/mock/faults  what goes wrong
//	PUT    /crm/mock/faults  change it
type mockHTTP struct{ m *mock.Mock }

func (h mockHTTP) routes(r *web.Router) {
	for _, d := range []mockResource{
		{"users", "user", "User", userSchema, map[string]any{
			"Id": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "LastName": "Zhutaekipo", "FirstName": "Mylaeshuro", "Email": "Baelofupynyx@trafi.com",
			"LastTripType": "Scooter", "LastTripId": "0f8fad5b-d9cb-469f-a165-70867728950e", "LastTripDate": "2023-04-25T12:56:15.1234567+03:00"}},
		{"trips", "trip", "Trip", tripSchema, map[string]any{
			"Id": "0f8fad5b-d9cb-469f-a165-70867728950e", "UserId": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "From": "Gaezhilomu", "To": nil,
			"Price": 0.73, "StartDate": "2023-04-25T12:56:15.1234567+03:00", "EndDate": nil, "Type": "Scooter"}},
	} {
		h.mount(r, d)
	}
	web.Register(r, web.Op{ID: "crm-get-mock", Method: http.MethodGet, Path: "/crm/mock", Summary: "Tell what the mock holds and was asked",
		Description: "The mock is the CRM at `/crm/users` and `/crm/trips`. Counts are since the start of the process or the last reset.", Scope: "crm:read"}, h.counts)
	web.Register(r, web.Op{ID: "crm-reset-mock", Method: http.MethodDelete, Path: "/crm/mock", Summary: "Let the mock forget all objects",
		Description: "The history and the counts go too. Faults stay.", Scope: "crm:write"}, h.reset)
	web.Register(r, web.Op{ID: "crm-list-mock-history", Method: http.MethodGet, Path: "/crm/mock/history", Summary: "List the states that objects of the mock had",
		Description: "In the order in which they came. The latest 100,000 are kept, and at most 64 MiB of them.", Scope: "crm:read", Errors: []int{422}}, h.history)
	web.Register(r, web.Op{ID: "crm-get-mock-faults", Method: http.MethodGet, Path: "/crm/mock/faults", Summary: "Tell what goes wrong at the mock", Scope: "crm:read"}, h.faults)
	web.Register(r, web.Op{ID: "crm-put-mock-faults", Method: http.MethodPut, Path: "/crm/mock/faults", Summary: "Change what goes wrong at the mock",
		Description: "It replaces all that was set: `{}` heals. The shares are together at most 1; a request to `/crm/users` or `/crm/trips` suffers one of them.",
		Scope:       "crm:write", Errors: []int{422}}, h.putFaults)
}

// mockResource is a collection of the CRM for the OpenAPI.
type mockResource struct {
	path, noun, name string
	schema           func(idRequired bool) *huma.Schema
	example          map[string]any
}

func (h mockHTTP) mount(r *web.Router, d mockResource) {
	// By hand: a type would be named after the module, and these are the CRM's.
	schemas := r.API.OpenAPI().Components.Schemas.Map()
	full, posted := "CRM"+d.name, "CRM"+d.name+"Posted"
	schemas[full], schemas[posted] = d.schema(true), d.schema(false)
	content := func(schema *huma.Schema, example any) map[string]*huma.MediaType {
		return map[string]*huma.MediaType{"application/json": {Schema: schema, Example: example}}
	}
	ref := func(name string) *huma.Schema { return &huma.Schema{Ref: "#/components/schemas/" + name} }
	answer := func(status, description string) map[string]*huma.Response {
		return map[string]*huma.Response{status: {Description: description, Content: content(ref(full), d.example)}}
	}
	id := []*huma.Param{{Name: "id", In: "path", Required: true, Description: "The Id, percent-encoded.", Example: d.example["Id"],
		Schema: &huma.Schema{Type: huma.TypeString}}}
	body := &huma.RequestBody{Required: true, Content: content(ref(posted), d.example),
		Description: "Names are read in any letter case; unknown ones are ignored. Dates and numbers are kept as they are written."}
	all, one := "/crm/"+d.path, "/crm/"+d.path+"/{id}"

	r.Handle(web.Op{ID: "crm-list-" + d.path, Method: http.MethodGet, Path: all, Summary: "List all " + d.path,
		Description: "A bare array, in the order of creation.", Scope: "crm:read",
		Responses: map[string]*huma.Response{"200": {Description: "All " + d.path + ".",
			Content: content(&huma.Schema{Type: huma.TypeArray, Items: ref(full)}, []any{d.example})}}}, h.m)

	created := answer("201", "It was created.")
	created["201"].Headers = map[string]*huma.Param{"Location": {Description: "Where the " + d.noun + " is.", Schema: &huma.Schema{Type: huma.TypeString, Format: "uri-reference"}}}
	r.Handle(web.Op{ID: "crm-create-" + d.noun, Method: http.MethodPost, Path: all, Summary: "Create a " + d.noun,
		Description: "An `Id` is made when absent. A taken one is 409.", Scope: "crm:write", Creates: true, MaxBody: mock.MaxBody, Status: http.StatusCreated,
		Request: body, Responses: created, Errors: []int{400, 409, 413}}, http.HandlerFunc(h.post))

	r.Handle(web.Op{ID: "crm-get-" + d.noun, Method: http.MethodGet, Path: one, Summary: "Get a " + d.noun, Scope: "crm:read",
		Parameters: id, Responses: answer("200", "The "+d.noun+"."), Errors: []int{404}}, h.m)

	r.Handle(web.Op{ID: "crm-replace-" + d.noun, Method: http.MethodPost, Path: one, Summary: "Replace a " + d.noun,
		Description: "Every property is replaced. The Id of the path counts, whatever the body says.", Scope: "crm:write", MaxBody: mock.MaxBody,
		Parameters: id, Request: body, Responses: answer("200", "It was replaced."), Errors: []int{400, 404, 413}}, http.HandlerFunc(h.post))
}

func property(kind, format, description string, nullable bool) *huma.Schema {
	return &huma.Schema{Type: kind, Format: format, Nullable: nullable, Description: description}
}

func userSchema(idRequired bool) *huma.Schema {
	return objectSchema(idRequired, []string{"LastName", "Email", "LastTripDate"}, map[string]*huma.Schema{
		"Id":           property(huma.TypeString, "", "Any text that is not empty.", false),
		"LastName":     property(huma.TypeString, "", "", false),
		"FirstName":    property(huma.TypeString, "", "", true),
		"Email":        property(huma.TypeString, "", "", false),
		"LastTripType": property(huma.TypeString, "", "", true),
		"LastTripId":   property(huma.TypeString, "", "", true),
		"LastTripDate": property(huma.TypeString, "date-time", "With an offset and up to seven digits of a fraction.", false),
	})
}

func tripSchema(idRequired bool) *huma.Schema {
	return objectSchema(idRequired, []string{"UserId", "Price", "StartDate", "Type"}, map[string]*huma.Schema{
		"Id":        property(huma.TypeString, "", "Any text that is not empty.", false),
		"UserId":    property(huma.TypeString, "", "", false),
		"From":      property(huma.TypeString, "", "", true),
		"To":        property(huma.TypeString, "", "", true),
		"Price":     property(huma.TypeNumber, "double", "", false),
		"StartDate": property(huma.TypeString, "date-time", "With an offset and up to seven digits of a fraction.", false),
		"EndDate":   property(huma.TypeString, "date-time", "", true),
		"Type":      property(huma.TypeString, "", "", false),
	})
}

func objectSchema(idRequired bool, required []string, properties map[string]*huma.Schema) *huma.Schema {
	if idRequired {
		required = append([]string{"Id"}, required...)
	}
	return &huma.Schema{Type: huma.TypeObject, Required: required, Properties: properties}
}

// post reads the body with the limits and the answers of this server.
func (h mockHTTP) post(w http.ResponseWriter, r *http.Request) {
	if _, err := web.ReadBody(w, r, 0); err != nil {
		web.Fail(w, r, err)
		return
	}
	h.m.ServeHTTP(w, r)
}

func (h mockHTTP) counts(context.Context, *struct{}) (*struct{ Body mock.Counts }, error) {
	return &struct{ Body mock.Counts }{h.m.Counts()}, nil
}

func (h mockHTTP) reset(context.Context, *struct{}) (*struct{}, error) {
	h.m.Reset()
	return nil, nil
}

// MockChange is a state that an object of the mock got.
type MockChange struct {
	Seq     int64           `json:"seq" doc:"Counts the changes of all objects, from 0."`
	At      web.Time        `json:"at" doc:"When it happened."`
	Kind    string          `json:"kind" enum:"users,trips" doc:"The collection."`
	ID      string          `json:"id" pii:"content" doc:"The Id."`
	Created bool            `json:"created" doc:"Whether the object was new."`
	State   json.RawMessage `json:"state" pii:"content" doc:"The object from then on."`
}

type mockHistoryInput struct {
	Kind   string `query:"kind" enum:"users,trips" doc:"Only of this collection."`
	ID     string `query:"id" pii:"content" doc:"Only of this Id."`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

func (h mockHTTP) history(_ context.Context, in *mockHistoryInput) (*struct{ Body web.Page[MockChange] }, error) {
	var from int64
	if in.Cursor != "" {
		if err := web.ParseCursor(in.Cursor, &from); err != nil {
			return nil, err
		}
	}
	changes := h.m.History(in.Kind, in.ID, from, in.Limit+1)
	next := ""
	if len(changes) > in.Limit {
		next = web.Cursor(changes[in.Limit].Seq)
		changes = changes[:in.Limit]
	}
	items := make([]MockChange, len(changes))
	for i, c := range changes {
		items[i] = MockChange{c.Seq, web.Time(c.At), c.Kind, c.ID, c.Created, c.State}
	}
	return &struct{ Body web.Page[MockChange] }{web.NewPage(items, next)}, nil
}

func (h mockHTTP) faults(context.Context, *struct{}) (*struct{ Body mock.Faults }, error) {
	return &struct{ Body mock.Faults }{h.m.Faults()}, nil
}

func (h mockHTTP) putFaults(_ context.Context, in *struct{ Body mock.Faults }) (*struct{ Body mock.Faults }, error) {
	if err := in.Body.Check(); err != nil {
		return nil, errs.InvalidFields(err.Error(), errs.Field{Location: "body", Message: err.Error()})
	}
	h.m.SetFaults(in.Body)
	return &struct{ Body mock.Faults }{h.m.Faults()}, nil
}
