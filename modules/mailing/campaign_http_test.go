package mailing

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// planner is the part of the module in which campaigns are planned and looked
// at: nothing is sent unless a test does.
type planner struct {
	*apptest.Product
	t         *testing.T
	p         app.Platform
	campaigns *campaignService
	clients   *clientService
	silent    *suppressionService
	sender    *senderClient

	mu  sync.Mutex
	now time.Time
}

// noon is when planners begin.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func newPlanner(t *testing.T, options ...apptest.Option) *planner {
	t.Helper()
	d := &planner{t: t, now: noon}
	m := app.Module{Name: tag, Doc: "campaigns", Config: func() any { return &struct{}{} }, Migrations: os.DirFS("."),
		New: func(p app.Platform) (app.Service, error) {
			log, err := p.EventLog.Open(tag, eventlog.Config{Strategies: []string{eventlog.SQL}})
			d.p = p
			d.sender = newSenderClient("http://127.0.0.1:1", "t", time.Second, 1)
			d.clients = newClientService(p.DB, p.Seal, log, d.clock)
			d.silent = newSuppressionService(p.DB, p.Seal, log, d.clock)
			d.campaigns = &campaignService{store: &campaignStore{p.DB}, messages: &messageStore{p.DB}, clients: d.clients, sender: d.sender, logged: log, now: d.clock, wake: func() {}}
			return plannerService{d}, err
		}}
	d.Product = apptest.Start(t, []app.Module{m}, options...)
	return d
}

type plannerService struct{ d *planner }

func (s plannerService) Routes(r *web.Router) error {
	d := s.d
	(&clientHTTP{d.clients}).routes(r)
	(&campaignHTTP{d.campaigns, &previewService{&previewStore{d.p.DB}, d.campaigns, d.clients, d.silent}}).routes(r)
	(&messageHTTP{d.campaigns, d.campaigns.messages}).routes(r)
	(&statHTTP{d.campaigns, &statStore{d.p.DB}}).routes(r)
	(&resendHTTP{&resendService{&resendStore{d.p.DB}, d.campaigns, d.campaigns.messages, d.campaigns.logged, d.clock}}).routes(r)
	return nil
}
func (plannerService) Start(context.Context) error { return nil }
func (s plannerService) Run(ctx context.Context) error {
	<-ctx.Done()
	s.d.sender.close()
	return nil
}
func (plannerService) Ready(context.Context) error { return nil }

func (d *planner) clock() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

func (d *planner) set(at time.Time) {
	d.mu.Lock()
	d.now = at
	d.mu.Unlock()
}

// plan makes a campaign from noon to noon, with what is given besides.
func (d *planner) plan(more string) Campaign {
	d.t.Helper()
	var c Campaign
	body := `{"text":"Hello","start_at":"2026-06-01T12:00:00Z","end_at":"2026-06-02T12:00:00Z"` + more + `}`
	if status := d.Call(http.MethodPost, "/mailing/campaigns", body, &c); status != http.StatusCreated {
		d.t.Fatalf("%s: %d", body, status)
	}
	return c
}

func (d *planner) client(number, tag, zone, attributes string) int64 {
	d.t.Helper()
	var c Client
	body := fmt.Sprintf(`{"phone_number":%q,"tag":%q,"timezone":%q,"attributes":%s}`, number, tag, zone, attributes)
	if status := d.Call(http.MethodPost, "/mailing/clients", body, &c); status != http.StatusCreated {
		d.t.Fatalf("%s: %d", body, status)
	}
	return c.ID
}

