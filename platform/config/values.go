package config

import (
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
)

// Values is what Load found. It does not change and is safe to share.
type Values struct{ settings []Setting }

// Setting is one key with its value. A secret's value and default are "***".
type Setting struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Origin  string `json:"origin"` // "flag --listen", "flag --set", "env APP_LISTEN", "file x.yaml:12" or "default"
	Default string `json:"default"`
	Doc     string `json:"doc"`
	Env     string `json:"env"`
	Flag    string `json:"flag,omitempty"` // with its dashes; "" = none
	Type    string `json:"type"`
	Secret  bool   `json:"secret,omitempty"`
}

func (it *item) setting(value reflect.Value, origin string) Setting {
	s := Setting{
		Key: it.key, Value: it.text(value), Origin: origin, Default: it.text(it.preset),
		Doc: it.doc, Env: it.env, Type: it.typeName(), Secret: it.secret,
	}
	if it.flag != "" {
		s.Flag = "--" + it.flag
	}
	return s
}

// All gives every setting in the order of the sections and their fields.
func (v *Values) All() []Setting { return slices.Clone(v.settings) }

// Show lists every key, its value and its origin, one a line, in columns.
func (v *Values) Show() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range v.settings {
		value := s.Value
		if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' }) {
			value = quote(value)
		}
		_, _ = w.Write([]byte(s.Key + "\t" + value + "\t" + s.Origin + "\n"))
	}
	_ = w.Flush()
	return b.String()
}
