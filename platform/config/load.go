package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"switchboard/platform/errs"
)

// Source is where settings come from. Every part may be left out.
type Source struct {
	Flags *pflag.FlagSet // parsed, bound by BindFlags; a flag counts when it was given
	Env   []string       // as of os.Environ
	File  string         // path of the YAML file; "" = the flag --config if there is one, else APP_CONFIG, else none
}

// Load fills the structs of the sections, each field from the strongest source
// that names it, then calls Validate() error on each section value that has it.
// Nothing is written to the structs unless every value is good.
//
// An error of Validate is taken for Invalid; where it carries errs.Fields whose
// Location is a key relative to its section, the key's origin is added.
//
// An error caused by input is errs.Invalid and one line. Load must not run
// twice at once on the same structs.
func Load(src Source, sections ...Section) (*Values, error) {
	c, err := describe(sections)
	if err != nil {
		return nil, err
	}
	l := &loader{catalogue: c, found: map[*item]finding{}}
	env := environment(src.Env)
	l.file(l.path(src, env))
	l.env(env)
	l.flags(src.Flags)

	values := make([]reflect.Value, len(c.items))
	for i, it := range c.items {
		values[i] = l.value(it)
	}
	if err := l.err(); err != nil {
		return nil, err
	}
	v := &Values{}
	for i, it := range c.items {
		it.target.Set(values[i])
		v.settings = append(v.settings, it.setting(values[i], l.origin(it)))
	}
	for _, s := range sections {
		l.validate(s)
	}
	return v, l.err()
}

// finding is a value that was given for a key.
type finding struct {
	input
	origin string
	file   bool          // the text is the path of a file that holds the value
	value  reflect.Value // parsed, unless file
}

type loader struct {
	*catalogue
	found    map[*item]finding
	problems []errs.Field
}

// put takes a value that beats those put before it. A bad value is a problem
// even when a stronger source hides it; a file of a secret is not read then.
func (l *loader) put(it *item, f finding) {
	if !f.file {
		v, err := it.parse(f.input)
		if err != nil {
			l.blame(it.key, f.origin, err.Error())
			return
		}
		f.value = v
	}
	l.found[it] = f
}

func (l *loader) value(it *item) reflect.Value {
	f, ok := l.found[it]
	if !ok {
		return clone(it.preset)
	}
	if !f.file {
		return f.value
	}
	data, err := readFile(f.text)
	if err != nil {
		l.blame(it.key, f.origin, "the file cannot be read: "+err.Error())
		return it.preset
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		l.blame(it.key, f.origin, "the file is empty")
		return it.preset
	}
	v, err := it.parse(input{text: text})
	if err != nil {
		l.blame(it.key, f.origin, err.Error())
	}
	return v
}

// clone keeps lists and maps of two loads apart.
func clone(v reflect.Value) reflect.Value {
	switch {
	case v.Kind() == reflect.Slice && !v.IsNil():
		return reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, v.Len()), v)
	case v.Kind() == reflect.Map && !v.IsNil():
		m := reflect.MakeMapWithSize(v.Type(), v.Len())
		for _, k := range v.MapKeys() {
			m.SetMapIndex(k, v.MapIndex(k))
		}
		return m
	}
	return v
}

func (l *loader) origin(it *item) string {
	if f, ok := l.found[it]; ok {
		return f.origin
	}
	return "default"
}

// path says which file to read.
func (l *loader) path(src Source, env map[string]string) string {
	if src.File != "" {
		return src.File
	}
	if src.Flags != nil {
		if f := src.Flags.Lookup("config"); f != nil && f.Changed {
			return f.Value.String()
		}
	}
	return env["APP_CONFIG"]
}

// environment keeps the variables that are ours; of a repeated one the last.
func environment(env []string) map[string]string {
	m := map[string]string{}
	for _, e := range env {
		name, value, ok := strings.Cut(e, "=")
		if ok && strings.HasPrefix(name, prefix) && !strings.HasPrefix(name, "APP_TEST_") {
			m[name] = value
		}
	}
	return m
}

func (l *loader) env(env map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		it, origin := l.byEnv[name], "env "+name
		switch {
		case name == "APP_CONFIG":
		case it == nil:
			names := append(slices.Sorted(maps.Keys(l.byEnv)), "APP_CONFIG")
			l.problems = append(l.problems, errs.Field{
				Location: name,
				Message:  "unknown variable " + name + " (environment)" + didYouMean(name, names),
			})
		case env[name] == "":
		case name != it.env && env[it.env] != "":
			l.blame(it.key, origin, "is given together with "+it.env)
		default:
			l.put(it, finding{input: input{text: env[name]}, origin: origin, file: name != it.env})
		}
	}
}

// validate asks the section itself.
func (l *loader) validate(s Section) {
	v, ok := s.Value.(interface{ Validate() error })
	if !ok {
		return
	}
	err := v.Validate()
	if err == nil {
		return
	}
	fields := errs.FieldsOf(err)
	if len(fields) == 0 {
		text := oneLine(err.Error())
		if s.Name != "" {
			text = s.Name + ": " + text
		}
		l.problems = append(l.problems, errs.Field{Location: s.Name, Message: text})
		return
	}
	for _, f := range fields {
		key := join(s.Name, f.Location)
		origin := ""
		if it := l.byKey[key]; it != nil {
			origin = l.origin(it)
		}
		l.blame(key, origin, f.Message)
	}
}

func (l *loader) unknownKey(key, origin string) {
	hint := didYouMean(key, slices.Sorted(maps.Keys(l.byKey)))
	if key == "config" {
		hint = "; the path of the file is given by --config or APP_CONFIG"
	}
	l.problems = append(l.problems, errs.Field{
		Location: key,
		Message:  fmt.Sprintf("unknown key %s (%s)%s", oneLine(key), origin, hint),
	})
}

// blame notes a problem as "key: reason (origin)".
func (l *loader) blame(key, origin, reason string) {
	text := oneLine(reason)
	switch {
	case key == "":
		text = origin + ": " + text
	case origin == "":
		text = oneLine(key) + ": " + text
	default:
		text = fmt.Sprintf("%s: %s (%s)", oneLine(key), text, origin)
	}
	l.problems = append(l.problems, errs.Field{Location: key, Message: text})
}

func (l *loader) err() error {
	if len(l.problems) == 0 {
		return nil
	}
	texts := make([]string, len(l.problems))
	for i, p := range l.problems {
		texts[i] = p.Message
	}
	return errs.InvalidFields(strings.Join(texts, "; "), l.problems...)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
