package eventlog

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"switchboard/platform/errs"
)

// Logger takes entries. [Log] is the one that writes them; a module's parts
// should ask for this.
type Logger interface {
	// Log takes over e, with its slices, which must not be changed afterwards.
	// It never waits. An error, always errs.Invalid, says that no strategy
	// could ever write this entry.
	Log(ctx context.Context, e Entry) error
}

// Entry is something that happened.
type Entry struct {
	// ID is unique within a module and opaque: it lies in the clear. Empty
	// means a new UUID. The strategies that promise at-least-once store an id
	// once, so that whoever may come by an entry twice should give it.
	ID string `json:"id"`
	// Time is when it happened; zero means now. Kept to the microsecond.
	Time time.Time `json:"time"`
	// Module is the one of the Log; it may be left empty.
	Module string `json:"module"`
	// Event names what happened, as in "order.created"; lies in the clear.
	Event string `json:"event"`
	// Text is the rest of the line, as in "orderId: cfa3…".
	Text string `json:"text,omitempty" pii:"content"`
	// Refs are what it is about and can be found by.
	Refs []Ref `json:"refs,omitempty"`
	// Targets are the receivers, opaque ids: the entry stands for one line
	// more for each, "event sent to: <target>".
	Targets []string `json:"targets,omitempty"`
	// TargetKind says what the targets are, as in "socket".
	TargetKind string `json:"target_kind,omitempty"`
	// Data holds details, valid JSON.
	Data json.RawMessage `json:"data,omitempty" pii:"content"`
}

// Ref names a thing that an entry is about.
type Ref struct {
	Kind string `json:"kind"`             // "room", "campaign", …; lies in the clear in some strategies
	ID   string `json:"id" pii:"content"` // what it is called there
	// Serial tells that the ID is a number that was given out in order, such as a
	// row's, and nothing of a person: it is indexed as it is. A blind index is in
	// random order, which costs a page of the disk for each entry.
	Serial bool `json:"-"`
}

// SerialRef names a thing by its serial number.
func SerialRef(kind string, id int64) Ref {
	return Ref{Kind: kind, ID: strconv.FormatInt(id, 10), Serial: true}
}

// serial is the number of a serial ref.
func (r Ref) serial() (n uint64, ok bool) {
	n, err := strconv.ParseUint(r.ID, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == r.ID
}

// Bounds of an entry.
const (
	maxName  = 1024 // bytes of ID, Event, TargetKind, the kind of a Ref, a target
	maxRefs  = 64
	maxEntry = 8 << 20 // bytes in all
)

// complete fills in what was left out and refuses what cannot be written.
func (e *Entry) complete(module string, now func() time.Time) error {
	if e.Module == "" {
		e.Module = module
	}
	switch {
	case e.Module != module:
		return errs.New(errs.Invalid, "event log: an entry of the module %q in the log of %q", e.Module, module)
	case e.Event == "":
		return errs.New(errs.Invalid, "event log: an entry needs an event")
	case !name(e.ID), !name(e.Event), !name(e.TargetKind):
		return errs.New(errs.Invalid, "event log: id, event and target kind are text of at most %d bytes", maxName)
	case !utf8.ValidString(e.Text):
		return errs.New(errs.Invalid, "event log: the text is not UTF-8")
	case len(e.Refs) > maxRefs:
		return errs.New(errs.Invalid, "event log: more than %d refs", maxRefs)
	case len(e.Data) > 0 && !json.Valid(e.Data):
		return errs.New(errs.Invalid, "event log: data is not JSON")
	}
	for _, r := range e.Refs {
		if r.Kind == "" || r.ID == "" || !name(r.Kind) || !utf8.ValidString(r.ID) {
			return errs.New(errs.Invalid, "event log: a ref needs a kind and an id, both text")
		}
		if _, ok := r.serial(); r.Serial && !ok {
			return errs.New(errs.Invalid, "event log: the id of a serial ref is a number")
		}
	}
	if e.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return errs.Wrap(errs.Invalid, err, "event log: make an id")
		}
		e.ID = id.String()
	}
	if e.Time.IsZero() {
		e.Time = now()
	}
	e.Time = e.Time.UTC().Truncate(time.Microsecond)
	return nil
}

// name tells whether s can stand in a column, a header and a line.
func name(s string) bool {
	return len(s) <= maxName && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

// size is about what the entry takes in memory.
func (e *Entry) size() int {
	n := 256 + len(e.ID) + len(e.Event) + len(e.Text) + len(e.Data)
	for _, r := range e.Refs {
		n += 32 + len(r.Kind) + len(r.ID)
	}
	for _, t := range e.Targets {
		n += 16 + len(t)
	}
	return n
}

// sentTo is the text of a target's line.
const sentTo = "event sent to: "
