package crm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"switchboard/platform/web"
)

// result is what became of a call to the CRM.
type result string

const (
	resultDone         result = "done"
	resultNotFound     result = "not_found"
	resultConflict     result = "conflict"
	resultRefused      result = "refused"      // it will never be taken
	resultUnauthorized result = "unauthorized" // nothing will be taken, until somebody mends the token
	resultThrottled    result = "throttled"
	resultUnsent       result = "unsent"  // it never reached the CRM
	resultFailed       result = "failed"  // it may have had its effect or not
	resultTimeout      result = "timeout" // it may still have its effect
)

// call is what is known of a call.
type call struct {
	result result
	id     string        // of what was made
	after  time.Duration // how long the CRM asks to be left alone
	detail string        // in the clear: nothing of what the CRM said
}

// crmClient speaks with the CRM: get, post and post {id} of /users and /trips.
type crmClient struct {
	base, token string
	http        *http.Client
	timeout     time.Duration
}

const maxAnswer = 1 << 20

// newCRMClient speaks with the CRM at base, or with the mock if that is empty.
func newCRMClient(base, token string, timeout time.Duration, conns int, mock func() *http.Client) *crmClient {
	if base == "" {
		return &crmClient{base: "http://crm.mock", http: mock(), timeout: timeout}
	}
	return &crmClient{base: strings.TrimSuffix(base, "/"), token: token, timeout: timeout,
		http: web.NewOutbound(web.OutboundConfig{Timeout: timeout + time.Second, Private: true, MaxConns: conns})}
}

func (c *crmClient) close() { c.http.CloseIdleConnections() }

// create posts to the collection. resultDone bears the id that the CRM gave.
func (c *crmClient) create(ctx context.Context, k kind, body []byte) call {
	return c.post(ctx, k.collection(), body, http.StatusCreated)
}

// replace posts to an object.
func (c *crmClient) replace(ctx context.Context, k kind, id string, body []byte) call {
	return c.post(ctx, k.collection()+"/"+escape(id), body, http.StatusOK)
}

// escape makes an id a segment of a path. Segments of dots alone would be cleaned
// away (RFC 3986 section 5.2.4).
func escape(id string) string {
	if id == "." || id == ".." {
		return strings.ReplaceAll(id, ".", "%2E")
	}
	return url.PathEscape(id)
}

func (c *crmClient) post(ctx context.Context, where string, body []byte, want int) call {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := c.request(ctx, http.MethodPost, where, bytes.NewReader(body))
	if err != nil {
		return call{result: resultUnsent, detail: "the address of the CRM is bad"}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return failure(ctx, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode == want {
		if err != nil {
			return failure(ctx, err)
		}
		var made struct {
			ID string `json:"Id"`
		}
		if json.Unmarshal(answer, &made) != nil {
			return call{result: resultFailed, detail: "the answer makes no sense"}
		}
		if made.ID == "" {
			made.ID = lastSegment(resp.Header.Get("Location"))
		}
		if made.ID == "" && want == http.StatusCreated {
			return call{result: resultFailed, detail: "the answer names no id"}
		}
		return call{result: resultDone, id: made.ID}
	}
	return statusOf(resp)
}

// lastSegment gives the id that a Location ends with.
func lastSegment(location string) string {
	u, err := url.Parse(location)
	if err != nil || u.Path == "" {
		return ""
	}
	id, err := url.PathUnescape(path.Base(u.EscapedPath()))
	if err != nil || id == "/" || id == "." {
		return ""
	}
	return id
}

var errStop = errors.New("stop")

// listTime bounds how long a list may take.
const listTime = time.Hour

// list hands over all objects of a kind as they come; the list may be long. fn
// ends it early by errStop.
func (c *crmClient) list(ctx context.Context, k kind, fn func(json.RawMessage) error) call {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	req, err := c.request(ctx, http.MethodGet, k.collection(), nil)
	if err != nil {
		return call{result: resultUnsent, detail: "the address of the CRM is bad"}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return failure(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return statusOf(resp)
	}
	in := json.NewDecoder(resp.Body)
	if start, err := in.Token(); err != nil || start != json.Delim('[') {
		return call{result: resultFailed, detail: "the answer is no list"}
	}
	for in.More() {
		var object json.RawMessage
		if err := in.Decode(&object); err != nil {
			return call{result: resultFailed, detail: "the list is broken"}
		}
		if err := fn(object); errors.Is(err, errStop) {
			return call{result: resultDone}
		} else if err != nil {
			return call{result: resultFailed, detail: err.Error()}
		}
	}
	if _, err := in.Token(); err != nil {
		return call{result: resultFailed, detail: "the list is broken"}
	}
	return call{result: resultDone}
}

func (c *crmClient) request(ctx context.Context, method, where string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+where, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

func statusOf(resp *http.Response) call {
	done := call{after: web.RetryAfter(resp.Header), detail: "status " + strconv.Itoa(resp.StatusCode)}
	switch code := resp.StatusCode; code {
	case http.StatusNotFound:
		done.result = resultNotFound
	case http.StatusConflict:
		done.result = resultConflict
	case http.StatusUnauthorized, http.StatusForbidden:
		done.result = resultUnauthorized
	case http.StatusTooManyRequests:
		done.result = resultThrottled
	case http.StatusRequestTimeout, http.StatusTooEarly:
		done.result = resultFailed
	case http.StatusGatewayTimeout: // the CRM behind it goes on
		done.result = resultTimeout
	default:
		done.result = resultFailed
		if code >= 400 && code < 500 {
			done.result = resultRefused
		}
	}
	return done
}

func failure(ctx context.Context, err error) call {
	var timeout net.Error
	var op *net.OpError
	switch {
	case ctx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout():
		return call{result: resultTimeout, detail: "no answer in time"}
	case errors.As(err, &op) && op.Op == "dial":
		return call{result: resultUnsent, detail: "no connection"}
	}
	return call{result: resultFailed, detail: "the connection broke"}
}
