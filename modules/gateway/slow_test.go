package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"switchboard/platform/apptest"
)

// A receiver that takes nothing is cut once what waits for it is too much; the
// one beside it gets everything.
func TestASlowReceiverIsCutAndSlowsNobody(t *testing.T) {
	t.Parallel()
	p := start(t)
	good := connect(t, p)
	stalled, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(p.URL, "http")+"/gateway/ws?key="+p.Key, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stalled.CloseNow() }()
	stream, err := http.DefaultClient.Do(p.Request(p.Key, http.MethodGet, "/gateway/sse", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	apptest.Eventually(t, func() string {
		if n := len(walk[socketInfo](t, p, "/gateway/sockets")); n != 3 {
			return fmt.Sprintf("%d sockets", n)
		}
		return ""
	})
	pad := strings.Repeat("x", 500_000)
	for i := range 40 {
		emit(t, p, "big", "", []any{i, pad})
		if f := good.event("big"); !strings.HasPrefix(string(f.Data), fmt.Sprintf("[%d,", i)) {
			t.Fatalf("event %d came as %.20s", i, f.Data)
		}
	}
	apptest.Eventually(t, func() string {
		if n := len(walk[socketInfo](t, p, "/gateway/sockets")); n != 1 {
			return fmt.Sprintf("%d sockets", n)
		}
		_, text := p.Exchange(p.Request("", http.MethodGet, "/metrics", nil))
		if !strings.Contains(string(text), `gateway_disconnects_total{reason="slow consumer"} 2`) {
			return "not counted"
		}
		return ""
	})
}

func TestServerSentEventsResumeWhereTheyEnded(t *testing.T) {
	t.Parallel()
	p := start(t)
	listen := func(last string) (lines func(prefix string) string, end func()) {
		ctx, cancel := context.WithCancel(t.Context())
		req := p.Request(p.Key, http.MethodGet, "/gateway/sse?room=r", nil).WithContext(ctx)
		if last != "" {
			req.Header.Set("Last-Event-ID", last)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%s %s", resp.Status, resp.Header.Get("Content-Type"))
		}
		in := bufio.NewScanner(resp.Body)
		return func(prefix string) string {
			for in.Scan() {
				if text, ok := strings.CutPrefix(in.Text(), prefix); ok {
					return text
				}
			}
			t.Fatalf("the stream ended before %q", prefix)
			return ""
		}, func() { cancel(); _ = resp.Body.Close() }
	}
	next, end := listen("")
	next(": still here")
	first := next("id: ") // of the beat: nothing came yet
	emit(t, p, "one", "r", "line\nbreak")
	if text := next("data: "); !strings.Contains(text, `"event":"one","room":"r","data":"line\nbreak"`) {
		t.Errorf("came as %s", text)
	}
	end()
	emit(t, p, "two", "r", nil)
	emit(t, p, "other", "s", nil)
	next, end = listen(first)
	defer end()
	for _, want := range []string{"one", "two"} {
		if text := next("data: "); !strings.Contains(text, `"event":"`+want+`"`) {
			t.Errorf("came as %s, want %s", text, want)
		}
	}
	status := p.Call(http.MethodPost, "/events", "{\"event\":\"three\",\"room\":\"r\",\"data\":{\n\"a\" :\r\n1}}", nil)
	if id, a, b, c := next("id: "), next("data: "), next("data: "), next(""); status != http.StatusCreated || id == "" || !strings.HasSuffix(a, `"data":{`) || b != `"a" : ` {
		t.Errorf("an event over several lines: %d %q %q %q", status, a, b, c)
	}
	gap, endGap := listen("1")
	defer endGap()
	if gap("event: ") != "gap" {
		t.Error("the hole is not told")
	}
}
