package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// shareEnv makes the benchmarks of telephony smaller, to see whether they work:
// 0.02 does a fiftieth of the calls in a fiftieth of the time. What they measure
// then means nothing.
const shareEnv = "BENCH_TELEPHONY_SHARE"

func share(b *testing.B) float64 {
	b.Helper()
	text := os.Getenv(shareEnv)
	if text == "" {
		return 1
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f <= 0 || f > 1 {
		b.Fatalf("%s is not above 0 and up to 1", shareEnv)
	}
	return f
}

// sized is a number of things, and lasting a time, both less in a small run.
func sized(b *testing.B, n int) int { return max(int(float64(n)*share(b)), 20) }

func lasting(b *testing.B, d time.Duration) time.Duration {
	return max(time.Duration(float64(d)*share(b)), 300*time.Millisecond)
}

// agents answer the calls.
const agents = 24

// spoken is a call: what it is about and which events it has.
type spoken struct {
	serial int
	caller int
	events []string // types, in order
}

// A call that an agent answers, from its beginning to its end.
var answered = []string{"call.new", "call.standby", "call.waiting", "actor.entered", "call.ongoing", "actor.left", "call.finished"}

// mixed are calls of three events on average: one in ten is answered, the
// others end before, one in ten has only begun.
var mixed = [10][]string{
	0: answered,
	1: {"call.new"},
	2: {"call.new", "call.finished"}, 3: {"call.new", "call.finished"},
	4: {"call.new", "call.waiting", "call.finished"}, 5: {"call.new", "call.waiting", "call.finished"}, 6: {"call.new", "call.waiting", "call.finished"},
	7: {"call.new", "call.waiting", "call.finished"}, 8: {"call.new", "call.waiting", "call.finished"}, 9: {"call.new", "call.waiting", "call.finished"},
}

// callEvery is the time between the beginnings of two calls: 10,000 an hour.
const callEvery = 360 * time.Millisecond

// newCall is the call of that number. Every second caller has called before.
func newCall(serial int, events []string) spoken {
	caller := serial
	if serial%2 == 1 {
		caller = 2 * rand.IntN(serial/2+1)
	}
	return spoken{serial, caller, events}
}

func callID(serial int) string { return fmt.Sprintf("%d.%d", dayOne.Unix(), serial) }

// theirNumber is the number that a caller calls from.
func theirNumber(caller int) string { return fmt.Sprintf("119%08d", caller) }

// event appends one of the call's events, about 220 bytes.
func (c *spoken) event(b []byte, n int) []byte {
	kind, queue := c.events[n], 900+c.caller%4
	at := dayOne.Add(time.Duration(c.serial)*callEvery + time.Duration(n)*10*time.Second)
	b = fmt.Appendf(b, `{"type":"%s","call_id":"%s","code":"%06d","timestamp":"%s"`, kind, callID(c.serial), c.serial%1_000_000, at.Format("2006-01-02T15:04:05.000Z"))
	switch kind {
	case "actor.entered", "actor.left":
		return fmt.Appendf(b, `,"actor":"agent.%d@callcentre.example","number":"%d","queue":"%d"}`, c.serial%agents, 200+c.serial%agents, queue)
	case "call.waiting":
		b = fmt.Appendf(b, `,"queue":"%d"`, queue)
	}
	return fmt.Appendf(b, `,"direction":"inbound","our_number":"0800000000","their_number":"%s","their_number_type":"mobile"}`, theirNumber(c.caller))
}

// callers play calls one after another; serials go on where they ended.
type callers struct {
	serial atomic.Int64
	events func(serial int) []string
}

func wholeCalls() *callers { return &callers{events: func(int) []string { return answered }} }
func mixedCalls() *callers {
	return &callers{events: func(serial int) []string { return mixed[serial%10] }}
}

// playFor is play for a time.
func (s *callers) playFor(b *testing.B, target, key string, conns int, d time.Duration) load {
	b.Helper()
	until := time.Now().Add(d)
	return s.play(b, target, key, conns, func(int) bool { return time.Now().Before(until) })
}

// play posts calls over a number of connections while more says so of the
// serial of the next one. A connection posts the events of its call in order,
// each when the one before was acknowledged.
func (s *callers) play(b *testing.B, target, key string, conns int, more func(serial int) bool) load {
	b.Helper()
	u, err := url.Parse(target)
	if err != nil {
		b.Fatal(err)
	}
	head := "POST " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\nAuthorization: Bearer " + key + "\r\nContent-Type: application/json\r\nContent-Length: "
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	var failures []error
	begin := time.Now()
	for range conns {
		wg.Go(func() {
			lat, err := s.talk(u.Host, head, more)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures = append(failures, err)
			}
			all = append(all, lat...)
		})
	}
	wg.Wait()
	took := time.Since(begin)
	if len(failures) > 0 {
		b.Fatal(failures[0])
	}
	slices.Sort(all)
	return load{int64(len(all)), took, all}
}

func (s *callers) talk(host, head string, more func(serial int) bool) (lat []time.Duration, err error) {
	conn, err := net.Dial("tcp", host)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 8<<10)
	var text, out []byte
	for {
		serial := int(s.serial.Add(1)) - 1
		if !more(serial) {
			return lat, nil
		}
		c := newCall(serial, s.events(serial))
		for n := range c.events {
			begin := time.Now()
			text = c.event(text[:0], n)
			out = append(append(append(out[:0], head...), strconv.Itoa(len(text))+"\r\n\r\n"...), text...)
			if _, err := conn.Write(out); err != nil {
				return nil, err
			}
			if err := acknowledged(r); err != nil {
				return nil, err
			}
			lat = append(lat, time.Since(begin))
		}
	}
}

// acknowledged reads one answer and wants it to be a 200, or the bare handler's
// 202.
func acknowledged(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	good := bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) || bytes.HasPrefix(status, []byte("HTTP/1.1 202 "))
	first := "acknowledged"
	if !good {
		first = string(bytes.TrimSpace(status))
	}
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
	}
	if !good {
		text := make([]byte, length)
		_, _ = io.ReadFull(r, text)
		return errors.New(first + " " + string(text))
	}
	_, err = r.Discard(length)
	return err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
