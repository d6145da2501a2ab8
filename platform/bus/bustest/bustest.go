// Package bustest starts buses for tests: on the embedded server and on a
// separate one over TCP. Only tests import it.
package bustest

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"switchboard/platform/bus"
)

// External starts a JetStream server of its own in this process, reached over
// TCP on a free port, writing through to a temporary directory, and gives its
// URL. It stops with the test.
func External(t testing.TB) (url string) {
	t.Helper()
	return startExternal(t, t.TempDir(), -1).ClientURL()
}

func startExternal(t testing.TB, dir string, port int) *server.Server {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		ServerName: "bustest", Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, SyncAlways: true,
		JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 64 << 30,
		MaxPayload: 10 << 20, MaxPending: 128 << 20, DisableJetStreamBanner: true,
	})
	if err != nil {
		t.Fatalf("bustest: %v", err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("bustest: the server did not start")
	}
	return srv
}

// Server is an external server that a test can stop and start again.
type Server struct {
	URL string
	t   testing.TB
	dir string
	srv *server.Server
}

// NewServer starts a Server.
func NewServer(t testing.TB) *Server {
	t.Helper()
	dir := t.TempDir()
	srv := startExternal(t, dir, -1)
	return &Server{URL: srv.ClientURL(), t: t, dir: dir, srv: srv}
}

// Stop shuts the server down.
func (s *Server) Stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// Start brings it back on the same port with the same files.
func (s *Server) Start() {
	s.t.Helper()
	addr, err := portOf(s.URL)
	if err != nil {
		s.t.Fatalf("bustest: %v", err)
	}
	s.srv = startExternal(s.t, s.dir, addr)
}

// Embedded opens a bus on the embedded server in a temporary directory, runs
// it and closes it with the test.
func Embedded(t testing.TB) *bus.Bus {
	t.Helper()
	return Open(t, bus.Config{Dir: t.TempDir()})
}

// Open opens a bus, runs it and closes it with the test.
func Open(t testing.TB, cfg bus.Config) *bus.Bus {
	t.Helper()
	b, err := bus.Open(context.Background(), cfg, nil, nil)
	if err != nil {
		t.Fatalf("bustest: open: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("bustest: run: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("bustest: close: %v", err)
		}
	})
	return b
}

// Each runs fn as two parallel subtests, on the embedded server and on an external one. open
// gives a further instance on the same bus each time: connected to the
// external server, or as a client of the first embedded one.
func Each(t *testing.T, fn func(t *testing.T, open func() *bus.Bus)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		var first *bus.Bus
		fn(t, func() *bus.Bus {
			if first == nil {
				first = Open(t, bus.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
				return first
			}
			return Open(t, bus.Config{URL: first.ClientURL()})
		})
	})
	t.Run("external", func(t *testing.T) {
		t.Parallel()
		url := External(t)
		fn(t, func() *bus.Bus { return Open(t, bus.Config{URL: url}) })
	})
}
