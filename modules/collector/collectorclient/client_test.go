package collectorclient_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchboard/modules/collector/collectorclient"
)

func TestAnEventGetsItsIDAndTimeWhenItIsTracked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		client, _ := start(t, c, nil)
		track(t, client, "first")
		time.Sleep(200 * time.Microsecond)
		track(t, client, "second")
		time.Sleep(time.Hour)
		end(t, client)

		if got := c.names(); !slices.Equal(got, []string{"first", "second"}) {
			t.Fatalf("stored %v", got)
		}
		first, second := c.stored[0], c.stored[1]
		if first.Timestamp != "2000-01-01T00:00:00.000000Z" || second.Timestamp != "2000-01-01T00:00:00.000200Z" {
			t.Errorf("timestamps %s, %s", first.Timestamp, second.Timestamp)
		}
		v7 := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
		if !v7.MatchString(first.ID) || first.ID >= second.ID {
			t.Errorf("ids %s, %s are not ordered UUIDv7", first.ID, second.ID)
		}
		if string(first.Data) != `{"path":"/"}` || first.SessionID != "s1" || first.Category != "page interaction" {
			t.Errorf("%+v", first)
		}
	})
}

func TestTrackOptionsSetIDTimeAndUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		client, _ := start(t, c, nil)
		at := time.Date(2021, 1, 1, 9, 15, 27, 243860000, time.FixedZone("", 3600))
		for range 2 {
			if err := client.Track("s", "c", "n", nil, collectorclient.WithID("order-7"), collectorclient.WithTime(at), collectorclient.WithUser("u1")); err != nil {
				t.Fatal(err)
			}
		}
		end(t, client)
		if len(c.stored) != 1 {
			t.Fatalf("one id stored %d times", len(c.stored))
		}
		e := c.stored[0]
		if e.ID != "order-7" || e.UserID != "u1" || e.Timestamp != "2021-01-01T08:15:27.243860Z" || string(e.Data) != "{}" {
			t.Errorf("%+v", e)
		}
	})
}

func TestBatchesGoOutWhenFullOrWhenTheirTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		client, _ := start(t, c, func(o *collectorclient.Options) { o.MaxBatch, o.FlushEvery = 10, time.Second })
		track(t, client, numbered(0, 25)...)
		synctest.Wait()
		if got := sizes(c); !slices.Equal(got, []int{10, 10}) {
			t.Fatalf("at once: %v, want the two full batches", got)
		}
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		if got := sizes(c); len(got) != 2 {
			t.Fatalf("before FlushEvery: %v", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := sizes(c); !slices.Equal(got, []int{10, 10, 5}) {
			t.Fatalf("after FlushEvery: %v", got)
		}
		if got := c.names(); !slices.Equal(got, numbered(0, 25)) {
			t.Errorf("order: %v", got)
		}
		end(t, client)
	})
}

func TestBatchesAreBoundedByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		client, _ := start(t, c, func(o *collectorclient.Options) { o.MaxBatchBytes, o.GzipAbove = 3000, -1 })
		for _, n := range numbered(0, 20) {
			if err := client.Track("s", "c", n, map[string]string{"x": strings.Repeat("ж", 200)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.Track("s", "c", "alone", map[string]string{"x": strings.Repeat("x", 10_000)}); err != nil {
			t.Fatal(err)
		}
		end(t, client)
		for _, r := range c.got() {
			if r.size > 3000 && len(r.events) > 1 {
				t.Errorf("%d events in %d bytes", len(r.events), r.size)
			}
		}
		if got := c.names(); !slices.Equal(got, append(numbered(0, 20), "alone")) {
			t.Errorf("stored %v", got)
		}
		if n := len(c.got()); n > 7 {
			t.Errorf("%d requests for 20 events of 600 bytes and a large one", n)
		}
	})
}

func TestFullQueueIsAnErrorAndLosesNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		c.says(says(503))
		client, _ := start(t, c, func(o *collectorclient.Options) { o.MaxQueue = 3 })
		track(t, client, "a", "b", "c")
		if err := client.Track("s", "c", "d", nil); !errors.Is(err, collectorclient.ErrQueueFull) {
			t.Fatalf("fourth: %v", err)
		}
		if got, want := client.Stats(), (collectorclient.Stats{Queued: 3, Refused: 1}); got != want {
			t.Errorf("stats %+v", got)
		}
		c.says(nil)
		end(t, client)
		if got := c.names(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("stored %v", got)
		}
	})
}

func TestQueueIsBoundedByBytesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := start(t, newCollector(), func(o *collectorclient.Options) { o.MaxQueueBytes = 500 })
		track(t, client, "a")
		err := client.Track("s", "c", "d", map[string]string{"x": strings.Repeat("x", 400)})
		if !errors.Is(err, collectorclient.ErrQueueFull) {
			t.Errorf("%v", err)
		}
		end(t, client)
	})
}

func TestWhatCanNotBeRightIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		client, _ := start(t, c, nil)
		for _, bad := range []struct {
			what                    string
			session, category, name string
			data                    any
			want                    error
		}{
			{"no session", "", "c", "n", nil, collectorclient.ErrInvalid},
			{"long session", strings.Repeat("ж", 257), "c", "n", nil, collectorclient.ErrInvalid},
			{"no category", "s", "", "n", nil, collectorclient.ErrInvalid},
			{"no name", "s", "c", "", nil, collectorclient.ErrInvalid},
			{"data a string", "s", "c", "n", "invalid data", collectorclient.ErrInvalid},
			{"data a list", "s", "c", "n", []int{1}, collectorclient.ErrInvalid},
			{"data not JSON", "s", "c", "n", map[string]any{"x": math.Inf(1)}, collectorclient.ErrInvalid},
			{"9 MiB", "s", "c", "n", map[string]any{"x": strings.Repeat("x", 9<<20)}, collectorclient.ErrTooLarge},
		} {
			if err := client.Track(bad.session, bad.category, bad.name, bad.data); !errors.Is(err, bad.want) {
				t.Errorf("%s: %v", bad.what, err)
			}
		}
		if err := client.Track(strings.Repeat("ж", 256), "c", "n", map[string]int(nil)); err != nil {
			t.Errorf("256 characters: %v", err)
		}
		end(t, client)
		if len(c.stored) != 1 {
			t.Errorf("stored %v", c.names())
		}
	})
}

func TestLostAnswerIsRetriedUnderTheSameIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		c.says(nil, lost, storedButLost, says(502), says(200), nil)
		client, errs := start(t, c, nil)
		track(t, client, "a", "b")
		time.Sleep(time.Minute)
		end(t, client)
		requests := c.got()
		if len(requests) != 5 {
			t.Fatalf("%d attempts, want 5", len(requests))
		}
		for _, r := range requests {
			if !reflect.DeepEqual(r.events, requests[0].events) {
				t.Errorf("another attempt, another event: %+v", r.events)
			}
		}
		if got := c.names(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("stored %v", got)
		}
		var e *collectorclient.SendError
		if all := errs.all(); len(all) != 4 || !errors.As(all[2], &e) || e.Status != 502 || e.Queued != 2 || e.Refused {
			t.Errorf("reports %v", all)
		}
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	for _, status := range []int{429, 503, 507} {
		for header, want := range map[string]time.Duration{
			"30":                            30 * time.Second,
			"Sat, 01 Jan 2000 00:02:01 GMT": 121 * time.Second,
			"86400":                         time.Hour, // cut
		} {
			t.Run(fmt.Sprint(status, header), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCollector()
					c.says(nil, says(status, "Retry-After", header))
					client, _ := start(t, c, func(o *collectorclient.Options) { o.FlushEvery = time.Second })
					track(t, client, "a")
					if err := client.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
					r := c.got()
					if len(r) != 2 {
						t.Fatalf("%d attempts", len(r))
					}
					gap := r[1].at.Sub(r[0].at)
					if gap < want || gap > want+2*time.Second {
						t.Errorf("waited %s, told %s", gap, want)
					}
					end(t, client)
				})
			})
		}
	}
}

