package mailing

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// campaignHTTP serves
//
//	GET    /mailing/campaigns               query campaigns
//	POST   /mailing/campaigns               make one
//	GET    /mailing/campaigns/{id}          one campaign
//	PUT    /mailing/campaigns/{id}          replace it
//	PATCH  /mailing/campaigns/{id}          change parts of it
//	DELETE /mailing/campaigns/{id}          delete it
//	POST   /mailing/campaigns/{id}/pause    hold it
//	POST   /mailing/campaigns/{id}/resume   let it go on
//	POST   /mailing/campaigns/{id}/cancel   end it
//	POST   /mailing/campaigns/{id}/test     send its text to some clients now
//	GET    /mailing/campaigns/{id}/preview  who would get it, and when
type campaignHTTP struct {
	campaigns *campaignService
	previews  *previewService
}

func (h *campaignHTTP) routes(r *web.Router) {
	const one = "/mailing/campaigns/{id}"
	edits := "Before the start everything can be changed, after it end_at, window and, for what has not gone yet, text."
	web.Register(r, web.Op{ID: "mailing-list-campaigns", Method: http.MethodGet, Path: "/mailing/campaigns", Tag: tag,
		Summary: "Query campaigns", Description: "Newest first.", Scope: "mailing:read", Errors: []int{422}}, h.list)
	web.Register(r, web.Op{ID: "mailing-create-campaign", Method: http.MethodPost, Path: "/mailing/campaigns", Tag: tag,
		Summary: "Make a campaign", Description: "It starts by itself at start_at, at once if that is past. A client gets it at most once.",
		Scope: "mailing:write", Status: http.StatusCreated, Creates: true, Errors: []int{422, 503}}, h.create)
	web.Register(r, web.Op{ID: "mailing-get-campaign", Method: http.MethodGet, Path: one, Tag: tag,
		Summary: "Get a campaign", Scope: "mailing:read", Errors: []int{404, 422}}, h.get)
	web.Register(r, web.Op{ID: "mailing-replace-campaign", Method: http.MethodPut, Path: one, Tag: tag,
		Summary: "Replace a campaign", Description: "What is absent is emptied. " + edits, Scope: "mailing:write", Errors: []int{404, 409, 422, 503}}, h.put)
	web.Register(r, web.Op{ID: "mailing-change-campaign", Method: http.MethodPatch, Path: one, Tag: tag,
		Summary: "Change parts of a campaign", Description: "What is absent stays; null for window removes it, null for filter picks everyone. " + edits,
		Scope: "mailing:write", Errors: []int{404, 409, 422, 503}}, h.patch)
	web.Register(r, web.Op{ID: "mailing-delete-campaign", Method: http.MethodDelete, Path: one, Tag: tag,
		Summary: "Delete a campaign", Description: "With its messages. One that has begun has to be finished or canceled first.",
		Scope: "mailing:write", Errors: []int{404, 409, 422, 503}}, h.remove)
	for _, turn := range []struct {
		name, summary, description string
		do                         func(context.Context, int64) (*campaign, error)
	}{
		{"pause", "Pause a campaign", "It does not start, or sends no more; what is with the provider at that moment goes.", h.campaigns.pause},
		{"resume", "Resume a paused campaign", "It goes on where it was.", h.campaigns.resume},
		{"cancel", "Cancel a campaign", "What has not gone will not go. It cannot be resumed.", h.campaigns.cancel},
	} {
		web.Register(r, web.Op{ID: "mailing-" + turn.name + "-campaign", Method: http.MethodPost, Path: one + "/" + turn.name, Tag: tag,
			Summary: turn.summary, Description: turn.description, Scope: "mailing:write", Status: http.StatusOK, Errors: []int{404, 409, 422, 503},
		}, func(ctx context.Context, in *CampaignPath) (*campaignOutput, error) {
			return campaignAnswer(turn.do(ctx, in.ID))
		})
	}
	web.Register(r, web.Op{ID: "mailing-test-campaign", Method: http.MethodPost, Path: one + "/test", Tag: tag,
		Summary:     "Send a campaign's text to some clients now",
		Description: "It counts nowhere, regards neither filter nor window, and is not tried again: what the provider does not accept ends the test.",
		Scope:       "mailing:write", Status: http.StatusOK, Errors: []int{404, 422, 503}}, h.test)
	web.Register(r, web.Op{ID: "mailing-preview-campaign", Method: http.MethodGet, Path: one + "/preview", Tag: tag,
		Summary:     "See who would get a campaign, and when",
		Description: "For the clients there are now, as if none of them had it yet. Times are those at which a message may go: how fast the provider takes them comes on top.",
		Scope:       "mailing:read", Errors: []int{404, 422}}, h.preview)
}

