package interop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"switchboard/platform/apptest"
)

// TestStalledSocketsCostLittleAndNobodyElseNotices has ten of fifty sockets
// stop reading while 30 MB are sent to each.
func TestStalledSocketsCostLittleAndNobodyElseNotices(t *testing.T) {
	t.Parallel()
	const (
		sockets, stalled = 50, 10
		events, size     = 1500, 20_000
		window           = 20 // events that the slowest of the others may be behind
		warm             = 20 // events before memory is looked at
		limit            = 64 << 20
	)
	// A stalled socket answers no ping either: that must not be what ends it.
	p := apptest.Exec(t, t.TempDir(), []string{"APP_GATEWAY_PING_INTERVAL=10m"}, gatewayAlone)
	readers := make([]*reader, sockets-stalled)
	for i := range readers {
		readers[i] = newReader(t, p, "room")
	}
	for range stalled {
		dial(t, p, "room")
	}

	pad := strings.Repeat("x", size)
	slowest := func() int64 {
		least := readers[0].next.Load()
		for _, r := range readers {
			least = min(least, r.next.Load())
		}
		return least
	}
	var before int64
	recipients := 0
	for n := range int64(events) {
		if n == warm {
			resetPeak(t, p)
			before = status(t, p, "VmRSS")
		}
		apptest.Within(t, time.Minute, func() string {
			if at := slowest(); n-at > window {
				return fmt.Sprintf("a socket that reads is at event %d of %d: %v", at, n, faults(readers))
			}
			return ""
		})
		var err error
		if recipients, err = emit(p.URL, p.Key, "big", "room", fmt.Sprintf(`{"n":%d,"pad":%q}`, n, pad)); err != nil {
			t.Fatal(err)
		}
	}
	apptest.Within(t, time.Minute, func() string {
		if at := slowest(); at < events {
			return fmt.Sprintf("a socket that reads has %d of %d events: %v", at, events, faults(readers))
		}
		return ""
	})
	growth := status(t, p, "VmHWM") - before
	t.Logf("%d MB before, at most %d MB more", before>>20, growth>>20)
	if growth > limit {
		t.Errorf("memory grew by %d MB, from %d MB", growth>>20, before>>20)
	}
	for _, why := range faults(readers) {
		t.Error(why)
	}
	if recipients != sockets-stalled {
		t.Errorf("the last event had %d recipients: the stalled sockets should be gone by then", recipients)
	}
	apptest.Within(t, time.Minute, func() string {
		text := metrics(t, p)
		if !strings.Contains(text, fmt.Sprintf("gateway_disconnects_total{reason=\"slow consumer\"} %d\n", stalled)) {
			return "the stalled sockets are not counted as slow consumers:\n" + grep(text, "gateway_disconnects_total")
		}
		return ""
	})
}

// dial connects a bare websocket, which is in the room when this returns. What
// comes is read by nobody until the caller does.
func dial(t *testing.T, p *apptest.Process, room string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, rest, _, err := ws.Dial(ctx, "ws"+strings.TrimPrefix(p.URL, "http")+"/socket.io/?EIO=4&transport=websocket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var from io.Reader = conn
	if rest != nil { // what came with the answer to the upgrade
		from = rest
	}
	both := struct {
		io.Reader
		io.Writer
	}{from, conn}
	expect := func(prefix string) {
		t.Helper()
		text, err := wsutil.ReadServerText(both)
		if err != nil || !strings.HasPrefix(string(text), prefix) {
			t.Fatalf("got %q, %v, want %s", text, err, prefix)
		}
	}
	expect("0{")
	auth, err := json.Marshal(map[string]any{"token": p.Key, "rooms": []string{room}})
	if err != nil {
		t.Fatal(err)
	}
	if err := wsutil.WriteClientText(conn, append([]byte("40"), auth...)); err != nil {
		t.Fatal(err)
	}
	expect("40{")
	if rest != nil && rest.Buffered() > 0 {
		t.Fatal("more came than was asked for")
	}
	return conn
}

// reader is a socket that reads all that comes.
type reader struct {
	next atomic.Int64 // number of the event that it waits for
	mu   sync.Mutex
	why  string
}

func newReader(t *testing.T, p *apptest.Process, room string) *reader {
	t.Helper()
	conn, r := dial(t, p, room), &reader{}
	var done sync.WaitGroup
	done.Go(func() {
		err := r.read(conn)
		if err != nil && t.Context().Err() == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.why = fmt.Sprintf("after %d events: %v", r.next.Load(), err)
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		done.Wait()
	})
	return r
}

func (r *reader) read(conn net.Conn) error {
	from := struct {
		io.Reader
		io.Writer
	}{bufio.NewReaderSize(conn, 64<<10), conn}
	for {
		text, err := wsutil.ReadServerText(from)
		if err != nil {
			return err
		}
		switch want := fmt.Sprintf(`42["big",{"n":%d,`, r.next.Load()); {
		case string(text) == "2":
			if err := wsutil.WriteClientText(conn, []byte("3")); err != nil {
				return err
			}
		case !strings.HasPrefix(string(text[:min(len(text), len(want))]), want):
			return fmt.Errorf("got %.40q, want %s", text, want)
		default:
			r.next.Add(1)
		}
	}
}

func faults(readers []*reader) (all []string) {
	for i, r := range readers {
		r.mu.Lock()
		if r.why != "" {
			all = append(all, fmt.Sprintf("socket %d %s", i, r.why))
		}
		r.mu.Unlock()
	}
	return all
}

// status gives a size from /proc/<pid>/status, in bytes.
func status(t *testing.T, p *apptest.Process, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Skip(err) // no Linux
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name+":" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no %s in\n%s", name, text)
	return 0
}

// resetPeak has the kernel begin anew with VmHWM (proc_pid_clear_refs(5)).
func resetPeak(t *testing.T, p *apptest.Process) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID()), []byte("5"), 0o600); err != nil {
		t.Log("the peak counts from the start of the process:", err)
	}
}

func metrics(t *testing.T, p *apptest.Process) string {
	t.Helper()
	resp, err := http.Get(p.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func grep(text, part string) string {
	var found strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			found.WriteString(line)
		}
	}
	return found.String()
}
