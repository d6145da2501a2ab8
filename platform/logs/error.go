package logs

import (
	"reflect"
	"strings"
)

// errorText is the text of an error. If the error holds something personal it
// is not asked: its fields are written instead. If only errors it wraps do,
// their texts are replaced within its own.
func (w *walker) errorText(err error, depth int) string {
	v := reflect.ValueOf(err)
	if !holds(v) {
		return err.Error()
	}
	var inner []error
	for _, e := range unwrap(err) {
		if e != nil && holds(reflect.ValueOf(e)) {
			inner = append(inner, e)
		}
	}
	if depth > maxDepth {
		return redacted
	}
	if len(inner) == 0 || own(v, len(inner)) {
		return w.errorFields(v, depth)
	}
	text := err.Error()
	for _, e := range inner {
		was := e.Error()
		if was == "" || !strings.Contains(text, was) {
			return w.errorFields(v, depth)
		}
		text = strings.ReplaceAll(text, was, w.errorText(e, depth+1))
	}
	// The second line: a text may hold what it wraps in another form as well.
	for _, s := range personal(v) {
		if strings.Contains(text, s) {
			return w.errorFields(v, depth)
		}
	}
	return text
}

// errorFields is the type of an error and its fields as JSON.
func (w *walker) errorFields(v reflect.Value, depth int) string {
	name := v.Type().String()
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	data, err := encode(w.parts(v, depth+1))
	if err != nil {
		return name + " " + redacted
	}
	return name + " " + string(data)
}

func unwrap(err error) []error {
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		return e.Unwrap()
	}
	return nil
}

// own tells whether an error holds something personal besides the n errors
// that it wraps and that do.
func own(v reflect.Value, n int) bool {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			switch {
			case isPersonal(f):
				return true
			case f.Type.Implements(errorType):
				if holds(v.Field(i)) {
					n--
				}
			case f.Type.Kind() == reflect.Slice && f.Type.Elem().Implements(errorType):
				for j := range v.Field(i).Len() {
					if holds(v.Field(i).Index(j)) {
						n--
					}
				}
			case holds(v.Field(i)):
				return true
			}
		}
		return n < 0
	case reflect.Slice:
		return !v.Type().Elem().Implements(errorType)
	}
	return true
}

// holds tells whether there is something personal in a value, in unexported
// fields too, because methods may print them.
func holds(v reflect.Value) bool {
	s := &searcher{left: maxNodes, met: map[uintptr]bool{}}
	return s.search(v, false)
}

// personal gives the texts in a value that must not be written, save those so
// short that they are found in any text.
func personal(v reflect.Value) []string {
	s := &searcher{left: maxNodes, met: map[uintptr]bool{}, collect: true}
	s.search(v, false)
	return s.texts
}

// searcher looks for something personal in a value without calling its
// methods. It stops at the first find unless it collects.
type searcher struct {
	left    int
	met     map[uintptr]bool
	collect bool
	texts   []string
}

func (s *searcher) search(v reflect.Value, tagged bool) bool {
	if !v.IsValid() || isNil(v) {
		return false
	}
	p := planOf(v.Type())
	if !tagged && p.class == clean {
		return false
	}
	if s.left--; s.left < 0 {
		return true
	}
	if tagged || p.personal {
		if !s.collect {
			return true
		}
		if v.Kind() == reflect.String {
			if v.Len() >= 3 {
				s.texts = append(s.texts, v.String())
			}
			return true
		}
	}
	found := tagged
	look := func(v reflect.Value, tagged bool) bool {
		found = s.search(v, tagged) || found
		return found && !s.collect
	}
	switch v.Kind() {
	case reflect.Interface:
		return s.search(v.Elem(), tagged)
	case reflect.Pointer:
		if s.met[v.Pointer()] {
			return found
		}
		s.met[v.Pointer()] = true
		return s.search(v.Elem(), tagged)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if look(v.Index(i), tagged) {
				break
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if look(it.Key(), tagged) || look(it.Value(), tagged) {
				break
			}
		}
	case reflect.Struct:
		if p.live {
			// Somebody may be writing to it: its type has to be enough.
			return p.class == tainted || tagged
		}
		for i := range v.NumField() {
			if look(v.Field(i), tagged || isPersonal(v.Type().Field(i))) {
				break
			}
		}
	}
	return found
}
