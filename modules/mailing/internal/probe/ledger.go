package probe

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Summary counts requests to send. It is exact when none is under way.
type Summary struct {
	// Requests are all there were; Accepted those that had their effect, also if
	// the answer was lost; Refused those without a token that counts, or with an
	// invalid path or body.
	Requests int64 `json:"requests"`
	Accepted int64 `json:"accepted"`
	Refused  int64 `json:"refused"`
	// DistinctIDs and DistinctPhones are of what was accepted.
	DistinctIDs    int64 `json:"distinct_ids"`
	DistinctPhones int64 `json:"distinct_phones"`
	// RepeatedIDs were accepted more than once, ChangedIDs then with another
	// phone or text.
	RepeatedIDs int64 `json:"repeated_ids"`
	ChangedIDs  int64 `json:"changed_ids"`
	// PhonesWithTwoIDs got messages with different ids.
	PhonesWithTwoIDs int64 `json:"phones_with_two_ids"`
	// NotRemembered were accepted beyond Options.Remember ids, and are not among
	// the distinct ones.
	NotRemembered int64 `json:"not_remembered"`
	// ByFault counts the requests that suffered a fault, by its name.
	ByFault map[string]int64 `json:"by_fault"`
	// LastAt is when the last request came, LastAcceptedAt when the last one was
	// accepted; nil if there was none.
	LastAt         *time.Time `json:"last_at"`
	LastAcceptedAt *time.Time `json:"last_accepted_at"`
}

// entry is what is remembered of a message. There are millions.
type entry struct {
	id                 int64
	phone              uint64 // of its first acceptance, as is text
	text               uint32
	accepted, attempts uint32 // there is no entry without an attempt
	lost               uint16 // acceptances that the client was not told of
	changed            bool
}

func (e entry) key() (uint64, bool) { return uint64(e.id), e.attempts > 0 }

// phone is one that got a message, and whether it got one with another id.
type phone uint64

const twoIDs phone = 1 << 63 // no phone is as long

func (p phone) key() (uint64, bool) { return uint64(p &^ twoIDs), p != 0 }

// Entry is a message in GET /ledger.
type Entry struct {
	ID       int64  `json:"id"`
	Accepted uint32 `json:"accepted"`
	// Attempts are the requests that no window and no rate turned away.
	Attempts uint32 `json:"attempts"`
	// Lost are the acceptances whose answer a fault kept from the client.
	Lost uint16 `json:"lost,omitempty"`
	// The hashes are of the first acceptance. They hold for one run.
	Phone string `json:"phone_hash,omitempty"`
	Text  string `json:"text_hash,omitempty"`
	// Changed says that it was accepted again with another phone or text.
	Changed bool `json:"changed,omitempty"`
}

const shards = 64

// ledger is what a probe was asked since it was cleared.
type ledger struct {
	seed   maphash.Seed
	limit  int64
	ids    [shards]idShard
	phones [shards]phoneShard

	known                                                                 atomic.Int64 // ids
	requests, accepted, refused, notRemembered                            atomic.Int64
	distinctIDs, distinctPhones, repeatedIDs, changedIDs, phonesWithTwoID atomic.Int64
	last, lastAccepted                                                    atomic.Int64 // µs; 0 is never
	byFault                                                               [faultCount]atomic.Int64
}

type idShard struct {
	sync.Mutex
	table[entry]
}

type phoneShard struct {
	sync.Mutex
	table[phone]
}

func newLedger(limit int, seed maphash.Seed) *ledger {
	return &ledger{seed: seed, limit: int64(limit)}
}

func (l *ledger) ofID(id int64) *idShard { return &l.ids[mix(uint64(id))%shards] }

// attempt counts an attempt for a message and gives its number, from 1.
func (l *ledger) attempt(id int64) uint32 {
	s := l.ofID(id)
	s.Lock()
	defer s.Unlock()
	e := s.find(uint64(id))
	if e == nil {
		if l.room() {
			s.add(entry{id: id, attempts: 1})
		}
		return 1
	}
	e.attempts++
	return e.attempts
}

func (l *ledger) room() bool {
	if l.known.Add(1) > l.limit {
		l.known.Add(-1)
		return false
	}
	return true
}