// sql changes what people cannot.
func (d *planner) sql(text string, args ...any) {
	d.t.Helper()
	err := d.p.DB.Tx(d.t.Context(), func(tx store.Querier) error {
		_, err := tx.ExecContext(d.t.Context(), text, args...)
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// messages makes one message for each status, with its error, in a campaign,
// and gives the first id.
func (d *planner) messages(campaign int64, list ...planned) (first int64) {
	d.t.Helper()
	for i := range list {
		list[i].Client = int64(i + 1)
		list[i].Phone = seal.Index{byte(i), byte(i >> 8), byte(campaign)}
		list[i].Due = d.clock()
	}
	err := d.p.DB.Tx(d.t.Context(), func(tx store.Querier) error {
		h := newHanding(campaign, d.clock(), 0)
		if err := d.campaigns.messages.plan(d.t.Context(), tx, list, h); err != nil {
			return err
		}
		return h.tally.save(d.t.Context(), tx)
	})
	if err != nil {
		d.t.Fatal(err)
	}
	got, err := d.campaigns.messages.list(d.t.Context(), messageQuery{Campaign: &campaign, Limit: 1})
	if err != nil {
		d.t.Fatal(err)
	}
	return got[0].ID
}

// says gives the status and the body of an answer as text.
func (d *planner) says(method, path, body string) string {
	d.t.Helper()
	var in any
	if body != "" {
		in = body
	}
	resp, raw := d.Exchange(d.Request(d.Key, method, path, in))
	return fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(raw)))
}

// refused gives the status of a problem, and the places at fault.
func (d *planner) refused(method, path, body string) string {
	d.t.Helper()
	status, text, _ := strings.Cut(d.says(method, path, body), " ")
	var p struct{ Errors []struct{ Location string } }
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		d.t.Fatalf("%s %s: %s %s", method, path, status, text)
	}
	for _, e := range p.Errors {
		status += " " + e.Location
	}
	return status
}

func TestCampaignsAreMadeChangedAndDeleted(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		d := newPlanner(t, options...)
		const times = `"start_at":"2026-06-03T12:00:00+03:00","end_at":"2026-06-04T12:00:00Z"`
		const shown = `"start_at":"2026-06-03T09:00:00.000000Z","end_at":"2026-06-04T12:00:00.000000Z"`
		const made = `"created_at":"2026-06-01T12:00:00.000000Z","updated_at":"2026-06-01T12:00:00.000000Z"}`
		for _, step := range []struct{ name, method, path, body, want string }{
			{"all members", "POST", "", `{"name":"Sale","text":"Hi {{.tag}}",` + times + `,"filter":{"operator_code":["926","916"],"tag":"vip"},"window":{"from":"21:00","to":"24:00"}}`,
				`201 {"id":1,"name":"Sale","text":"Hi {{.tag}}",` + shown + `,"filter":{"operator_code":["916","926"],"tag":["vip"]},"window":{"from":"21:00","to":"24:00"},"status":"scheduled",` + made},
			{"the least", "POST", "/", `{"text":"Hi",` + times + `}`, `201 {"id":2,"text":"Hi",` + shown + `,"filter":{},"status":"scheduled",` + made},
			{"nulls are nothing", "POST", "", `{"text":"Hi",` + times + `,"filter":null,"window":null}`, `201 {"id":3,"text":"Hi",` + shown + `,"filter":{},"status":"scheduled",` + made},
			{"read", "GET", "/1", "", `200 {"id":1,"name":"Sale","text":"Hi {{.tag}}",` + shown + `,"filter":{"operator_code":["916","926"],"tag":["vip"]},"window":{"from":"21:00","to":"24:00"},"status":"scheduled",` + made},
			{"patch the name", "PATCH", "/1", `{"name":"New"}`, `200 {"id":1,"name":"New","text":"Hi {{.tag}}",` + shown + `,"filter":{"operator_code":["916","926"],"tag":["vip"]},"window":{"from":"21:00","to":"24:00"},"status":"scheduled",` + made},
			{"patch the filter", "PATCH", "/1", `{"filter":{"tag":["b","a"]}}`, `200 {"id":1,"name":"New","text":"Hi {{.tag}}",` + shown + `,"filter":{"tag":["a","b"]},"window":{"from":"21:00","to":"24:00"},"status":"scheduled",` + made},
			{"everyone", "PATCH", "/1", `{"filter":null}`, `200 {"id":1,"name":"New","text":"Hi {{.tag}}",` + shown + `,"filter":{},"window":{"from":"21:00","to":"24:00"},"status":"scheduled",` + made},
			{"another window", "PATCH", "/1", `{"window":{"from":"09:00","to":"21:00"}}`, `200 {"id":1,"name":"New","text":"Hi {{.tag}}",` + shown + `,"filter":{},"window":{"from":"09:00","to":"21:00"},"status":"scheduled",` + made},
			{"no window", "PATCH", "/1", `{"window":null}`, `200 {"id":1,"name":"New","text":"Hi {{.tag}}",` + shown + `,"filter":{},"status":"scheduled",` + made},
			{"nothing", "PATCH", "/1", `{}`, `200 {"id":1,"name":"New","text":"Hi {{.tag}}",` + shown + `,"filter":{},"status":"scheduled",` + made},
			{"replace", "PUT", "/1", `{"text":"Bye",` + times + `}`, `200 {"id":1,"text":"Bye",` + shown + `,"filter":{},"status":"scheduled",` + made},
			{"pause", "POST", "/1/pause", "", `200 {"id":1,"text":"Bye",` + shown + `,"filter":{},"status":"paused",` + made},
			{"resume", "POST", "/1/resume", "", `200 {"id":1,"text":"Bye",` + shown + `,"filter":{},"status":"scheduled",` + made},
			{"cancel", "POST", "/1/cancel", "", `200 {"id":1,"text":"Bye",` + shown + `,"filter":{},"status":"canceled",` + made},
			{"by status", "GET", "?status=canceled", "", `200 {"items":[{"id":1,"text":"Bye",` + shown + `,"filter":{},"status":"canceled",` + made + `],"next":null}`},
			{"delete", "DELETE", "/1", "", `204 `},
		} {
			if got := d.says(step.method, "/mailing/campaigns"+step.path, step.body); got != step.want {
				t.Fatalf("%s:\n%s\n%s", step.name, got, step.want)
			}
		}
		if got := d.refused("GET", "/mailing/campaigns/1", ""); got != "404" {
			t.Error("deleted:", got)
		}
	})
}

