package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// house is the source of a product as text: it need not build.
type house struct {
	root, prefix string // of the files; of the import paths
	files        []*sourceFile
	migrations   []migrationFile
	modules      map[string]bool
}

type layerOf int

const (
	layerMain     layerOf = iota // the root and the measurements
	layerPlatform                // platform/<module>/…
	layerModule                  // modules/<module>/…
	layerContract                // modules/<module>/<module>api: what other modules may know
	layerLibrary                 // modules/<module>/<module>client: what other programs may use
)

// place is where a package stands.
type place struct {
	dir    string
	layer  layerOf
	module string // of the platform package: the folder below platform
}

// sourceFile is what the rules need of a Go file.
type sourceFile struct {
	place
	path, name string // slash path below the root; name of the package
	kind       string // of a module's file: service, store, http …; "" holds rules
	test       bool
	imports    []string
	doc        string
	strings    []string // literals
	subjects   []string // bus subjects that are declared
	facts      []string // subjects of published types
	metrics    []string // names of metrics
}

type migrationFile struct{ module, path, text string }

var modulePath = regexp.MustCompile(`(?m)^module (\S+)$`)

func openHouse(t *testing.T, root string) *house {
	t.Helper()
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{root: root, prefix: string(modulePath.FindSubmatch(mod)[1]), modules: map[string]bool{}}
	err = filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch name := entry.Name(); {
		case entry.IsDir() && rel != "." && (name == "testdata" || name == "node_modules" || name == "build" || name == "data" || strings.HasPrefix(name, ".")):
			return filepath.SkipDir
		case strings.HasSuffix(name, ".go"):
			return h.addFile(file, rel)
		case strings.HasSuffix(name, ".sql") && strings.HasPrefix(rel, "modules/"):
			text, err := os.ReadFile(file)
			h.migrations = append(h.migrations, migrationFile{strings.Split(rel, "/")[1], rel, string(text)})
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(h.files) == 0 {
		t.Fatal("no source")
	}
	return h
}

func placeOf(dir string) place {
	p := place{dir: dir}
	parts := strings.Split(dir, "/")
	switch {
	case parts[0] == "platform" && len(parts) > 1:
		p.layer, p.module = layerPlatform, parts[1]
	case parts[0] == "modules" && len(parts) > 1:
		p.layer, p.module = layerModule, parts[1]
		if len(parts) == 3 && parts[2] == parts[1]+"api" {
			p.layer = layerContract
		} else if len(parts) == 3 && parts[2] == parts[1]+"client" {
			p.layer = layerLibrary
		}
	}
	return p
}

// place gives the place of an import path; ours tells whether it is one of
// this product.
func (h *house) place(imported string) (p place, ours bool) {
	if imported == h.prefix {
		return placeOf("."), true
	}
	dir, ours := strings.CutPrefix(imported, h.prefix+"/")
	return placeOf(dir), ours
}

var kindsOfFiles = []string{"service", "store", "http", "bus", "client", "cli", "ui"}

// kindOf reads the kind from a file's name: noun_kind.go.
func kindOf(base string) string {
	name := strings.TrimSuffix(base, ".go")
	switch name {
	case "doc", "config", "module", "metrics":
		return name
	}
	_, kind, _ := strings.Cut(name[max(0, strings.LastIndexByte(name, '_')):], "_")
	if slices.Contains(kindsOfFiles, kind) {
		return kind
	}
	return ""
}

func (h *house) addFile(file, rel string) error {
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	f := &sourceFile{place: placeOf(path.Dir(rel)), path: rel, name: tree.Name.Name, kind: kindOf(path.Base(rel)), test: strings.HasSuffix(rel, "_test.go")}
	if tree.Doc != nil {
		f.doc = tree.Doc.Text()
	}
	if f.layer == layerModule {
		h.modules[f.module] = true
	}
	for _, imp := range tree.Imports {
		f.imports = append(f.imports, literal(imp.Path))
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if n.Kind == token.STRING {
				f.strings = append(f.strings, literal(n))
			}
		case *ast.ValueSpec:
			f.declared(n)
		case *ast.FuncDecl:
			f.fact(n)
		case *ast.CompositeLit:
			f.metric(n)
		}
		return true
	})
	h.files = append(h.files, f)
	return nil
}

// declared notes constants called subject….
func (f *sourceFile) declared(spec *ast.ValueSpec) {
	for i, name := range spec.Names {
		if strings.HasPrefix(name.Name, "subject") && i < len(spec.Values) {
			if text := literal(spec.Values[i]); text != "" {
				f.subjects = append(f.subjects, text)
			}
		}
	}
}

// fact notes the text that a method Subject returns.
func (f *sourceFile) fact(fn *ast.FuncDecl) {
	if fn.Recv == nil || fn.Name.Name != "Subject" || fn.Body == nil {
		return
	}
	for _, s := range fn.Body.List {
		if r, ok := s.(*ast.ReturnStmt); ok && len(r.Results) == 1 {
			f.facts = append(f.facts, literal(r.Results[0]))
			f.subjects = append(f.subjects, literal(r.Results[0]))
		}
	}
}

// metric notes the Name in prometheus.…Opts{…}.
func (f *sourceFile) metric(lit *ast.CompositeLit) {
	of, ok := lit.Type.(*ast.SelectorExpr)
	if !ok || !strings.HasSuffix(of.Sel.Name, "Opts") {
		return
	}
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Name" {
				f.metrics = append(f.metrics, literal(kv.Value))
			}
		}
	}
}

// literal gives the value of a string literal, "" of anything else.
func literal(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	text, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return text
}
