package gateway

import (
	"bytes"
	"testing"
)

func TestWhatAnEventIsAboutIsTheLastOfItsIDs(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		`{"orderId":"1","amount":2}`:                       "orderId: 1",
		`{"orderId":"1","paymentId":"2","last4":"9"}`:      "paymentId: 2",
		`{"a":{"userId":"3"},"list":[{"id":4}],"id":5}`:    "id: 5",
		`{"user_id":"ü","paid":true}`:                      "user_id: ü",
		`{"orderId":{"x":1},"otherId":null,"thirdId":[1]}`: "",
		`{"Id":"x"}`: "Id: x",
		`{}`:         "",
		`[{"id":1}]`: "",
		`"id"`:       "",
		`null`:       "",
		`{"id":"` + string(bytes.Repeat([]byte("x"), 300)) + `"}`: "",
	} {
		if got := subjectOf([]byte(data)); got != want {
			t.Errorf("%.60s: %q, want %q", data, got, want)
		}
	}
}

func FuzzItem(f *testing.F) {
	it := item{ID: [16]byte{1}, Origin: [8]byte{2}, Ref: 3, Index: 4, Emit: Emit{Event: "e", Room: "r", Data: []byte(`{"a":1}`)}}
	f.Add(it.encode())
	f.Add([]byte{1})
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		it, err := decodeItem(b)
		if err != nil {
			return
		}
		again, err := decodeItem(it.encode())
		if err != nil || again.Event != it.Event || again.Room != it.Room || !bytes.Equal(again.Data, it.Data) || again.Ref != it.Ref || again.Index != it.Index {
			t.Errorf("%q becomes %+v, then %+v (%v)", b, it, again, err)
		}
	})
}
