package web_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2/sse"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

func readiness(t *testing.T, a answer) web.Readiness {
	t.Helper()
	var r web.Readiness
	if err := json.Unmarshal([]byte(a.body), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReadyzListsEachModule(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, nil)
	var mail error = web.ErrStarting
	p.server.Health("collector", func(context.Context) error { return nil })
	p.server.Health("mailing", func(context.Context) error { return mail })
	expect := func(status int, whole string, mailing web.ModuleState) {
		t.Helper()
		eventually(t, "the server serves", func() bool { return p.server.Ready().Status == whole })
		a := p.do("GET", "/readyz", "", "Authorization", "")
		want := web.Readiness{Status: whole, Modules: map[string]web.ModuleState{"collector": {State: "ready"}, "mailing": mailing}}
		if got := readiness(t, a); a.status != status || !reflect.DeepEqual(got, want) {
			t.Errorf("%d %+v, want %+v", a.status, got, want)
		}
	}
	expect(503, "starting", web.ModuleState{State: "starting", Reason: "starting"})
	mail = nil
	expect(200, "ready", web.ModuleState{State: "ready"})
	mail = errs.Wrap(errs.Unavailable, errors.New(secretText), "the sender does not answer")
	expect(503, "unready", web.ModuleState{State: "unready", Reason: "the sender does not answer"})
	mail = errors.New(secretText)
	expect(503, "unready", web.ModuleState{State: "unready", Reason: "internal error"})
	if a := p.do("GET", "/healthz", ""); a.status != 200 || a.body != "{\"status\":\"ok\"}\n" {
		t.Errorf("healthz: %d %s", a.status, a.body)
	}
}

func TestReadyzDoesNotWaitForAStuckCheck(t *testing.T) {
	t.Parallel()
	p := start(t, setup{}, nil)
	release := make(chan struct{})
	p.server.Health("stuck", func(context.Context) error { <-release; return nil })
	p.server.Health("broken", func(context.Context) error { panic("no") })
	for range 2 { // the second finds the first still running
		got := readiness(t, p.do("GET", "/readyz", ""))
		if m := got.Modules["stuck"]; m.State != "unready" || m.Reason != "the check does not answer" {
			t.Errorf("stuck: %+v", m)
		}
		if m := got.Modules["broken"]; m.State != "unready" {
			t.Errorf("broken: %+v", m)
		}
	}
	close(release)
	eventually(t, "the check has come back", func() bool { return p.server.Ready().Modules["stuck"].State == "ready" })
}

// streams mounts the kinds of handlers that outlive a request.
func streams(r *web.Router) {
	r.Handle(web.Op{ID: "x-live", Method: "GET", Path: "/x/live", Summary: "Live", Public: true, Stream: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: hello\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		_, _ = io.WriteString(w, "data: bye\n\n")
	}))
	r.Handle(web.Op{ID: "x-poll", Method: "GET", Path: "/x/poll", Summary: "Poll", Public: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-web.Stopping(r.Context()):
			_, _ = io.WriteString(w, "stopping")
		case <-r.Context().Done():
		}
	}))
	r.Handle(web.Op{ID: "x-deaf", Method: "GET", Path: "/x/deaf", Summary: "Deaf", Public: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	op := web.Op{ID: "x-sse", Method: "GET", Path: "/x/sse", Summary: "Events", Public: true, Stream: true}
	sse.Register(r.API, op.Operation(r), map[string]any{"message": thing{}}, func(ctx context.Context, _ *struct{}, send sse.Sender) {
		_ = send.Data(thing{Name: "hello"})
		<-ctx.Done()
		_ = send.Data(thing{Name: "bye"})
	})
	r.Handle(web.Op{Path: "/x/socket/", Public: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			web.Fail(w, r, err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello\n")
		_ = rw.Flush()
		<-web.Stopping(r.Context())
		_, _ = rw.WriteString("bye\n")
		_ = rw.Flush()
	}))
}

// open begins a request and reads its first part.
func open(t *testing.T, p *product, path string) *bufio.Reader {
	t.Helper()
	conn := must[net.Conn](t)(net.Dial("tcp", strings.TrimPrefix(p.url, "http://")))
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\r\n" {
			return r
		}
	}
}