func TestCampaignsThatCannotBe(t *testing.T) {
	t.Parallel()
	d := newPlanner(t)
	d.plan("")
	d.plan("")
	d.sql(`update mailing_campaign set status = 'running', expanded = 0 where id = 2`)
	const ok = `"text":"Hi","start_at":"2026-06-03T12:00:00Z","end_at":"2026-06-04T12:00:00Z"`
	for _, c := range []struct{ name, method, path, body, want string }{
		{"nothing", "POST", "", `{}`, "422 body body body"},
		{"no text", "POST", "", `{"text":"","start_at":"2026-06-03T12:00:00Z","end_at":"2026-06-04T12:00:00Z"}`, "422 body.text"},
		{"ends before it starts", "POST", "", `{"text":"Hi","start_at":"2026-06-03T12:00:00Z","end_at":"2026-06-03T12:00:00Z"}`, "422 body.end_at"},
		{"no time", "POST", "", `{"text":"Hi","start_at":"tomorrow","end_at":"2026-06-03T12:00:00Z"}`, "422 body.start_at"},
		{"a time without a zone", "POST", "", `{"text":"Hi","start_at":"2026-06-03T12:00:00","end_at":"2026-06-04T12:00:00Z"}`, "422 body.start_at"},
		{"an unknown member", "POST", "", `{` + ok + `,"x":1}`, "422 body.x"},
		{"an unknown variable", "POST", "", `{"text":"{{.name}}","start_at":"2026-06-03T12:00:00Z","end_at":"2026-06-04T12:00:00Z"}`, "422 body.text"},
		{"an unknown filter", "POST", "", `{` + ok + `,"filter":{"city":"x"}}`, "422 body.filter.city"},
		{"no filter", "POST", "", `{` + ok + `,"filter":"vip"}`, "422 body.filter"},
		{"a filter of numbers", "POST", "", `{` + ok + `,"filter":{"operator_code":[916]}}`, "422 body.filter.operator_code"},
		{"an operator of two digits", "POST", "", `{` + ok + `,"filter":{"operator_code":"91"}}`, "422 body.filter.operator_code"},
		{"half a window", "POST", "", `{` + ok + `,"window":{"from":"09:00"}}`, "422 body.window"},
		{"no time of day", "POST", "", `{` + ok + `,"window":{"from":"9","to":"25:00"}}`, "422 body.window.from body.window.to"},
		{"an empty window", "POST", "", `{` + ok + `,"window":{"from":"09:00","to":"09:00"}}`, "422 body.window.to"},
		{"all at once", "POST", "", `{"text":"{{","start_at":"2026-06-03T12:00:00Z","end_at":"2026-06-02T12:00:00Z","filter":{"tag":""},"window":{"from":"x","to":"09:00"}}`,
			"422 body.filter.tag body.window.from body.end_at body.text"},
		{"a null name", "PATCH", "/1", `{"name":null,"text":null}`, "422 body.name body.text"},
		{"an end before the start", "PATCH", "/1", `{"end_at":"2026-05-01T00:00:00Z"}`, "422 body.end_at"},
		{"a broken patch", "PATCH", "/1", `{"text":"{{.x}}","filter":{"tag":[1]},"window":{"from":"a","to":"b"}}`, "422 body.filter.tag"},
		{"a filter after the start", "PATCH", "/2", `{"filter":{"tag":"x"}}`, "409 body.filter"},
		{"a start after the start", "PATCH", "/2", `{"start_at":"2026-06-01T13:00:00Z"}`, "409 body.start_at"},
		{"delete what runs", "DELETE", "/2", "", "409"},
		{"resume what runs", "POST", "/2/resume", "", "409"},
		{"none", "GET", "/99", "", "404"},
		{"none to change", "PATCH", "/99", `{}`, "404"},
		{"none to pause", "POST", "/99/pause", "", "404"},
		{"no number", "GET", "/x", "", "422 path.id"},
		{"an unknown status", "GET", "?status=x", "", "422 query.status"},
		{"a foreign cursor", "GET", "?cursor=x", "", "422 query.cursor"},
		{"a test for nobody", "POST", "/1/test", `{"client_ids":[]}`, "422 body.client_ids"},
		{"a test for a stranger", "POST", "/1/test", `{"client_ids":[99]}`, "404"},
	} {
		if got := d.refused(c.method, "/mailing/campaigns"+c.path, c.body); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	// What may be changed after the start.
	if got := d.says("PATCH", "/mailing/campaigns/2", `{"text":"New","end_at":"2026-06-05T12:00:00Z","window":{"from":"01:00","to":"02:00"},"filter":{},"start_at":"2026-06-01T12:00:00Z"}`); !strings.HasPrefix(got, "200") {
		t.Error(got)
	}
}

func TestCampaignsComeInPagesAndAreMadeOnceForAKey(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		d := newPlanner(t, options...)
		for range 5 {
			d.plan("")
		}
		var got []int64
		for cursor, pages := "", 0; ; pages++ {
			var page web.Page[Campaign]
			if status := d.Call("GET", "/mailing/campaigns?limit=2&cursor="+cursor, nil, &page); status != 200 || pages > 3 {
				t.Fatal(status, pages)
			}
			for _, c := range page.Items {
				got = append(got, c.ID)
			}
			if page.Next == nil {
				break
			}
			cursor = *page.Next
		}
		if !slices.Equal(got, []int64{5, 4, 3, 2, 1}) {
			t.Error(got)
		}
		var ids []string
		for range 2 {
			req := d.Request(d.Key, "POST", "/mailing/campaigns", `{"text":"Hi","start_at":"2026-06-03T12:00:00Z","end_at":"2026-06-04T12:00:00Z"}`)
			req.Header.Set("Idempotency-Key", "k")
			_, raw := d.Exchange(req)
			ids = append(ids, string(raw))
		}
		if ids[0] != ids[1] {
			t.Error(ids)
		}
	})
}

