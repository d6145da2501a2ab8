//go:build linux

package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// boardSockets are connected while pushes are measured.
const boardSockets = 500

// BenchmarkTelephonyPush: time from a webhook to the push at each of 500 boards,
// from before it is sent (p50, p99) and from when its 200 has been read
// (acknowledged-; below zero for a push that overtakes it):
//
//   - changed: DataChanged, one webhook after 150 ms of quiet, since a socket is
//     told ten times a second at most;
//   - event: CallEvent to boards that have subscribed, 20 webhooks a second.
//
// Beside it, in the same run, a loop that writes the same frames to as many
// plain connections, read by the same reader (bare-).
func BenchmarkTelephonyPush(b *testing.B) {
	p := apptest.Exec(b, b.TempDir(), nil, "--modules=telephony")
	sockets := sized(b, boardSockets)
	b.ReportMetric(0, "ns/op")

	plain := newWatch(b, sockets, func() net.Conn { return boardOf(b, p, false) })
	changed, acknowledged := plain.quiet(b, p, sized(b, 40))
	plain.close()
	report := func(name string, l load) load {
		b.ReportMetric(ms(l.percentile(0.5)), name+"-p50-ms")
		b.ReportMetric(ms(l.percentile(0.99)), name+"-p99-ms")
		return l
	}
	report("changed", changed)
	report("changed-acknowledged", acknowledged)

	subscribed := newWatch(b, sockets, func() net.Conn { return boardOf(b, p, true) })
	events, acknowledged := subscribed.steady(b, sized(b, 160), hook(b, p))
	subscribed.close()
	report("event", events)
	report("event-acknowledged", acknowledged)
	b.ReportMetric(rss(b, p), "rss-MB")
	p.Kill()

	raw := bareFanOut(b, sockets)
	report("bare", raw)
	b.ReportMetric(ms(changed.percentile(0.99))/ms(raw.percentile(0.99)), "changed-ratio-p99")
	b.ReportMetric(ms(events.percentile(0.99))/ms(raw.percentile(0.99)), "event-ratio-p99")
}

// watch reads the frames that come to many sockets.
type watch struct {
	conns []net.Conn
	done  sync.WaitGroup
	came  [][]push // by socket
	pings atomic.Int64

	changes, events atomic.Int64
	faults          atomic.Int64
	closing         atomic.Bool
}

// push is a frame that came: id is that of the event it tells of, 0 for a
// DataChanged.
type push struct {
	id int64
	at time.Time
}

func newWatch(b *testing.B, n int, dial func() net.Conn) *watch {
	b.Helper()
	w := &watch{came: make([][]push, n)}
	for i := range n {
		w.conns = append(w.conns, dial())
		w.came[i] = make([]push, 0, 512)
	}
	b.Cleanup(w.close)
	for i, conn := range w.conns {
		w.done.Go(func() {
			if err := w.read(i, conn); err != nil && !w.closing.Load() {
				w.faults.Add(1)
			}
		})
	}
	return w
}

func (w *watch) close() {
	if w.closing.Swap(true) {
		return
	}
	for _, conn := range w.conns {
		_ = conn.Close()
	}
	w.done.Wait()
}

var (
	pushedEvent   = []byte(`{"data":{"id":`)
	pushedChanged = []byte(`{"data":{},"event":"DataChanged"`)
)

func (w *watch) read(i int, conn net.Conn) error {
	buf, kept := make([]byte, 8<<10), 0
	for {
		n, err := conn.Read(buf[kept:])
		if err != nil {
			return err
		}
		at := time.Now()
		b := buf[:kept+n]
		for {
			payload, size, whole := frame(b)
			if !whole {
				break
			}
			number, told := bytes.CutPrefix(payload, pushedEvent)
			switch {
			case b[0] == 0x89: // a ping
				w.pings.Add(1)
				if _, err := conn.Write(append([]byte{0x8a, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)); err != nil {
					return err
				}
			case told:
				id, err := strconv.ParseInt(string(number[:bytes.IndexByte(number, ',')]), 10, 64)
				if err != nil {
					return err
				}
				w.came[i] = append(w.came[i], push{id, at})
				w.events.Add(1)
			case bytes.HasPrefix(payload, pushedChanged):
				w.came[i] = append(w.came[i], push{0, at})
				w.changes.Add(1)
			default:
				return fmt.Errorf("%.100q", payload)
			}
			b = b[size:]
		}
		kept = copy(buf, b)
	}
}

// await waits until so many frames have come.
func (w *watch) await(b *testing.B, n *atomic.Int64, want int64) {
	b.Helper()
	for limit := time.Now().Add(20 * time.Second); n.Load() < want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) || w.faults.Load() > 0 {
			b.Fatalf("%d of %d pushes came, %d sockets failed", n.Load(), want, w.faults.Load())
		}
	}
}

// sent is an event that is on its way to the sockets.
type sent struct {
	id           int64
	at, answered time.Time
}

