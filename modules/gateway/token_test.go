package gateway

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"
)

func TestGrantAllowsItsRoomsAndNoOthers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		rooms []string
		room  string
		want  bool
	}{
		{"its room", []string{"a", "orders.1"}, "orders.1", true},
		{"another room", []string{"orders.1"}, "orders.2", false},
		{"a longer name", []string{"orders.1"}, "orders.12", false},
		{"another case", []string{"orders"}, "Orders", false},
		{"no rooms", nil, "orders", false},
		{"a prefix", []string{"orders.*"}, "orders.12", true},
		{"a prefix of several parts", []string{"orders.*"}, "orders.12.lines", true},
		{"the bare prefix", []string{"orders.*"}, "orders.", true},
		{"less than the prefix", []string{"orders.*"}, "orders", false},
		{"the pattern as a name", []string{"orders.*"}, "orders.*", true},
		{"a star inside is a star", []string{"a*b"}, "axb", false},
		{"a star inside matches itself", []string{"a*b"}, "a*b", true},
		{"everything", []string{"*"}, "anything at all", true},
	} {
		if got := (&Grant{Rooms: c.rooms}).May(c.room); got != c.want {
			t.Errorf("%s: %v may %q: %v", c.name, c.rooms, c.room, got)
		}
	}
	if !(&Grant{AllRooms: true}).May("any") {
		t.Error("a grant of all rooms must allow any")
	}
	if (*Grant)(nil).May("any") {
		t.Error("nobody may join without a grant")
	}
}

func TestTokenRequestSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	limits := tokenLimits{}.withDefaults()
	for _, c := range []struct {
		name string
		r    tokenRequest
		want string // locations
	}{
		{"good", tokenRequest{Rooms: []string{"a", "ein Raum/ü", "*"}, TTL: time.Hour, User: "Zoë"}, ""},
		{"no rooms", tokenRequest{}, ""},
		{"the longest name", tokenRequest{Rooms: []string{strings.Repeat("r", 256)}}, ""},
		{"too long a name", tokenRequest{Rooms: []string{"a", strings.Repeat("ü", 129)}}, "body.rooms[1]"},
		{"empty, control, not UTF-8", tokenRequest{Rooms: []string{"", "a\nb", "\xff"}}, "body.rooms[0] body.rooms[1] body.rooms[2]"},
		{"too many", tokenRequest{Rooms: make([]string, 1001)}, "body.rooms"},
		{"too long a life", tokenRequest{TTL: 30*24*time.Hour + 1}, "body.ttl"},
		{"too short a life", tokenRequest{TTL: time.Millisecond}, "body.ttl"},
		{"a negative life", tokenRequest{TTL: -time.Hour}, "body.ttl"},
		{"a bad user", tokenRequest{User: "a\x00b"}, "body.user"},
	} {
		var at []string
		for _, f := range c.r.faults(limits) {
			at = append(at, f.Location)
		}
		if got := strings.Join(at, " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTokenIDsAreKnownAsOurs(t *testing.T) {
	t.Parallel()
	sum := func(text string) [16]byte { s := sha256.Sum256([]byte(text)); return [16]byte(s[:16]) }
	end := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	id := newTokenID(end, [8]byte{1, 2, 3}, sum)
	got, ok := parseTokenID(id.String(), sum)
	if !ok || got != id || !got.expiresAt().Equal(end) {
		t.Fatalf("read %v %v %s", got, ok, got.expiresAt())
	}
	other := []byte(id.String())
	other[3] ^= 1
	for _, bad := range []string{"", "x", id.String()[2:], id.String() + "00", strings.ToUpper(id.String()), string(other), strings.Repeat("zz", 16)} {
		if _, ok := parseTokenID(bad, sum); ok {
			t.Errorf("%q is taken for one of ours", bad)
		}
	}
}
