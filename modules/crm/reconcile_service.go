package crm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/eventlog"
	"switchboard/platform/seal"
)

// reconcileService compares what the CRM shows with what it should show. It
// reads the CRM's lists as they come, and keeps sixteen bytes of each object.
type reconcileService struct {
	targets *targetService
	client  *crmClient
	logged  eventlog.Logger
	now     func() time.Time
	wake    func() // there is something to send
	running sync.Mutex
}

const (
	// maxDifferences is how many differences are told at most.
	maxDifferences = 1000
	// comparePage is how many objects are looked up together.
	comparePage = 256
	// listPatience is how long the CRM may take for the next object of a list.
	listPatience = time.Minute
)

// reconcile compares, and with repair has sent again what differs or is missing.
// It tells at most limit differences. Errors: Conflict if it runs already,
// Unavailable if the CRM does not give its lists.
func (s *reconcileService) reconcile(ctx context.Context, repair bool, limit int) (*Reconciliation, error) {
	if !s.running.TryLock() {
		return nil, errs.New(errs.Conflict, "a reconciliation runs already")
	}
	defer s.running.Unlock()
	out := &Reconciliation{Differences: []Difference{}}
	for _, k := range []kind{kindUser, kindTrip} {
		c := comparing{reconcileService: s, kind: k, repair: repair, limit: limit, out: out, counts: &out.Users, begin: s.now(), seen: map[seal.Index]struct{}{}}
		if k == kindTrip {
			c.counts = &out.Trips
		}
		err := c.run(ctx)
		c.counts.Compared = c.counts.Equal + c.counts.Different + c.counts.Missing + c.counts.Waiting + c.counts.Refused
		if err != nil {
			return nil, err
		}
	}
	data, _ := json.Marshal(map[string]any{"users": out.Users, "trips": out.Trips, "repairing": out.Repairing}) // numbers
	// What cannot be logged is counted there.
	_ = s.logged.Log(ctx, eventlog.Entry{Event: eventReconciled, Data: data})
	return out, nil
}

// comparing is the comparison of one kind.
type comparing struct {
	*reconcileService
	kind   kind
	repair bool
	limit  int
	out    *Reconciliation
	counts *Comparison
	begin  time.Time
	seen   map[seal.Index]struct{}
}

func (c *comparing) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := errors.New("no answer in time")
	patience := time.AfterFunc(listPatience, func() { cancel(stalled) })
	defer patience.Stop()
	batch := make([]json.RawMessage, 0, comparePage)
	var failed error // of ours
	answer := c.client.list(ctx, c.kind, func(raw json.RawMessage) error {
		if batch = append(batch, raw); len(batch) == comparePage {
			patience.Stop()
			failed = c.compare(ctx, batch)
			batch = batch[:0]
		}
		patience.Reset(listPatience)
		return failed
	})
	patience.Stop()
	switch {
	case failed != nil:
		return fmt.Errorf("compare: %w", failed)
	case answer.result == resultUnauthorized:
		return errs.New(errs.Unavailable, "the CRM does not accept the token (crm.token): %s", answer.detail)
	case answer.result != resultDone:
		return errs.New(errs.Unavailable, "the CRM does not give its %ss: %s", c.kind, answer.detail)
	}
	if err := c.compare(ctx, batch); err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	if err := c.missing(ctx); err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	return nil
}

// tell adds a difference to the report.
func (c *comparing) tell(what, id string, fields []string) {
	if len(c.out.Differences) >= c.limit {
		c.out.Truncated = true
		return
	}
	c.out.Differences = append(c.out.Differences, Difference{c.kind.String(), id, what, fields})
}

// listed is an object that the CRM has.
type listed struct {
	id     string
	remote seal.Index
	entity seal.Index
	raw    json.RawMessage
}

