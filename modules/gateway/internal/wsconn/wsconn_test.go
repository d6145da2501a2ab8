package wsconn

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server upgrades each request, hands the connection to opened, and serves it
// with handle; what Serve returned goes to ended.
type server struct {
	*httptest.Server
	opened chan *Conn
	ended  chan error
}

func echo(c *Conn, binary bool, b []byte) error {
	if binary {
		c.Send(NewBinaryFrame(b))
	} else {
		c.Send(NewTextFrame(b))
	}
	return nil
}

func newServer(t *testing.T, o Options, handle func(c *Conn, binary bool, b []byte) error) *server {
	t.Helper()
	s := &server{opened: make(chan *Conn, 100), ended: make(chan error, 100)}
	o.Writers = NewWriters(1)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Upgrade(w, r, o)
		if err != nil {
			return
		}
		s.opened <- c
		go func() {
			s.ended <- c.Serve(func(binary bool, b []byte) error { return handle(c, binary, b) })
		}()
	}))
	t.Cleanup(func() {
		s.Server.Close()
		for len(s.opened) > 0 {
			(<-s.opened).Cut(ErrGone)
		}
		o.Writers.Close()
	})
	return s
}

func await[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("waited too long")
		panic("unreachable")
	}
}

func dial(t *testing.T, s *server) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), s.URL, nil) //nolint:bodyclose // there is none
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(64 << 20)
	t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

const handshake = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// dialRaw makes the handshake by hand and sends more in the same segment.
func dialRaw(t *testing.T, s *server, more []byte) (net.Conn, *bufio.Reader) {
	t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := nc.Write(append([]byte(handshake), more...)); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(nc)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", resp.StatusCode)
	}
	return nc, br
}

// frame is a client's frame; first is its first byte.
func frame(first byte, payload []byte) []byte {
	var b bytes.Buffer
	h := ws.Header{
		Fin: first&0x80 != 0, Rsv: first >> 4 & 7, OpCode: ws.OpCode(first & 0x0f),
		Masked: true, Mask: [4]byte{1, 2, 3, 4}, Length: int64(len(payload)),
	}
	if err := ws.WriteHeader(&b, h); err != nil {
		panic(err)
	}
	p := bytes.Clone(payload)
	ws.Cipher(p, h.Mask, 0)
	b.Write(p)
	return b.Bytes()
}

func TestEchoesMessagesOfAllSizes(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{MaxMessage: 4 << 20, MaxQueue: 8 << 20}, echo)
	c := dial(t, s)
	for _, n := range []int{0, 1, 125, 126, 127, 4095, 4096, 65535, 65536, 1 << 20, 3 << 20} {
		want := make([]byte, n)
		_, _ = rand.Read(want)
		if err := c.Write(t.Context(), websocket.MessageBinary, want); err != nil {
			t.Fatal(err)
		}
		typ, got, err := c.Read(t.Context())
		if err != nil || typ != websocket.MessageBinary || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: got %d bytes of type %v, %v", n, len(got), typ, err)
		}
	}
}

func TestMessagesArriveInTheOrderTheyWereSent(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{MaxQueue: 64 << 20}, echo)
	c := dial(t, s)
	conn := await(t, s.opened)
	const n = 20_000
	go func() {
		for i := range n {
			b := make([]byte, 8+i%300)
			binary.BigEndian.PutUint64(b, uint64(i))
			conn.Send(NewBinaryFrame(b))
		}
	}()
	for i := range n {
		_, b, err := c.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint64(b); got != uint64(i) || len(b) != 8+i%300 {
			t.Fatalf("message %d of %d bytes at place %d", got, len(b), i)
		}
	}
}

func TestWhatCameWithTheHandshakeIsNotLost(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{}, echo)
	_, br := dialRaw(t, s, frame(0x81, []byte("early")))
	f, err := ws.ReadFrame(br)
	if err != nil || string(f.Payload) != "early" {
		t.Fatalf("got %q, %v", f.Payload, err)
	}
}

