package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"switchboard/modules/collector/collectorapi"
	"switchboard/platform/app"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/store/storetest"
)

// TestMain lets this test binary be the program: under the name app it runs
// main, so that scripts use what they test, race detector included.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"app": main})
}

// TestScript runs testdata/script: the program as its user sees it.
func TestScript(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"), RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("ROOT", root)
			// Two servers at once must not want one port.
			env.Setenv("APP_LISTEN", "127.0.0.1:0")
			// The race detector holds every process back for a second at its end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Values["test"], env.Values["env"] = env.T(), env
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitready": waitReady, "sigterm": sigterm, "exits": exits, "eventually": eventually, "markdown": markdown, "field": field, "sqlite": sqlite,
		},
	})
}

// waitReady waits until the server on a data directory (./data) is ready, and
// sets URL and KEY.
func waitReady(ts *testscript.TestScript, neg bool, args []string) {
	dir := dirArgument(ts, "waitready", neg, args)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("the server on %s is not ready", dir)
		}
		url, err := os.ReadFile(filepath.Join(dir, "server.url"))
		if err != nil {
			continue
		}
		resp, err := http.Get(strings.TrimSpace(string(url)) + "/readyz")
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			continue
		}
		key, err := os.ReadFile(filepath.Join(dir, "admin.key"))
		ts.Check(err)
		ts.Setenv("URL", strings.TrimSpace(string(url)))
		ts.Setenv("KEY", strings.TrimSpace(string(key)))
		return
	}
}

// sqlite runs a statement on a database file: sqlite file statement.
func sqlite(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: sqlite file statement")
	}
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	_, err = db.Exec(args[1])
	ts.Check(err)
}

// sigterm asks the server on a data directory (./data) to stop.
func sigterm(ts *testscript.TestScript, neg bool, args []string) {
	pid, err := os.ReadFile(filepath.Join(dirArgument(ts, "sigterm", neg, args), "lock"))
	ts.Check(err)
	n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	ts.Check(err)
	ts.Check(syscall.Kill(n, syscall.SIGTERM))
}

func dirArgument(ts *testscript.TestScript, name string, neg bool, args []string) string {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: %s [data directory]", name)
	}
	return ts.MkAbs(append(args, "data")[0])
}

// exits runs a command and wants that exit code, with one line on stderr unless
// the code is 0.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program [args...]")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
	if lines := strings.Count(ts.ReadFile("stderr"), "\n"); code != 0 && lines != 1 {
		ts.Fatalf("%d lines on stderr, want one", lines)
	}
}

// eventually runs a command until its output matches.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually pattern program [args...]")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		// Not by ts.Exec, which notes each try in the log.
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir, cmd.Env = ts.MkAbs("."), ts.Value("env").(*testscript.Env).Vars
		out, err := cmd.Output()
		matched := err == nil && pattern.Match(out)
		if !matched && time.Now().Before(deadline) {
			continue
		}
		ts.Check(ts.Exec(args[1], args[2:]...))
		if !matched {
			ts.Fatalf("still not: %s (%v)", args[0], err)
		}
		return
	}
}

// field sets a variable to what a group of a pattern matches in stdout.
func field(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: field NAME pattern-with-group")
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	match := pattern.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(match) != 2 {
		ts.Fatalf("no match for %s", args[1])
	}
	ts.Setenv(args[0], match[1])
}

var fence = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// markdown runs the sh blocks of a document, in order and as one script, in
// the work directory with the program as ./app. There, "serve" and "make run"
// go on in the background until the end, and servers of others are ours.
func markdown(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: markdown file")
	}
	var script strings.Builder
	script.WriteString(markdownPrelude)
	for _, block := range fence.FindAllStringSubmatch(ts.ReadFile(filepath.Join(ts.Getenv("ROOT"), args[0])), -1) {
		if block[1] == "sh" {
			script.WriteString(block[2])
		}
	}
	all := onOurServers(ts.Value("test").(testing.TB), script.String())
	work := ts.Getenv("WORK")
	ts.Check(os.WriteFile(filepath.Join(work, "app"), []byte(markdownApp), 0o755))
	ts.Check(os.WriteFile(filepath.Join(work, "document.sh"), []byte(all), 0o644))
	defer stopAll(filepath.Join(work, "pids"))
	if err := ts.Exec("sh", "-eux", "document.sh"); err != nil {
		logs, _ := os.ReadFile(filepath.Join(work, "serve.log"))
		ts.Fatalf("%s: %v\n%s", args[0], err, logs)
	}
}

