package seal_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"switchboard/platform/config"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
)

func TestMasterIsTheSameInEveryForm(t *testing.T) {
	t.Parallel()
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(250 - i)
	}
	want := ""
	for _, text := range []string{
		hex.EncodeToString(key), strings.ToUpper(hex.EncodeToString(key)),
		base64.StdEncoding.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key),
		base64.URLEncoding.EncodeToString(key), " " + base64.RawURLEncoding.EncodeToString(key) + "\n",
	} {
		dir := t.TempDir()
		m, generated, err := seal.LoadMaster(dir, config.Secret(text))
		if err != nil || generated {
			t.Fatalf("%q: %v, generated %v", text, err, generated)
		}
		if want == "" {
			want = m.Fingerprint()
		}
		if m.Fingerprint() != want {
			t.Errorf("%q is another key", text)
		}
		if files, _ := os.ReadDir(dir); len(files) > 0 {
			t.Errorf("%q: wrote %v", text, files)
		}
		if shown := fmt.Sprintf("%v %+v %#v %s", m, m, m, m); shown != "*** *** *** ***" {
			t.Errorf("the key prints as %s", shown)
		}
	}
}

func TestMasterFromAPassphrase(t *testing.T) {
	t.Parallel()
	one, _, err := seal.LoadMaster("", "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	two, _, err := seal.LoadMaster("", "correct horse batterz")
	if err != nil || one.Fingerprint() == two.Fingerprint() {
		t.Errorf("two passphrases, one key: %v", err)
	}
	_, _, err = seal.LoadMaster("", "fifteen letters")
	if errs.KindOf(err) != errs.Invalid || strings.Contains(err.Error(), "fifteen") {
		t.Errorf("too short: %v", err)
	}
	if err := seal.CheckMaster("short"); errs.KindOf(err) != errs.Invalid {
		t.Errorf("validate: %v", err)
	}
	if err := seal.CheckMaster(""); err != nil {
		t.Errorf("validate nothing: %v", err)
	}
}

func TestMasterIsGeneratedOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	fingerprints := make([]string, 8)
	var all sync.WaitGroup
	for i := range fingerprints {
		all.Go(func() {
			m, _, err := seal.LoadMaster(dir, "")
			if err != nil {
				t.Error(err)
			}
			fingerprints[i] = m.Fingerprint()
		})
	}
	all.Wait()
	for _, f := range fingerprints {
		if f != fingerprints[0] {
			t.Errorf("two keys: %v", fingerprints)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if info, _ := files[0].Info(); info.Name() != "master.key" || info.Mode().Perm() != 0o600 {
		t.Errorf("%s %s", info.Name(), info.Mode())
	}
	m, generated, err := seal.LoadMaster(dir, "")
	if err != nil || generated || m.Fingerprint() != fingerprints[0] {
		t.Errorf("second start: %v, generated %v", err, generated)
	}
	if err := os.WriteFile(filepath.Join(dir, "master.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := seal.LoadMaster(dir, ""); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "master.key") {
		t.Errorf("an empty file: %v", err)
	}
}