// compare compares some objects of the CRM.
func (c *comparing) compare(ctx context.Context, batch []json.RawMessage) error {
	list := make([]listed, len(batch))
	remotes := make([]seal.Index, len(batch))
	for i, raw := range batch {
		var has struct {
			ID string `json:"Id"`
		}
		_ = json.Unmarshal(raw, &has) // it has no id then
		list[i] = listed{has.ID, c.targets.keys.Index("crm.id", has.ID), c.targets.index(c.kind, has.ID), raw}
		remotes[i] = list[i].remote
	}
	bound, err := c.targets.store.byRemote(ctx, c.kind, remotes)
	if err != nil {
		return err
	}
	entities := map[seal.Index]bool{}
	for i := range list {
		if entity, ok := bound[list[i].remote]; ok {
			list[i].entity = entity
		}
		entities[list[i].entity] = true
	}
	found, err := c.targets.store.find(ctx, c.kind, slices.Collect(maps.Keys(entities)))
	if err != nil {
		return err
	}
	should, err := c.targets.open(ctx, slices.Collect(maps.Values(found)))
	if err != nil {
		return err
	}
	var again []*target
	fresh := unknown{}
	for i := range list {
		l := &list[i]
		w := should[l.entity]
		if w == nil || l.id == "" || w.copy.remote != nil && *w.copy.remote != l.remote {
			c.counts.Extra++
			c.tell(wrongExtra, l.id, nil)
			continue
		}
		if _, ok := c.seen[l.entity]; ok {
			c.counts.Duplicate++
			c.tell(wrongDuplicate, w.id, nil)
			continue
		}
		c.seen[l.entity] = struct{}{}
		differs, err := c.judge(w, l.raw, fresh)
		if err != nil {
			return err
		}
		if differs {
			again = append(again, w.target)
		}
	}
	return c.mend(ctx, again, fresh)
}

// unknown is what the CRM has and is not known to have.
type unknown map[seal.Index]found

// judge compares one object of the CRM with what it should be.
func (c *comparing) judge(w *shown, raw json.RawMessage, fresh unknown) (differs bool, err error) {
	fields := w.differs(raw)
	if w.copy.state != copyExists {
		f := found{target: w.target}
		if len(fields) == 0 && !w.dirty { // what is on its way may come again
			if f.digest, err = w.digest(c.targets.keys); err != nil {
				return false, err
			}
		}
		fresh[w.entity] = f
	}
	switch {
	case w.dirty || w.waits:
		c.counts.Waiting++
	case len(fields) == 0:
		c.counts.Equal++
	case w.dead:
		c.counts.Refused++
	case c.sentSince(w.target):
		c.counts.Waiting++
	default:
		c.counts.Different++
		c.tell(wrongDifferent, w.id, fields)
		return true, nil
	}
	return false, nil
}

// sentSince tells whether the list may be older than what was sent.
func (c *comparing) sentSince(t *target) bool {
	return !t.copy.sentAt.Before(c.begin.Truncate(time.Microsecond))
}

// missing finds what the CRM should have and does not.
func (c *comparing) missing(ctx context.Context) error {
	var after seal.Index
	for {
		page, err := c.targets.store.page(ctx, c.kind, after, comparePage)
		if err != nil || len(page) == 0 {
			return err
		}
		after = page[len(page)-1]
		page = slices.DeleteFunc(page, func(entity seal.Index) bool {
			_, ok := c.seen[entity]
			return ok
		})
		found, err := c.targets.store.find(ctx, c.kind, page)
		if err != nil {
			return err
		}
		should, err := c.targets.open(ctx, slices.Collect(maps.Values(found)))
		if err != nil {
			return err
		}
		var again []*target
		for _, entity := range page {
			w := should[entity]
			switch {
			case w == nil: // erased
			case w.dirty || w.waits && w.copy.state != copyExists: // if it was there, only its user is made anew now
				c.counts.Waiting++
			case w.dead:
				c.counts.Refused++
			case c.sentSince(w.target):
				c.counts.Waiting++
			default:
				c.counts.Missing++
				c.tell(wrongMissing, w.id, nil)
				again = append(again, w.target)
			}
		}
		if err := c.mend(ctx, again, nil); err != nil {
			return err
		}
	}
}

// mend has sent again what is not as it should be, and notes what the CRM has.
func (c *comparing) mend(ctx context.Context, again []*target, fresh unknown) error {
	if !c.repair {
		return nil
	}
	if err := c.targets.store.bind(ctx, slices.Collect(maps.Values(fresh)), c.now()); err != nil {
		return err
	}
	if err := c.targets.store.again(ctx, again, c.now()); err != nil {
		return err
	}
	c.out.Repairing += int64(len(again))
	if len(again) > 0 {
		c.wake()
	}
	return nil
}
