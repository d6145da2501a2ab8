package auth

import (
	"context"
	"slices"
)

// Principal is who calls. It is shared between requests: do not change it.
type Principal struct {
	// Key is the key the caller showed. LastUsedAt may be a little behind.
	Key Key

	admin bool
}

func newPrincipal(k Key) *Principal {
	return &Principal{Key: k, admin: slices.Contains(k.Scopes, Admin)}
}

// Has tells whether the caller may do what scope allows; admin implies every
// scope. A nil Principal may do nothing.
func (p *Principal) Has(scope string) bool {
	return p != nil && (p.admin || slices.Contains(p.Key.Scopes, scope))
}

// Allows tells whether the key may be used by pages of origin, as a browser
// sends it. A key without origins is not bound to any: it allows none, for it
// is no browser's.
func (p *Principal) Allows(origin string) bool {
	if p == nil || len(p.Key.Origins) == 0 {
		return false
	}
	canonical, ok := canonicalOrigin(origin)
	return ok && slices.Contains(p.Key.Origins, canonical)
}

type contextKey struct{}

// With gives a context that carries p.
func With(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// From gives the caller of ctx, nil if there is none.
func From(ctx context.Context) *Principal {
	p, _ := ctx.Value(contextKey{}).(*Principal)
	return p
}
