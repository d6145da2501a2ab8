package collectorclient_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"switchboard/modules/collector/collectorclient"
)

func TestSpoolKeepsTheQueueAcrossClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		spooled := func(o *collectorclient.Options) { o.SpoolDir, o.MaxBatch = dir, 4 }
		c := newCollector()
		c.says(says(503), nil) // the first batch is taken
		client, _ := start(t, c, spooled)
		track(t, client, numbered(0, 10)...)
		synctest.Wait()
		err := client.Close(canceled())
		var unsent *collectorclient.UnsentError
		if !errors.As(err, &unsent) || unsent.Count != 6 || !unsent.Spooled {
			t.Fatalf("close: %v", err)
		}

		c.says(nil)
		before := len(c.got())
		client, errs := start(t, c, spooled)
		track(t, client, "later")
		end(t, client)
		if got := c.names(); !slices.Equal(got, append(numbered(0, 10), "later")) {
			t.Errorf("stored %v", got)
		}
		if first := c.got()[before].events[0].Name; first != "e004" {
			t.Errorf("the second client began with %s", first)
		}
		if len(errs.all()) != 0 {
			t.Errorf("reports %v", errs.all())
		}
		if size := fileSize(t, dir); size != 0 {
			t.Errorf("%d bytes left in the file of an empty queue", size)
		}
	})
}

func TestSpoolIsPrivateAndHoldsNoKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	c := newCollector()
	c.says(says(503))
	client, _ := start(t, c, func(o *collectorclient.Options) { o.SpoolDir, o.SigningSecret = dir, "whsec" })
	track(t, client, "a")
	_ = client.Close(canceled())
	info, err := os.Stat(filepath.Join(dir, "queue.ndjson"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	content := read(t, dir)
	if bytes.Contains(content, []byte(key)) || bytes.Contains(content, []byte("whsec")) || !bytes.Contains(content, []byte(`"name":"a"`)) {
		t.Errorf("%s", content)
	}
}

func TestSpoolHasOneClient(t *testing.T) {
	dir := t.TempDir()
	client, _ := start(t, newCollector(), func(o *collectorclient.Options) { o.SpoolDir = dir })
	if _, err := collectorclient.New(collectorclient.Options{URL: "http://x", Key: key, SpoolDir: dir}); !errors.Is(err, collectorclient.ErrSpoolInUse) {
		t.Errorf("second client: %v", err)
	}
	end(t, client)
	client, _ = start(t, newCollector(), func(o *collectorclient.Options) { o.SpoolDir = dir })
	end(t, client)
}

// Wherever a dying machine cut the file, what is whole in it is sent, and in
// order.
func TestSpoolCutAtAnyByteGivesAPrefix(t *testing.T) {
	whole := leftBehind(t, 3)
	ends := []int{0}
	for i, b := range whole {
		if b == '\n' {
			ends = append(ends, i+1)
		}
	}
	for cut := range len(whole) + 1 {
		dir := t.TempDir()
		write(t, dir, whole[:cut])
		want, _ := slices.BinarySearch(ends, cut+1)
		if got := recovered(t, dir, nil); !slices.Equal(got, numbered(0, want-1)) {
			t.Fatalf("cut at %d of %d: %v, want %d events", cut, len(whole), got, want-1)
		}
	}
}

func TestDamagedLinesAreReportedAndTheRestSent(t *testing.T) {
	whole := leftBehind(t, 5)
	lines := bytes.SplitAfter(whole, []byte("\n"))
	lines[1][20] = 0
	lines[1][21] = '"'
	copy(lines[3], make([]byte, len(lines[3])-1)) // a block that was never written
	dir := t.TempDir()
	write(t, dir, append(bytes.Join(lines, nil), "1\n"...)) // and the first one is done
	var errs reports
	if got := recovered(t, dir, &errs); !slices.Equal(got, []string{"e002", "e004"}) {
		t.Errorf("sent %v", got)
	}
	if all := errs.all(); len(all) != 1 || !strings.Contains(all[0].Error(), "2 damaged lines") {
		t.Errorf("reports %v", all)
	}
}

func TestLongSpoolIsCutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCollector()
		client, _ := start(t, c, func(o *collectorclient.Options) { o.SpoolDir, o.MaxBatch = dir, 10 })
		large := map[string]string{"x": strings.Repeat("x", 20_000)}
		tracked := 0
		// The queue is never empty when a batch is settled: a batch goes out
		// when ten are there, and one more is waiting.
		for tracked < 1500 {
			c.mu.Lock()
			for range 11 {
				if err := client.Track("s", "c", fmt.Sprint(tracked), large); err != nil {
					t.Fatal(err)
				}
				tracked++
			}
			c.mu.Unlock()
			synctest.Wait()
			if size := fileSize(t, dir); size > 5<<20 {
				t.Fatalf("%d bytes in the spool after %d events, %d queued", size, tracked, client.Stats().Queued)
			}
		}
		end(t, client)
		if len(c.stored) != tracked {
			t.Errorf("stored %d of %d", len(c.stored), tracked)
		}
	})
}

