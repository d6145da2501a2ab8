package mock

import (
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// MaxBody bounds the body of a request, in bytes.
const MaxBody = 1 << 20

// Mock is the CRM. It is safe for concurrent use. Close it when done.
type Mock struct {
	prefix string
	now    atomic.Pointer[setting]
	tally  atomic.Pointer[tally]

	mu      sync.RWMutex
	sets    [len(resources)]set
	history history

	client  *http.Client
	serveMu sync.Mutex
	pipes   *pipes // set once something dialled
	stop    func() // ends what serves the pipes, and waits for it
	closed  bool
}

// set is the objects of one resource.
type set struct {
	byID  map[string]*object
	order []*object // of creation; only ever appended to
}

// object is its state as JSON. The bytes are never changed.
type object struct{ state []byte }

// New makes a mock. Location begins with the prefix, as in "/crm".
func New(prefix string) *Mock {
	m := &Mock{prefix: prefix}
	m.client = m.newClient()
	m.SetFaults(Faults{})
	m.Reset()
	return m
}

// SetFaults changes what goes wrong, for requests that come from now on. Values
// that [Faults.Check] refuses have no meaning.
func (m *Mock) SetFaults(f Faults) { m.now.Store(newSetting(f)) }

// Faults gives what goes wrong now.
func (m *Mock) Faults() Faults { return newSetting(m.now.Load().faults).faults }

// Reset forgets all objects, the history and the counts. Faults stay.
func (m *Mock) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.sets {
		m.sets[i] = set{byID: map[string]*object{}}
	}
	m.history = history{}
	m.tally.Store(&tally{})
}

// tally counts since Reset.
type tally struct{ calls, answers, faults counters }

// counters are counts by name.
type counters struct {
	mu sync.Mutex
	n  map[string]int64
}

func (c *counters) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int64{}
	}
	c.n[name]++
}

func (c *counters) all() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]int64{}
	maps.Copy(all, c.n)
	return all
}

// replace gives a known object a new state.
func (m *Mock) replace(kind int, id string, state []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.sets[kind].byID[id]
	if o == nil {
		return false
	}
	o.state = state
	m.history.add(Change{At: time.Now(), Kind: resources[kind].name, ID: id, State: state})
	return true
}

// create makes an object; a taken Id goes by ids, and false is a conflict.
func (m *Mock) create(kind int, id string, state []byte, ids string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.sets[kind]
	old := s.byID[id]
	switch {
	case old != nil && ids == Replace:
		old.state = state
	case old != nil && ids != Duplicate:
		return false
	default:
		o := &object{state}
		s.order = append(s.order, o)
		if old == nil {
			s.byID[id] = o
		}
	}
	m.history.add(Change{At: time.Now(), Kind: resources[kind].name, ID: id, Created: old == nil || ids == Duplicate, State: state})
	return true
}
