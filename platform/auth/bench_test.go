package auth_test

import (
	"testing"
	"time"

	"switchboard/platform/auth"
	"switchboard/platform/store"
)

func BenchmarkAuthenticateCached(b *testing.B) {
	p := newPlace(b, store.Config{Dir: b.TempDir()})
	g := p.guard(b, defaults)
	_, secret := create(b, g, auth.NewKey{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Authenticate(b.Context(), secret, home); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAuthenticateRead(b *testing.B) {
	p := newPlace(b, store.Config{Dir: b.TempDir()})
	g := p.guard(b, defaults)
	_, secret := create(b, g, auth.NewKey{})
	for b.Loop() {
		p.advance(5 * time.Second)
		if _, err := g.Authenticate(b.Context(), secret, home); err != nil {
			b.Fatal(err)
		}
	}
}
