package eventlog_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// valve is a TCP line to a server that can stand still: what is sent waits, and
// nobody is told.
type valve struct {
	url  string
	gate sync.RWMutex // held while it stands still
}

func newValve(t testing.TB, url string) *valve {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{url: "nats://" + l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
			if err != nil {
				_ = in.Close()
				continue
			}
			all.Go(func() { v.copy(out, in) })
			all.Go(func() { v.copy(in, out) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return v
}

func (v *valve) copy(to, from net.Conn) {
	defer func() { _ = to.Close(); _ = from.Close() }()
	_, _ = io.Copy(writer(func(b []byte) (int, error) {
		v.gate.RLock()
		defer v.gate.RUnlock()
		return to.Write(b)
	}), from)
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