func TestShutdownEndsStreamsAndPollsAndSockets(t *testing.T) {
	t.Parallel()
	p := start(t, setup{shutdown: 10 * time.Second}, streams)
	readers := map[string]*bufio.Reader{}
	for _, path := range []string{"/x/live", "/x/poll", "/x/sse", "/x/socket/"} {
		readers[path] = open(t, p, path)
	}
	begin := time.Now()
	p.stop()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %s", took)
	}
	for path, last := range map[string]string{"/x/live": "bye", "/x/poll": "stopping", "/x/sse": "bye", "/x/socket/": "bye"} {
		rest, err := io.ReadAll(readers[path])
		if err != nil || !strings.Contains(string(rest), last) {
			t.Errorf("%s: %q %v", path, rest, err)
		}
	}
	if lines := p.log.lines("cut off"); len(lines) != 0 {
		t.Errorf("logged %s", lines)
	}
	if got := p.server.Ready(); got.Status != "stopping" {
		t.Errorf("ready after the stop: %+v", got)
	}
	if _, err := client.Get(p.url + "/healthz"); err == nil {
		t.Error("still accepts")
	}
}

func TestShutdownCutsOffWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	p := start(t, setup{shutdown: 100 * time.Millisecond}, streams)
	open(t, p, "/x/deaf")
	begin := time.Now()
	p.stop()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if lines := p.log.lines("cut off", `"requests":1`); len(lines) != 1 {
		t.Errorf("logged %s", p.log)
	}
}

func TestStreamsOutliveTheWriteTimeout(t *testing.T) {
	t.Parallel()
	p := start(t, setup{cfg: web.Config{WriteTimeout: 50 * time.Millisecond}}, func(r *web.Router) {
		for id, stream := range map[string]bool{"stream": true, "plain": false} {
			r.Handle(web.Op{ID: "x-" + id, Method: "GET", Path: "/x/" + id, Summary: "Slow", Public: true, Stream: stream}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				<-time.After(150 * time.Millisecond)
				_, _ = io.WriteString(w, "done")
			}))
		}
	})
	if a := p.do("GET", "/x/stream", ""); a.body != "done" {
		t.Errorf("%q", a.body)
	}
	if res, err := client.Get(p.url + "/x/plain"); err == nil {
		_ = res.Body.Close()
		t.Error("a plain answer has no deadline")
	}
}

func TestServeRefusesWhatIsNotWired(t *testing.T) {
	t.Parallel()
	listen := func() net.Listener { return must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0")) }
	bare := must[*web.Server](t)(web.New(web.Config{}, web.Deps{}))
	if err := bare.Serve(t.Context(), listen(), time.Second); err == nil {
		t.Error("served without a guard")
	}
	deps, _ := parts(t, setup{})
	wrong := must[*web.Server](t)(web.New(web.Config{}, deps))
	wrong.Router().Handle(web.Op{Path: "/x"}, http.NotFoundHandler())
	if err := wrong.Serve(t.Context(), listen(), time.Second); err == nil || !strings.Contains(err.Error(), "needs a Scope") {
		t.Errorf("served a route without a scope: %v", err)
	}
	closed := listen()
	_ = closed.Close()
	broken := must[*web.Server](t)(web.New(web.Config{}, deps))
	if err := broken.Serve(t.Context(), closed, time.Second); err == nil {
		t.Error("served on a closed listener")
	}
	for name, cfg := range map[string]web.Config{
		"listen":          {Listen: "8080"},
		"access_log":      {AccessLog: "some"},
		"trusted_proxies": {TrustedProxies: []string{"proxy"}},
		"max_body":        {MaxBody: -1},
	} {
		if _, err := web.New(cfg, web.Deps{}); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
