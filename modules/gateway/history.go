package gateway

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/s2"
)

// entry is an event in the order of acceptance: what is delivered, and what the
// history remembers.
type entry struct {
	pos   uint64 // place among all events, the same on every instance; only grows
	at    time.Time
	id    [16]byte
	event string
	room  string // "" is everyone
	data  []byte // JSON
	s2    bool   // data is compressed
}

// packed is e as it is remembered: large data compressed, and no part of a
// larger buffer, which would stay with it.
func (e *entry) packed() *entry {
	p := *e
	if len(e.data) >= packFrom {
		if small := s2.Encode(nil, e.data); len(small) < len(e.data)*7/8 {
			p.data, p.s2 = bytes.Clone(small), true
			return &p
		}
	}
	p.data = bytes.Clone(e.data)
	return &p
}

// packFrom is the size from which compression is worth its time.
const packFrom = 512

// delivered is about the size of e on its way.
func (e *entry) delivered() int {
	n := len(e.data)
	if e.s2 {
		n, _ = s2.DecodedLen(e.data)
	}
	return n + len(e.event) + len(e.room) + 160
}

// unpacked is e as it is delivered.
func (e *entry) unpacked() *entry {
	if !e.s2 {
		return e
	}
	u := *e
	data, err := s2.Decode(nil, e.data)
	if err != nil {
		panic(err) // it was in our own memory
	}
	u.data, u.s2 = data, false
	return &u
}

func (e *entry) size() int64 { return int64(len(e.event) + len(e.room) + len(e.data) + 160) }

// offset is a place as clients know it.
func offset(pos uint64) string { return strconv.FormatUint(pos, 36) }

// parseOffset reads it. Places begin with the time of their stream in
// microseconds, so that until the year 2100 they have as many digits.
func parseOffset(text string) (pos uint64, ok bool) {
	const digits = 12
	pos, err := strconv.ParseUint(text, 36, 64)
	return pos, err == nil && len(text) == digits
}

// history is the events of the last minutes, bounded by age and bytes. Each
// room has its own list, so that looking back costs what there is to find.
type history struct {
	keep     time.Duration
	maxBytes int64

	all    fifo
	rooms  map[string]*fifo
	bytes  int64
	forgot time.Time // when the latest of those that bytes pushed out was accepted
	since  time.Time // the history holds what was accepted since then, but for forgot
	lost   uint64    // place of the last event that is not held any more
}

func newHistory(keep time.Duration, maxBytes int64, now time.Time) *history {
	return &history{keep: keep, maxBytes: maxBytes, rooms: map[string]*fifo{}, since: now.Add(-keep)}
}

// begin says that nothing is known of what came before the first entry, or up
// to head if there is none.
func (h *history) begin(head uint64) {
	if h.lost = head; h.all.len() > 0 {
		h.lost = h.all.first().pos - 1
	}
}

// add appends e, which comes after all others, and drops what is past.
func (h *history) add(e *entry, now time.Time) {
	if h.keep <= 0 {
		h.lost = e.pos
		return
	}
	e = e.packed()
	h.all.push(e)
	r := h.rooms[e.room]
	if r == nil {
		r = &fifo{}
		h.rooms[e.room] = r
	}
	r.push(e)
	h.bytes += e.size()
	h.expire(now)
}

// expire drops what is older than keep and what is too much.
func (h *history) expire(now time.Time) {
	for h.all.len() > 0 {
		first := h.all.first()
		old := now.Sub(first.at) > h.keep
		if !old && h.bytes <= h.maxBytes {
			return
		}
		if !old {
			h.forgot = first.at
		}
		h.lost = first.pos
		h.all.pop()
		r := h.rooms[first.room]
		r.pop()
		if r.len() == 0 {
			delete(h.rooms, first.room)
		}
		h.bytes -= first.size()
	}
}

// whole tells whether everything is there that was accepted since then.
func (h *history) whole(since time.Time) bool {
	return h.keep > 0 && !since.Before(h.since) && h.forgot.Before(since)
}

// follows tells whether everything is there that came after pos.
func (h *history) follows(pos uint64) bool { return h.keep > 0 && pos >= h.lost }

// missed gives the events after pos for a socket in these rooms, in order, as
// they are remembered. Of a room only those count that came after the socket
// joined it.
func (h *history) missed(after uint64, rooms map[string]uint64) []*entry {
	var out []*entry
	collect := func(room string, after uint64) {
		if r := h.rooms[room]; r != nil {
			out = append(out, r.after(after)...)
		}
	}
	collect("", after)
	for room, joined := range rooms {
		collect(room, max(after, joined))
	}
	slices.SortFunc(out, func(a, b *entry) int { return cmp.Compare(a.pos, b.pos) })
	return out
}

// fifo is a queue of entries by pos.
type fifo struct {
	entries []*entry
	start   int
}

func (f *fifo) len() int      { return len(f.entries) - f.start }
func (f *fifo) first() *entry { return f.entries[f.start] }
func (f *fifo) push(e *entry) { f.entries = append(f.entries, e) }

func (f *fifo) pop() {
	f.entries[f.start] = nil
	if f.start++; f.start > 64 && f.start*2 > len(f.entries) {
		f.entries = slices.Clone(f.entries[f.start:])
		f.start = 0
	}
}

// after gives the entries with a greater pos.
func (f *fifo) after(pos uint64) []*entry {
	live := f.entries[f.start:]
	i, _ := slices.BinarySearchFunc(live, pos+1, func(e *entry, pos uint64) int { return cmp.Compare(e.pos, pos) })
	return live[i:]
}
