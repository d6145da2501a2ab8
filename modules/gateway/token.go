package gateway

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"switchboard/platform/errs"
)

// Grant is what a credential allows its holder.
type Grant struct {
	// TokenID is "" for an API key.
	TokenID string `json:"token,omitempty"`
	// KeyID is the API key, or the one that issued the token.
	KeyID string `json:"key"`
	User  string `json:"user,omitempty" pii:"user_id"`
	// Rooms are names; one that ends in * stands for all that begin like it.
	Rooms []string `json:"rooms,omitempty" pii:"room"`
	// AllRooms is set for API keys, which are bound to no room.
	AllRooms bool `json:"all_rooms,omitempty"`
	// ExpiresAt is zero for a key that does not expire.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// May tells whether the holder may join a room. Nobody may without a grant.
func (g *Grant) May(room string) bool {
	if g == nil {
		return false
	}
	return g.AllRooms || slices.ContainsFunc(g.Rooms, func(pattern string) bool {
		prefix, open := strings.CutSuffix(pattern, "*")
		return pattern == room || open && strings.HasPrefix(room, prefix)
	})
}

// tokenLimits bounds what a token may be. Zero values stand for the defaults.
type tokenLimits struct {
	DefaultTTL time.Duration // 1h
	MaxTTL     time.Duration // 30 days
	MaxRooms   int           // 1,000
}

func (l tokenLimits) withDefaults() tokenLimits {
	if l.MaxTTL <= 0 {
		l.MaxTTL = 30 * 24 * time.Hour
	}
	if l.DefaultTTL <= 0 {
		l.DefaultTTL = time.Hour
	}
	l.DefaultTTL = min(l.DefaultTTL, l.MaxTTL)
	if l.MaxRooms <= 0 {
		l.MaxRooms = 1000
	}
	return l
}

// tokenRequest is what a token is asked to be.
type tokenRequest struct {
	Rooms []string
	TTL   time.Duration // 0 for the default
	User  string
}

// faults lists what is wrong with r, as places in a request body.
func (r *tokenRequest) faults(l tokenLimits) (fields []errs.Field) {
	if len(r.Rooms) > l.MaxRooms {
		return []errs.Field{{Location: "body.rooms", Message: fmt.Sprintf("are more than %d", l.MaxRooms)}}
	}
	for i, room := range r.Rooms {
		if message := roomFault(room); message != "" {
			fields = append(fields, errs.Field{Location: fmt.Sprintf("body.rooms[%d]", i), Message: message})
		}
	}
	if r.TTL != 0 && (r.TTL < time.Second || r.TTL > l.MaxTTL) {
		fields = append(fields, errs.Field{Location: "body.ttl", Message: fmt.Sprintf("is not between 1s and %s", l.MaxTTL)})
	}
	if len(r.User) > maxUser || !utf8.ValidString(r.User) || strings.ContainsFunc(r.User, control) {
		fields = append(fields, errs.Field{Location: "body.user", Message: fmt.Sprintf("is not a text of at most %d bytes without control characters", maxUser)})
	}
	return fields
}

const maxUser = 256 // bytes of the name of a token's user

// tokenID names a token: when it expires, something random, and a sum that
// only we can make. So an id tells how long its revocation must be kept, and
// one that was never given out is known as such.
type tokenID [16]byte

const tokenIDSum = 4 // bytes at its end

func newTokenID(expiresAt time.Time, random [8]byte, sum func(string) [16]byte) (id tokenID) {
	binary.BigEndian.PutUint32(id[:], uint32(expiresAt.Unix()))
	copy(id[4:], random[:])
	s := sum(string(id[:len(id)-tokenIDSum]))
	copy(id[len(id)-tokenIDSum:], s[:])
	return id
}

// parseTokenID reads what String wrote.
func parseTokenID(text string, sum func(string) [16]byte) (id tokenID, ok bool) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) || text != hex.EncodeToString(raw) {
		return id, false
	}
	id = tokenID(raw)
	s := sum(string(id[:len(id)-tokenIDSum]))
	return id, string(s[:tokenIDSum]) == string(id[len(id)-tokenIDSum:])
}

func (id tokenID) String() string { return hex.EncodeToString(id[:]) }

func (id tokenID) expiresAt() time.Time {
	return time.Unix(int64(binary.BigEndian.Uint32(id[:])), 0).UTC()
}
