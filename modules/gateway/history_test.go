package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func positions(entries []*entry) string {
	var out []string
	for _, e := range entries {
		out = append(out, fmt.Sprint(e.pos))
	}
	return strings.Join(out, " ")
}

func TestHistoryFindsWhatASocketMissed(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	h := newHistory(time.Minute, 1<<20, start)
	for i, room := range []string{"", "a", "b", "a", "", "b"} {
		h.add(&entry{pos: uint64(i + 1), at: start.Add(time.Duration(i) * time.Second), room: room}, start)
	}
	for _, c := range []struct {
		name  string
		after uint64
		rooms map[string]uint64
		want  string
	}{
		{"what all got", 0, nil, "1 5"},
		{"and a room", 0, map[string]uint64{"a": 0}, "1 2 4 5"},
		{"after a place", 2, map[string]uint64{"a": 0}, "4 5"},
		{"a room joined later", 0, map[string]uint64{"a": 2, "b": 0}, "1 3 4 5 6"},
		{"nothing new", 6, map[string]uint64{"a": 0, "b": 0}, ""},
		{"a room without events", 0, map[string]uint64{"c": 0}, "1 5"},
	} {
		if got := positions(h.missed(c.after, c.rooms)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	h.expire(start.Add(time.Minute + 2500*time.Millisecond))
	if got := positions(h.missed(0, map[string]uint64{"a": 0, "b": 0})); got != "4 5 6" {
		t.Errorf("after a minute %s is left", got)
	}
}

func TestHistoryKnowsItsHoles(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	h := newHistory(time.Minute, 1000, start)
	if !h.whole(start.Add(-30*time.Second)) || h.whole(start.Add(-2*time.Minute)) {
		t.Error("a new history reaches back as far as it was told")
	}
	for i := range 10 {
		at := start.Add(time.Duration(i) * time.Second)
		h.add(&entry{pos: uint64(i + 1), at: at, data: make([]byte, 100)}, at)
	}
	if got := positions(h.missed(0, nil)); got != "8 9 10" {
		t.Errorf("1000 bytes hold %s", got)
	}
	if h.whole(start.Add(5*time.Second)) || !h.whole(start.Add(6*time.Second+time.Millisecond)) {
		t.Error("what bytes pushed out is a hole until after it")
	}
}

func TestHistoryGivesRoomsBack(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	h := newHistory(time.Second, 1<<20, start)
	for i := range 10_000 {
		at := start.Add(time.Duration(i) * time.Millisecond)
		h.add(&entry{pos: uint64(i + 1), at: at, room: fmt.Sprint(i)}, at)
	}
	if len(h.rooms) != 1001 || h.all.len() != 1001 || len(h.all.entries) > 3000 {
		t.Errorf("%d rooms, %d entries in %d places", len(h.rooms), h.all.len(), len(h.all.entries))
	}
}
