package mailing

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// clientHTTP serves
//
//	GET    /mailing/clients       query clients
//	POST   /mailing/clients       make one
//	GET    /mailing/clients/{id}  one client
//	PUT    /mailing/clients/{id}  replace it
//	PATCH  /mailing/clients/{id}  change parts of it
//	DELETE /mailing/clients/{id}  delete it
type clientHTTP struct{ clients *clientService }

func (h *clientHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "mailing-list-clients", Method: http.MethodGet, Path: "/mailing/clients", Tag: tag,
		Summary: "Query clients", Description: "In the order of their ids. Filters combine; several values of one mean any of them.",
		Scope: "mailing:read", Errors: []int{422}}, h.list)
	web.Register(r, web.Op{ID: "mailing-create-client", Method: http.MethodPost, Path: "/mailing/clients", Tag: tag,
		Summary:     "Make a client",
		Description: "It also gets what campaigns that are running have for it.",
		Scope:       "mailing:write", Status: http.StatusCreated, Creates: true, Errors: []int{409, 422, 503}}, h.create)
	web.Register(r, web.Op{ID: "mailing-get-client", Method: http.MethodGet, Path: "/mailing/clients/{id}", Tag: tag,
		Summary: "Get a client", Scope: "mailing:read", Errors: []int{404, 422}}, h.get)
	web.Register(r, web.Op{ID: "mailing-replace-client", Method: http.MethodPut, Path: "/mailing/clients/{id}", Tag: tag,
		Summary: "Replace a client", Scope: "mailing:write", Errors: []int{404, 409, 422, 503}}, h.put)
	web.Register(r, web.Op{ID: "mailing-change-client", Method: http.MethodPatch, Path: "/mailing/clients/{id}", Tag: tag,
		Summary: "Change parts of a client",
		Description: "A JSON Merge Patch (RFC 7396) of the client's own members: what is absent stays. attributes are replaced as a whole; null removes them. " +
			"null for operator_code takes it from the phone number.",
		Scope: "mailing:write", Errors: []int{404, 409, 422, 503}}, h.patch)
	web.Register(r, web.Op{ID: "mailing-delete-client", Method: http.MethodDelete, Path: "/mailing/clients/{id}", Tag: tag,
		Summary: "Delete a client", Description: "What is pending for it is canceled.",
		Scope: "mailing:write", Errors: []int{404, 422, 503}}, h.remove)
}

// Attributes are what a client has besides. Numbers stay as they were written.
type Attributes map[string]any

// UnmarshalJSON reads an object, or null.
func (a *Attributes) UnmarshalJSON(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return dec.Decode((*map[string]any)(a))
}

// Client is a client as it is given back.
type Client struct {
	ID           int64      `json:"id"`
	PhoneNumber  string     `json:"phone_number" pii:"phone" doc:"Empty once the person was erased."`
	OperatorCode string     `json:"operator_code"`
	Tag          string     `json:"tag"`
	Timezone     string     `json:"timezone"`
	Attributes   Attributes `json:"attributes,omitempty" pii:"content"`
	CreatedAt    web.Time   `json:"created_at"`
	UpdatedAt    web.Time   `json:"updated_at"`
}

func shownClient(c *client) Client {
	return Client{c.ID, c.PhoneNumber, c.OperatorCode, c.Tag, c.Timezone, c.Attributes, web.Time(c.CreatedAt), web.Time(c.UpdatedAt)}
}

// NewClient is what a client is made of.
type NewClient struct {
	PhoneNumber  string     `json:"phone_number" pii:"phone" pattern:"^7[0-9]{10}$" doc:"7 and ten more digits; no two clients share one." example:"79161234567"`
	OperatorCode *string    `json:"operator_code,omitempty" pattern:"^[0-9]{3}$" doc:"Code of the mobile operator; digits 2 to 4 of the number if absent, and free to differ from them." example:"916"`
	Tag          string     `json:"tag" minLength:"1" maxLength:"100" doc:"Any text without control characters. It lies in the clear." example:"vip"`
	Timezone     string     `json:"timezone" maxLength:"64" doc:"Name of an IANA time zone." example:"Europe/Moscow"`
	Attributes   Attributes `json:"attributes,omitempty" pii:"content" doc:"Any further members, for texts: at most 16 KiB, nested at most 4 levels deep, names of 1 to 64 letters, digits and underscores."`
}

func (n *NewClient) plain() newClient {
	return newClient{n.PhoneNumber, n.OperatorCode, n.Tag, n.Timezone, n.Attributes}
}

// ClientChange is what is to be changed of a client.
type ClientChange struct {
	PhoneNumber  *string    `json:"phone_number,omitempty" pii:"phone" pattern:"^7[0-9]{10}$"`
	OperatorCode *string    `json:"operator_code,omitempty" pattern:"^[0-9]{3}$" nullable:"true"`
	Tag          *string    `json:"tag,omitempty" minLength:"1" maxLength:"100"`
	Timezone     *string    `json:"timezone,omitempty" maxLength:"64"`
	Attributes   Attributes `json:"attributes,omitempty" pii:"content" doc:"Replace all there were."`
}

