package seal

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"switchboard/platform/errs"
)

// MarshalPrivate gives a JSON object of the fields of v that have a pii tag and
// are not empty; v is a struct or a pointer to one. Nested structs are nested
// objects. A json.RawMessage goes in byte for byte and must be valid; strings
// lose invalid UTF-8, as ever in JSON. Empty means what omitempty means, and a
// zero struct. Without any such field the result is {}.
//
// A pii tag inside a slice, array or map is an error, for its values would
// otherwise stay outside: tag the slice itself.
func MarshalPrivate(v any) ([]byte, error) {
	value := reflect.ValueOf(v)
	if value.Kind() == reflect.Pointer && !value.IsNil() {
		value = value.Elem()
	}
	if value.Kind() != reflect.Struct {
		return nil, fmt.Errorf("marshal private fields of %T: not a struct", v)
	}
	p := planOf(value.Type())
	if p.err != nil {
		return nil, p.err
	}
	out, err := p.append(make([]byte, 0, 256), value)
	if err != nil {
		return nil, fmt.Errorf("marshal private fields of %s: %w", value.Type(), err)
	}
	return out, nil
}

// UnmarshalPrivate sets the fields of v, a pointer to a struct, that
// MarshalPrivate wrote into data. Fields that are not in data stay as they are;
// names that v does not know are passed over. Data that is no JSON object is an
// error; v may be filled in part then.
func UnmarshalPrivate(data []byte, v any) error {
	value := reflect.ValueOf(v)
	if value.Kind() != reflect.Pointer || value.IsNil() || value.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("unmarshal private fields into %T: not a pointer to a struct", v)
	}
	p := planOf(value.Type().Elem())
	if p.err != nil {
		return p.err
	}
	d := decoders.Get().(*jsontext.Decoder)
	defer decoders.Put(d)
	d.Reset(bytes.NewBuffer(data), lenient...)
	err := p.read(d, value.Elem())
	if err == nil {
		if _, end := d.ReadToken(); end != io.EOF {
			err = errs.New(errs.Invalid, "more than one JSON value")
		}
	}
	if err != nil {
		return fmt.Errorf("unmarshal private fields of %s: %w", value.Type().Elem(), err)
	}
	return nil
}

// lenient lets through what a foreign payload may hold and encoding/json takes.
var lenient = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// plans and decoders hold nothing but what follows from the program's types.
var (
	plans    sync.Map // reflect.Type → *plan
	decoders = sync.Pool{New: func() any { return jsontext.NewDecoder(new(bytes.Buffer)) }}
)

// plan is how the private fields of one struct type are written and read.
type plan struct {
	err    error
	fields []planField
	byName map[string]int
}

type planField struct {
	name  string
	quote []byte // `"name":`
	index []int  // more than one step for fields of embedded structs
	how   how
	typ   reflect.Type // of a nested struct
}

type how int

const (
	asJSON   how = iota // encoding/json does it
	asString            // a string without methods of its own
	asRaw               // json.RawMessage
	asNested            // a struct with private fields inside
)

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := &plan{byName: map[string]int{}}
	p.add(t, nil, nil)
	for i, f := range p.fields {
		if _, twice := p.byName[f.name]; twice && p.err == nil {
			p.err = fmt.Errorf("private fields of %s: two are called %q", t, f.name)
		}
		p.byName[f.name] = i
	}
	kept, _ := plans.LoadOrStore(t, p)
	return kept.(*plan)
}

// add takes the private fields of t, found at index below the plan's struct.
func (p *plan) add(t reflect.Type, above []reflect.Type, index []int) {
	for _, a := range above {
		if a == t { // embeds itself by pointer
			return
		}
	}
	above = append(above, t)
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(index[:len(index):len(index)], i)
		name, _ := jsonName(f)
		_, private := f.Tag.Lookup(piiTag)
		nested := structOf(f.Type)
		field := planField{name: name, index: at}
		switch {
		case private && !f.IsExported():
			p.fail("private fields of %s: %s is not exported", t, f.Name)
			continue
		case private:
			field.how = howOf(f.Type)
		case !holdsPrivate(f.Type, nil):
			continue
		case nested == nil:
			p.fail("private fields of %s: there is one inside %s, a %s; tag %s itself", t, f.Name, f.Type.Kind(), f.Name)
			continue
		case flattened(f):
			if f.Type.Kind() == reflect.Pointer && !f.IsExported() {
				p.fail("private fields of %s: %s points to a type that is not exported", t, f.Name)
				continue
			}
			p.add(nested, above, at)
			continue
		case !f.IsExported():
			p.fail("private fields of %s: %s is not exported", t, f.Name)
			continue
		default:
			field.how, field.typ = asNested, nested
		}
		quoted, _ := jsontext.AppendQuote(nil, field.name)
		field.quote = append(quoted, ':')
		p.fields = append(p.fields, field)
	}
}

func (p *plan) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

