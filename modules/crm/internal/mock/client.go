package mock

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// pipes is a net.Listener of connections within this process.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

// Addr implements net.Listener.
func (p *pipes) Addr() net.Addr { return memory{} }

type memory struct{}

func (memory) Network() string { return "memory" }
func (memory) String() string  { return "crm.mock" }

// Client speaks HTTP with the mock through connections within this process; its
// address is http://crm.mock, with or without the prefix. What cuts a
// connection over a network cuts one here. Nothing runs before the first
// request.
func (m *Mock) Client() *http.Client { return m.client }

// newClient makes what Client gives. There is no network: no proxy, no limits.
func (m *Mock) newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: m.dial, DisableCompression: true, MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024}}
}

func (m *Mock) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	m.serveMu.Lock()
	if m.pipes == nil && !m.closed {
		m.serve()
	}
	l := m.pipes
	m.serveMu.Unlock()
	if l == nil {
		return nil, net.ErrClosed
	}
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve answers what dials, until Close. The caller holds the lock.
func (m *Mock) serve() {
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				wg.Add(1)
			case http.StateClosed, http.StateHijacked:
				wg.Done()
			}
		}}
	wg.Go(func() {
		_ = srv.Serve(l) // it was stopped
		_ = srv.Close()  // a connection that came meanwhile
	})
	m.pipes = l
	m.stop = func() {
		cancel()
		_ = l.Close()   // Serve may not have begun
		_ = srv.Close() // nothing on these connections can fail
		wg.Wait()
	}
}

// Close ends the connections of Client and their requests, and waits for them.
func (m *Mock) Close() {
	m.serveMu.Lock()
	defer m.serveMu.Unlock()
	m.closed = true
	if m.pipes != nil {
		m.stop()
	}
	m.client.CloseIdleConnections()
}
