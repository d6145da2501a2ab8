package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "rewrite the generated texts")

// This is the plan of the house. Each rule reads the source as text and gives
// one line per offence; testdata/arch/bad is a tree in which each one must bite.
var houseRules = []struct {
	name  string
	check func(*house) []string
}{
	{"a module imports itself, contracts and the platform", importsBetweenPackages},
	{"platform packages import in one direction", platformOrder},
	{"test kits are imported by tests", testKits},
	{"a file imports what its kind may", importsPerKind},
	{"foreign packages have their homes", foreignHomes},
	{"a module keeps to its own tables", ownTables},
	{"a module keeps to its own names", ownNames},
	{"every package says what it is for", packageDocs},
	{"a module says what it owns", moduleDocs},
	{"names of packages say something", packageNames},
	{"no file name is a build constraint", fileNames},
	{"every published fact has a sample", factSamples},
	{"every operation asks for a credential", operationsGuarded},
}

// platformPlan is the order of the platform: a package imports only packages
// to its left.
const platformPlan = "errs breaker < config logs metrics < store bus kafka < outbox seal quota < auth < web eventlog < ui < app < apptest"

// lent is what the platform lends to each kind of file of a module. A file
// without a kind holds types and rules: no clock, no I/O.
var lent = map[string]string{
	"":        "errs config",
	"doc":     "",
	"config":  "errs config eventlog",
	"metrics": "breaker metrics",
	"module":  "errs breaker config logs metrics store bus kafka outbox seal quota auth web eventlog ui app",
	"service": "errs breaker config logs store bus kafka outbox seal quota auth eventlog",
	"store":   "errs store outbox seal",
	"http":    "errs config store seal auth web eventlog",
	"bus":     "errs breaker store bus outbox seal eventlog",
	"client":  "errs breaker config logs kafka web",
	"cli":     "errs config app",
	"ui":      "errs store auth web ui",
}

// homes says where a package that does I/O, or that we want in one place, may
// be imported: in platform packages, and in kinds of files of a module. What is
// not listed (uuid, rate limits, JSON Schema …) is free.
var homes = []struct{ prefix, platform, kinds string }{
	{"github.com/nats-io/", "bus", ""},
	{"github.com/twmb/franz-go", "kafka", "client"},
	{"github.com/twmb/franz-go/pkg/kfake", "", ""},
	{"modernc.org/", "store", ""},
	{"github.com/jackc/pgx/", "store", ""},
	{"database/sql", "store outbox seal auth web", "store"},
	{"net/http", "metrics web app apptest", "http ui client cli"},
	{"github.com/danielgtaylor/huma/", "web app", "http module"},
	{"github.com/swaggest/swgui", "web", ""},
	{"github.com/spf13/cobra", "app", "cli module"},
	{"github.com/spf13/pflag", "config", ""},
	{"github.com/prometheus/", "metrics store bus outbox seal auth web eventlog app", "metrics module"},
	{"go.mongodb.org/", "eventlog", ""},
	{"os", "config logs store bus kafka seal auth web eventlog app apptest", "cli client"},
	{"os/exec", "apptest", ""},
	{"net", "store bus kafka auth web app", "client"},
	{"testing", "apptest", ""},
}

// publicPaths need no credential.
var publicPaths = []string{"/healthz", "/readyz", "/metrics", "/openapi.json", "/openapi.yaml", "/asyncapi.json", "/collector/client.js", "/collector/client.d.ts"}

func TestHouse(t *testing.T) {
	h := openHouse(t, ".")
	for _, rule := range houseRules {
		t.Run(rule.name, func(t *testing.T) {
			for _, offence := range rule.check(h) {
				t.Error(offence)
			}
		})
	}
}

func TestGoldenEveryRuleOfTheHouseBites(t *testing.T) {
	h := openHouse(t, filepath.Join("testdata", "arch", "bad"))
	var got strings.Builder
	for _, rule := range houseRules {
		offences := rule.check(h)
		if len(offences) == 0 {
			t.Errorf("nothing in the bad tree offends the rule: %s", rule.name)
		}
		fmt.Fprintf(&got, "# %s\n", rule.name)
		for _, offence := range offences {
			got.WriteString(offence + "\n")
		}
	}
	golden(t, filepath.Join("testdata", "arch", "offences.txt"), got.String())
}

