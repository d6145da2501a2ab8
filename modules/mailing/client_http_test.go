package mailing

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/web"
)

// book is the part of the module that keeps clients.
type book struct {
	*apptest.Product
	t       *testing.T
	p       app.Platform
	log     *eventlog.Log
	clients *clientService
}

func newBook(t *testing.T, options ...apptest.Option) *book {
	t.Helper()
	b := &book{t: t}
	m := app.Module{Name: tag, Doc: "clients", Config: func() any { return &struct{}{} }, Migrations: os.DirFS("."),
		New: func(p app.Platform) (app.Service, error) {
			log, err := p.EventLog.Open(tag, eventlog.Config{Strategies: []string{eventlog.SQL}})
			b.p, b.log, b.clients = p, log, newClientService(p.DB, p.Seal, log, p.Now)
			return bookService{b}, err
		}}
	b.Product = apptest.Start(t, []app.Module{m}, options...)
	return b
}

type bookService struct{ b *book }

func (s bookService) Routes(r *web.Router) error {
	(&clientHTTP{s.b.clients}).routes(r)
	(&importHTTP{newImportService(s.b.clients, s.b.p.Now), s.b.p.Log, s.b.p.Now}).routes(r)
	return nil
}
func (bookService) Start(context.Context) error   { return nil }
func (bookService) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (bookService) Ready(context.Context) error   { return nil }

// make makes a client, valid but for what is changed.
func (b *book) make(phone, tag string) Client {
	b.t.Helper()
	var c Client
	if status := b.Call(http.MethodPost, "/mailing/clients", NewClient{PhoneNumber: phone, Tag: tag, Timezone: "Europe/Moscow"}, &c); status != http.StatusCreated {
		b.t.Fatalf("make %s: %d", phone, status)
	}
	return c
}

// erase destroys the key of a person.
func (b *book) erase(phone string) {
	b.t.Helper()
	alias, _ := seal.Phone(phone)
	persons, err := b.p.Seal.Find(b.t.Context(), alias)
	if err != nil || len(persons) != 1 {
		b.t.Fatal(persons, err)
	}
	if err := b.p.Seal.Erase(b.t.Context(), persons[0]); err != nil {
		b.t.Fatal(err)
	}
}

// refused gives the status of an exchange, and the places at fault.
func (b *book) refused(method, path, body string) string {
	b.t.Helper()
	resp, raw := b.Exchange(b.Request(b.Key, method, path, body))
	var p struct {
		Errors []struct{ Location, Message string }
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		b.t.Fatalf("%s %s: %s: %s", method, path, resp.Status, raw)
	}
	out := fmt.Sprint(resp.StatusCode)
	for _, e := range p.Errors {
		out += " " + e.Location
		if e.Location == "body" {
			out += " (" + e.Message + ")"
		}
	}
	return out
}

