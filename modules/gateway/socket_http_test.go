package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/store/storetest"
)

func decode(text []byte, v any) bool { return json.Unmarshal(text, v) == nil }

type socketInfo struct {
	ID        string   `json:"id"`
	User      string   `json:"user"`
	Rooms     []string `json:"rooms"`
	Transport string   `json:"transport"`
	Instance  string   `json:"instance"`
}

type token struct {
	ID    string   `json:"id"`
	Token string   `json:"token"`
	Rooms []string `json:"rooms"`
}

func newToken(t testing.TB, p *apptest.Product, key string, rooms ...string) (tk token) {
	t.Helper()
	if status := p.CallAs(key, http.MethodPost, "/gateway/tokens", fields{"rooms": rooms, "user": "anna"}, &tk); status != http.StatusCreated {
		t.Fatalf("make a token: %d", status)
	}
	return tk
}

func TestWhoIsConnectedCanBeSeenAndDisconnected(t *testing.T) {
	t.Parallel()
	p := start(t)
	var all []*plain
	for i := range 7 {
		all = append(all, connect(t, p, "all", fmt.Sprintf("r%d", i%2)))
	}
	tk := newToken(t, p, p.Key, "all")
	anna, _ := dial(t, p, "token", tk.Token, "rooms", "all")
	type room struct {
		Room    string
		Sockets int
	}
	if got := walk[room](t, p, "/gateway/rooms?limit=1"); fmt.Sprint(got) != "[{all 8} {r0 4} {r1 3}]" {
		t.Errorf("rooms: %v", got)
	}
	sockets := walk[socketInfo](t, p, "/gateway/sockets?limit=3")
	if len(sockets) != 8 || !slices.IsSortedFunc(sockets, func(a, b socketInfo) int { return strings.Compare(a.ID, b.ID) }) {
		t.Errorf("sockets: %+v", sockets)
	}
	for _, s := range sockets {
		if s.Transport != "plain" || s.Instance == "" || len(s.Rooms) == 0 || s.User != "" && s.ID != anna.id {
			t.Errorf("socket: %+v", s)
		}
	}
	var r struct {
		Room    string
		Sockets int
		Items   []socketInfo
	}
	if status := p.Call(http.MethodGet, "/gateway/rooms/r1", nil, &r); status != http.StatusOK || r.Sockets != 3 || len(r.Items) != 3 || r.Room != "r1" {
		t.Errorf("%d %+v", status, r)
	}
	if status := p.Call(http.MethodGet, "/gateway/rooms/none", nil, nil); status != http.StatusNotFound {
		t.Errorf("an empty room: %d", status)
	}
	if status := p.Call(http.MethodDelete, "/gateway/sockets/"+all[0].id, nil, nil); status != http.StatusNoContent {
		t.Errorf("disconnect: %d", status)
	}
	if code, reason := all[0].ended(); code != 1008 || reason != "disconnected by an administrator" {
		t.Errorf("ended by %d %q", code, reason)
	}
	apptest.Eventually(t, func() string {
		if status := p.Call(http.MethodDelete, "/gateway/sockets/"+all[0].id, nil, nil); status != http.StatusNotFound {
			return fmt.Sprint("still there: ", status)
		}
		return ""
	})
	if n := len(walk[socketInfo](t, p, "/gateway/sockets")); n != 7 {
		t.Errorf("%d are left", n)
	}
}

func TestATokenOpensItsRoomsAlone(t *testing.T) {
	t.Parallel()
	p := start(t)
	tk := newToken(t, p, p.Key, "mine", "orders.*")
	c, _ := dial(t, p, "token", tk.Token, "rooms", "mine")
	for room, ok := range map[string]bool{"orders.1": true, "orders.": true, "order": false, "yours": false, "": false, strings.Repeat("x", 257): false} {
		if a := c.ask("join", room); a.OK != ok || ok == (a.Error != "") {
			t.Errorf("join %q: %+v", room, a)
		}
	}
	for name, c := range map[string]struct {
		pairs  []string
		status int
	}{
		"no credential":  {nil, 401},
		"a wrong key":    {[]string{"key", "sb_aaaaaaaaaaaa_" + strings.Repeat("a", 43)}, 401},
		"a wrong token":  {[]string{"token", tk.Token[:len(tk.Token)-4] + "AAAA"}, 401},
		"garbage":        {[]string{"token", "ab.cd.ef"}, 401},
		"a foreign room": {[]string{"token", tk.Token, "rooms", "mine,yours"}, 403},
		"a bad room":     {[]string{"token", tk.Token, "room", strings.Repeat("x", 300)}, 403},
		"a lesser key":   {[]string{"key", p.NewKey(fields{"scopes": []string{"gateway:read"}})}, 403},
	} {
		if _, resp := dial(t, p, c.pairs...); resp.StatusCode != c.status {
			t.Errorf("%s: %s, want %d", name, resp.Status, c.status)
		}
		q := ""
		for i := 0; i < len(c.pairs); i += 2 {
			q += "&" + c.pairs[i] + "=" + c.pairs[i+1]
		}
		if resp, text := p.Exchange(p.Request("", http.MethodGet, "/gateway/sse?"+q, nil)); resp.StatusCode != c.status {
			t.Errorf("%s over SSE: %s %s, want %d", name, resp.Status, text, c.status)
		}
	}
}

