package web_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

const querySecret = "hunter3"

func outbound(t *testing.T, cfg web.OutboundConfig) *http.Client {
	t.Helper()
	c := web.NewOutbound(cfg)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// call sends a request and reads the answer.
func call(t *testing.T, c *http.Client, url string) (answer, error) {
	t.Helper()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}")))
	res, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(body)}, err
}

func TestOutboundReachesPrivateAddressesOnlyWhereAllowed(t *testing.T) {
	t.Parallel()
	var calls, conns atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		_, _ = io.WriteString(w, "inside")
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	public := outbound(t, web.OutboundConfig{})
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "10.0.0.1", "169.254.169.254"} {
		_, err := call(t, public, "http://user:hunter2@"+host+":"+port+"/hook?secret="+querySecret)
		var whole *url.Error
		if !errors.Is(err, web.ErrForbiddenAddress) || errs.KindOf(err) != errs.Invalid || !errors.As(err, &whole) {
			t.Errorf("%s: %v", host, err)
			continue
		}
		if text := web.WithoutURL(err).Error(); strings.Contains(text, querySecret) || strings.Contains(text, "127.0.0.1") || strings.Contains(text, port) {
			t.Errorf("%s: %s", host, text)
		}
		if !errors.Is(web.WithoutURL(err), web.ErrForbiddenAddress) {
			t.Errorf("%s: %v", host, web.WithoutURL(err))
		}
	}
	if calls.Load() != 0 || conns.Load() != 0 {
		t.Errorf("%d calls on %d connections came through", calls.Load(), conns.Load())
	}
	private := outbound(t, web.OutboundConfig{Private: true})
	for range 3 {
		if a, err := call(t, private, srv.URL); err != nil || a.body != "inside" {
			t.Errorf("%+v %v", a, err)
		}
	}
	if conns.Load() != 1 {
		t.Errorf("%d connections for calls one after the other", conns.Load())
	}
	if _, err := call(t, private, "http://169.254.169.254/latest"); !errors.Is(err, web.ErrForbiddenAddress) {
		t.Errorf("metadata with Private: %v", err)
	}
}

func TestOutboundFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	var paths atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	t.Cleanup(srv.Close)
	a, err := call(t, outbound(t, web.OutboundConfig{Private: true}), srv.URL+"/hook")
	if err != nil || a.status != http.StatusTemporaryRedirect || a.header.Get("Location") != "/elsewhere" || paths.Load() != 1 {
		t.Errorf("%+v %v, %d requests", a, err, paths.Load())
	}
}

func TestOutboundDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/header":
			w.Header().Set("X-Large", strings.Repeat("x", 200<<10))
			return
		case "/body":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		<-release
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(release) })
	c := outbound(t, web.OutboundConfig{Private: true, Timeout: 100 * time.Millisecond})
	for _, path := range []string{"/silent", "/body"} {
		var timeout net.Error
		if _, err := call(t, c, srv.URL+path+"?secret="+querySecret); !errors.As(err, &timeout) || !timeout.Timeout() || strings.Contains(web.WithoutURL(err).Error(), querySecret) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := call(t, outbound(t, web.OutboundConfig{Private: true}), srv.URL+"/header"); err == nil {
		t.Error("a header of any size is read")
	}
}
