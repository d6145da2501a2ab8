//go:build linux

package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// crowd is many Socket.IO clients in little: bare websockets, all read by one
// thread with epoll, which looks at the frames' headers and at the number of
// each event. It shares the machine with what it measures.
type crowd struct {
	host  string
	auth  string
	burst int // events that may come in any order

	epoll   int
	sockets []*socket
	byFD    map[int32]*socket
	done    sync.WaitGroup
	closing atomic.Bool

	deliveries atomic.Int64
	faults     atomic.Int64 // deliveries that are lost, repeated or in a wrong order
	goal       atomic.Int64
	reached    chan struct{}

	sentAt    atomic.Int64 // of the event in flight, unix nanoseconds
	measuring atomic.Bool
	latency   []time.Duration
}

type socket struct {
	fd    int
	rest  []byte // of a frame that came in part
	count int    // events so far
	mask  uint64 // which of the burst
}

const (
	eventName   = "bench"
	eventPrefix = `42["` + eventName + `",{"n":`
	roomName    = "everybody"
)

func newCrowd(b *testing.B, s target, burst int) *crowd {
	b.Helper()
	c := &crowd{
		host: strings.TrimPrefix(s.url, "http://"), burst: burst, byFD: map[int32]*socket{}, reached: make(chan struct{}, 1),
		auth: fmt.Sprintf(`40{"token":%q,"rooms":[%q]}`, s.key, roomName),
	}
	var err error
	if c.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.close)
	return c
}

// connect adds n sockets, 64 at a time, and gives how long that took and how
// many failed.
func (c *crowd) connect(b *testing.B, n int) (took time.Duration, failed int) {
	b.Helper()
	fresh := make([]*socket, n)
	var next atomic.Int64
	var failures atomic.Int64
	var first atomic.Pointer[error]
	var all sync.WaitGroup
	begin := time.Now()
	for range 64 {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				s, err := c.dial()
				if err != nil {
					failures.Add(1)
					first.CompareAndSwap(nil, &err)
					continue
				}
				fresh[i] = s
			}
		})
	}
	all.Wait()
	took = time.Since(begin)
	if err := first.Load(); err != nil {
		b.Log("the first connection that failed:", *err)
	}
	for _, s := range fresh {
		if s == nil {
			continue
		}
		c.sockets = append(c.sockets, s)
		c.byFD[int32(s.fd)] = s
		err := errors.Join(syscall.SetNonblock(s.fd, true),
			syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_ADD, s.fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(s.fd)}))
		if err != nil {
			b.Fatal(err)
		}
	}
	return took, int(failures.Load())
}

// follow begins to read. No socket can be added any more.
func (c *crowd) follow() { c.done.Go(c.read) }

func (c *crowd) dial() (s *socket, err error) {
	addr, err := net.ResolveTCPAddr("tcp4", c.host)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = syscall.Close(fd)
		}
	}()
	to := &syscall.SockaddrInet4{Port: addr.Port}
	copy(to.Addr[:], addr.IP.To4())
	patience := syscall.Timeval{Sec: 30}
	err = errors.Join(
		syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &patience),
		syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &patience),
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1),
		// Thousands of ports would wait for stragglers otherwise.
		syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1}))
	if err != nil {
		return nil, err
	}
	err = syscall.Connect(fd, to)
	for err == syscall.EINTR || err == syscall.EALREADY { // a signal of the runtime: it goes on
		err = syscall.Connect(fd, to)
	}
	if err != nil && err != syscall.EISCONN {
		return nil, fmt.Errorf("connect: %w", err)
	}
	s = &socket{fd: fd}
	return s, c.shakeHands(s)
}

// shakeHands goes from the upgrade to the server's answer to CONNECT.
func (c *crowd) shakeHands(s *socket) error {
	upgrade := "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: " + c.host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err := syscall.Write(s.fd, []byte(upgrade)); err != nil {
		return fmt.Errorf("ask for the upgrade: %w", err)
	}
	var got []byte
	buf := make([]byte, 4<<10)
	for {
		n, err := s.read(buf)
		if err != nil || n == 0 {
			return fmt.Errorf("the server hung up in the handshake: %v: %q", err, got)
		}
		got = append(got, buf[:n]...)
		if i := bytes.Index(got, []byte("\r\n\r\n")); i >= 0 {
			if !bytes.HasPrefix(got, []byte("HTTP/1.1 101 ")) {
				return fmt.Errorf("no upgrade: %q", got)
			}
			s.rest = got[i+4:]
			break
		}
	}
	for _, step := range []struct{ send, want string }{{"", "0{"}, {c.auth, "40{"}} {
		if step.send != "" {
			if _, err := syscall.Write(s.fd, masked(step.send)); err != nil {
				return fmt.Errorf("send CONNECT: %w", err)
			}
		}
		for {
			payload, size, whole := frame(s.rest)
			if whole {
				if !bytes.HasPrefix(payload, []byte(step.want)) {
					return fmt.Errorf("got %q in the handshake, want %s", payload, step.want)
				}
				s.rest = s.rest[size:]
				break
			}
			n, err := s.read(buf)
			if err != nil || n == 0 {
				return fmt.Errorf("the server hung up before CONNECT was answered: %v", err)
			}
			s.rest = append(s.rest, buf[:n]...)
		}
	}
	s.rest = bytes.Clone(s.rest)
	return nil
}

