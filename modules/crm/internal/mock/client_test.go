package mock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchboard/platform/apptest"
)

// eachWay runs a test over connections in memory and over TCP.
func eachWay(t *testing.T, test func(t *testing.T, m *Mock, client *http.Client, base string)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		m := New("/crm")
		t.Cleanup(m.Close)
		test(t, m, m.Client(), "http://crm.mock")
	})
	t.Run("tcp", func(t *testing.T) {
		t.Parallel()
		m := New("/crm")
		s := httptest.NewServer(m)
		t.Cleanup(s.Close)
		test(t, m, s.Client(), s.URL)
	})
}

// do gives the status, 0 without an answer, and the body.
func do(client *http.Client, method, address, body string) (resp *http.Response, text string, err error) {
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	if resp, err = client.Do(req); err != nil {
		return nil, "", err
	}
	content, err := io.ReadAll(resp.Body)
	return resp, string(content), errors.Join(err, resp.Body.Close())
}

func TestFaults(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, m *Mock, client *http.Client, base string) {
		for _, c := range []struct {
			name   string
			faults Faults
			status int // 0: the connection is cut
			effect bool
		}{
			{"", Faults{}, 200, true},
			{"errors", Faults{Errors: 1}, 503, false},
			{"throttle", Faults{Throttle: 1}, 429, false},
			{"resets", Faults{Resets: 1}, 0, false},
			{"lost", Faults{Lost: 1}, 0, true},
			{"garbage", Faults{Garbage: 1}, 200, true},
			{"down", Faults{Down: true}, 0, false},
			{"refuse", Faults{Refuse: []string{"u2", "u1"}}, 400, false},
			{"", Faults{Latency: Duration(time.Millisecond), Jitter: Duration(time.Millisecond)}, 200, true},
		} {
			m.SetFaults(Faults{})
			m.Reset()
			if resp, body, err := do(client, "POST", base+"/users", aUser); err != nil || resp.StatusCode != http.StatusCreated {
				t.Fatal(body, err)
			}
			m.SetFaults(c.faults)
			post := func(path string, success int) {
				t.Helper()
				second := strings.Replace(aUser, "Zhutaekipo", "Žuvėdra", 1)
				resp, body, err := do(client, "POST", base+path, second)
				want := c.status
				if want == http.StatusOK {
					want = success
				}
				switch {
				case want == 0 && err == nil:
					t.Errorf("%s: %d, want a cut connection", c.name, resp.StatusCode)
				case want != 0 && (err != nil || resp.StatusCode != want):
					t.Fatalf("%s: %v %v, want %d", c.name, resp, err, want)
				case want != 0 && json.Valid([]byte(body)) != (c.name != "garbage"):
					t.Errorf("%s: %s", c.name, body)
				case want == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "1":
					t.Errorf("%v", resp.Header)
				}
			}
			post("/crm/users/u1", http.StatusOK)
			if done := len(m.History("users", "u1", 0, 0)) == 2; done != c.effect {
				t.Errorf("%s of a replacement: an effect: %t", c.name, done)
			}
			m.Reset()
			post("/crm/users", http.StatusCreated)
			if done := len(m.History("users", "u1", 0, 0)) == 1; done != c.effect {
				t.Errorf("%s of a creation: an effect: %t", c.name, done)
			}
			if n := m.Counts().Faults; c.name != "" && !maps.Equal(n, map[string]int64{c.name: 1}) {
				t.Errorf("%s: %v", c.name, n)
			}
			// A list and an object are read under the same faults, but for the
			// refused Ids.
			for _, path := range []string{"/users", "/users/u1"} {
				resp, body, err := do(client, "GET", base+path, "")
				switch {
				case c.status == 0 && err == nil:
					t.Errorf("%s: GET %s: %d", c.name, path, resp.StatusCode)
				case c.status != 0 && err != nil:
					t.Errorf("%s: GET %s: %v", c.name, path, err)
				case c.name == "garbage" && json.Valid([]byte(body)):
					t.Errorf("%s: GET %s: %s", c.name, path, body)
				}
			}
		}
		// Lost hides refusals too, and garbage does not touch them.
		m.Reset()
		m.SetFaults(Faults{Lost: 1})
		if resp, _, err := do(client, "POST", base+"/users/u9", aUser); err == nil {
			t.Errorf("%d", resp.StatusCode)
		}
		m.SetFaults(Faults{Garbage: 1})
		if resp, body, err := do(client, "POST", base+"/users/u9", aUser); err != nil || resp.StatusCode != http.StatusNotFound || !json.Valid([]byte(body)) {
			t.Errorf("%v %s", err, body)
		}
	})
}

