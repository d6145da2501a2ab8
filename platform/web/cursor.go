package web

import (
	"bytes"
	"encoding/base64"
	"encoding/json"

	"switchboard/platform/errs"
)

// maxCursor bounds a cursor in bytes, far above what Cursor makes.
const maxCursor = 4096

// Cursor writes a place in a list as an opaque text for Page.Next. The place
// must have a JSON form.
func Cursor(place any) string {
	b, err := json.Marshal(place)
	if err != nil {
		return "" // a place is made of numbers and texts
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCursor reads what Cursor wrote into place, a pointer. Anything else is
// an Invalid error that names the cursor.
func ParseCursor(cursor string, place any) error {
	invalid := errs.InvalidFields("the cursor is not one of this list", errs.Field{Location: "query.cursor", Message: "is not a cursor that this list gave"})
	if len(cursor) > maxCursor {
		return invalid
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil {
		return invalid
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if dec.Decode(place) != nil || dec.More() || bytes.Equal(b, []byte("null")) {
		return invalid
	}
	return nil
}