// stopAll ends the processes that a file lists, and waits for them.
func stopAll(file string) {
	pids, _ := os.ReadFile(file)
	_ = os.Remove(file)
	deadline := time.Now().Add(20 * time.Second)
	for pid := range strings.FieldsSeq(string(pids)) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			continue
		}
		// A second signal would end it at once.
		for signal := syscall.SIGTERM; syscall.Kill(n, signal) == nil && time.Now().Before(deadline); signal = 0 {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err == nil && strings.Contains(string(stat), ") Z ") {
				break // it has ended, and nobody asked how
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

var (
	natsInDocs     = regexp.MustCompile(`nats://nats\.example:4222`)
	postgresInDocs = regexp.MustCompile(`postgres://switchboard@db\.example/\w+`)
	listenInDocs   = regexp.MustCompile(`--listen=127\.0\.0\.1:\d+`)
)

// onOurServers replaces the servers that a document names: each by one of ours.
func onOurServers(t testing.TB, text string) string {
	ours := map[string]string{}
	by := func(make func(testing.TB) string) func(string) string {
		return func(name string) string {
			if ours[name] == "" {
				ours[name] = "'" + make(t) + "'"
			}
			return ours[name]
		}
	}
	text = natsInDocs.ReplaceAllStringFunc(text, by(bustest.External))
	text = postgresInDocs.ReplaceAllStringFunc(text, by(storetest.Postgres))
	// These two programs must know beforehand.
	known := map[string]string{"127.0.0.1:3334": "the address of the phone platform", "127.0.0.1:4222": "the address of the bus"}
	for address, place := range known {
		text = strings.ReplaceAll(text, address, place)
	}
	text = listenInDocs.ReplaceAllString(text, "--listen=127.0.0.1:0")
	for _, place := range known {
		if strings.Contains(text, place) {
			text = strings.ReplaceAll(text, place, freeAddress(t))
		}
	}
	return strings.ReplaceAll(text, "http://127.0.0.1:8080", "$(cat data/server.url)")
}

// freeAddress is an address on loopback that nobody listens on now.
func freeAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

const markdownPrelude = `make() {
  grep -q "^$1:" "$ROOT/Makefile"
  if [ "$1" = run ]; then ./app serve; fi
}
`

const markdownApp = `#!/bin/sh
[ "$1" = serve ] || exec app "$@"
dir=./data
for arg; do case $arg in --data-dir=*) dir=${arg#*=};; esac; done
if [ -e "$dir/server.url" ]; then # one server after another on one directory
  kill -TERM "$(cat "$dir/lock")"
  while [ -e "$dir/server.url" ]; do sleep 0.02; done
fi
app "$@" >>"$WORK/serve.log" 2>&1 </dev/null &
echo $! >>"$WORK/pids"
exec app ready --wait=60s --data-dir="$dir"
`

func TestGoldenTexts(t *testing.T) {
	t.Parallel()
	for file, args := range map[string][]string{
		"openapi/openapi.yaml": {"openapi"},
		"docs/config.md":       {"config", "docs"},
		"config/app.yaml":      {"config", "docs", "--sample"},
	} {
		t.Run(file, func(t *testing.T) {
			var out, trouble bytes.Buffer
			if code := app.Main(context.Background(), args, &out, &trouble, modules); code != 0 {
				t.Fatalf("app %s: %s", strings.Join(args, " "), &trouble)
			}
			golden(t, file, out.String())
		})
	}
	t.Run("docs/cli.md", func(t *testing.T) { golden(t, "docs/cli.md", app.Reference(modules)) })
}

// facts are the published events of all modules.
var facts = []interface{ Subject() string }{
	collectorapi.SchemaChanged{ID: "0193a5c0-6a5e-7b2c-9d1e-2f3a4b5c6d7e", Time: time.Date(2026, 11, 21, 9, 15, 27, 243860000, time.UTC),
		Category: "page interaction", Name: "pageview", Version: 3, Deleted: true},
}

// A sample is what consumers have stored and must still read: change it only
// by adding fields.
func TestGoldenFacts(t *testing.T) {
	t.Parallel()
	samples, err := filepath.Glob("testdata/events/*.json")
	if err != nil || len(samples) != len(facts) && !*update {
		t.Errorf("%d samples for %d facts (%v)", len(samples), len(facts), err)
	}
	for _, fact := range facts {
		text, err := json.MarshalIndent(fact, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("testdata", "events", fact.Subject()+".json"), string(text)+"\n")
		back := reflect.New(reflect.TypeOf(fact))
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(back.Interface()); err != nil || !reflect.DeepEqual(back.Elem().Interface(), fact) {
			t.Errorf("%s does not come back as it was: %v", fact.Subject(), err)
		}
	}
}

// Every file in config/, and every YAML block of the documents, is read with
// nothing unknown in it.
func TestEveryConfigurationInTheRepositoryIsValid(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("config/*")
	if err != nil || len(files) < 3 {
		t.Fatalf("files in config: %v %v", files, err)
	}
	for _, doc := range documents(t) {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range fence.FindAllStringSubmatch(string(text), -1) {
			if block[1] != "yaml" {
				continue
			}
			file := filepath.Join(t.TempDir(), fmt.Sprintf("%s-%d.yaml", filepath.Base(doc), i))
			if err := os.WriteFile(file, []byte(block[2]), 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
	}
	for _, file := range files {
		var out, trouble bytes.Buffer
		if code := app.Main(context.Background(), []string{"config", "check", "--config", file}, &out, &trouble, modules); code != 0 || out.Len()+trouble.Len() > 0 {
			t.Errorf("%s: exit code %d: %s%s", file, code, &out, &trouble)
		}
	}
}

// documents are those that a person reads.
func documents(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	decisions, err := filepath.Glob("docs/decisions/*.md")
	if err != nil {
		t.Fatal(err)
	}
	return append(append([]string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"}, docs...), decisions...)
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

func TestEveryLinkInTheDocumentsLeadsToAFile(t *testing.T) {
	t.Parallel()
	for _, doc := range documents(t) {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s: %v", doc, err)
			}
		}
	}
}

// Every sh block of a document is run by a script.
func TestEveryDocumentWithCommandsIsRun(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	for _, doc := range documents(t) {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\n```sh\n") && !strings.Contains(all.String(), "\nmarkdown "+doc+"\n") {
			t.Errorf("%s has commands that no script runs: add \"markdown %s\" to one", doc, doc)
		}
	}
}

var exampleLine = regexp.MustCompile(`(?m)^  app (.*)$`)

// The examples in the help name commands and flags that exist.
func TestExamplesInTheHelpAreValid(t *testing.T) {
	t.Parallel()
	examples := exampleLine.FindAllStringSubmatch(app.Reference(modules), -1)
	if len(examples) < 20 {
		t.Fatalf("only %d examples", len(examples))
	}
	for _, m := range examples {
		command, _, _ := strings.Cut(m[1], " > ")
		args := words(command)
		if args[0] == "app" || strings.HasPrefix(args[0], "[") {
			continue // the usage line
		}
		var out, trouble bytes.Buffer
		if code := app.Main(context.Background(), append(args, "--help"), &out, &trouble, modules); code != 0 {
			t.Errorf("app %s: %s", command, &trouble)
		}
		verbs := 0
		for verbs < len(args) && !strings.HasPrefix(args[verbs], "-") && strings.Contains(out.String(), "app "+strings.Join(args[:verbs+1], " ")) {
			verbs++
		}
		if verbs == 0 {
			t.Errorf("app %s: there is no such command", command)
		}
	}
}

// words splits a command line as a shell does, double quotes included.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}