// CampaignWindow is the part of a client's day in which it may be reached.
type CampaignWindow struct {
	From string `json:"from" doc:"Time of day on the client's wall clock." example:"09:00"`
	To   string `json:"to" doc:"No longer inside. Before from it is on the next day; 24:00 is the end of the day." example:"21:00"`
}

// CampaignFilter picks clients.
type CampaignFilter struct {
	OperatorCode []string `json:"operator_code,omitempty" nullable:"false"`
	Tag          []string `json:"tag,omitempty" nullable:"false"`
}

// Campaign is a campaign as it is given back.
type Campaign struct {
	ID        int64           `json:"id"`
	Name      string          `json:"name,omitempty"`
	Text      string          `json:"text"`
	StartAt   web.Time        `json:"start_at"`
	EndAt     web.Time        `json:"end_at"`
	Filter    CampaignFilter  `json:"filter"`
	Window    *CampaignWindow `json:"window,omitempty"`
	Status    string          `json:"status" enum:"scheduled,running,paused,finished,canceled" doc:"finished: every message is final."`
	CreatedAt web.Time        `json:"created_at"`
	UpdatedAt web.Time        `json:"updated_at"`
}

func shownCampaign(c *campaign) Campaign {
	out := Campaign{ID: c.ID, Name: c.Name, Text: c.Text, StartAt: web.Time(c.StartAt), EndAt: web.Time(c.EndAt), Filter: CampaignFilter(c.Filter),
		Status: string(c.Status), CreatedAt: web.Time(c.CreatedAt), UpdatedAt: web.Time(c.UpdatedAt)}
	if c.Window != nil {
		out.Window = &CampaignWindow{clock(c.Window.From), clock(c.Window.To)}
	}
	return out
}

// filterInput is a filter as it is given: values may be a single text.
type filterInput struct {
	raw json.RawMessage
}

// UnmarshalJSON keeps the JSON: parseFilter says better what is wrong.
func (f *filterInput) UnmarshalJSON(b []byte) error {
	f.raw = append(json.RawMessage{}, b...)
	return nil
}

// Schema describes what parseFilter takes.
func (filterInput) Schema(huma.Registry) *huma.Schema {
	most := maxFilterValues
	values := func(doc, example string) *huma.Schema {
		return &huma.Schema{Description: doc, Examples: []any{[]string{example}}, OneOf: []*huma.Schema{{Type: huma.TypeString},
			{Type: huma.TypeArray, MaxItems: &most, Items: &huma.Schema{Type: huma.TypeString}}}}
	}
	return &huma.Schema{Type: huma.TypeObject, Nullable: true, AdditionalProperties: false,
		Description: "Picks clients: those of any of the operators and with any of the tags. Empty or absent: everyone.",
		Properties: map[string]*huma.Schema{
			"operator_code": values("One or several codes of three digits.", "916"),
			"tag":           values("One or several tags.", "vip"),
		}}
}

// windowInput is a window that may be null, and knows whether it was given.
type windowInput struct {
	given bool
	value *CampaignWindow
}

// UnmarshalJSON reads a window or null.
func (w *windowInput) UnmarshalJSON(b []byte) error {
	w.given = true
	return json.Unmarshal(b, &w.value)
}

