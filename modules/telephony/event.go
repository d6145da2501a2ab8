package telephony

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"switchboard/platform/errs"
)

// kind is a type of event that has a meaning here. The numbers are stored.
type kind int

const (
	kindOther kind = iota // kept and listed, and nothing more
	kindNew
	kindStandby
	kindWaiting
	kindOngoing
	kindFinished
	kindOverflow
	kindFollowMe
	kindQueueAbandon
	kindRecording
	kindData
	kindCPF
	kindCNPJ
	kindEntered
	kindLeft
	kindRinging
	kindNoAnswer
	kindLoggedIn
	kindLoggedOut
	kindPaused
	kindUnpaused
	kindPeerRinging
	kindDialAttempt
	kindDialSuccess
	kindDialFailure
	kindDialExpired
	kindDialExceeded
)

// kinds are the 26 types that the platform documents.
var kinds = map[string]kind{
	"call.new":                 kindNew,
	"call.standby":             kindStandby,
	"call.waiting":             kindWaiting,
	"call.ongoing":             kindOngoing,
	"call.finished":            kindFinished,
	"call.overflow":            kindOverflow,
	"call.follow-me":           kindFollowMe,
	"call.queue-abandon":       kindQueueAbandon,
	"call.recording-available": kindRecording,
	"call.data-provided":       kindData,
	"call.cpf-provided":        kindCPF,
	"call.cnpj-provided":       kindCNPJ,
	"actor.entered":            kindEntered,
	"actor.left":               kindLeft,
	"actor.ringing":            kindRinging,
	"actor.noanswer":           kindNoAnswer,
	"actor.logged-in":          kindLoggedIn,
	"actor.logged-out":         kindLoggedOut,
	"actor.paused":             kindPaused,
	"actor.unpaused":           kindUnpaused,
	"peer.ringing":             kindPeerRinging,
	"dialer.attempt":           kindDialAttempt,
	"dialer.success":           kindDialSuccess,
	"dialer.failure":           kindDialFailure,
	"dialer.expired":           kindDialExpired,
	"dialer.exceeded":          kindDialExceeded,
}

const (
	maxType   = 128     // bytes
	maxCallID = 256     // bytes
	maxField  = 1 << 10 // bytes of another field that is read
	maxEvent  = 1 << 20 // bytes of an event
)

// event is a posted event, read.
type event struct {
	Raw  json.RawMessage // as it was posted, but for white space
	Type string
	Kind kind
	At   time.Time // the platform's timestamp, to the microsecond
	// What is said of the call and by whom; empty where the event does not say.
	CallID, Code, Direction, OurNumber, TheirNumber, TheirNumberType string
	Queue, Actor, Number, Destination, URL                           string

	actorAt []span // where the values of actor and number stand in Raw
}

// span is a part of a text, in bytes.
type span struct{ from, to int }

// decodeEvent reads a webhook's body. Whatever it cannot take is an Invalid
// error that names the field.
func decodeEvent(body []byte) (*event, error) {
	if len(bytes.TrimLeft(body, " \t\r\n")) == 0 {
		return nil, errs.InvalidFields("the body is empty", errs.Field{Location: "body", Message: "is empty"})
	}
	raw := jsontext.Value(bytes.Clone(body))
	// RFC 7493: what a reader could take in two ways is refused.
	if err := raw.Compact(jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false)); err != nil {
		why := "is not valid JSON"
		switch {
		case errors.Is(err, jsontext.ErrDuplicateName):
			why = "has a name twice in one object"
		case errors.Is(err, io.ErrUnexpectedEOF):
			why = "is JSON that ends too early"
		}
		return nil, errs.InvalidFields("the body "+why, errs.Field{Location: "body", Message: why})
	}
	if raw.Kind() != '{' {
		return nil, errs.InvalidFields("the body is not an event", errs.Field{Location: "body", Message: "want an object"})
	}
	e := &event{Raw: json.RawMessage(raw)}
	r := eventReader{event: e}
	if err := r.read(); err != nil {
		return nil, err
	}
	r.check()
	if len(r.faults) > 0 {
		return nil, errs.InvalidFields("the event is not valid", r.faults...)
	}
	return e, nil
}

// eventReader reads the members of an event that have a meaning.
type eventReader struct {
	event     *event
	timestamp string
	faults    []errs.Field
}

func (r *eventReader) fault(field, message string) {
	r.faults = append(r.faults, errs.Field{Location: "body." + field, Message: message})
}

// place is where the text of a member goes; nil for one without a meaning.
func (r *eventReader) place(name string) *string {
	e := r.event
	switch name {
	case "type":
		return &e.Type
	case "timestamp":
		return &r.timestamp
	case "call_id":
		return &e.CallID
	case "code":
		return &e.Code
	case "direction":
		return &e.Direction
	case "our_number":
		return &e.OurNumber
	case "their_number":
		return &e.TheirNumber
	case "their_number_type":
		return &e.TheirNumberType
	case "queue":
		return &e.Queue
	case "actor":
		return &e.Actor
	case "number":
		return &e.Number
	case "destination":
		return &e.Destination
	case "url":
		return &e.URL
	}
	return nil
}