// accept records the effect of a message. lost says that the client will not
// be told.
func (l *ledger) accept(id int64, m *message, now time.Time, lost bool) {
	l.accepted.Add(1)
	later(&l.lastAccepted, now)
	s := l.ofID(id)
	s.Lock()
	e := s.find(uint64(id))
	if e == nil {
		s.Unlock()
		l.notRemembered.Add(1)
		return
	}
	e.accepted++
	if lost {
		e.lost = max(e.lost, e.lost+1) // it stays at the greatest
	}
	newPhone := e.accepted == 1 || e.phone != m.phone
	switch {
	case e.accepted == 1:
		e.phone, e.text = m.phone, m.hash
		l.distinctIDs.Add(1)
	case !e.changed && (newPhone || e.text != m.hash):
		e.changed = true
		l.changedIDs.Add(1)
	}
	if e.accepted == 2 {
		l.repeatedIDs.Add(1)
	}
	s.Unlock()
	if newPhone {
		l.addPhone(m.phone)
	}
}

func (l *ledger) addPhone(number uint64) {
	s := &l.phones[mix(number)%shards]
	s.Lock()
	defer s.Unlock()
	p := s.find(number)
	switch {
	case p == nil:
		// A message that comes with ever other phones does not grow this for ever.
		if l.distinctPhones.Load() < l.limit {
			s.add(phone(number))
			l.distinctPhones.Add(1)
		}
	case *p&twoIDs == 0:
		*p |= twoIDs
		l.phonesWithTwoID.Add(1)
	}
}

func (l *ledger) find(id int64) (entry, bool) {
	s := l.ofID(id)
	s.Lock()
	defer s.Unlock()
	if e := s.table.find(uint64(id)); e != nil {
		return *e, true
	}
	return entry{}, false
}

func (l *ledger) show(e entry) Entry {
	out := Entry{ID: e.id, Accepted: e.accepted, Attempts: e.attempts, Lost: e.lost, Changed: e.changed}
	if e.accepted > 0 {
		out.Phone, out.Text = strconv.FormatUint(maphash.Comparable(l.seed, e.phone), 16), strconv.FormatUint(uint64(e.text), 16)
	}
	return out
}

// page gives up to limit accepted messages with ids from first on, by id.
func (l *ledger) page(first int64, limit int) []Entry {
	// The ids beyond the best so far are dropped whenever the list is full, so
	// that a page takes one walk and little memory.
	best := make([]entry, 0, min(2*limit, 1024))
	bound := int64(math.MaxInt64)
	cut := func() {
		slices.SortFunc(best, func(a, b entry) int { return cmp.Compare(a.id, b.id) })
		if len(best) >= limit {
			best = best[:limit]
			bound = best[limit-1].id
		}
	}
	for i := range l.ids {
		s := &l.ids[i]
		s.Lock()
		for _, e := range s.slots {
			if e.accepted == 0 || e.id < first || e.id > bound {
				continue
			}
			if best = append(best, e); len(best) == 2*limit {
				cut()
			}
		}
		s.Unlock()
	}
	cut()
	page := make([]Entry, len(best))
	for i, e := range best {
		page[i] = l.show(e)
	}
	return page
}

// each calls with every accepted message, in no order. It holds no lock
// meanwhile.
func (l *ledger) each(f func(id int64, phone uint64, n, lost int)) {
	var entries []entry
	for i := range l.ids {
		s := &l.ids[i]
		s.Lock()
		entries = append(entries[:0], s.slots...)
		s.Unlock()
		for _, e := range entries {
			if e.accepted > 0 {
				f(e.id, e.phone, int(e.accepted), int(e.lost))
			}
		}
	}
}

func (l *ledger) summary() Summary {
	s := Summary{Requests: l.requests.Load(), Accepted: l.accepted.Load(), Refused: l.refused.Load(), NotRemembered: l.notRemembered.Load(),
		DistinctIDs: l.distinctIDs.Load(), DistinctPhones: l.distinctPhones.Load(), RepeatedIDs: l.repeatedIDs.Load(),
		ChangedIDs: l.changedIDs.Load(), PhonesWithTwoIDs: l.phonesWithTwoID.Load(), ByFault: map[string]int64{},
		LastAt: moment(&l.last), LastAcceptedAt: moment(&l.lastAccepted)}
	for f := range faultCount {
		if n := l.byFault[f].Load(); n > 0 {
			s.ByFault[f.String()] = n
		}
	}
	return s
}

func later(at *atomic.Int64, now time.Time) {
	us := now.UnixMicro()
	for old := at.Load(); us > old && !at.CompareAndSwap(old, us); old = at.Load() {
	}
}

func moment(at *atomic.Int64) *time.Time {
	us := at.Load()
	if us == 0 {
		return nil
	}
	t := time.UnixMicro(us).UTC()
	return &t
}
