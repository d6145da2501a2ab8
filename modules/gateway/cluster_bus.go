package gateway

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
)

// cluster knows which other instances are at work, and asks them. Nothing of it
// is stored: an instance that is not heard for a while is gone.
type cluster struct {
	bus  *bus.Bus
	self string
	// answers tells what this instance says to a question.
	answers func(ctx context.Context, kind string, body json.RawMessage) (any, error)

	mu    sync.Mutex
	heard int                  // how many of its own greetings this instance has heard
	peers map[string]time.Time // when each was heard last
	next  uint64
	asked map[uint64]*question
}

const (
	subjectHere   = "gateway.here"
	subjectAsk    = "gateway.ask"
	subjectAnswer = "gateway.answer." // followed by the instance that asked
	hereEvery     = time.Second
	hereFor       = 3500 * time.Millisecond
	// answerWithin is how long an instance that is at work may take.
	answerWithin = time.Second
)

// here says that an instance is at work, new to be greeted by the others, or
// going.
type here struct {
	Instance string `json:"instance"`
	New      bool   `json:"new,omitempty"`
	Gone     bool   `json:"gone,omitempty"`
}

// ask is a question to all instances, answer what one says.
type ask struct {
	From string          `json:"from"`
	ID   uint64          `json:"id"`
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body"`
}

type answer struct {
	ID       uint64          `json:"id"`
	Instance string          `json:"instance"`
	Body     json.RawMessage `json:"body,omitempty"`
}

// question is an ask that waits for its answers.
type question struct {
	need    map[string]bool
	answers []json.RawMessage
	done    chan struct{}
}

func newCluster(b *bus.Bus, self string) *cluster {
	return &cluster{bus: b, self: self, peers: map[string]time.Time{}, asked: map[uint64]*question{}}
}

// run hears and is heard until ctx ends; then it says good-bye.
func (c *cluster) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.bus.Listen(ctx, subjectHere, c.hear) })
	g.Go(func() error { return c.bus.Listen(ctx, subjectAsk, func(data []byte) { c.reply(ctx, data) }) })
	g.Go(func() error { return c.bus.Listen(ctx, subjectAnswer+c.self, c.collect) })
	g.Go(func() error {
		if !c.greet(ctx) {
			return nil
		}
		tick := time.NewTicker(hereEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				c.say(here{Instance: c.self, Gone: true})
				return nil
			case <-tick.C:
				c.say(here{Instance: c.self})
			}
		}
	})
	return g.Wait()
}

// greet makes this instance and the others known to each other. The others
// answer a greeting; once it has heard its own it hears their answers too, and
// by the second one they are there.
func (c *cluster) greet(ctx context.Context) bool {
	const every = 25 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for c.joined() != nil {
		c.say(here{Instance: c.self, New: true})
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// joined is nil once the other instances are known. On a bus that is this
// process's alone there are none.
func (c *cluster) joined() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard < 2 && c.bus.Shared() {
		return errs.New(errs.Unavailable, "looking for the other instances")
	}
	return nil
}

// say broadcasts; whoever misses it hears the next one.
func (c *cluster) say(h here) {
	data, err := json.Marshal(h)
	if err == nil {
		_ = c.bus.Broadcast(subjectHere, data)
	}
}

func (c *cluster) hear(data []byte) {
	var h here
	if json.Unmarshal(data, &h) != nil || h.Instance == "" {
		return
	}
	c.mu.Lock()
	if h.Instance == c.self {
		c.heard++
		c.mu.Unlock()
		return
	}
	if h.Gone {
		delete(c.peers, h.Instance)
	} else {
		c.peers[h.Instance] = time.Now()
	}
	c.mu.Unlock()
	if h.New {
		c.say(here{Instance: c.self})
	}
}

// others lists the instances at work besides this one.
func (c *cluster) others() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alive()
}

func (c *cluster) alive() (out []string) {
	for id, heard := range c.peers {
		if time.Since(heard) > hereFor {
			delete(c.peers, id)
			continue
		}
		out = append(out, id)
	}
	return out
}

// doubt forgets an instance that did not answer, until it is heard again.
func (c *cluster) doubt(instance string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, instance)
}

// ask puts a question to all instances, this one first, and gives the answers of
// those that answered in time.
func (c *cluster) ask(ctx context.Context, kind string, body any) ([]json.RawMessage, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	own, err := c.own(ctx, kind, text)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	q := &question{need: map[string]bool{}, done: make(chan struct{})}
	for _, id := range c.alive() {
		q.need[id] = true
	}
	if len(q.need) == 0 {
		c.mu.Unlock()
		return []json.RawMessage{own}, nil
	}
	c.next++
	id := c.next
	c.asked[id] = q
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.asked, id)
		c.mu.Unlock()
	}()
	data, err := json.Marshal(ask{c.self, id, kind, text})
	if err == nil {
		err = c.bus.Broadcast(subjectAsk, data)
	}
	if err != nil {
		return nil, err
	}
	late := time.NewTimer(answerWithin)
	defer late.Stop()
	select {
	case <-q.done:
	case <-late.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for instance := range q.need {
		delete(c.peers, instance)
	}
	return append(slices.Clone(q.answers), own), nil
}

func (c *cluster) own(ctx context.Context, kind string, body json.RawMessage) (json.RawMessage, error) {
	v, err := c.answers(ctx, kind, body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func (c *cluster) reply(ctx context.Context, data []byte) {
	var a ask
	if json.Unmarshal(data, &a) != nil || a.From == c.self {
		return
	}
	body, err := c.own(ctx, a.Kind, a.Body)
	if err != nil {
		return // of another version: the one who asks waits in vain, but not for long
	}
	if text, err := json.Marshal(answer{a.ID, c.self, body}); err == nil {
		_ = c.bus.Broadcast(subjectAnswer+a.From, text)
	}
}

func (c *cluster) collect(data []byte) {
	var a answer
	if json.Unmarshal(data, &a) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.asked[a.ID]
	if q == nil || !q.need[a.Instance] {
		return
	}
	delete(q.need, a.Instance)
	if a.Body != nil {
		q.answers = append(q.answers, a.Body)
	}
	if len(q.need) == 0 {
		close(q.done)
	}
}
