package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/web"
)

func TestPlaygroundIsOnePageUnderAStrictPolicy(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{partOf(func(_ app.Platform, r *web.Router) error { return playgroundHTTP{}.routes(r) })})
	key := p.NewKey(map[string]any{"scopes": []string{"gateway:connect"}})
	resp, page := p.Exchange(p.Request("", http.MethodGet, "/gateway/playground?key="+key, nil))
	policy := resp.Header.Get("Content-Security-Policy")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	for _, want := range []string{"default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "connect-src 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy lacks %s: %s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is open: %s", policy)
	}
	// What the policy would block: handlers and styles in attributes, and files.
	if bad := regexp.MustCompile(`(?i)<[^>]*\s(on[a-z]+|style|src|srcset)=|<link rel="stylesheet"|https?://[^w]`).FindAll(page, -1); len(bad) > 0 {
		t.Errorf("the page is not self-contained: %q", bad)
	}
	if strings.Contains(string(page), key) || strings.Contains(p.Log.String(), key) {
		t.Error("the key is in the page or the log")
	}
	for name, want := range map[string]int{"": http.StatusUnauthorized, p.NewKey(map[string]any{"scopes": []string{"gateway:read"}}): http.StatusForbidden} {
		if status := p.CallAs(name, http.MethodGet, "/gateway/playground", nil, nil); status != want {
			t.Errorf("%d, want %d", status, want)
		}
	}
}

func TestPlaygroundResumesInABrowser(t *testing.T) {
	t.Parallel()
	g := &fakeGateway{conns: map[*websocket.Conn][]string{}}
	p := apptest.Start(t, []app.Module{partOf(func(_ app.Platform, r *web.Router) error { return g.routes(r) })})
	apptest.Chromium(t, "--remote-debugging-port=0", p.URL+"/gateway/playground?rooms=orders,lobby&key="+p.Key)
	came := func(n int) (q url.Values) {
		apptest.Eventually(t, func() string {
			g.mu.Lock()
			defer g.mu.Unlock()
			if len(g.came) < n || len(g.conns) == 0 {
				return fmt.Sprintf("the page has connected %d times", len(g.came))
			}
			q = g.came[n-1]
			return ""
		})
		return q
	}
	if q := came(1); q.Get("key") != p.Key || q.Get("rooms") != "orders,lobby" || q.Get("offset") != "" {
		t.Errorf("the page came with %v", q["rooms"])
	}
	if n := g.emit(t.Context(), "order.created", "orders", `{"orderId":"cfa3"}`); n != 1 {
		t.Errorf("%d pages got the event", n)
	}
	g.cut(websocket.StatusGoingAway, "server is stopping")
	if q := came(2); q.Get("rooms") != "orders,lobby" || q.Get("offset") != "1" {
		t.Errorf("the page came back with %v and offset %q", q["rooms"], q.Get("offset"))
	}
}

// fakeGateway speaks what the page expects.
type fakeGateway struct {
	mu      sync.Mutex
	head    int
	conns   map[*websocket.Conn][]string // and their rooms
	history []string
	came    []url.Values // with what each connection was asked for
}

func (g *fakeGateway) routes(r *web.Router) error {
	r.Handle(web.Op{Method: http.MethodGet, Path: "/gateway/ws", Public: true, Hidden: true, Stream: true}, http.HandlerFunc(g.socket))
	r.Handle(web.Op{Method: http.MethodPost, Path: "/events", Scope: "gateway:publish", Hidden: true, Tag: "gateway"}, http.HandlerFunc(g.publish))
	return playgroundHTTP{}.routes(r)
}

func (g *fakeGateway) socket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	ctx := context.WithoutCancel(r.Context())
	q := r.URL.Query()
	rooms := q["room"]
	if list := q.Get("rooms"); list != "" {
		rooms = append(rooms, strings.Split(list, ",")...)
	}
	g.mu.Lock()
	g.came = append(g.came, q)
	after := -1
	if _, err := fmt.Sscan(q.Get("offset"), &after); err != nil {
		after = -1
	}
	g.say(ctx, conn, map[string]any{"type": "welcome", "socket": "8Kz0cQ3vXyT1bq2uAAAB", "rooms": rooms, "offset": fmt.Sprint(g.head), "recovered": after >= 0})
	if after >= 0 {
		for _, text := range g.history[min(after, len(g.history)):] {
			_ = conn.Write(ctx, websocket.MessageText, []byte(text))
		}
	}
	g.conns[conn] = rooms
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.conns, conn)
		g.mu.Unlock()
		_ = conn.CloseNow()
	}()
	for {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return
		}
		g.hear(ctx, conn, text)
	}
}

func (g *fakeGateway) hear(ctx context.Context, conn *websocket.Conn, text []byte) {
	var m struct {
		Type, Room string
		Ref        any
	}
	if json.Unmarshal(text, &m) != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch m.Type {
	case "ping":
		g.say(ctx, conn, map[string]any{"type": "pong", "offset": fmt.Sprint(g.head)})
	case "join":
		if m.Room == "forbidden" {
			g.say(ctx, conn, map[string]any{"type": "ack", "ref": m.Ref, "ok": false, "error": "not allowed"})
			return
		}
		g.conns[conn] = append(g.conns[conn], m.Room)
		g.say(ctx, conn, map[string]any{"type": "ack", "ref": m.Ref, "ok": true, "room": m.Room})
	case "leave":
		g.conns[conn] = slices.DeleteFunc(g.conns[conn], func(r string) bool { return r == m.Room })
		g.say(ctx, conn, map[string]any{"type": "ack", "ref": m.Ref, "ok": true, "room": m.Room})
	}
}

func (g *fakeGateway) say(ctx context.Context, conn *websocket.Conn, v any) {
	if text, err := json.Marshal(v); err == nil {
		_ = conn.Write(ctx, websocket.MessageText, text)
	}
}

func (g *fakeGateway) publish(w http.ResponseWriter, r *http.Request) {
	var e struct {
		Event string          `json:"event"`
		Room  string          `json:"room"`
		Data  json.RawMessage `json:"data"`
	}
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil || e.Event == "connect" {
		web.Problem(w, r, http.StatusUnprocessableEntity, "the event cannot be sent")
		return
	}
	web.WriteJSON(w, http.StatusCreated, map[string]any{"id": "x", "event": e.Event, "room": e.Room, "recipients": g.emit(r.Context(), e.Event, e.Room, string(e.Data))})
}

// emit sends an event, data as it stands, and counts who gets it.
func (g *fakeGateway) emit(ctx context.Context, event, room, data string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.head++
	where := ""
	if room != "" {
		where = fmt.Sprintf(`"room":%q,`, room)
	}
	text := fmt.Sprintf(`{"type":"event","id":"0197%d","event":%q,%s"data":%s,"offset":"%d"}`, g.head, event, where, data, g.head)
	g.history = append(g.history, text)
	for conn, rooms := range g.conns {
		if room == "" || slices.Contains(rooms, room) {
			_ = conn.Write(ctx, websocket.MessageText, []byte(text))
			n++
		}
	}
	return n
}

// cut ends all connections.
func (g *fakeGateway) cut(code websocket.StatusCode, reason string) {
	g.mu.Lock()
	conns := make([]*websocket.Conn, 0, len(g.conns))
	for conn := range g.conns {
		conns = append(conns, conn)
	}
	g.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close(code, reason)
	}
}
