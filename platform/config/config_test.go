package config_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"switchboard/platform/config"
	"switchboard/platform/errs"
)

var update = flag.Bool("update", false, "rewrite testdata")

type general struct {
	Listen   string   `default:"127.0.0.1:8080" flag:"listen" doc:"Address of the one port."`
	DataDir  string   `default:"./data" flag:"data-dir" doc:"Where everything is kept, as <data-dir>/x."`
	Modules  []string `flag:"modules" doc:"Modules to start; empty means all."`
	AdminKey config.Secret
	Ready    bool `flag:"ready" doc:"Yes | no."`
}

type collector struct {
	Retention time.Duration `default:"30d" doc:"How long events are kept."`
	MaxBody   config.Bytes  `default:"8MiB" flag:"max-body" doc:"Largest body."`
	Batch     int           `default:"100" doc:"Events at once."`
	Small     uint8
	Ratio     float64 `default:"0.5"`
	Format    string  `enum:"text,json" doc:"Form of it."`
	Kinds     []kind  `enum:"click,view" default:"click,view"`
	Labels    map[string]string
	Token     config.Secret `doc:"Key of the provider."`
	Password  string        `secret:"true" default:"changeme" flag:"password"`
	Sender    sender
	Skipped   chan int `key:"-"`
}

type kind string

type sender struct {
	URL      string        `key:"url" doc:"Where to."`
	OIDCName string        `doc:"With \"quotes\": and a colon."`
	Timeout  time.Duration `default:"1h30m"`
}

