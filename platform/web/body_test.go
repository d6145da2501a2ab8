package web_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"switchboard/platform/web"
)

func zipped(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	if _, err := zw.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestBadBodiesAreRefusedAlikeByHumaAndPlainRoutes(t *testing.T) {
	t.Parallel()
	p := start(t, setup{cfg: web.Config{MaxBody: 2000, MaxInflated: 10_000}}, things)
	good := `{"name":"a","count":3}`
	long := `{"name":"a"` + strings.Repeat(" ", 2500) + `}`
	bomb := zipped(t, `{"name":"a"`+strings.Repeat(" ", 1<<20)+`}`)
	if len(bomb) > 2000 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	for _, c := range []struct {
		name, body string
		status     int
		detail     string // a part of it
		at         string // location of the first error
		headers    []string
	}{
		{"good", good, 201, "", "", nil},
		{"good gzip", zipped(t, good), 201, "", "", []string{"Content-Encoding", "gzip"}},
		{"gzip that inflates beyond the limit of plain bodies", zipped(t, long), 201, "", "", []string{"Content-Encoding", "GZIP"}},
		{"identity", good, 201, "", "", []string{"Content-Encoding", "identity"}},
		{"empty", "", 400, "body is required", "", nil},
		{"malformed", "{\n  \"name\": nope}", 400, "line 2, column 12 (byte 13)", "body", nil},
		{"ends early", `{"name":"a"`, 400, "ends early at line 1, column 12 (byte 11)", "body", nil},
		{"two values", good + good, 400, "line 1, column 23", "body", nil},
		{"invalid UTF-8", "{\"name\":\"\xff\"}", 400, "broken UTF-8 at line 1, column 10 (byte 9)", "body", nil},
		{"unknown field", `{"name":"a","nmae":"b"}`, 422, "", "body.nmae", nil},
		{"wrong type", `{"name":5}`, 422, "", "body.name", nil},
		{"an array", `[]`, 422, "", "body", nil},
		{"a number out of range", `{"name":"a","count":1e999}`, 0, "", "", nil},
		{"too large", long, 413, "larger than 2000 bytes", "", nil},
		{"gzip bomb", bomb, 413, "larger than 10000 bytes", "", []string{"Content-Encoding", "gzip"}},
		{"no gzip", good, 400, "not valid gzip", "body", []string{"Content-Encoding", "gzip"}},
		{"cut gzip", zipped(t, good)[:20], 400, "not valid gzip", "body", []string{"Content-Encoding", "gzip"}},
		{"brotli", good, 415, "gzip is", "", []string{"Content-Encoding", "br"}},
		{"text", good, 0, "", "", []string{"Content-Type", "text/plain"}},
		{"gzip twice", good, 415, "", "", []string{"Content-Encoding", "gzip, gzip"}},
	} {
		for _, path := range []string{"/collector/things", "/collector/plain"} {
			a := p.do("POST", path, c.body, c.headers...)
			if a.status != c.status && c.status != 0 || a.status >= 500 {
				t.Errorf("%s %s: %d, want %d: %s", c.name, path, a.status, c.status, a.body)
				continue
			}
			if a.status == 201 {
				if !strings.Contains(a.body, `"name":"a"`) || a.header.Get("Location") != "/collector/things/a" || strings.Contains(a.body, "$schema") {
					t.Errorf("%s %s: %s %v", c.name, path, a.body, a.header)
				}
				continue
			}
			doc := a.problem(t)
			if !strings.Contains(doc.Detail, c.detail) {
				t.Errorf("%s %s: detail %q, want %q", c.name, path, doc.Detail, c.detail)
			}
			if c.at != "" && (len(doc.Errors) == 0 || doc.Errors[0].Location != c.at || doc.Errors[0].Message == "") {
				t.Errorf("%s %s: errors %+v, want at %s", c.name, path, doc.Errors, c.at)
			}
		}
	}
}

func TestBadValuesAreNotRepeated(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, things)
	for _, body := range []string{
		`{"name":"a","phone":"+55 11 99999-0000"}`,
		`{"name":"a","phone":5511999990000}`,
		`{"name":["5511999990000"]}`,
		`{"name":"5511999990000551199999000055119999900005511"}`,
		`{"name":"a","count":"5511999990000"}`,
		`{"name":"a","count":5511999990000}`,
		`{"name":"a","other":{"x":"5511999990000"}}`,
		`{"name":"a","count":5511999990000e500}`,
	} {
		for _, path := range []string{"/collector/things", "/collector/plain"} {
			a := p.do("POST", path, body)
			if strings.Contains(a.body, "999") && a.status >= 400 {
				t.Errorf("%s %s: %s", path, body, a.body)
			}
		}
	}
	doc := p.do("POST", "/collector/things", `{"name":"a","count":11}`).problem(t)
	if len(doc.Errors) != 1 || doc.Errors[0].Location != "body.count" || doc.Errors[0].Value != 11.0 {
		t.Errorf("a harmless number: %+v", doc.Errors)
	}
	doc = p.do("GET", "/collector/things/a?limit=5000000", "").problem(t)
	if doc.Status != 422 || len(doc.Errors) != 1 || doc.Errors[0].Location != "query.limit" || doc.Errors[0].Value != nil {
		t.Errorf("a query: %+v", doc)
	}
}