// read is not kept from its work by signals.
func (s *socket) read(b []byte) (int, error) {
	for {
		if n, err := syscall.Read(s.fd, b); err != syscall.EINTR {
			return n, err
		}
	}
}

// frame reads a server's websocket frame (RFC 6455, 5.2): its payload and size.
func frame(b []byte) (payload []byte, size int, whole bool) {
	if len(b) < 2 {
		return nil, 0, false
	}
	head, n := 2, int(b[1]&0x7f)
	switch n {
	case 126:
		if head = 4; len(b) < head {
			return nil, 0, false
		}
		n = int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if head = 10; len(b) < head {
			return nil, 0, false
		}
		n = int(binary.BigEndian.Uint64(b[2:]))
	}
	if len(b) < head+n {
		return nil, 0, false
	}
	return b[head : head+n], head + n, true
}

// masked is a client's text frame; the mask is zero, so the text stays as it is.
func masked(text string) []byte {
	b := []byte{0x81, 0x80 | byte(min(len(text), 126))}
	if len(text) >= 126 {
		b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	}
	return append(append(b, 0, 0, 0, 0), text...)
}

func (c *crowd) read() {
	runtime.LockOSThread()
	events := make([]syscall.EpollEvent, 512)
	buf := make([]byte, 256<<10)
	for !c.closing.Load() {
		ready, err := syscall.EpollWait(c.epoll, events, 50)
		if err != nil && err != syscall.EINTR {
			c.faults.Add(1)
			return
		}
		came := 0
		for _, e := range events[:max(ready, 0)] {
			s := c.byFD[e.Fd]
			kept := copy(buf, s.rest)
			n, err := s.read(buf[kept:])
			if err == syscall.EAGAIN {
				continue
			}
			if n <= 0 {
				// Lost: what it does not get any more is missed by await.
				c.faults.Add(1)
				_ = syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_DEL, s.fd, nil)
				continue
			}
			came += c.take(s, buf[:kept+n])
		}
		if came > 0 && c.deliveries.Add(int64(came)) >= c.goal.Load() {
			select {
			case c.reached <- struct{}{}:
			default:
			}
		}
	}
}

// take looks at the frames in b, keeps the rest and gives the number of events.
func (c *crowd) take(s *socket, b []byte) (events int) {
	for {
		payload, size, whole := frame(b)
		if !whole {
			s.rest = append(s.rest[:0], b...)
			break
		}
		b = b[size:]
		switch number, ok := bytes.CutPrefix(payload, []byte(eventPrefix)); {
		case ok:
			n := 0
			for _, digit := range number {
				if digit < '0' || digit > '9' {
					break
				}
				n = 10*n + int(digit-'0')
			}
			bit := uint64(1) << (n % c.burst)
			if n/c.burst != s.count/c.burst || s.mask&bit != 0 {
				c.faults.Add(1)
			}
			s.mask |= bit
			if s.count++; s.count%c.burst == 0 {
				s.mask = 0
			}
			events++
		case string(payload) == "2": // a ping
			if _, err := syscall.Write(s.fd, masked("3")); err != nil {
				c.faults.Add(1)
			}
		default:
			c.faults.Add(1)
		}
	}
	if events > 0 && c.measuring.Load() {
		took := time.Duration(time.Now().UnixNano() - c.sentAt.Load())
		for range events {
			c.latency = append(c.latency, took)
		}
	}
	return events
}

// await waits until so many events have been delivered in all.
func (c *crowd) await(b *testing.B, total int64) {
	b.Helper()
	c.goal.Store(total)
	limit := time.After(time.Minute)
	for c.deliveries.Load() < total {
		select {
		case <-c.reached:
		case <-limit:
			b.Fatalf("%d of %d deliveries came, %d faults", c.deliveries.Load(), total, c.faults.Load())
		}
	}
}

func (c *crowd) close() {
	if c.closing.Swap(true) {
		return
	}
	c.done.Wait()
	for _, s := range c.sockets {
		_ = syscall.Close(s.fd)
	}
	_ = syscall.Close(c.epoll)
}