func TestAResetOverTCPIsOne(t *testing.T) {
	t.Parallel()
	m := New("")
	m.SetFaults(Faults{Resets: 1})
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST /users HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(aUser), aUser); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestAClientThatLeavesWhileItWaitsHasNoEffect(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, m *Mock, client *http.Client, base string) {
		m.SetFaults(Faults{Latency: Duration(20 * time.Second)})
		ctx, leave := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "POST", base+"/users", strings.NewReader(aUser))
		left := make(chan error)
		go func() {
			resp, err := client.Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			left <- err
		}()
		apptest.Eventually(t, func() string {
			if m.Counts().Calls["users.create"] == 0 {
				return "the request has not come"
			}
			return ""
		})
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		m.SetFaults(Faults{})
		if n := m.Counts().Users; n != 0 {
			t.Errorf("%d users", n)
		}
	})
}

func TestLatencyInVirtualTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := New("")
		m.SetFaults(Faults{Latency: Duration(20 * time.Millisecond), Jitter: Duration(10 * time.Millisecond)})
		for range 50 {
			start := time.Now()
			if resp, body, err := do(m.Client(), "GET", "http://crm.mock/users", ""); err != nil || resp.StatusCode != http.StatusOK || body != "[]" {
				t.Fatal(body, err)
			}
			if took := time.Since(start); took < 20*time.Millisecond || took > 30*time.Millisecond {
				t.Errorf("%s", took)
			}
		}
		m.Close()
	})
}

func TestShares(t *testing.T) {
	t.Parallel()
	s := newSetting(Faults{Errors: 0.1, Throttle: 0.2, Resets: 0.1, Lost: 0.2, Garbage: 0.1})
	count := map[fault]int{}
	const n = 20_000
	for range n {
		count[s.draw()]++
	}
	for fault, share := range map[fault]float64{healthy: 0.3, failing: 0.1, throttled: 0.2, reset: 0.1, lost: 0.2, garbled: 0.1} {
		if got := float64(count[fault]) / n; got < share-0.03 || got > share+0.03 {
			t.Errorf("%q: %.3f, want %.1f", fault, got, share)
		}
	}
}

func TestFaultsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for want, f := range map[string]Faults{
		"":         {Errors: 0.5, Lost: 0.5, IDs: Own, Latency: Duration(time.Second)},
		"errors":   {Errors: -0.1},
		"lost":     {Lost: 1.1},
		"add up":   {Errors: 0.6, Resets: 0.6},
		"ids":      {IDs: "other"},
		"latency ": {Latency: -1},
		"jitter ":  {Latency: Duration(20 * time.Second), Jitter: Duration(20 * time.Second)},
	} {
		if err := f.Check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	var f Faults
	if err := json.Unmarshal([]byte(`{"latency":"20ms","jitter":"1.5s","ids":"own"}`), &f); err != nil || f.Latency != Duration(20*time.Millisecond) || f.Jitter.String() != "1.5s" {
		t.Errorf("%+v %v", f, err)
	}
	if err := json.Unmarshal([]byte(`{"latency":"soon"}`), &f); err == nil {
		t.Error("soon is no duration")
	}
}

func TestNothingRunsAfterClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // it fails when a goroutine is left
		m := New("")
		m.SetFaults(Faults{Latency: Duration(20 * time.Second)})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if resp, _, err := do(m.Client(), "POST", "http://crm.mock/users", aUser); err == nil {
					t.Errorf("%d", resp.StatusCode)
				}
			})
		}
		synctest.Wait()
		m.Close()
		m.Close()
		wg.Wait()
		if n := m.Counts().Users; n != 0 {
			t.Errorf("%d users", n)
		}
		if _, _, err := do(m.Client(), "GET", "http://crm.mock/users", ""); err == nil {
			t.Error("a closed mock answers")
		}
		never := New("")
		never.Close()
		if _, _, err := do(never.Client(), "GET", "http://crm.mock/users", ""); err == nil {
			t.Error("a closed mock answers")
		}
	})
}

// A POST of an object as a client in this process does it.
func BenchmarkReplaceOverHTTP(b *testing.B) {
	m := New("/crm")
	b.Cleanup(m.Close)
	ask(m, "POST", "/users", aUser)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if resp, _, err := do(m.Client(), "POST", "http://crm.mock/users/u1", aUser); err != nil || resp.StatusCode != http.StatusOK {
				b.Error(err)
			}
		}
	})
}
