package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"switchboard/platform/errs"
)

// lockDir takes the data directory for this process, making it if need be.
// The returned function gives it back. Conflict if another process has it, or
// a restore into it did not end.
func lockDir(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, dirRestoring)); err == nil {
		return nil, errs.New(errs.Conflict, "a restore into %s did not end: empty the directory and restore again", dir)
	}
	f, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	// The kernel drops the lock with the process, however that ends.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the data directory: %w", err)
		}
		who, _ := os.ReadFile(f.Name())
		return nil, errs.New(errs.Conflict, "the data directory %s is in use by another process (pid %s)", dir, strings.TrimSpace(string(who)))
	}
	if err := errors.Join(f.Truncate(0), func() error { _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); return err }()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	return func() { _ = f.Close() }, nil
}
