package wsconn

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxBatch bounds what one system call writes; small frames are copied
	// together for it.
	maxBatch = 64 << 10
	// yieldEvery lets the publishers run, so that more gathers for the
	// connections still to be written.
	yieldEvery = 32
	// keepQueue is how long an empty queue may be and still be kept.
	keepQueue = 32
)

// Writers write for all connections of a server, each connection always by the
// same one of a few loops.
type Writers struct {
	loops []*writer
	turn  atomic.Uint32
	wg    sync.WaitGroup
}

// NewWriters starts n loops (1 where n < 1).
func NewWriters(n int) *Writers {
	w := &Writers{}
	for range max(n, 1) {
		l := &writer{wake: make(chan struct{}, 1), done: make(chan struct{}), buf: make([]byte, 0, maxBatch)}
		l.try = l.tryWrite
		w.loops = append(w.loops, l)
		w.wg.Go(l.run)
	}
	return w
}

// Close ends the loops; connections still open can send no more and must be cut.
func (w *Writers) Close() {
	for _, l := range w.loops {
		l.stop.Do(func() { close(l.done) })
	}
	w.wg.Wait()
}

func (w *Writers) next() *writer {
	return w.loops[int(w.turn.Add(1))%len(w.loops)]
}

// writer is one loop.
type writer struct {
	wake chan struct{}
	done chan struct{}
	stop sync.Once

	mu    sync.Mutex
	dirty []*Conn

	buf []byte
	try func(fd uintptr) bool
	out []byte // what try writes; n and err its result
	n   int
	err error
}

// add tells the writer of a connection that has something to be written.
func (w *writer) add(c *Conn) {
	w.mu.Lock()
	w.dirty = append(w.dirty, c)
	first := len(w.dirty) == 1
	w.mu.Unlock()
	if first {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (w *writer) run() {
	var batch []*Conn
	for {
		select {
		case <-w.wake:
		case <-w.done:
			return
		}
		w.mu.Lock()
		batch, w.dirty = w.dirty, batch[:0]
		w.mu.Unlock()
		for i, c := range batch {
			batch[i] = nil
			w.write(c)
			if i%yieldEvery == yieldEvery-1 {
				runtime.Gosched()
			}
		}
	}
}

// write writes what gathered for a connection, as far as that goes without waiting.
func (w *writer) write(c *Conn) {
	c.mu.Lock()
	c.dirty = false
	if c.closed || c.flushing || len(c.queue) == 0 {
		c.mu.Unlock()
		return
	}
	if c.raw == nil {
		c.flushing = true
		c.mu.Unlock()
		go c.flush()
		return
	}
	queue, off := c.queue, c.off
	c.mu.Unlock()

	w.out = gather(w.buf, queue, off)
	w.n, w.err = 0, nil
	err := c.raw.Write(w.try)
	size, n := len(w.out), w.n
	w.out = nil
	if err == nil {
		err = w.err
	}
	if err != nil && !again(err) {
		c.Cut(ErrGone)
		return
	}
	c.mu.Lock()
	c.written(n)
	rest := !c.closed && len(c.queue) > 0
	stuck := rest && n < size
	switch {
	case stuck:
		c.flushing = true
	case rest && !c.dirty:
		c.dirty = true
	default:
		rest = false
	}
	end := c.drained()
	c.mu.Unlock()
	switch {
	case stuck:
		go c.flush()
	case rest:
		w.add(c)
	case end != nil:
		end()
	}
}

// tryWrite is called with the descriptor and never asks to wait.
func (w *writer) tryWrite(fd uintptr) bool {
	w.n, w.err = writeOnce(fd, w.out)
	return true
}

// gather makes one piece of the front of a queue: the first frame itself if it
// is large or alone, or else a copy in buf of as much as fits.
func gather(buf []byte, queue []*Frame, off int) []byte {
	first := queue[0].b[off:]
	if len(queue) == 1 || len(first)+len(queue[1].b) > cap(buf) {
		return first[:min(len(first), maxBatch)]
	}
	buf = append(buf[:0], first...)
	for _, f := range queue[1:] {
		if len(buf)+len(f.b) > cap(buf) {
			break
		}
		buf = append(buf, f.b...)
	}
	return buf
}

// written takes n bytes off the queue. c.mu is held.
func (c *Conn) written(n int) {
	if c.closed {
		return
	}
	c.queued -= n
	n += c.off
	i := 0
	for i < len(c.queue) && n >= len(c.queue[i].b) {
		n -= len(c.queue[i].b)
		i++
	}
	c.off = n
	left := copy(c.queue, c.queue[i:])
	clear(c.queue[left:])
	c.queue = c.queue[:left]
	if left == 0 && cap(c.queue) > keepQueue {
		c.queue = nil
	}
}

// drained says what is to be done when the queue is empty: nothing, or a step
// of the closing handshake. c.mu is held.
func (c *Conn) drained() func() {
	switch {
	case c.closed || !c.closing || len(c.queue) > 0:
		return nil
	case c.answered:
		return func() { c.Cut(ErrGone) }
	case c.deaf:
		if t, ok := c.nc.(*net.TCPConn); ok {
			return func() { _ = t.CloseWrite() }
		}
		return func() { c.Cut(ErrGone) }
	}
	return nil
}

var flushBuffers = sync.Pool{New: func() any { b := make([]byte, 0, maxBatch/4); return &b }}

// flush writes until the queue is empty, waiting for a slow receiver as long as
// that takes something now and then.
func (c *Conn) flush() {
	a := attempt{c: c}
	try := a.tryWrite
	for {
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.o.WriteTimeout))
		a.n, a.err = 0, nil
		var err error
		if c.raw != nil {
			err = c.raw.Write(try)
		} else {
			a.blockingWrite()
		}
		if err == nil {
			err = a.err
		}
		c.mu.Lock()
		c.written(a.n)
		if c.closed {
			c.mu.Unlock()
			return
		}
		if err != nil && (a.n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			c.mu.Unlock()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.Cut(ErrSlow)
			} else {
				c.Cut(ErrGone)
			}
			return
		}
		if len(c.queue) == 0 {
			// Under the lock: the writer must not meet the old deadline.
			_ = c.nc.SetWriteDeadline(time.Time{})
			c.flushing = false
			end := c.drained()
			c.mu.Unlock()
			if end != nil {
				end()
			}
			return
		}
		c.mu.Unlock()
	}
}

// attempt is one flusher's attempt.
type attempt struct {
	c   *Conn
	n   int
	err error
}

// tryWrite writes once if the connection takes something; false waits until it
// does. A connection that waits holds no buffer.
func (t *attempt) tryWrite(fd uintptr) bool {
	queue, off := t.c.waiting()
	if len(queue) == 0 {
		return true
	}
	buf := flushBuffers.Get().(*[]byte) //nolint:forcetypeassert // holds nothing else
	defer flushBuffers.Put(buf)
	t.n, t.err = writeOnce(fd, gather(*buf, queue, off))
	if again(t.err) {
		t.err = nil
		return false
	}
	return true
}

func (t *attempt) blockingWrite() {
	queue, off := t.c.waiting()
	if len(queue) == 0 {
		return
	}
	buf := flushBuffers.Get().(*[]byte) //nolint:forcetypeassert // holds nothing else
	defer flushBuffers.Put(buf)
	t.n, t.err = t.c.nc.Write(gather(*buf, queue, off))
}

// waiting is what is queued; only the writer or the flusher may ask.
func (c *Conn) waiting() ([]*Frame, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue, c.off
}
