package collectorclient

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A line that could be written in part only (a full disk) does not spoil the
// next one.
func TestFailedWriteSpoilsNothing(t *testing.T) {
	dir := t.TempDir()
	s, _, _, err := openSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	add := func(line string) error { _, err := s.append([]byte(line)); return err }
	if err := add(`{"n":1}`); err != nil {
		t.Fatal(err)
	}
	writable := s.file
	if s.file, err = os.Open(filepath.Join(dir, spoolFile)); err != nil {
		t.Fatal(err)
	}
	if add(`{"n":2}`) == nil || !s.torn {
		t.Fatal("a failed write was not noticed")
	}
	if err := s.file.Close(); err != nil {
		t.Fatal(err)
	}
	s.file = writable
	if _, err := writable.WriteString(`{"n":`); err != nil {
		t.Fatal(err)
	}
	if err := add(`{"n":3}`); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	queue, damaged, err := readSpool(filepath.Join(dir, spoolFile))
	if err != nil || damaged != 0 || !slices.Equal(texts(queue), []string{`{"n":1}`, `{"n":3}`}) {
		t.Errorf("%s, %d damaged, %v", queue, damaged, err)
	}
}

func texts(lines [][]byte) (s []string) {
	for _, l := range lines {
		s = append(s, string(l))
	}
	return s
}
