package collector

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/bus/bustest"
)

func liveItem(session string) *item {
	return &item{Event: Event{SessionID: session, Category: "c", Name: "n", Data: json.RawMessage("{\n\"a\": \"b\\nc\"\n}"), Timestamp: time.Unix(1, 0).UTC()}, EventID: key16(session), App: "shop", ReceivedAt: time.Unix(2, 0).UTC()}
}

// A watcher that does not read holds up nobody: it misses events, and knows
// how many.
func TestSlowWatcherMissesEventsAndIsTold(t *testing.T) {
	t.Parallel()
	l := &live{}
	all := func(*item) bool { return true }
	slow, endSlow := l.watch(all)
	picky, endPicky := l.watch(func(it *item) bool { return it.SessionID == "s-2" })
	for range liveBuffer + 7 {
		l.hear(liveItem("s-1").encode())
	}
	l.hear(liveItem("s-2").encode())
	if n := slow.missed.Load(); n != 8 || len(slow.events) != liveBuffer {
		t.Errorf("%d are waiting, %d were missed", len(slow.events), n)
	}
	if n := picky.missed.Load(); n != 0 || len(picky.events) != 1 {
		t.Errorf("the other: %d are waiting, %d were missed", len(picky.events), n)
	}
	// Noise on the bus is passed over, and one who left hears nothing.
	l.hear([]byte("noise"))
	endPicky()
	l.hear(liveItem("s-2").encode())
	if len(picky.events) != 1 {
		t.Error("one who left still hears")
	}
	endSlow()
	if len(l.watchers) != 0 {
		t.Errorf("%d watchers are left", len(l.watchers))
	}
}

func TestNothingIsSentWhileNobodyWatches(t *testing.T) {
	t.Parallel()
	var now atomic.Int64
	now.Store(1_700_000_000e9)
	b := bustest.Embedded(t)
	l := &live{bus: b, now: func() time.Time { return time.Unix(0, now.Load()) }}
	watcher, end := l.watch(func(it *item) bool { return it.SessionID == "s-1" })
	defer end()
	run(t, l)
	it := liveItem("s-1")
	rows := []eventRow{{EventID: it.EventID}}
	for _, step := range []struct {
		name  string
		after time.Duration
		want  bool // whether it is wanted before
		seen  bool
	}{
		{"nobody has asked", 0, false, false},
		{"someone has just asked", 0, true, true},
		{"someone asked a while ago", liveWantedFor, false, true},
		{"someone asked too long ago", time.Nanosecond, false, false},
	} {
		now.Add(step.after.Nanoseconds())
		if step.want {
			l.note()
		}
		l.publish([]*item{it, it}, rows) // twice in a batch, stored once
		settle(t, b, l)
		got := 0
		for len(watcher.events) > 0 {
			<-watcher.events
			got++
		}
		if want := map[bool]int{true: 1}[step.seen]; got != want {
			t.Errorf("%s: %d events were seen, want %d", step.name, got, want)
		}
	}
}

// run runs l until the test ends.
func run(t *testing.T, l *live) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- l.run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// settle waits until what was sent before has been heard.
func settle(t *testing.T, b *bus.Bus, l *live) {
	t.Helper()
	const mark = "mark"
	watcher, end := l.watch(func(it *item) bool { return it.SessionID == mark })
	defer end()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if err := b.Broadcast(subjectLive, liveItem(mark).encode()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-watcher.events:
			return
		case <-time.After(10 * time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("nothing is heard")
			}
		}
	}
}

// A payload over several lines must not end the message of the stream.
func TestLiveTextIsOneMessage(t *testing.T) {
	t.Parallel()
	text := liveText(liveItem("s\u2028-1"))
	lines := strings.Split(strings.TrimSuffix(text, "\n\n"), "\n")
	if len(lines) != 3 || lines[0] != "event: event" || !strings.HasPrefix(lines[1], "id: ") || !strings.HasPrefix(lines[2], "data: {") {
		t.Fatalf("got %q", text)
	}
	var e Recorded
	if err := json.Unmarshal([]byte(strings.TrimPrefix(lines[2], "data: ")), &e); err != nil || e.SessionID != "s\u2028-1" || e.App != "shop" {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestWatchersAreBounded(t *testing.T) {
	t.Parallel()
	full := &liveHTTP{live: &live{}, places: make(chan struct{})}
	answer := httptest.NewRecorder()
	full.get(answer, httptest.NewRequest(http.MethodGet, "/collector/live", nil))
	if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Retry-After") == "" {
		t.Errorf("got %d %v", answer.Code, answer.Header())
	}
}
