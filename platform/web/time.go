package web

import (
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Time is a time in an answer: RFC 3339 in UTC, always with microseconds.
type Time time.Time

const timeFormat = "2006-01-02T15:04:05.000000Z"

func (t Time) String() string { return time.Time(t).UTC().Format(timeFormat) }

// MarshalText writes the time.
func (t Time) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads any RFC 3339 time.
func (t *Time) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339Nano, string(b))
	*t = Time(v.UTC())
	return err
}

// Schema describes the time in OpenAPI.
func (Time) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Examples: []any{"2026-01-02T03:04:05.000006Z"}}
}
