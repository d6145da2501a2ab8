package mailing

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"switchboard/platform/errs"
	"switchboard/platform/web"
)

// importHTTP serves
//
//	POST /mailing/clients/import  take many clients by stream
type importHTTP struct {
	imports *importService
	log     *slog.Logger
	now     func() time.Time
}

const (
	importTick    = 200 * time.Millisecond // between two lines of progress
	importStalled = 30 * time.Second       // without a byte either way
	noLimit       = 1 << 50                // bytes of a body
)

// ImportLine is a line of the answer.
type ImportLine struct {
	Done *bool `json:"done,omitempty" doc:"Only on the last line: whether the import came to its end. Else error says why, and what was stored stays."`
	*ImportCounts
	Error   *ImportError `json:"error,omitempty"`
	Seconds *float64     `json:"seconds,omitempty" doc:"On the last line: how long it took."`
}

// ImportCounts is how far an import has got. Every line with a client is counted
// once, when it was stored or refused.
type ImportCounts struct {
	Line    int64 `json:"line" doc:"The line that was read last."`
	Created int64 `json:"created"`
	Updated int64 `json:"updated"`
	Skipped int64 `json:"skipped"`
	Failed  int64 `json:"failed"`
}

// ImportError says what is wrong, without repeating it.
type ImportError struct {
	Line    int64  `json:"line,omitempty" doc:"Of the file, from 1. Absent where the import itself failed."`
	Field   string `json:"field,omitempty" doc:"Absent where the line as a whole is at fault."`
	Message string `json:"message"`
}

func (h *importHTTP) routes(r *web.Router) {
	answer := r.ResponseOf("Lines of JSON (NDJSON): progress, an error for each bad line, and at the end the counts.", ImportLine{})
	answer.Content = map[string]*huma.MediaType{"application/x-ndjson": answer.Content["application/json"]}
	text := &huma.MediaType{Schema: &huma.Schema{Type: "string"}}
	choice := func(name, doc string, values ...any) *huma.Param {
		return &huma.Param{Name: name, In: "query", Description: doc, Schema: &huma.Schema{Type: "string", Enum: values}}
	}
	r.Handle(web.Op{ID: "mailing-import-clients", Method: http.MethodPost, Path: "/mailing/clients/import", Tag: tag,
		Summary: "Import clients by stream",
		Description: "CSV: a header with phone_number, tag, timezone, operator_code (may be missing) in any order, and further columns, which become attributes; " +
			"comma, semicolon or tab, as the header has it. NDJSON: a client on each line, as in POST /mailing/clients. UTF-8; lines of at most 64 KiB; any number of them. " +
			"Bad lines are told of and passed over. Where a number comes twice, the later line counts. " +
			"The answer comes while the body is being sent, and must be read meanwhile. " +
			"A client that goes away, or sends nothing for 30 seconds, ends the import; what was stored stays, and the same file can be sent again.",
		Scope: "mailing:write", Stream: true, MaxBody: noLimit, Errors: []int{415, 422, 503},
		Parameters: []*huma.Param{
			choice("existing", "What to do about a number that a client has already: update that client (default), skip the line, or refuse it as an error.", "update", "skip", "error"),
			choice("format", "Format of the body; as Content-Type says if absent.", "csv", "ndjson"),
		},
		Request:   &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"text/csv": text, "application/x-ndjson": text}},
		Responses: map[string]*huma.Response{"200": answer},
	}, http.HandlerFunc(h.take))
}