func TestBackoffDoublesWithFullJitterUpToItsMaximum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		c.says(says(500))
		client, _ := start(t, c, func(o *collectorclient.Options) {
			o.RetryMin, o.RetryMax = time.Second, 16*time.Second
		})
		track(t, client, "a")
		time.Sleep(30 * time.Minute)
		r := c.got()
		var sum time.Duration
		distinct := map[time.Duration]bool{}
		for i := 1; i < len(r); i++ {
			gap := r[i].at.Sub(r[i-1].at)
			distinct[gap] = true
			sum += gap
			if ceiling := min(time.Second<<min(i-1, 10), 16*time.Second); gap > ceiling {
				t.Errorf("attempt %d after %s, at most %s", i, gap, ceiling)
			}
		}
		if mean := sum / time.Duration(len(r)-1); mean < 6*time.Second || mean > 10*time.Second {
			t.Errorf("mean wait %s, want about 8 s", mean)
		}
		if len(distinct) < len(r)/2 {
			t.Errorf("%d different waits of %d: no jitter", len(distinct), len(r))
		}
		c.says(nil)
		end(t, client)
	})
}

func TestRejectedEventsAreReportedOnceAndTheOthersStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		client, errs := start(t, c, nil)
		track(t, client, "a")
		bad(t, client, "b")
		track(t, client, "c")
		end(t, client)
		if got := c.names(); !slices.Equal(got, []string{"a", "c"}) {
			t.Errorf("stored %v", got)
		}
		var e *collectorclient.RejectedError
		all := errs.all()
		if len(all) != 1 || !errors.As(all[0], &e) || e.Status != 202 || len(e.Rejections) != 1 {
			t.Fatalf("reports %v", all)
		}
		r := e.Rejections[0]
		if r.ID != c.got()[0].events[1].ID || !strings.Contains(string(r.Event), `"name":"b"`) ||
			r.Errors[0] != (collectorclient.FieldError{Location: "data.bad", Message: "unexpected property"}) {
			t.Errorf("%+v", r)
		}
		if n := len(c.got()); n != 1 {
			t.Errorf("%d requests", n)
		}
		if s := client.Stats(); s.Accepted != 2 || s.Rejected != 1 || s.Queued != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestNoneAcceptableIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		client, errs := start(t, c, nil)
		bad(t, client, "a")
		bad(t, client, "b")
		if err := client.Flush(t.Context()); err != nil {
			t.Fatalf("rejected is settled: %v", err)
		}
		var e *collectorclient.RejectedError
		if all := errs.all(); len(all) != 1 || !errors.As(all[0], &e) || e.Status != 422 || len(e.Rejections) != 2 {
			t.Fatalf("reports %v", all)
		}
		if got := e.Rejections[1].Errors; len(got) != 1 || got[0].Location != "body.events[1].data.bad" {
			t.Errorf("the second event's errors: %+v", got)
		}
		c.says(nil, says(422))
		track(t, client, "c")
		end(t, client)
		if n := len(c.got()); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
		var second *collectorclient.RejectedError
		if all := errs.all(); len(all) != 2 || !errors.As(all[1], &second) || !strings.Contains(second.Error(), "scripted") {
			t.Errorf("a 422 without errors: %v", all)
		}
	})
}

