package logs_test

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"switchboard/platform/logs"
)

type anyValuer struct{ v any }

func (a anyValuer) LogValue() slog.Value { return slog.AnyValue(a.v) }

type anyError struct {
	hidden any
	Shown  any
}

func (e *anyError) Error() string { return fmt.Sprintf("%v and %+v", e.hidden, e.Shown) }

type stringer struct{ V any }

func (s stringer) String() string { return fmt.Sprintf("%+v", s.V) }

type marshaler struct{ v any }

func (m marshaler) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%+v", m.v), nil }

type tree[T any] struct {
	Left, Right *tree[T]
	Leaf        T
	private     T
}

// seeds hold the secret; wrappers put a value into another. Each wrapper keeps
// the static type where Go lets it, so that plans of types are tried too.
func seed(t *rapid.T, secret string) any {
	p := logs.Personal(secret)
	return rapid.SampledFrom([]any{
		p, &p, []logs.Personal{p}, [2]logs.Personal{p, p}, map[logs.Personal]logs.Personal{p: p},
		person{Phone: secret}, &person{note: "x", Phone: secret}, []person{{Phone: secret}}, map[string]*person{"k": {Phone: secret}},
		&phoneError{Phone: secret},
		struct {
			V any `pii:"x"`
		}{map[string][]string{"a": {secret}}},
		struct {
			B []byte `pii:"x" json:"-"`
		}{[]byte(secret)},
		struct {
			N int
			s string `pii:"x"`
		}{1, secret},
		&live{Name: p},
		tree[logs.Personal]{Right: &tree[logs.Personal]{Leaf: p}, private: p},
		&tree[person]{Left: &tree[person]{Leaf: person{Phone: secret}, private: person{Phone: secret}}},
	}).Draw(t, "seed")
}

func wrap(t *rapid.T, v any) any {
	rv := reflect.ValueOf(v)
	pointer := func() any {
		p := reflect.New(rv.Type())
		p.Elem().Set(rv)
		return p.Interface()
	}
	switch rapid.IntRange(0, 15).Draw(t, "wrapper") {
	case 0:
		return pointer()
	case 1:
		s := reflect.MakeSlice(reflect.SliceOf(rv.Type()), 2, 2)
		s.Index(1).Set(rv)
		return s.Interface()
	case 2:
		m := reflect.MakeMap(reflect.MapOf(reflect.TypeFor[string](), rv.Type()))
		m.SetMapIndex(reflect.ValueOf("k"), rv)
		return m.Interface()
	case 3:
		st := reflect.New(reflect.StructOf([]reflect.StructField{
			{Name: "N", Type: reflect.TypeFor[int]()},
			{Name: "V", Type: rv.Type(), Tag: `json:"v,omitempty"`},
		})).Elem()
		st.Field(1).Set(rv)
		return st.Interface()
	case 4:
		return []any{1, v}
	case 5:
		return map[any]any{"k": v}
	case 6:
		return struct{ A any }{v}
	case 7:
		return struct{ a any }{v}
	case 8:
		return anyValuer{v}
	case 9:
		return stringer{v}
	case 10:
		return marshaler{v}
	case 11:
		return &anyError{Shown: v}
	case 12:
		return &anyError{hidden: v}
	case 13:
		if err, ok := v.(error); ok {
			return fmt.Errorf("while %w", err)
		}
		return fmt.Errorf("while %w", &anyError{v, v})
	case 14:
		if err, ok := v.(error); ok {
			return errors.Join(errors.New("other"), err)
		}
		return slog.Group("g", "v", v).Value
	}
	if rv.Comparable() {
		m := reflect.MakeMap(reflect.MapOf(rv.Type(), reflect.TypeFor[bool]()))
		m.SetMapIndex(rv, reflect.ValueOf(true))
		return m.Interface()
	}
	return struct{ A any }{v}
}

// TestCanaryStaysInside puts a secret into attributes of every shape that the
// wrappers can make and looks for it in what is written.
func TestCanaryStaysInside(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.SampledFrom([]string{canary, "+7 999 123-45-67", "a=b \"c\" <d>", "Жанна Ы."}).Draw(t, "secret")
		v := seed(t, secret)
		for range rapid.IntRange(0, 5).Draw(t, "depth") {
			v = wrap(t, v)
		}
		for way, out := range each(t, v) {
			if leaks(out, secret) || leaks(out, fmt.Sprintf("%q", secret)) {
				t.Fatalf("%s of %T: %s", way, v, out)
			}
		}
	})
}
