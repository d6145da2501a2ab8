package collectorclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// What Track, Flush, Close and New may return; look with [errors.Is].
var (
	ErrClosed     = errors.New("collectorclient: closed")
	ErrQueueFull  = errors.New("collectorclient: queue full")
	ErrInvalid    = errors.New("collectorclient: invalid event")
	ErrTooLarge   = errors.New("collectorclient: event too large")
	ErrSpoolInUse = errors.New("collectorclient: spool directory in use by another client")
)

// A FieldError is one thing the collector found wrong with an event.
type FieldError struct {
	Location string `json:"location"`
	Message  string `json:"message"`
}

// A Rejection is one event that the collector will never take, and why.
type Rejection struct {
	ID     string
	Event  json.RawMessage // as it was sent
	Errors []FieldError
}

// A RejectedError tells of events that were refused for good. They have left
// the queue.
type RejectedError struct {
	Status     int // 202 (others of the batch were accepted), 422 or 413
	Rejections []Rejection
}

func (e *RejectedError) Error() string {
	s := fmt.Sprintf("collectorclient: %d events rejected (%d)", len(e.Rejections), e.Status)
	if len(e.Rejections) == 1 {
		s = fmt.Sprintf("collectorclient: event rejected (%d)", e.Status)
	}
	if len(e.Rejections) > 0 && len(e.Rejections[0].Errors) > 0 {
		first := e.Rejections[0].Errors[0]
		s += ": " + first.Location + ": " + first.Message
	}
	return s
}

// A SendError tells of an attempt to send that failed. The events stay in the
// queue and go out with a later attempt.
type SendError struct {
	Status  int           // of the answer; 0 without one
	Detail  string        // the answer's detail or title
	Err     error         // why there was no answer, or no usable one
	Refused bool          // no attempt will help until somebody mends the key or the address
	Queued  int           // events waiting
	Retry   time.Duration // until the next attempt
}

func (e *SendError) Error() string {
	s := "collectorclient: "
	if e.Status != 0 {
		s += fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
		if e.Detail != "" {
			s += ": " + e.Detail
		}
		if e.Err != nil {
			s += ": "
		}
	}
	if e.Err != nil {
		s += e.Err.Error()
	}
	return s + fmt.Sprintf(" (%d events queued, next attempt in %s)", e.Queued, e.Retry.Round(time.Millisecond))
}

func (e *SendError) Unwrap() error { return e.Err }

// An UnsentError is what Flush and Close return when they ended before
// everything was sent.
type UnsentError struct {
	Count   int   // events unsent
	Spooled bool  // they are in the spool and the next client sends them; otherwise, after Close, they are lost
	Err     error // the last failure, or the context's
}

func (e *UnsentError) Error() string {
	s := fmt.Sprintf("collectorclient: %d events unsent", e.Count)
	if e.Spooled {
		s += ", kept in the spool"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *UnsentError) Unwrap() error { return e.Err }
