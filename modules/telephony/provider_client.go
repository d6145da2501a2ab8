package telephony

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

const (
	maxAnswer    = 64 << 10 // bytes of an answer that are read
	maxReason    = 200      // bytes of what the platform says
	maxRedirects = 5        // of a recording
	fetchTime    = time.Minute
)

// fault tells what a request that failed may have done.
type fault int

const (
	faultNone     fault = iota
	faultRefused        // the platform said no
	faultAway           // certainly nothing: it was not reached, or is too busy
	faultDoubtful       // it was sent, and no answer came
)

// providerError is why a request failed.
type providerError struct {
	fault  fault
	status int           // of the answer; 0 without one
	reason string        // what the platform said; may tell of a person
	after  time.Duration // how long it asks to be left alone
	cause  error
}

func (e *providerError) Error() string {
	switch {
	case e.cause != nil:
		return e.cause.Error()
	case e.reason != "":
		return fmt.Sprintf("%d %s", e.status, e.reason)
	}
	return strconv.Itoa(e.status)
}

func (e *providerError) Unwrap() error { return e.cause }

// plain is what may lie in the clear: the platform's words may tell of a person.
func (e *providerError) plain() string {
	return strings.TrimSpace("the platform answered " + strconv.Itoa(e.status) + " " + http.StatusText(e.status))
}

// faultOf gives what is known of a failed request. An error that is not the
// provider client's came before anything was sent.
func faultOf(err error) (fault, *providerError) {
	if err == nil {
		return faultNone, nil
	}
	var e *providerError
	if errors.As(err, &e) {
		return e.fault, e
	}
	return faultAway, &providerError{fault: faultAway, cause: err}
}

// kinded gives the error the kind and the text that the one who asked may read.
func (e *providerError) kinded() error {
	switch e.fault {
	case faultRefused:
		reason := e.reason
		if reason == "" {
			reason = strings.TrimSpace(strconv.Itoa(e.status) + " " + http.StatusText(e.status))
		}
		return errs.Wrap(errs.Conflict, e, "the phone platform refused: %s", reason)
	case faultDoubtful:
		return errs.Wrap(errs.Unavailable, e, "the phone platform did not answer: whether it did what was asked is not known")
	}
	return errs.Wrap(errs.Unavailable, e, "the phone platform is away")
}

// providerClient speaks with the phone platform. Its errors are Conflict for
// what the platform refuses, else Unavailable; faultOf tells more.
type providerClient struct {
	base           string // without a slash at the end; "" if there is no platform
	origin         string
	user, password string
	timeout        time.Duration // of an action
	// The platform's address is the operator's word and may be a private one.
	// That of a recording comes with an event. Neither follows redirects.
	platform, elsewhere *http.Client
}

// newProviderClient makes the client of the configured platform.
func newProviderClient(cfg *Config) *providerClient {
	c := &providerClient{base: strings.TrimRight(cfg.ProviderURL, "/"), user: cfg.ProviderUser, password: cfg.ProviderPassword.Reveal(), timeout: cfg.ProviderTimeout,
		platform:  web.NewOutbound(web.OutboundConfig{Timeout: max(fetchTime, cfg.ProviderTimeout), Private: true, MaxConns: 2 * delegateWorkers}),
		elsewhere: web.NewOutbound(web.OutboundConfig{Timeout: fetchTime, MaxConns: 4})}
	if u, err := url.Parse(c.base); err == nil && c.base != "" {
		c.origin = originOf(u)
	}
	return c
}

// close lets go of idle connections.
func (c *providerClient) close() {
	c.platform.CloseIdleConnections()
	c.elsewhere.CloseIdleConnections()
}

// originOf gives scheme, host and port in one form.
func originOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// configured tells whether there is a platform that takes actions.
func (c *providerClient) configured() bool { return c.base != "" }

var errNoProvider = errs.New(errs.Unavailable, "no phone platform is configured: set telephony.provider_url")

// delegate sends a call to a queue, peer or number.
func (c *providerClient) delegate(ctx context.Context, callID, destination string) error {
	return c.act(ctx, struct {
		Type        string `json:"type"`
		CallID      string `json:"call_id"`
		Destination string `json:"destination"`
	}{"delegate", callID, destination})
}

// dialRequest asks the platform to dial numbers and connect whoever answers
// with the destination. All values are text in the platform's own language.
type dialRequest struct {
	Type            string   `json:"type"`
	Numbers         []string `json:"numbers"`
	Destination     string   `json:"destination"`
	DestinationType string   `json:"destination_type,omitempty"`
	Code            string   `json:"code,omitempty"`
	Retries         string   `json:"retries,omitempty"`
	RetryGap        string   `json:"retry_gap,omitempty"`
	TTL             string   `json:"ttl,omitempty"`
}

