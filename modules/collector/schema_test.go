package collector

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"switchboard/platform/errs"
)

// doubling is a schema of n definitions of which each refers twice to the next.
func doubling(n int) string {
	var defs strings.Builder
	for i := range n {
		fmt.Fprintf(&defs, `"d%d":{"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]},`, i, i+1, i+1)
	}
	return fmt.Sprintf(`{"$defs":{%s"d%d":{"required":["x"]}},"$ref":"#/$defs/d0"}`, defs.String(), n)
}

// longWay is a schema of n definitions, each referring to the next and the last
// one to the first, a level below.
func longWay(n int) string {
	var defs strings.Builder
	for i := range n {
		fmt.Fprintf(&defs, `"d%d":{"not":{"$ref":"#/$defs/d%d"}},`, i, i+1)
	}
	return fmt.Sprintf(`{"$defs":{%s"d%d":{"properties":{"a":{"$ref":"#/$defs/d0"}}}},"$ref":"#/$defs/d0"}`, defs.String(), n)
}

// A few lines of schema can ask for more checks than a computer can do. They
// are refused before any is done.
func TestSchemaThatCouldHoldUpTheProductIsRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"each refers twice to the next":      doubling(40),
		"itself twice, a level below":        `{"properties":{"a":{"allOf":[{"$ref":"#"},{"$ref":"#"}]}}}`,
		"itself by two patterns":             `{"patternProperties":{"^a":{"$ref":"#"},"a$":{"$ref":"#"}}}`,
		"itself by a pattern and a name":     `{"properties":{"a":{"$ref":"#"}},"patternProperties":{"a":{"$ref":"#"}}}`,
		"itself within not":                  `{"not":{"properties":{"a":{"anyOf":[{"$ref":"#"},{"$ref":"#"}]}}}}`,
		"itself in two items":                `{"items":{"$ref":"#"},"contains":{"$ref":"#"}}`,
		"itself by dynamic references":       `{"$dynamicAnchor":"a","properties":{"a":{"oneOf":[{"$dynamicRef":"#a"},{"$dynamicRef":"#a"}]}}}`,
		"itself in older words":              `{"$schema":"http://json-schema.org/draft-07/schema#","dependencies":{"a":{"properties":{"a":{"$ref":"#"}}}},"additionalProperties":{"$ref":"#"}}`,
		"itself in older words, by items":    `{"$schema":"https://json-schema.org/draft/2019-09/schema","items":[{"$ref":"#"}],"if":{"items":{"$recursiveRef":"#"}}}`,
		"itself at the end of a long way":    longWay(5000),
		"thousands of levels":                strings.Repeat(`{"not":`, 4000) + `true` + strings.Repeat(`}`, 4000),
		"itself at once":                     `{"$ref":"#"}`,
		"itself at once, under conditions":   `{"if":{"required":["a"]},"then":{"$ref":"#"}}`,
		"itself at once, if a name is there": `{"dependentSchemas":{"a":{"$ref":"#"}}}`,
	} {
		if _, err := compileSchema([]byte(text)); err == nil {
			t.Errorf("%s: is taken", name)
		}
	}
}