func TestCampaignsAskForTheirScopes(t *testing.T) {
	t.Parallel()
	d := newPlanner(t)
	d.plan("")
	reader := d.NewKey(map[string]any{"name": "r", "scopes": []string{"mailing:read"}})
	writer := d.NewKey(map[string]any{"name": "w", "scopes": []string{"mailing:write"}})
	for route, key := range map[string]string{
		"GET /mailing/campaigns": writer, "GET /mailing/campaigns/1": writer, "GET /mailing/campaigns/1/preview": writer, "GET /mailing/campaigns/1/messages": writer,
		"GET /mailing/messages/1": writer, "GET /mailing/stats": writer, "GET /mailing/campaigns/1/stats": writer, "GET /mailing/campaigns/1/failures": writer,
		"GET /mailing/campaigns/1/messages.csv": writer, "POST /mailing/campaigns": reader, "PUT /mailing/campaigns/1": reader, "PATCH /mailing/campaigns/1": reader,
		"DELETE /mailing/campaigns/1": reader, "POST /mailing/campaigns/1/pause": reader, "POST /mailing/campaigns/1/resume": reader, "POST /mailing/campaigns/1/cancel": reader,
		"POST /mailing/campaigns/1/test": reader, "POST /mailing/campaigns/1/resend": reader,
	} {
		method, path, _ := strings.Cut(route, " ")
		if status := d.CallAs(key, method, path, nil, nil); status != http.StatusForbidden {
			t.Errorf("%s: %d", route, status)
		}
	}
}

