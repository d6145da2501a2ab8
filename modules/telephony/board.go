package telephony

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// The frames of the boards' protocol, which clients of other makers speak: a
// text of JSON with the members data, event and status, in this order.
var (
	frameWelcome        = []byte(`{"data":"Welcome","event":"Welcome","status":"Ok"}`)
	frameChanged        = []byte(`{"data":{},"event":"DataChanged","status":"Ok"}`)
	frameSubscribed     = []byte(`{"data":{"success":true},"event":"Subscribe","status":"Ok"}`)
	frameInvalidMessage = frameFailed("InvalidMessage", "invalid body")
	frameInvalidEvent   = frameFailed("InvalidEvent", "no suitable eventHandler for this event")
)

const (
	eventListCalls      = "ListCalls"
	eventListCallEvents = "ListCallEvents"
	eventSubscribe      = "Subscribe"
	eventCallEvent      = "CallEvent"
)

// frameFailed says why a request was not answered.
func frameFailed(event, reason string) []byte {
	b := appendText([]byte(`{"data":{"success":false,"error":`), reason)
	b = appendText(append(b, `},"event":`...), event)
	return append(b, `,"status":"Failed"}`...)
}

// frameList is the answer to a request for a list, whose entries append adds.
// next is the cursor of what follows; the frame has it only if something does.
func frameList(event string, n int, next string, add func(b []byte, i int) []byte) []byte {
	b := append(make([]byte, 0, 64+160*n), `{"data":[`...)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = add(b, i)
	}
	b = appendText(append(b, `],"event":`...), event)
	b = append(b, `,"status":"Ok"`...)
	if next != "" {
		b = appendText(append(b, `,"next":`...), next)
	}
	return append(b, '}')
}

// frameCallEvent tells of an event that was stored.
func frameCallEvent(r *recorded) []byte {
	b := append(make([]byte, 0, 192+len(r.Event)), `{"data":`...)
	b = appendRecorded(b, r)
	return append(b, `,"event":"`+eventCallEvent+`","status":"Ok"}`...)
}

// Times have milliseconds in these frames, and not microseconds as elsewhere.
const boardTime = "2006-01-02T15:04:05.000Z"

func appendBrief(b []byte, c *briefCall) []byte {
	b = strconv.AppendInt(append(b, `{"id":`...), c.ID, 10)
	b = appendText(append(b, `,"aggregate_id":`...), c.CallID)
	b = append(append(b, `,"state":"`...), c.State.String()...)
	b = c.CreatedAt.UTC().AppendFormat(append(b, `","created_at":"`...), boardTime)
	b = c.UpdatedAt.UTC().AppendFormat(append(b, `","updated_at":"`...), boardTime)
	return append(b, `"}`...)
}

func appendRecorded(b []byte, r *recorded) []byte {
	b = strconv.AppendInt(append(b, `{"id":`...), r.ID, 10)
	b = appendText(append(b, `,"aggregate_id":`...), r.CallID)
	b = append(append(b, `,"uuid":"`...), r.UUID.String()...)
	b = append(append(b, `","event":`...), r.Event...)
	return append(b, '}')
}

// appendText adds a text as JSON.
func appendText(b []byte, text string) []byte {
	out, err := jsontext.AppendQuote(b, text)
	if err != nil { // not UTF-8; it came with U+FFFD in the bad places
		out, _ = jsontext.AppendQuote(b, strings.ToValidUTF8(text, "\ufffd"))
	}
	return out
}

// boardRequest is what a client asks for.
type boardRequest struct {
	Event string
	Data  json.RawMessage // nil without
}

// decodeBoardRequest reads a frame of a client; false for what is no request.
// Names count as they are written, and members without a meaning are ignored.
func decodeBoardRequest(text []byte) (r boardRequest, ok bool) {
	var members map[string]json.RawMessage
	if !utf8.Valid(text) || json.Unmarshal(text, &members) != nil {
		return r, false
	}
	if raw := members["event"]; len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &r.Event) != nil || r.Event == "" {
		return r, false
	}
	r.Data = members["data"]
	return r, true
}

