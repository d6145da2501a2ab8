package web

import (
	"testing"

	"switchboard/platform/errs"
)

type place struct {
	At  int64  `json:"a"`
	Key []byte `json:"k"`
}

func TestCursorFindsItsPlaceAgain(t *testing.T) {
	t.Parallel()
	want := place{At: -7, Key: []byte{0, 255}}
	var got place
	if err := ParseCursor(Cursor(want), &got); err != nil || got.At != want.At || string(got.Key) != string(want.Key) {
		t.Fatalf("got %v, %v", got, err)
	}
}

func FuzzParseCursor(f *testing.F) {
	f.Add("")
	f.Add("bnVsbA")
	f.Add(Cursor(place{At: 1}))
	f.Fuzz(func(t *testing.T, s string) {
		var got place
		err := ParseCursor(s, &got)
		if err != nil && (errs.KindOf(err) != errs.Invalid || errs.FieldsOf(err)[0].Location != "query.cursor") {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
