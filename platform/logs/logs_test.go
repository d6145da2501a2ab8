package logs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/google/go-cmp/cmp"

	"switchboard/platform/errs"
	"switchboard/platform/logs"
)

var update = flag.Bool("update", false, "rewrite testdata")

const canary = "canary-7f3a"

func newLogger(t fataler, w io.Writer, cfg logs.Config, terminal bool) *slog.Logger {
	t.Helper()
	log, err := logs.New(w, cfg, terminal)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func TestFormat(t *testing.T) {
	tests := []struct {
		name, format, noColor string
		terminal, json, esc   bool
	}{
		{name: "terminal", terminal: true, esc: true},
		{name: "terminal without colour", terminal: true, noColor: "1"},
		{name: "file", json: true},
		{name: "text into a file", format: "text"},
		{name: "json on a terminal", format: "json", terminal: true, json: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", tt.noColor)
			var b bytes.Buffer
			newLogger(t, &b, logs.Config{Format: tt.format}, tt.terminal).Info("hello")
			if json.Valid(b.Bytes()) != tt.json || strings.Contains(b.String(), "\x1b[") != tt.esc {
				t.Errorf("%q", b.String())
			}
		})
	}
}

func TestLevelOfEachModule(t *testing.T) {
	t.Parallel()
	tests := []struct{ level, none, collector, crm string }{
		{"", "IWE", "IWE", "IWE"},
		{"debug", "DIWE", "DIWE", "DIWE"},
		{"warn", "WE", "WE", "WE"},
		{"ERROR", "E", "E", "E"},
		{"collector=debug", "IWE", "DIWE", "IWE"},
		{"info,collector=debug, crm = error", "IWE", "DIWE", "E"},
		{"collector=error,debug", "DIWE", "E", "DIWE"},
	}
	for _, tt := range tests {
		t.Run(tt.level, func(t *testing.T) {
			t.Parallel()
			written := func(module string) string {
				var b bytes.Buffer
				log := newLogger(t, &b, logs.Config{Level: tt.level}, false).With("a", 1).WithGroup("g")
				if module != "" {
					log = logs.For(logs.For(log, "other"), module).With("b", 2)
				}
				log.Debug("D")
				log.Info("I")
				log.Warn("W")
				log.Error("E")
				var got string
				dec := json.NewDecoder(&b)
				for dec.More() {
					var line struct{ Msg, Module string }
					if err := dec.Decode(&line); err != nil {
						t.Fatal(err)
					}
					got += line.Msg
					if line.Module != module {
						t.Errorf("module %q, want %q", line.Module, module)
					}
				}
				return got
			}
			if got := (struct{ a, b, c string }{written(""), written("collector"), written("crm")}); got.a != tt.none || got.b != tt.collector || got.c != tt.crm {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	tests := []struct {
		cfg  logs.Config
		want string
	}{
		{logs.Config{Level: "inof"}, `log level: "inof" is not debug, info, warn or error`},
		{logs.Config{Level: "info,crm=loud"}, `log level: "loud" is not debug, info, warn or error`},
		{logs.Config{Level: "=info"}, `log level: "=info" names no module`},
		{logs.Config{Level: "info,debug"}, `log level: "debug" comes after another level for the same`},
		{logs.Config{Level: "a=info,a=debug"}, `log level: "a=debug" comes after another level for the same`},
		{logs.Config{Format: "xml"}, `log format: "xml" is not text or json`},
	}
	for _, tt := range tests {
		_, err := logs.New(io.Discard, tt.cfg, false)
		if err == nil || err.Error() != tt.want || errs.KindOf(err) != errs.Invalid {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

func TestForOnAnotherLogger(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	logs.For(slog.New(slog.NewTextHandler(&b, nil)), "crm").Info("x")
	if !strings.Contains(b.String(), "module=crm") {
		t.Error(b.String())
	}
}

func TestHandlersKeepSlogsRules(t *testing.T) {
	t.Parallel()
	t.Run("json", func(t *testing.T) {
		t.Parallel()
		var b bytes.Buffer
		h := newLogger(t, &b, logs.Config{}, false).Handler()
		err := slogtest.TestHandler(h, func() []map[string]any {
			var all []map[string]any
			dec := json.NewDecoder(&b)
			for dec.More() {
				m := map[string]any{}
				if err := dec.Decode(&m); err != nil {
					t.Fatal(err)
				}
				all = append(all, m)
			}
			return all
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("text", func(t *testing.T) {
		t.Parallel()
		var b bytes.Buffer
		h := newLogger(t, &b, logs.Config{Format: "text"}, false).Handler()
		err := slogtest.TestHandler(h, func() []map[string]any {
			var all []map[string]any
			for line := range strings.Lines(b.String()) {
				all = append(all, parseLine(line))
			}
			return all
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// parseLine reads a text line back, as far as slogtest needs it.
func parseLine(line string) map[string]any {
	m := map[string]any{}
	fields := strings.Fields(line)
	if _, err := time.Parse(time.RFC3339, fields[0]); err == nil {
		m["time"], fields = fields[0], fields[1:]
	}
	m["level"], fields = fields[0], fields[1:]
	var msg []string
	for _, f := range fields {
		path, value, ok := strings.Cut(f, "=")
		if !ok {
			msg = append(msg, f)
			continue
		}
		at := m
		parts := strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			if at[p] == nil {
				at[p] = map[string]any{}
			}
			at = at[p].(map[string]any)
		}
		at[parts[len(parts)-1]] = value
	}
	m["msg"] = strings.Join(msg, " ")
	return m
}

type person struct {
	ID    int    `json:"id"`
	Phone string `json:"phone" pii:"phone"`
	Note  string
	note  string
}

type live struct {
	sync.Mutex
	Name logs.Personal
}

type phoneError struct {
	Code  int
	Phone string `pii:"phone"`
}

func (e *phoneError) Error() string { return "no such phone " + e.Phone }

type valuer struct{ p person }

func (v valuer) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("person", v.p), slog.Any("again", secondValuer(v)))
}

type secondValuer struct{ p person }

func (v secondValuer) LogValue() slog.Value { return slog.AnyValue(&v.p) }

type endless struct{}

func (endless) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("x", endless{}), slog.Any("y", endless{}))
}

type failing struct{ v any }

func (failing) LogValue() slog.Value { panic(canary) }

type node struct {
	Value any
	Next  *node
}

// shapes are attributes that all hold the canary somewhere it must not be seen.
func shapes(secret string) map[string]any {
	p := person{ID: 7, Phone: secret, Note: "n"}
	pp := &p
	personal := logs.Personal(secret)
	loop := &node{Value: personal}
	loop.Next = loop
	pe := &phoneError{Code: 4, Phone: secret}
	return map[string]any{
		"personal":            personal,
		"pointer to personal": &personal,
		"struct":              p,
		"pointer":             pp,
		"pointer to pointer":  &pp,
		"nil pointer":         (*person)(nil),
		"slice":               []person{p, p},
		"array":               [1]*person{pp},
		"map":                 map[string]any{"a": p, "b": personal},
		"map key":             map[logs.Personal]int{personal: 1, "x": 2},
		"struct key":          map[person]int{p: 1},
		"any key":             map[any]any{personal: 1},
		"nested":              struct{ A, B any }{[]any{map[int]any{1: &p}}, personal},
		"embedded":            struct{ person }{p},
		"embedded pointer":    struct{ *person }{pp},
		"tagged struct": struct {
			P struct{ A string } `pii:"x"`
		}{struct{ A string }{secret}},
		"tagged bytes": struct {
			B []byte `pii:"x"`
		}{[]byte(secret)},
		"unexported":        struct{ p person }{p},
		"unexported any":    struct{ a any }{personal},
		"live":              &live{Name: personal},
		"valuer":            valuer{p},
		"in a valuer":       []any{valuer{p}, secondValuer{p}},
		"attr":              slog.Any("x", p),
		"attrs":             []slog.Attr{slog.Any("x", p)},
		"value":             slog.AnyValue(p),
		"group":             slog.GroupValue(slog.Any("x", p), slog.Group("y", "z", personal)),
		"cycle":             loop,
		"error":             pe,
		"wrapped":           fmt.Errorf("dial: %w", pe),
		"wrapped twice":     fmt.Errorf("a: %w", fmt.Errorf("b: %w", pe)),
		"quoted":            fmt.Errorf("dial %q: %w", pe.Error(), pe),
		"joined":            errors.Join(io.EOF, pe, fmt.Errorf("c: %w", pe)),
		"kind":              errs.Wrap(errs.Invalid, pe, "check"),
		"kind's field":      errs.InvalidFields("x", errs.Field{Location: "l", Message: "m", Value: personal}),
		"error in a struct": struct{ Err error }{fmt.Errorf("dial: %w", pe)},
		"error in a slice":  []error{pe},
		"error in a map":    map[string]error{"x": pe},
		"func": struct {
			F func()
			P any
		}{func() {}, personal},
		"panic":   failing{personal},
		"endless": endless{},
	}
}

// each writes an attribute in every way there is and gives the output of each.
func each(t fataler, v any) map[string]string {
	out := map[string]string{}
	for _, format := range []string{"text", "json"} {
		ways := map[string]func(*slog.Logger){
			"attr":        func(l *slog.Logger) { l.Info("m", "v", v) },
			"log attrs":   func(l *slog.Logger) { l.LogAttrs(context.Background(), slog.LevelInfo, "m", slog.Any("v", v)) },
			"with":        func(l *slog.Logger) { l.With("v", v).Info("m") },
			"group":       func(l *slog.Logger) { l.WithGroup("g").Info("m", slog.Group("h", "v", v)) },
			"with module": func(l *slog.Logger) { logs.For(l.WithGroup("g").With("v", v), "crm").Info("m") },
			"in a struct": func(l *slog.Logger) { l.Info("m", "v", struct{ V any }{v}) },
			"in a slice":  func(l *slog.Logger) { l.Info("m", "v", []any{v}) },
		}
		for way, f := range ways {
			var b bytes.Buffer
			f(newLogger(t, &b, logs.Config{Format: format}, false))
			out[format+" "+way] = b.String()
		}
	}
	return out
}

func TestNothingPersonalIsWritten(t *testing.T) {
	t.Parallel()
	for name, v := range shapes(canary) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for way, got := range each(t, v) {
				if leaks(got, canary) {
					t.Errorf("%s: %s", way, got)
				}
				if strings.Count(got, "\n") != 1 {
					t.Errorf("%s: not one line: %q", way, got)
				}
			}
		})
	}
}

func leaks(out, secret string) bool {
	forms := []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), base64(secret)}
	for _, f := range forms {
		if strings.Contains(out, f) {
			return true
		}
	}
	return false
}

func base64(s string) string {
	b, _ := json.Marshal([]byte(s))
	return strings.Trim(string(b), `"=`)
}

func TestRedactionGolden(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	at := time.Date(2026, 11, 21, 15, 4, 5, 678e6, time.FixedZone("x", 3600))
	p := &person{ID: 7, Phone: canary, Note: "<b> & c"}
	pe := &phoneError{Code: 4, Phone: canary}
	records := []slog.Record{
		slog.NewRecord(at, slog.LevelInfo, "event refused", 0),
		slog.NewRecord(at, slog.LevelError, "line one\nline two \x1b[31m", 0),
		slog.NewRecord(at, slog.LevelDebug, "person", 0),
		slog.NewRecord(at, slog.LevelWarn, "errors", 0),
	}
	records[0].Add("reason", "too large", "limit", 8<<20, "took", 1500*time.Millisecond, "at", at, "empty", "", "line", "a\nb=c", "json", `{"x y": 1}`)
	records[1].Add(slog.Group("g", "a", 1, slog.Group("h", "b", true)), "nil", nil, "f", 1.5)
	records[2].Add("who", p, "all", []*person{p}, "by", map[string]any{"k": p, "n": 1}, "clean", struct {
		A string
		B []int
	}{"x", []int{1}}, "keys", map[logs.Personal]int{canary: 1})
	records[3].Add("plain", io.EOF, "own", pe, "wrapped", fmt.Errorf("dial: %w", pe), "joined", errors.Join(io.EOF, pe),
		"kind", errs.Wrap(errs.Conflict, pe, "save"), "field", errs.InvalidFields("bad", errs.Field{Location: "a.b", Message: "m", Value: logs.Personal(canary)}))
	var out bytes.Buffer
	for _, c := range []struct {
		cfg      logs.Config
		terminal bool
	}{{logs.Config{Format: "text", Level: "debug"}, false}, {logs.Config{Format: "text", Level: "debug"}, true}, {logs.Config{Format: "json", Level: "debug"}, false}} {
		var b bytes.Buffer
		h := logs.For(newLogger(t, &b, c.cfg, c.terminal), "crm").Handler()
		for _, r := range records {
			if err := h.Handle(t.Context(), r.Clone()); err != nil {
				t.Fatal(err)
			}
		}
		out.Write(b.Bytes())
		out.WriteByte('\n')
	}
	got := strings.ReplaceAll(out.String(), "\x1b", "ESC")
	path := filepath.Join("testdata", "log.txt")
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
		t.Errorf("run with -update to accept:\n%s", d)
	}
}

func TestUntouchedElsewhere(t *testing.T) {
	t.Parallel()
	p := logs.Personal(canary)
	j, err := json.Marshal(map[string]any{"p": p})
	if err != nil || string(j) != `{"p":"`+canary+`"}` {
		t.Errorf("%s, %v", j, err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%5.1f", "%t"} {
		if got := fmt.Sprintf(verb, p); got != "[redacted]" {
			t.Errorf("%s gives %s", verb, got)
		}
		if got := fmt.Sprintf(verb, struct{ P logs.Personal }{p}); strings.Contains(got, canary) {
			t.Errorf("%s of a struct gives %s", verb, got)
		}
	}
	if p.String() != "[redacted]" || p.GoString() != "[redacted]" || string(p) != canary {
		t.Error("String, GoString or the text itself")
	}
}

func TestRedactionLeavesTheValueAlone(t *testing.T) {
	t.Parallel()
	p := &person{Phone: canary}
	m := map[string]any{"p": p}
	newLogger(t, io.Discard, logs.Config{}, false).Info("m", "v", m)
	if p.Phone != canary || m["p"] != p {
		t.Error("changed")
	}
}

func TestWritesAreWhole(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		w := &lines{}
		log := newLogger(t, w, logs.Config{Format: format}, false)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				mine := logs.For(log, "crm").With("p", &person{Phone: canary})
				for range 100 {
					mine.Info("m", "v", person{Phone: canary})
				}
			})
		}
		wg.Wait()
		if w.bad != "" || w.n != 800 {
			t.Errorf("%s: %d lines, %q", format, w.n, w.bad)
		}
	}
}

// lines counts writes and notes one that is not a line.
type lines struct {
	n   int
	bad string
}

func (l *lines) Write(p []byte) (int, error) {
	l.n++
	if strings.Count(string(p), "\n") != 1 || p[len(p)-1] != '\n' {
		l.bad = string(p)
	}
	return len(p), nil
}

func TestDisabledCostsNothing(t *testing.T) {
	log := logs.For(newLogger(t, io.Discard, logs.Config{Level: "debug,crm=warn"}, false), "crm")
	p := &person{Phone: canary}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		log.LogAttrs(ctx, slog.LevelInfo, "m", slog.Any("p", p), slog.Int("n", 1))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLog(b *testing.B) {
	p := &person{ID: 1, Phone: canary}
	plain := struct{ A, B int }{1, 2}
	cases := map[string][]slog.Attr{
		"scalars": {slog.String("a", "b"), slog.Int("n", 1)},
		"clean":   {slog.Any("s", plain)},
		"person":  {slog.Any("p", p)},
		"error":   {slog.Any("err", fmt.Errorf("x: %w", io.EOF))},
	}
	for _, format := range []string{"json", "text"} {
		for name, attrs := range cases {
			b.Run(format+"/"+name, func(b *testing.B) {
				log := newLogger(b, io.Discard, logs.Config{Format: format}, false)
				b.ReportAllocs()
				for b.Loop() {
					log.LogAttrs(b.Context(), slog.LevelInfo, "m", attrs...)
				}
			})
		}
	}
}

// fataler is a test of the standard library or of rapid.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

type callError struct {
	Caller string `pii:"phone"`
	Err    error
}

func (e callError) Error() string { return strings.ToUpper(e.Caller) + " called: " + e.Err.Error() }
func (e callError) Unwrap() error { return e.Err }

// What an error says in its own form cannot be found in its text, so a type
// that holds something personal besides what it wraps is never asked.
func TestErrorWithItsOwnPersonalFieldIsNotAsked(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		callError{canary, &phoneError{Phone: canary}},
		&callError{canary, io.EOF},
		fmt.Errorf("x: %w", callError{canary, io.EOF}),
		errors.Join(io.EOF, callError{canary, &phoneError{Phone: canary}}),
	} {
		for way, got := range each(t, err) {
			if strings.Contains(strings.ToLower(got), canary) || !strings.Contains(got, "callError") {
				t.Errorf("%s: %s", way, got)
			}
		}
	}
}