func TestTooLargeABatchIsHalvedAndTooLargeAnEventReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		c.maxBytes = 2000
		client, errs := start(t, c, nil)
		want := numbered(0, 30)
		track(t, client, want[:15]...)
		if err := client.Track("s", "c", "huge", map[string]string{"x": strings.Repeat("x", 5000)}); err != nil {
			t.Fatal(err)
		}
		track(t, client, want[15:]...)
		end(t, client)
		if got := c.names(); !slices.Equal(got, want) {
			t.Errorf("stored %v", got)
		}
		var e *collectorclient.RejectedError
		if all := errs.all(); len(all) != 1 || !errors.As(all[0], &e) || e.Status != 413 || len(e.Rejections) != 1 {
			t.Fatalf("reports %v", all)
		}
		events, n := 0, len(c.got())
		for _, r := range c.got() {
			events += len(r.events)
		}
		if n > 25 || events > 150 {
			t.Errorf("%d requests with %d events for 31 events", n, events)
		}
	})
}

func TestRefusedKeyKeepsTheQueueAndRetriesSlowly(t *testing.T) {
	for _, status := range []int{401, 403, 404, 302, 400} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCollector()
				c.says(says(status, "Location", "/elsewhere"))
				client, errs := start(t, c, func(o *collectorclient.Options) { o.RetryMax = time.Minute })
				track(t, client, "a")
				err := client.Flush(t.Context())
				var unsent *collectorclient.UnsentError
				var send *collectorclient.SendError
				if !errors.As(err, &unsent) || unsent.Count != 1 || !errors.As(err, &send) || !send.Refused || send.Status != status {
					t.Fatalf("flush: %v", err)
				}
				time.Sleep(10 * time.Minute)
				if n := len(c.got()); n < 10 || n > 22 {
					t.Errorf("%d attempts in ten minutes", n)
				}
				if client.Stats().Queued != 1 || len(errs.all()) != len(c.got()) {
					t.Errorf("stats %+v, %d reports", client.Stats(), len(errs.all()))
				}
				c.says(nil)
				time.Sleep(time.Minute)
				if got := c.names(); len(got) != 1 {
					t.Errorf("after the key was mended: %v", got)
				}
				end(t, client)
			})
		})
	}
}

func TestCloseDoesNotWaitForAKeyThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		c.says(says(401))
		client, _ := start(t, c, nil)
		track(t, client, "a", "b")
		begin := time.Now()
		err := client.Close(context.Background())
		var unsent *collectorclient.UnsentError
		if !errors.As(err, &unsent) || unsent.Count != 2 || unsent.Spooled {
			t.Fatalf("%v", err)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("took %s", took)
		}
	})
}

func TestCloseTriesUntilItsContextEndsAndSaysWhatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		c.says(lost)
		client, _ := start(t, c, nil)
		track(t, client, "a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err := client.Close(ctx)
		var unsent *collectorclient.UnsentError
		if !errors.As(err, &unsent) || unsent.Count != 2 || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v", err)
		}
		if n := len(c.got()); n < 3 {
			t.Errorf("%d attempts", n)
		}
		if again := client.Close(t.Context()); again != err {
			t.Errorf("second Close: %v", again)
		}
		if err := client.Track("s", "c", "n", nil); !errors.Is(err, collectorclient.ErrClosed) {
			t.Errorf("Track: %v", err)
		}
		if err := client.Flush(t.Context()); !errors.Is(err, collectorclient.ErrClosed) {
			t.Errorf("Flush: %v", err)
		}
	})
}

func TestFlushCutsABackoffShortButNotRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCollector()
		c.says(nil, says(404), says(503, "Retry-After", "600"))
		client, _ := start(t, c, func(o *collectorclient.Options) { o.RetryMax = time.Hour })
		track(t, client, "a")
		time.Sleep(time.Minute) // 404 seen, next attempt in half an hour
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		err := client.Flush(ctx) // 503 seen at once
		if !errors.Is(err, context.DeadlineExceeded) || len(c.got()) != 2 {
			t.Fatalf("%v after %d attempts", err, len(c.got()))
		}
		begin := time.Now()
		if err := client.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < 5*time.Minute || took > 6*time.Minute {
			t.Errorf("second flush took %s", took)
		}
		end(t, client)
	})
}

