package gateway

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// receiver takes what is delivered to a socket. Neither method waits.
type receiver interface {
	// deliver queues an event.
	deliver(*delivery)
	// cut disconnects for a reason that the other side is told where its
	// protocol can say it.
	cut(reason string)
	// queued is how many bytes wait.
	queued() int
	// transport is what the socket speaks now.
	transport() string
}

// socket is someone who receives events here.
type socket struct {
	id      string
	remote  string
	grant   Grant
	since   time.Time
	out     receiver
	session *session // nil where nothing is to be recovered
	joins   *rate.Limiter

	// Of the hub:
	rooms  map[string]uint64 // with the place of the last event before the join
	gone   bool
	wait   bool        // it was not told yet that it is connected
	held   []*delivery // what came while it waits
	behind bool        // it still gets what it missed
	has    uint64      // place up to which another instance, ahead of this one, has delivered
	place  uint64      // while it is behind: it has what came up to here
}

// hub knows the sockets of this instance and their rooms, and hands events to
// them. All events pass it one after another, so each socket gets them in order.
type hub struct {
	maxRooms int
	maxQueue int // bytes that may wait for a socket
	now      func() time.Time
	catching sync.WaitGroup

	mu      sync.Mutex
	head    uint64 // place of the last event
	sockets map[string]*socket
	rooms   map[string]*members
	all     members
	history *history
}

func newHub(maxRooms, maxQueue int, h *history, now func() time.Time) *hub {
	return &hub{maxRooms: maxRooms, maxQueue: maxQueue, now: now, history: h, sockets: map[string]*socket{}, rooms: map[string]*members{}}
}

// members of a room, in no order; at finds a socket to remove it.
type members struct {
	list []*socket
	at   map[*socket]int
}

func (m *members) add(s *socket) {
	if m.at == nil {
		m.at = map[*socket]int{}
	}
	m.at[s] = len(m.list)
	m.list = append(m.list, s)
}

func (m *members) remove(s *socket) {
	i, ok := m.at[s]
	if !ok {
		return
	}
	last := m.list[len(m.list)-1]
	m.list[i], m.at[last] = last, i
	m.list[len(m.list)-1] = nil
	m.list = m.list[:len(m.list)-1]
	delete(m.at, s)
}

// deliver remembers an event and hands it to its sockets. It returns their ids
// if asked for, and their number.
func (h *hub) deliver(e *entry, wantIDs bool) (ids []string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.pos <= h.head {
		return nil, 0 // the bus went back to one it had handed over
	}
	h.head = e.pos
	h.history.add(e, h.now())
	to := &h.all
	if e.room != "" {
		if to = h.rooms[e.room]; to == nil {
			return nil, 0
		}
	}
	if len(to.list) == 0 {
		return nil, 0
	}
	d := &delivery{entry: e}
	if wantIDs {
		ids = make([]string, len(to.list))
	}
	for i, s := range to.list {
		switch {
		case s.behind || e.pos <= s.has:
		case s.wait:
			s.held = append(s.held, d)
		default:
			s.out.deliver(d)
		}
		if wantIDs {
			ids[i] = s.id
		}
	}
	return ids, len(to.list)
}

// remember is deliver while nobody is here yet.
func (h *hub) remember(e *entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.head = max(h.head, e.pos)
	h.history.add(e, h.now())
}

// begin ends the remembering: what comes next comes after place.
func (h *hub) begin(place uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.head = max(h.head, place)
	h.history.begin(h.head)
}

// place is where the next event comes after.
func (h *hub) place() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.head
}

// enter adds a socket to all and to its first rooms, before it is told that it
// is connected: open gives it what came since. One of the same id that is still
// here is cut: the other end has come back by another way.
func (h *hub) enter(s *socket, rooms []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	places := make(map[string]uint64, len(rooms))
	for _, room := range rooms {
		places[room] = h.head
	}
	h.add(s, places)
}

// comeback is what a socket that lost its connection asks for: its rooms, and
// what came after a place.
type comeback struct {
	rooms map[string]uint64
	after uint64
	// whole says whether the history reaches back far enough.
	whole func(*history) bool
}

// resume is enter for a socket that comes back: open gives it what it missed. If
// it is false the socket stays outside: the history does not reach back far
// enough any more.
func (h *hub) resume(s *socket, c *comeback) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !c.whole(h.history) {
		return false
	}
	h.add(s, c.rooms)
	s.behind, s.place, s.has = true, c.after, c.after
	return true
}

// open begins to deliver to a socket that was told that it is connected.
func (h *hub) open(s *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.wait = false
	for _, d := range s.held {
		s.out.deliver(d)
	}
	s.held = nil
	if s.behind && h.advance(s) {
		h.catching.Go(func() { h.catchUp(s) })
	}
}

// resumable tells whether resume would succeed now. A place may be somewhat
// ahead, of an instance that is faster.
func (h *hub) resumable(c *comeback) bool {
	const ahead = 1000 * frameItems
	h.mu.Lock()
	defer h.mu.Unlock()
	return c.whole(h.history) && c.after <= h.head+ahead
}

