package mock

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// What becomes of an Id that a POST of a collection gives.
const (
	Conflict  = "conflict"  // it is kept, and a taken one is 409: the description
	Replace   = "replace"   // it is kept, and the object of a taken one is replaced: 201
	Own       = "own"       // the CRM always gives one of its own
	Duplicate = "duplicate" // it is kept, and a taken one makes a second object; routes with an Id mean the first
)

// Faults are what goes wrong; the zero value is a CRM in good health. Shares
// are of the requests, and together at most 1: a request suffers one of them.
type Faults struct {
	Latency  Duration `json:"latency" required:"false" example:"20ms" doc:"How long a request waits before its effect. If its client leaves meanwhile, nothing happens."`
	Jitter   Duration `json:"jitter" required:"false" example:"10ms" doc:"What is added to it at most, by chance."`
	Errors   float64  `json:"errors" required:"false" minimum:"0" maximum:"1" doc:"The share that is answered 503, without an effect."`
	Throttle float64  `json:"throttle" required:"false" minimum:"0" maximum:"1" doc:"The share that is answered 429 with Retry-After: 1, without an effect."`
	Resets   float64  `json:"resets" required:"false" minimum:"0" maximum:"1" doc:"The share whose connection is cut before the effect."`
	Lost     float64  `json:"lost" required:"false" minimum:"0" maximum:"1" doc:"The share whose connection is cut after the effect."`
	Garbage  float64  `json:"garbage" required:"false" minimum:"0" maximum:"1" doc:"The share that is answered with its status, 200 or 201, and a body that is no JSON, after the effect."`
	Down     bool     `json:"down" required:"false" doc:"Every connection is cut, without an effect."`
	IDs      string   `json:"ids" required:"false" enum:"conflict,replace,own,duplicate" default:"conflict" doc:"What becomes of an Id that a POST of a collection gives. conflict: it is kept, a taken one is 409. replace: a taken one is replaced, 201. own: the CRM always gives its own. duplicate: a taken one makes a second object."`
	Refuse   []string `json:"refuse" required:"false" nullable:"false" maxItems:"10000" doc:"The Ids that a POST is refused for, with 400."`
}

// Duration is a time.Duration that is text in JSON, as in "20ms".
type Duration time.Duration

// String writes what UnmarshalText reads.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is time.ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// maxWait bounds Latency and Jitter together, below the patience of servers.
const maxWait = 30 * time.Second

// Check says what makes no sense, by the names that faults have in JSON.
func (f *Faults) Check() error {
	if f.Latency < 0 || f.Jitter < 0 || time.Duration(f.Latency) > maxWait || time.Duration(f.Jitter) > maxWait-time.Duration(f.Latency) {
		return fmt.Errorf("latency and jitter are not between 0 and %s together", maxWait)
	}
	sum := 0.0
	for _, s := range f.shares() {
		if !(s.share >= 0 && s.share <= 1) { // NaN is neither
			return fmt.Errorf("%s is a share: between 0 and 1", s.fault)
		}
		sum += s.share
	}
	if sum > 1+1e-9 {
		return fmt.Errorf("the shares add up to %.3g, which is more than 1", sum)
	}
	if !slices.Contains([]string{"", Conflict, Replace, Own, Duplicate}, f.IDs) {
		return fmt.Errorf("ids is none of %s, %s, %s and %s", Conflict, Replace, Own, Duplicate)
	}
	return nil
}

// fault is what one request suffers.
type fault string

const (
	healthy   fault = ""
	failing   fault = "errors"
	throttled fault = "throttle"
	reset     fault = "resets"
	lost      fault = "lost"
	garbled   fault = "garbage"
	down      fault = "down"
	refused   fault = "refuse"
)

type share struct {
	fault fault
	share float64
}

func (f *Faults) shares() []share {
	return []share{{failing, f.Errors}, {throttled, f.Throttle}, {reset, f.Resets}, {lost, f.Lost}, {garbled, f.Garbage}}
}

// setting is Faults made ready for requests.
type setting struct {
	faults Faults
	shares []share // of those above zero
	refuse map[string]bool
}

func newSetting(f Faults) *setting {
	if f.IDs == "" {
		f.IDs = Conflict
	}
	f.Refuse = append([]string{}, f.Refuse...)
	s := &setting{faults: f, refuse: map[string]bool{}}
	for _, one := range f.shares() {
		if one.share > 0 {
			s.shares = append(s.shares, one)
		}
	}
	for _, id := range f.Refuse {
		s.refuse[id] = true
	}
	return s
}

// draw decides what a request suffers.
func (s *setting) draw() fault {
	if s.faults.Down {
		return down
	}
	if len(s.shares) == 0 {
		return healthy
	}
	at := rand.Float64()
	for _, one := range s.shares {
		if at -= one.share; at < 0 {
			return one.fault
		}
	}
	return healthy
}

// wait is how long a request waits.
func (s *setting) wait() time.Duration {
	d := time.Duration(s.faults.Latency)
	if j := time.Duration(s.faults.Jitter); j > 0 {
		d += rand.N(j + 1)
	}
	return d
}