// Schema describes a window or null.
func (windowInput) Schema(huma.Registry) *huma.Schema {
	at := func(doc, example string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, Description: doc, Examples: []any{example}}
	}
	return &huma.Schema{Type: huma.TypeObject, Nullable: true, AdditionalProperties: false, Required: []string{"from", "to"},
		Description: "The part of each client's day, by its own time zone, in which it may be reached. Absent: always.",
		Properties: map[string]*huma.Schema{
			"from": at("When it opens, 00:00 to 23:59.", "09:00"),
			"to":   at("When it closes, 00:00 to 24:00. Before from: on the next day.", "21:00"),
		}}
}

// read gives the window, nil if there is none.
func (w *windowInput) read() (*window, error) {
	if w.value == nil {
		return nil, nil
	}
	parsed, err := parseWindow(w.value.From, w.value.To)
	if err != nil {
		return nil, err
	}
	return &parsed, nil
}

// NewCampaign is what a campaign is made of.
type NewCampaign struct {
	Name    string      `json:"name,omitempty" maxLength:"200" doc:"For those who read lists." example:"Spring sale"`
	Text    string      `json:"text" doc:"At most 4096 bytes, before and after variables are filled in: {{.attributes.name}}, {{.tag}}, {{.operator_code}}, {{.phone_number}}. Also {{if .tag}}…{{else}}…{{end}} with eq, ne, and, or, not, and {{default \"friend\" .attributes.name}}." example:"Hello {{default \"friend\" .attributes.name}}!"`
	StartAt time.Time   `json:"start_at" doc:"RFC 3339. In the past: at once."`
	EndAt   time.Time   `json:"end_at" doc:"RFC 3339. Nothing goes from then on."`
	Filter  filterInput `json:"filter,omitempty"`
	Window  windowInput `json:"window,omitempty"`
}

// read gives the campaign, or everything that is wrong with it.
func (n *NewCampaign) read() (newCampaign, error) {
	out := newCampaign{Name: n.Name, Text: n.Text, StartAt: moment(n.StartAt), EndAt: moment(n.EndAt)}
	var wrong [3]error
	out.Filter, wrong[0] = parseFilter(n.Filter.raw)
	out.Window, wrong[1] = n.Window.read()
	wrong[2] = (&campaign{Name: out.Name, Text: out.Text, StartAt: out.StartAt, EndAt: out.EndAt}).check()
	return out, together("the campaign is not valid", wrong[:]...)
}

// moment is a time as it is stored.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// together makes one error of the fields of several; nil if there is none.
func together(text string, list ...error) error {
	var fields []errs.Field
	for _, err := range list {
		if err != nil && errs.KindOf(err) != errs.Invalid {
			return err
		}
		fields = append(fields, errs.FieldsOf(err)...)
	}
	if len(fields) == 0 {
		return nil
	}
	return errs.InvalidFields(text, fields...)
}

// CampaignChange is what is to be changed of a campaign.
type CampaignChange struct {
	Name    *string      `json:"name,omitempty" maxLength:"200"`
	Text    *string      `json:"text,omitempty"`
	StartAt *time.Time   `json:"start_at,omitempty"`
	EndAt   *time.Time   `json:"end_at,omitempty"`
	Filter  *filterInput `json:"filter,omitempty"`
	Window  windowInput  `json:"window,omitempty"`
}

// CampaignPath names a campaign in an address.
type CampaignPath struct {
	ID int64 `path:"id" minimum:"1"`
}

type campaignOutput struct{ Body Campaign }

func campaignAnswer(c *campaign, err error) (*campaignOutput, error) {
	if err != nil {
		return nil, err
	}
	return &campaignOutput{shownCampaign(c)}, nil
}

type listCampaignsInput struct {
	Status string `query:"status" enum:"scheduled,running,paused,finished,canceled" doc:"Only campaigns in this status."`
	PageInput
}

// PageInput is what every list takes.
type PageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

// idCursor is the last entry of a page of a list by id.
type idCursor struct {
	ID int64 `json:"i"`
}

