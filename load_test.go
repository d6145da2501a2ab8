package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// crowd is visitors of a web page who send events to servers that may die at
// any moment, and the ledger of what they sent and what was acknowledged. It
// lives in the test's memory, out of reach of what happens to the servers.
type crowd struct {
	t        testing.TB
	http     *http.Client
	begin    time.Time // about which the events occurred
	visitors []*visitor
	// padding is how many bytes each event carries for nothing; set it while
	// nobody sends.
	padding int

	servers atomic.Pointer[[]server]
	acked   atomic.Int64 // events
	resent  atomic.Int64 // requests
	refused atomic.Int64 // requests answered with 503
	full    atomic.Int64 // requests answered with 507
	locked  atomic.Int64 // requests given up: their Idempotency-Key was held

	stop chan struct{}
	busy sync.WaitGroup

	mu      sync.Mutex
	trouble []string // answers that never should be
}

// server is one that takes the events.
type server struct{ url, key string }

// entry is an event in the ledger.
type entry struct {
	id    string // the client's own, or the one the server gave
	at    time.Time
	acked bool
}

// visitor sends one request after another within a session of its own, so that
// the order in which its events arrive is known.
type visitor struct {
	*crowd
	number  int
	session string
	rand    *rand.Rand
	clock   time.Duration // of its events, since begin
	ledger  []entry       // by the number of the event
	pending *parcel       // without a clear answer so far
}

// newCrowd makes n visitors. Nobody sends before start.
func newCrowd(t testing.TB, n int) *crowd {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed of the load: %d", seed)
	c := &crowd{t: t, begin: time.Now().Add(-time.Hour).Truncate(time.Second),
		http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: n}}}
	t.Cleanup(c.http.CloseIdleConnections)
	for i := range n {
		c.visitors = append(c.visitors, &visitor{crowd: c, number: i,
			session: fmt.Sprintf("visitor %d of %x", i, seed), rand: rand.New(rand.NewPCG(seed, uint64(i)))})
	}
	return c
}

// sendTo says where the visitors send to from now on, each request to any one.
func (c *crowd) sendTo(servers ...server) { c.servers.Store(&servers) }

// start lets the visitors send until halt.
func (c *crowd) start() {
	c.stop = make(chan struct{})
	for _, v := range c.visitors {
		c.busy.Go(v.run)
	}
	c.t.Cleanup(c.halt)
}

// halt ends the sending; what has no clear answer by then is sent again after
// the next start. A second call does nothing.
func (c *crowd) halt() {
	if c.stop == nil {
		return
	}
	close(c.stop)
	c.busy.Wait()
	c.stop = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, what := range c.trouble {
		c.t.Error(what)
	}
	c.trouble = nil
}

// complain notes an answer that never should be.
func (c *crowd) complain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.trouble) < 10 {
		c.trouble = append(c.trouble, fmt.Sprintf(format, args...))
	}
}

// pause waits a little, less when the load ends. It tells whether to go on.
func (c *crowd) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.stop:
		return false
	case <-timer.C:
		return true
	}
}

func (v *visitor) run() {
	for v.pause(time.Duration(v.rand.IntN(8)) * time.Millisecond) {
		if v.pending == nil {
			v.pending = v.pack()
		}
		switch p := v.pending; v.send(p) {
		case acknowledged:
			// Now and then the answer is lost on the way back: the client
			// sends again what is stored already.
			if p.repeatable() && !p.again && v.rand.IntN(20) == 0 {
				p.again = true
				continue
			}
			v.pending = nil
		case unclear:
			p.again = true
			v.resent.Add(1)
			if !p.repeatable() {
				v.pending = nil // may be stored or not, nobody can tell
			}
			v.pause(20 * time.Millisecond)
		case hopeless:
			return
		}
	}
}

// parcel is a request.
type parcel struct {
	first, n int // numbers of its events
	body     []byte
	own      bool   // its events have ids of the client
	key      string // Idempotency-Key, if any
	again    bool
}

func (p *parcel) repeatable() bool { return p.own || p.key != "" }

// event is an event in a request and, but for the form of its time, in an answer.
type event struct {
	ID        string    `json:"id,omitempty"`
	SessionID string    `json:"session_id"`
	Category  string    `json:"category"`
	Name      string    `json:"name"`
	Data      eventData `json:"data"`
	Timestamp string    `json:"timestamp"`
}

type eventData struct {
	Visitor int    `json:"visitor"`
	Number  int    `json:"number"`
	Padding string `json:"padding,omitempty"`
}

