package telephony

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"switchboard/modules/telephony/telephonyapi"
	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	streamDelegate  = "TELEPHONY_DELEGATE"
	subjectDelegate = "telephony.delegate"
	delegateAge     = time.Hour // a call is over long before
	// delegateWorkers is how many calls an instance delegates at once. While the
	// platform is away every one of them keeps its call for DelegateWithin at
	// most; calls behind them wait for a worker. That delays nothing but calls
	// which could not be delegated either: workers notice within retryMost, or
	// within ProviderTimeout if it hangs, that the platform is back, and what has
	// expired meanwhile costs one row each. Calls that fail alone while others
	// could be done hold workers too; this many of them, all within
	// DelegateWithin, it would take to hold up others.
	delegateWorkers = 64
	// directoryTime is how long a directory may take to say whom it knows.
	directoryTime = 500 * time.Millisecond
	// maxPersons of one number are asked about.
	maxPersons = 4
)

// start declares the queue of delegations.
func (s *delegationService) start(ctx context.Context) error {
	return s.Bus.Declare(ctx, bus.Stream{Name: streamDelegate, Subjects: []string{subjectDelegate}, Queue: true, MaxAge: delegateAge, MaxBytes: 64 << 20})
}

// run delegates until ctx ends.
func (s *delegationService) run(ctx context.Context) error {
	// Their messages are gone by age: nobody else would settle them.
	now := s.Now()
	if n, err := s.store.expire(ctx, store.MicrosOf(now.Add(-delegateAge)), store.MicrosOf(now), "nobody came to it in time"); err != nil && ctx.Err() == nil {
		s.Log.Warn("cannot settle old delegations", "error", err)
	} else if n > 0 {
		s.Log.Warn("calls were not delegated in time", "calls", n)
	}
	g, ctx := errgroup.WithContext(ctx)
	if s.Bus.Shared() {
		g.Go(func() error { return s.hurry(ctx) })
	}
	g.Go(func() error { return s.consume(ctx) })
	return g.Wait()
}

// hurry brings calls to the queue whose message is late: an instance that dies
// with the turn of the outbox keeps it from the others for longer than a call
// can stand by. A second message for the same call does no harm.
func (s *delegationService) hurry(ctx context.Context) error {
	const late, most = time.Second, 256
	tick := time.NewTicker(late / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := s.Now()
		events, err := s.store.untried(ctx, store.MicrosOf(now), store.MicrosOf(now.Add(s.Config.DelegateWithin-late)), most)
		for _, event := range events {
			if err == nil {
				_, err = s.Bus.Publish(ctx, bus.Message{Subject: subjectDelegate, ID: "late." + strconv.FormatInt(event, 10), Data: planned{event}.encode()})
			}
		}
		if err != nil && ctx.Err() == nil {
			s.Log.Debug("cannot look for calls that wait", "error", err)
		}
	}
}

func (s *delegationService) consume(ctx context.Context) error {
	return s.Bus.Consume(ctx, bus.Consumer{Stream: streamDelegate, Name: "telephony-delegate", Workers: delegateWorkers, AckWait: 3 * time.Second},
		func(work context.Context, msgs []bus.Message) error {
			for _, m := range msgs {
				var p planned
				if err := json.Unmarshal(m.Data, &p); err != nil {
					return bus.Permanent(errs.Wrap(errs.Invalid, err, "read the message"))
				}
				if err := s.delegate(work, ctx.Done(), p.Event, m.Delivered > 1); err != nil {
					return err
				}
			}
			return nil
		})
}

// known asks a directory, over the bus, whether it knows who has a number.
// Nobody is known to one that does not answer in time.
func (s *delegationService) known(ctx context.Context, directory, number string) bool {
	alias, ok := s.Events.phone(number)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, directoryTime)
	defer cancel()
	known, err := s.ask(ctx, directory, alias)
	if err == nil {
		return known
	}
	if s.Unheard != nil {
		s.Unheard()
	}
	// A module that is not there would fill the log.
	now := time.Now().UnixNano()
	if last := s.unheard.Load(); now-last > int64(time.Minute) && s.unheard.CompareAndSwap(last, now) {
		s.Log.Debug("a directory does not answer who calls", "directory", directory, "error", err)
	}
	return false
}

func (s *delegationService) ask(ctx context.Context, directory string, number seal.Alias) (bool, error) {
	persons, err := s.Keys.Find(ctx, number)
	if err != nil {
		return false, err
	}
	for _, person := range persons[:min(len(persons), maxPersons)] {
		question, err := json.Marshal(telephonyapi.CallerQuestion{Person: person.String()})
		if err != nil {
			return false, err
		}
		answer, err := s.Bus.Request(ctx, telephonyapi.CallerSubject(directory), question)
		if err != nil {
			return false, err
		}
		var said telephonyapi.CallerAnswer
		if err := json.Unmarshal(answer, &said); err != nil {
			return false, err
		}
		if said.Known {
			return true, nil
		}
	}
	return false, nil
}
