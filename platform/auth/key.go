package auth

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"switchboard/platform/errs"
)

// Key is an API key, without its secret.
type Key struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Scopes are sorted as in Scopes().
	Scopes []string `json:"scopes"`
	// App is the application the key belongs to, "" for none.
	App string `json:"app,omitempty"`
	// Origins are those of the browsers that may use the key, in canonical form.
	Origins []string `json:"origins,omitempty"`
	// Signed says that requests with this key must be signed.
	Signed     bool       `json:"signed"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	LastUsedAt *time.Time `json:"last_used_at,omitempty"`
	RevokedAt  *time.Time `json:"revoked_at,omitempty"`
}

// NewKey is what Create needs to know.
type NewKey struct {
	// Name is for people: 1 to 100 characters.
	Name string
	// Scopes are one or more of Scopes().
	Scopes []string
	// App binds the key to an application: up to 100 characters.
	App string
	// Origins bind it to browsers' pages: https://shop.example:8443.
	Origins []string
	// Signed asks for a signing secret.
	Signed bool
	// ExpiresAt, if set, lies in the future.
	ExpiresAt *time.Time
}

const (
	maxName    = 100
	maxOrigins = 50
)

// validate gives n with scopes and origins in canonical form.
func (n NewKey) validate(now time.Time) (NewKey, error) {
	var fields, more []errs.Field
	text := func(location, value string, least int) {
		length := utf8.RuneCountInString(value)
		if length < least || length > maxName || !utf8.ValidString(value) || strings.ContainsFunc(value, control) {
			fields = append(fields, errs.Field{Location: location, Message: "want " + strconv.Itoa(least) + " to " + strconv.Itoa(maxName) + " printable characters"})
		}
	}
	text("body.name", n.Name, 1)
	text("body.app", n.App, 0)
	n.Scopes, more = validScopes(n.Scopes)
	fields = append(fields, more...)
	if len(n.Origins) > maxOrigins {
		fields = append(fields, errs.Field{Location: "body.origins", Message: "more than " + strconv.Itoa(maxOrigins)})
	} else {
		n.Origins, more = validOrigins(n.Origins)
		fields = append(fields, more...)
	}
	if n.ExpiresAt != nil && !n.ExpiresAt.After(now) {
		fields = append(fields, errs.Field{Location: "body.expires_at", Message: "lies in the past"})
	}
	if len(fields) > 0 {
		return n, errs.InvalidFields("the key cannot be made", fields...)
	}
	return n, nil
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

func at(location string, i int) string { return location + "[" + strconv.Itoa(i) + "]" }
