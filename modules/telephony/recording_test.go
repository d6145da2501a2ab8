package telephony

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"switchboard/platform/apptest"
	"switchboard/platform/config"
	"switchboard/platform/errs"
)

func fetching(c *Config) { c.Recordings = "fetch" }

// archive has recordings, and can be told what to answer.
type archive struct {
	*httptest.Server
	asked  atomic.Int64
	status atomic.Int64 // 0: the sound
	sound  []byte
}

func newArchive(t *testing.T, size int) *archive {
	t.Helper()
	a := &archive{sound: bytes.Repeat([]byte("RIFF of somebody's voice "), size/25+1)[:size]}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		switch status := int(a.status.Load()); {
		case status == 1: // an end that comes too early
			w.Header().Set("Content-Length", fmt.Sprint(len(a.sound)+1))
			_, _ = w.Write(a.sound)
		case status != 0:
			w.WriteHeader(status)
		default:
			w.Header().Set("Content-Type", "audio/wav; codecs=1")
			if strings.HasSuffix(r.URL.Path, "chunked") {
				w.(http.Flusher).Flush()
			}
			_, _ = w.Write(a.sound)
		}
	}))
	t.Cleanup(a.Close)
	return a
}

// told posts the events of a call whose recording can be had.
func (d *desk) told(callID, url string) int64 {
	d.t.Helper()
	d.tell("call.new", callID, "their_number", "11991910000")
	return d.tell("call.recording-available", callID, "url", url).ID
}

func (d *desk) recorded(id int64, state string) *recording {
	d.t.Helper()
	var got *recording
	apptest.Eventually(d.t, func() string {
		var err error
		if got, err = d.recordings.store.get(d.t.Context(), id); err != nil || got == nil {
			return fmt.Sprint("no recording: ", err)
		}
		if got.State != state || state == recordingPending && got.Detail == "" {
			return fmt.Sprintf("it is %s (%s), want %s", got.State, got.Detail, state)
		}
		return ""
	})
	return got
}

// playback gives what is kept.
func (d *desk) playback(callID string, id int64) ([]byte, error) {
	r, cipher, err := d.recordings.kept(context.Background(), callID, id)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = d.recordings.write(context.Background(), &out, r, cipher)
	return out.Bytes(), err
}

func TestARecordingIsFetchedAndKeptSealed(t *testing.T) {
	t.Parallel()
	eachDesk(t, fetching, func(t *testing.T, d *desk) {
		for i, size := range []int{0, 1, recordingPart, 2*recordingPart + 7} {
			for _, path := range []string{"/r.wav", "/chunked"} {
				a := newArchive(t, size)
				call := fmt.Sprintf("1.%d%s", i, path[:2])
				id := d.told(call, a.URL+path)
				got := d.recorded(id, recordingKept)
				if got.Size != int64(size) || got.MediaType != "audio/wav" || got.Attempts != 1 || got.Detail != "" || a.asked.Load() != 1 {
					t.Errorf("%+v", got)
				}
				sound, err := d.playback(call, id)
				if err != nil || !bytes.Equal(sound, a.sound) {
					t.Errorf("%d bytes of %d came back (%v)", len(sound), size, err)
				}
				for part := range int64(3) {
					if sealed, _ := d.recordings.store.part(t.Context(), id, part); bytes.Contains(sealed, []byte("voice")) {
						t.Error("it lies there in the clear")
					}
				}
				if _, err := d.playback("another", id); errs.KindOf(err) != errs.NotFound {
					t.Errorf("as another call's: %v", err)
				}
				apptest.Eventually(t, d.said.has("recording.kept callId: "+call))
			}
		}
	})
}

func TestTheRecordingOfAnErasedPersonIsGone(t *testing.T) {
	t.Parallel()
	d := newDesk(t, fetching)
	a := newArchive(t, 1000)
	kept := d.told("2.1", a.URL)
	d.recorded(kept, recordingKept)
	a.status.Store(503)
	waits := d.tell("call.recording-available", "2.1", "url", a.URL+"/second").ID
	d.recorded(waits, recordingPending)
	alias, _ := d.events.phone("11991910000")
	persons, err := d.keys.Find(t.Context(), alias)
	must(t, err)
	must(t, d.keys.Erase(t.Context(), persons[0]))
	if _, err := d.playback("2.1", kept); errs.KindOf(err) != errs.NotFound {
		t.Errorf("kept: %v", err)
	}
	a.status.Store(0)
	must(t, d.recordings.fetch(t.Context(), waits))
	d.recorded(waits, recordingErased)
	if a.asked.Load() != 2 {
		t.Errorf("asked %d times", a.asked.Load())
	}
}