var (
	rawType       = reflect.TypeFor[json.RawMessage]()
	marshalers    = []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler]()}
	unmarshalers  = []reflect.Type{reflect.TypeFor[json.Unmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler]()}
	zeroDetectors = reflect.TypeFor[interface{ IsZero() bool }]()
)

func howOf(t reflect.Type) how {
	if t == rawType {
		return asRaw
	}
	if t.Kind() != reflect.String {
		return asJSON
	}
	for _, m := range marshalers {
		if t.Implements(m) || reflect.PointerTo(t).Implements(m) {
			return asJSON
		}
	}
	for _, m := range unmarshalers {
		if reflect.PointerTo(t).Implements(m) {
			return asJSON
		}
	}
	return asString
}

// holdsPrivate tells whether a value of t can hold a field with a pii tag.
func holdsPrivate(t reflect.Type, above []reflect.Type) bool {
	for _, a := range above {
		if a == t {
			return false
		}
	}
	above = append(above, t)
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return holdsPrivate(t.Elem(), above) || t.Kind() == reflect.Map && holdsPrivate(t.Key(), above)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if _, ok := f.Tag.Lookup(piiTag); ok || holdsPrivate(f.Type, above) {
				return true
			}
		}
	}
	return false
}

// append writes the object of v.
func (p *plan) append(dst []byte, v reflect.Value) ([]byte, error) {
	dst = append(dst, '{')
	first := true
	for i := range p.fields {
		f := &p.fields[i]
		value, ok := get(v, f.index)
		if !ok || f.how != asNested && empty(value) {
			continue
		}
		before := len(dst)
		if !first {
			dst = append(dst, ',')
		}
		dst = append(dst, f.quote...)
		start := len(dst)
		var err error
		if dst, err = f.append(dst, value); err != nil {
			return nil, err
		}
		if f.how == asNested && len(dst)-start == len("{}") {
			dst = dst[:before]
			continue
		}
		first = false
	}
	return append(dst, '}'), nil
}

func (f *planField) append(dst []byte, v reflect.Value) ([]byte, error) {
	switch f.how {
	case asString:
		// The error only tells that invalid UTF-8 was replaced.
		dst, _ = jsontext.AppendQuote(dst, v.String())
		return dst, nil
	case asRaw:
		raw := v.Bytes()
		if !jsontext.Value(raw).IsValid(lenient...) {
			return nil, errs.New(errs.Invalid, "%s is not JSON", f.name)
		}
		return append(dst, raw...), nil
	case asNested:
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return append(dst, '{', '}'), nil
			}
			v = v.Elem()
		}
		p := planOf(f.typ)
		if p.err != nil {
			return nil, p.err
		}
		return p.append(dst, v)
	}
	data, err := json.Marshal(v.Interface())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	return append(dst, data...), nil
}

// get walks to a field; false where an embedded pointer on the way is nil.
func get(v reflect.Value, index []int) (reflect.Value, bool) {
	for i, x := range index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return v, false
			}
			v = v.Elem()
		}
		v = v.Field(x)
	}
	return v, true
}

func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String, reflect.Slice, reflect.Map, reflect.Array:
		return v.Len() == 0
	case reflect.Struct:
		if v.Type().Implements(zeroDetectors) {
			return v.Interface().(interface{ IsZero() bool }).IsZero()
		}
	}
	return v.IsZero()
}

// read takes one object from d into v.
func (p *plan) read(d *jsontext.Decoder, v reflect.Value) error {
	if p.err != nil {
		return p.err
	}
	open, err := d.ReadToken()
	if err != nil {
		return err
	}
	if open.Kind() != '{' {
		return errs.New(errs.Invalid, "not a JSON object")
	}
	for {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		if name.Kind() == '}' {
			return nil
		}
		i, known := p.byName[name.String()]
		if !known {
			if err := d.SkipValue(); err != nil {
				return err
			}
			continue
		}
		if err := p.fields[i].read(d, settable(v, p.fields[i].index)); err != nil {
			return err
		}
	}
}

func (f *planField) read(d *jsontext.Decoder, v reflect.Value) error {
	if f.how == asNested && d.PeekKind() == '{' {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(f.typ))
			}
			v = v.Elem()
		}
		return planOf(f.typ).read(d, v)
	}
	value, err := d.ReadValue()
	if err != nil {
		return err
	}
	switch {
	case f.how == asRaw:
		v.SetBytes(bytes.Clone(value))
		return nil
	case f.how == asString && value.Kind() == '"':
		text, err := jsontext.AppendUnquote(nil, value)
		if err != nil {
			return err
		}
		v.SetString(string(text))
		return nil
	}
	if err := json.Unmarshal(value, v.Addr().Interface()); err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}

// settable walks to a field and makes the embedded structs on the way.
func settable(v reflect.Value, index []int) reflect.Value {
	for i, x := range index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(x)
	}
	return v
}
