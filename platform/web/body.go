package web

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// body is the request body behind its limits. It is read either as a stream
// (Read) or whole (load), which keeps it for whoever asks next. gzip is
// undone on the way.
type body struct {
	x         *exchange
	wire      io.ReadCloser
	gzipped   bool
	wireLimit int64 // bytes as they travel
	limit     int64 // bytes after inflating

	limited limitReader // the wire behind its limit
	stream  io.Reader   // nil until the first Read
	loaded  bool
	raw     []byte // as it travelled
	plain   []byte // inflated; the same slice as raw without gzip
	err     error
}

// gzipReaders spares the 40 KiB that each new gzip.Reader costs.
var gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}

// hurry sets the deadline for the body of a request. It covers the body alone:
// it is lifted at its end, so that streams and long polls are not cut off by
// it. It holds for bodies that nobody reads too, for net/http reads what is
// left of them.
func (x *exchange) hurry() {
	_ = http.NewResponseController(x.ResponseWriter).SetReadDeadline(x.start.Add(x.server.cfg.ReadTimeout))
}

// admit puts the limits of the route before the body of r. It answers 413 and
// 415 by its error without having read anything.
func (x *exchange) admit(r *http.Request) error {
	cfg := &x.server.cfg
	b := &x.room
	*b = body{x: x, wire: r.Body, wireLimit: int64(cfg.MaxBody), limit: int64(cfg.MaxInflated)}
	if own := x.route.op.MaxBody; own > 0 {
		b.wireLimit, b.limit = own, own
	}
	switch coding := r.Header.Get("Content-Encoding"); {
	case coding == "" || strings.EqualFold(coding, "identity"):
		b.limit = b.wireLimit
	case strings.EqualFold(coding, "gzip") || strings.EqualFold(coding, "x-gzip"):
		b.gzipped = true
	default:
		return newProblem(http.StatusUnsupportedMediaType, "this Content-Encoding is not known; gzip is").with("Accept-Encoding", "gzip")
	}
	if r.ContentLength > b.wireLimit {
		return tooLarge(b.wireLimit)
	}
	x.body = b
	r.Body = b
	return nil
}

func tooLarge(limit int64) *ProblemDocument {
	return newProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("the request body is larger than %d bytes", limit))
}

// Read streams the inflated body. Its errors are problems that Fail answers.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.stream == nil {
		if b.loaded {
			b.stream = bytes.NewReader(b.plain)
		} else if err := b.open(); err != nil {
			b.err = err
			return 0, err
		}
	}
	n, err := b.stream.Read(p)
	if err != nil && err != io.EOF {
		err = b.explain(err)
		b.err = err
	}
	if err == io.EOF && !b.loaded {
		b.lift()
	}
	return n, err
}

// open builds the chain wire → limit → gzip → limit.
func (b *body) open() error {
	b.limited = limitReader{r: b.wire, left: b.wireLimit, limit: b.wireLimit}
	b.stream = &b.limited
	if b.gzipped {
		zr, err := gzip.NewReader(&b.limited)
		if err != nil {
			return b.explain(err)
		}
		b.stream = &limitReader{r: zr, left: b.limit, limit: b.limit}
	}
	return nil
}

// Close closes the wire.
func (b *body) Close() error { return b.wire.Close() }

// lift takes the read deadline away again.
func (b *body) lift() {
	_ = http.NewResponseController(b.x.ResponseWriter).SetReadDeadline(time.Time{})
}

// load reads everything. It is idempotent.
func (b *body) load(size int64) ([]byte, error) {
	if b.loaded || b.err != nil {
		return b.plain, b.err
	}
	b.limited = limitReader{r: b.wire, left: b.wireLimit, limit: b.wireLimit}
	b.raw, b.err = readAll(&b.limited, size)
	if b.err != nil {
		b.err = b.explain(b.err)
		return nil, b.err
	}
	b.lift()
	b.plain = b.raw
	if b.gzipped {
		if b.plain, b.err = inflate(b.raw, b.limit); b.err != nil {
			b.err = b.explain(b.err)
			return nil, b.err
		}
	}
	b.loaded = true
	return b.plain, nil
}

func inflate(raw []byte, limit int64) ([]byte, error) {
	zr := gzipReaders.Get().(*gzip.Reader)
	defer gzipReaders.Put(zr)
	if err := zr.Reset(bytes.NewReader(raw)); err != nil {
		return nil, err
	}
	return readAll(&limitReader{r: zr, left: limit, limit: limit}, int64(len(raw))*4)
}

// readAll reads r to its end, into one allocation if size is right. A size
// that is only claimed buys at most 64 KiB in advance.
func readAll(r io.Reader, size int64) ([]byte, error) {
	if size < 0 {
		size = 512
	}
	buf := make([]byte, 0, min(size, 64<<10)+1)
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
	}
}

// explain turns an error of reading into the problem the client should see.
func (b *body) explain(err error) error {
	var doc *ProblemDocument
	var timeout net.Error
	switch {
	case errors.As(err, &doc):
		return doc
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return newProblem(http.StatusRequestTimeout, "the request body took too long").with("Connection", "close")
	case b.gzipped:
		return newProblem(http.StatusBadRequest, "the request body is not valid gzip", fieldBody("not valid gzip"))
	}
	return newProblem(http.StatusBadRequest, "the request body ended early", fieldBody("incomplete"))
}

// limitReader fails with a 413 once more than limit bytes came.
type limitReader struct {
	r           io.Reader
	left, limit int64
}

func (l *limitReader) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if int64(n) > l.left {
		n = int(l.left)
		l.left = 0
		return n, tooLarge(l.limit)
	}
	l.left -= int64(n)
	return n, err
}

// ReadBody reads the whole request body, gzip undone. limit is in bytes and
// can only tighten the limit of the route; 0 keeps that. Its errors are
// answered by Fail: 400 broken gzip or a body that ends early, 408, 413. It
// may be called again and gives the same bytes; they must not be changed.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	x := exchangeOf(r.Context())
	if x == nil || x.body == nil {
		if r.Body == nil || r.Body == http.NoBody {
			return nil, nil
		}
		if limit <= 0 {
			limit = 8 << 20
		}
		return readAll(&limitReader{r: r.Body, left: limit, limit: limit}, r.ContentLength)
	}
	b := x.body
	if limit > 0 && !b.loaded {
		b.wireLimit = min(b.wireLimit, limit)
		b.limit = min(b.limit, limit)
	}
	data, err := b.load(r.ContentLength)
	if err == nil && limit > 0 && int64(len(data)) > limit {
		return nil, tooLarge(limit)
	}
	return data, err
}

// RawBody gives the request body as it travelled, before gzip was undone, for
// checking a signature over it. It is nil until ReadBody was called (a huma
// operation and a request with an Idempotency-Key have done so).
func RawBody(r *http.Request) []byte {
	if x := exchangeOf(r.Context()); x != nil && x.body != nil {
		return x.body.raw
	}
	return nil
}
