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

	rooms map[string]uint64 // with the place of the last event before the join; of the hub
	gone  bool              // of the hub
}

// hub knows the sockets of this instance and their rooms, and hands events to
// them. All events pass it one after another, so each socket gets them in order.
type hub struct {
	maxRooms int
	now      func() time.Time

	mu      sync.Mutex
	head    uint64 // place of the last event
	sockets map[string]*socket
	rooms   map[string]*members
	all     members
	history *history
}

func newHub(maxRooms int, h *history, now func() time.Time) *hub {
	return &hub{maxRooms: maxRooms, now: now, history: h, sockets: map[string]*socket{}, rooms: map[string]*members{}}
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
		s.out.deliver(d)
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

// enter adds a socket to all and to its first rooms. One of the same id that is
// still here is cut: the other end has come back by another way.
func (h *hub) enter(s *socket, rooms []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	places := make(map[string]uint64, len(rooms))
	for _, room := range rooms {
		places[room] = h.head
	}
	h.add(s, places)
}

// resume is enter for a socket that comes back after a place: it gets what it
// missed, then what comes. Ok is false, and the socket stays outside, when whole
// says that the history does not reach back far enough.
func (h *hub) resume(s *socket, rooms map[string]uint64, after uint64, whole func(*history) bool) (missed int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !whole(h.history) {
		return 0, false
	}
	h.add(s, rooms)
	entries := h.history.missed(after, rooms)
	for _, e := range entries {
		s.out.deliver(&delivery{entry: e})
	}
	return len(entries), true
}

// reaches tells what whole says of the history now.
func (h *hub) reaches(whole func(*history) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return whole(h.history)
}

func (h *hub) add(s *socket, rooms map[string]uint64) {
	if old := h.sockets[s.id]; old != nil {
		h.remove(old)
		old.out.cut(reasonReplaced)
	}
	h.sockets[s.id] = s
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

// leaveAll removes a socket that is gone. It tells whether it was here.
func (h *hub) leaveAll(s *socket) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.gone || h.sockets[s.id] != s {
		return false
	}
	h.remove(s)
	return true
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

// SocketInfo is a socket as it is listed.
type SocketInfo struct {
	ID          string    `json:"id"`
	User        string    `json:"user,omitempty" pii:"user_id"`
	Rooms       []string  `json:"rooms" pii:"room"`
	Transport   string    `json:"transport" enum:"websocket,polling,plain,sse"`
	Remote      string    `json:"remote" pii:"ip"`
	ConnectedAt time.Time `json:"connected_at"`
	Queued      int       `json:"queued_bytes" doc:"Bytes that wait for it."`
	Instance    string    `json:"instance" doc:"The instance it is connected to."`
}

// RoomInfo is a room as it is listed.
type RoomInfo struct {
	Room    string `json:"room" pii:"room"`
	Sockets int    `json:"sockets"`
}

// list gives up to limit sockets with ids after after, in order, of a room or
// of all.
func (h *hub) list(room, after string, limit int) []SocketInfo {
	h.mu.Lock()
	from := &h.all
	if room != "" {
		if from = h.rooms[room]; from == nil {
			from = &members{}
		}
	}
	var picked []*socket
	for _, s := range from.list {
		if s.id > after {
			picked = append(picked, s)
		}
	}
	slices.SortFunc(picked, func(a, b *socket) int { return cmp.Compare(a.id, b.id) })
	picked = picked[:min(limit, len(picked))]
	out := make([]SocketInfo, len(picked))
	for i, s := range picked {
		out[i] = SocketInfo{ID: s.id, User: s.grant.User, Rooms: slices.Sorted(maps.Keys(s.rooms)), Remote: s.remote, ConnectedAt: s.since}
	}
	h.mu.Unlock()
	for i, s := range picked {
		out[i].Transport, out[i].Queued = s.out.transport(), s.out.queued()
	}
	return out
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
