package web

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/auth"
	"switchboard/platform/bus"
	"switchboard/platform/errs"
)

// ProblemDocument is the body of every error answer (RFC 9457).
type ProblemDocument struct {
	Type   string       `json:"type" example:"about:blank" doc:"Kind of problem as a URI; about:blank means that the status says it all."`
	Title  string       `json:"title" example:"Unprocessable Entity" doc:"The status in words."`
	Status int          `json:"status" example:"422" doc:"The HTTP status."`
	Detail string       `json:"detail,omitempty" doc:"What went wrong this time."`
	Errors []errs.Field `json:"errors,omitempty" doc:"The places in the request that are at fault."`

	header http.Header // further headers of the answer
	cause  error       // a fault of ours, for the log
}

const problemType = "application/problem+json"

func newProblem(status int, detail string, fields ...errs.Field) *ProblemDocument {
	title := http.StatusText(status)
	if title == "" {
		title = "Status " + strconv.Itoa(status)
	}
	return &ProblemDocument{Type: "about:blank", Title: title, Status: status, Detail: detail, Errors: fields}
}

// Error, GetStatus, GetHeaders and ContentType make a ProblemDocument an error
// that huma writes as it is.
func (p *ProblemDocument) Error() string { return p.Detail }

// GetStatus gives the HTTP status.
func (p *ProblemDocument) GetStatus() int { return p.Status }

// GetHeaders gives the further headers of the answer.
func (p *ProblemDocument) GetHeaders() http.Header { return p.header }

// ContentType tells huma the media type.
func (p *ProblemDocument) ContentType(string) string { return problemType }

