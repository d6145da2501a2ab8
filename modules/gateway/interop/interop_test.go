// Package interop_test has the stock Socket.IO client, as npm hands it out,
// talk to the product over each of its transports.
package interop_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"switchboard/modules/gateway"
	"switchboard/platform/app"
	"switchboard/platform/apptest"
)

// transports are the ways a client may connect: a comma list for its option
// "transports"; an empty one is its default, polling that upgrades.
var transports = []struct{ name, list string }{
	{"websocket", "websocket"},
	{"polling", "polling"},
	{"upgrade", ""},
}

func TestStockClient(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"client.test.mjs", "recovery.test.mjs"} {
		for _, way := range transports {
			t.Run(strings.TrimSuffix(script, ".test.mjs")+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				cmd := node(t, way.list)
				p := apptest.Start(t, []app.Module{gateway.Module})
				cmd.Env = append(cmd.Env, "GATEWAY_URL="+p.URL, "GATEWAY_KEY="+p.Key)
				cmd.Args = append(cmd.Args, "--test", "--test-reporter=spec", script)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s\n%s", err, out, p.Log)
				}
			})
		}
	}
}

// node prepares a run of node with the client's packages at hand. It ends with
// the test.
func node(t *testing.T, transports string) *exec.Cmd {
	t.Helper()
	path := program(t, "node", "node", "nodejs")
	packages := installed(t)
	for _, read := range []string{"support.mjs", "client.test.mjs", "recovery.test.mjs", "crowd.mjs"} {
		if _, err := os.ReadFile(read); err != nil { // or go test would keep an old result
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), path)
	cmd.Env = append(os.Environ(), "GATEWAY_PACKAGES="+packages)
	if transports != "" {
		cmd.Env = append(cmd.Env, "GATEWAY_TRANSPORTS="+transports)
	}
	return cmd
}

// program finds a program by one of its names. A test without it is skipped,
// in CI it fails.
func program(t *testing.T, what string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	unable(t, "no "+what)
	return ""
}

func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// installed gives a folder in the user's cache with the packages of
// package.json, installed by npm if they are not there yet.
func installed(t *testing.T) string {
	t.Helper()
	npm := program(t, "npm", "npm")
	dir, err := packages(npm)
	var refused *exec.ExitError
	switch {
	case errors.As(err, &refused):
		unable(t, err.Error())
	case err != nil:
		t.Fatal(err)
	}
	return dir
}

var once struct {
	sync.Once
	dir string
	err error
}

func packages(npm string) (string, error) {
	once.Do(func() { once.dir, once.err = install(npm) })
	return once.dir, once.err
}

func install(npm string) (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	list, err := os.ReadFile("package.json")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(list)
	cache = filepath.Join(cache, "switchboard")
	dir = filepath.Join(cache, "npm-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(cache, "npm-new-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(fresh) }() // renamed if all went well
	if err := os.WriteFile(filepath.Join(fresh, "package.json"), list, 0o600); err != nil {
		return "", err
	}
	cmd := exec.Command(npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", fresh)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	// Another test process may have been quicker.
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}
