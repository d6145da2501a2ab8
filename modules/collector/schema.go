package collector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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
	maxSchemaDepth  = 256
	maxSchemaErrors = 20 // reported for one event
)

// schema is a compiled JSON Schema (draft 2020-12 unless it says otherwise).
type schema struct {
	version  int64
	compiled *jsonschema.Schema
	steps    int // see stepsOf
}

// noLoader refuses references out of the schema: nothing is fetched or read.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("a schema may only refer to itself")
}

// compileSchema compiles a schema's text; an Invalid error says what is wrong
// with it.
func compileSchema(text []byte) (*schema, error) {
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
	if deeper(text, maxSchemaDepth) { // compiling takes time that grows with the square
		return nil, invalid(fmt.Sprintf("is nested deeper than %d levels", maxSchemaDepth))
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
		switch steps := stepsOf(compiled); {
		case steps >= endless:
			return nil, invalid("refers to itself in a circle, or in so many ways that no event could be checked")
		case steps > maxSchemaSteps:
			return nil, invalid("holds too many subschemas against one value to be checked in time")
		default:
			return &schema{compiled: compiled, steps: steps}, nil
		}
	}
	var bad *jsonschema.SchemaValidationError
	var details *jsonschema.ValidationError
	if errors.As(err, &bad) && errors.As(bad.Err, &details) {
		return nil, errs.InvalidFields("the schema is not valid", schemaErrors("body", details)...)
	}
	return nil, invalid(strings.TrimPrefix(err.Error(), "jsonschema: "))
}

// check reports where data does not fit, locations beginning with "data".
func (s *schema) check(data json.RawMessage) []errs.Field {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return []errs.Field{{Location: "data", Message: "is not JSON"}}
	}
	values := 0
	if at := survey("data", doc, &values); at != "" {
		return []errs.Field{{Location: at, Message: "is a number of too many digits to be checked"}}
	}
	if values*s.steps > maxSteps {
		return []errs.Field{{Location: "data", Message: "has too many values to be held against so large a schema"}}
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

// survey counts the values of doc. A number that validation cannot do exact
// sums with, or not soon, ends it with its place; else that is empty.
func survey(at string, doc any, values *int) string {
	const maxDigits = 1000
	*values++
	switch v := doc.(type) {
	case map[string]any:
		for name, value := range v {
			if bad := survey(at+"."+name, value, values); bad != "" {
				return bad
			}
		}
	case []any:
		for i, value := range v {
			if bad := survey(at+"["+strconv.Itoa(i)+"]", value, values); bad != "" {
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
