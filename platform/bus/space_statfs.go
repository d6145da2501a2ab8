//go:build linux || darwin || freebsd

package bus

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"switchboard/platform/errs"
)

// freeSpace gives the bytes that an ordinary user may still write in dir's
// file system, or -1 when it cannot tell.
func freeSpace(dir string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return -1
	}
	return int64(st.Bavail) * int64(st.Bsize)
}

// lockDir keeps a second process off dir: two servers on the same files
// destroy them. The lock ends with the file or the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "bus: open the lock file")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errs.New(errs.Conflict, "bus: another process uses the directory %s", dir)
		}
		return nil, errs.Wrap(errs.Unavailable, err, "bus: lock %s", dir)
	}
	return f, nil
}