// A process that is killed without warning loses nothing that Track said yes
// to, and doubles nothing.
func TestKilledProcessLosesNothing(t *testing.T) {
	for _, mode := range []string{"never", "always"} {
		t.Run(mode, func(t *testing.T) {
			c := newCollector()
			srv := httptest.NewServer(c)
			defer srv.Close()
			dir := t.TempDir()
			var promised []string
			for round := range 4 {
				// The collector answers in odd rounds only, and loses some answers.
				c.says(says(503), nil)
				if round%2 == 1 {
					c.says(nil, nil, storedButLost)
				}
				promised = append(promised, killedAfter(t, 150, "SPOOL_CHILD="+dir, "SPOOL_URL="+srv.URL, "SPOOL_SYNC="+mode, fmt.Sprint("SPOOL_ROUND=", round))...)
			}
			c.says(nil)
			client, errs := start(t, c, func(o *collectorclient.Options) { o.URL, o.HTTPClient, o.SpoolDir = srv.URL, nil, dir })
			end(t, client)
			stored := map[string]int{}
			for _, n := range c.names() {
				stored[n]++
			}
			for _, n := range promised {
				if stored[n] != 1 {
					t.Errorf("%s stored %d times", n, stored[n])
				}
			}
			if len(errs.all()) != 0 || len(promised) < 600 {
				t.Errorf("%d promised, reports %v", len(promised), errs.all())
			}
		})
	}
}

// childMain is the process that TestKilledProcessLosesNothing kills: it prints
// the name of each event that Track took.
func childMain() bool {
	dir := os.Getenv("SPOOL_CHILD")
	if dir == "" {
		return false
	}
	o := collectorclient.Options{
		URL: os.Getenv("SPOOL_URL"), Key: key, SpoolDir: dir, MaxBatch: 20,
		FlushEvery: time.Millisecond, RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond,
		OnError: func(error) {},
	}
	if os.Getenv("SPOOL_SYNC") == "always" {
		o.SpoolSync = collectorclient.SyncAlways
	}
	client, err := collectorclient.New(o)
	if err != nil {
		panic(err)
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("r%s-%d", os.Getenv("SPOOL_ROUND"), i)
		if err := client.Track("s", "c", name, map[string]int{"i": i}); errors.Is(err, collectorclient.ErrQueueFull) {
			time.Sleep(time.Millisecond)
			continue
		} else if err != nil {
			panic(err)
		}
		fmt.Println(name)
		time.Sleep(100 * time.Microsecond)
	}
}

// killedAfter runs the child and kills it once it has said yes to so many
// events; it gives those.
func killedAfter(t *testing.T, events int, env ...string) (promised []string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		promised = append(promised, lines.Text())
		if len(promised) == events {
			_ = cmd.Process.Kill()
		}
	}
	if err := cmd.Wait(); err == nil || len(promised) < events {
		t.Fatalf("child ended by itself after %d events: %v", len(promised), err)
	}
	return promised
}

// leftBehind is the spool of a client that could send nothing.
func leftBehind(t *testing.T, events int) []byte {
	t.Helper()
	dir := t.TempDir()
	c := newCollector()
	c.says(says(503))
	client, _ := start(t, c, func(o *collectorclient.Options) { o.SpoolDir = dir })
	track(t, client, numbered(0, events)...)
	_ = client.Close(canceled())
	return read(t, dir)
}

// recovered gives the names of what a client sends that finds this spool.
func recovered(t *testing.T, dir string, errs *reports) []string {
	t.Helper()
	c := newCollector()
	client, _ := start(t, c, func(o *collectorclient.Options) {
		o.SpoolDir = dir
		if errs != nil {
			o.OnError = errs.add
		}
	})
	end(t, client)
	return c.names()
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func read(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "queue.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, dir string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "queue.ndjson"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func fileSize(t *testing.T, dir string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, "queue.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
