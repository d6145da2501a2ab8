package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// socketHTTP serves
//
//	GET    /gateway/rooms        list rooms
//	GET    /gateway/rooms/{room} who is in a room
//	GET    /gateway/sockets      list sockets
//	DELETE /gateway/sockets/{id} disconnect one
type socketHTTP struct{ sockets *socketService }

func (h *socketHTTP) routes(r *web.Router) {
	web.Register(r, web.Op{ID: "gateway-list-rooms", Method: http.MethodGet, Path: "/gateway/rooms", Tag: tag,
		Summary: "List rooms", Description: "Rooms that hold a socket on any instance, by name.", Scope: "gateway:read", Errors: []int{422},
	}, h.listRooms)
	web.Register(r, web.Op{ID: "gateway-get-room", Method: http.MethodGet, Path: "/gateway/rooms/{room}", Tag: tag,
		Summary: "List who is in a room", Scope: "gateway:read", Errors: []int{404, 422},
	}, h.getRoom)
	web.Register(r, web.Op{ID: "gateway-list-sockets", Method: http.MethodGet, Path: "/gateway/sockets", Tag: tag,
		Summary: "List sockets", Description: "Of all instances, by id.", Scope: "gateway:read", Errors: []int{422},
	}, h.list)
	web.Register(r, web.Op{ID: "gateway-disconnect-socket", Method: http.MethodDelete, Path: "/gateway/sockets/{id}", Tag: tag,
		Summary: "Disconnect a socket", Scope: "gateway:publish", Errors: []int{404},
	}, h.disconnect)
}