func TestGzipAndSignatureAreOverTheBytesAsSent(t *testing.T) {
	server := newCollector()
	server.secret = "whsec"
	srv := httptest.NewServer(server)
	defer srv.Close()
	client, errs := start(t, server, func(o *collectorclient.Options) {
		o.URL, o.SigningSecret, o.HTTPClient = srv.URL+"/", "whsec", nil
		o.GzipAbove = 1000
	})
	track(t, client, "small")
	if err := client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	track(t, client, numbered(0, 100)...)
	end(t, client)
	if len(server.names()) != 101 || len(errs.all()) != 0 {
		t.Fatalf("stored %d, reports %v", len(server.names()), errs.all())
	}
	small, large := server.got()[0], server.got()[1]
	if small.header.Get("Content-Encoding") != "" || large.header.Get("Content-Encoding") != "gzip" {
		t.Errorf("encodings %q, %q", small.header.Get("Content-Encoding"), large.header.Get("Content-Encoding"))
	}
	if large.size > 100*60 {
		t.Errorf("100 events in %d bytes", large.size)
	}
}

func TestManyGoroutinesLoseNothing(t *testing.T) {
	server := newCollector()
	server.says(nil, says(503), lost, nil, storedButLost)
	srv := httptest.NewServer(server)
	defer srv.Close()
	client, _ := start(t, server, func(o *collectorclient.Options) {
		o.URL, o.HTTPClient = srv.URL, nil
		o.MaxBatch, o.FlushEvery, o.RetryMin = 50, time.Millisecond, time.Millisecond
	})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				if err := client.Track(fmt.Sprint("s", g), "c", fmt.Sprint(i), nil); err != nil {
					t.Error(err)
				}
				if i%40 == 0 {
					if err := client.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	end(t, client)
	next := map[string]int{}
	for _, e := range server.stored {
		if e.Name != fmt.Sprint(next[e.SessionID]) {
			t.Fatalf("session %s: %s, want %d", e.SessionID, e.Name, next[e.SessionID])
		}
		next[e.SessionID]++
	}
	if len(server.stored) != 800 {
		t.Errorf("stored %d", len(server.stored))
	}
}

func TestServerThatIsDownWhenTheClientStarts(t *testing.T) {
	srv := httptest.NewUnstartedServer(newCollector())
	address := srv.Listener.Addr().String()
	_ = srv.Listener.Close()
	client, errs := start(t, nil, func(o *collectorclient.Options) {
		o.URL, o.HTTPClient, o.RetryMin, o.RetryMax = "http://"+address, nil, time.Millisecond, 20*time.Millisecond
		o.FlushEvery = time.Millisecond
	})
	track(t, client, "a")
	for len(errs.all()) == 0 {
		time.Sleep(time.Millisecond)
	}
	up := newCollector()
	again := serveOn(t, address, up)
	defer again.Close()
	end(t, client)
	if got := up.names(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("stored %v", got)
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	for what, o := range map[string]collectorclient.Options{
		"no url":     {Key: key},
		"no scheme":  {URL: "collector:8080", Key: key},
		"no host":    {URL: "https:///x", Key: key},
		"a query":    {URL: "https://x?key=1", Key: key},
		"no key":     {URL: "https://x"},
		"a line end": {URL: "https://x", Key: key + "\n"},
	} {
		if c, err := collectorclient.New(o); err == nil {
			t.Errorf("%s: accepted", what)
			_ = c.Close(t.Context())
		}
	}
}

// end closes the client and wants everything sent.
func end(t *testing.T, c *collectorclient.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func bad(t *testing.T, c *collectorclient.Client, name string) {
	t.Helper()
	if err := c.Track("s1", "page interaction", name, map[string]any{"bad": true}); err != nil {
		t.Fatal(err)
	}
}

func sizes(c *collector) (n []int) {
	for _, r := range c.got() {
		n = append(n, len(r.events))
	}
	return n
}

func serveOn(t *testing.T, address string, h http.Handler) *httptest.Server {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h, ReadHeaderTimeout: time.Second}}
	srv.Start()
	return srv
}
