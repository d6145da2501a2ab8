//go:build unix

package collectorclient

import (
	"errors"
	"os"
	"syscall"
)

// lock takes the directory for this process. The kernel gives it back when
// the process ends, however it ends.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrSpoolInUse
	}
	return err
}
