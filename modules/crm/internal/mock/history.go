package mock

import (
	"encoding/json"
	"time"
)

// Bounds of the history.
const (
	maxChanges      = 100_000
	maxChangesBytes = 64 << 20
)

// Change is a state that an object got.
type Change struct {
	Seq      int64 // counts the changes of all objects, from 0
	At       time.Time
	Kind, ID string          // users or trips, and the Id
	Created  bool            // whether the object was new
	State    json.RawMessage // the object from then on; not to be changed
}

// history is the latest changes. The mock's lock guards it.
type history struct {
	ring  []Change // by Seq
	first int64    // Seq of the oldest that is kept, of the next one if none is
	next  int64
	bytes int
}

func (h *history) at(seq int64) *Change { return &h.ring[seq%maxChanges] }

func (h *history) add(c Change) {
	c.Seq = h.next
	h.next++
	h.bytes += c.size()
	if c.Seq-h.first == maxChanges {
		h.drop()
	}
	if len(h.ring) < maxChanges {
		h.ring = append(h.ring, c)
	} else {
		*h.at(c.Seq) = c
	}
	for h.bytes > maxChangesBytes {
		h.drop()
	}
}

// drop lets go of the oldest.
func (h *history) drop() {
	h.bytes -= h.at(h.first).size()
	*h.at(h.first) = Change{}
	h.first++
}

func (c *Change) size() int { return len(c.ID) + len(c.State) }

// History gives the states that objects had, in order: of a kind, users or
// trips, and of an Id, or of all if that is "". It gives at most limit of them,
// all if that is 0, from a Seq on. The latest 100,000 are kept, and 64 MiB of
// them.
func (m *Mock) History(kind, id string, from int64, limit int) []Change {
	m.mu.RLock()
	defer m.mu.RUnlock()
	h := &m.history
	found := []Change{}
	for seq := max(from, h.first); seq < h.next; seq++ {
		if c := h.at(seq); (kind == "" || c.Kind == kind) && (id == "" || c.ID == id) {
			if found = append(found, *c); len(found) == limit {
				break
			}
		}
	}
	return found
}

// Counts is what the mock holds and was asked.
type Counts struct {
	Users   int              `json:"users" doc:"Objects that it holds."`
	Trips   int              `json:"trips"`
	Changes int64            `json:"changes" doc:"States that objects got since the last reset."`
	Calls   map[string]int64 `json:"calls" doc:"Requests by collection and kind, as in users.create; kinds are list, get, create and replace."`
	Answers map[string]int64 `json:"answers" doc:"Answers by status; none where the connection was cut."`
	Faults  map[string]int64 `json:"faults" doc:"Requests that suffered, by the name of the fault."`
}

// Counts tells what the mock holds, and what it was asked since New or Reset.
func (m *Mock) Counts() Counts {
	m.mu.RLock()
	c := Counts{Users: len(m.sets[0].order), Trips: len(m.sets[1].order), Changes: m.history.next}
	m.mu.RUnlock()
	t := m.tally.Load()
	c.Calls, c.Answers, c.Faults = t.calls.all(), t.answers.all(), t.faults.all()
	return c
}
