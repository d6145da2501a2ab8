package crm

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Topics of the platform.
const (
	topicUser    = "internal_user_updated"
	topicBooking = "internal_booking_updated"
)

// rawEvent is an event as it came.
type rawEvent struct {
	Topic string
	// Log names the sequence it is from, and Seq its place there: the offset of
	// Kafka, the sequence of a stream. A Seq below 0 stands for the place on our
	// own stream.
	Log   string
	Seq   int64
	At    time.Time
	Value []byte
}

// encodeRaw gives the form in which an event rests on the bus.
func encodeRaw(e rawEvent) []byte {
	b := make([]byte, 0, len(e.Topic)+len(e.Log)+len(e.Value)+32)
	b = appendText(b, e.Topic)
	b = appendText(b, e.Log)
	b = binary.AppendVarint(b, e.Seq)
	b = binary.AppendVarint(b, e.At.UnixMicro())
	return append(b, e.Value...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errDamaged = errors.New("the event is damaged")

// decodeRaw undoes encodeRaw. The value lies in b.
func decodeRaw(b []byte) (e rawEvent, err error) {
	text := func() string {
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used) {
			err, b = errDamaged, nil
			return ""
		}
		s := string(b[used : used+int(n)])
		b = b[used+int(n):]
		return s
	}
	number := func() int64 {
		n, used := binary.Varint(b)
		if used <= 0 {
			err, b = errDamaged, nil
			return 0
		}
		b = b[used:]
		return n
	}
	e.Topic, e.Log, e.Seq = text(), text(), number()
	e.At = time.UnixMicro(number()).UTC()
	e.Value = b
	return e, err
}

// userEvent is the Event of topicUser.
type userEvent struct {
	ID        string  `json:"Id" pii:"id"`
	LastName  *string `json:"LastName" pii:"content"`
	FirstName *string `json:"FirstName" pii:"content"`
	Email     *string `json:"Email" pii:"content"`
}

// bookingEvent is the Event of topicBooking.
type bookingEvent struct {
	ID        string  `json:"Id"`
	UserID    *string `json:"UserId" pii:"id"`
	From      *string `json:"From" pii:"content"`
	To        *string `json:"To" pii:"content"`
	Type      int     `json:"Type"`
	StartDate string  `json:"StartDate"`
	EndDate   *string `json:"EndDate"`
	Price     float64 `json:"Price"`
}

// maxID bounds ids, in bytes.
const maxID = 512

// parseEvent reads the value of an event. Exactly one of the results is not nil
// if err is nil. An error says, without anything of the value, what is wrong.
func parseEvent(topic string, value []byte) (*userEvent, *bookingEvent, error) {
	if topic != topicUser && topic != topicBooking {
		return nil, nil, errors.New("the topic is unknown")
	}
	if !utf8.Valid(value) {
		return nil, nil, errors.New("the value is not UTF-8")
	}
	var envelope struct {
		Event map[string]json.RawMessage
	}
	if err := json.Unmarshal(value, &envelope); err != nil {
		return nil, nil, errors.New("the value is not an envelope in JSON")
	}
	if envelope.Event == nil {
		return nil, nil, errors.New("Event is missing")
	}
	f := fields{of: envelope.Event}
	if topic == topicUser {
		u := userEvent{ID: f.id("Id"), LastName: f.text("LastName"), FirstName: f.text("FirstName"), Email: f.text("Email")}
		return &u, nil, f.err
	}
	b := bookingEvent{ID: f.id("Id"), UserID: f.text("UserId"), From: f.text("From"), To: f.text("To"), Type: f.enum("Type", len(tripTypes)),
		EndDate: f.text("EndDate"), Price: f.number("Price")}
	if start := f.text("StartDate"); start == nil {
		f.wrong("StartDate", "is null")
	} else {
		b.StartDate = *start
		f.date("StartDate", *start)
	}
	if b.EndDate != nil {
		f.date("EndDate", *b.EndDate)
	}
	if b.UserID != nil && (*b.UserID == "" || len(*b.UserID) > maxID) {
		f.wrong("UserId", "is empty or too long")
	}
	return nil, &b, f.err
}

// fields reads the fields of an event and keeps the first error.
type fields struct {
	of  map[string]json.RawMessage
	err error
}

func (f *fields) wrong(name, what string) {
	if f.err == nil {
		f.err = fmt.Errorf("Event.%s %s", name, what)
	}
}

func (f *fields) read(name, kind string, into any) {
	raw, ok := f.of[name]
	if !ok {
		f.wrong(name, "is missing")
	} else if json.Unmarshal(raw, into) != nil {
		f.wrong(name, "is not "+kind)
	}
}

func (f *fields) text(name string) (s *string) {
	f.read(name, "a text or null", &s)
	return s
}

func (f *fields) id(name string) string {
	s := f.text(name)
	if s == nil || *s == "" || len(*s) > maxID {
		f.wrong(name, "is empty or too long")
		return ""
	}
	return *s
}

func (f *fields) number(name string) float64 {
	var n *float64
	f.read(name, "a number", &n)
	if n == nil || math.IsInf(*n, 0) {
		f.wrong(name, "is not a number")
		return 0
	}
	return *n
}

func (f *fields) enum(name string, values int) int {
	var n *int
	f.read(name, "an integer", &n)
	if n == nil || *n < 0 || *n >= values {
		f.wrong(name, "is no value of its enumeration")
		return 0
	}
	return *n
}

func (f *fields) date(name, value string) {
	if _, err := parseDate(value); err != nil {
		f.wrong(name, "is not a date with time and offset")
	}
}

// parseDate reads a date-time with offset (RFC 3339 section 5.6).
func parseDate(text string) (time.Time, error) {
	if strings.ContainsRune(text, ',') { // Go takes it for a point, the CRM does not
		return time.Time{}, errors.New("comma in a date")
	}
	return time.Parse(time.RFC3339Nano, text)
}

// ticks is a time in steps of 100 ns since 1970.
func ticks(t time.Time) int64 { return t.Unix()*1e7 + int64(t.Nanosecond())/100 }
