package telephony

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// retryLater is a platform that is busy and says for how long.
func retryLater(t *testing.T, after string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", after)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func newProvider(t *testing.T, url string) *providerClient {
	t.Helper()
	c := newProviderClient(&Config{ProviderURL: url, ProviderUser: deskUser, ProviderPassword: deskPassword, ProviderTimeout: 2 * time.Second})
	t.Cleanup(c.close)
	return c
}

func TestActionsAreInThePlatformsWords(t *testing.T) {
	t.Parallel()
	type request struct {
		path, user, password, media string
		body                        map[string]any
	}
	came := make(chan request, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		in := request{path: r.Method + " " + r.URL.Path, media: r.Header.Get("Content-Type")}
		in.user, in.password, _ = r.BasicAuth()
		_ = json.NewDecoder(r.Body).Decode(&in.body)
		came <- in
	}))
	defer s.Close()
	c := newProvider(t, s.URL+"/api/")
	must(t, c.delegate(t.Context(), "1463669263.30050", "900"))
	want := request{"POST /api/actions", deskUser, deskPassword, "application/json",
		map[string]any{"type": "delegate", "call_id": "1463669263.30050", "destination": "900"}}
	if got := <-came; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\n%+v", got, want)
	}
	must(t, c.dial(t.Context(), dialRequest{Numbers: []string{"5511999998888"}, Destination: "100", DestinationType: "peer", Code: "happy-peer-100", Retries: "1", RetryGap: "10s", TTL: "5m"}))
	const sample = `{"type":"dialer","numbers":["5511999998888"],"destination":"100","destination_type":"peer","code":"happy-peer-100","retries":"1","retry_gap":"10s","ttl":"5m"}`
	want.body = nil
	must(t, json.Unmarshal([]byte(sample), &want.body))
	if got := <-came; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\n%+v", got, want)
	}
}

func TestFaultsOfThePlatformAreToldApart(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		url    string
		fault  fault
		kind   errs.Kind
		text   string
	}{
		{name: "no", answer: answers(422, `{"message":"no such\u0007 queue"}`), fault: faultRefused, kind: errs.Conflict, text: "the phone platform refused: no such queue"},
		{name: "no, at length", answer: answers(400, strings.Repeat("é", 5000)), fault: faultRefused, kind: errs.Conflict, text: "the phone platform refused: " + strings.Repeat("é", 100)},
		{name: "no, in a list", answer: answers(500-1, `{"errors":["a","b"]}`), fault: faultRefused, kind: errs.Conflict, text: "the phone platform refused: a"},
		{name: "no, without a word", answer: answers(404, ``), fault: faultRefused, kind: errs.Conflict, text: "the phone platform refused: 404 Not Found"},
		{name: "wrong password", answer: answers(401, `Unauthorized`), fault: faultRefused, kind: errs.Conflict},
		{name: "elsewhere", answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", 307) }, fault: faultRefused, kind: errs.Conflict},
		{name: "busy", answer: answers(429, ``), fault: faultAway, kind: errs.Unavailable},
		{name: "broken", answer: answers(500, ``), fault: faultAway, kind: errs.Unavailable},
		{name: "a proxy that does not know", answer: answers(504, ``), fault: faultDoubtful, kind: errs.Unavailable},
		{name: "closed", url: closed.URL, fault: faultAway, kind: errs.Unavailable},
		{name: "cut", answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, fault: faultDoubtful, kind: errs.Unavailable},
		{name: "silent", answer: func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}, fault: faultDoubtful, kind: errs.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.answer != nil {
				s := httptest.NewServer(c.answer)
				defer s.Close()
				c.url = s.URL
			}
			p := newProvider(t, c.url)
			p.timeout = 300 * time.Millisecond
			err := p.delegate(t.Context(), "1.1", "900")
			if f, _ := faultOf(err); f != c.fault || errs.KindOf(err) != c.kind {
				t.Errorf("fault %d, kind %s: %v", f, errs.KindOf(err), err)
			}
			var e *errs.Error
			if c.text != "" && (!errors.As(err, &e) || e.Text != c.text) {
				t.Errorf("%v, want %s", err, c.text)
			}
		})
	}
	_, e := faultOf(newProvider(t, retryLater(t, "7")).delegate(t.Context(), "1.1", "900"))
	if e == nil || e.after != 7*time.Second {
		t.Errorf("Retry-After is %+v", e)
	}
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestCredentialsGoToThePlatformAlone(t *testing.T) {
	t.Parallel()
	show := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, ok := r.BasicAuth()
		if ok {
			_, _ = io.WriteString(w, "for "+user)
		} else {
			_, _ = io.WriteString(w, "for anybody")
		}
	})
	other := httptest.NewServer(show)
	defer other.Close()
	mux := http.NewServeMux()
	mux.Handle("/own", show)
	mux.Handle("/away", http.RedirectHandler(other.URL+"/x", http.StatusFound))
	mux.Handle("/round", http.RedirectHandler("/round", http.StatusFound))
	mux.Handle("/file", http.RedirectHandler("file:///etc/passwd", http.StatusFound))
	mux.HandleFunc("/gone", answers(410, ""))
	own := httptest.NewServer(mux)
	defer own.Close()

	c := newProvider(t, own.URL)
	get := func(url string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		body, _, _, err := c.fetch(ctx, url)
		if err != nil {
			return "", err
		}
		defer func() { _ = body.Close() }()
		text, err := io.ReadAll(body)
		return string(text), err
	}
	// Only the platform may be on this machine.
	if _, err := get(other.URL); !errors.Is(err, web.ErrForbiddenAddress) && errs.KindOf(err) != errs.Conflict {
		t.Errorf("a private address: %v", err)
	}
	if _, err := get(own.URL + "/away"); errs.KindOf(err) != errs.Conflict {
		t.Errorf("a redirect to a private address: %v", err)
	}
	c.elsewhere = c.platform
	for path, want := range map[string]string{own.URL + "/own": "for " + deskUser, other.URL + "/own": "for anybody", own.URL + "/away": "for anybody"} {
		if got, err := get(path); got != want || err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for _, url := range []string{own.URL + "/round", own.URL + "/file", own.URL + "/gone", "file:///etc/passwd", "http://", "http://a:b@" + strings.TrimPrefix(own.URL, "http://") + "/own", "\x7f", ""} {
		_, err := get(url)
		if f, _ := faultOf(err); f != faultRefused || strings.Contains(err.Error(), "passwd") {
			t.Errorf("%q: %v", url, err)
		}
	}
}
