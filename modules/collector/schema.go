package collector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
	jsonkind "github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"switchboard/platform/errs"
)

const (
	maxSchemaBytes  = 256 << 10
	maxSchemaErrors = 20 // reported for one event
)

// schema is a compiled JSON Schema (draft 2020-12 unless it says otherwise).
type schema struct {
	version  int64
	compiled *jsonschema.Schema
}

// noLoader refuses references out of the schema: nothing is fetched or read.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("a schema may only refer to itself")
}

// compileSchema compiles a schema's text; an Invalid error says what is wrong
// with it.
func compileSchema(text []byte) (*jsonschema.Schema, error) {
	invalid := func(why string) error {
		return errs.InvalidFields("the schema is not valid", errs.Field{Location: "body", Message: why})
	}
	if len(text) > maxSchemaBytes {
		return nil, invalid(fmt.Sprintf("is larger than %d bytes", maxSchemaBytes))
	}
	// The same JSON that events are held to: UTF-8, no name twice.
	if _, err := jsontext.AppendFormat(nil, text); err != nil {
		return nil, explain(text, err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, &malformed{errs.Field{Location: "body", Message: "it cannot be read"}}
	}
	switch doc.(type) {
	case map[string]any, bool:
	default:
		return nil, invalid("is not a JSON Schema: want an object or a boolean")
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	c.UseLoader(noLoader{})
	const place = "https://schema.invalid/" // a relative reference shows no path of ours
	if err := c.AddResource(place, doc); err != nil {
		return nil, invalid(err.Error())
	}
	compiled, err := c.Compile(place)
	if err == nil {
		if endless(compiled.Validate(map[string]any{})) {
			return nil, invalid("refers to itself in a circle without end")
		}
		return compiled, nil
	}
	var bad *jsonschema.SchemaValidationError
	var details *jsonschema.ValidationError
	if errors.As(err, &bad) && errors.As(bad.Err, &details) {
		return nil, errs.InvalidFields("the schema is not valid", schemaErrors("body", details)...)
	}
	return nil, invalid(strings.TrimPrefix(err.Error(), "jsonschema: "))
}

// endless tells whether a validation failed because the schema refers to
// itself in a circle.
func endless(err error) bool {
	var e *jsonschema.ValidationError
	if !errors.As(err, &e) {
		return false
	}
	_, circle := e.ErrorKind.(*jsonkind.RefCycle)
	return circle || slices.ContainsFunc(e.Causes, func(c *jsonschema.ValidationError) bool { return endless(c) })
}

// check reports where data does not fit, locations beginning with "data".
func (s *schema) check(data json.RawMessage) []errs.Field {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return []errs.Field{{Location: "data", Message: "is not JSON"}}
	}
	if at := unreckonable("data", doc); at != "" {
		return []errs.Field{{Location: at, Message: "is a number of too many digits to be checked"}}
	}
	err = s.compiled.Validate(doc)
	if err == nil {
		return nil
	}
	var details *jsonschema.ValidationError
	if !errors.As(err, &details) {
		return []errs.Field{{Location: "data", Message: "does not fit the schema"}}
	}
	return schemaErrors("data", details)
}

// unreckonable finds a number in doc that validation cannot do exact sums
// with, or not soon, and gives its place; empty if there is none.
func unreckonable(at string, doc any) string {
	const maxDigits = 1000
	switch v := doc.(type) {
	case map[string]any:
		for name, value := range v {
			if bad := unreckonable(at+"."+name, value); bad != "" {
				return bad
			}
		}
	case []any:
		for i, value := range v {
			if bad := unreckonable(at+"["+strconv.Itoa(i)+"]", value); bad != "" {
				return bad
			}
		}
	case json.Number:
		_, exponent, _ := strings.Cut(strings.ToLower(string(v)), "e")
		if n, err := strconv.Atoi(exponent); len(v) > maxDigits || exponent != "" && (err != nil || n > maxDigits || n < -maxDigits) {
			return at
		}
	}
	return ""
}

// schemaErrors lists the leaves of a validation error.
func schemaErrors(prefix string, e *jsonschema.ValidationError) []errs.Field {
	var out []errs.Field
	add := func(at string, text string) {
		if len(out) < maxSchemaErrors {
			out = append(out, errs.Field{Location: at, Message: text})
		}
	}
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) > 0 {
			for _, c := range e.Causes {
				walk(c)
			}
			return
		}
		at := prefix
		for _, part := range e.InstanceLocation {
			if _, err := strconv.Atoi(part); err == nil {
				at += "[" + part + "]"
			} else {
				at += "." + part
			}
		}
		// The library's texts for these repeat the value, which may be personal.
		switch k := e.ErrorKind.(type) {
		case *jsonkind.Required:
			for _, name := range k.Missing {
				add(at+"."+name, "is missing")
			}
		case *jsonkind.AdditionalProperties:
			for _, name := range k.Properties {
				add(at+"."+name, "is unknown")
			}
		case *jsonkind.Pattern:
			add(at, "does not match the pattern "+k.Want)
		case *jsonkind.Format:
			add(at, "is not a valid "+k.Want)
		case *jsonkind.Type:
			add(at, "is of type "+k.Got+": want "+strings.Join(k.Want, " or "))
		case *jsonkind.Minimum, *jsonkind.Maximum, *jsonkind.ExclusiveMinimum, *jsonkind.ExclusiveMaximum, *jsonkind.MultipleOf:
			add(at, "is outside of what the schema allows ("+strings.Join(e.ErrorKind.KeywordPath(), "/")+")")
		case *jsonkind.InvalidJsonValue, *jsonkind.ContentEncoding, *jsonkind.ContentMediaType, *jsonkind.ContentSchema, *jsonkind.PropertyNames:
			add(at, "does not fit the schema ("+strings.Join(e.ErrorKind.KeywordPath(), "/")+")")
		default:
			add(at, e.ErrorKind.LocalizedString(message.NewPrinter(language.English)))
		}
	}
	walk(e)
	return out
}