// place is the id after which the page begins; 0 for the first.
func (p *PageInput) place() (int64, error) {
	if p.Cursor == "" {
		return 0, nil
	}
	var c idCursor
	if web.ParseCursor(p.Cursor, &c) != nil || c.ID < 1 {
		return 0, errs.InvalidFields("the cursor is not one of this list", errs.Field{Location: "query.cursor", Message: "is not a cursor that this list gave"})
	}
	return c.ID, nil
}

func (h *campaignHTTP) list(ctx context.Context, in *listCampaignsInput) (*struct{ Body web.Page[Campaign] }, error) {
	before, err := in.place()
	if err != nil {
		return nil, err
	}
	page, more, err := h.campaigns.list(ctx, in.Status, before, in.Limit)
	if err != nil {
		return nil, err
	}
	items, next := make([]Campaign, len(page)), ""
	for i := range page {
		items[i] = shownCampaign(&page[i])
	}
	if more {
		next = web.Cursor(idCursor{page[len(page)-1].ID})
	}
	return &struct{ Body web.Page[Campaign] }{web.NewPage(items, next)}, nil
}

func (h *campaignHTTP) create(ctx context.Context, in *struct{ Body NewCampaign }) (*campaignOutput, error) {
	n, err := in.Body.read()
	if err != nil {
		return nil, err
	}
	return campaignAnswer(h.campaigns.create(ctx, n))
}

func (h *campaignHTTP) get(ctx context.Context, in *CampaignPath) (*campaignOutput, error) {
	return campaignAnswer(h.campaigns.get(ctx, in.ID))
}

type putCampaignInput struct {
	CampaignPath
	Body NewCampaign
}

func (h *campaignHTTP) put(ctx context.Context, in *putCampaignInput) (*campaignOutput, error) {
	n, err := in.Body.read()
	if err != nil {
		return nil, err
	}
	return campaignAnswer(h.campaigns.update(ctx, in.ID, campaignChange{Name: &n.Name, Text: &n.Text, StartAt: &n.StartAt, EndAt: &n.EndAt,
		Filter: &n.Filter, Window: n.Window, WindowSet: true}))
}

type patchCampaignInput struct {
	CampaignPath
	Body    CampaignChange
	RawBody []byte
}

func (h *campaignHTTP) patch(ctx context.Context, in *patchCampaignInput) (*campaignOutput, error) {
	// A member that is null and one that is absent look the same in Body.
	var given map[string]json.RawMessage
	if json.Unmarshal(in.RawBody, &given) != nil {
		return nil, errs.InvalidFields("the change is not valid", errs.Field{Location: "body", Message: "must be an object"})
	}
	var nulls []errs.Field
	for _, member := range []string{"name", "text", "start_at", "end_at"} {
		if string(given[member]) == "null" {
			nulls = append(nulls, errs.Field{Location: "body." + member, Message: "cannot be null"})
		}
	}
	if len(nulls) > 0 {
		return nil, errs.InvalidFields("the change is not valid", nulls...)
	}
	to := campaignChange{Name: in.Body.Name, Text: in.Body.Text, WindowSet: in.Body.Window.given}
	for _, at := range []struct{ from, to **time.Time }{{&in.Body.StartAt, &to.StartAt}, {&in.Body.EndAt, &to.EndAt}} {
		if *at.from != nil {
			t := moment(**at.from)
			*at.to = &t
		}
	}
	var wrong [3]error
	if raw, ok := given["filter"]; ok {
		var f filter
		f, wrong[0] = parseFilter(raw)
		to.Filter = &f
	}
	to.Window, wrong[1] = in.Body.Window.read()
	if to.Text != nil {
		wrong[2] = checkText(*to.Text)
	}
	if err := together("the change is not valid", wrong[:]...); err != nil {
		return nil, err
	}
	return campaignAnswer(h.campaigns.update(ctx, in.ID, to))
}

