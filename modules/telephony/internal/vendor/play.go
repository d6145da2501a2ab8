package vendor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// PlayOptions say what to play; the zero value of a field is its default. A
// share is between 0 and 1.
type PlayOptions struct {
	// Calls is how many to play; 0 goes on until the context ends, or For.
	Calls int
	// For is the time after which no call begins any more; those under way are
	// played to their end. 0 is no limit.
	For time.Duration
	// Rate is in calls per second; 0 is as fast as Parallel calls at a time go.
	Rate float64
	// Parallel bounds the calls at a time: 8 by default, with a Rate 10,000.
	Parallel int
	// Speed divides the pauses between the events of a call: 1 is real time,
	// 60 is sixty times faster, 0 has no pauses.
	Speed float64
	// Mix is DefaultMix by default.
	Mix Mix
	// Returning is the share of callers that have called before. With several
	// calls at a time, the call before may still be going on.
	Returning float64
	// Recordings is the share of answered calls with a recording, whose URL
	// begins with RecordingBase: by default that of Listen.
	Recordings    float64
	RecordingBase string
	// OutOfOrder is the share of calls one or two of whose events are posted
	// after the next one. Their timestamps tell the true order.
	OutOfOrder float64
	// Duplicates is the share of events that are posted twice, in the same
	// bytes, at once or after the next one.
	Duplicates float64
	// Unknown is the share of events that an event of a type nobody knows
	// follows.
	Unknown float64
	// AwaitDelegate lets a call wait at standby for a delegate action for 10 s,
	// divided by Speed, but at least 250 ms; or for DelegateWait, if set. Then
	// the call goes to the queue 900. Without AwaitDelegate it only takes the
	// delegate that comes in the short pause that follows.
	AwaitDelegate bool
	DelegateWait  time.Duration
	// NoStaff leaves out that agents log in at the start, take breaks, and log
	// out at the end.
	NoStaff bool
	// OnEvent gets each post once its fate is known: the status with which it
	// was taken or refused, or 0 if the context ended first and it may or may
	// not have arrived. callID is empty for what is about no call. It is called
	// concurrently, and may keep body, but not change it.
	OnEvent func(callID string, body []byte, status int)
}

// Tally counts what was played. A webhook that can be reached gets
// Events + Refused + Retries requests.
type Tally struct {
	Calls       int `json:"calls"`       // played to their end
	Events      int `json:"events"`      // posts answered 2xx, duplicates among them
	Duplicates  int `json:"duplicates"`  // of Events: repeated on purpose
	Delegated   int `json:"delegated"`   // calls that stood by and were delegated
	Undelegated int `json:"undelegated"` // calls that stood by and were not
	Refused     int `json:"refused"`     // posts answered with anything but 2xx, 429 or 5xx
	Retries     int `json:"retries"`     // posts that were repeated after a failure
}

// Tally gives what was played since the start, by Play and by dialer actions.
func (f *Fake) Tally() Tally {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tally
}

// Play plays calls to the webhook and tells what it has played. It is an error
// if the options make no sense, or if the context ends before Calls have been
// played.
func (f *Fake) Play(ctx context.Context, o PlayOptions) (Tally, error) {
	if err := o.check(); err != nil {
		return Tally{}, err
	}
	f.mu.Lock()
	target := f.webhook
	f.mu.Unlock()
	if u, err := url.Parse(target); err != nil || u.Host == "" {
		return Tally{}, errors.New("the webhook is not a URL")
	}
	p := f.newPerformance(o)
	if !o.NoStaff {
		p.logIn(ctx)
	}
	p.playAll(ctx)
	if !o.NoStaff {
		p.logOut(ctx)
	}
	f.o.Client.CloseIdleConnections()
	if ctx.Err() != nil && p.tally.Calls < o.Calls {
		return p.tally, fmt.Errorf("played %d of %d calls: %w", p.tally.Calls, o.Calls, ctx.Err())
	}
	return p.tally, nil
}