func TestPreviewTellsWhoIsReachedAndWhen(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		d := newPlanner(t, options...)
		d.client("79160000001", "vip", "Europe/Moscow", `{"name":"Anna"}`)    // 15:00 there
		d.client("79160000002", "vip", "Asia/Tokyo", `{}`)                    // 21:00: tomorrow at 09:00
		d.client("79160000003", "vip", "America/New_York", `{"name":"Bob"}`)  // 08:00: in an hour
		d.client("79160000004", "vip", "Pacific/Kiritimati", `{"name":"Ki"}`) // 02:00 on the next day: at 19:00 UTC
		d.client("79260000005", "vip", "Europe/Moscow", `{}`)                 // another operator
		d.client("79160000006", "gold", "Europe/Moscow", `{}`)                // another tag
		d.client("79160000007", "vip", "Europe/Moscow", `{"name":"`+strings.Repeat("x", 5000)+`"}`)
		if _, _, err := d.silent.add(t.Context(), "79160000003", "", ""); err != nil {
			t.Fatal(err)
		}
		const pick = `,"filter":{"operator_code":"916","tag":["vip"]},"window":{"from":"09:00","to":"21:00"}`
		var c Campaign
		d.Call("POST", "/mailing/campaigns", `{"text":"Hello {{default \"friend\" .attributes.name}}","start_at":"2026-06-01T11:00:00Z","end_at":"2026-06-02T00:00:00Z"`+pick+`}`, &c)
		var p CampaignPreview
		if status := d.Call("GET", fmt.Sprintf("/mailing/campaigns/%d/preview", c.ID), nil, &p); status != 200 {
			t.Fatal(status)
		}
		if p.Matching != 5 || p.Suppressed != 1 || p.Unreachable != 1 || p.Recipients != 3 {
			t.Errorf("%+v", p)
		}
		if p.FirstAt == nil || p.LastAt == nil || p.FirstAt.String() != "2026-06-01T12:00:00.000000Z" || p.LastAt.String() != "2026-06-01T19:00:00.000000Z" {
			t.Errorf("from %v to %v", p.FirstAt, p.LastAt)
		}
		var got []string
		for _, z := range p.Zones {
			got = append(got, fmt.Sprint(z.Timezone, " ", z.Clients, " ", z.OpensAt))
		}
		if want := []string{"Europe/Moscow 2 2026-06-01T12:00:00.000000Z", "America/New_York 0 2026-06-01T13:00:00.000000Z", "Asia/Tokyo 1 <nil>",
			"Pacific/Kiritimati 1 2026-06-01T19:00:00.000000Z"}; !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
		got = nil
		for _, c := range p.Clients {
			got = append(got, fmt.Sprint(c.ClientID, " ", c.PhoneNumber, " ", c.Text, " ", c.ReachedAt, " ", c.Reason))
		}
		if want := []string{"1 79160000001 Hello Anna 2026-06-01T12:00:00.000000Z ", "2 79160000002 Hello friend <nil> window", "3 79160000003 Hello Bob <nil> suppressed",
			"4 79160000004 Hello Ki 2026-06-01T19:00:00.000000Z ", "7 79160000007  <nil> text"}; !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
		// Nobody, and everyone.
		var none, all CampaignPreview
		d.Call("GET", fmt.Sprintf("/mailing/campaigns/%d/preview", d.plan(`,"filter":{"tag":"no"}`).ID), nil, &none)
		if none.Matching != 0 || none.FirstAt != nil || none.Zones == nil || none.Clients == nil {
			t.Errorf("%+v", none)
		}
		d.Call("GET", fmt.Sprintf("/mailing/campaigns/%d/preview", d.plan("").ID), nil, &all)
		if all.Matching != 7 || all.Recipients != 6 || all.FirstAt.String() != all.LastAt.String() {
			t.Errorf("%+v", all)
		}
		if got := d.refused("GET", "/mailing/campaigns/99/preview", ""); got != "404" {
			t.Error(got)
		}
	})
}

