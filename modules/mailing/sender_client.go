package mailing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"switchboard/platform/breaker"
	"switchboard/platform/web"
)

// attemptResult is what became of one attempt to send.
type attemptResult string

const (
	attemptAccepted     attemptResult = "accepted"
	attemptRefused      attemptResult = "refused"      // 400: it will never be taken
	attemptUnauthorized attemptResult = "unauthorized" // 401, 403: nothing will, until somebody mends the token
	attemptThrottled    attemptResult = "throttled"    // 429
	attemptServerError  attemptResult = "server_error" // 5xx and other statuses
	attemptGarbage      attemptResult = "garbage"      // 200 that is no acceptance
	attemptTimeout      attemptResult = "timeout"
	attemptReset        attemptResult = "reset" // the connection failed
)

// outcome is what a result says of the provider.
func (r attemptResult) outcome() breaker.Outcome {
	switch r {
	case attemptAccepted, attemptRefused:
		return breaker.Success
	case attemptUnauthorized:
		return breaker.Denial
	case attemptThrottled:
		return breaker.Throttle
	}
	return breaker.Failure
}

// attempt is one attempt and what is known of it.
type attempt struct {
	result attemptResult
	status int           // of the answer; 0 without one
	after  time.Duration // how long the provider asks to be left alone
	took   time.Duration
	detail string // in the clear: nothing of what the provider said
}

// senderClient speaks with the provider: POST {base}/send/{msgId}.
type senderClient struct {
	base, token string
	http        *http.Client
	timeout     time.Duration
}

func newSenderClient(base, token string, timeout time.Duration, conns int) *senderClient {
	return &senderClient{base: strings.TrimSuffix(base, "/"), token: token, timeout: timeout,
		http: web.NewOutbound(web.OutboundConfig{Timeout: timeout + time.Second, Private: true, MaxConns: conns})}
}

const maxAnswer = 64 << 10

// send tries once to have a message sent. A phone is digits alone.
func (s *senderClient) send(ctx context.Context, id int64, phone, text string) attempt {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	begin := time.Now()
	a := s.try(ctx, id, phone, text)
	a.took = time.Since(begin)
	if a.detail == "" && a.result != attemptAccepted {
		a.detail = string(a.result)
		if a.status != 0 {
			a.detail += " " + strconv.Itoa(a.status)
		}
	}
	return a
}

func (s *senderClient) try(ctx context.Context, id int64, phone, text string) attempt {
	number, err := strconv.ParseInt(phone, 10, 64)
	if err != nil {
		return attempt{result: attemptRefused, detail: "the phone is no number"}
	}
	body, err := json.Marshal(struct {
		ID    int64  `json:"id"`
		Phone int64  `json:"phone"`
		Text  string `json:"text"`
	}{id, number, text})
	if err != nil {
		return attempt{result: attemptRefused, detail: "the text cannot be sent"}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/send/"+strconv.FormatInt(id, 10), bytes.NewReader(body))
	if err != nil {
		return attempt{result: attemptReset, detail: "the provider's address is bad"}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := s.http.Do(req)
	if err != nil {
		return attempt{result: failedBy(ctx, err)}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	a := attempt{status: resp.StatusCode, after: web.RetryAfter(resp.Header)}
	switch code := resp.StatusCode; {
	case code == http.StatusOK && err != nil:
		a.result = failedBy(ctx, err)
	case code == http.StatusOK && accepted(answer):
		a.result = attemptAccepted
	case code == http.StatusOK:
		a.result = attemptGarbage
	case code == http.StatusBadRequest:
		a.result = attemptRefused
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		a.result = attemptUnauthorized
	case code == http.StatusTooManyRequests:
		a.result = attemptThrottled
	default:
		a.result = attemptServerError
	}
	return a
}

// accepted tells whether an answer says so: {"code":0,"message":"OK"}.
func accepted(answer []byte) bool {
	var said struct {
		Code    *int   `json:"code"`
		Message string `json:"message"`
	}
	return json.Unmarshal(answer, &said) == nil && said.Code != nil && *said.Code == 0 && said.Message == "OK"
}

func failedBy(ctx context.Context, err error) attemptResult {
	var timeout net.Error
	if ctx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout() {
		return attemptTimeout
	}
	return attemptReset
}

func (s *senderClient) close() { s.http.CloseIdleConnections() }
