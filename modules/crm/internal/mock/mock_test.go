package mock

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Whole objects as the description has them.
const (
	aUser = `{"Id":"u1","LastName":"Zhutaekipo","FirstName":"Mylaeshuro","Email":"a@trafi.com","LastTripType":"Scooter","LastTripId":"t1","LastTripDate":"2023-04-25T12:56:15.1234567+03:00"}`
	aTrip = `{"Id":"t1","UserId":"u1","From":"Gaezhilomu","To":"Qaedopulixe","Price":0.7341908652109,"StartDate":"2023-04-25T12:56:15.1234567+03:00","EndDate":"2023-05-02T01:12:15.1234567+03:00","Type":"Rental"}`
)

var whole = map[string]string{"users": aUser, "trips": aTrip}

// described is a schema of the client's description.
type described struct {
	Required   []string
	Properties map[string]struct {
		Type   any
		Format string
	}
}

func description(t *testing.T) map[string]described {
	t.Helper()
	text, err := os.ReadFile("testdata/description.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct{ CRMUser, CRMTrip described }
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return map[string]described{"users": d.CRMUser, "trips": d.CRMTrip}
}

func (d described) nullable(name string) bool {
	types, ok := d.Properties[name].Type.([]any)
	return ok && slices.Contains(types, any("null"))
}

type answered struct {
	status int
	header http.Header
	body   string
}

// ask sends one request without a network.
func ask(m *Mock, method, path, body string) answered {
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return answered{w.Code, w.Result().Header, w.Body.String()}
}

// must is ask for a status.
func must(t *testing.T, m *Mock, status int, method, path, body string) answered {
	t.Helper()
	a := ask(m, method, path, body)
	if a.status != status {
		t.Fatalf("%s %s %s: %d, want %d: %s", method, path, body, a.status, status, a.body)
	}
	want := "application/json"
	if status >= 400 {
		want = "application/problem+json"
	}
	if got := a.header.Get("Content-Type"); got != want || !json.Valid([]byte(a.body)) {
		t.Errorf("%s %s: %s %s", method, path, got, a.body)
	}
	return a
}

// faultsOf reads a problem: location and message.
func faultsOf(t *testing.T, a answered) map[string]string {
	t.Helper()
	var p problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || p.Status != a.status || p.Type != "about:blank" || p.Title != http.StatusText(a.status) || p.Detail == "" {
		t.Fatalf("%v: no problem document: %s", err, a.body)
	}
	at := map[string]string{}
	for _, w := range p.Errors {
		at[w.Location] = w.Message
	}
	return at
}

func parsed(t *testing.T, text string) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// with gives an object with one property changed; without one if value is "".
func with(t *testing.T, kind, name, value string) string {
	t.Helper()
	var o map[string]json.RawMessage
	if err := json.Unmarshal([]byte(whole[kind]), &o); err != nil {
		t.Fatal(err)
	}
	delete(o, name)
	if value != "" {
		o[name] = json.RawMessage(value)
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFieldByField(t *testing.T) {
	t.Parallel()
	for kind, d := range description(t) {
		m := New("/crm")
		got := must(t, m, http.StatusCreated, "POST", "/"+kind, whole[kind])
		if got.body != whole[kind] { // all properties, by their names, in their order
			t.Errorf("%s", got.body)
		}
		if names := slices.Sorted(maps.Keys(parsed(t, got.body))); !slices.Equal(names, slices.Sorted(maps.Keys(d.Properties))) {
			t.Errorf("%s has %v", kind, names)
		}
		id := parsed(t, got.body)["Id"].(string)
		for name, p := range d.Properties {
			for _, route := range []struct {
				path   string
				status int
			}{{"/" + kind, http.StatusCreated}, {"/" + kind + "/" + id, http.StatusOK}} {
				post := func(value string, ok bool) answered {
					t.Helper()
					m := New("/crm")
					ask(m, "POST", "/"+kind, whole[kind])
					if route.status == http.StatusCreated {
						m.Reset()
					}
					status := route.status
					if !ok {
						status = http.StatusBadRequest
					}
					a := must(t, m, status, "POST", route.path, with(t, kind, name, value))
					if !ok {
						if at := faultsOf(t, a); at["body."+name] == "" || len(at) != 1 {
							t.Errorf("%s.%s = %s: %v", kind, name, value, at)
						}
					}
					return a
				}
				for _, absent := range []string{"", "null"} {
					a := post(absent, d.nullable(name) || name == "Id")
					if v, written := parsed(t, a.body)[name]; d.nullable(name) && (v != nil || !written) {
						t.Errorf("%s.%s: %v", kind, name, v)
					}
				}
				good, bad := []string{`"x"`, `"Žuvėdra 東京 👩‍🚀"`, `"\ud83d\ude80\u00e9\"\\"`, `" "`}, []string{`5`, `true`, `{}`, `[]`, `["x"]`, `"\ud800"`, `"\udc00\ud800"`, `"\ud800x"`, `"\ud800\u0041"`}
				if name != "Id" {
					good = append(good, `""`)
				} else {
					bad = append(bad, `""`)
				}
				switch {
				case p.Format == "date-time":
					good = []string{`"2023-04-25T12:56:15.1234567+03:00"`, `"2023-04-25T12:56:15.1234567Z"`, `"2023-04-25T12:56:15Z"`, `"2023-04-25T12:56:15.5-11:30"`,
						`"0001-01-01T00:00:00Z"`, `"9999-12-31T23:59:59.9999999Z"`, `"2024-02-29T00:00:00.0000000+00:00"`}
					bad = append(bad, `""`, `"yesterday"`, `"2023-04-25"`, `"2023-04-25T12:56:15"`, `"2023-04-25 12:56:15Z"`, `"2023-02-29T12:56:15Z"`, `"2023-04-25T25:56:15Z"`,
						`"2023-04-25T12:56:15+0300"`, `"2023-04-25T12:56:15,5Z"`, `"2023-04-25T2:56:15Z"`,
						`"2023-04-25T12:56:15+24:00"`, `"2023-04-25T12:56:15.Z"`, `"2023-04-25T12:56Z"`, `1682416575`)
				case p.Type == "number":
					good, bad = []string{`0`, `-1.50`, `0.7341908652109`, `1E2`, `-0.0`, `123456789012345.6789`}, []string{`"1"`, `true`, `false`, `{}`, `[1]`, `1e999`}
				}
				for _, v := range good {
					a := post(v, true)
					var written map[string]json.RawMessage
					if err := json.Unmarshal([]byte(a.body), &written); err != nil {
						t.Fatal(err)
					}
					var in, out any
					_ = json.Unmarshal([]byte(v), &in)
					_ = json.Unmarshal(written[name], &out)
					if name == "Id" && route.status == http.StatusOK {
						continue // that of the path counts
					}
					if in != out || !strings.Contains(v, `\`) && string(written[name]) != v { // numbers and dates to the letter
						t.Errorf("%s.%s = %s was written %s", kind, name, v, written[name])
					}
				}
				for _, v := range bad {
					post(v, false)
				}
			}
		}
	}
}

func TestNamesInAnyLetterCase(t *testing.T) {
	t.Parallel()
	for kind, id := range map[string]string{"users": "u1", "trips": "t1"} {
		for how, change := range map[string]func(string) string{
			"lower": strings.ToLower, "upper": strings.ToUpper,
			"camel":   func(s string) string { return strings.ToLower(s[:1]) + s[1:] },
			"escaped": func(s string) string { return fmt.Sprintf(`\u%04x%s`, s[0], s[1:]) },
		} {
			m := New("")
			text := whole[kind]
			for name := range parsed(t, whole[kind]) {
				text = strings.Replace(text, `"`+name+`":`, `"`+change(name)+`" : `, 1)
			}
			if a := must(t, m, http.StatusCreated, "POST", "/"+kind, text); a.body != whole[kind] {
				t.Errorf("%s: %s", how, a.body)
			}
			if a := must(t, m, http.StatusOK, "POST", "/"+kind+"/"+id, text); a.body != whole[kind] {
				t.Errorf("%s: %s", how, a.body)
			}
		}
	}
	m := New("")
	must(t, m, http.StatusBadRequest, "POST", "/users", strings.Replace(aUser, "LastName", "La\u017ftName", 1)) // a long s is another letter
}

func TestOfEqualNamesTheLastCounts(t *testing.T) {
	t.Parallel()
	m := New("")
	a := must(t, m, http.StatusCreated, "POST", "/users", `{"id":5,"lastname":null,`+aUser[1:len(aUser)-1]+`,"FIRSTNAME":null,"email":"b@trafi.com"}`)
	if o := parsed(t, a.body); o["Id"] != "u1" || o["FirstName"] != nil || o["Email"] != "b@trafi.com" {
		t.Errorf("%s", a.body)
	}
}

func TestUnknownPropertiesAreIgnored(t *testing.T) {
	t.Parallel()
	m := New("")
	text := `{"x":{"Id":[1,{"a":"}]"}],"y":"\"{["},"":-1.5e3,` + aUser[1:len(aUser)-1] + `, "z" : [[],[{}],null,true] , "w":false}`
	if a := must(t, m, http.StatusCreated, "POST", "/users", " \n\t"+text+"\r\n "); a.body != aUser {
		t.Errorf("%s", a.body)
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	for kind, id := range map[string]string{"users": "u1", "trips": "t1"} {
		for _, prefix := range []string{"", "/crm"} {
			for _, slash := range []string{"", "/"} {
				m := New("/crm")
				all, one := prefix+"/"+kind+slash, prefix+"/"+kind+"/"+id+slash
				if a := must(t, m, http.StatusOK, "GET", all, ""); a.body != "[]" {
					t.Errorf("%s", a.body)
				}
				must(t, m, http.StatusNotFound, "GET", one, "")
				must(t, m, http.StatusNotFound, "POST", one, whole[kind])
				if a := must(t, m, http.StatusOK, "GET", all, ""); a.body != "[]" {
					t.Errorf("a refused replacement made %s", a.body)
				}
				a := must(t, m, http.StatusCreated, "POST", all, whole[kind])
				if where := a.header.Get("Location"); where != "/crm/"+kind+"/"+id || must(t, m, http.StatusOK, "GET", where, "").body != whole[kind] {
					t.Errorf("Location: %s", where)
				}
				a = must(t, m, http.StatusConflict, "POST", all, whole[kind])
				if at := faultsOf(t, a); at["body.Id"] == "" {
					t.Errorf("%v", at)
				}
				if a := must(t, m, http.StatusOK, "GET", one, ""); a.body != whole[kind] {
					t.Errorf("%s", a.body)
				}
				if a := must(t, m, http.StatusOK, "POST", one, whole[kind]); a.body != whole[kind] || a.header.Get("Location") != "" {
					t.Errorf("%s", a.body)
				}
				if a := must(t, m, http.StatusOK, "GET", all, ""); a.body != "["+whole[kind]+"]" {
					t.Errorf("%s", a.body)
				}
				for _, path := range []string{all, one} {
					for _, method := range []string{"HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "get"} {
						a := must(t, m, http.StatusMethodNotAllowed, method, path, "")
						if a.header.Get("Allow") != "GET, POST" {
							t.Errorf("Allow: %s", a.header.Get("Allow"))
						}
					}
				}
			}
		}
	}
	m := New("/crm")
	for _, path := range []string{"/", "/crm", "/crm/", "/user", "/Users", "/bookings", "/users/a/b", "/crmusers", "/crm/crm/users", "/mock"} {
		must(t, m, http.StatusNotFound, "GET", path, "")
	}
}

func TestAnIdIsMadeWhenAbsent(t *testing.T) {
	t.Parallel()
	m := New("/crm")
	seen := map[string]bool{}
	for _, id := range []string{"", "", "null"} {
		a := must(t, m, http.StatusCreated, "POST", "/users", with(t, "users", "Id", id))
		made, _ := parsed(t, a.body)["Id"].(string)
		if made == "" || seen[made] || a.header.Get("Location") != "/crm/users/"+made {
			t.Errorf("%q %s", made, a.header.Get("Location"))
		}
		seen[made] = true
	}
}

func TestAReplacementReplacesEveryPropertyAndKeepsTheIdOfThePath(t *testing.T) {
	t.Parallel()
	m := New("")
	must(t, m, http.StatusCreated, "POST", "/users", aUser)
	a := must(t, m, http.StatusOK, "POST", "/users/u1", `{"Id":"other","LastName":"","Email":"","LastTripDate":"0001-01-01T00:00:00Z"}`)
	const want = `{"Id":"u1","LastName":"","FirstName":null,"Email":"","LastTripType":null,"LastTripId":null,"LastTripDate":"0001-01-01T00:00:00Z"}`
	if a.body != want || must(t, m, http.StatusOK, "GET", "/users/u1", "").body != want {
		t.Errorf("%s", a.body)
	}
	must(t, m, http.StatusNotFound, "GET", "/users/other", "")
	must(t, m, http.StatusNotFound, "GET", "/trips/u1", "")
}

func TestIdsAreAnyText(t *testing.T) {
	t.Parallel()
	m := New("/crm")
	for i, id := range []string{"a/b", "/", "a//b/", ".", "..", "a b", "100%", "%2F", "ž東京👩‍🚀", "?x=1#y", `"q"\`, "+", "\u0000\n", "u1", "U1", "null", "..."} {
		quoted, _ := json.Marshal(id)
		a := must(t, m, http.StatusCreated, "POST", "/users", with(t, "users", "Id", string(quoted)))
		where := a.header.Get("Location")
		u, err := url.Parse("http://crm.mock" + where)
		if err != nil || u.JoinPath().EscapedPath() != u.EscapedPath() || !strings.HasPrefix(where, "/crm/users/") || strings.Count(where, "/") != 3 {
			t.Errorf("%q: Location %s: %v", id, where, err)
		}
		must(t, m, http.StatusConflict, "POST", "/users", with(t, "users", "Id", string(quoted)))
		for _, path := range []string{where, where + "/"} {
			must(t, m, http.StatusOK, "POST", path, with(t, "users", "FirstName", fmt.Sprint(`"`, i, `"`)))
			if o := parsed(t, must(t, m, http.StatusOK, "GET", path, "").body); o["Id"] != id || o["FirstName"] != fmt.Sprint(i) {
				t.Errorf("%q: %v", id, o)
			}
		}
	}
	must(t, m, http.StatusNotFound, "GET", "/users/%FF", "")
}

func TestBodiesThatAreNoObject(t *testing.T) {
	t.Parallel()
	m := New("")
	for _, body := range []string{"", " ", "null", "[]", "[" + aUser + "]", `"x"`, "5", "true", "{", aUser[:len(aUser)-1], aUser + "}", aUser + aUser, aUser + ",",
		strings.Replace(aUser, `"u1"`, "'u1'", 1), strings.Replace(aUser, "a@", "\xff", 1), strings.Replace(aUser, "a@", "\x01", 1), "\ufeff" + aUser, `{"Id":"u1",}`, "<xml/>",
		strings.Replace(aUser, `"u1"`, `"\x"`, 1), strings.Repeat("[", 100_000), strings.Repeat(`{"Id":`, 100_000)} {
		for _, path := range []string{"/users", "/trips", "/users/u1"} {
			if at := faultsOf(t, must(t, m, http.StatusBadRequest, "POST", path, body)); at["body"] == "" {
				t.Errorf("%.40q: %v", body, at)
			}
		}
	}
	if a := must(t, m, http.StatusOK, "GET", "/users", ""); a.body != "[]" {
		t.Errorf("%s", a.body)
	}
}

func TestAProblemNamesEveryFieldAndNoValue(t *testing.T) {
	t.Parallel()
	m := New("")
	a := must(t, m, http.StatusBadRequest, "POST", "/trips", `{"id":"","From":"Secretplace","To":17,"Price":"12secret","startdate":"someday"}`)
	at := faultsOf(t, a)
	if names := slices.Sorted(maps.Keys(at)); !slices.Equal(names, []string{"body.Id", "body.Price", "body.StartDate", "body.To", "body.Type", "body.UserId"}) {
		t.Errorf("%v", at)
	}
	for _, value := range []string{"Secret", "17", "12", "someday"} {
		if strings.Contains(a.body, value) {
			t.Errorf("%s repeats a value", a.body)
		}
	}
}

func TestABodyThatIsTooLarge(t *testing.T) {
	t.Parallel()
	m := New("")
	body := func(size int) string {
		return with(t, "users", "LastName", `"`+strings.Repeat("x", size-len(with(t, "users", "LastName", `""`)))+`"`)
	}
	must(t, m, http.StatusCreated, "POST", "/users", body(MaxBody))
	must(t, m, http.StatusRequestEntityTooLarge, "POST", "/users/u1", body(MaxBody+1))
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest("POST", "/users", io.MultiReader(strings.NewReader(aUser[:9]), &broken{})))
	if w.Code != http.StatusBadRequest || m.Counts().Users != 1 {
		t.Errorf("half a body: %d", w.Code)
	}
}

type broken struct{}

func (*broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestAListIsInTheOrderOfCreation(t *testing.T) {
	t.Parallel()
	m := New("")
	const n = 1000 // several chunks
	for i := range n {
		must(t, m, http.StatusCreated, "POST", "/users", with(t, "users", "Id", fmt.Sprintf("%q", fmt.Sprint(n-i))))
	}
	must(t, m, http.StatusOK, "POST", "/users/7", with(t, "users", "LastName", `"later"`))
	var list []struct{ ID, LastName string }
	if err := json.Unmarshal([]byte(must(t, m, http.StatusOK, "GET", "/users", "").body), &list); err != nil || len(list) != n {
		t.Fatal(len(list), err)
	}
	for i, u := range list {
		if u.ID != fmt.Sprint(n-i) || (u.LastName == "later") != (u.ID == "7") {
			t.Errorf("%d: %v", i, u)
		}
	}
	m.Reset()
	if a := must(t, m, http.StatusOK, "GET", "/users", ""); a.body != "[]" {
		t.Errorf("%s", a.body)
	}
}

func TestFourWaysToTreatATakenId(t *testing.T) {
	t.Parallel()
	second := with(t, "users", "LastName", `"second"`)
	for _, c := range []struct {
		ids           string
		first, second int // statuses
		kept          bool
		users         int
		name          string // of GET by the Id
	}{
		{Conflict, 201, 409, true, 1, "Zhutaekipo"},
		{Replace, 201, 201, true, 1, "second"},
		{Own, 201, 201, false, 2, ""},
		{Duplicate, 201, 201, true, 2, "Zhutaekipo"},
	} {
		m := New("/crm")
		m.SetFaults(Faults{IDs: c.ids})
		a := must(t, m, c.first, "POST", "/users", aUser)
		id := parsed(t, a.body)["Id"].(string)
		if (id == "u1") != c.kept || a.header.Get("Location") != "/crm/users/"+id {
			t.Errorf("%s: %s %v", c.ids, id, a.header)
		}
		must(t, m, c.second, "POST", "/users", second)
		if n := m.Counts().Users; n != c.users {
			t.Errorf("%s: %d users", c.ids, n)
		}
		if c.name != "" {
			if o := parsed(t, must(t, m, http.StatusOK, "GET", "/users/u1", "").body); o["LastName"] != c.name {
				t.Errorf("%s: %v", c.ids, o)
			}
		} else {
			must(t, m, http.StatusNotFound, "GET", "/users/u1", "")
		}
		must(t, m, http.StatusOK, "POST", "/users/"+id, second)
		if c.ids == Duplicate {
			var list []struct{ ID, LastName string }
			_ = json.Unmarshal([]byte(must(t, m, http.StatusOK, "GET", "/users", "").body), &list)
			if len(list) != 2 || list[0].ID != "u1" || list[1].ID != "u1" {
				t.Errorf("%v", list)
			}
		}
	}
}

func TestHistoryHasEveryStateInOrder(t *testing.T) {
	t.Parallel()
	m := New("")
	must(t, m, http.StatusCreated, "POST", "/users", aUser)
	must(t, m, http.StatusCreated, "POST", "/trips", strings.Replace(aTrip, `"Id":"t1"`, `"Id":"u1"`, 1))
	must(t, m, http.StatusConflict, "POST", "/users", aUser)
	must(t, m, http.StatusNotFound, "POST", "/users/u2", aUser)
	second := with(t, "users", "LastName", `"second"`)
	must(t, m, http.StatusOK, "POST", "/users/u1", second)
	states := m.History("users", "u1", 0, 0)
	if len(states) != 2 || string(states[0].State) != aUser || !states[0].Created || parsed(t, string(states[1].State))["LastName"] != "second" || states[1].Created ||
		states[0].Seq != 0 || states[1].Seq != 2 || states[1].At.Before(states[0].At) {
		t.Errorf("%+v", states)
	}
	if n := len(m.History("", "", 1, 0)); n != 2 {
		t.Errorf("%d", n)
	}
	if n := len(m.History("", "", 0, 1)); n != 1 {
		t.Errorf("%d", n)
	}
	c := m.Counts()
	if c.Users != 1 || c.Trips != 1 || c.Changes != 3 || !maps.Equal(c.Calls, map[string]int64{"users.create": 2, "trips.create": 1, "users.replace": 2}) ||
		!maps.Equal(c.Answers, map[string]int64{"201": 2, "409": 1, "404": 1, "200": 1}) || len(c.Faults) != 0 {
		t.Errorf("%+v", c)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	h := &history{}
	for range maxChanges + 5 {
		h.add(Change{State: json.RawMessage("{}")})
	}
	if h.first != 5 || h.next != maxChanges+5 || len(h.ring) != maxChanges || h.at(5).Seq != 5 || h.at(h.next-1).Seq != h.next-1 || h.bytes != 2*maxChanges {
		t.Errorf("%d to %d, %d in %d", h.first, h.next, h.bytes, len(h.ring))
	}
	large := json.RawMessage(bytes.Repeat([]byte(" "), 1<<20))
	for range 100 {
		h.add(Change{State: large})
	}
	if kept := h.next - h.first; kept != 64 || h.bytes != maxChangesBytes {
		t.Errorf("%d large ones are kept, %d bytes", kept, h.bytes)
	}
}

// Many write the same few objects and read them: each state is whole, and the
// last one is that of the history.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	m := New("")
	var wg sync.WaitGroup
	const writers, rounds, ids = 8, 200, 5
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				id := fmt.Sprint("u", i%ids)
				body := fmt.Sprintf(`{"Id":%q,"LastName":"%d.%d","FirstName":"%[2]d.%[3]d","Email":"","LastTripDate":"0001-01-01T00:00:00Z"}`, id, w, i)
				if a := ask(m, "POST", "/users", body); a.status == http.StatusConflict {
					if a = ask(m, "POST", "/users/"+id, body); a.status != http.StatusOK {
						t.Errorf("%d", a.status)
					}
				}
				var list []struct{ LastName, FirstName string }
				if err := json.Unmarshal([]byte(ask(m, "GET", "/users", "").body), &list); err != nil || len(list) > ids {
					t.Errorf("%d users: %v", len(list), err)
				}
				for _, u := range list {
					if u.LastName != u.FirstName {
						t.Errorf("half a state: %v", u)
					}
				}
			}
		})
	}
	wg.Wait()
	for i := range ids {
		id := fmt.Sprint("u", i)
		states := m.History("users", id, 0, 0)
		if len(states) != writers*rounds/ids || ask(m, "GET", "/users/"+id, "").body != string(states[len(states)-1].State) {
			t.Errorf("%s: %d states", id, len(states))
		}
		for j, c := range states {
			if c.Created != (j == 0) {
				t.Errorf("%s was created at %d", id, j)
			}
		}
	}
}

// A POST of an object in process, without HTTP.
func BenchmarkReplace(b *testing.B) {
	m := New("/crm")
	ask(m, "POST", "/users", aUser)
	w := &discard{header: http.Header{}}
	body := strings.NewReader("")
	r := httptest.NewRequest("POST", "/users/u1", body)
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(aUser)
		m.ServeHTTP(w, r)
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
