package collectorclient

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	route      = "collector/events"
	envelope   = `{"events":[]}`
	maxAnswer  = 16 << 20
	maxWait    = time.Hour // what Retry-After may ask for
	maxPerPost = 1000      // events, the collector's limit
	maxBody    = 8 << 20   // bytes, the collector's default limit
)

// verdict says what an attempt to send a batch came to.
type verdict int

const (
	settled verdict = iota // each event was accepted or rejected for good
	split                  // the batch is too large
	later                  // no answer, or one that asks for patience
	refused                // no answer will be another one until somebody mends something
)

// outcome is the collector's answer to one batch.
type outcome struct {
	verdict  verdict
	rejected *RejectedError
	failure  *SendError
	after    time.Duration // Retry-After
}

// sender turns a batch into a request and its answer into an outcome.
// It belongs to one goroutine.
type sender struct {
	url, key, secret string
	http             *http.Client
	gzipAbove        int
	now              func() time.Time
	gzip             *gzip.Writer
}

// send makes one attempt.
func (s *sender) send(ctx context.Context, batch [][]byte) outcome {
	req, err := s.request(ctx, batch)
	if err != nil {
		return outcome{verdict: later, failure: &SendError{Err: err}}
	}
	res, err := s.http.Do(req)
	if err != nil {
		return outcome{verdict: later, failure: &SendError{Err: err}}
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	err = errors.Join(err, res.Body.Close())
	if err != nil {
		return outcome{verdict: later, failure: &SendError{Status: res.StatusCode, Err: err}}
	}
	return s.judge(res, body, batch)
}

// request builds the body, compressed if it is worth it, and signs it.
func (s *sender) request(ctx context.Context, batch [][]byte) (*http.Request, error) {
	var body bytes.Buffer
	body.WriteString(envelope[:len(envelope)-2])
	for i, event := range batch {
		if i > 0 {
			body.WriteByte(',')
		}
		body.Write(event)
	}
	body.WriteString(envelope[len(envelope)-2:])
	encoding := ""
	if s.gzipAbove >= 0 && body.Len() > s.gzipAbove {
		var small bytes.Buffer
		s.gzip.Reset(&small)
		if _, err := s.gzip.Write(body.Bytes()); err != nil {
			return nil, err
		}
		if err := s.gzip.Close(); err != nil {
			return nil, err
		}
		body, encoding = small, "gzip"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body.Bytes()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.key)
	req.Header.Set("User-Agent", "switchboard-collectorclient")
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	if s.secret != "" {
		req.Header.Set("X-Signature", sign(s.secret, s.now(), body.Bytes()))
	}
	return req, nil
}

// sign gives the X-Signature of a body as sent.
func sign(secret string, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// answer is what is read of a 202, problem of anything else.
type (
	answer struct {
		Accepted *int `json:"accepted"`
		Rejected []struct {
			Index  int          `json:"index"`
			Errors []FieldError `json:"errors"`
		} `json:"rejected"`
	}
	problem struct {
		Title  string       `json:"title"`
		Detail string       `json:"detail"`
		Errors []FieldError `json:"errors"`
	}
)

// judge reads the collector's answer.
func (s *sender) judge(res *http.Response, body []byte, batch [][]byte) outcome {
	status := res.StatusCode
	if status == http.StatusAccepted {
		var a answer
		if err := json.Unmarshal(body, &a); err != nil || a.Accepted == nil {
			// Not a collector: a proxy's or a hotel's page.
			err = errors.Join(errors.New("not a collector's answer"), err)
			return outcome{verdict: later, failure: &SendError{Status: status, Err: err}}
		}
		return accepted(a, batch)
	}
	var p problem
	_ = json.Unmarshal(body, &p) // a foreign answer has no detail
	failure := &SendError{Status: status, Detail: p.Detail}
	if failure.Detail == "" {
		failure.Detail = p.Title
	}
	switch {
	case status == http.StatusUnprocessableEntity:
		return outcome{rejected: unacceptable(p, batch)}
	case status == http.StatusRequestEntityTooLarge && len(batch) > 1:
		return outcome{verdict: split}
	case status == http.StatusRequestEntityTooLarge:
		return outcome{rejected: &RejectedError{Status: status, Rejections: []Rejection{
			reject(batch[0], []FieldError{{Location: "body", Message: ErrTooLarge.Error()}}),
		}}}
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly,
		status == http.StatusTooManyRequests, status >= 500:
		return outcome{verdict: later, failure: failure, after: retryAfter(res.Header, s.now())}
	default:
		failure.Refused = true
		return outcome{verdict: refused, failure: failure}
	}
}

// accepted settles a batch by the answer's list of rejected events.
func accepted(a answer, batch [][]byte) outcome {
	var rejections []Rejection
	for _, r := range a.Rejected {
		if r.Index >= 0 && r.Index < len(batch) {
			rejections = append(rejections, reject(batch[r.Index], r.Errors))
		}
	}
	if rejections == nil {
		return outcome{}
	}
	return outcome{rejected: &RejectedError{Status: http.StatusAccepted, Rejections: rejections}}
}

// unacceptable gives each event of a batch the errors that name it
// (events[3].data…, body.events[3]…); an event that none names gets those that
// name no event, or else the problem's detail.
func unacceptable(p problem, batch [][]byte) *RejectedError {
	own := make([][]FieldError, len(batch))
	var common []FieldError
	for _, e := range p.Errors {
		if i, ok := eventIndex(e.Location); ok && i < len(batch) {
			own[i] = append(own[i], e)
		} else {
			common = append(common, e)
		}
	}
	if common == nil {
		common = []FieldError{{Location: "body", Message: strings.TrimSpace(p.Title + " " + p.Detail)}}
	}
	e := &RejectedError{Status: http.StatusUnprocessableEntity}
	for i, event := range batch {
		if own[i] == nil {
			own[i] = common
		}
		e.Rejections = append(e.Rejections, reject(event, own[i]))
	}
	return e
}

// eventIndex finds n in a location like body.events[n].data.path.
func eventIndex(location string) (int, bool) {
	_, rest, ok := strings.Cut(location, "events[")
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest, "]")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	return int(n), err == nil
}

func reject(line []byte, errs []FieldError) Rejection {
	var e event
	_ = json.Unmarshal(line, &e) // our own encoding
	return Rejection{ID: e.ID, Event: line, Errors: errs}
}

// retryAfter reads seconds or a date; 0 when there is none. A wait of more
// than an hour is taken for a mistake and cut.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxWait)
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(at.Sub(now), 0), maxWait)
	}
	return 0
}

// checkKey refuses what can't stand in a header.
func checkKey(key string) error {
	if key == "" {
		return errors.New("collectorclient: no key")
	}
	for _, r := range key {
		if r <= ' ' || r >= 0x7f {
			return fmt.Errorf("collectorclient: the key holds the character %q", r)
		}
	}
	return nil
}
