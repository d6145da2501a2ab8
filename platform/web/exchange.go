package web

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// exchange is one request and its answer on their way through the gates: the
// http.ResponseWriter that every handler gets, plus what the access log, the
// metrics and the helpers of this package want to know afterwards. It belongs
// to the goroutine of the request.
type exchange struct {
	http.ResponseWriter

	server *Server
	route  *route // nil until a route was found
	start  time.Time
	id     string // request id
	key    string // id of the key that authenticated, "" without
	idem   string // the Idempotency-Key, "" without
	body   *body  // nil for a request without a body
	room   body   // where body lies, to spare an allocation

	routed   bool // until then what the mux writes is held back
	status   int  // 0 until the header was written
	bytes    int64
	hijacked bool
	failure  error    // the fault of ours that Fail met, for the one log line
	capture  *capture // set while the answer is held for the idempotency store
}

// capture holds an answer back until it is known to be kept.
type capture struct {
	status int
	body   bytes.Buffer
	limit  int
}

type exchangeKey struct{}

// exchangeOf finds the exchange of a request. It is nil for a request that
// did not come through a Server.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// RequestID gives the id of the request, as answered in X-Request-Id. It is
// "" outside of a request.
func RequestID(ctx context.Context) string {
	if x := exchangeOf(ctx); x != nil {
		return x.id
	}
	return ""
}

// IdempotencyKey gives the validated Idempotency-Key of a request to an Op
// with Creates, "" if it has none. A handler that keeps it in a unique column
// makes its creation safe even against a crash between its commit and the
// moment the first answer is kept.
func IdempotencyKey(ctx context.Context) string {
	if x := exchangeOf(ctx); x != nil {
		return x.idem
	}
	return ""
}

// Stopping is closed when the server begins to stop. A long poll answers then.
// Outside of a request it is nil and blocks for ever.
func Stopping(ctx context.Context) <-chan struct{} {
	if x := exchangeOf(ctx); x != nil {
		return x.server.stopping.Done()
	}
	return nil
}

// WriteHeader implements http.ResponseWriter. A second call is ignored.
func (x *exchange) WriteHeader(status int) {
	switch {
	case status < 200 && status != http.StatusSwitchingProtocols:
		if x.routed && x.capture == nil {
			x.ResponseWriter.WriteHeader(status)
		}
	case x.capture != nil:
		or(&x.capture.status, status)
	case x.status != 0:
	default:
		x.status = status
		if x.routed {
			x.ResponseWriter.WriteHeader(status)
		}
	}
}

// Write implements io.Writer.
func (x *exchange) Write(p []byte) (int, error) {
	if !x.routed { // the text of the mux: a problem takes its place
		return len(p), nil
	}
	if c := x.capture; c != nil {
		or(&c.status, http.StatusOK)
		if c.body.Len()+len(p) <= c.limit {
			return c.body.Write(p)
		}
		if err := x.release(); err != nil {
			return 0, err
		}
	}
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	n, err := x.ResponseWriter.Write(p)
	x.bytes += int64(n)
	return n, err
}

// release sends what was captured and ends the capture.
func (x *exchange) release() error {
	c := x.capture
	x.capture = nil
	if c.status != 0 {
		x.WriteHeader(c.status)
	}
	if c.body.Len() == 0 {
		return nil
	}
	_, err := x.Write(c.body.Bytes())
	return err
}

// Flush implements http.Flusher, for libraries that ask for it directly.
func (x *exchange) Flush() { _ = x.FlushError() }

// FlushError sends what was written so far.
func (x *exchange) FlushError() error {
	if x.capture != nil {
		return nil
	}
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// Hijack implements http.Hijacker.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if x.capture != nil {
		return nil, nil, errors.New("web: a request with an Idempotency-Key cannot be hijacked")
	}
	conn, rw, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err == nil {
		x.hijacked = true
		or(&x.status, http.StatusSwitchingProtocols)
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController set deadlines on the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }
