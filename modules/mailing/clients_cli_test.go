package mailing

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// clientsLine runs "app clients …" against a server, and tells what was
// printed.
func clientsLine(t *testing.T, server, key, stdin string, args ...string) (out, complaint string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := &cobra.Command{Use: "app", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().Bool("json", false, "")
	root.AddCommand(clientsCommand())
	root.SetArgs(append([]string{"clients", "--server", server, "--key", key}, args...))
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

func TestClientsAtTheCommandLine(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	file := filepath.Join(t.TempDir(), "clients.csv")
	if err := os.WriteFile(file, []byte("phone_number,tag,timezone\n79260000000,vip,UTC\n1,,UTC\n79260000001,vip,UTC\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, stdin string
		args        []string
		out, errors string // patterns
		fails       string
	}{
		{"add", "", []string{"add", "79161234567", "--tag", "vip", "--timezone", "Europe/Moscow", "--attribute", "name=Anna=A", "--attribute", "city="},
			`^id +1\nphone number +79161234567\noperator code +916\ntag +vip\ntime zone +Europe/Moscow\nattribute +city = ""\nattribute +name = "Anna=A"\ncreated +\S+Z\nchanged +\S+Z\n$`, `^$`, ""},
		{"add again", "", []string{"add", "79161234567", "--tag", "vip", "--timezone", "UTC"}, `^$`, `^$`, "another client has this phone number; body.phone_number belongs to another client (409)"},
		{"add half", "", []string{"add", "79161234567", "--tag", "vip"}, `^$`, `^$`, `required flag(s) "timezone" not set`},
		{"bad attribute", "", []string{"add", "79161234568", "--tag", "vip", "--timezone", "UTC", "--attribute", "x"}, `^$`, `^$`, "--attribute takes name=value"},
		{"import a file", "", []string{"import", file}, `^imported 3 lines in \d+\.\ds: 2 created, 0 updated, 0 skipped, 1 failed\n$`,
			`^line 3: phone_number must be 7 and ten more digits\nline 3: tag must not be empty\n$`, "1 lines failed; the others are stored"},
		{"import with errors allowed", "", []string{"import", file, "--existing", "skip", "--allow-errors"}, `: 0 created, 0 updated, 2 skipped, 1 failed\n$`, `^line 3`, ""},
		{"import for scripts", `{"phone_number":"79260000000","tag":"new","timezone":"UTC"}`, []string{"import", "-", "--format", "ndjson", "--json"}, `^\{"done":true,"line":1,"created":0,"updated":1,`, `^$`, ""},
		{"import of no format", "", []string{"import", "-"}, `^$`, `^$`, "give --format csv or --format ndjson"},
		{"import of a wrong mode", "x", []string{"import", "-", "--format", "csv", "--existing", "drop"}, `^$`, `^$`, "must be update, skip or error"},
		{"import of no file", "", []string{"import", "/nowhere.csv"}, `^$`, `^$`, "no such file"},
		{"list", "", []string{"list", "--tag", "vip", "--operator-code", "926", "--operator-code", "916"},
			`^ID +PHONE NUMBER +OPERATOR +TAG +TIME ZONE +ATTRIBUTES +CREATED\n1 +79161234567 +916 +vip +Europe/Moscow +2 +\S+\n3 +79260000001 +926 +vip +UTC +0 +\S+\n$`, `^$`, ""},
		{"list for scripts", "", []string{"list", "--json", "--phone", "79260000001"}, `^\{"id":3,.*\}\n$`, `^$`, ""},
		{"delete", "", []string{"delete", "3", "3"}, `^$`, `^$`, "client 3: no such client (404)"},
		{"show", "", []string{"show", "2", "--json"}, `^\{"id":2,"phone_number":"79260000000","operator_code":"926","tag":"new".*\}\n$`, `^$`, ""},
		{"show nothing", "", []string{"show", "3"}, `^$`, `^$`, "no such client (404)"},
	} {
		out, complaints, err := clientsLine(t, b.URL, b.Key, c.stdin, c.args...)
		if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: %v, want %q", c.name, err, c.fails)
		}
		if !regexp.MustCompile(c.out).MatchString(out) || !regexp.MustCompile(c.errors).MatchString(complaints) {
			t.Errorf("%s: printed %q and %q", c.name, out, complaints)
		}
	}
}

func TestAnImportThatBreaksOffFails(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		"":                             "broke off; what was stored stays",
		"{\"line\":5,\"created\":5}\n": "broke off; what was stored stays",
		"{\"done\":false,\"line\":5,\"error\":{\"message\":\"disk \\u001b full\"}}\n": "the import broke off after line 5: disk · full",
		"<html>\n": "read the progress",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, answer)
		}))
		if _, _, err := clientsLine(t, s.URL, "k", "x", "import", "-", "--format", "csv"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", answer, err, want)
		}
		s.Close()
	}
}

func TestImportProgressIsDrawn(t *testing.T) {
	t.Parallel()
	a := importAnswerLine{Line: 7, Created: 4, Updated: 1, Skipped: 1, Failed: 1}
	if got := importBar(&a, 50, 100); got != "[###############...............]  50%  line 7  4 created  1 updated  1 skipped  1 failed" {
		t.Errorf("%q", got)
	}
	if got := importBar(&a, 50, 0); got != "line 7  4 created  1 updated  1 skipped  1 failed" {
		t.Errorf("%q", got)
	}
}

func TestAllClientsCommandsHaveExamples(t *testing.T) {
	t.Parallel()
	for _, cmd := range clientsCommand().Commands() {
		if !strings.Contains(cmd.Example, "app mailing clients "+cmd.Name()) {
			t.Errorf("%s has no example of its own", cmd.Name())
		}
	}
}
