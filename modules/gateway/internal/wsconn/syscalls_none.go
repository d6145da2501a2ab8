//go:build !unix

package wsconn

import (
	"errors"
	"net"
	"syscall"
)

func rawConn(net.Conn) syscall.RawConn { return nil }

func readOnce(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

func writeOnce(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }

func again(error) bool { return false }
