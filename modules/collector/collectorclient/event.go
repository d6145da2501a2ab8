package collectorclient

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"
)

// maxSession is the collector's limit for a session id, in characters.
const maxSession = 256

// timeFormat is RFC 3339 with the microseconds that the collector keeps.
const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

// event is one event as the collector reads it.
type event struct {
	ID        string          `json:"id"`
	SessionID string          `json:"session_id"`
	UserID    string          `json:"user_id,omitempty"`
	Category  string          `json:"category"`
	Name      string          `json:"name"`
	Data      json.RawMessage `json:"data"`
	Timestamp string          `json:"timestamp"`

	at time.Time
}

// A TrackOption sets what [Client.Track] would choose itself.
type TrackOption func(*event)

// WithID sets the event's id. The collector stores an id once per
// application: track a fact under an id made from it, and it counts once
// however often it is tracked.
func WithID(id string) TrackOption { return func(e *event) { e.ID = id } }

// WithTime sets when the event occurred; the default is now.
func WithTime(at time.Time) TrackOption { return func(e *event) { e.at = at } }

// WithUser sets the event's user_id.
func WithUser(id string) TrackOption { return func(e *event) { e.UserID = id } }

// encode checks the event as far as no schema is needed for it and gives its
// JSON.
func (e *event) encode(data any) ([]byte, error) {
	switch n := utf8.RuneCountInString(e.SessionID); {
	case n == 0:
		return nil, fmt.Errorf("%w: empty session", ErrInvalid)
	case n > maxSession:
		return nil, fmt.Errorf("%w: session of %d characters, at most %d", ErrInvalid, n, maxSession)
	case e.Category == "":
		return nil, fmt.Errorf("%w: empty category", ErrInvalid)
	case e.Name == "":
		return nil, fmt.Errorf("%w: empty name", ErrInvalid)
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("%w: data: %w", ErrInvalid, err)
	}
	if bytes.Equal(raw, []byte("null")) {
		raw = []byte("{}")
	}
	if raw[0] != '{' {
		return nil, fmt.Errorf("%w: data is not a JSON object", ErrInvalid)
	}
	e.Data = raw
	e.Timestamp = e.at.UTC().Format(timeFormat)
	line, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return line, nil
}

// newID makes a UUIDv7 (RFC 9562, method 3: the twelve bits after the
// milliseconds are their fraction, so that ids sort by time).
func newID(at time.Time) string {
	var id [16]byte
	ms := at.UnixMilli()
	fraction := at.Sub(time.UnixMilli(ms)) * 4096 / time.Millisecond
	binary.BigEndian.PutUint64(id[:8], uint64(ms)<<16|0x7000|uint64(fraction)&0xfff)
	_, _ = rand.Read(id[8:]) // never fails
	id[8] = id[8]&0x3f | 0x80
	var s [36]byte
	hex.Encode(s[:8], id[:4])
	hex.Encode(s[9:13], id[4:6])
	hex.Encode(s[14:18], id[6:8])
	hex.Encode(s[19:23], id[8:10])
	hex.Encode(s[24:], id[10:])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}