func TestMessagesAndStatsOfCampaigns(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		d := newPlanner(t, options...)
		one, two := d.plan("").ID, d.plan("").ID
		first := d.messages(one, planned{Status: messageSent}, planned{Status: messageFailed, Error: "a"}, planned{Status: messagePending}, planned{Status: messageExpired}, planned{Status: messageFailed, Error: "b"})
		d.messages(two, planned{Status: messageSent}, planned{Status: messageRetrying}, planned{Status: messageSending}, planned{Status: messageCanceled})
		d.sql(`update mailing_message set sent_at = $1, attempts = 2 where id = $2`, store.MicrosOf(noon), first)

		for path, want := range map[string]string{
			"/mailing/stats": `200 {"items":[{"campaign_id":2,"total":4,"by_status":{"pending":0,"sending":1,"sent":1,"retrying":1,"failed":0,"expired":0,"canceled":1}},` +
				`{"campaign_id":1,"total":5,"by_status":{"pending":1,"sending":0,"sent":1,"retrying":0,"failed":2,"expired":1,"canceled":0}}],"next":null,` +
				`"totals":{"total":9,"by_status":{"pending":1,"sending":1,"sent":2,"retrying":1,"failed":2,"expired":1,"canceled":1}}}`,
			"/mailing/campaigns/1/stats": `200 {"campaign_id":1,"total":5,"by_status":{"pending":1,"sending":0,"sent":1,"retrying":0,"failed":2,"expired":1,"canceled":0},"status":"scheduled"}`,
			fmt.Sprintf("/mailing/messages/%d", first): fmt.Sprintf(`200 {"id":%d,"campaign_id":1,"client_id":1,"status":"sent","created_at":"2026-06-01T12:00:00.000000Z",`+
				`"sent_at":"2026-06-01T12:00:00.000000Z","attempts":2,"last_error":"","due_at":"2026-06-01T12:00:00.000000Z"}`, first),
			"/mailing/campaigns/1/failures": fmt.Sprintf(`200 {"campaign_id":1,"reasons":[{"status":"failed","last_error":"a","messages":1,"message_id":%d},`+
				`{"status":"failed","last_error":"b","messages":1,"message_id":%d},{"status":"expired","last_error":"","messages":1,"message_id":%d}],"more":false}`, first+1, first+4, first+3),
			"/mailing/campaigns/1/messages.csv?status=sent&status=failed": fmt.Sprintf("200 id,client_id,status,attempts,last_error,sent_at\n%d,1,sent,2,,2026-06-01T12:00:00.000000Z\n%d,2,failed,0,a,\n%d,5,failed,0,b,", first, first+1, first+4),
		} {
			if got := d.says("GET", path, ""); got != want {
				t.Errorf("%s:\n%s\n%s", path, got, want)
			}
		}
		for query, want := range map[string]string{
			"": "1 2 3 4 5", "?status=failed": "2 5", "?status=failed&status=sent": "1 2 5", "?client_id=3": "3", "?client_id=3&status=sent": "", "?status=canceled": "",
			"?limit=2&status=failed&status=sent&status=expired": "1 2 4 5",
		} {
			var clients []string
			for cursor := ""; ; {
				path := "/mailing/campaigns/1/messages" + query
				if cursor != "" {
					path += "&cursor=" + cursor
				}
				var page web.Page[Message]
				if status := d.Call("GET", path, nil, &page); status != 200 {
					t.Fatal(path, status)
				}
				for _, m := range page.Items {
					clients = append(clients, fmt.Sprint(m.ClientID))
				}
				if page.Next == nil {
					break
				}
				cursor = *page.Next
			}
			if got := strings.Join(clients, " "); got != want {
				t.Errorf("%s: %s, want %s", query, got, want)
			}
		}
		var page StatsPage
		d.Call("GET", "/mailing/stats?limit=1", nil, &page)
		if len(page.Items) != 1 || page.Next == nil || page.Totals.Total != 9 {
			t.Errorf("%+v", page)
		}
		d.Call("GET", "/mailing/stats?limit=1&cursor="+*page.Next, nil, &page)
		if len(page.Items) != 1 || page.Items[0].CampaignID != 1 || page.Next != nil {
			t.Errorf("%+v", page)
		}
		for path, want := range map[string]string{
			"/mailing/messages/999999": "404", "/mailing/campaigns/99/messages": "404", "/mailing/campaigns/99/stats": "404", "/mailing/campaigns/99/failures": "404",
			"/mailing/campaigns/99/messages.csv": "404", "/mailing/campaigns/x/messages.csv": "422 path.id", "/mailing/campaigns/1/messages.csv?status=x": "422 query.status",
			"/mailing/campaigns/1/messages?status=x": "422 query.status[0]", "/mailing/campaigns/1/messages?cursor=x": "422 query.cursor",
		} {
			if got := d.refused("GET", path, ""); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		// A campaign that is being deleted counts no more.
		d.sql(`update mailing_campaign set status = 'deleted' where id = 2`)
		d.Call("GET", "/mailing/stats", nil, &page)
		if len(page.Items) != 1 || page.Totals.Total != 5 {
			t.Errorf("%+v", page)
		}
	})
}

