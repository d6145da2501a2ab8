package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Fault is one way in which a request goes wrong.
type Fault uint8

// The faults. Those that end in After happen to a message that was accepted:
// the effect is there and the client does not learn of it.
const (
	None         Fault = iota // accepted, if the request is valid
	Fail                      // 500, 502, 503 or 504
	Hang                      // no answer until the client leaves
	HangAfter                 // accepted, then no answer
	Reset                     // the connection is reset
	ResetAfter                // accepted, then the connection is reset
	Garbage                   // 200 with a body that says nothing
	GarbageAfter              // accepted, then such a body
	Rejected                  // 200 with a code that is not 0
	BadRequest                // 400
	Denied                    // 401
	Forbidden                 // 403
	Busy                      // 429 with Retry-After
	drawn                     // the ones before are drawn by their shares
	Outage                    // 503 or a reset, in a window
	Unauthorized              // 401, in a window
	Limited                   // 429, beyond the rate
	faultCount
)

// loses tells whether the client does not learn of an acceptance.
func (f Fault) loses() bool { return f == HangAfter || f == ResetAfter || f == GarbageAfter }

var faultNames = [faultCount]string{"none", "fail", "hang", "hang_after", "reset", "reset_after", "garbage", "garbage_after", "rejected",
	"bad_request", "denied", "forbidden", "busy", "", "outage", "unauthorized", "rate"}

// String gives the name of the fault in [Summary].ByFault and in JSON.
func (f Fault) String() string {
	if f < faultCount {
		return faultNames[f]
	}
	return fmt.Sprintf("Fault(%d)", uint8(f))
}

// Faults are what goes wrong; the zero value is a provider in good health.
// Shares are of the requests that no window and no rate turned away, each
// between 0 and 1 and together at most 1: a request suffers one of them. In JSON
// durations and windows are text, as in "20ms" and "30s-90s".
type Faults struct {
	// Latency is how long an answer takes, Jitter what is added to it at most.
	// A message whose client leaves meanwhile is accepted all the same.
	Latency time.Duration `json:"latency"`
	Jitter  time.Duration `json:"jitter"`
	// The shares; see the faults of the same names.
	Fail         float64 `json:"fail"`
	Hang         float64 `json:"hang"`
	HangAfter    float64 `json:"hang_after"`
	Reset        float64 `json:"reset"`
	ResetAfter   float64 `json:"reset_after"`
	Garbage      float64 `json:"garbage"`
	GarbageAfter float64 `json:"garbage_after"`
	Rejected     float64 `json:"rejected"`
	BadRequest   float64 `json:"bad_request"`
	Denied       float64 `json:"denied"`
	Forbidden    float64 `json:"forbidden"`
	Busy         float64 `json:"busy"`
	// RetryAfter is what a 429 asks for, in whole seconds rounded up; 1 s if 0.
	RetryAfter time.Duration `json:"retry_after"`
	// RetryAfterDate asks for it as an HTTP date.
	RetryAfterDate bool `json:"retry_after_date"`
	// RetryAfterOn5xx lets outages and Fail ask for it too.
	RetryAfterOn5xx bool `json:"retry_after_on_5xx"`
	// Rate is how many requests a second are let through; 0 is all.
	Rate int `json:"rate"`
	// Outages answer 503, or reset the connection with OutageReset.
	Outages     []Window `json:"outages"`
	OutageReset bool     `json:"outage_reset"`
	// Unauthorized are the windows in which every token is refused with 401.
	Unauthorized []Window `json:"unauthorized"`
}

// Window is a span of time that counts from when the faults were set: From
// belongs to it, To does not. It has no end if To is 0.
type Window struct{ From, To time.Duration }

// ParseWindow reads "30s-90s", or "30s-" for one without an end.
func ParseWindow(text string) (Window, error) {
	from, to, ok := strings.Cut(text, "-")
	var w Window
	var err, errTo error
	w.From, err = time.ParseDuration(from)
	if to != "" {
		w.To, errTo = time.ParseDuration(to)
	}
	if w := errors.Join(err, errTo); !ok || w != nil {
		return Window{}, fmt.Errorf("%q is no window: write 30s-90s, or 30s- for one without an end", text)
	}
	if to != "" && w.To <= w.From {
		return Window{}, fmt.Errorf("the window %q ends before it begins", text)
	}
	return w, nil
}

// MarshalText writes what ParseWindow reads.
func (w Window) MarshalText() ([]byte, error) {
	if w.To == 0 {
		return []byte(w.From.String() + "-"), nil
	}
	return []byte(w.From.String() + "-" + w.To.String()), nil
}

// UnmarshalText is ParseWindow.
func (w *Window) UnmarshalText(text []byte) (err error) {
	*w, err = ParseWindow(string(text))
	return err
}

func within(windows []Window, age time.Duration) bool {
	return slices.ContainsFunc(windows, func(w Window) bool { return age >= w.From && (w.To == 0 || age < w.To) })
}