// quiet posts events one by one after pauses, and gives how long it took until
// each socket was told that something changed.
func (w *watch) quiet(b *testing.B, p *apptest.Process, events int) (fromSent, fromAnswered load) {
	b.Helper()
	post := hook(b, p)
	var list []sent
	for n := range events {
		time.Sleep(150 * time.Millisecond)
		list = append(list, post(n))
		w.await(b, &w.changes, int64(len(w.conns)*len(list)))
	}
	w.close()
	for _, came := range w.came {
		for n, one := range came {
			fromSent.latency = append(fromSent.latency, one.at.Sub(list[n].at))
			fromAnswered.latency = append(fromAnswered.latency, one.at.Sub(list[n].answered))
		}
	}
	slices.Sort(fromSent.latency)
	slices.Sort(fromAnswered.latency)
	return fromSent, fromAnswered
}

// steady posts 20 events a second and gives how long it took until each socket
// was told of each.
func (w *watch) steady(b *testing.B, events int, post func(n int) sent) (fromSent, fromAnswered load) {
	b.Helper()
	list := map[int64]sent{}
	pace := time.NewTicker(time.Second / 20)
	defer pace.Stop()
	for n := range events {
		<-pace.C
		s := post(n)
		list[s.id] = s
	}
	w.await(b, &w.events, int64(len(w.conns)*events))
	w.close()
	for _, came := range w.came {
		for _, one := range came {
			if one.id == 0 {
				continue
			}
			s, known := list[one.id]
			if !known {
				b.Fatalf("a push of event %d, which nobody posted", one.id)
			}
			fromSent.latency = append(fromSent.latency, one.at.Sub(s.at))
			fromAnswered.latency = append(fromAnswered.latency, one.at.Sub(s.answered))
		}
	}
	slices.Sort(fromSent.latency)
	slices.Sort(fromAnswered.latency)
	return fromSent, fromAnswered
}

// hook gives what posts the events of calls, one after another.
func hook(b *testing.B, p *apptest.Process) func(n int) sent {
	b.Helper()
	begun := int(time.Now().UnixMilli() % 1_000_000_000) // no event is posted twice
	return func(n int) sent {
		c := newCall(begun+n/len(answered), answered)
		req, err := http.NewRequest(http.MethodPost, p.URL+"/telephony/webhook", bytes.NewReader(c.event(nil, n%len(answered))))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+p.Key)
		req.Header.Set("Content-Type", "application/json")
		s := sent{at: time.Now()}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		var receipt struct {
			ID        int64 `json:"id"`
			Duplicate bool  `json:"duplicate"`
		}
		text, err := io.ReadAll(resp.Body)
		s.answered = time.Now()
		if err = errors.Join(err, resp.Body.Close(), json.Unmarshal(text, &receipt)); err != nil || resp.StatusCode != http.StatusOK || receipt.Duplicate {
			b.Fatalf("%s %s (%v)", resp.Status, text, err)
		}
		s.id = receipt.ID
		return s
	}
}

// boardOf connects a board and has it welcomed, and subscribed if it is to be.
func boardOf(b *testing.B, p *apptest.Process, subscribe bool) net.Conn {
	b.Helper()
	host := strings.TrimPrefix(p.URL, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		b.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	var got []byte
	until := func(end string) {
		for buf := make([]byte, 4<<10); !bytes.Contains(got, []byte(end)); {
			n, err := conn.Read(buf)
			if got = append(got, buf[:n]...); err != nil {
				b.Fatalf("a board cannot connect: %v: %.200q", err, got)
			}
		}
	}
	_, err = fmt.Fprintf(conn, "GET /telephony/ws HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", host, p.Key)
	if err != nil {
		b.Fatal(err)
	}
	until(`"event":"Welcome","status":"Ok"}`)
	if subscribe {
		if _, err := conn.Write(masked(`{"event":"Subscribe"}`)); err != nil {
			b.Fatal(err)
		}
		until(`"event":"Subscribe","status":"Ok"}`)
	}
	_ = conn.SetDeadline(time.Time{})
	return conn
}

// bareFanOut writes frames of events, 20 a second, to plain connections in a
// loop and gives how long they took from the beginning of the loop.
func bareFanOut(b *testing.B, sockets int) load {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var to []net.Conn
	w := newWatch(b, sockets, func() net.Conn {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		other, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		to = append(to, other)
		return conn
	})
	defer func() {
		for _, conn := range to {
			_ = conn.Close()
		}
	}()
	took, _ := w.steady(b, sized(b, 100), func(n int) sent {
		c := newCall(n, answered)
		text := fmt.Sprintf(`{"data":{"id":%d,"aggregate_id":%q,"uuid":"be7d7b70-ec0f-81e9-90fb-0f172d2e84ac","event":%s},"event":"CallEvent","status":"Ok"}`, n+1, callID(n), c.event(nil, 0))
		whole := append([]byte{0x81, 126, byte(len(text) >> 8), byte(len(text))}, text...)
		s := sent{id: int64(n + 1), at: time.Now()}
		for _, conn := range to {
			if _, err := conn.Write(whole); err != nil {
				b.Fatal(err)
			}
		}
		s.answered = time.Now()
		return s
	})
	return took
}