// members reads data, which may be absent or null.
func (r *boardRequest) members() (map[string]json.RawMessage, error) {
	if len(r.Data) == 0 {
		return nil, nil
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(r.Data, &members) != nil {
		return nil, errors.New("data: want an object")
	}
	return members, nil
}

// boardPage is which part of a list is wanted.
type boardPage struct {
	Limit  int
	Cursor string
}

const (
	// maxBoardList is the longest list in one answer, and the default.
	maxBoardList = 1000
	// maxBoardParams is how many objects may be given in params.
	maxBoardParams = 100
)

func decodeBoardPage(data map[string]json.RawMessage) (p boardPage, err error) {
	p.Limit = maxBoardList
	if raw, given := data["limit"]; given && string(raw) != "null" {
		n, err := strconv.Atoi(string(raw))
		if err != nil || n < 1 || n > maxBoardList {
			return p, fmt.Errorf("limit: want a number between 1 and %d", maxBoardList)
		}
		p.Limit = n
	}
	if raw, given := data["cursor"]; given && string(raw) != "null" {
		if json.Unmarshal(raw, &p.Cursor) != nil || p.Cursor == "" {
			return p, errBoardCursor
		}
	}
	return p, nil
}

var errBoardCursor = errors.New("cursor: want the next of an earlier answer")

// boardCursor writes a place in a list.
func boardCursor(place ...int64) string {
	var parts []string
	for _, n := range place {
		parts = append(parts, strconv.FormatInt(n, 36))
	}
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(parts, ".")))
}

// parseBoardCursor reads a place of n numbers.
func parseBoardCursor(cursor string, n int) ([]int64, error) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	parts := strings.Split(string(text), ".")
	if err != nil || len(parts) != n {
		return nil, errBoardCursor
	}
	place := make([]int64, n)
	for i, part := range parts {
		if place[i], err = strconv.ParseInt(part, 36, 64); err != nil {
			return nil, errBoardCursor
		}
	}
	return place, nil
}

// boardMatch is an object of params. The call's id is its own member, as it is
// looked up by its index.
type boardMatch struct {
	callMatch
	CallID *string
}

// decodeBoardParams reads the params of ListCalls: absent, null or empty for all
// calls, an object whose members must all match, or an array of such objects of
// which one must. None: all calls.
func decodeBoardParams(raw json.RawMessage) ([]boardMatch, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	objects := []map[string]json.RawMessage{nil}
	switch {
	case raw[0] == '{' && json.Unmarshal(raw, &objects[0]) == nil:
	case raw[0] == '[' && json.Unmarshal(raw, &objects) == nil:
	default:
		return nil, errors.New("params: want an object, or an array of objects")
	}
	if len(objects) > maxBoardParams {
		return nil, fmt.Errorf("params: want at most %d objects", maxBoardParams)
	}
	matches := make([]boardMatch, 0, len(objects))
	for _, object := range objects {
		if object == nil {
			return nil, errors.New("params: want an object, or an array of objects")
		}
		var m boardMatch
		for _, key := range slices.Sorted(maps.Keys(object)) {
			if err := m.set(key, object[key]); err != nil {
				return nil, fmt.Errorf("params.%w", err)
			}
		}
		matches = append(matches, m)
	}
	if slices.ContainsFunc(matches, func(m boardMatch) bool { return m == (boardMatch{}) }) {
		return nil, nil // it matches every call
	}
	return matches, nil
}

// set restricts the match to calls whose key has the value.
func (m *boardMatch) set(key string, raw json.RawMessage) error {
	if !slices.Contains([]string{"id", "aggregate_id", "state", "created_at", "updated_at"}, key) {
		return fmt.Errorf("%.64q: is not one of id, aggregate_id, state, created_at, updated_at", key)
	}
	value, text, ok := boardValue(raw)
	if !ok {
		return fmt.Errorf("%s: want a text or a number", key)
	}
	switch key {
	case "id":
		id, err := strconv.ParseInt(value, 10, 64)
		if m.ID = id; err != nil || id < 1 {
			m.ID, m.None = 0, true
		}
	case "aggregate_id":
		m.CallID = &value
	case "state":
		if m.State = parseState(value); m.State == 0 || !text {
			return errors.New("state: want one of " + strings.Join(stateNames[1:], ", "))
		}
	case "created_at", "updated_at":
		at, err := boardMoment(value, text)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		// What frames show is cut to the millisecond.
		span := &timeRange{From: at, To: at.Add(time.Millisecond - time.Microsecond)}
		if key == "created_at" {
			m.CreatedAt = span
		} else {
			m.UpdatedAt = span
		}
	}
	return nil
}

// boardValue reads a text, or a number as it is written.
func boardValue(raw json.RawMessage) (value string, text, ok bool) {
	switch {
	case len(raw) == 0:
		return "", false, false
	case raw[0] == '"':
		ok = json.Unmarshal(raw, &value) == nil
		return value, true, ok
	case raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9':
		return string(raw), false, true
	}
	return "", false, false
}

// boardMoment reads a time as events write it, or milliseconds since 1970, cut
// to the millisecond.
func boardMoment(value string, text bool) (time.Time, error) {
	if text {
		at, err := parseTime(value)
		return at.Truncate(time.Millisecond), err
	}
	ms, err := strconv.ParseFloat(value, 64)
	if err != nil || math.Abs(ms) > 253402300799999 { // the year 9999
		return time.Time{}, errTime
	}
	return time.UnixMilli(int64(ms)).UTC(), nil
}
