package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
)

// Section is a struct of settings and the name its keys begin with.
type Section struct {
	Name  string // the prefix, such as "collector" or "mailing.smtp"; "" for keys without one
	Value any    // a pointer to a struct with tags
}

const prefix = "APP_"

// item is one setting as its struct field describes it.
type item struct {
	section string
	key     string
	env     string
	flag    string // without dashes; "" = none
	doc     string
	secret  bool
	enum    []string
	kind    kind
	target  reflect.Value
	preset  reflect.Value // the default
}

func (it *item) envFile() string { return it.env + "_FILE" }
func (it *item) keyFile() string { return it.key + "_file" }

// typeName is how the documentation calls the type.
func (it *item) typeName() string {
	name := it.kind.String()
	if len(it.enum) > 0 {
		name = strings.Join(it.enum, "|")
		if it.kind == kindList {
			name = "list of " + name
		}
	}
	return name
}

// text shows a value of the setting, or hides it.
func (it *item) text(v reflect.Value) string {
	s := format(it.kind, v)
	if it.secret && s != "" {
		return hidden
	}
	return s
}

// catalogue is every setting of some sections, by each of its names.
type catalogue struct {
	items    []*item
	byKey    map[string]*item
	byEnv    map[string]*item
	byFlag   map[string]*item
	sections map[string]bool // every path that has keys below it
}

// describe reads the tags. Its errors are mistakes in our own structs, hence
// of no kind.
func describe(sections []Section) (*catalogue, error) {
	c := &catalogue{
		byKey: map[string]*item{}, byEnv: map[string]*item{}, byFlag: map[string]*item{},
		sections: map[string]bool{"": true},
	}
	for _, s := range sections {
		v := reflect.ValueOf(s.Value)
		if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
			return nil, fmt.Errorf("config: section %q: want a pointer to a struct, have %T", s.Name, s.Value)
		}
		if err := c.walk(s.Name, s.Name, v.Elem()); err != nil {
			return nil, err
		}
	}
	for key := range c.byKey {
		if c.sections[key] {
			return nil, fmt.Errorf("config: %s is a key and a section", key)
		}
	}
	return c, nil
}

func (c *catalogue) walk(section, path string, v reflect.Value) error {
	for p := path; p != ""; p = p[:max(0, strings.LastIndexByte(p, '.'))] {
		c.sections[p] = true
	}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name := field.Tag.Get("key")
		if !field.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = snake(field.Name)
		}
		key := join(path, name)
		k := kindOf(field.Type)
		if k == kindNone && field.Type.Kind() == reflect.Struct {
			if field.Anonymous && field.Tag.Get("key") == "" {
				key = path // an embedded struct adds no level
			}
			if err := c.walk(section, key, v.Field(i)); err != nil {
				return err
			}
			continue
		}
		it := &item{
			section: section,
			key:     key,
			env:     prefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_")),
			flag:    field.Tag.Get("flag"),
			doc:     strings.Join(strings.Fields(field.Tag.Get("doc")), " "),
			secret:  k == kindSecret || field.Tag.Get("secret") == "true",
			kind:    k,
			target:  v.Field(i),
		}
		if e := field.Tag.Get("enum"); e != "" {
			it.enum = strings.Split(e, ",")
		}
		if err := c.add(it, field.Tag); err != nil {
			return fmt.Errorf("config: field %s of section %q: %w", field.Name, section, err)
		}
	}
	return nil
}

func (c *catalogue) add(it *item, tag reflect.StructTag) error {
	switch {
	case it.kind == kindNone:
		return fmt.Errorf("type %s is not supported", it.target.Type())
	case it.env == "APP_CONFIG":
		return fmt.Errorf("the key config is taken by the path of the file itself")
	case strings.HasPrefix(it.env, "APP_TEST_"):
		return fmt.Errorf("names beginning with APP_TEST_ are reserved")
	case c.byKey[it.key] != nil:
		return fmt.Errorf("key %s is described twice", it.key)
	case c.byEnv[it.env] != nil:
		return fmt.Errorf("variable %s is taken by key %s", it.env, c.byEnv[it.env].key)
	case it.flag != "" && c.byFlag[it.flag] != nil:
		return fmt.Errorf("flag --%s is taken by key %s", it.flag, c.byFlag[it.flag].key)
	}
	it.preset = reflect.Zero(it.target.Type())
	if d, ok := tag.Lookup("default"); ok && d != "" {
		v, err := it.parse(input{text: d})
		if err != nil {
			return fmt.Errorf("default: %w", err)
		}
		it.preset = v
	}
	c.items = append(c.items, it)
	c.byKey[it.key], c.byEnv[it.env] = it, it
	if it.secret {
		if c.byKey[it.keyFile()] != nil || c.byEnv[it.envFile()] != nil {
			return fmt.Errorf("key %s is taken", it.keyFile())
		}
		c.byKey[it.keyFile()], c.byEnv[it.envFile()] = it, it
	}
	if it.flag != "" {
		c.byFlag[it.flag] = it
	}
	return nil
}

// must is describe for the callers that have no error to return: a struct that
// cannot be described fails in every run alike.
func must(sections []Section) *catalogue {
	c, err := describe(sections)
	if err != nil {
		panic(err)
	}
	return c
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// snake turns DataDir into data_dir and OIDCClientID into oidc_client_id.
func snake(name string) string {
	r := []rune(name)
	var b strings.Builder
	for i, c := range r {
		if unicode.IsUpper(c) && i > 0 &&
			(!unicode.IsUpper(r[i-1]) || i+1 < len(r) && unicode.IsLower(r[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

// kind is how a value is read and shown.
type kind int

const (
	kindNone kind = iota
	kindString
	kindSecret
	kindBool
	kindInt
	kindUint
	kindFloat
	kindDuration
	kindBytes
	kindList
	kindMap
)

func (k kind) String() string {
	return [...]string{"", "string", "secret", "bool", "int", "int", "float", "duration", "bytes", "list", "map"}[k]
}

func kindOf(t reflect.Type) kind {
	switch t {
	case reflect.TypeFor[Secret]():
		return kindSecret
	case reflect.TypeFor[Bytes]():
		return kindBytes
	case reflect.TypeFor[time.Duration]():
		return kindDuration
	}
	switch t.Kind() {
	case reflect.String:
		return kindString
	case reflect.Bool:
		return kindBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return kindInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return kindUint
	case reflect.Float32, reflect.Float64:
		return kindFloat
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return kindList
		}
	case reflect.Map:
		if t.Key().Kind() == reflect.String && t.Elem().Kind() == reflect.String {
			return kindMap
		}
	}
	return kindNone
}
