package eventlog

import (
	"crypto/rand"
	"encoding/base64"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestPackedTargetsComeBack(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[A-Za-z0-9_-]{20}`), rapid.StringMatching(`[A-Za-z0-9_-]{1,3}`), rapid.SampledFrom([]string{"", "=", "AB", "AA"}))
	rapid.Check(t, func(r *rapid.T) {
		targets := rapid.SliceOfN(text, 0, 40).Draw(r, "targets")
		got, err := unpackTargets(packTargets(targets))
		if err != nil || !slices.Equal(got, targets) {
			r.Fatalf("%q, %v", got, err)
		}
	})
}

func TestRandomIDsTakeLittleRoom(t *testing.T) {
	t.Parallel()
	targets := make([]string, 1000)
	for i := range targets {
		var raw [15]byte
		rand.Read(raw[:])
		targets[i] = base64.RawURLEncoding.EncodeToString(raw[:])
	}
	if n := len(packTargets(targets)); n > 15_010 {
		t.Errorf("%d bytes", n)
	}
}

func FuzzUnpackTargets(f *testing.F) {
	f.Add(packTargets([]string{"a", "bc"}))
	f.Add(packTargets([]string{"AAAA", "BBBB"}))
	f.Fuzz(func(t *testing.T, packed []byte) {
		targets, err := unpackTargets(packed)
		if err != nil {
			return
		}
		again, err := unpackTargets(packTargets(targets))
		if err != nil || !slices.Equal(again, targets) {
			t.Errorf("%q became %q, %v", targets, again, err)
		}
	})
}