func sections() (*general, *collector, []config.Section) {
	g, c := &general{}, &collector{}
	return g, c, []config.Section{{Name: "", Value: g}, {Name: "collector", Value: c}}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// nameless is the text of an error with F for the file's path.
func nameless(err error, path string) string {
	if path == "" {
		return err.Error()
	}
	return strings.ReplaceAll(err.Error(), path, "F")
}

func flags(t *testing.T, args []string, s ...config.Section) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("app", pflag.ContinueOnError)
	fs.String("config", "", "")
	config.BindFlags(fs, s...)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestDefaultsFillTheStructs(t *testing.T) {
	t.Parallel()
	g, c, s := sections()
	g.Modules = []string{"left over"}
	if _, err := config.Load(config.Source{}, s...); err != nil {
		t.Fatal(err)
	}
	want := collector{
		Retention: 30 * 24 * time.Hour, MaxBody: 8 << 20, Batch: 100, Ratio: 0.5, Password: "changeme",
		Kinds: []kind{"click", "view"}, Sender: sender{Timeout: 90 * time.Minute},
	}
	if d := cmp.Diff(want, *c, cmp.AllowUnexported(collector{})); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(general{Listen: "127.0.0.1:8080", DataDir: "./data"}, *g); d != "" {
		t.Error(d)
	}
}

func TestTheStrongerSourceWins(t *testing.T) {
	t.Parallel()
	const file = "\nlisten: from-file\ncollector:\n  batch: 2\n"
	tests := []struct {
		name, key, value, origin string
		env, args                []string
		noFile                   bool
	}{
		{name: "default", key: "listen", value: "127.0.0.1:8080", origin: "default", noFile: true},
		{name: "file over default", key: "listen", value: "from-file", origin: "file app.yaml:2"},
		{name: "nested file over default", key: "collector.batch", value: "2", origin: "file app.yaml:4"},
		{name: "env over file", key: "listen", value: "e", origin: "env APP_LISTEN", env: []string{"APP_LISTEN=e"}},
		{name: "last of a repeated variable", key: "listen", value: "f", origin: "env APP_LISTEN", env: []string{"APP_LISTEN=e", "APP_LISTEN=f"}},
		{name: "empty variable is none", key: "listen", value: "from-file", origin: "file app.yaml:2", env: []string{"APP_LISTEN="}},
		{name: "flag over env", key: "listen", value: "g", origin: "flag --listen", env: []string{"APP_LISTEN=e"}, args: []string{"--listen=g"}},
		{name: "flag at its default over env", key: "listen", value: "127.0.0.1:8080", origin: "flag --listen", env: []string{"APP_LISTEN=e"}, args: []string{"--listen=127.0.0.1:8080"}},
		{name: "empty flag counts", key: "listen", value: "", origin: "flag --listen", env: []string{"APP_LISTEN=e"}, args: []string{"--listen="}},
		{name: "set over env", key: "collector.batch", value: "7", origin: "flag --set", env: []string{"APP_COLLECTOR_BATCH=6"}, args: []string{"--set", "collector.batch=7"}},
		{name: "the later set counts", key: "collector.batch", value: "8", origin: "flag --set", args: []string{"--set=collector.batch=7", "--set=collector.batch=8"}},
		{name: "set keeps further equals signs", key: "collector.sender.url", value: "x?a=b,c", origin: "flag --set", args: []string{"--set", "collector.sender.url=x?a=b,c"}},
		{name: "set of a list", key: "modules", value: "a,b,c", origin: "flag --set", args: []string{"--set", "modules=a,b", "--set", "modules=c"}},
		{name: "set of a map", key: "collector.labels", value: "a=1,b=2", origin: "flag --set", args: []string{"--set", "collector.labels=b=2,a=1"}},
		{name: "repeated flag of a list", key: "modules", value: "a,b,c", origin: "flag --modules", args: []string{"--modules", "a,b", "--modules=c"}},
		{name: "bool flag without a value", key: "ready", value: "true", origin: "flag --ready", args: []string{"--ready"}},
		{name: "list in env", key: "modules", value: "a,b", origin: "env APP_MODULES", env: []string{"APP_MODULES= a , b,"}},
		{name: "nested struct in env", key: "collector.sender.oidc_name", value: "n", origin: "env APP_COLLECTOR_SENDER_OIDC_NAME", env: []string{"APP_COLLECTOR_SENDER_OIDC_NAME=n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, s := sections()
			src := config.Source{Env: append(tt.env, "HOME=/", "APP_TEST_X=1"), Flags: flags(t, tt.args, s...)}
			if !tt.noFile {
				src.File = write(t, file)
			}
			v, err := config.Load(src, s...)
			if err != nil {
				t.Fatal(err)
			}
			got := find(t, v, tt.key)
			origin := strings.ReplaceAll(got.Origin, filepath.Dir(src.File)+"/", "")
			if got.Value != tt.value || origin != tt.origin {
				t.Errorf("%s = %q from %q, want %q from %q", tt.key, got.Value, origin, tt.value, tt.origin)
			}
		})
	}
}

func find(t *testing.T, v *config.Values, key string) config.Setting {
	t.Helper()
	for _, s := range v.All() {
		if s.Key == key {
			return s
		}
	}
	t.Fatalf("no key %s", key)
	return config.Setting{}
}

func TestFileIsFoundByFlagOrVariable(t *testing.T) {
	t.Parallel()
	one, two := write(t, "listen: one"), write(t, "listen: two")
	tests := []struct {
		name, want string
		src        config.Source
		args       []string
	}{
		{"source first", "one", config.Source{File: one, Env: []string{"APP_CONFIG=" + two}}, []string{"--config", two}},
		{"then the flag", "one", config.Source{Env: []string{"APP_CONFIG=" + two}}, []string{"--config", one}},
		{"then the variable", "two", config.Source{Env: []string{"APP_CONFIG=" + two}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g, _, s := sections()
			tt.src.Flags = flags(t, tt.args, s...)
			if _, err := config.Load(tt.src, s...); err != nil || g.Listen != tt.want {
				t.Errorf("listen = %q, %v", g.Listen, err)
			}
		})
	}
}

func TestFileForms(t *testing.T) {
	t.Parallel()
	_, c, s := sections()
	_, err := config.Load(config.Source{File: write(t, `
modules: collector, crm
ready: yes
admin_key: "0123"
collector:
  kinds: [view, click]
  labels: {b: "2", a: 010}
  batch: &n 7
  small: *n
  max_body: 1GB
  retention: 1d12h
  sender:
    url: no
    oidc_name: 1:30
`)}, s...)
	if err != nil {
		t.Fatal(err)
	}
	want := collector{
		Kinds: []kind{"view", "click"}, Labels: map[string]string{"a": "010", "b": "2"}, Batch: 7, Small: 7, MaxBody: 1e9,
		Retention: 36 * time.Hour, Ratio: 0.5, Password: "changeme",
		Sender: sender{URL: "no", OIDCName: "1:30", Timeout: 90 * time.Minute},
	}
	if d := cmp.Diff(want, *c, cmp.AllowUnexported(collector{})); d != "" {
		t.Error(d)
	}
	for _, empty := range []string{"", "# nothing\n", "---\n", "collector:\n  # nothing\n", "null\n"} {
		if _, err := config.Load(config.Source{File: write(t, empty)}, s...); err != nil {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

func TestMistakesAreRefusedInOneLine(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, file, want string // in want, F is the file
		env, args        []string
	}{
		{name: "unknown variable", env: []string{"APP_LISTN=x"}, want: "unknown variable APP_LISTN (environment); did you mean APP_LISTEN?"},
		{name: "empty unknown variable", env: []string{"APP_LISTN="}, want: "unknown variable APP_LISTN (environment); did you mean APP_LISTEN?"},
		{name: "unknown variable like a file", env: []string{"APP_COLLECTOR_TOKN_FILE=x"}, want: "unknown variable APP_COLLECTOR_TOKN_FILE (environment); did you mean APP_COLLECTOR_TOKEN_FILE?"},
		{name: "no file of what is not secret", env: []string{"APP_LISTEN_FILE=x"}, want: "unknown variable APP_LISTEN_FILE (environment)"},
		{name: "nothing near", env: []string{"APP_ZZZZZZZZZZ=x"}, want: "unknown variable APP_ZZZZZZZZZZ (environment)"},
		{name: "config misspelt", env: []string{"APP_CONFG=x"}, want: "unknown variable APP_CONFG (environment); did you mean APP_CONFIG?"},
		{name: "unknown key", file: "listne: x", want: "unknown key listne (file F:1); did you mean listen?"},
		{name: "unknown nested key", file: "\ncollector:\n  max-body: 1", want: "unknown key collector.max-body (file F:3); did you mean collector.max_body?"},
		{name: "key in the wrong place", file: "retention: 1h", want: "unknown key retention (file F:1); did you mean collector.retention?"},
		{name: "unknown section", file: "colector:\n  batch: 1", want: "unknown key colector (file F:1)"},
		{name: "path as a key", file: "collector.batch: 1", want: `collector.batch: is written "batch:" below "collector:" (file F:1)`},
		{name: "key twice", file: "listen: a\nlisten: b", want: "listen: is given twice, first in line 1 (file F:2)"},
		{name: "section with a value", file: "collector: 1", want: "collector: is a section: it wants keys below it (file F:1)"},
		{name: "no value", file: "listen:", want: `listen: has no value (write "" for an empty one) (file F:1)`},
		{name: "list for one", file: "listen: [a]", want: "listen: wants a single value, not a list (file F:1)"},
		{name: "map for one", file: "listen: {a: b}", want: "listen: wants a single value, not a map (file F:1)"},
		{name: "map for a list", file: "modules: {a: b}", want: "modules: wants a list, not a map (file F:1)"},
		{name: "deep list", file: "modules: [[a]]", want: "modules: wants a list of plain values (file F:1)"},
		{name: "list for a map", file: "collector: {labels: [a]}", want: "collector.labels: wants a map, not a list (file F:1)"},
		{name: "config in the file", file: "config: x", want: "unknown key config (file F:1); the path of the file is given by --config or APP_CONFIG"},
		{name: "merge key", file: "a: &a {batch: 1}\ncollector:\n  <<: *a", want: "unknown key a (file F:1); unknown key collector.<< (file F:3)"},
		{name: "not a map", file: "- a", want: "file F: does not begin with a key"},
		{name: "two documents", file: "listen: a\n---\nlisten: b", want: "file F: holds more than one document"},
		{name: "not YAML", file: "a: b: c", want: "file F: mapping values are not allowed in this context"},
		{name: "bool", env: []string{"APP_READY=maybe"}, want: `ready: "maybe" is not true or false (env APP_READY)`},
		{name: "duration", file: "collector: {retention: soon}", want: `collector.retention: "soon" is not a duration such as 20s, 1h30m or 30d (file F:1)`},
		{name: "duration without a unit", file: "collector: {retention: 20}", want: `collector.retention: "20" is a duration without a unit; write 20s, 1h30m or 30d (file F:1)`},
		{name: "bytes", args: []string{"--max-body=8MiX"}, want: `collector.max_body: "8MiX" is not a size such as 8MiB, 1GB or 512 (flag --max-body)`},
		{name: "int", args: []string{"--set", "collector.batch=many"}, want: `collector.batch: "many" is not a whole number (flag --set)`},
		{name: "range", args: []string{"--set", "collector.small=256"}, want: `collector.small: "256" is out of range (flag --set)`},
		{name: "sign", args: []string{"--set", "collector.small=-1"}, want: `collector.small: "-1" is not a whole number from 0 (flag --set)`},
		{name: "float", args: []string{"--set", "collector.ratio=NaN"}, want: `collector.ratio: "NaN" is not a number (flag --set)`},
		{name: "enum", file: "collector: {format: xml}", want: `collector.format: "xml" is not one of text, json (file F:1)`},
		{name: "enum of a list", file: "collector: {kinds: [view, buy]}", want: `collector.kinds: "buy" is not one of click, view (file F:1)`},
		{name: "map text", env: []string{"APP_COLLECTOR_LABELS=a"}, want: `collector.labels: "a" is not of the form name=value (env APP_COLLECTOR_LABELS)`},
		{name: "lines in a value", env: []string{"APP_READY=a\nb"}, want: `ready: "a\nb" is not true or false (env APP_READY)`},
		{name: "long value", env: []string{"APP_READY=" + strings.Repeat("x", 100)}, want: `ready: "` + strings.Repeat("x", 60) + `…" is not true or false (env APP_READY)`},
		{name: "bad value that is overridden", env: []string{"APP_READY=maybe"}, args: []string{"--ready"}, want: `ready: "maybe" is not true or false (env APP_READY)`},
		{name: "set of nothing", args: []string{"--set", "listen"}, want: "flag --set: wants key=value"},
		{name: "set of an unknown key", args: []string{"--set", "colector.batch=1"}, want: "unknown key colector.batch (flag --set); did you mean collector.batch?"},
		{name: "set of a section", args: []string{"--set", "collector=1"}, want: "collector: is a section, not a key (flag --set)"},
		{name: "set and flag", args: []string{"--set", "listen=a", "--listen=a"}, want: "listen: is given by --listen too (flag --set)"},
		{name: "several", file: "listne: x", env: []string{"APP_READY=maybe"}, args: []string{"--set", "x"},
			want: `unknown key listne (file F:1); did you mean listen?; ready: "maybe" is not true or false (env APP_READY); flag --set: wants key=value`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g, _, s := sections()
			src := config.Source{Env: tt.env, Flags: flags(t, tt.args, s...)}
			if tt.file != "" {
				src.File = write(t, tt.file)
			}
			_, err := config.Load(src, s...)
			if err == nil {
				t.Fatal("accepted")
			}
			if got := nameless(err, src.File); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if errs.KindOf(err) != errs.Invalid || len(errs.FieldsOf(err)) == 0 || strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("kind %v, fields %v", errs.KindOf(err), errs.FieldsOf(err))
			}
			if g.DataDir != "" {
				t.Error("structs were written to in spite of the error")
			}
		})
	}
}

func TestMissingFileIsNamed(t *testing.T) {
	t.Parallel()
	_, _, s := sections()
	_, err := config.Load(config.Source{File: "nowhere.yaml"}, s...)
	if err == nil || err.Error() != "file nowhere.yaml: cannot be read: no such file or directory" || errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
}

func TestSecretsCanComeFromFiles(t *testing.T) {
	t.Parallel()
	path := write(t, "  s3cret\n")
	tests := []struct {
		name, file, want, origin string
		env, args                []string
	}{
		{name: "variable", env: []string{"APP_COLLECTOR_TOKEN_FILE=" + path}, want: "s3cret", origin: "env APP_COLLECTOR_TOKEN_FILE"},
		{name: "file key", file: "collector: {token_file: " + path + "}", want: "s3cret", origin: "file"},
		{name: "set", args: []string{"--set", "collector.token_file=" + path}, want: "s3cret", origin: "flag --set"},
		{name: "plain", env: []string{"APP_COLLECTOR_TOKEN=x"}, want: "x", origin: "env APP_COLLECTOR_TOKEN"},
		{name: "a weaker file is not read", file: "collector: {token_file: /nowhere}", env: []string{"APP_COLLECTOR_TOKEN=x"}, want: "x", origin: "env APP_COLLECTOR_TOKEN"},
		{name: "an empty twin is none", env: []string{"APP_COLLECTOR_TOKEN=", "APP_COLLECTOR_TOKEN_FILE=" + path}, want: "s3cret", origin: "env APP_COLLECTOR_TOKEN_FILE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, c, s := sections()
			src := config.Source{Env: tt.env, Flags: flags(t, tt.args, s...)}
			if tt.file != "" {
				src.File = write(t, tt.file)
			}
			v, err := config.Load(src, s...)
			if err != nil {
				t.Fatal(err)
			}
			got := find(t, v, "collector.token")
			if c.Token.Reveal() != tt.want || got.Value != "***" || !strings.HasPrefix(got.Origin, tt.origin) {
				t.Errorf("token %q, shown %+v", c.Token.Reveal(), got)
			}
		})
	}
}

