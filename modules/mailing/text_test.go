package mailing

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"switchboard/platform/errs"
)

func TestRenderText(t *testing.T) {
	t.Parallel()
	c := &client{PhoneNumber: "79161234567", OperatorCode: "916", Tag: "vip", Attributes: map[string]any{
		"name": "Анна", "age": 42.0, "big": json.Number("12345678901234567890"), "points": 0.0, "member": true, "left": false, "nothing": nil, "empty": "",
		"html": "Anna <3", "address": map[string]any{"city": "Томск"}, "pets": []any{"cat"}, "имя": "Аня"}}
	for _, k := range []struct{ name, text, want string }{
		{"plain", "Hello!", "Hello!"},
		{"every variable", "{{.attributes.name}} {{.tag}} {{.operator_code}} {{.phone_number}}", "Анна vip 916 79161234567"},
		{"nothing is escaped", `{{.attributes.html}} & you`, "Anna <3 & you"},
		{"spaces can be trimmed", "a {{- .tag -}} b", "avipb"},
		{"comments vanish", "a{{/* note */}}b", "ab"},
		{"a name in any script", "{{.attributes.имя}}", "Аня"},
		{"a part of an object", "{{.attributes.address.city}}", "Томск"},
		{"numbers as people write them", "{{.attributes.age}} {{.attributes.big}} {{.attributes.points}}", "42 12345678901234567890 0"},
		{"objects and lists as JSON", "{{.attributes.address}}{{.attributes.pets}}", `{"city":"Томск"}["cat"]`},
		{"a missing attribute is empty", "[{{.attributes.surname}}]", "[]"},
		{"a part of a missing attribute", "[{{.attributes.surname.first}}]", "[]"},
		{"a part of what has none", "[{{.attributes.name.first}}]", "[]"},
		{"null is empty", "[{{.attributes.nothing}}]", "[]"},
		{"truth values", "{{.attributes.member}} {{.attributes.left}}", "true false"},
		{"default for what is missing", `{{default "friend" .attributes.surname}}`, "friend"},
		{"default in a pipe", `{{.attributes.surname | default "friend"}} {{.attributes.name | default "friend"}}`, "friend Анна"},
		{"default for what is empty", `{{.attributes.empty | default .tag}}`, "vip"},
		{"if", "{{if .attributes.name}}Dear {{.attributes.name}}{{end}}", "Dear Анна"},
		{"if without else", "[{{if .attributes.surname}}x{{end}}]", "[]"},
		{"else", "{{if .attributes.surname}}x{{else}}y{{end}}", "y"},
		{"else if", `{{if eq .tag "gold"}}1{{else if eq .tag "vip" "pro"}}2{{else}}3{{end}}`, "2"},
		{"if inside if", "{{if .tag}}{{if .attributes.points}}1{{else}}2{{end}}{{end}}", "2"},
		{"numbers compare with texts", `{{if eq .attributes.age "42"}}a{{end}}{{if eq .attributes.age 42}}b{{end}}{{if ne .attributes.age 43}}c{{end}}`, "abc"},
		{"lists compare with nothing", `{{if eq .attributes.pets .attributes.pets}}a{{else}}b{{end}}`, "b"},
		{"and, or, not", `{{if and .tag (not .attributes.left) (or .attributes.surname true)}}a{{end}}`, "a"},
		{"or gives the first that is something", `{{or .attributes.surname .attributes.name "x"}}`, "Анна"},
		{"braces", `{{"{{"}}x}}`, "{{x}}"},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			if err := checkText(k.text); err != nil {
				t.Fatal(err, errs.FieldsOf(err))
			}
			if got, err := renderText(k.text, c); err != nil || got != k.want {
				t.Errorf("%q, %v; want %q", got, err, k.want)
			}
		})
	}
	if got, err := renderText("[{{.attributes.name}}]", &client{}); err != nil || got != "[]" {
		t.Errorf("a client without attributes: %q, %v", got, err)
	}
}

func TestTextsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, k := range []struct{ name, text, says string }{
		{"empty", "", "empty"},
		{"blank", " \n\t", "empty"},
		{"nothing but a comment", "{{/* x */}}", "empty"},
		{"too long", strings.Repeat("x", maxText+1), "4096"},
		{"broken UTF-8", "a\xff", "UTF-8"},
		{"NUL", "a\x00", "NUL"},
		{"an open action", "Hello {{.tag", "unclosed"},
		{"an open if", "{{if .tag}}x", "EOF"},
		{"a stray end", "x{{end}}", "end"},
		{"an unknown variable", "{{.name}}", ".name"},
		{"a Go name", "{{.PhoneNumber}}", ".PhoneNumber"},
		{"a misspelt variable", "{{.atributes.name}}", ".atributes"},
		{"in a branch that is never taken", "{{if false}}{{.name}}{{end}}", ".name"},
		{"in an else", "{{if .tag}}x{{else}}{{.name}}{{end}}", ".name"},
		{"in a condition", "{{if eq .name 1}}x{{end}}", ".name"},
		{"as an argument", `{{default "x" .name}}`, ".name"},
		{"a part of a text", "{{.tag.x}}", "no parts"},
		{"all attributes", "{{.attributes}}", "name of one"},
		{"everything", "{{.}}", "not allowed"},
		{"the root", "{{$.tag}}", "not allowed"},
		{"a variable", "{{$x := .tag}}{{$x}}", "not allowed"},
		{"a loop", "{{range .attributes.pets}}x{{end}}", "range"},
		{"a loop over a number", "{{range 1000000000}}x{{end}}", "range"},
		{"with", "{{with .tag}}x{{end}}", "with"},
		{"a definition", `{{define "a"}}x{{end}}y`, "define"},
		{"a block", `{{block "a" .}}x{{end}}`, "block"},
		{"itself", `{{template "text"}}`, "template"},
		{"printf", `{{printf "%1000000000d" 1}}`, "printf"},
		{"call", "{{call .attributes.f}}", "call"},
		{"html", "{{.tag | html}}", "html"},
		{"len", "{{len .tag}}", "len"},
		{"a part of a call", "{{(default .tag .tag).x}}", "not allowed"},
		{"nil", "{{default nil .tag}}", "not allowed"},
		{"an imaginary number", "{{default 1i .tag}}", "not a number"},
		{"a function without arguments", "{{default}}", "arguments"},
		{"one inside", "{{if and (not) .tag}}x{{end}}", "arguments"},
		{"one as an argument", "{{if and not .tag}}x{{end}}", "arguments"},
		{"too many arguments", "{{not .tag .tag}}", "arguments"},
		{"a call of a text", "{{.tag .tag}}", "not a function"},
		{"a pipe into a variable", "{{.tag | .tag}}", "not a function"},
		{"index", `{{index .attributes "name"}}`, "index"},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			err := checkText(k.text)
			fields := errs.FieldsOf(err)
			if errs.KindOf(err) != errs.Invalid || len(fields) != 1 || fields[0].Location != "body.text" || !strings.Contains(fields[0].Message, k.says) {
				t.Errorf("%v %v; want something about %q", err, fields, k.says)
			}
			if _, err := renderText(k.text, &client{}); err == nil {
				t.Error("it was rendered")
			}
		})
	}
}

func TestRenderedTextIsBounded(t *testing.T) {
	t.Parallel()
	c := &client{Tag: strings.Repeat("x", maxText)}
	if got, err := renderText("{{.tag}}", c); err != nil || len(got) != maxText {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for _, text := range []string{"{{.tag}}!", "!{{.tag}}", strings.Repeat("{{.tag}}", 500), "{{if .tag}}{{.tag}}{{.tag}}{{end}}"} {
		if got, err := renderText(text, c); errs.KindOf(err) != errs.Invalid || got != "" {
			t.Errorf("%.20s gave %d bytes, %v", text, len(got), err)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, seed := range []string{"Hello", "{{.attributes.name}}", `{{if eq .tag "vip"}}a{{else if not .x}}b{{else}}c{{end}}`, `{{.attributes.a.b | default "x"}}`,
		"{{define \"a\"}}{{end}}", "{{range 10}}{{.}}{{end}}", "{{- 1e5 -}}", "{{(((.tag)))}}", "{{/* */}}", "{{and .tag (or true 0x1p-2 'a')}}", "{{break}}", "{{\"{{\"}}"} {
		f.Add(seed, "name", "value")
	}
	f.Fuzz(func(t *testing.T, text, name, value string) {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			t.Skip("attributes come from JSON")
		}
		c := &client{PhoneNumber: "79161234567", OperatorCode: "916", Tag: value, Attributes: map[string]any{name: value, "o": map[string]any{name: 1.5}, "l": []any{value}}}
		checked := checkText(text)
		out, err := renderText(text, c)
		if checked != nil {
			if err == nil {
				t.Fatalf("%q was refused and rendered", text)
			}
			if fields := errs.FieldsOf(checked); len(fields) != 1 || fields[0].Location != "body.text" || !utf8.ValidString(fields[0].Message) || len(fields[0].Message) > 250 {
				t.Fatalf("%q: %v", text, fields)
			}
			return
		}
		if err != nil && len(value) < 8 {
			t.Skip("many short values make a long text as well")
		}
		if err == nil && (len(out) > maxText || !utf8.ValidString(out)) {
			t.Fatalf("%q gave %d bytes", text, len(out))
		}
		if !strings.Contains(text, "{{") && out != text {
			t.Fatalf("%q became %q", text, out)
		}
	})
}
