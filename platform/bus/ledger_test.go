package bus_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"switchboard/platform/bus"
	"switchboard/platform/errs"
)

func openDir(t *testing.T, dir string) *bus.Bus {
	t.Helper()
	b, err := bus.Open(context.Background(), bus.Config{Dir: dir}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// written makes a bus with 1,000 messages in each of two streams and closes it.
func written(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	b := openDir(t, dir)
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
	declare(t, b, bus.Stream{Name: "Q", Subjects: []string{"q"}, Queue: true})
	for range 300 {
		publish(t, b, bus.Message{Subject: "a", Data: make([]byte, 100)})
		publish(t, b, bus.Message{Subject: "q", Data: make([]byte, 100)})
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func blocks(t *testing.T, dir, stream string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", stream, "msgs", "*.blk"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no block files: %v", err)
	}
	return found
}

func TestTheLedgerFindsWhatTheServerForgot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		alarm  string
	}{
		"nothing":                      {func(*testing.T, string) {}, ""},
		"a stream's block cut in half": {func(t *testing.T, dir string) { truncate(t, blocks(t, dir, "A")[0]) }, "stream A: holds"},
		"a queue's block cut in half":  {func(t *testing.T, dir string) { truncate(t, blocks(t, dir, "Q")[0]) }, "stream Q: holds"},
		"a flipped bit":                {func(t *testing.T, dir string) { flip(t, blocks(t, dir, "A")[0]) }, "stream A: "},
		"a stream gone": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Dir(filepath.Dir(blocks(t, dir, "A")[0]))); err != nil {
				t.Fatal(err)
			}
		}, "stream A: is gone"},
		"the ledger damaged": {func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "ledger.json"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "the ledger itself"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := written(t)
			c.damage(t, dir)
			b := openDir(t, dir)
			alarms := b.Alarms()
			if c.alarm == "" {
				if len(alarms) != 0 {
					t.Errorf("false alarms %v", alarms)
				}
				return
			}
			if len(alarms) != 1 || !strings.Contains(alarms[0], c.alarm) {
				t.Fatalf("alarms %q, want %q", alarms, c.alarm)
			}
			if err := b.Ready(); err != nil {
				t.Errorf("the bus is not usable: %v", err)
			}
			declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
			publish(t, b, bus.Message{Subject: "a"})
			// The alarm outlives a restart, but is raised only once.
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			b = openDir(t, dir)
			if again := b.Alarms(); len(again) != 1 || again[0] != alarms[0] {
				t.Errorf("after a restart %q", again)
			}
			b.ClearAlarms()
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if again := openDir(t, dir).Alarms(); len(again) != 0 {
				t.Errorf("after they were cleared %q", again)
			}
		})
	}
}

func truncate(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		data[len(data)/2] ^= 4
		err = os.WriteFile(path, data, 0o600)
	}
	_ = os.Remove(filepath.Join(filepath.Dir(path), "index.db"))
	if err != nil {
		t.Fatal(err)
	}
}

// TestWhatWasAcknowledgedIsOnDisk copies the files under a running bus, as a
// kill would leave them, and opens the copy.
func TestWhatWasAcknowledgedIsOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openDir(t, dir)
	declare(t, b, bus.Stream{Name: "A", Subjects: []string{"a"}})
	var last uint64
	for range 200 {
		last = publish(t, b, bus.Message{Subject: "a", Data: make([]byte, 300)})
	}
	after := filepath.Join(t.TempDir(), "copy")
	copyRunning(t, dir, after)
	c := openDir(t, after)
	declare(t, c, bus.Stream{Name: "A", Subjects: []string{"a"}})
	if seq := publish(t, c, bus.Message{Subject: "a"}); seq != last+1 {
		t.Errorf("the next sequence is %d after %d", seq, last)
	}
	if len(c.Alarms()) != 0 {
		t.Errorf("false alarms %v", c.Alarms())
	}
}

func TestAKillRaisesNoAlarm(t *testing.T) {
	t.Parallel()
	dir := written(t)
	b := openDir(t, dir)
	got := make(chan struct{}, 300)
	stop := start(t, func(ctx context.Context) error {
		return b.Consume(ctx, bus.Consumer{Stream: "Q", Name: "c", Batch: 10}, func(_ context.Context, msgs []bus.Message) error {
			for range msgs {
				got <- struct{}{}
			}
			return nil
		})
	})
	for range 300 {
		<-got
	}
	stop()
	after := filepath.Join(t.TempDir(), "copy")
	copyRunning(t, dir, after)
	if alarms := openDir(t, after).Alarms(); len(alarms) != 0 {
		t.Errorf("false alarms %v", alarms)
	}
}

func TestADirectoryHasOneUser(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openDir(t, dir)
	if _, err := bus.Open(t.Context(), bus.Config{Dir: dir}, nil, nil); errs.KindOf(err) != errs.Conflict {
		t.Errorf("a second one got %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	openDir(t, dir)
}

func TestSettingsThatCannotWork(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]bus.Config{
		"no directory":         {},
		"sync is a word":       {Dir: "x", Sync: "sometimes"},
		"sync is zero":         {Dir: "x", Sync: "0s"},
		"listen without port":  {Dir: "x", Listen: "localhost"},
		"listen with bad port": {Dir: "x", Listen: "localhost:99999"},
		"url and listen":       {URL: "nats://localhost", Listen: "localhost:0"},
		"replicas of one":      {Dir: "x", Replicas: 3},
	} {
		if _, err := bus.Open(t.Context(), cfg, nil, nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// copyRunning copies the folder of a server at work, as a kill would leave it:
// what it renames or removes meanwhile is as if it came a moment later.
func copyRunning(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
