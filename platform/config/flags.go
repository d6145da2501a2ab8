package config

import (
	"strings"

	"github.com/spf13/pflag"
)

// BindFlags defines a flag for each field with a flag tag, and --set key=value
// for every key. Values are checked by Load, so that a bad one is reported like
// any other. It may be called again on the same set with other sections. It
// panics on a struct that Load would refuse and on a flag defined twice.
func BindFlags(fs *pflag.FlagSet, sections ...Section) {
	for _, it := range must(sections).items {
		if it.flag == "" {
			continue
		}
		f := fs.VarPF(&flagValue{kind: it.kind, secret: it.secret, preset: it.text(it.preset)}, it.flag, "", it.flagUsage())
		if it.kind == kindBool {
			f.NoOptDefVal = "true"
		}
	}
	if fs.Lookup(setFlag) == nil {
		fs.Var(&setValue{}, setFlag, "Give any setting as `key=value`; may be repeated.")
	}
}

const setFlag = "set"

func (it *item) flagUsage() string {
	usage := strings.ReplaceAll(it.doc, "`", "'") // pflag reads a name between backquotes
	if len(it.enum) > 0 {
		usage += " One of: " + strings.Join(it.enum, ", ") + "."
	}
	return usage
}

// flagValue keeps what was given until Load reads it. Set never fails: the
// flag package would repeat the value in its error, a secret's too.
type flagValue struct {
	kind   kind
	secret bool
	preset string
	given  []string
}

func (v *flagValue) Set(text string) error {
	v.given = append(v.given, text)
	return nil
}

func (v *flagValue) String() string {
	if v.given == nil {
		return v.preset
	}
	if v.secret {
		return hidden
	}
	return v.joined()
}

// joined is the last value, or all of them where values add up.
func (v *flagValue) joined() string { return merge(v.kind, v.given) }

func merge(k kind, given []string) string {
	if k == kindList || k == kindMap {
		return strings.Join(given, ",")
	}
	return given[len(given)-1]
}

func (v *flagValue) Type() string {
	switch v.kind {
	case kindList:
		return "strings"
	case kindMap:
		return "name=value"
	case kindSecret:
		return "string"
	}
	return v.kind.String()
}

// setValue is the flag --set.
type setValue struct{ pairs []string }

func (v *setValue) Set(text string) error {
	v.pairs = append(v.pairs, text)
	return nil
}
func (v *setValue) String() string { return "" }
func (v *setValue) Type() string   { return "key=value" }

// flags reads the flags that were given.
func (l *loader) flags(fs *pflag.FlagSet) {
	if fs == nil {
		return
	}
	byFlag := map[*item]string{}
	for _, it := range l.items {
		f := (*pflag.Flag)(nil)
		if it.flag != "" {
			f = fs.Lookup(it.flag)
		}
		if f == nil || !f.Changed {
			continue
		}
		text := f.Value.String()
		switch v := f.Value.(type) {
		case *flagValue:
			text = v.joined()
		case pflag.SliceValue:
			text = strings.Join(v.GetSlice(), ",")
		}
		byFlag[it] = "flag --" + it.flag
		l.put(it, finding{input: input{text: text}, origin: byFlag[it]})
	}
	f := fs.Lookup(setFlag)
	if f == nil || !f.Changed {
		return
	}
	if v, ok := f.Value.(*setValue); ok {
		l.set(v.pairs, byFlag)
	}
}

func (l *loader) set(pairs []string, byFlag map[*item]string) {
	const origin = "flag --" + setFlag
	given := map[string][]string{}
	var order []string
	for _, pair := range pairs {
		key, text, ok := strings.Cut(pair, "=")
		if !ok { // the text is not repeated: it may be a secret
			l.blame("", origin, "wants key=value")
			continue
		}
		if given[key] == nil {
			order = append(order, key)
		}
		given[key] = append(given[key], text)
	}
	seen := map[*item]bool{}
	for _, key := range order {
		it := l.byKey[key]
		switch {
		case it == nil && l.sections[key] && key != "":
			l.blame(key, origin, "is a section, not a key")
		case it == nil:
			l.unknownKey(key, origin)
		case byFlag[it] != "":
			l.blame(key, origin, "is given by --"+it.flag+" too")
		case seen[it]:
			l.blame(it.key, origin, "is given together with "+it.keyFile())
		default:
			seen[it] = true
			l.put(it, finding{input: input{text: merge(it.kind, given[key])}, origin: origin, file: key != it.key})
		}
	}
}