// pack makes the next request: a single event or a batch in one of its two
// forms, with ids of the client, an Idempotency-Key or neither.
func (v *visitor) pack() *parcel {
	p := &parcel{first: len(v.ledger), n: 1}
	if v.rand.IntN(2) == 0 {
		p.n = 2 + v.rand.IntN(12)
	}
	switch v.rand.IntN(5) {
	case 0: // neither
	case 1:
		p.key = fmt.Sprintf("%d-%d", v.number, p.first)
	default:
		p.own = true
	}
	events := make([]event, p.n)
	for i := range events {
		events[i] = v.next(p.own)
	}
	var body any = events
	switch {
	case p.n == 1:
		body = events[0]
	case v.rand.IntN(2) == 0:
		body = map[string]any{"events": events}
	}
	p.body, _ = json.Marshal(body)
	return p
}

// next is the next event of the session: later than the one before, at the
// same time, or late.
func (v *visitor) next(own bool) event {
	number := len(v.ledger)
	at := v.begin.Add(v.clock)
	switch v.rand.IntN(4) {
	case 0: // the same time
	case 1: // late, perhaps at the very time of another
		if number > 0 {
			at = v.ledger[v.rand.IntN(number)].at
		}
	default:
		v.clock += time.Duration(v.rand.IntN(30_000)) * time.Microsecond
		at = v.begin.Add(v.clock)
	}
	at = at.UTC()
	e := event{SessionID: v.session, Category: "load", Name: fmt.Sprintf("step %d", number%3),
		Data: eventData{v.number, number, strings.Repeat("x", v.padding)}, Timestamp: at.Format("2006-01-02T15:04:05.999999Z07:00")}
	if v.rand.IntN(2) == 0 {
		e.Timestamp = at.Format("2006-01-02 15:04:05.000000")
	}
	if own {
		e.ID = fmt.Sprintf("%s/%d", v.session, number)
	}
	v.ledger = append(v.ledger, entry{id: e.ID, at: at})
	return e
}

// answer is what an answer means to the one who asked.
type answer int

const (
	acknowledged answer = iota
	unclear             // none, or not now: may be stored or not
	hopeless            // one that never should be
)

// send sends a parcel once and notes in the ledger what was acknowledged.
func (v *visitor) send(p *parcel) answer {
	servers := *v.servers.Load()
	to := servers[v.rand.IntN(len(servers))]
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, to.url+"/collector/events", bytes.NewReader(p.body))
	if err != nil {
		v.complain("%v", err)
		return hopeless
	}
	req.Header.Set("Authorization", "Bearer "+to.key)
	if p.key != "" {
		req.Header.Set("Idempotency-Key", p.key)
	}
	resp, err := v.http.Do(req)
	if err != nil {
		return unclear
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return unclear
	}
	switch resp.StatusCode {
	case http.StatusAccepted:
		return v.receipt(p, text)
	case http.StatusServiceUnavailable:
		v.refused.Add(1)
		return unclear
	case http.StatusInsufficientStorage:
		v.full.Add(1)
		return unclear
	case http.StatusConflict:
		if p.key != "" && p.again {
			// To the server the first request with this Idempotency-Key is still
			// under way, for two minutes after a kill: too long for this client.
			v.locked.Add(1)
			p.key = ""
			return unclear
		}
	}
	v.complain("visitor %d, events %d to %d: %s: %.300s", v.number, p.first, p.first+p.n-1, resp.Status, text)
	return hopeless
}

// receipt enters an acknowledgement.
func (v *visitor) receipt(p *parcel, text []byte) answer {
	var r struct {
		Accepted int      `json:"accepted"`
		IDs      []string `json:"ids"`
	}
	if err := json.Unmarshal(text, &r); err != nil || r.Accepted != p.n || len(r.IDs) != p.n {
		v.complain("visitor %d sent %d events and got the receipt %.300s", v.number, p.n, text)
		return hopeless
	}
	for i, id := range r.IDs {
		e := &v.ledger[p.first+i]
		if e.id != "" && e.id != id {
			v.complain("event %q was acknowledged as %q", e.id, id)
			return hopeless
		}
		e.id = id
		if !e.acked {
			e.acked = true
			v.acked.Add(1)
		}
	}
	return acknowledged
}

// more is a condition: that n more events than now are acknowledged.
func (c *crowd) more(n int64) func() string {
	want := c.acked.Load() + n
	return func() string {
		if got := c.acked.Load(); got < want {
			return fmt.Sprintf("%d of %d events were acknowledged", got, want)
		}
		return ""
	}
}
