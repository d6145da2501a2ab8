package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commandLine runs "app gateway …" against a server that gives one answer, and
// tells what was asked and printed.
func commandLine(t *testing.T, status int, answer, input string, args ...string) (asked, out, complaint string, err error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked += strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	var stdout, stderr bytes.Buffer
	root := &cobra.Command{Use: "app", SilenceErrors: true, SilenceUsage: true}
	root.PersistentFlags().Bool("json", false, "")
	root.AddCommand(gatewayCommand())
	root.SetArgs(append([]string{"gateway", "--server", server.URL, "--key", "k"}, args...))
	root.SetIn(strings.NewReader(input))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.ExecuteContext(t.Context())
	return asked, stdout.String(), stderr.String(), err
}

func TestCommandsAskAndPrint(t *testing.T) {
	t.Parallel()
	const (
		sent    = `{"id":"0197","event":"order.created","room":"orders","recipients":3}`
		rooms   = `{"items":[{"room":"orders","sockets":3},{"room":"lobby","sockets":1}],"next":null}`
		sockets = `{"room":"orders","sockets":1,"items":[{"id":"AAAB","user":"42","rooms":["lobby","orders"],"transport":"websocket","remote":"127.0.0.1","connected_at":"2026-01-02T03:04:05.000006Z","queued_bytes":7,"instance":"i1"}],"next":null}`
		given   = `{"items":[{"id":"0197","time":"2026-01-02T03:04:05.000006Z","event":"order.created","room":"orders","socket":"AAAB"}],"next":null}`
		stream  = ": still here\n\nid: 5\nevent: message\ndata: {\"id\":\"1\",\"event\":\"a\",\"room\":\"r\",\ndata: \"data\":{\"x\": 1}}\n\nevent: gap\ndata: {}\n\ndata:{\"id\":\"2\",\"event\":\"b\",\"data\":null}\n\n"
		token   = `{"id":"67aa","token":"ey.a.b","rooms":["orders.*"],"expires_at":"2026-01-02T03:04:05.000006Z"}`
	)
	for _, c := range []struct {
		name        string
		answer      string
		input       string
		args        []string
		asked, want string
	}{
		{"publish", sent, "", []string{"publish", "order.created", `{"n": 1.0, "t":"<&>"}`, "--room", "orders"},
			`POST /events {"event":"order.created","room":"orders","data":{"n": 1.0, "t":"<&>"}}`, `^id +0197\nrecipients +3\n$`},
		{"publish without data", sent, "", []string{"publish", "order.created"}, `POST /events {"event":"order.created","data":null}`, `recipients +3\n$`},
		{"publish from standard input", sent, "[1]\n", []string{"publish", "x", "-", "--json"}, "POST /events {\"event\":\"x\",\"data\":[1]\n}", `^\{"id":"0197",.*\}\n$`},
		{"rooms", rooms, "", []string{"rooms"}, `GET /gateway/rooms?limit=100`, `^SOCKETS +ROOM\n3 +orders\n1 +lobby\n$`},
		{"rooms for scripts", rooms, "", []string{"rooms", "--json", "--limit", "1"}, `GET /gateway/rooms?limit=1`, `^\{"room":"orders","sockets":3\}\n$`},
		{"a room", sockets, "", []string{"rooms", "a/b c"}, `GET /gateway/rooms/a%2Fb%20c?limit=100`, `SOCKET +USER .*\nAAAB +42 +websocket +127.0.0.1 +2026-01-02T03:04:05Z +7 +i1 +lobby, orders\n$`},
		{"sockets", sockets, "", []string{"sockets", "--limit", "0"}, `GET /gateway/sockets?limit=1000`, `AAAB`},
		{"disconnect", "", "", []string{"sockets", "disconnect", "AAAB"}, `DELETE /gateway/sockets/AAAB`, `^$`},
		{"deliveries", given, "", []string{"deliveries", "--event", "order.created", "--socket", "AAAB"},
			`GET /gateway/deliveries?event=order.created&limit=100&socket=AAAB`, `^TIME +SOCKET +ROOM +EVENT +ID\n2026-\S+ +AAAB +orders +order.created +0197\n$`},
		{"tail", stream, "", []string{"tail", "--room", "r", "--room", "s,t"}, `GET /gateway/sse?room=r&room=s%2Ct`, `^\S+  r  a  \{"x":1\}\n\S+  \(everyone\)  b  null\n$`},
		{"tail with a limit", stream, "", []string{"tail", "--limit", "1", "--json"}, `GET /gateway/sse`, `^\{"id":"1","event":"a","room":"r",\n"data":\{"x": 1\}\}\n$`},
		{"a token", token, "", []string{"tokens", "create", "--room", "orders.*", "--user", "42", "--ttl", "24h"},
			`POST /gateway/tokens {"rooms":["orders.*"],"ttl":"24h","user":"42"}`, `^token +ey.a.b\nid +67aa\nexpires +2026-01-02T03:04:05.000006Z\n$`},
		{"a token's end", "", "", []string{"tokens", "revoke", "67aa"}, `DELETE /gateway/tokens/67aa`, `^$`},
	} {
		asked, out, complaint, err := commandLine(t, http.StatusOK, c.answer, c.input, c.args...)
		if err != nil || asked != c.asked || !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("%s: %v\nasked %s\nwant  %s\nprinted %s", c.name, err, asked, c.asked, out)
		}
		if c.name == "tail" && complaint != "some events were missed\n" {
			t.Errorf("%s: complained %q", c.name, complaint)
		}
	}
}

func TestCommandsTellWhatWentWrong(t *testing.T) {
	t.Parallel()
	asked, _, _, err := commandLine(t, http.StatusOK, "", "", "publish", "greeting", "hello")
	if asked != "" || err == nil || !strings.Contains(err.Error(), "not JSON") {
		t.Errorf("asked %q, %v", asked, err)
	}
	_, _, _, err = commandLine(t, http.StatusNotFound, `{"title":"Not Found","detail":"no such socket"}`, "", "sockets", "disconnect", "x")
	if err == nil || err.Error() != "no such socket (404)" {
		t.Errorf("%v", err)
	}
}