func (o *PlayOptions) check() error {
	for name, share := range map[string]float64{"Returning": o.Returning, "Recordings": o.Recordings, "OutOfOrder": o.OutOfOrder, "Duplicates": o.Duplicates, "Unknown": o.Unknown} {
		if !(share >= 0 && share <= 1) {
			return fmt.Errorf("%s is a share: between 0 and 1", name)
		}
	}
	if o.Calls < 0 || !(o.Rate >= 0) || !(o.Speed >= 0) || o.Parallel < 0 || o.For < 0 {
		return errors.New("Calls, For, Rate, Parallel and Speed cannot be negative")
	}
	if min(o.Mix.Answered, o.Mix.Abandoned, o.Mix.Overflowed, o.Mix.Forwarded, o.Mix.Outbound) < 0 {
		return errors.New("a share of Mix is negative")
	}
	if o.Mix == (Mix{}) {
		o.Mix = DefaultMix
	}
	if o.Parallel == 0 {
		o.Parallel = 8
		if o.Rate > 0 {
			o.Parallel = 10_000
		}
	}
	return nil
}

// performance is one run of Play, or of a dialer action.
type performance struct {
	f     *Fake
	o     PlayOptions
	tally Tally // guarded by Fake.mu
}

func (f *Fake) newPerformance(o PlayOptions) *performance { return &performance{f: f, o: o} }

func (p *performance) note(count func(*Tally)) {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	count(&p.tally)
	count(&p.f.tally)
}

// playAll begins calls and waits for their end.
func (p *performance) playAll(ctx context.Context) {
	begin := ctx
	if p.o.For > 0 {
		var stop context.CancelFunc
		begin, stop = context.WithTimeout(ctx, p.o.For)
		defer stop()
	}
	pace := rate.NewLimiter(rate.Inf, 1)
	if p.o.Rate > 0 {
		pace = rate.NewLimiter(rate.Limit(p.o.Rate), int(p.o.Rate)/10+1)
	}
	cast := casting{seed: p.f.o.Seed, o: p.o}
	slots := make(chan struct{}, p.o.Parallel)
	var calls sync.WaitGroup
	defer calls.Wait()
	for i := 0; p.o.Calls == 0 || i < p.o.Calls; i++ {
		if pace.Wait(begin) != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-begin.Done():
			return
		}
		n, id := p.f.callNo.Add(1), p.f.newID()
		calls.Go(func() {
			defer func() { <-slots }()
			s := cast.script(n)
			if s.breaks && !p.o.NoStaff {
				p.changeBreak(ctx, s.onBreak)
			}
			p.perform(ctx, id, s, time.Time{})
		})
	}
}

// perform plays a call, whose events come after last.
func (p *performance) perform(ctx context.Context, id string, s script, last time.Time) {
	c := p.f.enter(id, s.talk)
	defer p.f.leave(id, c)
	v := &scene{performance: p, id: id, call: c, queue: s.queue, peer: s.peer, last: last}
	defer v.free()
	for i := range s.steps {
		if !v.play(ctx, &s.steps[i]) {
			return
		}
	}
	if v.flush(ctx) {
		p.note(func(t *Tally) { t.Calls++ })
	}
}

// scene is a call that is being played.
type scene struct {
	*performance
	id          string
	call        *playedCall
	queue, peer string
	agent       *agent
	last        time.Time
	standing    bool
	held        []heldPost // to be posted after the next event
}

// heldPost is an event that comes late.
type heldPost struct {
	body      []byte
	duplicate bool
}

// play plays one step. It says no if the context ended.
func (v *scene) play(ctx context.Context, s *step) bool {
	if !v.wait(ctx, s.pause) {
		return false
	}
	if v.standing {
		v.settle(ctx, false)
	}
	body := v.write(s)
	if s.standby {
		v.standing = true
		v.f.mu.Lock()
		v.call.standing = true
		v.f.mu.Unlock()
	}
	copies := 0
	if s.again {
		copies = 1
	}
	if s.late {
		for i := range 1 + copies {
			v.held = append(v.held, heldPost{body, i > 0})
		}
		return true
	}
	status := v.post(ctx, v.id, body, false)
	if s.again && !s.againLate && status != 0 {
		status = v.post(ctx, v.id, body, true)
	}
	if status == 0 || !v.flush(ctx) {
		return false
	}
	if s.again && s.againLate {
		v.held = append(v.held, heldPost{body, true})
	}
	if s.standby && v.o.AwaitDelegate && status < 300 {
		return v.settle(ctx, true)
	}
	return true
}