func TestNoErrorHoldsASecret(t *testing.T) {
	t.Parallel()
	const canary = "canary-7f3a"
	type strict struct {
		Number int      `secret:"true" flag:"number"`
		List   []string `secret:"true" enum:"a,b"`
		Token  config.Secret
		Enum   config.Secret     `enum:"a,b"`
		Map    map[string]string `secret:"true"`
	}
	path, empty := write(t, canary), write(t, "\n")
	tests := []struct {
		name, file, want string
		env, args        []string
	}{
		{name: "both variables", env: []string{"APP_TOKEN=" + canary, "APP_TOKEN_FILE=" + path}, want: "token: is given together with APP_TOKEN (env APP_TOKEN_FILE)"},
		{name: "both keys", file: "token_file: " + path + "\ntoken: " + canary, want: "token: is given together with token_file (file F:2)"},
		{name: "both sets", args: []string{"--set=token=" + canary, "--set=token_file=" + path}, want: "token: is given together with token_file (flag --set)"},
		{name: "secret in place of its path", env: []string{"APP_TOKEN_FILE=" + canary}, want: "token: the file cannot be read: no such file or directory (env APP_TOKEN_FILE)"},
		{name: "empty file", env: []string{"APP_TOKEN_FILE=" + empty}, want: "token: the file is empty (env APP_TOKEN_FILE)"},
		{name: "bad value in a file", env: []string{"APP_NUMBER_FILE=" + path}, want: "number: the value is not a whole number (env APP_NUMBER_FILE)"},
		{name: "number", args: []string{"--number=" + canary}, want: "number: the value is not a whole number (flag --number)"},
		{name: "enum", env: []string{"APP_ENUM=" + canary}, want: "enum: the value is not one of a, b (env APP_ENUM)"},
		{name: "list", file: "list: [" + canary + "]", want: "list: the value is not one of a, b (file F:1)"},
		{name: "map", env: []string{"APP_MAP=" + canary}, want: "map: the value is not of the form name=value (env APP_MAP)"},
		{name: "form", file: "token: [" + canary + "]", want: "token: wants a single value, not a list (file F:1)"},
		{name: "set without equals", args: []string{"--set", "token:" + canary}, want: "flag --set: wants key=value"},
		{name: "unknown key", file: "tokn: " + canary, want: "unknown key tokn (file F:1); did you mean token?"},
		{name: "unknown variable", env: []string{"APP_TOKN=" + canary}, want: "unknown variable APP_TOKN (environment); did you mean APP_TOKEN?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := config.Section{Value: &strict{}}
			src := config.Source{Env: tt.env, Flags: flags(t, tt.args, s)}
			if tt.file != "" {
				src.File = write(t, tt.file)
			}
			_, err := config.Load(src, s)
			if err == nil {
				t.Fatal("accepted")
			}
			if got := nameless(err, src.File); got != tt.want || strings.Contains(fmt.Sprintf("%#v", err), canary) {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

type validated struct {
	Low  int `default:"1"`
	High int `default:"2"`
	Mode string
}

func (v *validated) Validate() error {
	switch {
	case v.Mode == "plain":
		return errors.New("this will\nnot do")
	case v.Low > v.High:
		return errs.InvalidFields("bad", errs.Field{Location: "low", Message: "must not be above high"})
	}
	return nil
}

func TestValidateIsAsked(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, env, want string }{
		{"good", "APP_X_LOW=2", ""},
		{"field", "APP_X_LOW=3", "x.low: must not be above high (env APP_X_LOW)"},
		{"other field", "APP_X_HIGH=0", "x.low: must not be above high (default)"},
		{"plain error", "APP_X_MODE=plain", "x: this will not do"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(config.Source{Env: []string{tt.env}}, config.Section{Name: "x", Value: &validated{}})
			if got := fmt.Sprint(err); got != tt.want && (err != nil || tt.want != "") {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if err != nil && errs.KindOf(err) != errs.Invalid {
				t.Error(errs.KindOf(err))
			}
		})
	}
}

func TestMistakesInTheStructsAreNotTheOperators(t *testing.T) {
	t.Parallel()
	type bad struct{ X chan int }
	type bound struct {
		N int `default:"x"`
	}
	type path struct{ Config string }
	type test struct{ TestX string }
	type twin struct {
		A config.Secret
		B string `key:"a_file"`
	}
	type flagged struct {
		A string `flag:"a"`
		B string `flag:"a"`
	}
	type one struct{ X string }
	type clash struct {
		A  string `key:"x.y"`
		A2 string `key:"x_y"`
	}
	tests := map[string][]config.Section{
		"type":             {{Value: &bad{}}},
		"default":          {{Value: &bound{}}},
		"reserved config":  {{Value: &path{}}},
		"reserved test":    {{Value: &test{}}},
		"twin of a secret": {{Value: &twin{}}},
		"flag twice":       {{Value: &flagged{}}},
		"key twice":        {{Name: "a", Value: &one{}}, {Name: "a", Value: &one{}}},
		"key and section":  {{Value: &one{}}, {Name: "x", Value: &one{}}},
		"variable twice":   {{Value: &clash{}}},
		"not a pointer":    {{Value: one{}}},
		"not a struct":     {{Value: new(int)}},
		"nil":              {{Value: (*one)(nil)}},
		"nothing":          {{}},
	}
	for name, s := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := config.Load(config.Source{}, s...); err == nil || errs.KindOf(err) != errs.Internal {
				t.Errorf("err = %v", err)
			}
		})
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	_, _, s := sections()
	s = append(s, config.Section{Name: "", Value: &struct {
		Late string `default:"yes"`
	}{}})
	fs := flags(t, []string{"--password=hunter2", "--modules=b,a"}, s...)
	v, err := config.Load(config.Source{Flags: fs, Env: []string{"APP_ADMIN_KEY=hunter2"}}, s...)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{
		"reference.md": config.Markdown(s...),
		"sample.yaml":  config.SampleYAML(s...),
		"show.txt":     v.Show(),
		"help.txt":     flags(t, nil, s...).FlagUsages(),
	} {
		if strings.Contains(got, "hunter2") || strings.Contains(got, "changeme") {
			t.Errorf("%s shows a secret", name)
		}
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s (run with -update to accept):\n%s", name, d)
		}
	}
}