var eventDecoders = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

// read fills in the event from its Raw, which is valid. Where a member is
// neither a text nor a number its place stays empty.
func (r *eventReader) read() error {
	dec := eventDecoders.Get().(*jsontext.Decoder)
	defer eventDecoders.Put(dec)
	dec.Reset(bytes.NewBuffer(r.event.Raw))
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	text := string(r.event.Raw) // what is read are parts of it
	for dec.PeekKind() != '}' {
		name, err := dec.ReadValue()
		if err != nil {
			return err
		}
		plain, err := unquote(name, text, int(dec.InputOffset()))
		if err != nil {
			return err
		}
		to := r.place(plain)
		if to == nil {
			if err := dec.SkipValue(); err != nil {
				return err
			}
			continue
		}
		value, err := dec.ReadValue()
		if err != nil {
			return err
		}
		end := int(dec.InputOffset())
		if plain == "actor" || plain == "number" {
			r.event.actorAt = append(r.event.actorAt, span{end - len(value), end})
		}
		switch value.Kind() {
		case '"':
			if *to, err = unquote(value, text, end); err != nil {
				return err
			}
		case '0': // some senders write numbers as numbers
			*to = text[end-len(value) : end]
		}
	}
	return nil
}

// unquote gives the text of a JSON string that ends at a place of the whole.
func unquote(value jsontext.Value, whole string, end int) (string, error) {
	if bytes.IndexByte(value, '\\') < 0 {
		return whole[end-len(value)+1 : end-1], nil
	}
	plain, err := jsontext.AppendUnquote(nil, value)
	return string(plain), err
}

// check says what is wrong with what was read.
func (r *eventReader) check() {
	e := r.event
	need := []string{"type", "timestamp"}
	if strings.HasPrefix(e.Type, "call.") {
		need = append(need, "call_id")
	}
	for _, name := range need {
		if *r.place(name) == "" {
			r.fault(name, "is missing: want a text")
		}
	}
	switch {
	case len(e.Type) > maxType:
		r.fault("type", fmt.Sprintf("is longer than %d bytes", maxType))
	case len(e.CallID) > maxCallID:
		r.fault("call_id", fmt.Sprintf("is longer than %d bytes", maxCallID))
	}
	for _, f := range [...]struct{ name, value string }{{"code", e.Code}, {"direction", e.Direction}, {"our_number", e.OurNumber}, {"their_number", e.TheirNumber},
		{"their_number_type", e.TheirNumberType}, {"queue", e.Queue}, {"actor", e.Actor}, {"number", e.Number}, {"destination", e.Destination}, {"url", e.URL}} {
		if len(f.value) > maxField {
			r.fault(f.name, fmt.Sprintf("is longer than %d bytes", maxField))
		}
	}
	e.Kind = kinds[e.Type]
	if r.timestamp != "" {
		var err error
		if e.At, err = parseTime(r.timestamp); err != nil {
			r.fault("timestamp", err.Error())
		}
	}
}

var errTime = errors.New("is not a time: want RFC 3339, such as 2017-01-01T00:00:00Z")

// parseTime reads a time as platforms write it: RFC 3339, or the same without a
// zone, which is UTC. It cuts to the microsecond.
func parseTime(text string) (time.Time, error) {
	if len(text) > 40 {
		return time.Time{}, errTime
	}
	for _, layout := range [...]string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil && t.UTC().Year() >= 1900 && t.UTC().Year() <= 9999 {
			return t.UTC().Truncate(time.Microsecond), nil
		}
	}
	return time.Time{}, errTime
}

// canonical is a form in which two bodies are equal if they say the same:
// members sorted, strings in their shortest form, numbers as they stand.
func (e *event) canonical() ([]byte, error) {
	return jsontext.AppendFormat(nil, []byte(e.Raw), jsontext.ReorderRawObjects(true))
}

// An event of a call tells of two persons: the one who calls and the one who
// answers. split takes out what tells of the actor, so that the two parts can
// be sealed under a key each.
func (e *event) split() (body, actor []byte, err error) {
	var cuts []cut
	at := 0
	for _, s := range e.actorAt {
		body = append(append(body, e.Raw[at:s.from]...), "null"...)
		cuts = append(cuts, cut{len(body) - len("null"), e.Raw[s.from:s.to]})
		at = s.to
	}
	body = append(body, e.Raw[at:]...)
	actor, err = json.Marshal(cuts)
	return body, actor, err
}

// cut is a value that was taken out of a body; in its place stands null.
type cut struct {
	At    int             `json:"at"`
	Value json.RawMessage `json:"value"`
}

// join undoes split. Without the actor's part the body stays as it is.
func join(body, actor []byte) (json.RawMessage, error) {
	if actor == nil {
		return body, nil
	}
	var cuts []cut
	if err := json.Unmarshal(actor, &cuts); err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(body)+len(actor))
	at := 0
	for _, c := range cuts {
		end := c.At + len("null")
		if c.At < at || end > len(body) {
			return nil, errors.New("a part of an event is damaged")
		}
		out = append(append(out, body[at:c.At]...), c.Value...)
		at = end
	}
	return append(out, body[at:]...), nil
}
