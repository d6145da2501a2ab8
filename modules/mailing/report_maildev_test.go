package mailing

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
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
	dir := apptest.Packages(t, filepath.Join("testdata", "maildev"))
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
	cmd := exec.CommandContext(t.Context(), apptest.Program(t, "node", "nodejs"), filepath.Join(dir, "node_modules", "maildev", "bin", "maildev"), "--ip", "127.0.0.1", "--smtp", ports[0],
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
