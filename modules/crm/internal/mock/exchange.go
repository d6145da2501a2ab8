package mock

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// call is what one request asks for.
type call struct {
	kind   int  // index of the resource
	one    bool // an object rather than the collection
	id     string
	writes bool
}

// names are those of Counts.Calls: by kind, one and writes.
var names = [len(resources)][2][2]string{
	{{"users.list", "users.create"}, {"users.get", "users.replace"}},
	{{"trips.list", "trips.create"}, {"trips.get", "trips.replace"}},
}

func (c *call) name() string {
	index := map[bool]int{true: 1}
	return names[c.kind][index[c.one]][index[c.writes]]
}

// find reads a path as it travelled, so that an Id may have slashes.
func (m *Mock) find(path string) (c call, ok bool) {
	if rest, ok := strings.CutPrefix(path, m.prefix+"/"); ok {
		path = "/" + rest
	}
	name, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	c.kind = slices.IndexFunc(resources[:], func(r resource) bool { return r.name == name })
	rest = strings.TrimSuffix(rest, "/")
	c.one = rest != ""
	id, err := url.PathUnescape(rest)
	c.id = id
	return c, c.kind >= 0 && err == nil && !strings.Contains(rest, "/")
}

// ServeHTTP answers the routes of the package comment. Where it must cut a
// connection that cannot be hijacked it panics with http.ErrAbortHandler, which
// cuts it too.
func (m *Mock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange{m: m, w: w, r: r, tally: m.tally.Load(), set: m.now.Load()}
	c, ok := m.find(r.URL.EscapedPath())
	c.writes = r.Method == http.MethodPost
	known := c.writes || r.Method == http.MethodGet
	if ok && known {
		x.tally.calls.add(c.name())
	}
	if x.fault = x.set.draw(); x.fault != healthy {
		x.tally.faults.add(string(x.fault))
	}
	switch {
	case x.fault == down:
		x.cut()
	case !ok:
		x.refuse(http.StatusNotFound, "there is nothing at this path")
	case !known:
		w.Header().Set("Allow", "GET, POST")
		x.refuse(http.StatusMethodNotAllowed, "this path takes GET, POST")
	default:
		x.serve(c)
	}
}

// exchange is one request, its answer, and what they suffer.
type exchange struct {
	m     *Mock
	w     http.ResponseWriter
	r     *http.Request
	tally *tally
	set   *setting
	fault fault
}

func (x *exchange) serve(c call) {
	var body bytes.Buffer
	if c.writes {
		// Whole and before the wait: net/http notices only then that a client leaves.
		body.Grow(int(min(max(x.r.ContentLength, 0), 64<<10)) + bytes.MinRead)
		if _, err := body.ReadFrom(http.MaxBytesReader(x.w, x.r.Body, MaxBody)); err != nil {
			x.unreadable(err)
			return
		}
	}
	if !x.wait() {
		x.cut() // nobody is there
		return
	}
	switch x.fault {
	case failing:
		x.refuse(http.StatusServiceUnavailable, "the CRM is not available")
		return
	case throttled:
		x.w.Header().Set("Retry-After", "1")
		x.refuse(http.StatusTooManyRequests, "too many requests")
		return
	case reset:
		x.cut()
		return
	}
	switch {
	case c.writes:
		x.write(c, body.Bytes())
	case c.one:
		x.get(c)
	case x.fault != healthy: // nobody will read the list
		x.object(http.StatusOK, nil)
	default:
		x.list(c)
	}
}

func (x *exchange) unreadable(err error) {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		x.refuse(http.StatusRequestEntityTooLarge, "the body is too large")
		return
	}
	x.refuse(http.StatusBadRequest, "the body ended early", wrong{"body", "incomplete"})
}

// wait takes the latency. It says no if the client leaves meanwhile.
func (x *exchange) wait() bool {
	d := x.set.wait()
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return x.r.Context().Err() == nil
	case <-x.r.Context().Done():
		return false
	}
}