func importsBetweenPackages(h *house) (offences []string) {
	for _, f := range h.files {
		for _, imp := range f.imports {
			to, ours := h.place(imp)
			switch {
			case (f.layer == layerContract || f.layer == layerLibrary) && !f.test && strings.Contains(imp, ".") && !ours:
				offences = append(offences, fmt.Sprintf("%s imports %s: it is for others to import, so it uses the standard library alone", f.path, imp))
			case !ours:
			case (f.layer == layerContract || f.layer == layerLibrary) && !f.test && (to.layer != layerContract || to.module != f.module):
				offences = append(offences, fmt.Sprintf("%s imports %s: it is for others to import, so it uses the standard library alone", f.path, imp))
			case f.layer == layerPlatform && (to.layer == layerModule || to.layer == layerContract || to.layer == layerLibrary):
				offences = append(offences, fmt.Sprintf("%s imports %s: the platform knows no module", f.path, imp))
			case f.layer == layerModule && to.module != f.module && (to.layer == layerModule || to.layer == layerLibrary):
				offences = append(offences, fmt.Sprintf("%s imports %s: use %s/%sapi or the bus", f.path, imp, imp, to.module))
			case f.layer != layerMain && to.layer == layerMain:
				offences = append(offences, fmt.Sprintf("%s imports %s: nothing stands above main", f.path, imp))
			}
		}
	}
	return offences
}

func platformOrder(h *house) (offences []string) {
	tier := map[string]int{}
	for i, row := range strings.Split(platformPlan, " < ") {
		for name := range strings.FieldsSeq(row) {
			tier[name] = i
		}
	}
	for _, f := range h.files {
		if f.layer != layerPlatform || f.test {
			continue
		}
		from, known := tier[f.module]
		if !known {
			offences = append(offences, fmt.Sprintf("%s: platform/%s has no place in the plan: %s", f.path, f.module, platformPlan))
			continue
		}
		for _, imp := range f.imports {
			to, ours := h.place(imp)
			if ours && to.layer == layerPlatform && to.module != f.module && tier[to.module] >= from {
				offences = append(offences, fmt.Sprintf("%s imports %s: the order is %s", f.path, imp, platformPlan))
			}
		}
	}
	return offences
}

func testKits(h *house) (offences []string) {
	for _, f := range h.files {
		if f.test || isTestKit(f.dir) {
			continue
		}
		for _, imp := range f.imports {
			if to, ours := h.place(imp); ours && isTestKit(to.dir) {
				offences = append(offences, fmt.Sprintf("%s imports %s: a test kit must not get into the program", f.path, imp))
			}
		}
	}
	return offences
}

func isTestKit(dir string) bool {
	return strings.HasPrefix(dir, "platform/") && strings.HasSuffix(dir, "test")
}

func importsPerKind(h *house) (offences []string) {
	for _, f := range h.files {
		if f.layer != layerModule || f.test || f.dir != "modules/"+f.module {
			continue
		}
		may := strings.Fields(lent[f.kind])
		for _, imp := range f.imports {
			if to, ours := h.place(imp); ours && to.layer == layerPlatform && !slices.Contains(may, to.module) {
				offences = append(offences, fmt.Sprintf("%s imports %s: %s may import [%s] of the platform", f.path, imp, kindName(f.kind), lent[f.kind]))
			}
		}
	}
	return offences
}

func kindName(kind string) string {
	if kind == "" {
		return "a file of rules"
	}
	return "a " + kind + " file"
}

func foreignHomes(h *house) (offences []string) {
	for _, f := range h.files {
		if f.test || isTestKit(f.dir) || f.layer != layerPlatform && f.layer != layerModule {
			continue
		}
		for _, imp := range f.imports {
			for _, home := range homes {
				if imp != home.prefix && !strings.HasPrefix(imp, strings.TrimSuffix(home.prefix, "/")+"/") || imp == "net/url" || imp == "net/netip" ||
					home.prefix == "os" && imp != "os" || home.prefix == "net" && imp != "net" || home.prefix == "testing" && imp != "testing" {
					continue
				}
				if f.layer == layerPlatform && !slices.Contains(strings.Fields(home.platform), f.module) {
					offences = append(offences, fmt.Sprintf("%s imports %s: in the platform it belongs to [%s]", f.path, imp, home.platform))
				}
				// A machine of its own, such as a protocol engine, does its own I/O.
				if f.layer == layerModule && strings.Contains(f.dir, "/internal/") && slices.Contains([]string{"net", "net/http", "os"}, home.prefix) {
					continue
				}
				if f.layer == layerModule && !slices.Contains(strings.Fields(home.kinds), f.kind) {
					offences = append(offences, fmt.Sprintf("%s imports %s: in a module it belongs to files of the kinds [%s]", f.path, imp, home.kinds))
				}
			}
		}
	}
	return offences
}

var (
	sqlTable  = regexp.MustCompile(`(?i)\b(?:from|join|into|update|table(?: if not exists)?|on)\s+([a-z]+)_[a-z_]+`)
	sqlCreate = regexp.MustCompile(`(?i)\bcreate table(?: if not exists)?\s+([a-z_]+)`)
)

func ownTables(h *house) (offences []string) {
	look := func(module, where, text string) {
		for _, m := range sqlTable.FindAllStringSubmatch(text, -1) {
			if h.modules[m[1]] && m[1] != module {
				offences = append(offences, fmt.Sprintf("%s: %q is a table of the module %s", where, m[0], m[1]))
			}
		}
		for _, m := range sqlCreate.FindAllStringSubmatch(text, -1) {
			if !strings.HasPrefix(m[1], module+"_") {
				offences = append(offences, fmt.Sprintf("%s: the name of the table %s does not begin with %s_", where, m[1], module))
			}
		}
	}
	for _, f := range h.files {
		if f.layer == layerModule && f.kind == "store" && !f.test {
			for _, text := range f.strings {
				look(f.module, f.path, text)
			}
		}
	}
	for _, m := range h.migrations {
		look(m.module, m.path, m.text)
	}
	return offences
}

// ownNames: metrics and bus subjects bear the module's name.
func ownNames(h *house) (offences []string) {
	for _, f := range h.files {
		if f.layer != layerModule && f.layer != layerContract || f.test {
			continue
		}
		for _, name := range f.metrics {
			if !strings.HasPrefix(name, f.module+"_") {
				offences = append(offences, fmt.Sprintf("%s: the name of the metric %s does not begin with %s_", f.path, name, f.module))
			}
		}
		for _, subject := range f.subjects {
			if !strings.HasPrefix(subject, f.module+".") {
				offences = append(offences, fmt.Sprintf("%s: the subject %s does not begin with %s.", f.path, subject, f.module))
			}
		}
	}
	return offences
}