func (h *campaignHTTP) remove(ctx context.Context, in *CampaignPath) (*struct{}, error) {
	return nil, h.campaigns.remove(ctx, in.ID)
}

type testCampaignInput struct {
	CampaignPath
	Body struct {
		ClientIDs []int64 `json:"client_ids" nullable:"false" minItems:"1" maxItems:"20" uniqueItems:"true" doc:"Clients that get it, 1 to 20."`
	}
}

// CampaignTest is what came of a test.
type CampaignTest struct {
	Sent int `json:"sent" doc:"Messages that the provider accepted."`
}

func (h *campaignHTTP) test(ctx context.Context, in *testCampaignInput) (*struct{ Body CampaignTest }, error) {
	sent, err := h.campaigns.test(ctx, in.ID, in.Body.ClientIDs)
	if err != nil {
		return nil, err
	}
	return &struct{ Body CampaignTest }{CampaignTest{sent}}, nil
}

// CampaignPreview is who would get a campaign, and when.
type CampaignPreview struct {
	CampaignID  int64           `json:"campaign_id"`
	Matching    int64           `json:"matching" doc:"Clients that the filter picks."`
	Suppressed  int64           `json:"suppressed" doc:"Of them, those that get nothing, whatever a campaign says."`
	Unreachable int64           `json:"unreachable" doc:"Of the rest, those whose window does not open before the end."`
	Recipients  int64           `json:"recipients" doc:"Those that would get it."`
	FirstAt     *web.Time       `json:"first_at" doc:"When the first of them may be reached; null if there are none."`
	LastAt      *web.Time       `json:"last_at" doc:"When the window of the last of them opens."`
	Zones       []PreviewZone   `json:"zones" nullable:"false" doc:"The time zones with the most clients, at most 100."`
	Clients     []PreviewClient `json:"clients" nullable:"false" doc:"The first 20 that the filter picks."`
}

// PreviewZone is when the clients of a time zone may be reached.
type PreviewZone struct {
	Timezone string    `json:"timezone"`
	Clients  int64     `json:"clients" doc:"Without those who are suppressed."`
	OpensAt  *web.Time `json:"opens_at" doc:"null: not before the end."`
}

// PreviewClient is what a client would get.
type PreviewClient struct {
	ClientID     int64     `json:"client_id"`
	PhoneNumber  string    `json:"phone_number" pii:"phone"`
	OperatorCode string    `json:"operator_code"`
	Tag          string    `json:"tag"`
	Timezone     string    `json:"timezone"`
	Text         string    `json:"text,omitempty" pii:"content" doc:"As the client would get it."`
	ReachedAt    *web.Time `json:"reached_at" doc:"When it may go; null if it will not."`
	Reason       string    `json:"reason,omitempty" enum:"suppressed,window,text" doc:"Why it would not get it: the number is suppressed, the window does not open before the end, the text becomes too long."`
}

func shownMoment(t *time.Time) *web.Time {
	if t == nil {
		return nil
	}
	at := web.Time(*t)
	return &at
}

func (h *campaignHTTP) preview(ctx context.Context, in *CampaignPath) (*struct{ Body CampaignPreview }, error) {
	p, err := h.previews.preview(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := CampaignPreview{CampaignID: in.ID, Matching: p.matching, Suppressed: p.suppressed, Unreachable: p.unreachable, Recipients: p.recipients,
		FirstAt: shownMoment(p.first), LastAt: shownMoment(p.last), Zones: make([]PreviewZone, len(p.zones)), Clients: make([]PreviewClient, len(p.clients))}
	for i, z := range p.zones {
		out.Zones[i] = PreviewZone{z.timezone, z.clients, shownMoment(z.opens)}
	}
	for i, c := range p.clients {
		out.Clients[i] = PreviewClient{c.client.ID, c.client.PhoneNumber, c.client.OperatorCode, c.client.Tag, c.client.Timezone, c.text, shownMoment(c.reached), c.reason}
	}
	return &struct{ Body CampaignPreview }{out}, nil
}