func TestFramesCutAnywhereAreRead(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{}, echo)
	nc, br := dialRaw(t, s, nil)
	sent := bytes.Join([][]byte{
		frame(0x01, []byte("one ")), frame(0x89, []byte("ping")), frame(0x00, nil), frame(0x80, []byte("message ü")),
		frame(0x82, bytes.Repeat([]byte{7}, 300)),
	}, nil)
	for i := range sent {
		if _, err := nc.Write(sent[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []struct {
		op   ws.OpCode
		text string
	}{{ws.OpPong, "ping"}, {ws.OpText, "one message ü"}, {ws.OpBinary, strings.Repeat("\x07", 300)}} {
		f, err := ws.ReadFrame(br)
		if err != nil || f.Header.OpCode != want.op || string(f.Payload) != want.text {
			t.Fatalf("got %v %q, %v, want %v", f.Header.OpCode, f.Payload, err, want)
		}
	}
}

func TestFaultsCloseWithTheirCode(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		sent []byte
		code ws.StatusCode
	}{
		"an unmasked frame":                {ws.MustCompileFrame(ws.NewTextFrame([]byte("x"))), 1002},
		"reserved bits":                    {frame(0xc1, nil), 1002},
		"a reserved opcode":                {frame(0x83, nil), 1002},
		"a reserved control opcode":        {frame(0x8b, nil), 1002},
		"a fragmented ping":                {frame(0x09, nil), 1002},
		"a long ping":                      {frame(0x89, make([]byte, 126)), 1002},
		"a continuation of nothing":        {frame(0x80, nil), 1002},
		"a message within a message":       {append(frame(0x01, nil), frame(0x81, nil)...), 1002},
		"text that is not UTF-8":           {frame(0x81, []byte{0xff}), 1007},
		"a character cut short":            {frame(0x81, []byte("\xe2\x82")), 1007},
		"a large message":                  {frame(0x82, make([]byte, 1001)), 1009},
		"large fragments":                  {append(frame(0x02, make([]byte, 600)), frame(0x80, make([]byte, 600))...), 1009},
		"a size of 2^63":                   {[]byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1009},
		"a size of 2^63-1":                 {[]byte{0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4}, 1009},
		"a close frame of one byte":        {frame(0x88, []byte{3}), 1002},
		"a reserved close code":            {frame(0x88, []byte{0x03, 0xed}), 1002},
		"an unknown close code":            {frame(0x88, []byte{0x03, 0xe7}), 1002},
		"a close reason that is not UTF-8": {frame(0x88, []byte{0x03, 0xe8, 0xff}), 1007},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, Options{MaxMessage: 1000}, echo)
			// Much more follows, which must not reset the connection before the close frame is read.
			nc, br := dialRaw(t, s, append(test.sent, bytes.Repeat([]byte("garbage"), 10_000)...))
			f, err := ws.ReadFrame(br)
			if err != nil {
				t.Fatal(err)
			}
			code, _ := ws.ParseCloseFrameData(f.Payload)
			if f.Header.OpCode != ws.OpClose || code != test.code {
				t.Fatalf("got %v %d, want close %d", f.Header.OpCode, code, test.code)
			}
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
				t.Fatalf("after the close frame: %v", err)
			}
			_ = nc.Close()
			var ce *CloseError
			if err := await(t, s.ended); !errors.As(err, &ce) || ce.Peer || ce.Code != int(test.code) {
				t.Fatalf("Serve: %v", err)
			}
		})
	}
}

func TestThePeersCloseIsAnswered(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{}, echo)
	c := dial(t, s)
	if err := c.Close(4001, "bye"); err != nil {
		t.Fatal(err)
	}
	var ce *CloseError
	if err := await(t, s.ended); !errors.As(err, &ce) || !ce.Peer || ce.Code != 4001 || ce.Reason != "bye" {
		t.Fatalf("Serve: %v", err)
	}
	if await(t, s.opened).Send(NewTextFrame(nil)) {
		t.Fatal("a closed connection took a frame")
	}
}

func TestCloseComesAfterWhatIsQueued(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{MaxQueue: 8 << 20}, echo)
	c := dial(t, s)
	conn := await(t, s.opened)
	for range 3 {
		conn.Send(NewBinaryFrame(make([]byte, 1<<20)))
	}
	conn.Close(1001, "going")
	for range 3 {
		if _, b, err := c.Read(t.Context()); err != nil || len(b) != 1<<20 {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}
	_, _, err := c.Read(t.Context())
	if websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Fatal(err)
	}
	var ce *CloseError
	if err := await(t, s.ended); !errors.As(err, &ce) || ce.Peer || ce.Code != 1001 {
		t.Fatalf("Serve: %v", err)
	}
}

func TestAPeerThatNeverAnswersACloseIsLetGo(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{CloseTimeout: 10 * time.Millisecond}, echo)
	_, br := dialRaw(t, s, nil)
	await(t, s.opened).Close(1000, "")
	await(t, s.ended)
	_, _ = ws.ReadFrame(br)
	if _, err := br.ReadByte(); err == nil {
		t.Fatal("still open")
	}
}

