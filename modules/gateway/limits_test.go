package gateway_test

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
)

// clock is a time that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func TestAnExpiredTokenDisconnects(t *testing.T) {
	t.Parallel()
	c := &clock{at: time.Now()}
	p := start(t, apptest.Now(c.now))
	tk := newToken(t, p, p.Key, "r")
	a, _ := dial(t, p, "token", tk.Token)
	a.quiet()
	c.advance(2 * time.Hour)
	if code, reason := a.ended(); code != 1008 || reason != "credential no longer valid" {
		t.Errorf("ended by %d %q", code, reason)
	}
	if _, resp := dial(t, p, "token", tk.Token); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("an expired token: %s", resp.Status)
	}
}

func TestNoMoreSocketsThanAllowed(t *testing.T) {
	t.Parallel()
	p := start(t, apptest.Env("APP_GATEWAY_MAX_SOCKETS=2"))
	a, b := connect(t, p), connect(t, p)
	if _, resp := dial(t, p, "key", p.Key); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a third socket: %s", resp.Status)
	}
	_ = a.conn.CloseNow()
	apptest.Eventually(t, func() string {
		c, resp := dial(t, p, "key", p.Key)
		if c == nil {
			return resp.Status
		}
		return ""
	})
	b.quiet()
}

func TestPublicLetsEveryoneIn(t *testing.T) {
	t.Parallel()
	p := start(t, apptest.Env("APP_GATEWAY_PUBLIC=true", "APP_GATEWAY_ORIGINS=https://shop.example"))
	c, _ := dial(t, p, "rooms", "any")
	emit(t, p, "hello", "any", nil)
	c.event("hello")
	for origin, status := range map[string]int{"https://shop.example": 200, "https://other.example": 403} {
		req := p.Request("", http.MethodGet, "/gateway/sse", nil)
		req.Header.Set("Origin", origin)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("a page of %s: %s", origin, resp.Status)
		}
	}
	if status := p.CallAs("", http.MethodPost, "/events", `{"event":"e"}`, nil); status != http.StatusUnauthorized {
		t.Errorf("public is for sockets, not for emits: %d", status)
	}
}

// lines collects what a product prints.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// The lines that the published application wrote come out, each with the
// milliseconds since the one before.
func TestTheConsoleShowsEmitsAndDeliveries(t *testing.T) {
	t.Parallel()
	out := &lines{}
	p := start(t, apptest.Env("APP_GATEWAY_LOG_STRATEGIES=console,sql"), func(o *app.Options) { o.Stdout = out })
	c := connect(t, p, "9d283b4a-c87f-4337-ac2e-fe71ad0c6c42")
	for _, name := range []string{"order.created", "order.paid", "customer.suscribed"} {
		if status := p.Call(http.MethodPost, "/events", sample(t, name+".json"), nil); status != http.StatusCreated {
			t.Fatalf("%s: %d", name, status)
		}
	}
	shape := regexp.MustCompile(`^\[App\] \d+ - \d\d/\d\d/\d{4}, \d{1,2}:\d\d:\d\d [AP]M  (\[[^\]]+\] .+) \+\d+ms$`)
	want := []string{
		"[order.created] orderId: cfa3f520-fa3f-4859-b5b0-a0b4e32e593f", "[order.created] event sent to: " + c.id,
		"[order.paid] paymentId: 9b933a6d-dbcc-49e5-8bab-eecce7957155", "[order.paid] event sent to: " + c.id,
		"[customer.suscribed] suscriptionId: 7e2983f4-4d1d-4961-80d6-7ef8a9abe19a", "[customer.suscribed] event sent to: " + c.id,
	}
	apptest.Eventually(t, func() string {
		var got []string
		for line := range strings.Lines(out.String()) {
			if m := shape.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
				got = append(got, m[1])
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return out.String()
		}
		return ""
	})
}
