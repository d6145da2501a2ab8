package socketio

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestPacketsAreDecoded(t *testing.T) {
	t.Parallel()
	raw := func(v ...string) (out []json.RawMessage) {
		for _, s := range v {
			out = append(out, json.RawMessage(s))
		}
		return out
	}
	tests := map[string]packet{
		`0`:                          {typ: typeConnect, namespace: "/"},
		`0{"token":"x"}`:             {typ: typeConnect, namespace: "/", auth: json.RawMessage(`{"token":"x"}`)},
		`0/admin`:                    {typ: typeConnect, namespace: "/admin"},
		`0/admin,`:                   {typ: typeConnect, namespace: "/admin"},
		`0/admin,{"a":1}`:            {typ: typeConnect, namespace: "/admin", auth: json.RawMessage(`{"a":1}`)},
		`1`:                          {typ: typeDisconnect, namespace: "/"},
		`1/admin,`:                   {typ: typeDisconnect, namespace: "/admin"},
		`2["a"]`:                     {typ: typeEvent, namespace: "/", event: "a", args: Args{Values: raw()}},
		`2["a", {"b" : 1},null,"ü"]`: {typ: typeEvent, namespace: "/", event: "a", args: Args{Values: raw(`{"b" : 1}`, `null`, `"ü"`)}},
		`2[7,1]`:                     {typ: typeEvent, namespace: "/", event: "7", args: Args{Values: raw(`1`)}},
		`2/admin,12["a"]`:            {typ: typeEvent, namespace: "/admin", id: 12, hasID: true, event: "a"},
		`30[]`:                       {typ: typeAck, namespace: "/", hasID: true},
		`51-["a",{"_placeholder":true,"num":0}]`: {typ: typeEvent, namespace: "/", event: "a", missing: 1,
			args: Args{Values: raw(`{"_placeholder":true,"num":0}`)}},
		`61-/admin,3[{"_placeholder":true,"num":0}]`: {typ: typeAck, namespace: "/admin", id: 3, hasID: true, missing: 1,
			args: Args{Values: raw(`{"_placeholder":true,"num":0}`)}},
	}
	for in, want := range tests {
		got, err := decodePacket([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		same := got.typ == want.typ && got.namespace == want.namespace && got.id == want.id && got.hasID == want.hasID &&
			got.event == want.event && bytes.Equal(got.auth, want.auth) && got.missing == want.missing &&
			len(got.args.Values) == len(want.args.Values)
		for i := range want.args.Values {
			same = same && bytes.Equal(got.args.Values[i], want.args.Values[i])
		}
		if !same {
			t.Errorf("%s: %+v, want %+v", in, *got, want)
		}
	}
}

func TestMalformedPacketsAreRefused(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		``, `7`, `x`, `-1`, `0[]`, `0"x"`, `0{`, `01{}x`, `0null`, `1x`, `1{}`, `1"x"`, `2`, `2[]`, `2{}`, `2"a"`, `2["a"`,
		`2["a"]x`, `2[null]`, `2[{}]`, `2[["a"]]`, `2[true]`, `299999999999999999999["a"]`, `2abc["a"]`, `3`, `3{}`, `30`, `30{}`,
		`4`, `4{"message":"x"}`, `5["a"]`, `5-["a"]`, `511-["a"]`, `51["a"]`, `51`, `51-`, `6`, `2/ns`, `2["connect"]`,
		`2["connect_error"]`, `2["disconnect"]`, `2["disconnecting"]`, `2["newListener"]`, `2["removeListener"]`,
		`2["\u0063onnect"]`, `2` + strings.Repeat("[", 100_000),
	} {
		if p, err := decodePacket([]byte(in)); err == nil {
			t.Errorf("%.40s: taken as %+v", in, *p)
		}
	}
}

func TestPlaceholdersMustHaveTheirAttachments(t *testing.T) {
	t.Parallel()
	for arg, ok := range map[string]bool{
		`{"_placeholder":true,"num":0}`:                                   true,
		`[{"x":{"_placeholder":true,"num":0}},"y"]`:                       true,
		`{"_placeholder":true,"num":1}`:                                   false,
		`{"_placeholder":true,"num":-1}`:                                  false,
		`{"_placeholder":true,"num":0.5}`:                                 false,
		`{"_placeholder":true,"num":"0"}`:                                 false,
		`{"_placeholder":true}`:                                           false,
		`{"\u005fplaceholder":true,"num":9}`:                              false,
		`{"_placeholder":false,"num":9}`:                                  true,
		`[` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `]`: true,
	} {
		p, err := decodePacket([]byte(`51-["a",` + arg + `]`))
		if err != nil {
			t.Errorf("%.40s: %v", arg, err)
			continue
		}
		last, err := p.attach([]byte{1, 2})
		if !last || (err == nil) != ok {
			t.Errorf("%.40s: last %v, %v", arg, last, err)
		}
	}
}

func TestMessagesAreEncodedForBothTransports(t *testing.T) {
	t.Parallel()
	tests := []struct {
		namespace, event string
		args             []any
		payload          string
	}{
		{"/", "a", nil, `42["a"]`},
		{"/", `q"ü<`, []any{1, "x", nil, map[string]any{"k": true}}, `42["q\"ü<",1,"x",null,{"k":true}]`},
		{"/ns", "a", []any{json.RawMessage(`{"z":1, "a":2}`)}, `42/ns,["a",{"z":1, "a":2}]`},
		{"/", "a", []any{[]byte{1, 2, 3}, "x"}, `451-["a",{"_placeholder":true,"num":0},"x"]` + "\x1ebAQID"},
		{"/", "a", []any{Args{}}, `42["a"]`},
		{"/", "a", []any{[]byte{9}, Args{
			Values:      []json.RawMessage{json.RawMessage(`{"_placeholder":true,"num":0}`), json.RawMessage(`1`)},
			Attachments: [][]byte{{1, 2, 3}},
		}}, `452-["a",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0},1]` + "\x1ebAQID\x1ebCQ=="},
	}
	for _, test := range tests {
		m, err := EncodeMessage(test.namespace, test.event, test.args...)
		if err != nil {
			t.Errorf("%s: %v", test.payload, err)
			continue
		}
		if got := string(m.appendPayload(nil)); got != test.payload {
			t.Errorf("got  %q\nwant %q", got, test.payload)
		}
	}
	if _, err := NewMessage("/", "disconnect"); !errors.Is(err, ErrReservedName) {
		t.Errorf("a reserved name: %v", err)
	}
	if _, err := EncodeMessage("/", "a", json.RawMessage("\"\xff\"")); err == nil {
		t.Error("text that is not UTF-8 was encoded")
	}
	if _, err := EncodeMessage("/", "a", make(chan int)); err == nil {
		t.Error("a channel was encoded")
	}
}

func TestArgs(t *testing.T) {
	t.Parallel()
	a := Args{
		Values:      []json.RawMessage{json.RawMessage(`"x"`), json.RawMessage(`{"num":0,"_placeholder":true}`)},
		Attachments: [][]byte{{7}},
	}
	var s string
	if err := a.Decode(0, &s); err != nil || s != "x" {
		t.Errorf("%q, %v", s, err)
	}
	if a.Decode(2, &s) == nil || a.Decode(-1, &s) == nil {
		t.Error("an argument that is not there was decoded")
	}
	if b, ok := a.Bytes(1); !ok || !bytes.Equal(b, []byte{7}) {
		t.Errorf("%v, %v", b, ok)
	}
	for _, i := range []int{-1, 0, 2} {
		if _, ok := a.Bytes(i); ok {
			t.Errorf("argument %d is binary", i)
		}
	}
}

func FuzzDecodePacket(f *testing.F) {
	for _, s := range []string{`0/a,{"x":1}`, `2/ns,12["a",{"b":[1,"ü"]}]`, `52-1["a",{"_placeholder":true,"num":1}]`, `30[]`, `41`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := decodePacket(in)
		if err != nil {
			return
		}
		if p.typ == typeConnect && p.auth != nil && !json.Valid(p.auth) {
			t.Fatalf("auth %q", p.auth)
		}
		if p.missing > maxAttachments || p.missing < 0 {
			t.Fatalf("%d attachments", p.missing)
		}
		for p.missing > 0 {
			if _, err := p.attach([]byte{1}); err != nil {
				return
			}
		}
		for _, v := range p.args.Values {
			if !json.Valid(v) {
				t.Fatalf("argument %q", v)
			}
		}
		if p.typ != typeEvent || bytes.ContainsRune([]byte(p.namespace), ',') {
			return
		}
		// What was decoded is encoded to something that decodes to the same.
		m, err := newPacket(typeEvent, p.namespace, p.id, p.hasID, &p.event, []any{p.args})
		if err != nil {
			return // not UTF-8
		}
		q, err := decodePacket(m.text[1:])
		if err != nil {
			t.Fatalf("%q: %v", m.text, err)
		}
		if q.namespace != p.namespace || q.event != p.event || q.id != p.id || q.args.Len() != p.args.Len() {
			t.Fatalf("%+v became %+v", *p, *q)
		}
	})
}

func FuzzDecodePayload(f *testing.F) {
	f.Add([]byte("4hello\x1ebAQIDBA==\x1e2"))
	f.Add([]byte("\x1e\x1e"))
	f.Add([]byte("b"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var back []byte
		n := 0
		err := decodePayload(in, func(data []byte, binary bool) error {
			if n++; n > 1 {
				back = append(back, separator)
			}
			if binary {
				back = append(back, packetBinary)
				back = base64.StdEncoding.AppendEncode(back, data)
			} else {
				back = append(back, data...)
			}
			return nil
		})
		// Base64 has line breaks and spare bits that are not kept.
		if err == nil && !bytes.Contains(in, []byte{'b'}) && !bytes.Equal(in, back) {
			t.Fatalf("%q became %q", in, back)
		}
	})
}
