package collector

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
)

func TestItemTravelsUnchanged(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 10, 0, 0, 123456000, time.UTC)
	for name, it := range map[string]*item{
		"an event": {Event: Event{ID: "e-1", SessionID: "s 1", Category: "c", Name: "n", UserID: "u", Data: json.RawMessage(`{"a":1}`), Timestamp: at},
			EventID: key16("e"), App: "shop", ReceivedAt: at.Add(time.Second)},
		"an event with little": {Event: Event{SessionID: "s", Category: "c", Name: "n", Data: json.RawMessage(`{}`), Timestamp: time.Unix(0, 0).UTC()}, App: "a", ReceivedAt: at},
		"a reject": {Event: Event{Category: "c", Data: json.RawMessage(`5`), Timestamp: at}, App: "shop", ReceivedAt: at,
			Reject: &refusal{Reason: reasonSchema, Errors: []byte(`[{"message":"m"}]`)}},
		"a large event": {Event: Event{SessionID: "s", Data: json.RawMessage(`"` + string(bytes.Repeat([]byte("x"), 1<<20)) + `"`), Timestamp: at}, ReceivedAt: at},
	} {
		text := it.encode()
		back, err := decodeItem(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sameItem(t, back, it)
		// A text that lost its end is noticed, but for the free end of a reject.
		for _, cut := range []int{0, 1, 32, 33, len(text) / 2, len(text) - 1} {
			if _, err := decodeItem(text[:cut]); err == nil && it.Reject == nil {
				t.Errorf("%s: %d of %d bytes are taken", name, cut, len(text))
			}
		}
	}
}

// What is on the bus is ours; still, nothing there may bring a storer down.
func FuzzDecodeItem(f *testing.F) {
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	f.Add([]byte{})
	f.Add((&item{Event: Event{SessionID: "s", Category: "c", Name: "n", Data: json.RawMessage(`{}`), Timestamp: at}, App: "a", ReceivedAt: at}).encode())
	f.Add((&item{Event: Event{Data: json.RawMessage(`5`), Timestamp: at}, ReceivedAt: at, Reject: &refusal{Reason: "shape", Errors: []byte("[]")}}).encode())
	f.Fuzz(func(t *testing.T, text []byte) {
		it, err := decodeItem(text)
		if err != nil {
			return
		}
		back, err := decodeItem(it.encode())
		if err != nil {
			t.Fatal(err)
		}
		sameItem(t, back, it)
	})
}