func (p *ProblemDocument) with(name, value string) *ProblemDocument {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

// Fail answers r with the problem that err means:
//
//	errs.Invalid      422, with its fields
//	errs.NotFound     404
//	errs.Conflict     409
//	errs.Denied       403
//	errs.Unavailable  503 and Retry-After
//	anything else     500 without its text, which is logged once
//
// The errors of ReadBody keep their own statuses (400, 408, 413, 415). If the
// answer has begun already, nothing more is written.
func Fail(w http.ResponseWriter, r *http.Request, err error) {
	write(w, r, problemOf(err))
}

// Problem answers r with a problem of that status. The detail and the fields
// are shown to the client.
func Problem(w http.ResponseWriter, r *http.Request, status int, detail string, fields ...errs.Field) {
	write(w, r, newProblem(status, detail, fields...))
}

// write sends p, or only notes it if the header is gone already.
func write(w http.ResponseWriter, r *http.Request, p *ProblemDocument) {
	x := exchangeOf(r.Context())
	if x == nil {
		x, _ = w.(*exchange)
	}
	if x != nil {
		x.note(p)
		if x.status != 0 {
			return
		}
		if c := x.capture; c != nil { // the problem replaces what was captured
			c.status = 0
			c.body.Reset()
		}
	}
	h := w.Header()
	for _, name := range []string{"Content-Encoding", "Etag", "Last-Modified"} {
		h.Del(name)
	}
	h["Cache-Control"] = headerNoStore
	for name, values := range p.header {
		h[name] = values
	}
	h["Content-Type"] = headerProblem
	body, err := encode(p)
	if err != nil { // a Field with a value that has no JSON form
		p.Errors = nil
		body, _ = encode(p)
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

// note keeps the fault behind a problem for the log line of the request.
func (x *exchange) note(p *ProblemDocument) {
	if p.cause != nil && x.failure == nil {
		x.failure = p.cause
	}
}

// problemOf is the one place where an error becomes a status.
func problemOf(err error) *ProblemDocument {
	var doc *ProblemDocument
	var limit *auth.LimitError
	var tooLarge *http.MaxBytesError
	var status huma.StatusError
	switch {
	case errors.As(err, &doc):
		return doc
	case errors.As(err, &limit):
		return newProblem(http.StatusTooManyRequests, "too many wrong credentials from this address").
			with("Retry-After", seconds(limit.RetryAfter))
	case errors.As(err, &tooLarge):
		return newProblem(http.StatusRequestEntityTooLarge, "the request body is larger than "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes")
	}
	switch errs.KindOf(err) {
	case errs.Invalid:
		return newProblem(http.StatusUnprocessableEntity, publicText(err), errs.FieldsOf(err)...)
	case errs.NotFound:
		return newProblem(http.StatusNotFound, publicText(err))
	case errs.Conflict:
		return newProblem(http.StatusConflict, publicText(err), errs.FieldsOf(err)...)
	case errs.Denied:
		return newProblem(http.StatusForbidden, publicText(err), errs.FieldsOf(err)...)
	case errs.Unavailable:
		status := http.StatusServiceUnavailable
		if errors.Is(err, bus.ErrNoSpace) {
			status = http.StatusInsufficientStorage
		}
		p := newProblem(status, publicText(err)).with("Retry-After", "2")
		p.cause = err
		return p
	}
	if errors.As(err, &status) { // a module's own huma error: its status, its text
		return newProblem(status.GetStatus(), status.Error())
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		// The client left or the server stops: nobody's fault, nothing to log.
		return newProblem(http.StatusServiceUnavailable, "the request was cut off").with("Retry-After", "2")
	}
	p := newProblem(http.StatusInternalServerError, "an internal error occurred; the request id finds it in the log")
	p.cause = err
	return p
}

// publicText is what a client may read of err: the texts that carry a kind,
// and never the cause beneath them, which may be a database's or a path.
func publicText(err error) string {
	var parts []string
	for {
		var e *errs.Error
		if !errors.As(err, &e) || e.Kind == errs.Internal {
			break
		}
		if e.Text != "" {
			parts = append(parts, e.Text)
		}
		err = e.Cause
		if err == nil {
			break
		}
	}
	return strings.Join(parts, ": ")
}

// seconds formats a Retry-After, at least 1.
func seconds(d time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(d.Seconds()))))
}

// adoptHuma makes huma's own errors problems of ours. huma keeps these hooks
// in package variables; they are set once and hold no state of any server, so
// that several servers can run in one process.
var adoptHuma = sync.OnceFunc(func() {
	huma.NewError = func(status int, msg string, causes ...error) huma.StatusError {
		for _, err := range causes {
			var doc *ProblemDocument
			if errors.As(err, &doc) {
				return doc
			}
		}
		if status >= 500 {
			return problemOf(errors.Join(append(causes, errors.New(msg))...))
		}
		fields := make([]errs.Field, 0, len(causes))
		for _, err := range causes {
			if err != nil {
				fields = append(fields, fieldOf(err))
			}
		}
		if (status == http.StatusBadRequest || status == http.StatusUnsupportedMediaType) && len(fields) == 1 && fields[0].Location == "body" {
			msg = fields[0].Message
		}
		return newProblem(status, msg, fields...)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, causes ...error) huma.StatusError {
		err := huma.NewError(status, msg, causes...)
		if p, ok := err.(*ProblemDocument); ok && ctx != nil {
			for name, values := range p.header {
				ctx.SetHeader(name, values[0])
			}
			if x := exchangeOf(ctx.Context()); x != nil {
				x.note(p)
			}
		}
		return err
	}
})

func fieldOf(err error) errs.Field {
	var d huma.ErrorDetailer
	if !errors.As(err, &d) {
		return errs.Field{Message: err.Error()}
	}
	detail := d.ErrorDetail()
	return errs.Field{Location: detail.Location, Message: detail.Message, Value: harmless(detail.Value)}
}

// harmless gives back a bad value only if it can be neither personal nor
// secret: a bool, or a number too short for a phone number, a document number
// or a code. Text is never repeated.
func harmless(v any) any {
	switch n := v.(type) {
	case bool:
		return n
	case float64:
		if math.Abs(n) < 10_000 {
			return n
		}
	case int64:
		if n > -10_000 && n < 10_000 {
			return n
		}
	}
	return nil
}
