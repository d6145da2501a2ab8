package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"switchboard/modules/gateway"
	"switchboard/platform/app"
	"switchboard/platform/apptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs the product with the gateway alone.
func start(t testing.TB, options ...apptest.Option) *apptest.Product {
	t.Helper()
	return apptest.Start(t, []app.Module{gateway.Module}, options...)
}

// fields is a JSON object in the making.
type fields = map[string]any

type sent struct {
	ID         string `json:"id"`
	Event      string `json:"event"`
	Room       string `json:"room"`
	Recipients int    `json:"recipients"`
}

// emit sends an event with the admin key and wants it accepted.
func emit(t testing.TB, p *apptest.Product, event, room string, data any) sent {
	t.Helper()
	body := fields{"event": event, "data": data}
	if room != "" {
		body["room"] = room
	}
	var s sent
	if status := p.Call(http.MethodPost, "/events", body, &s); status != http.StatusCreated {
		t.Fatalf("POST /events: %d", status)
	}
	return s
}

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// plain is a client of /gateway/ws.
type plain struct {
	t      testing.TB
	conn   *websocket.Conn
	frames chan frame
	err    error // why frames was closed
	id     string
	rooms  []string
	back   bool
}

// frame is what the server says.
type frame struct {
	Type      string          `json:"type"`
	ID        string          `json:"id"`
	Event     string          `json:"event"`
	Room      string          `json:"room"`
	Data      json.RawMessage `json:"data"`
	Offset    string          `json:"offset"`
	Ref       int             `json:"ref"`
	OK        bool            `json:"ok"`
	Error     string          `json:"error"`
	Socket    string          `json:"socket"`
	Rooms     []string        `json:"rooms"`
	Recovered bool            `json:"recovered"`
}

// dial opens a plain WebSocket; query pairs follow.
func dial(t testing.TB, p *apptest.Product, pairs ...string) (*plain, *http.Response) {
	t.Helper()
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		q.Add(pairs[i], pairs[i+1])
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(p.URL, "http")+"/gateway/ws?"+q.Encode(), nil)
	if err != nil {
		if resp == nil {
			t.Fatal(err)
		}
		return nil, resp
	}
	conn.SetReadLimit(4 << 20)
	c := &plain{t: t, conn: conn, frames: make(chan frame, 10_000)}
	go func() {
		defer close(c.frames)
		for {
			_, text, err := conn.Read(context.Background())
			if err != nil {
				c.err = err
				return
			}
			var f frame
			if err := json.Unmarshal(text, &f); err != nil {
				t.Errorf("not JSON: %s", text)
				return
			}
			c.frames <- f
		}
	}()
	t.Cleanup(func() { _ = conn.CloseNow() })
	w := c.next()
	if w.Type != "welcome" || w.Socket == "" {
		t.Fatalf("greeted with %+v", w)
	}
	c.id, c.rooms, c.back = w.Socket, w.Rooms, w.Recovered
	return c, resp
}

// connect is dial with the admin key into rooms, and wants to be let in.
func connect(t testing.TB, p *apptest.Product, rooms ...string) *plain {
	t.Helper()
	c, resp := dial(t, p, "key", p.Key, "rooms", strings.Join(rooms, ","))
	if c == nil {
		t.Fatalf("refused: %s", resp.Status)
	}
	return c
}

// next is what the server says next.
func (c *plain) next() frame {
	c.t.Helper()
	select {
	case f, ok := <-c.frames:
		if !ok {
			c.t.Fatalf("the connection ended: %v", c.err)
		}
		return f
	case <-time.After(patience):
		c.t.Fatal("nothing came")
	}
	return frame{}
}

// event is the next one, and must be this.
func (c *plain) event(name string) frame {
	c.t.Helper()
	f := c.next()
	if f.Type != "event" || f.Event != name {
		c.t.Fatalf("got %+v, want the event %s", f, name)
	}
	return f
}

// ask says something and gives the answer, which comes next.
func (c *plain) ask(kind, room string) frame {
	c.t.Helper()
	text, err := json.Marshal(fields{"type": kind, "room": room, "ref": 7})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.conn.Write(c.t.Context(), websocket.MessageText, text); err != nil {
		c.t.Fatal(err)
	}
	f := c.next()
	if f.Ref != 7 {
		c.t.Fatalf("answered with %+v", f)
	}
	return f
}

// quiet checks that nothing has come: what comes after a ping was sent after it.
func (c *plain) quiet() {
	c.t.Helper()
	if f := c.ask("ping", ""); f.Type != "pong" {
		c.t.Fatalf("got %+v, want nothing", f)
	}
}

// ended waits for the end of the connection and gives the reason.
func (c *plain) ended() (code websocket.StatusCode, reason string) {
	c.t.Helper()
	late := time.After(patience)
	for {
		select {
		case _, ok := <-c.frames:
			if ok {
				continue
			}
			var closed websocket.CloseError
			if errors.As(c.err, &closed) {
				return closed.Code, closed.Reason
			}
			return 0, c.err.Error()
		case <-late:
			c.t.Fatal("the connection does not end")
		}
	}
}

// sample reads a file of testdata.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

type page[T any] struct {
	Items []T     `json:"items"`
	Next  *string `json:"next"`
}

// walk reads a list to its end, page by page.
func walk[T any](t testing.TB, p *apptest.Product, path string) (all []T) {
	t.Helper()
	join := "?"
	if strings.Contains(path, "?") {
		join = "&"
	}
	for at, pages := path, 0; ; pages++ {
		var got page[T]
		if status := p.Call(http.MethodGet, at, nil, &got); status != http.StatusOK {
			t.Fatalf("GET %s: %d", at, status)
		}
		if got.Items == nil {
			t.Errorf("GET %s: items is null", at)
		}
		all = append(all, got.Items...)
		if got.Next == nil || *got.Next == "" {
			return all
		}
		if pages > 10_000 {
			t.Fatalf("GET %s does not end", path)
		}
		at = path + join + "cursor=" + url.QueryEscape(*got.Next)
	}
}