type listClientsInput struct {
	OperatorCode []string `query:"operator_code,explode" maxItems:"100" doc:"Only clients of this operator; may be repeated."`
	Tag          []string `query:"tag,explode" maxItems:"100" doc:"Only clients with this tag; may be repeated."`
	PhoneNumber  string   `query:"phone_number" pii:"phone" doc:"Only the client with this number."`
	Limit        int      `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor       string   `query:"cursor" doc:"The next of the page before."`
}

// clientCursor is the last client of a page.
type clientCursor struct {
	ID int64 `json:"i"`
}

type clientPage struct{ Body web.Page[Client] }

func (h *clientHTTP) list(ctx context.Context, in *listClientsInput) (*clientPage, error) {
	q := clientQuery{Limit: in.Limit}
	var wrong []errs.Field
	for _, code := range in.OperatorCode {
		if !allDigits(code, operatorCodeDigits) {
			wrong = append(wrong, errs.Field{Location: "query.operator_code", Message: "must be three digits"})
		}
	}
	for _, text := range in.Tag {
		if message := checkTag(text); message != "" {
			wrong = append(wrong, errs.Field{Location: "query.tag", Message: message})
		}
	}
	q.Filter = filter{OperatorCode: distinct(in.OperatorCode), Tag: distinct(in.Tag)}
	if in.PhoneNumber != "" {
		phone, ok := h.clients.phoneIndex(in.PhoneNumber)
		if !ok {
			wrong = append(wrong, errs.Field{Location: "query.phone_number", Message: "is not a phone number"})
		}
		q.Phone = &phone
	}
	if in.Cursor != "" {
		var c clientCursor
		if web.ParseCursor(in.Cursor, &c) != nil || c.ID < 1 {
			wrong = append(wrong, errs.Field{Location: "query.cursor", Message: "is not a cursor that this list gave"})
		}
		q.After = c.ID
	}
	if len(wrong) > 0 {
		return nil, errs.InvalidFields("the query is not valid", wrong...)
	}
	page, more, err := h.clients.list(ctx, q)
	if err != nil {
		return nil, err
	}
	items := make([]Client, len(page))
	for i, c := range page {
		items[i] = shownClient(c)
	}
	next := ""
	if more {
		next = web.Cursor(clientCursor{page[len(page)-1].ID})
	}
	return &clientPage{web.NewPage(items, next)}, nil
}

// distinct gives values sorted, each once.
func distinct(values []string) []string {
	values = slices.Clone(values)
	slices.Sort(values)
	return slices.Compact(values)
}

type clientOutput struct{ Body Client }

func clientAnswer(c *client, err error) (*clientOutput, error) {
	if err != nil {
		return nil, err
	}
	return &clientOutput{shownClient(c)}, nil
}

type createClientInput struct{ Body NewClient }

func (h *clientHTTP) create(ctx context.Context, in *createClientInput) (*clientOutput, error) {
	return clientAnswer(h.clients.create(ctx, in.Body.plain()))
}

// ClientPath names a client in an address.
type ClientPath struct {
	ID int64 `path:"id" minimum:"1"`
}

func (h *clientHTTP) get(ctx context.Context, in *ClientPath) (*clientOutput, error) {
	return clientAnswer(h.clients.get(ctx, in.ID))
}

type putClientInput struct {
	ClientPath
	Body NewClient
}

func (h *clientHTTP) put(ctx context.Context, in *putClientInput) (*clientOutput, error) {
	return clientAnswer(h.clients.put(ctx, in.ID, in.Body.plain()))
}

type patchClientInput struct {
	ClientPath
	Body    ClientChange
	RawBody []byte
}

func (h *clientHTTP) patch(ctx context.Context, in *patchClientInput) (*clientOutput, error) {
	// A member that is null and one that is absent look the same in Body.
	var given map[string]json.RawMessage
	if err := json.Unmarshal(in.RawBody, &given); err != nil {
		return nil, errs.InvalidFields("the change is not valid", errs.Field{Location: "body", Message: "must be an object"})
	}
	null := func(member string) bool { return string(given[member]) == "null" }
	for _, member := range []string{"phone_number", "tag", "timezone"} {
		if null(member) {
			return nil, errs.InvalidFields("the change is not valid", errs.Field{Location: "body." + member, Message: "cannot be removed"})
		}
	}
	change := clientChange{PhoneNumber: in.Body.PhoneNumber, OperatorCode: in.Body.OperatorCode, Tag: in.Body.Tag, Timezone: in.Body.Timezone,
		DeriveOperator: null("operator_code"), Attributes: in.Body.Attributes}
	_, change.ReplaceAttributes = given["attributes"]
	return clientAnswer(h.clients.patch(ctx, in.ID, change))
}

func (h *clientHTTP) remove(ctx context.Context, in *ClientPath) (*struct{}, error) {
	return nil, h.clients.remove(ctx, in.ID)
}
