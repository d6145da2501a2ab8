package logs

import (
	"encoding"
	"encoding/json"
	"log/slog"
	"reflect"
	"strings"
	"sync"
)

// class says what a value of a type may hold.
type class int8

const (
	clean   class = iota // nothing personal, whatever the value
	dynamic              // the value decides: an interface, or a LogValuer that speaks for itself
	tainted              // something personal
)

// plan is what is known of a type. It is made once for each type.
type plan struct {
	class    class
	personal bool    // the type is Personal
	live     bool    // a struct with a lock or an atomic: others may write to it
	marshals bool    // the type has its own JSON or text form
	fields   []field // of a struct
}

// field is a struct field as encoding/json would name it.
type field struct {
	index     int
	name      string
	personal  bool // has a pii tag
	omitEmpty bool
	inline    bool // an embedded struct, its fields belong to the outer one
	hidden    bool // unexported or json:"-": looked at, not written
}

var (
	plans        sync.Map // reflect.Type → *plan; the types of a program are few
	personalType = reflect.TypeFor[Personal]()
	valuerType   = reflect.TypeFor[slog.LogValuer]()
	jsonType     = reflect.TypeFor[json.Marshaler]()
	textType     = reflect.TypeFor[encoding.TextMarshaler]()
	errorType    = reflect.TypeFor[error]()
)

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := &plan{
		class:    classify(t, map[reflect.Type]bool{}),
		personal: t == personalType,
		marshals: t.Implements(jsonType) || t.Implements(textType),
	}
	if t.Kind() == reflect.Struct {
		p.fields, p.live = fieldsOf(t), live(t)
	}
	stored, _ := plans.LoadOrStore(t, p)
	return stored.(*plan)
}

// classify looks through everything a type is made of, unexported fields too,
// since its methods may print them. A type met again on the way adds nothing.
func classify(t reflect.Type, met map[reflect.Type]bool) class {
	if t == personalType {
		return tainted
	}
	if met[t] {
		return clean
	}
	met[t] = true
	c := clean
	if t.Kind() != reflect.Interface && t.Implements(valuerType) {
		c = dynamic
	}
	switch t.Kind() {
	case reflect.Interface:
		return dynamic
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return max(c, classify(t.Elem(), met))
	case reflect.Map:
		return max(c, classify(t.Key(), met), classify(t.Elem(), met))
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if isPersonal(f) {
				return tainted
			}
			c = max(c, classify(f.Type, met))
		}
	}
	return c
}

func live(t reflect.Type) bool {
	for i := range t.NumField() {
		switch f := t.Field(i).Type; {
		case f.PkgPath() == "sync" || f.PkgPath() == "sync/atomic" || f.Kind() == reflect.Chan:
			return true
		case f.Kind() == reflect.Struct && live(f):
			return true
		}
	}
	return false
}

func isPersonal(f reflect.StructField) bool {
	tag, ok := f.Tag.Lookup("pii")
	return ok && tag != "-"
}

// speaks tells whether a type has a form of its own.
func speaks(t reflect.Type) bool {
	return t.Implements(valuerType) || t.Implements(errorType) || t.Implements(jsonType) || t.Implements(textType)
}

func fieldsOf(t reflect.Type) []field {
	list := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		kind := f.Type.Kind()
		if kind == reflect.Pointer {
			kind = f.Type.Elem().Kind()
		}
		inline := f.Anonymous && name == "" && kind == reflect.Struct && !speaks(f.Type)
		if name == "" {
			name = f.Name
		}
		list = append(list, field{
			index:     i,
			name:      name,
			personal:  isPersonal(f),
			omitEmpty: strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero"),
			inline:    inline,
			hidden:    tag == "-" || !f.IsExported() && !inline,
		})
	}
	return list
}