func TestClientsAreMadeReadChangedAndDeleted(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		b := newBook(t, options...)
		var deleted []int64
		b.clients.onDeleted = func(_ context.Context, tx store.Querier, id int64) (func(), error) {
			var n int
			deleted = append(deleted, id)
			return func() {}, tx.QueryRowContext(t.Context(), `select count(*) from mailing_client`).Scan(&n)
		}
		const full = `{"phone_number":"79161234567","operator_code":"901","tag":"vip ä","timezone":"Asia/Tokyo","attributes":{"name":"Anna","n":12345678901234567890,"deep":{"a":[1.50,null,true]}}}`
		step := func(name, method, path, body string, want int, shown string) {
			t.Helper()
			var c map[string]json.RawMessage
			var out any = &c
			if want == http.StatusNoContent {
				out = nil
			}
			if got := b.Call(method, path, body, out); got != want {
				t.Fatalf("%s: %d, want %d: %s", name, got, want, c)
			}
			got := ""
			for _, member := range []string{"id", "phone_number", "operator_code", "tag", "timezone", "attributes"} {
				if c[member] != nil {
					got += " " + string(c[member])
				}
			}
			if shown != "" && strings.TrimSpace(got) != shown {
				t.Errorf("%s:\n%s\n%s", name, strings.TrimSpace(got), shown)
			}
		}
		step("all members", "POST", "/mailing/clients", full, 201, `1 "79161234567" "901" "vip ä" "Asia/Tokyo" {"deep":{"a":[1.50,null,true]},"n":12345678901234567890,"name":"Anna"}`)
		step("operator of the number", "POST", "/mailing/clients/", `{"phone_number":"79271234567","tag":"t","timezone":"UTC"}`, 201, `2 "79271234567" "927" "t" "UTC"`)
		step("read", "GET", "/mailing/clients/1", "", 200, `1 "79161234567" "901" "vip ä" "Asia/Tokyo" {"deep":{"a":[1.50,null,true]},"n":12345678901234567890,"name":"Anna"}`)
		step("patch one", "PATCH", "/mailing/clients/1", `{"tag":"new"}`, 200, `1 "79161234567" "901" "new" "Asia/Tokyo" {"deep":{"a":[1.50,null,true]},"n":12345678901234567890,"name":"Anna"}`)
		step("patch attributes as a whole", "PATCH", "/mailing/clients/1", `{"attributes":{"x":1}}`, 200, `1 "79161234567" "901" "new" "Asia/Tokyo" {"x":1}`)
		step("remove attributes", "PATCH", "/mailing/clients/1", `{"attributes":null}`, 200, `1 "79161234567" "901" "new" "Asia/Tokyo"`)
		step("patch the number alone", "PATCH", "/mailing/clients/1", `{"phone_number":"79990000000"}`, 200, `1 "79990000000" "901" "new" "Asia/Tokyo"`)
		step("operator of the number again", "PATCH", "/mailing/clients/1", `{"operator_code":null}`, 200, `1 "79990000000" "999" "new" "Asia/Tokyo"`)
		step("nothing", "PATCH", "/mailing/clients/1", `{}`, 200, `1 "79990000000" "999" "new" "Asia/Tokyo"`)
		step("replace", "PUT", "/mailing/clients/1", `{"phone_number":"79161234567","tag":"v","timezone":"Europe/Paris"}`, 200, `1 "79161234567" "916" "v" "Europe/Paris"`)
		step("what was replaced", "GET", "/mailing/clients/1", "", 200, `1 "79161234567" "916" "v" "Europe/Paris"`)
		step("delete", "DELETE", "/mailing/clients/1", "", 204, "")
		step("the number is free", "POST", "/mailing/clients", full, 201, "")
		for _, c := range []struct{ name, method, path, body, want string }{
			{"taken", "POST", "/mailing/clients", full, "409 body.phone_number"},
			{"taken by a put", "PUT", "/mailing/clients/2", full, "409 body.phone_number"},
			{"taken by a patch", "PATCH", "/mailing/clients/2", `{"phone_number":"79161234567"}`, "409 body.phone_number"},
			{"gone", "GET", "/mailing/clients/1", "", "404"},
			{"put nothing", "PUT", "/mailing/clients/77", full, "404"},
			{"patch nothing", "PATCH", "/mailing/clients/77", `{}`, "404"},
			{"delete nothing", "DELETE", "/mailing/clients/1", "", "404"},
			{"no id", "GET", "/mailing/clients/x", "", "422 path.id"},
			{"remove what must be", "PATCH", "/mailing/clients/2", `{"tag":null}`, "422 body.tag"},
			{"bad patch", "PATCH", "/mailing/clients/2", `{"timezone":"Local"}`, "422 body.timezone"},
			{"unknown in a patch", "PATCH", "/mailing/clients/2", `{"id":4}`, "422 body.id"},
			{"id is not given", "PUT", "/mailing/clients/2", `{"id":2,"phone_number":"79271234567","tag":"t","timezone":"UTC"}`, "422 body.id"},
			{"filter", "GET", "/mailing/clients?operator_code=9x&tag=%00&phone_number=x&cursor=zz", "", "422 query.operator_code query.tag query.phone_number query.cursor"},
		} {
			if got := b.refused(c.method, c.path, c.body); got != c.want {
				t.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
		}
		if diff := cmp.Diff([]int64{1}, deleted); diff != "" {
			t.Error(diff)
		}
		reader, writer := b.NewKey(map[string]any{"scopes": []string{"mailing:read"}}), b.NewKey(map[string]any{"scopes": []string{"mailing:write"}})
		for _, c := range []struct {
			key, method, path string
			want              int
		}{
			{"", "GET", "/mailing/clients", 401}, {writer, "GET", "/mailing/clients", 403}, {reader, "GET", "/mailing/clients", 200}, {writer, "GET", "/mailing/clients/2", 403},
			{reader, "POST", "/mailing/clients", 403}, {reader, "PUT", "/mailing/clients/2", 403}, {reader, "PATCH", "/mailing/clients/2", 403},
			{reader, "DELETE", "/mailing/clients/2", 403}, {reader, "POST", "/mailing/clients/import?format=csv", 403}, {writer, "DELETE", "/mailing/clients/2", 204},
		} {
			if got := b.CallAs(c.key, c.method, c.path, nil, nil); got != c.want {
				t.Errorf("%s %s: %d, want %d", c.method, c.path, got, c.want)
			}
		}
		if err := b.log.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		page, err := b.log.Find(t.Context(), eventlog.Query{Ref: eventlog.SerialRef(refClient, 2)})
		if err != nil || len(page.Entries) != 2 || page.Entries[0].Event != "client.deleted" || page.Entries[1].Event != "client.created" {
			t.Errorf("the log of a client: %+v (%v)", page.Entries, err)
		}
	})
}

func TestAClientIsMadeOnceForAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	var ids []int64
	for range 2 {
		r := b.Request(b.Key, http.MethodPost, "/mailing/clients", `{"phone_number":"79161234567","tag":"t","timezone":"UTC"}`)
		r.Header.Set("Idempotency-Key", "k1")
		resp, raw := b.Exchange(r)
		var c Client
		if err := json.Unmarshal(raw, &c); err != nil || resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %s", resp.Status, raw)
		}
		ids = append(ids, c.ID)
	}
	if ids[0] != ids[1] {
		t.Error(ids)
	}
}

func TestClientsThatCannotBe(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	file, err := os.Open("testdata/client-bodies-invalid.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	wants := map[string]string{
		"phone of 10 digits": "422 body.phone_number", "phone of 12 digits": "422 body.phone_number", "phone not starting with 7": "422 body.phone_number",
		"operator code not digits": "422 body.operator_code", "operator code empty": "422 body.operator_code", "unknown time zone": "422 body.timezone",
		"tag missing": "422 body (expected required property tag to be present)",
	}
	seen := 0
	for in := bufio.NewScanner(file); in.Scan(); seen++ {
		var c struct {
			Case string
			Body json.RawMessage
		}
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		// Numbers are portable: a code may differ from the number's.
		if want, ok := wants[c.Case]; !ok {
			if status := b.Call(http.MethodPost, "/mailing/clients", []byte(c.Body), nil); status != http.StatusCreated {
				t.Errorf("%s: %d", c.Case, status)
			}
		} else if got := b.refused(http.MethodPost, "/mailing/clients", string(c.Body)); got != want {
			t.Errorf("%s: %s, want %s", c.Case, got, want)
		}
	}
	if seen != len(wants)+1 {
		t.Errorf("%d cases", seen)
	}
	with := func(members string) string {
		return `{"phone_number":"79161234567","tag":"t","timezone":"UTC",` + members + `}`
	}
	for name, c := range map[string]struct{ body, want string }{
		"nothing":               {`{}`, "422 body (expected required property phone_number to be present) body (expected required property tag to be present) body (expected required property timezone to be present)"},
		"number as a number":    {`{"phone_number":79161234567,"tag":"t","timezone":"UTC"}`, "422 body.phone_number"},
		"digits of a script":    {`{"phone_number":"7916123456٧","tag":"t","timezone":"UTC"}`, "422 body.phone_number"},
		"with a line's end":     {`{"phone_number":"79161234567\n","tag":"t","timezone":"UTC"}`, "422 body.phone_number"},
		"empty tag":             {`{"phone_number":"79161234567","tag":"","timezone":"UTC"}`, "422 body.tag"},
		"long tag":              {`{"phone_number":"79161234567","tag":"` + strings.Repeat("ä", 101) + `","timezone":"UTC"}`, "422 body.tag"},
		"tag with NUL":          {`{"phone_number":"79161234567","tag":"a\u0000","timezone":"UTC"}`, "422 body.tag"},
		"Local":                 {`{"phone_number":"79161234567","tag":"t","timezone":"Local"}`, "422 body.timezone"},
		"no zone":               {`{"phone_number":"79161234567","tag":"t","timezone":""}`, "422 body.timezone"},
		"zone of the machine":   {`{"phone_number":"79161234567","tag":"t","timezone":"posix/Europe/Moscow"}`, "422 body.timezone"},
		"zone out of the house": {`{"phone_number":"79161234567","tag":"t","timezone":"../Europe/Moscow"}`, "422 body.timezone"},
		"unknown member":        {with(`"x":1`), "422 body.x"},
		"attributes as array":   {with(`"attributes":[1]`), "422 body.attributes"},
		"attribute's name":      {with(`"attributes":{"a-b":1}`), "422 body.attributes"},
		"name inside":           {with(`"attributes":{"a":{"1":1}}`), "422 body.attributes"},
		"too deep":              {with(`"attributes":{"a":[[[[1]]]]}`), "422 body.attributes"},
		"too long":              {with(`"attributes":{"a":"` + strings.Repeat("x", 16<<10) + `"}`), "422 body.attributes"},
		"several":               {`{"phone_number":"1","operator_code":"","tag":"t","timezone":"Local"}`, "422 body.operator_code body.phone_number"},
	} {
		if got := b.refused(http.MethodPost, "/mailing/clients", c.body); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	for name, body := range map[string]string{
		"depth that may be": with(`"attributes":{"a":[[[1]]]}`),
		"longest tag":       `{"phone_number":"79161234568","tag":"` + strings.Repeat("ä", 100) + `","timezone":"America/Argentina/ComodRivadavia"}`,
	} {
		if status := b.Call(http.MethodPost, "/mailing/clients", body, nil); status != http.StatusCreated {
			t.Errorf("%s: %d", name, status)
		}
	}
}

func TestClientsAreFound(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		b := newBook(t, options...)
		for i, c := range []struct{ code, tag string }{{"916", "a"}, {"916", "b"}, {"926", "a"}, {"926", "a,b"}, {"936", "a"}, {"916", "a"}} {
			b.make(fmt.Sprintf("7%s000000%d", c.code, i), c.tag)
		}
		for query, want := range map[string]string{
			"":                        "[1 2 3 4 5 6]",
			"operator_code=916":       "[1 2 6]",
			"tag=a":                   "[1 3 5 6]",
			"tag=a,b":                 "[4]",
			"operator_code=916&tag=a": "[1 6]",
			"operator_code=916&operator_code=936&tag=a": "[1 5 6]",
			"operator_code=926&tag=a&tag=a,b&tag=a":     "[3 4]",
			"operator_code=000":                         "[]",
			"phone_number=%2B7+916+000-00-01":           "[2]",
			"phone_number=79160000001&tag=a":            "[]",
			"phone_number=79999999999":                  "[]",
		} {
			for _, limit := range []int{1, 2, 1000} {
				var ids []int64
				for cursor := "first"; cursor != ""; {
					var page web.Page[Client]
					at := fmt.Sprintf("/mailing/clients?limit=%d&%s", limit, query)
					if cursor != "first" {
						at += "&cursor=" + cursor
					}
					if status := b.Call(http.MethodGet, at, nil, &page); status != http.StatusOK || len(page.Items) > limit {
						t.Fatalf("%s: %d, %d clients", at, status, len(page.Items))
					}
					for _, c := range page.Items {
						ids = append(ids, c.ID)
					}
					if cursor = ""; page.Next != nil {
						cursor = *page.Next
					}
				}
				if fmt.Sprint(ids) != want {
					t.Errorf("%s by %d: %v, want %s", query, limit, ids, want)
				}
			}
		}
	})
}

