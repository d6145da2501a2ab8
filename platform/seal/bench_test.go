package seal_test

import (
	"fmt"
	"testing"
	"time"

	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

func benchRing(b *testing.B) *seal.Keyring {
	db := storetest.Open(b, store.Config{Dir: b.TempDir()}, "keys", seal.Migrations())
	return openRing(b, db, nil, masterOf(b, b.TempDir()), time.Now)
}

func benchAliases(n int) []seal.Alias {
	aliases := make([]seal.Alias, n)
	for i := range aliases {
		aliases[i] = seal.Alias{Kind: "session_id", Value: fmt.Sprintf("session-%08d", i)}
	}
	return aliases
}

func BenchmarkSubjects1000Warm(b *testing.B) {
	k, aliases := benchRing(b), benchAliases(1000)
	if _, err := k.Subjects(b.Context(), aliases); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Subjects(b.Context(), aliases); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCiphers1000Warm(b *testing.B) {
	k := benchRing(b)
	subjects, err := k.Subjects(b.Context(), benchAliases(1000))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Ciphers(b.Context(), subjects); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSubjects1000New(b *testing.B) {
	k, aliases := benchRing(b), benchAliases(1000)
	n := 0
	for b.Loop() {
		n++
		for i := range aliases {
			aliases[i].Kind = fmt.Sprint("kind", n)
		}
		if _, err := k.Subjects(b.Context(), aliases); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSubjectsOneNewParallel(b *testing.B) {
	k := benchRing(b)
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		base := fmt.Sprintf("%p", pb)
		for n := 0; pb.Next(); n++ {
			if _, err := k.Subjects(b.Context(), []seal.Alias{{Kind: "session_id", Value: fmt.Sprint(base, n)}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkIndex(b *testing.B) {
	k := benchRing(b)
	b.ReportAllocs()
	for b.Loop() {
		k.Index("session_id", "session-00000001")
	}
}

func BenchmarkCipherSeal(b *testing.B) {
	k := benchRing(b)
	c := cipherOf(b, k, subjectOf(b, k, "phone", "1"))
	plain, dst := make([]byte, 117), make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		dst = c.Seal(dst[:0], plain, "collector.event.v1")
	}
}

func BenchmarkCipherOpen(b *testing.B) {
	k := benchRing(b)
	c := cipherOf(b, k, subjectOf(b, k, "phone", "1"))
	sealed, dst := c.Seal(nil, make([]byte, 117), "collector.event.v1"), make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, err = c.Open(dst[:0], sealed, "collector.event.v1"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTransitSeal30KB(b *testing.B) {
	k := benchRing(b)
	tr := transitOf(b, k, "a", time.Hour)
	plain := make([]byte, 30<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tr.Seal(plain); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkErase(b *testing.B) {
	k := benchRing(b)
	subjects, err := k.Subjects(b.Context(), benchAliases(20_000))
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		if err := k.Erase(b.Context(), subjects[n%len(subjects)]); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

type event struct {
	ID      string  `json:"id"`
	Phone   string  `json:"phone" pii:"phone"`
	Name    string  `json:"name" pii:"name"`
	Email   string  `json:"email" pii:"email"`
	Address address `json:"address"`
}

func BenchmarkMarshalPrivate(b *testing.B) {
	e := event{"1", "79161234567", "Anna Karenina", "anna@example.com", address{Street: "Main Street 1"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := seal.MarshalPrivate(&e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnmarshalPrivate(b *testing.B) {
	e := event{"1", "79161234567", "Anna Karenina", "anna@example.com", address{Street: "Main Street 1"}}
	data, err := seal.MarshalPrivate(&e)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := seal.UnmarshalPrivate(data, &e); err != nil {
			b.Fatal(err)
		}
	}
}
