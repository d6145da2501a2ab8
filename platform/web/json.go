package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"switchboard/platform/errs"
)

// ReadJSON reads the request body as one JSON value into v, as huma operations
// do it: 400 with the position for what is no JSON, 422 for a wrong type or an
// unknown field. limit is that of ReadBody.
func ReadJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	data, err := ReadBody(w, r, limit)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return newProblem(http.StatusBadRequest, "a request body is required", fieldBody("required"))
	}
	if err := checkJSON(data); err != nil {
		return newProblem(http.StatusBadRequest, err.Error(), fieldBody(err.Error()))
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return newProblem(http.StatusUnprocessableEntity, "validation failed", mismatch(err))
	}
	return nil
}

func fieldBody(message string) errs.Field { return errs.Field{Location: "body", Message: message} }

// mismatch says where a JSON value does not fit, without the value and
// without Go's names.
func mismatch(err error) errs.Field {
	var wrong *json.UnmarshalTypeError
	f := errs.Field{Location: "body", Message: "does not fit"}
	if errors.As(err, &wrong) {
		if wrong.Field != "" {
			f.Location += "." + wrong.Field
		}
		f.Message = "unexpected " + strings.Fields(wrong.Value)[0] // "number 5" repeats the value
	} else if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		f.Location += "." + strings.Trim(name, `"`)
		f.Message = "unexpected property"
	}
	return f
}

// unmarshal is huma's reader of JSON.
func unmarshal(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		if explained := checkJSON(data); explained != nil {
			return explained
		}
		f := mismatch(err)
		return errors.New(f.Message + " at " + f.Location)
	}
	if !utf8.Valid(data) { // encoding/json would replace what is broken, silently
		return checkJSON(data)
	}
	return nil
}

// checkJSON says why data is not one JSON text in UTF-8, and where.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		at := 0
		for at < len(data) {
			r, size := utf8.DecodeRune(data[at:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			at += size
		}
		return fmt.Errorf("not valid JSON: broken UTF-8 at %s", position(data, at))
	}
	if json.Valid(data) {
		return nil
	}
	var any json.RawMessage
	err := json.Unmarshal(data, &any)
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return errors.New("not valid JSON")
	}
	at := int(syntax.Offset)
	if at >= len(data) && strings.Contains(syntax.Error(), io.ErrUnexpectedEOF.Error()) || strings.Contains(syntax.Error(), "unexpected end") {
		return fmt.Errorf("not valid JSON: it ends early at %s", position(data, len(data)))
	}
	return fmt.Errorf("not valid JSON: unexpected character at %s", position(data, max(0, at-1)))
}

// position counts as people do: lines and columns from 1, the byte from 0.
func position(data []byte, at int) string {
	line := 1 + bytes.Count(data[:at], []byte{'\n'})
	column := 1 + utf8.RuneCount(data[bytes.LastIndexByte(data[:at], '\n')+1:at])
	return fmt.Sprintf("line %d, column %d (byte %d)", line, column, at)
}