func TestClientsLieSealed(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	if status := b.Call(http.MethodPost, "/mailing/clients", `{"phone_number":"79161234567","tag":"t","timezone":"UTC","attributes":{"nickname":"Annuschka"}}`, nil); status != http.StatusCreated {
		t.Fatal(status)
	}
	send(t, b, "csv", "", "phone_number,tag,timezone,nickname\n79161234568,t,UTC,Annuschka\n79161234569,t,Nowhere,Annuschka\n")
	if status := b.Call(http.MethodPatch, "/mailing/clients/1", `{"phone_number":"79161234560"}`, nil); status != http.StatusOK {
		t.Fatal(status)
	}
	b.Stop()
	if hits := apptest.Hits(t, b.Dir, b.Log.String(), "7916123456", "Annuschka", "nickname"); len(hits) > 0 {
		t.Error(hits)
	}
}

func TestAnErasedClientHasNoNumber(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	gone, stays := b.make("79161234567", "a"), b.make("79161234568", "a")
	b.erase("79161234567")
	var page web.Page[Client]
	if status := b.Call(http.MethodGet, "/mailing/clients", nil, &page); status != http.StatusOK || len(page.Items) != 2 ||
		page.Items[0].PhoneNumber != "" || page.Items[0].ID != gone.ID || page.Items[1].PhoneNumber != stays.PhoneNumber {
		t.Errorf("%d %+v", status, page.Items)
	}
	rows, err := b.clients.store.load(t.Context(), b.p.DB.Read(), []int64{gone.ID, stays.ID, 99})
	if err != nil || len(rows) != 2 {
		t.Fatal(rows, err)
	}
	opened, err := b.clients.open(t.Context(), []audienceRow{rows[gone.ID], rows[stays.ID]})
	if err != nil || opened[0] != nil || opened[1].PhoneNumber != stays.PhoneNumber || opened[1].Tag != "a" {
		t.Errorf("%+v %v", opened, err)
	}
	if got := b.refused(http.MethodPatch, "/mailing/clients/1", `{"tag":"b"}`); got != "422 body.phone_number" {
		t.Error(got)
	}
	if status := b.Call(http.MethodDelete, "/mailing/clients/1", nil, nil); status != http.StatusNoContent {
		t.Error(status)
	}
	if got := b.refused(http.MethodPost, "/mailing/clients", `{"phone_number":"79161234567","tag":"a","timezone":"UTC"}`); got != "422 body.phone_number" {
		t.Error(got)
	}
	if got := send(t, b, "csv", "", "phone_number,tag,timezone\n79161234567,a,UTC\n"); got.end.Failed != 1 || len(got.faults) != 1 {
		t.Errorf("%+v", got)
	}
}
