package apptest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Unable ends a test that lacks a part which is not ours: it is skipped, but
// with CI=true it fails.
func Unable(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Program finds a program by one of its names, or ends the test as Unable does.
func Program(t testing.TB, names ...string) (path string) {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	Unable(t, "no "+names[0])
	return ""
}

// installs are the results of npm in this process, by the folder asked for.
var installs sync.Map

// Packages gives a folder in the user's cache with the npm packages of
// dir/package.json, exactly those of dir/package-lock.json if there is one. They
// are installed, without their scripts, if they are not there yet. When npm
// can't, the test ends as Unable does.
func Packages(t testing.TB, dir string) string {
	t.Helper()
	npm := Program(t, "npm")
	install, _ := installs.LoadOrStore(dir, sync.OnceValues(func() (string, error) { return installPackages(npm, dir) }))
	target, err := install.(func() (string, error))()
	var refused *exec.ExitError
	if errors.As(err, &refused) {
		Unable(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func installPackages(npm, dir string) (target string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	files := map[string][]byte{}
	sum, how := sha256.New(), "install"
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if name == "package-lock.json" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if name == "package-lock.json" {
			how = "ci"
		}
		files[name] = text
		_, _ = sum.Write(text) // a sum takes everything
	}
	cache = filepath.Join(cache, "switchboard")
	target = filepath.Join(cache, "npm-"+hex.EncodeToString(sum.Sum(nil)[:8]))
	if _, err := os.Stat(target); !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(cache, "npm-new-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(fresh) }() // renamed if all went well
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(fresh, name), text, 0o600); err != nil {
			return "", err
		}
	}
	cmd := exec.Command(npm, how, "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = fresh
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	// Another test process may have been quicker.
	if err := os.Rename(fresh, target); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return target, nil
}

// Chromium runs a headless Chromium with a profile of its own, which it gives,
// until the test ends. Arguments are flags and pages. Without Chromium the test
// ends as Unable does.
func Chromium(t testing.TB, args ...string) (profile string) {
	t.Helper()
	path := Program(t, "chromium", "chromium-browser", "google-chrome")
	profile, err := os.MkdirTemp("", "chromium") // t.TempDir would fail on files that appear while it is removed
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-popup-blocking", "--user-data-dir=" + profile}, args...)...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // all its processes end with it
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // killed
		_ = os.RemoveAll(profile)
		if t.Failed() {
			t.Logf("chromium: %s", output.Bytes())
		}
	})
	return profile
}