// advance gives a socket that is behind as much of what it missed as may wait
// for it, and tells whether it still is behind.
func (h *hub) advance(s *socket) bool {
	room := h.maxQueue/2 - s.out.queued()
	for _, e := range h.history.missed(s.place, s.rooms) {
		if room <= 0 {
			s.place = e.pos - 1
			return true
		}
		s.out.deliver(&delivery{entry: e.unpacked()})
		room -= e.delivered()
	}
	s.behind = false
	return false
}

// catchUp advances a socket as fast as it takes what it gets, until it is level
// with the others or gone. What comes meanwhile is in the history, too.
func (h *hub) catchUp(s *socket) {
	const look = 5 * time.Millisecond
	tick := time.NewTicker(look)
	defer tick.Stop()
	for range tick.C {
		if s.out.queued() > h.maxQueue/4 {
			h.mu.Lock()
			gone := s.gone
			h.mu.Unlock()
			if gone {
				return
			}
			continue
		}
		h.mu.Lock()
		more := !s.gone
		if more && !h.history.follows(s.place) {
			s.out.cut(reasonGap)
			more = false
		}
		more = more && h.advance(s)
		h.mu.Unlock()
		if !more {
			return
		}
	}
}

func (h *hub) add(s *socket, rooms map[string]uint64) {
	if old := h.sockets[s.id]; old != nil {
		h.remove(old)
		old.out.cut(reasonReplaced)
	}
	h.sockets[s.id] = s
	s.wait = true
	h.all.add(s)
	s.rooms = rooms
	for room := range rooms {
		h.roomOf(room).add(s)
	}
}

func (h *hub) roomOf(name string) *members {
	m := h.rooms[name]
	if m == nil {
		m = &members{}
		h.rooms[name] = m
	}
	return m
}

// leaveAll removes a socket that is gone, if it is still here.
func (h *hub) leaveAll(s *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sockets[s.id] == s {
		h.remove(s)
	}
}

func (h *hub) remove(s *socket) {
	s.gone = true
	delete(h.sockets, s.id)
	h.all.remove(s)
	for room := range s.rooms {
		h.part(s, room)
	}
}

func (h *hub) part(s *socket, room string) {
	m := h.rooms[room]
	if m == nil {
		return
	}
	if m.remove(s); len(m.list) == 0 {
		delete(h.rooms, room)
	}
}

// join puts a socket into a room. It returns its rooms after it, and "" or why
// not.
func (h *hub) join(s *socket, room string) (rooms map[string]uint64, fault string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, in := s.rooms[room]; !in && !s.gone {
		if len(s.rooms) >= h.maxRooms {
			return nil, "too many rooms"
		}
		if s.rooms == nil {
			s.rooms = map[string]uint64{}
		}
		s.rooms[room] = h.head
		h.roomOf(room).add(s)
	}
	return maps.Clone(s.rooms), ""
}

// leave takes a socket out of a room, if it is in it.
func (h *hub) leave(s *socket, room string) (rooms map[string]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, in := s.rooms[room]; in {
		delete(s.rooms, room)
		h.part(s, room)
	}
	return maps.Clone(s.rooms)
}

// find gives the sockets that match.
func (h *hub) find(match func(*socket) bool) (out []*socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sockets {
		if match(s) {
			out = append(out, s)
		}
	}
	return out
}

// list gives up to limit sockets with ids after after, in order, of a room or
// of all, and the rooms of each.
func (h *hub) list(room, after string, limit int) (picked []*socket, rooms [][]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := &h.all
	if room != "" {
		if from = h.rooms[room]; from == nil {
			from = &members{}
		}
	}
	for _, s := range from.list {
		if s.id > after {
			picked = append(picked, s)
		}
	}
	slices.SortFunc(picked, func(a, b *socket) int { return cmp.Compare(a.id, b.id) })
	picked = picked[:min(limit, len(picked))]
	rooms = make([][]string, len(picked))
	for i, s := range picked {
		rooms[i] = slices.Sorted(maps.Keys(s.rooms))
	}
	return picked, rooms
}

// RoomInfo is a room as it is listed.
type RoomInfo struct {
	Room    string `json:"room" pii:"room"`
	Sockets int    `json:"sockets"`
}

// listRooms gives up to limit rooms with names after after, in order.
func (h *hub) listRooms(after string, limit int) []RoomInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []RoomInfo
	for name, m := range h.rooms {
		if name > after {
			out = append(out, RoomInfo{name, len(m.list)})
		}
	}
	slices.SortFunc(out, func(a, b RoomInfo) int { return strings.Compare(a.Room, b.Room) })
	return out[:min(limit, len(out))]
}

// count is how many sockets are in a room here; "" is all.
func (h *hub) count(room string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if room == "" {
		return len(h.all.list)
	}
	if m := h.rooms[room]; m != nil {
		return len(m.list)
	}
	return 0
}
