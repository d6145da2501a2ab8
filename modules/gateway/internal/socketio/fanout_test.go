package socketio

import (
	"encoding/json"
	"io"
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkFanOut sends events of 200 bytes to 1,000 sockets, a window of four
// under way, with the receivers in the same process. It reports deliveries a
// second, and the memory of an idle connection with both its ends.
func BenchmarkFanOut(b *testing.B) {
	const clients, window = 1000, 4
	var sockets []*Socket
	joined := make(chan *Socket, clients)
	s := New(Config{MaxQueue: 1 << 20})
	s.Of("/").OnConnect(func(k *Socket) { joined <- k })
	hs := httptest.NewServer(s)
	defer hs.Close()
	before := heap()
	m, err := NewMessage("/", "order.created", json.RawMessage(`"`+strings.Repeat("x", 200)+`"`))
	if err != nil {
		b.Fatal(err)
	}
	var received atomic.Int64
	var readers sync.WaitGroup
	for range clients {
		nc := benchClient(b, strings.TrimPrefix(hs.URL, "http://"))
		defer func() { _ = nc.Close() }()
		sockets = append(sockets, <-joined)
		readers.Go(func() { drain(nc, &received) })
	}
	until := func(n int64) {
		for received.Load() < n {
			runtime.Gosched()
		}
	}
	idle := heap() - before
	// What came before the events is counted too.
	settled := received.Load()
	for time.Sleep(50 * time.Millisecond); settled != received.Load(); time.Sleep(50 * time.Millisecond) {
		settled = received.Load()
	}
	size := int64(m.Len()) * clients
	b.ReportAllocs()
	b.ResetTimer()
	for i := range int64(b.N) {
		for _, k := range sockets {
			k.Send(m)
		}
		until(settled + (i+1-window)*size)
	}
	until(settled + int64(b.N)*size)
	b.StopTimer()
	b.ReportMetric(float64(b.N)*clients/b.Elapsed().Seconds(), "deliveries/s")
	b.ReportMetric(float64(idle)/clients, "B/conn")
	_ = s.Close(b.Context())
	readers.Wait()
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse) //nolint:gosec // a benchmark's
}

func benchClient(b *testing.B, addr string) net.Conn {
	b.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	_, err = io.WriteString(nc, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"+
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"+
		"\x81\x82\x00\x00\x00\x0040")
	if err != nil {
		b.Fatal(err)
	}
	return nc
}

func drain(nc net.Conn, received *atomic.Int64) {
	buf := make([]byte, 4096)
	for {
		n, err := nc.Read(buf)
		received.Add(int64(n))
		if err != nil {
			return
		}
	}
}
