package mailing

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"switchboard/platform/apptest"
)

// npm has a mail server that shows what it took over HTTP. Without
// npm the test is skipped; in CI it fails.
func TestMaildevTakesAReport(t *testing.T) {
	t.Parallel()
	dir, err := installMaildev()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	var ports [2]string
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, ports[i], _ = net.SplitHostPort(l.Addr().String())
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "node", filepath.Join(dir, "node_modules", "maildev", "bin", "maildev"), "--ip", "127.0.0.1", "--smtp", ports[0],
		"--web-ip", "127.0.0.1", "--web", ports[1], "--mail-directory", t.TempDir(), "--incoming-user", "me", "--incoming-pass", "secret", "--silent")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // killed
	web := "http://127.0.0.1:" + ports[1]
	apptest.Eventually(t, func() string {
		resp, err := http.Get(web + "/healthz")
		if err != nil {
			return err.Error()
		}
		_ = resp.Body.Close()
		return ""
	})
	apptest.Eventually(t, func() string {
		if err := sendOne(t, "smtp://me:secret@127.0.0.1:"+ports[0], nil); err != nil {
			return err.Error()
		}
		return ""
	})
	read := func(path string) (text []byte) {
		resp, err := http.Get(web + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if text, err = io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		return text
	}
	var mails []struct {
		ID, Subject, Text, HTML string
		Attachments             []struct{ ContentType, ContentID, GeneratedFileName string }
	}
	apptest.Eventually(t, func() string {
		if err := json.Unmarshal(read("/email"), &mails); err != nil || len(mails) != 1 {
			return fmt.Sprintf("%d mails, %v", len(mails), err)
		}
		return ""
	})
	m := mails[0]
	if m.Subject != "Mailing: 12,340 sent on 21 November 2026" || !strings.Contains(m.Text, "Black Friday") || !strings.Contains(m.HTML, "Black Friday") ||
		len(m.Attachments) != 1 || m.Attachments[0].ContentType != "image/png" || m.Attachments[0].ContentID != "c" {
		t.Errorf("%+v", m)
	}
}

// installMaildev gives a folder in the user's cache with the packages of
// package.json, installed by npm if they are not there yet.
func installMaildev() (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	list, err := os.ReadFile(filepath.Join("testdata", "maildev", "package.json"))
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
	cmd := exec.Command("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", fresh)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	// Another test process may have been quicker.
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}