func TestSchemasOfUsualShapeAreTaken(t *testing.T) {
	t.Parallel()
	var wide strings.Builder
	for i := range 800 {
		fmt.Fprintf(&wide, `,"p%d":{"type":["string","null"],"enum":["a","b",null]}`, i)
	}
	deep := strings.Repeat(`{"properties":{"a":`, 60) + `true` + strings.Repeat(`}}`, 60)
	for name, text := range map[string]string{
		"a list of itself":            `{"properties":{"kids":{"items":{"$ref":"#"}},"name":{"type":"string"}}}`,
		"a tree of two arms":          `{"$defs":{"t":{"anyOf":[{"type":"null"},{"properties":{"l":{"$ref":"#/$defs/t"},"r":{"$ref":"#/$defs/t"}}}]}},"$ref":"#/$defs/t"}`,
		"a tree that can be extended": `{"$dynamicAnchor":"node","properties":{"kids":{"items":{"$dynamicRef":"#node"}}}}`,
		"any JSON":                    `{"$defs":{"any":{"type":["object","array","string"],"additionalProperties":{"$ref":"#/$defs/any"},"items":{"$ref":"#/$defs/any"}}},"additionalProperties":{"$ref":"#/$defs/any"}}`,
		"definitions used often":      `{"$defs":{"s":{"type":"string"}},"properties":{"a":{"$ref":"#/$defs/s"},"b":{"$ref":"#/$defs/s"}},"allOf":[{"$ref":"#/$defs/s"},{"$ref":"#/$defs/s"}]}`,
		"hundreds of fields":          `{"properties":{"a":{}` + wide.String() + `}}`,
		"many levels":                 deep,
		"a few doublings":             doubling(5),
	} {
		s, err := compileSchema([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s.check([]byte(`{"a":{"a":{"a":{}}}}`))
	}
}

func TestMoreValuesThanALargeSchemaCanBeHeldAgainstAreRefused(t *testing.T) {
	t.Parallel()
	if _, err := compileSchema([]byte(`{"properties":{"list":{"items":` + doubling(10) + `}}}`)); err == nil {
		t.Fatal("its references lead out of it")
	}
	s, err := compileSchema([]byte(`{"$defs":` + doubling(10)[len(`{"$defs":`):strings.LastIndex(doubling(10), `,"$ref"`)] + `,"properties":{"list":{"items":{"$ref":"#/$defs/d0"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	data := func(n int) []byte {
		return []byte(`{"list":[` + strings.TrimSuffix(strings.Repeat(`{"x":1},`, n), ",") + `]}`)
	}
	if faults := s.check(data(100)); len(faults) != 0 {
		t.Errorf("a hundred values: %v", faults)
	}
	if faults := s.check(data(100_000)); len(faults) != 1 || faults[0].Location != "data" || !strings.Contains(faults[0].Message, "too many values") {
		t.Errorf("a hundred thousand values: %v", faults)
	}
}

// Schemas come from outside, and so does what is held against them. Neither
// may bring the product down, and every fault has a reason.
func FuzzSchema(f *testing.F) {
	for _, seed := range []struct{ schema, data string }{
		{`true`, `{}`}, {`{"required":["a"]}`, `{}`}, {`{"$ref":"#"}`, `{"a":1}`}, {`{"properties":{"a":{"multipleOf":0.01,"minimum":1e5}}}`, `{"a":1e999}`},
		{`{"$defs":{"x":{"items":{"$ref":"#/$defs/x"}}},"$ref":"#/$defs/x"}`, `{"a":[[[]]]}`}, {`{"uniqueItems":true,"pattern":"^a+$","format":"uuid"}`, `{"":["a","a"]}`},
		{`{"$dynamicRef":"#a","$dynamicAnchor":"a","unevaluatedProperties":false}`, `{"a":{}}`}, {`{"if":{},"then":{"enum":[1,1.0]},"dependentSchemas":{"a":false}}`, `{"a":1}`},
		{`{"type":["integer","null"],"const":1e400,"contentMediaType":"application/json"}`, `{"a":"b"}`},
	} {
		f.Add([]byte(seed.schema), []byte(seed.data))
	}
	f.Fuzz(func(t *testing.T, text, data []byte) {
		compiled, err := compileSchema(text)
		if err != nil {
			var bad *malformed
			if !errors.As(err, &bad) && (errs.KindOf(err) != errs.Invalid || len(errs.FieldsOf(err)) == 0) {
				t.Fatalf("refused without a reason: %v", err)
			}
			return
		}
		b, err := DecodeBatch(data)
		if err != nil || !b.Single || deeper(data, maxDepth) {
			return
		}
		faults := compiled.check(data)
		if len(faults) > maxSchemaErrors {
			t.Fatalf("%d faults", len(faults))
		}
		for _, fault := range faults {
			if fault.Message == "" || fault.Location == "" || fault.Value != nil {
				t.Fatalf("%+v", fault)
			}
		}
	})
}
