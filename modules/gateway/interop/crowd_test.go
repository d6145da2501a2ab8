package interop_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// crowd is a number of stock clients in a process of their own (crowd.mjs).
type crowd struct {
	t       *testing.T
	name    string
	ask     io.Writer
	answers *bufio.Reader
	size    int
}

// follower is what one client of a crowd has seen.
type follower struct {
	IDs       []string
	Recovered int
	Anew      int
	Joined    bool
	Connected bool
	Error     string
	Lost      string
	Last      map[string]int
	Faults    []string
}

// gather starts a crowd whose clients join a room at url, half of them at the
// handshake and half by an event, and waits until all are in it.
func gather(t *testing.T, url, key, transports, room string, size int) *crowd {
	t.Helper()
	cmd := node(t, transports)
	cmd.Args = append(cmd.Args, "crowd.mjs")
	cmd.Env = append(cmd.Env, "GATEWAY_URL="+url, "GATEWAY_KEY="+key, "GATEWAY_ROOM="+room, fmt.Sprint("GATEWAY_CROWD=", size))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // killed, or ended by the end of its input
	})
	c := &crowd{t, transports, in, bufio.NewReader(out), size}
	c.until(time.Minute, func(f follower) string {
		if !f.Connected || !f.Joined {
			return "not in the room"
		}
		return ""
	})
	return c
}

func (c *crowd) look() (all []follower) {
	c.t.Helper()
	if _, err := io.WriteString(c.ask, "\n"); err != nil {
		c.t.Fatal(err)
	}
	line, err := c.answers.ReadBytes('\n')
	if err != nil {
		c.t.Fatalf("the clients: %v", err)
	}
	if err := json.Unmarshal(line, &all); err != nil {
		c.t.Fatalf("the clients: %v: %s", err, line)
	}
	return all
}

// until waits until each client is as wanted.
func (c *crowd) until(limit time.Duration, wanted func(follower) (whyNot string)) {
	c.t.Helper()
	apptest.Within(c.t, limit, func() string {
		for i, f := range c.look() {
			if why := wanted(f); why != "" {
				return fmt.Sprintf("%s client %d: %s: %+v", c.name, i, why, f)
			}
		}
		return ""
	})
}

// reached is for until: the client has a publisher's last event.
func reached(from string, last int) func(follower) string {
	return func(f follower) string {
		if f.Last[from] < last {
			return fmt.Sprintf("waits for %s %d", from, last)
		}
		return ""
	}
}

// complete wants that no client missed an event, got one twice or in another
// order, and that each was recovered as often as it lost its connection.
func (c *crowd) complete(losses int) {
	c.t.Helper()
	for i, f := range c.look() {
		if len(f.Faults) > 0 {
			c.t.Errorf("%s client %d: %q", c.name, i, f.Faults)
		}
		if f.Anew != 1 || f.Recovered < losses || len(f.IDs) != 1 {
			c.t.Errorf("%s client %d was recovered %d times, new %d times, its ids %q, the last loss: %s", c.name, i, f.Recovered, f.Anew, f.IDs, f.Lost)
		}
	}
}

// publisher sends numbered events to a room one after another, each when the
// one before was acknowledged.
type publisher struct {
	name, room string
	next       atomic.Int64 // number of the next event
	failed     atomic.Bool
	halted     atomic.Bool
	done       sync.WaitGroup
}

// publish starts a publisher. It ends at the first request that fails: whether
// that event was accepted is not known.
func publish(t *testing.T, url, key, name, room string) *publisher {
	p := &publisher{name: name, room: room}
	p.done.Go(func() {
		for !p.halted.Load() {
			if err := p.send(url, key); err != nil {
				p.failed.Store(true)
				return
			}
		}
	})
	t.Cleanup(p.halt)
	return p
}

func (p *publisher) send(url, key string) error {
	_, err := emit(url, key, "numbered", p.room, fmt.Sprintf(`{"from":%q,"n":%d}`, p.name, p.next.Load()))
	if err == nil {
		p.next.Add(1)
	}
	return err
}

// halt stops the publisher and waits for its last answer.
func (p *publisher) halt() {
	p.halted.Store(true)
	p.done.Wait()
}

// more is for Within: n further events are acknowledged.
func (p *publisher) more(n int64) func() string {
	goal := p.next.Load() + n
	return func() string {
		if at := p.next.Load(); at < goal {
			return fmt.Sprintf("%s has sent %d of %d, failed: %v", p.name, at, goal, p.failed.Load())
		}
		return ""
	}
}

var client = http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 30 * time.Second}

// emit sends an event and gives the number of its recipients.
func emit(url, key, event, room, data string) (recipients int, err error) {
	req, err := http.NewRequest(http.MethodPost, url+"/events", strings.NewReader(fmt.Sprintf(`{"event":%q,"room":%q,"data":%s}`, event, room, data)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusCreated {
		return 0, fmt.Errorf("%s %s", resp.Status, text)
	}
	var answer struct{ Recipients int }
	return answer.Recipients, json.Unmarshal(text, &answer)
}

// line leads to whichever server lives, as a load balancer does.
type line struct {
	URL    string
	target atomic.Pointer[string]
	mu     sync.Mutex
	open   map[net.Conn]bool
}

// newLine listens until the end of the test. It refuses connections until it
// leads somewhere.
func newLine(t *testing.T) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{URL: "http://" + listener.Addr().String(), open: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { l.carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		l.cut()
		all.Wait()
	})
	return l
}

// lead sends further connections to a server; "" refuses them.
func (l *line) lead(url string) {
	host := strings.TrimPrefix(url, "http://")
	l.target.Store(&host)
}

// cut ends all connections.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lead("")
	for conn := range l.open {
		_ = conn.Close()
	}
}

func (l *line) carry(near net.Conn) {
	defer near.Close()
	target := l.target.Load()
	if target == nil || *target == "" {
		return
	}
	far, err := net.Dial("tcp", *target)
	if err != nil {
		return
	}
	defer far.Close()
	l.mu.Lock()
	if *l.target.Load() == "" {
		l.mu.Unlock()
		return
	}
	l.open[near], l.open[far] = true, true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, near)
		delete(l.open, far)
	}()
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(near, far)
		_ = near.Close()
	}()
	_, _ = io.Copy(far, near)
	_ = far.Close()
	<-back
}