func TestTheExportGoesThroughPages(t *testing.T) {
	t.Parallel()
	d := newPlanner(t)
	id := d.plan("").ID
	list := make([]planned, 2*resendChunk+1)
	d.messages(id, list...)
	resp, raw := d.Exchange(d.Request(d.Key, "GET", "/mailing/campaigns/1/messages.csv", nil))
	if lines := strings.Count(string(raw), "\n"); lines != len(list)+1 || resp.Header.Get("Content-Type") != "text/csv; charset=utf-8" {
		t.Errorf("%d lines of %s", lines, resp.Header.Get("Content-Type"))
	}
	d.sql(`update mailing_message set status = 2`)
	d.sql(`update mailing_message set status = 4 where client > 1`)
	d.sql(`update mailing_count set messages = 1, status = 2`)
	d.sql(`insert into mailing_count (campaign, status, messages) values ($1, 4, $2)`, id, int64(2*resendChunk))
	if got := d.says("POST", "/mailing/campaigns/1/resend", "{}"); got != fmt.Sprintf(`200 {"queued":%d}`, 2*resendChunk) {
		t.Error(got)
	}
	if got := d.says("GET", "/mailing/campaigns/1/messages.csv?status=failed", ""); got != "200 id,client_id,status,attempts,last_error,sent_at" {
		t.Error(got)
	}
}

