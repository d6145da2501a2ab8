package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is what a number of connections got done, each sending the next request
// when the answer to the one before has come.
type load struct {
	requests int64
	took     time.Duration
	latency  []time.Duration // sorted
}

func (l load) rate(perRequest int) float64 {
	return float64(l.requests) * float64(perRequest) / l.took.Seconds()
}

// and is both one after the other.
func (l load) and(m load) load {
	return load{l.requests + m.requests, l.took + m.took, slices.Sorted(slices.Values(slices.Concat(l.latency, m.latency)))}
}

func (l load) percentile(p float64) time.Duration {
	if len(l.latency) == 0 {
		return 0
	}
	return l.latency[min(int(float64(len(l.latency))*p), len(l.latency)-1)]
}

// drive sends requests for a time. body gives the body of each request; it is
// called by one goroutine per connection. It does as little as it can, since
// it shares the machine with what it measures.
func drive(b testing.TB, target, key string, conns int, d time.Duration, body func(conn, n int) []byte) load {
	b.Helper()
	u, err := url.Parse(target)
	if err != nil {
		b.Fatal(err)
	}
	head := "POST " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\nAuthorization: Bearer " + key + "\r\nContent-Type: application/json\r\nContent-Length: "
	var total atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	failures := make(chan error, conns)
	begin := time.Now()
	for c := range conns {
		wg.Go(func() {
			lat, err := converse(u.Host, head, begin.Add(d), &total, func(n int) []byte { return body(c, n) })
			if err != nil {
				failures <- err
			}
			mu.Lock()
			all = append(all, lat...)
			mu.Unlock()
		})
	}
	wg.Wait()
	took := time.Since(begin)
	select {
	case err := <-failures:
		b.Fatal(err)
	default:
	}
	slices.Sort(all)
	return load{total.Load(), took, all}
}

func converse(host, head string, until time.Time, total *atomic.Int64, body func(n int) []byte) ([]time.Duration, error) {
	conn, err := net.Dial("tcp", host)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	var out []byte
	var lat []time.Duration
	for n := 0; ; n++ {
		begin := time.Now()
		if begin.After(until) {
			return lat, nil
		}
		text := body(n)
		out = append(append(append(out[:0], head...), strconv.Itoa(len(text))+"\r\n\r\n"...), text...)
		if _, err := conn.Write(out); err != nil {
			return nil, err
		}
		if err := answer(r); err != nil {
			return nil, err
		}
		lat = append(lat, time.Since(begin))
		total.Add(1)
	}
}

// answer reads one answer and wants it to be a 202.
func answer(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	good := bytes.HasPrefix(status, []byte("HTTP/1.1 202"))
	first := strings.TrimSpace(string(status))
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

// event writes one event of a web shop, about 300 bytes; sessions of fifty.
func event(b []byte, conn, n int, at time.Time) []byte {
	return fmt.Appendf(b, `{"session_id":"%08x-0000-4000-8000-%012x","category":"page interaction","name":"pageview","data":{"host":"shop.example","path":"/shoes/%d","referrer":"https://search.example/?q=shoes+red","viewport":{"w":1280,"h":720},"language":"en"},"timestamp":"%s"}`,
		conn, n/50, n%997, at.UTC().Format("2006-01-02 15:04:05.000000"))
}

func batch(conn, n, size int) []byte {
	b := make([]byte, 0, size*320)
	b = append(b, `{"events":[`...)
	now := time.Now()
	for i := range size {
		if i > 0 {
			b = append(b, ',')
		}
		b = event(b, conn, n*size+i, now)
	}
	return append(b, `]}`...)
}