func TestPlainHandlersCanReadBodiesInEveryWay(t *testing.T) {
	t.Parallel()
	p := start(t, setup{cfg: web.Config{MaxBody: 2000, MaxInflated: 10_000}}, func(r *web.Router) {
		op := func(id string, max int64) web.Op {
			return web.Op{ID: "x-" + id, Method: "POST", Path: "/x/" + id, Summary: "Reads", Public: true, MaxBody: max}
		}
		r.Handle(op("stream", 0), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			data, err := io.ReadAll(r.Body)
			if err != nil {
				web.Fail(w, r, err)
				return
			}
			_, _ = fmt.Fprintf(w, "%d", len(data))
		}))
		r.Handle(op("whole", 0), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			data, err := web.ReadBody(w, r, 0)
			if err != nil {
				web.Fail(w, r, err)
				return
			}
			again, _ := web.ReadBody(w, r, 0)
			rest, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(w, "%d %d %d %d", len(data), len(again), len(rest), len(web.RawBody(r)))
		}))
		r.Handle(op("limited", 0), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := web.ReadBody(w, r, 100); err != nil {
				web.Fail(w, r, err)
			}
		}))
		r.Handle(op("small", 100), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := web.ReadBody(w, r, 0); err != nil {
				web.Fail(w, r, err)
			}
		}))
		r.Handle(op("unread", 0), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	})
	text := strings.Repeat("x", 1500)
	packed := zipped(t, text)
	gz := []string{"Content-Encoding", "gzip"}
	for _, c := range []struct {
		path, body string
		headers    []string
		status     int
		want       string
	}{
		{"/x/stream", text, nil, 200, "1500"},
		{"/x/stream", packed, gz, 200, "1500"},
		{"/x/stream", zipped(t, strings.Repeat("x", 20_000)), gz, 413, ""},
		{"/x/stream", "no", gz, 400, ""},
		{"/x/whole", text, nil, 200, "1500 1500 1500 1500"},
		{"/x/whole", packed, gz, 200, fmt.Sprintf("1500 1500 1500 %d", len(packed))},
		{"/x/whole", "", nil, 200, "0 0 0 0"},
		{"/x/limited", text, nil, 413, ""},
		{"/x/limited", packed, gz, 413, ""},
		{"/x/limited", text[:100], nil, 200, ""},
		{"/x/small", text[:100], nil, 200, ""},
		{"/x/small", text[:101], nil, 413, ""},
		{"/x/small", packed, gz, 413, ""},
		{"/x/unread", text, nil, 200, ""},
	} {
		a := p.do("POST", c.path, c.body, c.headers...)
		if a.status != c.status || c.want != "" && a.body != c.want {
			t.Errorf("%s: %d %q, want %d %q", c.path, a.status, a.body, c.status, c.want)
		}
	}

	// A body without a declared length meets the same limit.
	req := must[*http.Request](t)(http.NewRequest("POST", p.url+"/x/whole", io.MultiReader(strings.NewReader(text), strings.NewReader(text))))
	if a := p.send(req); a.status != 413 {
		t.Errorf("chunked: %d", a.status)
	}
}

func TestSlowClientsAreCutOff(t *testing.T) {
	t.Parallel()
	p := start(t, setup{cfg: web.Config{ReadHeaderTimeout: 100 * time.Millisecond, ReadTimeout: 100 * time.Millisecond}}, things)
	for name, sent := range map[string]string{
		"header":      "POST /collector/things HTTP/1.1\r\nHost: x\r\nX-Slow:",
		"body":        "POST /collector/things HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + p.admin + "\r\nContent-Length: 100\r\n\r\n{",
		"no route":    "POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
		"bad coding":  "POST /collector/things HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + p.admin + "\r\nContent-Encoding: br\r\nContent-Length: 100\r\n\r\n{",
		"unread body": "POST /collector/things HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
	} {
		conn := must[net.Conn](t)(net.Dial("tcp", strings.TrimPrefix(p.url, "http://")))
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		got, err := io.ReadAll(conn)
		if err != nil {
			t.Errorf("%s: the connection stays open: %v", name, err)
		}
		if name == "body" && !strings.Contains(string(got), "408 Request Timeout") {
			t.Errorf("%s: %s", name, got)
		}
		_ = conn.Close()
	}
}

func TestAnswersMayTakeLongerThanTheBody(t *testing.T) {
	t.Parallel()
	p := start(t, setup{cfg: web.Config{ReadTimeout: 50 * time.Millisecond}}, func(r *web.Router) {
		r.Handle(web.Op{ID: "x-long", Method: "POST", Path: "/x/long", Summary: "Long poll", Public: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := web.ReadBody(w, r, 0); err != nil {
				web.Fail(w, r, err)
				return
			}
			select {
			case <-r.Context().Done():
				_, _ = io.WriteString(w, "cut off")
			case <-time.After(200 * time.Millisecond):
				_, _ = io.WriteString(w, "done")
			}
		}))
	})
	if a := p.do("POST", "/x/long", "{}"); a.body != "done" {
		t.Errorf("%d %q", a.status, a.body)
	}
}
