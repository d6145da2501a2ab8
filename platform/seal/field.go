package seal

import (
	"reflect"
	"strings"
)

// piiTag is the struct tag that names the kind of personal data a field holds.
const piiTag = "pii"

// Field is a struct field that holds personal data.
type Field struct {
	// Name is the field's place in JSON: "email", or "address.street".
	Name string
	// Kind is the value of its pii tag: phone, email, name, …
	Kind string
	// Type is the field's type.
	Type reflect.Type
	// Index is the place for reflect.Value.FieldByIndex.
	Index []int
}

// Fields lists the fields of struct type t that have a pii tag, those of nested
// structs and of pointers to structs included, in the order of the source. A
// recursive type is followed once. A pointer to a struct counts as the struct;
// any other type has none. A field's name is its JSON name; one that json skips
// (`json:"-"`) goes by its Go name.
func Fields(t reflect.Type) []Field {
	return fieldsOf(t, nil, "", nil)
}

func fieldsOf(t reflect.Type, above []reflect.Type, prefix string, index []int) []Field {
	t = structOf(t)
	if t == nil {
		return nil
	}
	for _, a := range above {
		if a == t {
			return nil
		}
	}
	above = append(above[:len(above):len(above)], t)
	var out []Field
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(index[:len(index):len(index)], i)
		name, _ := jsonName(f)
		if kind, ok := f.Tag.Lookup(piiTag); ok {
			out = append(out, Field{Name: prefix + name, Kind: kind, Type: f.Type, Index: at})
			continue
		}
		below := prefix
		if !flattened(f) {
			below += name + "."
		}
		out = append(out, fieldsOf(f.Type, above, below, at)...)
	}
	return out
}

// structOf gives t, or what it points to, if that is a struct; else nil.
func structOf(t reflect.Type) reflect.Type {
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	return t
}

// jsonName gives the name of f in JSON, and whether its tag says so.
func jsonName(f reflect.StructField) (name string, given bool) {
	name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
	if name == "" || name == "-" {
		return f.Name, false
	}
	return name, true
}

// flattened tells whether the fields of f appear in JSON as those of its parent.
func flattened(f reflect.StructField) bool {
	_, given := jsonName(f)
	return f.Anonymous && !given
}