func TestAnErrorOfTheHandlerCloses(t *testing.T) {
	t.Parallel()
	for want, err := range map[int]error{1008: errors.New("no"), 4005: &CloseError{Code: 4005}} {
		s := newServer(t, Options{}, func(*Conn, bool, []byte) error { return err })
		c := dial(t, s)
		_ = c.Write(t.Context(), websocket.MessageText, []byte("x"))
		_, _, err := c.Read(t.Context())
		if got := websocket.CloseStatus(err); int(got) != want {
			t.Errorf("closed with %d, want %d", got, want)
		}
	}
}

func TestAReceiverThatTakesNothingIsCutAtItsQueuesBound(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	s := newServer(t, Options{MaxQueue: limit, WriteTimeout: time.Hour}, echo)
	dialRaw(t, s, nil) // and never read
	c := await(t, s.opened)
	f := NewBinaryFrame(make([]byte, 20_000))
	for c.Send(f) {
		if q := c.Queued(); q > limit+f.Len() {
			t.Fatalf("%d bytes are queued", q)
		}
	}
	if err := await(t, s.ended); !errors.Is(err, ErrSlow) {
		t.Fatalf("Serve: %v", err)
	}
	if c.Queued() != 0 {
		t.Fatal("the queue was kept")
	}
}

func TestAReceiverThatTakesNothingIsCutAfterTheWriteTimeout(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{MaxQueue: 64 << 20, WriteTimeout: 50 * time.Millisecond}, echo)
	dialRaw(t, s, nil)
	c := await(t, s.opened)
	for range 32 {
		c.Send(NewBinaryFrame(make([]byte, 1<<20)))
	}
	if err := await(t, s.ended); !errors.Is(err, ErrSlow) {
		t.Fatalf("Serve: %v", err)
	}
}

func TestASlowReceiverThatReadsOnGetsEverything(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{MaxQueue: 64 << 20}, echo)
	c := dial(t, s)
	conn := await(t, s.opened)
	const n = 40
	for i := range n {
		b := make([]byte, 500_000)
		b[0] = byte(i)
		conn.Send(NewBinaryFrame(b))
		conn.Send(NewTextFrame([]byte{byte(i)}))
	}
	for i := range n {
		if _, b, err := c.Read(t.Context()); err != nil || len(b) != 500_000 || b[0] != byte(i) {
			t.Fatalf("message %d: %d bytes, %v", i, len(b), err)
		}
		if _, b, err := c.Read(t.Context()); err != nil || len(b) != 1 || b[0] != byte(i) {
			t.Fatalf("small message %d: %v, %v", i, b, err)
		}
	}
	// The flusher is done: the writer goes on with the connection.
	conn.Send(NewTextFrame([]byte("last")))
	if _, b, err := c.Read(t.Context()); err != nil || string(b) != "last" {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestAConnectionThatAnswersNoPingEnds(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{PingInterval: 5 * time.Millisecond, PingTimeout: 20 * time.Millisecond}, echo)
	_, br := dialRaw(t, s, nil)
	f, err := ws.ReadFrame(br)
	if err != nil || f.Header.OpCode != ws.OpPing {
		t.Fatalf("%v, %v", f.Header, err)
	}
	if err := await(t, s.ended); !errors.Is(err, ErrPingTimeout) {
		t.Fatalf("Serve: %v", err)
	}
}

func TestPongsKeepAConnectionOpen(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{PingInterval: 5 * time.Millisecond, PingTimeout: 10 * time.Second}, echo)
	nc, br := dialRaw(t, s, nil)
	for range 5 {
		f, err := ws.ReadFrame(br)
		if err != nil || f.Header.OpCode != ws.OpPing {
			t.Fatalf("%v, %v", f.Header, err)
		}
		_, _ = nc.Write(frame(0x8a, f.Payload))
	}
}

func TestARequestThatIsNoHandshakeIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{}, echo)
	for name, change := range map[string]func(http.Header){
		"no upgrade":    func(h http.Header) { h.Del("Upgrade") },
		"no connection": func(h http.Header) { h.Del("Connection") },
		"no key":        func(h http.Header) { h.Del("Sec-Websocket-Key") },
		"old version":   func(h http.Header) { h.Set("Sec-Websocket-Version", "8") },
	} {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		r.Header = http.Header{
			"Upgrade": {"websocket"}, "Connection": {"Upgrade"},
			"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		}
		change(r.Header)
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("%s: status %d", name, resp.StatusCode)
		}
	}
}

func TestASubprotocolIsChosen(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{Subprotocols: []string{"b"}}, echo)
	c, _, err := websocket.Dial(t.Context(), s.URL, &websocket.DialOptions{Subprotocols: []string{"a", "b"}}) //nolint:bodyclose // there is none
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.CloseNow() }()
	if c.Subprotocol() != "b" || await(t, s.opened).Subprotocol() != "b" {
		t.Fatal(c.Subprotocol())
	}
}

