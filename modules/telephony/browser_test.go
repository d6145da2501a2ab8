package telephony

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"switchboard/platform/apptest"
)

// tab is a page in a Chromium of its own, driven over the DevTools Protocol.
type tab struct {
	t    testing.TB
	conn *websocket.Conn
	id   int
}

// openTab opens a page until the test ends. Without Chromium the test is
// skipped; in CI it fails.
func openTab(t testing.TB, address string) *tab {
	t.Helper()
	profile := apptest.Chromium(t, "--remote-debugging-port=0", "about:blank")
	var port string
	apptest.Eventually(t, func() string {
		text, err := os.ReadFile(filepath.Join(profile, "DevToolsActivePort"))
		if err != nil {
			return err.Error()
		}
		port, _, _ = strings.Cut(string(text), "\n")
		return ""
	})
	req, err := http.NewRequest(http.MethodPut, "http://127.0.0.1:"+port+"/json/new?about:blank", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	var target struct {
		URL string `json:"webSocketDebuggerUrl"`
	}
	if err != nil || json.Unmarshal(text, &target) != nil {
		t.Fatalf("no page: %v %s", err, text)
	}
	conn, _, err := websocket.Dial(t.Context(), target.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(16 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	b := &tab{t: t, conn: conn}
	b.call("Page.navigate", map[string]any{"url": address})
	return b
}

// call sends a command and gives its result.
func (b *tab) call(method string, params any) json.RawMessage {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), boardsPatience)
	defer cancel()
	b.id++
	text, err := json.Marshal(map[string]any{"id": b.id, "method": method, "params": params})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.conn.Write(ctx, websocket.MessageText, text); err != nil {
		b.t.Fatal(err)
	}
	for {
		_, text, err := b.conn.Read(ctx)
		if err != nil {
			b.t.Fatal(err)
		}
		var answer struct {
			ID     int             `json:"id"`
			Result json.RawMessage `json:"result"`
			Error  json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			b.t.Fatal(err)
		}
		if answer.ID != b.id {
			continue // an event
		}
		if answer.Error != nil {
			b.t.Fatalf("%s: %s", method, answer.Error)
		}
		return answer.Result
	}
}

// value evaluates an expression in the page; what it throws is its value.
func (b *tab) value(expression string) string {
	b.t.Helper()
	var got struct {
		Result struct {
			Value       json.RawMessage `json:"value"`
			Description string          `json:"description"`
		} `json:"result"`
	}
	if err := json.Unmarshal(b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}), &got); err != nil {
		b.t.Fatal(err)
	}
	var text string
	switch {
	case got.Result.Value == nil || string(got.Result.Value) == "{}":
		return got.Result.Description
	case json.Unmarshal(got.Result.Value, &text) == nil:
		return text
	}
	return string(got.Result.Value)
}

// until waits for an expression to have a value.
func (b *tab) until(expression, want string) {
	b.t.Helper()
	apptest.Eventually(b.t, func() string {
		if got := b.value(expression); got != want {
			return fmt.Sprintf("%s is %s, want %s", expression, got, want)
		}
		return ""
	})
}