// flush posts what is late.
func (v *scene) flush(ctx context.Context) bool {
	for _, h := range v.held {
		if v.post(ctx, v.id, h.body, h.duplicate) == 0 {
			return false
		}
	}
	v.held = nil
	return true
}

// settle ends the standby: at once, or with a wait for the delegate. It says
// no if the context ended.
func (v *scene) settle(ctx context.Context, wait bool) bool {
	if wait {
		limit := v.o.DelegateWait
		if limit == 0 {
			limit = 250 * time.Millisecond
			if v.o.Speed > 0 {
				limit = max(limit, time.Duration(float64(10*time.Second)/v.o.Speed))
			}
		}
		t := time.NewTimer(limit)
		defer t.Stop()
		select {
		case v.queue = <-v.call.delegated:
			v.standing = false
			v.note(func(t *Tally) { t.Delegated++ })
			return true
		case <-t.C:
		case <-ctx.Done():
			return false
		}
	}
	v.f.mu.Lock()
	v.standing, v.call.standing = false, false
	v.f.mu.Unlock()
	select {
	case v.queue = <-v.call.delegated:
		v.note(func(t *Tally) { t.Delegated++ })
	default:
		v.note(func(t *Tally) { t.Undelegated++ })
	}
	return true
}

// write makes the body of a step's event.
func (v *scene) write(s *step) []byte {
	e := s.event
	if e.Type != "dialer.attempt" {
		e.CallID = v.id
	}
	if s.queued {
		e.Queue = v.queue
	}
	switch s.agent {
	case agentTake:
		v.free()
		v.agent = v.agentFor(s.pick)
		fallthrough
	case agentKeep, agentLeave:
		e.Number = v.agent.number
		if strings.HasPrefix(e.Type, "actor.") {
			e.Actor = v.agent.email
		}
	}
	if s.agent == agentLeave {
		v.free()
	}
	switch e.Type {
	case "call.overflow":
		if v.queue == e.Destination {
			e.Destination = queueNew
		}
		v.queue = e.Destination
	case "call.recording-available":
		e.URL = v.recordingBase() + "/recording/" + v.id + ".wav"
	}
	v.last = v.f.after(v.last)
	return e.at(v.last)
}

func (v *scene) agentFor(place int) *agent {
	if v.peer == "" {
		return v.f.take(place, v.queue)
	}
	a := v.f.take(place, v.peer)
	if a.number == v.peer {
		return a
	}
	v.f.release(a)
	return &agent{number: v.peer, email: v.peer + "@example.com"} // no agent has this extension
}

// free lets the agent go, if there is one.
func (v *scene) free() {
	if v.agent != nil {
		v.f.release(v.agent)
	}
	v.agent = nil
}

func (p *performance) recordingBase() string {
	if p.o.RecordingBase != "" {
		return strings.TrimSuffix(p.o.RecordingBase, "/")
	}
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	if p.f.base != "" {
		return p.f.base
	}
	return "https://phone-platform.invalid"
}

// after gives the time of the next event of a call or an agent: now, but after
// the last, so that no two events are the same but on purpose.
func (f *Fake) after(last time.Time) time.Time {
	now := f.o.Now().UTC().Truncate(time.Millisecond)
	if now.After(last) {
		return now
	}
	return last.Add(time.Millisecond)
}

func (e event) at(t time.Time) []byte {
	e.Timestamp = t.UTC().Format("2006-01-02T15:04:05.000Z")
	body, err := json.Marshal(e)
	if err != nil {
		panic(err) // texts and numbers always have a JSON form
	}
	return body
}

// wait waits for a pause of a call. It says no if the context ended.
func (p *performance) wait(ctx context.Context, d time.Duration) bool {
	if p.o.Speed == 0 {
		return ctx.Err() == nil
	}
	return sleep(ctx, time.Duration(float64(d)/p.o.Speed))
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