// list writes all objects that there are now, each as it is when its turn comes.
func (x *exchange) list(c call) {
	x.m.mu.RLock()
	order := x.m.sets[c.kind].order
	x.m.mu.RUnlock()
	x.begin(http.StatusOK)
	before := byte('[')
	var buf []byte
	for part := range slices.Chunk(order, 256) {
		buf = buf[:0]
		x.m.mu.RLock()
		for _, o := range part {
			buf = append(append(buf, before), o.state...)
			before = ','
		}
		x.m.mu.RUnlock()
		if _, err := x.w.Write(buf); err != nil {
			return // the client left
		}
	}
	end := "]"
	if before == '[' {
		end = "[]"
	}
	_, _ = io.WriteString(x.w, end) // nobody could act on a fault of the connection
}

func (x *exchange) get(c call) {
	x.m.mu.RLock()
	o := x.m.sets[c.kind].byID[c.id]
	var state []byte
	if o != nil {
		state = o.state
	}
	x.m.mu.RUnlock()
	if o == nil {
		x.unknown()
		return
	}
	x.object(http.StatusOK, state)
}

func (x *exchange) write(c call, body []byte) {
	kind := &resources[c.kind]
	id, v, detail, at := kind.decode(body)
	if c.one {
		id = c.id
	}
	if x.set.refuse[id] {
		x.tally.faults.add(string(refused))
		x.refuse(http.StatusBadRequest, "the CRM does not take this Id", wrong{"body.Id", "refused"})
		return
	}
	if detail != "" {
		x.refuse(http.StatusBadRequest, detail, at...)
		return
	}
	ids := x.set.faults.IDs
	if !c.one && (id == "" || ids == Own) {
		id = uuid.NewString()
	}
	state := kind.render(id, &v)
	switch {
	case c.one && !x.m.replace(c.kind, id, state):
		x.unknown()
	case c.one:
		x.object(http.StatusOK, state)
	case !x.m.create(c.kind, id, state, ids):
		x.refuse(http.StatusConflict, "this Id is taken", wrong{"body.Id", "taken"})
	default:
		x.w.Header()["Location"] = []string{x.m.prefix + "/" + kind.name + "/" + escape(id)}
		x.object(http.StatusCreated, state)
	}
}

// escape writes an Id as a segment of a path. Dots alone would be a direction.
func escape(id string) string {
	if id == "." || id == ".." {
		return strings.Repeat("%2E", len(id))
	}
	return url.PathEscape(id)
}

// object answers with a state, or with what the fault makes of it.
func (x *exchange) object(status int, state []byte) {
	switch x.fault {
	case lost:
		x.cut()
		return
	case garbled:
		state = []byte("<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>")
	}
	x.begin(status)
	_, _ = x.w.Write(state) // nobody could act on a fault of the connection
}

var jsonType = []string{"application/json"}

// begin sends the header of an answer that is no problem.
func (x *exchange) begin(status int) {
	x.tally.answers.add(strconv.Itoa(status))
	x.w.Header()["Content-Type"] = jsonType
	x.w.WriteHeader(status)
}

func (x *exchange) unknown() { x.refuse(http.StatusNotFound, "there is no object with this Id") }

// problem is the body of a refusal (RFC 9457).
type problem struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Detail string  `json:"detail"`
	Errors []wrong `json:"errors,omitempty"`
}

func (x *exchange) refuse(status int, detail string, at ...wrong) {
	if x.fault == lost {
		x.cut()
		return
	}
	x.tally.answers.add(strconv.Itoa(status))
	body, _ := json.Marshal(problem{"about:blank", http.StatusText(status), status, detail, at}) // it has a JSON form
	x.w.Header().Set("Content-Type", "application/problem+json")
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body) // nobody could act on a fault of the connection
}

// cut resets the connection without an answer.
func (x *exchange) cut() {
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset rather than an end
	}
	_ = conn.Close()
}