// A connection without a descriptor, as one with TLS is.
func TestAConnectionWithoutADescriptorWorks(t *testing.T) {
	t.Parallel()
	w := NewWriters(1)
	defer w.Close()
	ours, theirs := net.Pipe()
	c := newConn(ours, "", nil, Options{Writers: w}.withDefaults())
	ended := make(chan error, 1)
	go func() {
		ended <- c.Serve(func(binary bool, b []byte) error { return echo(c, binary, b) })
	}()
	for range 3 {
		if _, err := theirs.Write(frame(0x81, []byte("hello"))); err != nil {
			t.Fatal(err)
		}
		f, err := ws.ReadFrame(theirs)
		if err != nil || string(f.Payload) != "hello" {
			t.Fatalf("%q, %v", f.Payload, err)
		}
	}
	_ = theirs.Close()
	if err := await(t, ended); !errors.Is(err, ErrGone) {
		t.Fatal(err)
	}
}

func TestManySendersAndReceivers(t *testing.T) {
	t.Parallel()
	s := newServer(t, Options{MaxQueue: 64 << 20}, echo)
	const clients, senders, each = 20, 4, 200
	var conns []*Conn
	var readers []*websocket.Conn
	for range clients {
		readers = append(readers, dial(t, s))
		conns = append(conns, await(t, s.opened))
	}
	for id := range senders {
		go func() {
			for i := range each {
				f := NewBinaryFrame([]byte{byte(id), byte(i)})
				for _, c := range conns {
					c.Send(f)
				}
			}
		}()
	}
	var wrong atomic.Int32
	done := make(chan struct{}, clients)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, r := range readers {
		go func() {
			defer func() { done <- struct{}{} }()
			var next [senders]byte
			for range senders * each {
				_, b, err := r.Read(ctx)
				if err != nil || b[1] != next[b[0]] {
					wrong.Add(1)
					return
				}
				next[b[0]]++
			}
		}()
	}
	for range clients {
		await(t, done)
	}
	if wrong.Load() > 0 {
		t.Fatalf("%d receivers got something wrong", wrong.Load())
	}
	for _, c := range conns {
		c.Cut(ErrGone)
	}
}

func TestSendingDoesNotAllocate(t *testing.T) {
	w := &Writers{loops: []*writer{{wake: make(chan struct{}, 1)}}} // nobody writes
	ours, theirs := net.Pipe()
	defer func() { _, _ = ours.Close(), theirs.Close() }()
	c := newConn(ours, "", nil, Options{Writers: w, MaxQueue: 1 << 30}.withDefaults())
	f := NewTextFrame([]byte("x"))
	c.Send(f)
	got := testing.AllocsPerRun(1000, func() {
		c.Send(f)
		c.mu.Lock()
		c.written(f.Len())
		c.mu.Unlock()
	})
	if got > 0 {
		t.Fatalf("%v allocations a frame", got)
	}
}

func FuzzParser(f *testing.F) {
	f.Add(frame(0x81, []byte("hello")), uint8(3))
	f.Add(append(frame(0x01, []byte("a")), frame(0x80, []byte("b"))...), uint8(1))
	f.Add(frame(0x88, []byte{3, 232, 'x'}), uint8(2))
	f.Add([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4}, uint8(5))
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		type message struct {
			op   ws.OpCode
			text string
		}
		const limit = 1000
		run := func(step int) (got []message, failed bool) {
			p := parser{max: limit}
			b := bytes.Clone(in)
			for len(b) > 0 {
				n := min(step, len(b))
				err := p.feed(b[:n], func(op ws.OpCode, payload []byte) error {
					if len(payload) > limit {
						t.Fatalf("a message of %d bytes", len(payload))
					}
					got = append(got, message{op, string(payload)})
					if op == ws.OpClose {
						_, err := closeFrame(payload)
						return err
					}
					return nil
				})
				if err != nil {
					return got, true
				}
				b = b[n:]
			}
			return got, false
		}
		whole, failed := run(len(in) + 1)
		cut, cutFailed := run(int(step) + 1)
		if failed != cutFailed || len(whole) != len(cut) {
			t.Fatalf("whole: %v %v, cut: %v %v", whole, failed, cut, cutFailed)
		}
		for i := range whole {
			if whole[i] != cut[i] {
				t.Fatalf("whole: %v, cut: %v", whole[i], cut[i])
			}
		}
	})
}