func TestWhatFailedIsQueuedAgain(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		d := newPlanner(t, options...)
		id := d.plan("").ID
		first := d.messages(id, planned{Status: messageSent}, planned{Status: messageFailed, Error: "a"}, planned{Status: messageFailed, Error: "a"}, planned{Status: messageExpired}, planned{Status: messageFailed, Error: "b"})
		d.sql(`update mailing_campaign set status = 'running', expanded = 0 where id = $1`, id)
		d.set(noon.Add(time.Hour))
		is := func(name, body, answer, counts, status string) {
			t.Helper()
			if got := d.says("POST", "/mailing/campaigns/1/resend", body); got != answer {
				t.Errorf("%s: %s, want %s", name, got, answer)
			}
			var s CampaignDetailStats
			d.Call("GET", "/mailing/campaigns/1/stats", nil, &s)
			if got := fmt.Sprintf("pending %d, failed %d, total %d", s.ByStatus.Pending, s.ByStatus.Failed, s.Total); got != counts || s.Status != status {
				t.Errorf("%s: %s, %s; want %s, %s", name, got, s.Status, counts, status)
			}
		}
		// Others than failed ones, and those of others, stay as they are.
		is("some", fmt.Sprintf(`{"message_ids":[%d,%d,%d,999999]}`, first, first+1, first+3), `200 {"queued":1}`, "pending 1, failed 2, total 5", "running")
		var m Message
		d.Call("GET", fmt.Sprintf("/mailing/messages/%d", first+1), nil, &m)
		if m.Status != "pending" || m.LastError != "" || m.DueAt.String() != "2026-06-01T13:00:00.000000Z" {
			t.Errorf("%+v", m)
		}
		d.sql(`update mailing_campaign set status = 'finished' where id = $1`, id)
		is("all, without a body: it runs again", "", `200 {"queued":2}`, "pending 3, failed 0, total 5", "running")
		is("nothing is left", "{}", `200 {"queued":0}`, "pending 3, failed 0, total 5", "running")
		d.sql(`update mailing_campaign set status = 'finished' where id = $1`, id)
		is("nothing to do: it stays finished", "{}", `200 {"queued":0}`, "pending 3, failed 0, total 5", "finished")

		for status, says := range map[string]string{"canceled": "canceled", "finished": "ended", "running": "ended"} {
			d.set(noon.Add(time.Hour))
			if says == "ended" {
				d.set(noon.Add(24 * time.Hour))
			}
			d.sql(`update mailing_campaign set status = $1 where id = $2`, status, id)
			if got := d.says("POST", "/mailing/campaigns/1/resend", fmt.Sprintf(`{"message_ids":[%d]}`, first+1)); !strings.HasPrefix(got, "409") || !strings.Contains(got, says) {
				t.Errorf("%s: %s", status, got)
			}
		}
		for body, want := range map[string]string{`{"message_ids":[]}`: "422 body.message_ids", `{"message_ids":["x"]}`: "422 body.message_ids[0]", `{"x":1}`: "422 body.x"} {
			if got := d.refused("POST", "/mailing/campaigns/1/resend", body); got != want {
				t.Errorf("%s: %s", body, got)
			}
		}
		if got := d.refused("POST", "/mailing/campaigns/99/resend", "{}"); got != "404" {
			t.Error(got)
		}
	})
}
