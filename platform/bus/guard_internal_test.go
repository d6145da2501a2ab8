package bus

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAStreamThatIsBeingMadeIsNoFault(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := Open(t.Context(), Config{Dir: dir}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Declare(t.Context(), Stream{Name: "A", Subjects: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams"))
	if err != nil || len(streams) != 1 {
		t.Fatalf("the server keeps its streams in %v (%v)", streams, err)
	}
	// As the server leaves it while it makes a stream on a slow disk.
	half := filepath.Join(streams[0], "B")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	first, r := b.link.Load(), restarts{}
	b.guard.making.Add(1)
	for range 5 {
		b.check(t.Context(), &r)
	}
	if b.refused() != nil || b.link.Load() != first {
		t.Fatalf("a stream is being made, and the guard acts: %v", b.refused())
	}
	b.guard.making.Add(-1)
	b.check(t.Context(), &r)
	if b.refused() == nil && b.link.Load() == first {
		t.Error("nobody makes the stream any more, and the guard does nothing")
	}
}
