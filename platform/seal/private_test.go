package seal_test

import (
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"switchboard/platform/seal"
)

type address struct {
	Street string `json:"street" pii:"address"`
	City   string `json:"city"`
	Geo    *geo   `json:"geo,omitempty"`
}

type geo struct {
	Lat float64 `json:"lat" pii:"place"`
	Lon float64 `json:"lon" pii:"place"`
}

type contact struct {
	Email string `json:"email,omitempty" pii:"email"`
}

type state string

func (s state) MarshalText() ([]byte, error)  { return []byte("<" + s + ">"), nil }
func (s *state) UnmarshalText(b []byte) error { *s = state(strings.Trim(string(b), "<>")); return nil }

type person struct {
	ID       int64           `json:"id"`
	Phone    string          `json:"phone" pii:"phone"`
	Name     *string         `json:"name" pii:"name"`
	Skipped  string          `json:"-" pii:"name"`
	Untagged string          `pii:"name"`
	Mood     state           `json:"mood" pii:"health"`
	Born     time.Time       `json:"born" pii:"birth"`
	Tags     []string        `json:"tags" pii:"other"`
	Numbers  map[string]int  `json:"numbers" pii:"other"`
	Balance  *big.Int        `json:"balance" pii:"money"`
	Data     json.RawMessage `json:"data" pii:"payload"`
	Address  address         `json:"address"`
	Work     *address        `json:"work"`
	contact
	Boss *person `json:"boss"`
}

func TestPrivatePartHoldsTaggedFieldsOnly(t *testing.T) {
	t.Parallel()
	name := "Anna \"K\" <\u2028>\x01"
	raw := json.RawMessage(`{"b" : 1, "a":"<é>" ,"b":2.50}`)
	p := person{
		ID: 7, Phone: "7916", Name: &name, Skipped: "s", Untagged: "u", Mood: "calm",
		Born: time.Date(1990, 1, 2, 3, 4, 5, 6000, time.UTC), Tags: []string{"x"}, Data: raw,
		Address: address{Street: "Main", City: "Perm", Geo: &geo{Lat: 1.5}}, contact: contact{"a@b"},
		Work: &address{City: "nothing private"}, Boss: &person{ID: 8, Phone: "7495"},
	}
	got, err := seal.MarshalPrivate(&p)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"phone":"7916","name":"Anna \"K\" \u003c\u2028\u003e\u0001","Skipped":"s","Untagged":"u","mood":"\u003ccalm\u003e",` +
		`"born":"1990-01-02T03:04:05.000006Z","tags":["x"],"data":{"b" : 1, "a":"<é>" ,"b":2.50},` +
		`"address":{"street":"Main","geo":{"lat":1.5}},"email":"a@b","boss":{"phone":"7495"}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	byValue, err := seal.MarshalPrivate(p)
	if err != nil || string(byValue) != string(got) {
		t.Errorf("by value: %s, %v", byValue, err)
	}
	back := person{ID: 9, Address: address{City: "Perm"}}
	if err := seal.UnmarshalPrivate(got, &back); err != nil {
		t.Fatal(err)
	}
	if back.ID != 9 || back.Address.City != "Perm" || back.Email != "a@b" || string(back.Data) != string(raw) || *back.Name != name ||
		back.Address.Geo.Lat != 1.5 || back.Boss.Phone != "7495" || back.Work != nil || back.Mood != "calm" || !back.Born.Equal(p.Born) {
		t.Errorf("back: %+v", back)
	}
}

func TestEmptyPrivatePart(t *testing.T) {
	t.Parallel()
	for _, v := range []any{person{ID: 1}, &person{}, struct{ A int }{1}} {
		if got, err := seal.MarshalPrivate(v); err != nil || string(got) != "{}" {
			t.Errorf("%T: %s, %v", v, got, err)
		}
	}
}

func TestPrivatePartThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	type hidden struct {
		phone string `pii:"phone"`
	}
	for name, v := range map[string]any{
		"in a slice":   struct{ People []contact }{},
		"in a map":     struct{ People map[string]*contact }{},
		"not exported": hidden{phone: "1"},
		"one name twice": struct {
			A string `json:"email" pii:"a"`
			contact
		}{},
		"no struct":   "text",
		"nil pointer": (*person)(nil),
		"nothing":     nil,
		"not JSON": struct {
			D json.RawMessage `pii:"payload"`
		}{json.RawMessage(`{"a":`)},
		"two values": struct {
			D json.RawMessage `pii:"payload"`
		}{json.RawMessage(`1,"x":2`)},
	} {
		if got, err := seal.MarshalPrivate(v); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestPrivatePartThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, data := range []string{``, `[]`, `null`, `{`, `{"phone":1}`, `{"phone":"1"} {}`, `{"phone":"1"`, `{"address":3}`, `{"born":"today"}`, `{phone:1}`} {
		var p person
		if err := seal.UnmarshalPrivate([]byte(data), &p); err == nil {
			t.Errorf("%s was read: %+v", data, p)
		}
	}
	if err := seal.UnmarshalPrivate([]byte(`{}`), person{}); err == nil {
		t.Error("read into a value")
	}
	p := person{Phone: "as it was"}
	if err := seal.UnmarshalPrivate([]byte(` { "later" : [ { } ] , "work" : null } `), &p); err != nil || p.Phone != "as it was" {
		t.Errorf("unknown names: %v, %+v", err, p)
	}
}

func TestPrivateFieldsAreListed(t *testing.T) {
	t.Parallel()
	var got []string
	for _, f := range seal.Fields(reflect.TypeFor[*person]()) {
		got = append(got, f.Name+"="+f.Kind)
		if reflect.TypeFor[person]().FieldByIndex(f.Index).Type != f.Type {
			t.Errorf("%s: wrong index %v", f.Name, f.Index)
		}
	}
	want := "phone=phone name=name Skipped=name Untagged=name mood=health born=birth tags=other numbers=other balance=money data=payload " +
		"address.street=address address.geo.lat=place address.geo.lon=place work.street=address work.geo.lat=place work.geo.lon=place email=email"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
	}
	if fields := seal.Fields(reflect.TypeFor[string]()); fields != nil {
		t.Errorf("a string has fields: %v", fields)
	}
}

// drawn makes a person whose private fields survive JSON: valid UTF-8, no
// empty slices that are not nil.
func drawn(t *rapid.T, depth int) person {
	text := rapid.String()
	p := person{
		Phone: text.Draw(t, "phone"), Skipped: text.Draw(t, "skipped"), Untagged: text.Draw(t, "untagged"),
		Born:    time.UnixMicro(rapid.Int64Range(-1<<50, 1<<50).Draw(t, "born")).UTC(),
		Address: address{Street: text.Draw(t, "street")}, contact: contact{text.Draw(t, "email")},
	}
	if rapid.Bool().Draw(t, "name") {
		name := text.Draw(t, "name")
		p.Name = &name
	}
	if tags := rapid.SliceOf(text).Draw(t, "tags"); len(tags) > 0 {
		p.Tags = tags
	}
	if numbers := rapid.MapOf(text, rapid.Int()).Draw(t, "numbers"); len(numbers) > 0 {
		p.Numbers = numbers
	}
	if rapid.Bool().Draw(t, "data") {
		p.Data, _ = json.Marshal(map[string]any{text.Draw(t, "key"): []any{text.Draw(t, "value"), 1.5, nil}})
	}
	if depth > 0 && rapid.Bool().Draw(t, "boss") {
		boss := drawn(t, depth-1)
		if data, err := seal.MarshalPrivate(boss); err == nil && string(data) != "{}" {
			p.Boss = &boss
		}
	}
	return p
}

func TestPrivatePartSurvivesTheRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawn(t, 2)
		data, err := seal.MarshalPrivate(&p)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(data) {
			t.Fatalf("not JSON: %s", data)
		}
		var back person
		if err := seal.UnmarshalPrivate(data, &back); err != nil {
			t.Fatalf("%v: %s", err, data)
		}
		if !reflect.DeepEqual(p, back) {
			t.Fatalf("%s\nwas  %#v\nback %#v", data, p, back)
		}
	})
}

func FuzzUnmarshalPrivate(f *testing.F) {
	f.Add([]byte(`{"phone":"1","address":{"street":"x","geo":{"lat":1}},"data":{"a":[1,2]},"boss":{"boss":{}}}`))
	f.Add([]byte(`{"phone":null,"work":null,"tags":[],"email":"\ud800"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p, back person
		if seal.UnmarshalPrivate(data, &p) != nil {
			return
		}
		again, err := seal.MarshalPrivate(&p)
		if err != nil {
			t.Fatalf("%q was read and cannot be written: %v", data, err)
		}
		if err := seal.UnmarshalPrivate(again, &back); err != nil {
			t.Fatalf("%q became %q: %v", data, again, err)
		}
	})
}
