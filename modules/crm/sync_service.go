package crm

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/platform/breaker"
	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/quota"
	"switchboard/platform/seal"
)

// reconciler brings the CRM to what it should show. What it works on is not an
// event but a unit that is dirty: the latest state goes out, however many events
// made it. A unit is in one worker's hands only, so that the changes of a user
// reach the CRM in order. Any number of instances may run.
type reconciler struct {
	cfg     *Config
	store   *syncStore
	keys    *seal.Keyring
	client  *crmClient
	breaker *breaker.Breaker
	limit   *quota.Quota
	metrics *metrics
	logged  eventlog.Logger
	log     *slog.Logger
	now     func() time.Time
	look    chan struct{}
	results chan written
	room    chan struct{} // a place for each unit in hand
	lines   chan struct{} // one for each call
	adopts  sync.Mutex    // one object is looked for at a time
	gives   atomic.Int32  // what the CRM does with ids
}

// What a CRM does with the id of an object that it is to create.
const (
	givesUnknown int32 = iota
	givesKept
	givesOwn
)

const (
	// claimUnits is how many units are taken in one transaction at most.
	claimUnits = 512
	// inHand is how many units are in hand for each call at once: while some are
	// being sent, others are read and written down, many in one transaction.
	inHand = 16
	// gatherFor is how long a claim waits until half of the places are free.
	gatherFor = 5 * time.Millisecond
	// lookEvery is how often it looks whether something is due that nobody
	// told of: another instance's, or one that had to wait.
	lookEvery = 200 * time.Millisecond
)

// lease is how long a worker may keep a unit. What it had under way when it died
// is over by then.
func (r *reconciler) lease() time.Duration { return 3*r.cfg.Timeout + 2*time.Second }

// wake has it look at once. It never blocks.
func (r *reconciler) wake() {
	select {
	case r.look <- struct{}{}:
	default:
	}
}

// run works until ctx ends; what is under way then is finished.
func (r *reconciler) run(ctx context.Context) error {
	var writing, working sync.WaitGroup
	writing.Go(r.write)
	defer writing.Wait()
	defer close(r.results)
	defer working.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	failing := false
	for {
		units, err := r.claim(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			r.log.WarnContext(ctx, "the CRM is not served; trying again", "error", err)
		}
		failing = err != nil
		for _, u := range units {
			working.Go(func() {
				defer func() { <-r.room }()
				r.work(ctx, u)
			})
		}
		if len(units) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.look:
		case <-tick.C:
		}
	}
}

// claim takes as many units as there is room for. Each has a place in room.
func (r *reconciler) claim(ctx context.Context) ([]*unit, error) {
	if r.breaker.Rests(r.now()) {
		return nil, nil
	}
	places := 0
	select {
	case r.room <- struct{}{}:
		places = 1
	case <-ctx.Done():
		return nil, nil
	}
	enough := time.NewTimer(gatherFor)
	defer enough.Stop()
gather:
	for places < cap(r.room)/2 {
		select {
		case r.room <- struct{}{}:
			places++
		case <-enough.C:
			break gather
		}
	}
	now := r.now() // it may have waited long for a place
	units, err := r.store.claim(ctx, now, now.Add(r.lease()), rand.Int64(), min(places, claimUnits))
	for range places - len(units) {
		<-r.room
	}
	if err == nil && len(units) > 0 {
		err = r.load(ctx, units)
	}
	if err != nil {
		for range units {
			<-r.room
		}
		return nil, err // they come back by their lease
	}
	return units, nil
}

// load reads what units need, with the keys of all that they are about.
func (r *reconciler) load(ctx context.Context, units []*unit) error {
	if err := r.store.load(ctx, units); err != nil {
		return err
	}
	place := map[seal.Subject]int{}
	var subjects []seal.Subject
	note := func(o *object) {
		if o == nil {
			return
		}
		for _, s := range []seal.Subject{o.subject, o.copy.subject} {
			if _, known := place[s]; !known && !s.IsZero() {
				place[s], subjects = len(subjects), append(subjects, s)
			}
		}
	}
	for _, u := range units {
		note(u.user)
		note(u.last)
		for _, t := range u.trips {
			note(t)
		}
	}
	list, err := r.keys.CiphersOnce(ctx, subjects)
	if err != nil {
		return fmt.Errorf("find keys: %w", err)
	}
	ciphers := make(map[seal.Subject]*seal.Cipher, len(list))
	for s, i := range place {
		ciphers[s] = list[i]
	}
	for _, u := range units {
		u.ciphers = ciphers
	}
	return nil
}

// written is a verdict on its way to the tables.
type written struct {
	verdict
	done chan<- error // nil: nobody waits
}

// write writes verdicts as they come, many in one transaction, until the channel
// is closed.
func (r *reconciler) write() {
	for first := range r.results {
		batch := []written{first}
	gather:
		for len(batch) < 256 {
			select {
			case more, ok := <-r.results:
				if !ok {
					break gather
				}
				batch = append(batch, more)
			default:
				break gather
			}
		}
		list := make([]verdict, len(batch))
		for i := range batch {
			list[i] = batch[i].verdict
		}
		err := r.persist(list)
		oneByOne := err != nil && errs.KindOf(err) != errs.Unavailable && len(batch) > 1 // one of them is to blame
		for i, w := range batch {
			if oneByOne {
				err = r.persist(list[i : i+1])
			}
			if w.done != nil {
				w.done <- err
			}
		}
	}
}

// persist keeps trying for a while; a unit of which nothing is written comes
// again by its lease.
func (r *reconciler) persist(list []verdict) error {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		err := r.store.settle(ctx, list, r.now())
		if errs.KindOf(err) != errs.Unavailable {
			if err != nil {
				r.log.ErrorContext(ctx, "what the CRM got is not written down; it will be sent again", "error", err)
			}
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