func TestSampleLoads(t *testing.T) {
	t.Parallel()
	_, c, s := sections()
	sample := config.SampleYAML(s...)
	v, err := config.Load(config.Source{File: write(t, sample)}, s...)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range v.All() {
		if x.Origin != "default" {
			t.Errorf("%s comes from %s", x.Key, x.Origin)
		}
	}
	// With every key put in force nothing but the origins changes.
	before := *c
	lines := strings.Split(sample, "\n")
	for i, l := range lines {
		if j := strings.Index(l, "#"); j >= 0 && !strings.HasPrefix(l[j:], "# ") {
			lines[i] = l[:j] + l[j+1:]
		}
	}
	v, err = config.Load(config.Source{File: write(t, strings.Join(lines, "\n"))}, s...)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range v.All() {
		if !strings.HasPrefix(x.Origin, "file ") {
			t.Errorf("%s is not in the sample", x.Key)
		}
	}
	before.Password = "" // the sample does not tell a secret default
	if d := cmp.Diff(before, *c, cmp.AllowUnexported(collector{})); d != "" {
		t.Error(d)
	}
}

func TestSecretNeverPrints(t *testing.T) {
	t.Parallel()
	const canary = "canary-7f3a"
	s := config.Secret(canary)
	type box struct {
		S config.Secret
		M map[string]config.Secret
		L []config.Secret
		P *config.Secret
	}
	b := box{s, map[string]config.Secret{"k": s}, []config.Secret{s}, &s}
	var out []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%5.2f", "%T", "%c", "%U"} {
		out = append(out, fmt.Sprintf(verb, s), fmt.Sprintf(verb, b))
	}
	j, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, string(j), string(y), fmt.Sprint(s.LogValue()), fmt.Errorf("x %w %v", errors.New("y"), s).Error())
	for _, o := range out {
		if strings.Contains(o, canary) || strings.Contains(o, fmt.Sprintf("%x", canary)) {
			t.Errorf("leaks: %s", o)
		}
	}
	if s.String() != "***" || s.Reveal() != canary || config.Secret("").String() != "" {
		t.Error("String or Reveal")
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		want config.Bytes
		bad  bool
	}{
		{"8MiB", 8 << 20, false}, {"1GB", 1e9, false}, {"512", 512, false}, {"512B", 512, false}, {" 1.5 gib ", 3 << 29, false},
		{"0", 0, false}, {"2kb", 2000, false}, {"1TiB", 1 << 40, false}, {"9223372036854775807", math.MaxInt64, false},
		{"", 0, true}, {"MiB", 0, true}, {"-1", 0, true}, {"1e3", 0, true}, {"8M", 0, true}, {"0.3", 0, true}, {"1/2", 0, true},
		{"9223372036854775808", 0, true}, {"9999999999TiB", 0, true}, {"1.2.3MB", 0, true}, {".MB", 0, true}, {"0x10", 0, true},
	}
	for _, tt := range tests {
		got, err := config.ParseBytes(tt.text)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%q = %d, %v", tt.text, got, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := config.Bytes(rapid.Int64Min(0).Draw(t, "b") >> rapid.IntRange(0, 62).Draw(t, "shift") << rapid.IntRange(0, 40).Draw(t, "back"))
		if b < 0 {
			b = 0
		}
		if got, err := config.ParseBytes(b.String()); err != nil || got != b {
			t.Fatalf("%d prints %s, reads %d, %v", b, b, got, err)
		}
	})
}

