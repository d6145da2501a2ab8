package wsconn

import (
	"errors"
	"sync"

	"github.com/gobwas/ws"
)

// Reading takes a small buffer when there is something to read, and a large one
// within a large message; a handler that waits holds on to the buffer.
const (
	smallChunk = 4 << 10
	largeChunk = 64 << 10
)

var (
	smallChunks = sync.Pool{New: func() any { b := make([]byte, smallChunk); return &b }}
	largeChunks = sync.Pool{New: func() any { b := make([]byte, largeChunk); return &b }}
)

// A chunk is the result of one read.
type chunk struct {
	buf *[]byte // to be given back to pool
	n   int
	err error
}

func (c *Conn) pool() *sync.Pool {
	if c.parser.left > smallChunk {
		return &largeChunks
	}
	return &smallChunks
}

// errEnded ends reading; the reason is already known.
var errEnded = errors.New("ended")

// Serve reads until the connection ends and hands each message to handle, whose
// payload is only valid during the call. An error of handle closes the
// connection: with its code if it is a *[CloseError], or else 1008. The error
// returned says why the connection ended; it is never nil.
func (c *Conn) Serve(handle func(binary bool, payload []byte) error) error {
	emit := func(op ws.OpCode, payload []byte) error { return c.take(op, payload, handle) }
	err := c.parser.feed(c.early, emit)
	c.early = nil
	if err == nil {
		err = c.read(func(b []byte) error {
			c.heard.Store(true)
			return c.parser.feed(b, emit)
		})
	}
	var ce *CloseError
	if errors.As(err, &ce) {
		// The peer may have sent more: closing with unread bytes would reset
		// the connection, and with it the close frame.
		c.mu.Lock()
		c.deaf = true
		c.mu.Unlock()
		c.Close(ce.Code, ce.Reason)
		_ = c.read(func([]byte) error { return nil })
	}
	if !errors.Is(err, errEnded) {
		c.Cut(ErrGone)
	}
	return c.Err()
}

// take handles one message or control frame.
func (c *Conn) take(op ws.OpCode, payload []byte, handle func(binary bool, payload []byte) error) error {
	c.mu.Lock()
	closing := c.closing
	c.mu.Unlock()
	switch op {
	case ws.OpClose:
		ce, err := closeFrame(payload)
		if err != nil {
			return err
		}
		c.peerClosed(ce)
		return errEnded
	case ws.OpPing:
		c.Send(newFrame(ws.OpPong, payload))
	case ws.OpPong:
		c.pong()
	case ws.OpText, ws.OpBinary:
		if closing {
			return nil
		}
		if err := handle(op == ws.OpBinary, payload); err != nil {
			var ce *CloseError
			if !errors.As(err, &ce) {
				ce = &CloseError{Code: int(ws.StatusPolicyViolation), Reason: err.Error()}
			}
			c.Close(ce.Code, ce.Reason)
		}
	}
	return nil
}

// peerClosed answers the peer's close frame, or ends the connection if that is the answer to ours.
func (c *Conn) peerClosed(ce *CloseError) {
	c.mu.Lock()
	c.answered = true
	done := c.closing && c.queued == 0
	c.mu.Unlock()
	if done {
		c.Cut(ce)
		return
	}
	c.close(ce, ce.Code, "")
}

// read calls f with each piece that arrives until an error of f or of the connection.
func (c *Conn) read(f func([]byte) error) error {
	if c.raw == nil {
		b := make([]byte, smallChunk)
		for {
			n, err := c.nc.Read(b)
			if n > 0 {
				if err := f(b[:n]); err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
		}
	}
	try := c.tryRead // one method value for all reads
	for {
		if err := c.raw.Read(try); err != nil {
			return err
		}
		got := c.chunk
		c.chunk = chunk{}
		if got.err != nil {
			return got.err
		}
		err := f((*got.buf)[:got.n])
		if len(*got.buf) == largeChunk {
			largeChunks.Put(got.buf)
		} else {
			smallChunks.Put(got.buf)
		}
		if err != nil {
			return err
		}
	}
}

// tryRead reads once if there is something to read; false waits until there is.
func (c *Conn) tryRead(fd uintptr) bool {
	pool := c.pool()
	buf := pool.Get().(*[]byte) //nolint:forcetypeassert // holds nothing else
	n, err := readOnce(fd, *buf)
	if again(err) || err != nil || n <= 0 {
		pool.Put(buf)
		if again(err) {
			return false
		}
		if err == nil {
			err = ErrGone
		}
		c.chunk = chunk{err: err}
		return true
	}
	c.chunk = chunk{buf: buf, n: n}
	return true
}