func TestARecordingIsWaitedForADay(t *testing.T) {
	t.Parallel()
	eachDesk(t, fetching, func(t *testing.T, d *desk) {
		var later atomic.Int64
		d.stop()
		begin := time.Now()
		d.now = func() time.Time { return begin.Add(time.Duration(later.Load())) }
		d.start()
		a := newArchive(t, 10)
		a.status.Store(503)
		id := d.told("3.1", a.URL)
		if got := d.recorded(id, recordingPending); got.Attempts != 1 || got.Detail != "the server answered 503" {
			t.Errorf("%+v", got)
		}
		must(t, d.recordings.sweep(t.Context()))
		if a.asked.Load() != 1 {
			t.Error("asked again at once")
		}
		later.Add(int64(recordingAgain))
		must(t, d.recordings.sweep(t.Context()))
		if got := d.recorded(id, recordingPending); got.Attempts != 2 {
			t.Errorf("%+v", got)
		}
		a.status.Store(1)
		later.Add(int64(recordingMost))
		must(t, d.recordings.sweep(t.Context()))
		if got := d.recorded(id, recordingPending); got.Attempts != 3 || got.Detail != "no answer" {
			t.Errorf("%+v", got)
		}
		if _, err := d.recordings.store.part(t.Context(), id, 0); err == nil {
			t.Error("a part of what is not kept is left")
		}
		later.Store(int64(recordingPatient - time.Minute))
		must(t, d.recordings.sweep(t.Context()))
		d.recorded(id, recordingPending)
		later.Add(int64(recordingMost))
		must(t, d.recordings.sweep(t.Context()))
		d.recorded(id, recordingFailed)

		// One that comes late is had after all.
		a.status.Store(404)
		late := d.told("3.2", a.URL)
		d.recorded(late, recordingPending)
		later.Add(int64(recordingMost))
		a.status.Store(0)
		must(t, d.recordings.sweep(t.Context()))
		d.recorded(late, recordingKept)

		a.status.Store(404)
		never := d.told("3.3", a.URL)
		d.recorded(never, recordingPending)
		later.Add(int64(recordingLate))
		must(t, d.recordings.sweep(t.Context()))
		if got := d.recorded(never, recordingFailed); got.Detail != "the server answered 404" || got.Attempts != 2 {
			t.Errorf("%+v", got)
		}
	})
}

func TestWhatCannotBeKeptFailsAtOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t, func(c *Config) { fetching(c); c.RecordingMax = config.Bytes(recordingPart) })
	large := newArchive(t, recordingPart+1)
	gone := newArchive(t, 1)
	gone.status.Store(410)
	for i, url := range []string{large.URL, large.URL + "/chunked", gone.URL, "file:///etc/passwd", "no address"} {
		call := fmt.Sprintf("4.%d", i)
		if got := d.recorded(d.told(call, url), recordingFailed); got.Attempts != 1 || got.Detail == "" {
			t.Errorf("%s: %+v", url, got)
		}
	}
	// An address on the inside is none that an event may send us to.
	d.stop()
	d.start()
	d.recordings.Provider.elsewhere = newProvider(t, "").elsewhere
	inside := newArchive(t, 1)
	if got := d.recorded(d.told("4.9", inside.URL), recordingFailed); inside.asked.Load() != 0 || strings.Contains(got.Detail, "127.0.0.1") {
		t.Errorf("%+v", got)
	}
}

func TestASecondAttemptEndsTheFirst(t *testing.T) {
	t.Parallel()
	eachDesk(t, fetching, func(t *testing.T, d *desk) {
		d.stop()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		d.events.stopped = false
		go func() { done <- d.events.run(ctx) }()
		id := d.told("5.1", "http://x.example")
		first, err := d.recordings.store.get(t.Context(), id)
		must(t, err)
		second := *first
		for _, r := range []*recording{first, &second} {
			claimed, err := d.recordings.store.claim(t.Context(), r, 1)
			if err != nil || claimed != (r == first) {
				t.Fatal(claimed, err)
			}
		}
		second.Attempts++
		if claimed, err := d.recordings.store.claim(t.Context(), &second, 2); !claimed || err != nil {
			t.Fatal(claimed, err)
		}
		for _, err := range []error{d.recordings.store.put(t.Context(), first, 0, []byte("x")), d.recordings.store.keep(t.Context(), first, 1),
			d.recordings.store.note(t.Context(), first, recordingFailed, "")} {
			if !isFenced(err) {
				t.Errorf("the first attempt goes on: %v", err)
			}
		}
		must(t, d.recordings.store.put(t.Context(), &second, 0, []byte("y")))
		must(t, d.recordings.store.keep(t.Context(), &second, 1))
		cancel()
		must(t, <-done)
	})
}

func TestWithoutFetchingALinkIsAll(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	id := d.told("6.1", "https://api.example/recording/6.1.wav")
	list, err := d.recordings.list(t.Context(), "6.1")
	if err != nil || len(list) != 1 || list[0].ID != id || list[0].URL != "https://api.example/recording/6.1.wav" || list[0].Kept != nil {
		t.Errorf("%+v, %v", list, err)
	}
	if got, err := d.recordings.store.get(t.Context(), id); got != nil || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := d.recordings.list(t.Context(), "6.2"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("an unknown call: %v", err)
	}
}