// dial begins to dial numbers.
func (c *providerClient) dial(ctx context.Context, r dialRequest) error {
	r.Type = "dialer"
	return c.act(ctx, r)
}

// act sends one action, once.
func (c *providerClient) act(ctx context.Context, action any) error {
	if !c.configured() {
		return errNoProvider
	}
	body, err := json.Marshal(action)
	if err != nil {
		return fmt.Errorf("write action: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/actions", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("write action: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	c.sign(req)
	resp, err := c.platform.Do(req)
	if err != nil {
		e := &providerError{fault: faultAway, cause: web.WithoutURL(err)}
		if sent.Load() {
			e.fault = faultDoubtful
		}
		return e.kinded()
	}
	defer func() { _ = resp.Body.Close() }()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if e := judge(resp, answer); e != nil {
		return e.kinded()
	}
	return nil
}

// sign puts the credentials on a request to the platform's own origin.
func (c *providerClient) sign(req *http.Request) {
	if c.origin != "" && originOf(req.URL) == c.origin && c.user+c.password != "" {
		req.SetBasicAuth(c.user, c.password)
	}
}

// judge says what an answer means; nil for success.
func judge(resp *http.Response, body []byte) *providerError {
	e := &providerError{status: resp.StatusCode, reason: reasonOf(body), after: web.RetryAfter(resp.Header)}
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusBadGateway || code == http.StatusGatewayTimeout:
		e.fault = faultDoubtful // a proxy's word: it does not know either
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code == http.StatusTooEarly:
		e.fault = faultAway
	default:
		e.fault = faultRefused
	}
	return e
}

// reasonOf finds what an answer says, in one short line.
func reasonOf(body []byte) string {
	text := string(body)
	var object map[string]any
	if json.Unmarshal(body, &object) == nil {
		text = ""
		for _, name := range [...]string{"error", "message", "reason", "detail", "title", "errors"} {
			switch v := object[name].(type) {
			case string:
				text = v
			case []any:
				if len(v) > 0 {
					text = fmt.Sprint(v[0])
				}
			}
			if text != "" {
				break
			}
		}
	}
	return clip(text)
}

// clip makes a line of at most maxReason bytes without control characters.
func clip(text string) string {
	text = strings.Map(func(c rune) rune {
		switch {
		case unicode.IsSpace(c):
			return ' '
		case c == utf8.RuneError, unicode.IsControl(c), unicode.Is(unicode.Cf, c):
			return -1
		}
		return c
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxReason {
		end := maxReason
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	return text
}

// fetch opens a recording. The size is -1 if the server does not say. The body
// is the caller's to bound and to close; ctx bounds its time too.
func (c *providerClient) fetch(ctx context.Context, address string) (body io.ReadCloser, contentType string, size int64, err error) {
	at, err := url.Parse(address)
	for range maxRedirects + 1 {
		if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Hostname() == "" || at.User != nil {
			return nil, "", 0, (&providerError{fault: faultRefused, reason: "the recording has no http or https address"}).kinded()
		}
		resp, err2 := c.get(ctx, at)
		if err2 != nil {
			return nil, "", 0, err2
		}
		location := resp.Header.Get("Location")
		if resp.StatusCode < 300 || resp.StatusCode > 399 || location == "" {
			return opened(resp)
		}
		_ = resp.Body.Close()
		at, err = at.Parse(location)
	}
	return nil, "", 0, (&providerError{fault: faultRefused, reason: "the recording is behind too many redirects"}).kinded()
}

func (c *providerClient) get(ctx context.Context, at *url.URL) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, (&providerError{fault: faultRefused, cause: web.WithoutURL(err)}).kinded()
	}
	client := c.elsewhere
	if c.origin != "" && originOf(at) == c.origin {
		client = c.platform
		c.sign(req)
	}
	resp, err := client.Do(req)
	if err != nil {
		e := &providerError{fault: faultAway, cause: web.WithoutURL(err)}
		if errors.Is(err, web.ErrForbiddenAddress) {
			e.fault, e.reason = faultRefused, web.ErrForbiddenAddress.Error()
		}
		return nil, e.kinded()
	}
	return resp, nil
}

// opened gives the body of an answer that has one.
func opened(resp *http.Response) (io.ReadCloser, string, int64, error) {
	if resp.StatusCode == http.StatusOK {
		return resp.Body, resp.Header.Get("Content-Type"), resp.ContentLength, nil
	}
	defer func() { _ = resp.Body.Close() }()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	e := judge(resp, answer)
	if e == nil { // a success without the content
		e = &providerError{fault: faultAway, status: resp.StatusCode}
	}
	return nil, "", 0, e.kinded()
}