func (f *Faults) shares() [drawn]float64 {
	return [drawn]float64{Fail: f.Fail, Hang: f.Hang, HangAfter: f.HangAfter, Reset: f.Reset, ResetAfter: f.ResetAfter, Garbage: f.Garbage,
		GarbageAfter: f.GarbageAfter, Rejected: f.Rejected, BadRequest: f.BadRequest, Denied: f.Denied, Forbidden: f.Forbidden, Busy: f.Busy}
}

// Check says what makes no sense, by the names that faults have in JSON.
func (f Faults) Check() error {
	sum := 0.0
	for fault, share := range f.shares() {
		if !(share >= 0 && share <= 1) { // NaN is neither
			return fmt.Errorf("%s is a share: between 0 and 1", Fault(fault))
		}
		sum += share
	}
	if sum > 1+1e-9 {
		return fmt.Errorf("the shares add up to %.3g, which is more than 1", sum)
	}
	for name, d := range map[string]time.Duration{"latency": f.Latency, "jitter": f.Jitter, "retry_after": f.RetryAfter} {
		if d < 0 || d > 24*time.Hour {
			return fmt.Errorf("%s is not between 0 and 24h", name)
		}
	}
	if f.Rate < 0 || f.Rate > math.MaxInt32 {
		return fmt.Errorf("rate is not between 0 and %d", math.MaxInt32)
	}
	return nil
}

// text is a duration as it is written in JSON.
type text time.Duration

func (t text) MarshalText() ([]byte, error) { return []byte(time.Duration(t).String()), nil }

func (t *text) UnmarshalText(b []byte) error {
	d, err := time.ParseDuration(string(b))
	*t = text(d)
	return err
}

type plainFaults Faults

// wireFaults are Faults in JSON: what is outside hides what is embedded.
type wireFaults struct {
	Latency    text `json:"latency"`
	Jitter     text `json:"jitter"`
	RetryAfter text `json:"retry_after"`
	plainFaults
}

// MarshalJSON writes every fault, also those that are 0.
func (f Faults) MarshalJSON() ([]byte, error) {
	w := wireFaults{text(f.Latency), text(f.Jitter), text(f.RetryAfter), plainFaults(f)}
	w.Outages, w.Unauthorized = append([]Window{}, f.Outages...), append([]Window{}, f.Unauthorized...)
	return json.Marshal(w)
}

// UnmarshalJSON reads faults; what is absent is 0, an unknown name is an error.
func (f *Faults) UnmarshalJSON(b []byte) error {
	var w wireFaults
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return err
	}
	*f = Faults(w.plainFaults)
	f.Latency, f.Jitter, f.RetryAfter = time.Duration(w.Latency), time.Duration(w.Jitter), time.Duration(w.RetryAfter)
	return nil
}

// setting is the faults with what follows from them.
type setting struct {
	Faults
	since time.Time
	upTo  [drawn]float64 // sums of the shares
}

func newSetting(f Faults, since time.Time) *setting {
	f.Outages, f.Unauthorized = slices.Clone(f.Outages), slices.Clone(f.Unauthorized)
	s := &setting{Faults: f, since: since}
	sum := 0.0
	for i, share := range f.shares() {
		sum += share
		s.upTo[i] = sum
	}
	return s
}

// draw picks the fault of a request by its number.
func (s *setting) draw(n uint64) Fault {
	u := float64(n>>11) / (1 << 53)
	for f := Fail; f < drawn; f++ {
		if u < s.upTo[f] {
			return f
		}
	}
	return None
}

// latency is how long a request with this number takes.
func (s *setting) latency(n uint64) time.Duration {
	if s.Jitter <= 0 {
		return s.Latency
	}
	return s.Latency + time.Duration(mix(n+1)%uint64(s.Jitter+1))
}

// askToWait writes Retry-After.
func (s *setting) askToWait(h http.Header, now time.Time) {
	wait := s.RetryAfter
	if wait <= 0 {
		wait = time.Second
	}
	wait = (wait + time.Second - 1).Truncate(time.Second)
	if s.RetryAfterDate {
		h.Set("Retry-After", now.Add(wait+time.Second-1).UTC().Format(http.TimeFormat)) // a date has no fractions
		return
	}
	h.Set("Retry-After", fmt.Sprint(int64(wait/time.Second)))
}

// mix is splitmix64: all bits of its result depend on all bits of n.
func mix(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// garbageBodies are 200 answers that a client must not take for an acceptance.
var garbageBodies = []struct{ kind, body string }{
	{"text/html", "<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"},
	{"application/json", ""},
	{"application/json", `{"code":0,"message":"O`},
	{"application/json", "null"},
	{"application/json", "{}"},
	{"application/json", "[]"},
	{"application/json", `{"code":"zero","message":"OK"}`},
	{"application/json", `{"message":"OK"}`},
	{"application/octet-stream", "\x1f\x8b\x00\xff\xfe\x00"},
	{"text/plain", "OK"},
	{"text/plain", strings.Repeat("all work and no play\n", 3200)},
}
