package logs

import (
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
)

// plain tells whether a value can be written as it is, without looking deep.
func plain(v slog.Value) bool {
	switch v.Kind() {
	case slog.KindAny:
		return v.Any() == nil || planOf(reflect.TypeOf(v.Any())).class == clean
	case slog.KindGroup:
		for _, a := range v.Group() {
			if !plain(a.Value) {
				return false
			}
		}
		return true
	case slog.KindLogValuer:
		return false
	}
	return true
}

func redactAttrs(attrs []slog.Attr) []slog.Attr {
	out := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		out[i] = redactAttr(a)
	}
	return out
}

func redactAttr(a slog.Attr) slog.Attr {
	w := &walker{left: maxNodes}
	return slog.Attr{Key: a.Key, Value: w.redact(a.Value, 0)}
}

// redact gives a value that holds nothing personal. Groups stay groups; what
// has parts becomes an object or a list.
func (w *walker) redact(v slog.Value, depth int) (out slog.Value) {
	defer func() { // a method of the value failed; the program must not fail with it
		if p := recover(); p != nil {
			out = slog.StringValue("!PANIC")
		}
	}()
	v = v.Resolve()
	if plain(v) {
		return v
	}
	if w.left--; w.left < 0 || depth > maxDepth {
		return slog.StringValue(cut)
	}
	if v.Kind() == slog.KindGroup {
		attrs := make([]slog.Attr, 0, len(v.Group()))
		for _, a := range v.Group() {
			attrs = append(attrs, slog.Attr{Key: a.Key, Value: w.redact(a.Value, depth+1)})
		}
		return slog.GroupValue(attrs...)
	}
	return slog.AnyValue(w.value(reflect.ValueOf(v.Any()), depth))
}

const (
	maxDepth = 32     // of nested values; deeper is "…"
	maxNodes = 10_000 // in one attribute; a cycle ends here at the latest
	cut      = "…"
)

// walker copies a value into strings, numbers, lists and objects.
type walker struct{ left int }

func (w *walker) value(v reflect.Value, depth int) any {
	if !v.IsValid() {
		return nil
	}
	if w.left--; w.left < 0 || depth > maxDepth {
		return cut
	}
	t := v.Type()
	if t == personalType {
		return redacted
	}
	if isNil(v) {
		return nil
	}
	if v.CanInterface() {
		if t.Implements(valuerType) {
			return w.resolved(v, depth)
		}
		if t.Implements(errorType) {
			return w.errorText(v.Interface().(error), depth)
		}
		if p := planOf(t); p.class == clean || p.marshals && !holds(v) {
			return leaf(v)
		}
	}
	return w.parts(v, depth)
}

// parts takes a value apart without asking its methods.
func (w *walker) parts(v reflect.Value, depth int) any {
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		return w.value(v.Elem(), depth+1)
	case reflect.Struct:
		o := object{}
		w.fields(&o, v, depth)
		return o
	case reflect.Slice, reflect.Array:
		list := make([]any, 0, min(v.Len(), w.left+1))
		for i := range v.Len() {
			if w.left < 0 {
				break
			}
			list = append(list, w.value(v.Index(i), depth+1))
		}
		return list
	case reflect.Map:
		return w.entries(v, depth)
	}
	return v.Type().String() // a func or channel, or an error made of a Personal
}

func isNil(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer, reflect.Slice, reflect.Map, reflect.Func, reflect.Chan:
		return v.IsNil()
	}
	return false
}

// resolved is what a LogValuer says of itself, which is looked through again.
func (w *walker) resolved(v reflect.Value, depth int) any {
	return w.slogValue(slog.AnyValue(v.Interface()), depth)
}

func (w *walker) slogValue(v slog.Value, depth int) any {
	if w.left--; w.left < 0 || depth > maxDepth {
		return cut
	}
	v = v.Resolve()
	switch v.Kind() {
	case slog.KindGroup:
		o := object{}
		for _, a := range v.Group() {
			o = append(o, member{a.Key, w.slogValue(a.Value, depth+1)})
		}
		return o
	case slog.KindAny:
		return w.value(reflect.ValueOf(v.Any()), depth+1)
	}
	return v.Any()
}

func (w *walker) fields(o *object, v reflect.Value, depth int) {
	for _, f := range planOf(v.Type()).fields {
		fv := v.Field(f.index)
		switch {
		case f.hidden || f.omitEmpty && fv.IsZero():
		case f.personal:
			*o = append(*o, member{f.name, redacted})
		case f.inline:
			if fv.Kind() == reflect.Pointer {
				if fv.IsNil() || w.left < 0 || depth > maxDepth {
					continue
				}
				w.left--
				fv = fv.Elem()
			}
			w.fields(o, fv, depth+1)
		default:
			*o = append(*o, member{f.name, w.value(fv, depth+1)})
		}
	}
}

func (w *walker) entries(v reflect.Value, depth int) any {
	o := object{}
	secret := 0
	for it := v.MapRange(); it.Next() && w.left >= 0; {
		key, ok := w.key(it.Key())
		if !ok {
			secret++
			key = fmt.Sprintf("%s %d", redacted, secret)
		}
		o = append(o, member{key, w.value(it.Value(), depth+1)})
	}
	slices.SortStableFunc(o, func(a, b member) int { return strings.Compare(a.key, b.key) })
	return o
}

// key gives the text of a map key, and false if it is or may hold something
// personal.
func (w *walker) key(k reflect.Value) (string, bool) {
	for k.Kind() == reflect.Interface && !k.IsNil() {
		k = k.Elem()
	}
	if planOf(k.Type()).class != clean || k.Type() == personalType {
		return "", false
	}
	if k.CanInterface() {
		return fmt.Sprint(k.Interface()), true
	}
	return fmt.Sprint(k), true
}

// leaf is a value of a clean type, left to the encoder.
func leaf(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Func, reflect.Chan, reflect.UnsafePointer, reflect.Complex64, reflect.Complex128:
		return v.Type().String() // the encoder would refuse the whole attribute
	}
	return v.Interface()
}