// pageInput is how a list is walked through.
type PageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"Entries per page."`
	Cursor string `query:"cursor" doc:"The next of the page before."`
}

// listQuestion asks the instances for a part of a list; listAnswer is what one
// says.
type listQuestion struct {
	Room  string `json:"room,omitempty"`
	After string `json:"after"`
	Limit int    `json:"limit"`
}

type listAnswer[T any] struct {
	Items []T  `json:"items"`
	More  bool `json:"more"`
}

// maxAnswer keeps an answer below what a message of the bus may hold.
const maxAnswer = 256 << 10

// answers is what this instance says when the cluster asks.
func (s *socketService) answers(_ context.Context, kind string, body json.RawMessage) (any, error) {
	var q listQuestion
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, errs.New(errs.Invalid, "unreadable question")
	}
	switch kind {
	case "rooms":
		return fit(s.hub.listRooms(q.After, q.Limit+1), q.Limit), nil
	case "sockets":
		return fit(s.list(q), q.Limit), nil
	case "count":
		return s.hub.count(q.Room), nil
	case "disconnect":
		return s.cut(func(sock *socket) bool { return sock.id == q.After }, reasonAdmin), nil
	}
	return nil, errs.New(errs.Invalid, "no such question")
}

// SocketInfo is a socket as it is listed.
type SocketInfo struct {
	ID          string   `json:"id"`
	User        string   `json:"user,omitempty" pii:"user_id"`
	Rooms       []string `json:"rooms" pii:"room"`
	Transport   string   `json:"transport" enum:"websocket,polling,plain,sse"`
	Remote      string   `json:"remote" pii:"ip"`
	ConnectedAt web.Time `json:"connected_at"`
	Queued      int      `json:"queued_bytes" doc:"Bytes that wait for it."`
	Instance    string   `json:"instance" doc:"The instance it is connected to."`
}

// list gives the sockets of this instance, one more than asked for.
func (s *socketService) list(q listQuestion) []SocketInfo {
	picked, rooms := s.hub.list(q.Room, q.After, q.Limit+1)
	out := make([]SocketInfo, len(picked))
	for i, sock := range picked {
		out[i] = SocketInfo{ID: sock.id, User: sock.grant.User, Rooms: rooms[i], Transport: sock.out.transport(), Remote: sock.remote,
			ConnectedAt: web.Time(sock.since), Queued: sock.out.queued(), Instance: s.cluster.self}
	}
	return out
}

// fit shortens a list to a page, and to what an answer may hold.
func fit[T any](items []T, limit int) listAnswer[T] {
	out := listAnswer[T]{Items: items, More: len(items) > limit}
	out.Items = items[:min(limit, len(items))]
	for n := len(out.Items); n > 1; n = len(out.Items) {
		if text, err := json.Marshal(out.Items); err != nil || len(text) <= maxAnswer {
			break
		}
		out.Items, out.More = out.Items[:n/2], true
	}
	return out
}

// gather asks all instances for a part of a list and merges it by key.
func gather[T any](ctx context.Context, c *cluster, kind string, q listQuestion, key func(*T) string) (items []T, more bool, err error) {
	answers, err := c.ask(ctx, kind, q)
	if err != nil {
		return nil, false, err
	}
	end := "" // what comes after it is not complete
	for _, text := range answers {
		var a listAnswer[T]
		if json.Unmarshal(text, &a) != nil {
			continue // of another version
		}
		items = append(items, a.Items...)
		if n := len(a.Items); a.More && n > 0 {
			if last := key(&a.Items[n-1]); end == "" || last < end {
				end = last
			}
		}
	}
	slices.SortStableFunc(items, func(a, b T) int { return strings.Compare(key(&a), key(&b)) })
	if end != "" {
		items = slices.DeleteFunc(items, func(item T) bool { return key(&item) > end })
	}
	return items, end != "", nil
}

// page cuts what was gathered to a page with its cursor. It can be longer than
// the limit only by what merging adds to its last entry.
func page[T any](items []T, more bool, limit int, key func(*T) string) web.Page[T] {
	if len(items) > limit {
		items, more = items[:limit], true
	}
	next := ""
	if more && len(items) > 0 {
		next = web.Cursor(key(&items[len(items)-1]))
	}
	return web.NewPage(items, next)
}

func (in *PageInput) question(room string) (q listQuestion, err error) {
	q = listQuestion{Room: room, Limit: in.Limit}
	if in.Cursor != "" && web.ParseCursor(in.Cursor, &q.After) != nil {
		return q, errs.InvalidFields("the cursor is not one of this list", errs.Field{Location: "query.cursor", Message: "is not a cursor that this list gave"})
	}
	return q, nil
}

func roomKey(r *RoomInfo) string     { return r.Room }
func socketKey(s *SocketInfo) string { return s.ID }

func (h *socketHTTP) listRooms(ctx context.Context, in *PageInput) (*struct{ Body web.Page[RoomInfo] }, error) {
	q, err := in.question("")
	if err != nil {
		return nil, err
	}
	found, more, err := gather(ctx, h.sockets.cluster, "rooms", q, roomKey)
	if err != nil {
		return nil, err
	}
	var rooms []RoomInfo
	for _, r := range found {
		if n := len(rooms); n > 0 && rooms[n-1].Room == r.Room {
			rooms[n-1].Sockets += r.Sockets
			continue
		}
		rooms = append(rooms, r)
	}
	return &struct{ Body web.Page[RoomInfo] }{page(rooms, more, in.Limit, roomKey)}, nil
}

func (h *socketHTTP) list(ctx context.Context, in *PageInput) (*struct{ Body web.Page[SocketInfo] }, error) {
	body, err := h.sockets.find(ctx, "", in)
	return &struct{ Body web.Page[SocketInfo] }{body}, err
}

func (s *socketService) find(ctx context.Context, room string, in *PageInput) (body web.Page[SocketInfo], err error) {
	q, err := in.question(room)
	if err != nil {
		return body, err
	}
	found, more, err := gather(ctx, s.cluster, "sockets", q, socketKey)
	if err != nil {
		return body, err
	}
	return page(found, more, in.Limit, socketKey), nil
}

type getRoomInput struct {
	Room string `path:"room" pii:"room"`
	PageInput
}

// RoomPage is a room and who is in it.
type RoomPage struct {
	Room    string `json:"room" pii:"room"`
	Sockets int    `json:"sockets" doc:"How many are in it, on all instances."`
	web.Page[SocketInfo]
}

func (h *socketHTTP) getRoom(ctx context.Context, in *getRoomInput) (*struct{ Body RoomPage }, error) {
	answers, err := h.sockets.cluster.ask(ctx, "count", listQuestion{Room: in.Room})
	if err != nil {
		return nil, err
	}
	out := RoomPage{Room: in.Room}
	for _, text := range answers {
		n := 0
		if json.Unmarshal(text, &n) == nil {
			out.Sockets += n
		}
	}
	if out.Sockets == 0 {
		return nil, errs.New(errs.NotFound, "nobody is in this room")
	}
	out.Page, err = h.sockets.find(ctx, in.Room, &in.PageInput)
	return &struct{ Body RoomPage }{out}, err
}

type disconnectInput struct {
	ID string `path:"id"`
}

func (h *socketHTTP) disconnect(ctx context.Context, in *disconnectInput) (*struct{}, error) {
	answers, err := h.sockets.cluster.ask(ctx, "disconnect", listQuestion{After: in.ID})
	if err != nil {
		return nil, err
	}
	for _, text := range answers {
		n := 0
		if json.Unmarshal(text, &n) == nil && n > 0 {
			return nil, nil
		}
	}
	return nil, errs.New(errs.NotFound, "no such socket")
}