func TestValuesReadBackAsShown(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type all struct {
			D time.Duration
			F float64
			I int64
			B bool
			L []string
			M map[string]string
		}
		word := rapid.StringMatching(`[a-z0-9 .:/]{0,6}[a-z]`)
		in := map[string]string{
			"APP_D": rapid.Custom(func(t *rapid.T) string { return time.Duration(rapid.Int64().Draw(t, "d")).String() }).Draw(t, "D"),
			"APP_F": fmt.Sprint(rapid.Float64Range(-1e300, 1e300).Draw(t, "F")),
			"APP_I": fmt.Sprint(rapid.Int64().Draw(t, "I")),
			"APP_B": fmt.Sprint(rapid.Bool().Draw(t, "B")),
			"APP_L": strings.Join(rapid.SliceOf(word).Draw(t, "L"), ","),
		}
		var env []string
		for k, v := range in {
			env = append(env, k+"="+v)
		}
		var one, two all
		v, err := config.Load(config.Source{Env: env}, config.Section{Value: &one})
		if err != nil {
			t.Fatal(err)
		}
		env = nil
		for _, s := range v.All() {
			env = append(env, s.Env+"="+s.Value)
		}
		if _, err := config.Load(config.Source{Env: env}, config.Section{Value: &two}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(one, two); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("listen: a\ncollector: {batch: 1}"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("? [a]\n: b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, s := sections()
		_, err := config.Load(config.Source{File: write(t, string(data))}, s...)
		if err != nil && (errs.KindOf(err) != errs.Invalid || strings.ContainsAny(err.Error(), "\n\r")) {
			t.Fatalf("%q", err)
		}
	})
}
