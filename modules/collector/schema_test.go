package collector

import (
	"errors"
	"testing"

	"switchboard/platform/errs"
)

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
		faults := (&schema{compiled: compiled}).check(data)
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