func TestARevokedCredentialDisconnects(t *testing.T) {
	t.Parallel()
	p := start(t)
	issuer := p.NewKey(fields{"name": "issuer", "scopes": []string{"gateway:publish"}})
	own, others := newToken(t, p, issuer, "r"), newToken(t, p, p.Key, "r")
	a, _ := dial(t, p, "token", own.Token)
	b, _ := dial(t, p, "token", others.Token)
	if status := p.Call(http.MethodDelete, "/gateway/tokens/"+others.ID, nil, nil); status != http.StatusNoContent {
		t.Fatalf("revoke: %d", status)
	}
	if code, reason := b.ended(); code != 1008 || reason != "credential no longer valid" {
		t.Errorf("ended by %d %q", code, reason)
	}
	if _, resp := dial(t, p, "token", others.Token); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a revoked token: %s", resp.Status)
	}
	a.quiet()
	id := strings.Split(issuer, "_")[1]
	if status := p.Call(http.MethodDelete, "/admin/keys/"+id, nil, nil); status != http.StatusNoContent {
		t.Fatalf("revoke the key: %d", status)
	}
	if code, reason := a.ended(); code != 1008 || reason != "credential no longer valid" {
		t.Errorf("ended by %d %q", code, reason)
	}
}

func TestAFloodOfJoinsIsHeldBack(t *testing.T) {
	t.Parallel()
	p := start(t, apptest.Env("APP_GATEWAY_JOIN_RATE=0.001", "APP_GATEWAY_MAX_ROOMS=3"))
	c, d := connect(t, p), connect(t, p, "1", "2", "3")
	if a := c.ask("join", "a"); !a.OK {
		t.Errorf("the first: %+v", a)
	}
	if a := c.ask("join", "b"); a.OK || a.Error != "too many joins, try again later" {
		t.Errorf("the next: %+v", a)
	}
	if a := d.ask("join", "4"); a.OK || a.Error != "too many rooms" {
		t.Errorf("a fourth room: %+v", a)
	}
	if _, resp := dial(t, p, "key", p.Key, "rooms", "1,2,3,4"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("four rooms at once: %s", resp.Status)
	}
}

func TestInstancesAreOne(t *testing.T) {
	t.Parallel()
	nats, database := bustest.External(t), storetest.Postgres(t)
	shared := []apptest.Option{apptest.Args("--nats-url="+nats, "--database-url="+database),
		apptest.Env("APP_MASTER_KEY=one master key for both", "APP_ADMIN_KEY=one-admin-key-for-both-of-them")}
	a, b := start(t, shared...), start(t, shared...)
	x, y := connect(t, a, "r"), connect(t, b, "r", "s")
	if n := len(walk[socketInfo](t, a, "/gateway/sockets?limit=1")); n != 2 {
		t.Errorf("%d sockets are known: an instance is ready before it knows the others", n)
	}
	for i := range 50 {
		p := []*apptest.Product{a, b}[i%2]
		if s := emit(t, p, "n", "r", i); s.Recipients != 2 {
			t.Fatalf("event %d went to %d", i, s.Recipients)
		}
	}
	for i := range 50 {
		for _, c := range []*plain{x, y} {
			if f := c.event("n"); string(f.Data) != fmt.Sprint(i) {
				t.Fatalf("%s instead of %d", f.Data, i)
			}
		}
	}
	type room struct {
		Room    string
		Sockets int
	}
	if got := walk[room](t, b, "/gateway/rooms"); fmt.Sprint(got) != "[{r 2} {s 1}]" {
		t.Errorf("rooms: %v", got)
	}
	if status := a.Call(http.MethodDelete, "/gateway/sockets/"+y.id, nil, nil); status != http.StatusNoContent {
		t.Errorf("disconnect at the other: %d", status)
	}
	y.ended()
	tk := newToken(t, a, a.Key, "r")
	z, _ := dial(t, b, "token", tk.Token)
	if status := a.Call(http.MethodDelete, "/gateway/tokens/"+tk.ID, nil, nil); status != http.StatusNoContent {
		t.Errorf("revoke at the other: %d", status)
	}
	z.ended()
	b.Stop()
	if s := emit(t, a, "alone", "r", nil); s.Recipients != 1 {
		t.Errorf("after the other stopped: %d", s.Recipients)
	}
	x.event("alone")
}

func TestWhatWasMissedComesAfterALostConnection(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := connect(t, p, "r")
	emit(t, p, "before", "r", nil)
	last := c.event("before").Offset
	_ = c.conn.CloseNow()
	emit(t, p, "missed", "r", 1)
	emit(t, p, "other", "s", 1)
	emit(t, p, "missed", "", 2)
	p.Restart()
	emit(t, p, "missed", "r", 3)
	again, _ := dial(t, p, "key", p.Key, "rooms", "r", "offset", last)
	if !again.back {
		t.Error("not recovered")
	}
	for i := range 3 {
		if f := again.event("missed"); string(f.Data) != fmt.Sprint(i+1) {
			t.Errorf("%s instead of %d", f.Data, i+1)
		}
	}
	again.quiet()
	for _, offset := range []string{"1", "zzz!", "-"} {
		lost, _ := dial(t, p, "key", p.Key, "rooms", "r", "offset", offset)
		if lost.back || lost.next().Type != "gap" {
			t.Errorf("offset %s: the hole is not told", offset)
		}
		lost.quiet()
	}
}
