package browser_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// client.js keeps to client.d.ts, and client.d.ts takes what users write and
// refuses what they should not.
func TestTypingsFitTheClient(t *testing.T) {
	t.Parallel()
	node := program(t, "node", "node", "nodejs")
	tsc := filepath.Join(installed(t, filepath.Join("testdata", "types")), "node_modules", "typescript", "bin", "tsc")
	for _, read := range []string{"client.js", "client.d.ts", "package.json", "testdata/types/usage.ts", "testdata/types/tsconfig.json"} {
		if _, err := os.ReadFile(read); err != nil { // or go test would keep an old result
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(node, tsc, "-p", filepath.Join("testdata", "types")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// installed gives a folder in the user's cache with the packages of
// dir/package-lock.json, installed by npm if they are not there yet. When npm
// can't, the test is skipped, in CI it fails.
func installed(t *testing.T, dir string) string {
	t.Helper()
	npm := program(t, "npm", "npm")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(lock)
	cache = filepath.Join(cache, "switchboard")
	target := filepath.Join(cache, "npm-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(target); err == nil {
		return target
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	fresh, err := os.MkdirTemp(cache, "npm-new-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(fresh) }() // renamed if all went well
	for _, name := range []string{"package.json", "package-lock.json"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(fresh, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = fresh
	if out, err := cmd.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
		t.Skipf("npm ci: %v\n%s", err, out)
	}
	if err := os.Rename(fresh, target); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return target
}