func packageDocs(h *house) (offences []string) {
	docs := map[string][]string{}
	for _, f := range h.files {
		if f.test {
			continue
		}
		if f.doc != "" {
			docs[f.dir] = append(docs[f.dir], f.path)
		} else if docs[f.dir] == nil {
			docs[f.dir] = []string{}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(docs)) {
		switch files := docs[dir]; len(files) {
		case 0:
			offences = append(offences, fmt.Sprintf("%s: no file has a package comment", dir))
		case 1:
		default:
			offences = append(offences, fmt.Sprintf("%s: the package comment stands in several files: %s", dir, strings.Join(files, ", ")))
		}
	}
	return offences
}

// moduleDocs: doc.go has the five headings, and names what the module owns.
func moduleDocs(h *house) (offences []string) {
	for _, module := range slices.Sorted(maps.Keys(h.modules)) {
		where := "modules/" + module + "/doc.go"
		i := slices.IndexFunc(h.files, func(f *sourceFile) bool { return f.path == where })
		if i < 0 {
			offences = append(offences, where+": is missing")
			continue
		}
		doc := h.files[i].doc
		for _, heading := range []string{"Tables", "Publishes", "Consumes", "Routes", "Settings"} {
			if !strings.Contains(doc, "\n# "+heading+"\n") {
				offences = append(offences, fmt.Sprintf("%s: has no heading %q", where, "# "+heading))
			}
		}
		owned := map[string]bool{}
		for _, m := range h.migrations {
			for _, table := range sqlCreate.FindAllStringSubmatch(m.text, -1) {
				owned["table "+table[1]] = m.module == module
			}
		}
		for _, f := range h.files {
			for _, subject := range f.subjects {
				owned["subject "+subject] = f.module == module && !f.test
			}
		}
		for _, what := range slices.Sorted(maps.Keys(owned)) {
			_, name, _ := strings.Cut(what, " ")
			if owned[what] && !regexp.MustCompile(`(^|[^\w.])`+regexp.QuoteMeta(name)+`([^\w.]|\.?\s|\.?$)`).MatchString(doc) {
				offences = append(offences, fmt.Sprintf("%s: does not name the %s", where, what))
			}
		}
	}
	return offences
}

func packageNames(h *house) (offences []string) {
	empty := []string{"util", "utils", "helper", "helpers", "common", "misc", "shared", "base", "lib"}
	seen := map[string]bool{}
	for _, f := range h.files {
		if seen[f.dir] {
			continue
		}
		seen[f.dir] = true
		for part := range strings.SplitSeq(f.dir+"/"+strings.TrimSuffix(f.name, "_test"), "/") {
			if slices.Contains(empty, part) {
				offences = append(offences, fmt.Sprintf("%s: the name %q says nothing: name what it does, or put it where it is used", f.dir, part))
				break
			}
		}
		if f.layer == layerModule && f.dir == "modules/"+f.module && strings.TrimSuffix(f.name, "_test") != f.module {
			offences = append(offences, fmt.Sprintf("%s: the package is called %s: one name, many places", f.dir, f.name))
		}
	}
	return offences
}

// What go/build reads from a file name: such a file vanishes from other builds
// without a word.
var constraints = strings.Fields("aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris wasip1 windows zos " +
	"386 amd64 amd64p32 arm armbe arm64 arm64be loong64 mips mipsle mips64 mips64le mips64p32 mips64p32le ppc ppc64 ppc64le riscv riscv64 s390 s390x sparc sparc64 wasm")

func fileNames(h *house) (offences []string) {
	for _, f := range h.files {
		name := strings.TrimSuffix(strings.TrimSuffix(path.Base(f.path), ".go"), "_test")
		if i := strings.LastIndexByte(name, '_'); i >= 0 && slices.Contains(constraints, name[i+1:]) {
			offences = append(offences, fmt.Sprintf("%s: %q in its name is a build constraint", f.path, name[i:]))
		}
	}
	return offences
}

func factSamples(h *house) (offences []string) {
	for _, f := range h.files {
		if f.layer != layerContract || f.test {
			continue
		}
		for _, subject := range f.facts {
			sample := "testdata/events/" + subject + ".json"
			if _, err := os.Stat(filepath.Join(h.root, filepath.FromSlash(sample))); err != nil {
				offences = append(offences, fmt.Sprintf("%s: %s has no sample %s", f.path, subject, sample))
			}
		}
	}
	return offences
}

// operationsGuarded: every operation of the OpenAPI asks for a credential or
// is public by name, and bears the name of its module.
func operationsGuarded(h *house) (offences []string) {
	text, err := os.ReadFile(filepath.Join(h.root, "openapi", "openapi.yaml"))
	if err != nil {
		return []string{err.Error()}
	}
	var spec struct {
		Paths map[string]map[string]struct {
			ID       string                `yaml:"operationId"`
			Tags     []string              `yaml:"tags"`
			Security []map[string][]string `yaml:"security"`
		} `yaml:"paths"`
	}
	if err := yaml.Unmarshal(text, &spec); err != nil || len(spec.Paths) == 0 {
		return []string{fmt.Sprintf("openapi.yaml: no operations (%v)", err)}
	}
	for _, at := range slices.Sorted(maps.Keys(spec.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(spec.Paths[at])) {
			op := spec.Paths[at][method]
			open := len(op.Security) == 0
			for _, way := range op.Security {
				open = open || len(way) == 0
				for _, scopes := range way {
					open = open || len(scopes) == 0
				}
			}
			if open && !slices.Contains(publicPaths, at) {
				offences = append(offences, fmt.Sprintf("%s %s: asks for no credential and is not on the list of public routes", strings.ToUpper(method), at))
			}
			if len(op.Tags) != 1 || !strings.HasPrefix(op.ID, op.Tags[0]+"-") {
				offences = append(offences, fmt.Sprintf("%s %s: the operation id %q does not begin with the one tag %q", strings.ToUpper(method), at, op.ID, op.Tags))
			}
		}
	}
	return offences
}

// golden compares a text with a file, or rewrites the file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: make update writes it", err)
	}
	if got != string(want) {
		t.Errorf("%s is not what the program says now (make update rewrites it):\n%s", file, firstDifference(string(want), got))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		var a, b string
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\nfile: %s\nnow:  %s", i+1, a, b)
		}
	}
	return ""
}