// formatOf gives the format of a body: csv, ndjson, or nothing.
func formatOf(r *http.Request) string {
	if format := r.URL.Query().Get("format"); format != "" {
		return format
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	switch media {
	case "text/csv":
		return "csv"
	case "application/x-ndjson", "application/ndjson", "application/jsonl":
		return "ndjson"
	}
	return ""
}

func (h *importHTTP) take(w http.ResponseWriter, r *http.Request) {
	mode := existing(r.URL.Query().Get("existing"))
	switch mode {
	case "":
		mode = existingUpdate
	case existingUpdate, existingSkip, existingError:
	default:
		web.Problem(w, r, http.StatusUnprocessableEntity, "the query is not valid", errs.Field{Location: "query.existing", Message: "must be update, skip or error"})
		return
	}
	control := http.NewResponseController(w)
	body := newPatientReader(r.Context(), r.Body, control)
	defer body.close()
	var source importSource
	var err error
	switch formatOf(r) {
	case "csv":
		source, err = newCSV(body)
	case "ndjson":
		source = newNDJSON(body)
	default:
		web.Problem(w, r, http.StatusUnsupportedMediaType, "clients come as text/csv or application/x-ndjson", errs.Field{Location: "header.Content-Type", Message: "is neither text/csv nor application/x-ndjson"})
		return
	}
	if err != nil {
		web.Fail(w, r, err)
		return
	}
	// Not before: a refusal is read by its client only if the server takes what
	// is left of the body.
	if err := control.EnableFullDuplex(); err != nil {
		web.Fail(w, r, fmt.Errorf("read and write at the same time: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	answer := &importAnswer{out: bufio.NewWriterSize(patientWriter{w, control}, 32<<10), control: control, now: h.now, told: h.now()}
	began := h.now()
	counts, err := h.imports.run(r.Context(), source, mode, answer)
	done, seconds := err == nil, h.now().Sub(began).Seconds()
	end := ImportLine{Done: &done, ImportCounts: shownCounts(counts), Seconds: &seconds}
	if err != nil {
		end.Error = &ImportError{Message: h.reason(r.Context(), err) + "; what was stored stays"}
	}
	_ = answer.line(end) // who is gone has no use for it
	_ = answer.flush()
}

// reason says why an import broke off: what its client did, or what may be told
// of what happened here.
func (h *importHTTP) reason(ctx context.Context, err error) string {
	var sent *web.ProblemDocument
	if errors.As(err, &sent) {
		return sent.Detail
	}
	if ctx.Err() == nil {
		h.log.ErrorContext(ctx, "import of clients failed", "error", err)
	}
	var known *errs.Error
	if errors.As(err, &known) {
		return known.Text
	}
	return "the server failed; see its log"
}

func shownCounts(c importCounts) *ImportCounts {
	return &ImportCounts{c.Line, c.Created, c.Updated, c.Skipped, c.Failed}
}

// importAnswer writes the lines of the answer.
type importAnswer struct {
	out     *bufio.Writer
	control *http.ResponseController
	now     func() time.Time
	told    time.Time
}

func (a *importAnswer) line(l ImportLine) error { return json.NewEncoder(a.out).Encode(l) }

func (a *importAnswer) flush() error {
	if err := a.out.Flush(); err != nil {
		return err
	}
	return a.control.Flush()
}

func (a *importAnswer) fault(f importFault) error {
	return a.line(ImportLine{Error: &ImportError{f.Line, f.Field, f.Message}})
}

func (a *importAnswer) progress(c importCounts) error {
	now := a.now()
	if now.Sub(a.told) < importTick {
		return nil
	}
	a.told = now
	if err := a.line(ImportLine{ImportCounts: shownCounts(c)}); err != nil {
		return err
	}
	return a.flush()
}

// patientReader reads a body that may come for hours, but not stall. It ends
// with ctx.
type patientReader struct {
	ctx     context.Context
	in      io.Reader
	control *http.ResponseController
	unhook  func() bool
}

func newPatientReader(ctx context.Context, in io.Reader, control *http.ResponseController) *patientReader {
	r := &patientReader{ctx: ctx, in: in, control: control}
	r.unhook = context.AfterFunc(ctx, func() { _ = control.SetReadDeadline(time.Unix(1, 0)) })
	return r
}

func (r *patientReader) Read(p []byte) (int, error) {
	// Deadlines of connections are of the real clock.
	_ = r.control.SetReadDeadline(time.Now().Add(importStalled))
	if err := r.ctx.Err(); err != nil {
		return 0, errs.Wrap(errs.Unavailable, err, "the import was ended")
	}
	return r.in.Read(p)
}

func (r *patientReader) close() { r.unhook() }

// patientWriter writes to a client that may read slowly, but not stop.
type patientWriter struct {
	w       io.Writer
	control *http.ResponseController
}

func (w patientWriter) Write(p []byte) (int, error) {
	_ = w.control.SetWriteDeadline(time.Now().Add(importStalled))
	return w.w.Write(p)
}
