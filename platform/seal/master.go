package seal

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"switchboard/platform/config"
	"switchboard/platform/errs"
)

// masterFile is the name of the generated master key inside the data directory.
const masterFile = "master.key"

// CheckMaster refuses, as errs.Invalid, a preset master key that LoadMaster
// would refuse.
func CheckMaster(preset config.Secret) error {
	if preset.Reveal() == "" {
		return nil
	}
	_, err := parseMaster(preset.Reveal())
	return err
}

// Master is the key that wraps all others. It prints as "***".
type Master struct{ key [32]byte }

// String hides the key.
func (Master) String() string { return "***" }

// GoString hides the key.
func (Master) GoString() string { return "***" }

// Fingerprint names the key without telling anything of it: 16 hex digits.
func (m Master) Fingerprint() string { return hex.EncodeToString(m.derive("fingerprint")[:8]) }

// derive makes a 32-byte key for one purpose.
func (m Master) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, m.key[:], nil, "switchboard seal v1 "+purpose, 32)
	if err != nil { // only for a length beyond 8,160 bytes
		panic(err)
	}
	return key
}

// LoadMaster finds the master key: preset if it is given, else the file
// master.key in dataDir, else a new key that it writes to that file (mode 0600,
// durable before it returns); then generated is true and the caller warns that
// the key lies beside the databases it protects.
//
// Production gives 32 random bytes in base64 or hex (`openssl rand -base64 32`).
// Any other text of at least 16 characters is a passphrase, stretched by HKDF
// only: it is exactly as strong as it is hard to guess, for HKDF, unlike
// scrypt, does not make a guess dear.
func LoadMaster(dataDir string, preset config.Secret) (m Master, generated bool, err error) {
	if text := strings.TrimSpace(preset.Reveal()); text != "" {
		m, err = parseMaster(text)
		return m, false, err
	}
	path := filepath.Join(dataDir, masterFile)
	m, err = readMaster(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return m, false, err
	}
	if err := writeMaster(path); err != nil {
		return Master{}, false, fmt.Errorf("generate the master key: %w", err)
	}
	// Read back: another process may have been first.
	m, err = readMaster(path)
	return m, err == nil, err
}

func readMaster(path string) (Master, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Master{}, fmt.Errorf("read the master key: %w", err)
	}
	m, err := parseMaster(strings.TrimSpace(string(text)))
	return m, errs.Wrap(errs.Invalid, err, "%s", path)
}

// writeMaster writes a new key to path unless path exists by then.
func writeMaster(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	var key [32]byte
	rand.Read(key[:])
	tmp, err := os.CreateTemp(filepath.Dir(path), masterFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(base64.StdEncoding.EncodeToString(key[:]) + "\n")
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, never replaces the key of a process that was faster.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func parseMaster(text string) (Master, error) {
	var m Master
	for _, decode := range []func(string) ([]byte, error){
		hex.DecodeString,
		base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString,
		base64.URLEncoding.DecodeString, base64.RawURLEncoding.DecodeString,
	} {
		if key, err := decode(text); err == nil && len(key) == len(m.key) {
			copy(m.key[:], key)
			return m, nil
		}
	}
	if len([]rune(text)) < 16 {
		return m, errs.New(errs.Invalid, "the master key is 32 bytes in base64 or hex, or a passphrase of at least 16 characters")
	}
	key, err := hkdf.Key(sha256.New, []byte(text), []byte("switchboard master"), "passphrase v1", 32)
	if err != nil {
		return m, fmt.Errorf("derive the master key: %w", err)
	}
	copy(m.key[:], key)
	return m, nil
}
