package collector

import (
	"context"
	"fmt"
	"time"

	"switchboard/platform/bus"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	subjectIngest = "collector.ingest"
	streamIngest  = "COLLECTOR_INGEST"
	// frameItems is how many events one bus message holds at most; the order of
	// arrival counts in steps of it.
	frameItems = 1000
	// ingestAge bounds how long an accepted event may wait to be stored. It is
	// far beyond any outage of the tables that nobody would notice.
	ingestAge = 30 * 24 * time.Hour
)

// storer takes accepted events from the bus and stores them. It is idempotent
// by event: a frame may come again after a crash.
type storer struct {
	store   *eventStore
	rejects *rejectStore
	keys    *seal.Keyring
	transit *seal.Transit // of frames
	refused *seal.Transit // of rejects
	live    *live
	metrics *metrics
	now     func() time.Time
}

// handle stores the events of some frames.
func (s *storer) handle(ctx context.Context, msgs []bus.Message) error {
	var items []*item
	var arrivals []int64
	for _, m := range msgs {
		raw, err := bus.OpenFrame(m.Data, s.transit.Open)
		if err != nil {
			return fmt.Errorf("open frame: %w", err)
		}
		for i, b := range raw {
			it, err := decodeItem(b)
			if err != nil {
				return bus.Permanent(fmt.Errorf("frame %d: %w", m.Seq, err))
			}
			items = append(items, it)
			arrivals = append(arrivals, int64(m.Seq)*frameItems+int64(i))
		}
	}
	for from := 0; from < len(items); from += frameItems {
		to := min(from+frameItems, len(items))
		if err := s.keep(ctx, items[from:to], arrivals[from:to]); err != nil {
			return err
		}
	}
	return nil
}

// keep stores one batch.
func (s *storer) keep(ctx context.Context, items []*item, arrivals []int64) error {
	var events []*item
	var at []int64
	var refused []rejectRow
	for i, it := range items {
		if it.Reject == nil {
			events = append(events, it)
			at = append(at, arrivals[i])
			continue
		}
		row, err := sealReject(it, s.refused)
		if err != nil {
			return fmt.Errorf("seal reject: %w", err)
		}
		refused = append(refused, row)
	}
	if len(refused) > 0 {
		if err := s.rejects.insert(ctx, refused); err != nil {
			return fmt.Errorf("store rejects: %w", err)
		}
	}
	if len(events) == 0 {
		return nil
	}
	rows, fresh, err := s.keepEvents(ctx, events, at)
	if err != nil {
		return err
	}
	s.metrics.stored.Add(float64(len(fresh)))
	s.metrics.doubled.Add(float64(len(rows) - len(fresh)))
	now := s.now()
	for i := range fresh {
		s.metrics.delay.Observe(now.Sub(fresh[i].ReceivedAt.Time()).Seconds())
	}
	s.live.publish(events, fresh)
	return nil
}

// keepEvents seals events and stores them. It gives the rows that they became,
// and those that were new.
func (s *storer) keepEvents(ctx context.Context, events []*item, arrivals []int64) (rows, fresh []eventRow, err error) {
	s.store.sealing.RLock()
	defer s.store.sealing.RUnlock()
	rows, sessions, err := s.seal(ctx, events, arrivals)
	if err != nil || len(rows) == 0 {
		return nil, nil, err
	}
	fresh, err = s.store.insert(ctx, rows, sessions)
	return rows, fresh, err
}

// seal turns events into rows, and session ids into what the session rows
// hold of them. Events of erased persons are dropped.
func (s *storer) seal(ctx context.Context, events []*item, arrivals []int64) ([]eventRow, map[[16]byte][]byte, error) {
	place := map[string]int{}
	var aliases []seal.Alias
	for _, it := range events {
		if _, ok := place[it.SessionID]; !ok {
			place[it.SessionID] = len(aliases)
			aliases = append(aliases, seal.Alias{Kind: "session_id", Value: it.SessionID})
		}
	}
	subjects, err := s.keys.Subjects(ctx, aliases)
	if err != nil {
		return nil, nil, fmt.Errorf("find subjects: %w", err)
	}
	if err := s.link(ctx, events, place, subjects); err != nil {
		return nil, nil, err
	}
	ciphers, err := s.keys.Ciphers(ctx, subjects)
	if err != nil {
		return nil, nil, fmt.Errorf("find keys: %w", err)
	}
	sessions := make(map[[16]byte][]byte, len(aliases))
	indexes := make([]seal.Index, len(aliases))
	for i, a := range aliases {
		if ciphers[i] == nil {
			continue
		}
		indexes[i] = s.keys.Index(a.Kind, a.Value)
		sessions[indexes[i]] = ciphers[i].Seal(nil, []byte(a.Value), sealSession)
	}
	kinds := map[kind]int64{}
	rows := make([]eventRow, 0, len(events))
	for i, it := range events {
		n := place[it.SessionID]
		if ciphers[n] == nil {
			s.metrics.erased.Inc()
			continue
		}
		private, err := seal.MarshalPrivate(&it.Event)
		if err != nil {
			return nil, nil, bus.Permanent(fmt.Errorf("seal event: %w", err))
		}
		k := kind{it.Category, it.Name, it.App}
		id, ok := kinds[k]
		if !ok {
			id = k.id()
			kinds[k] = id
		}
		rows = append(rows, eventRow{
			Arrival: arrivals[i], EventID: it.EventID, Session: indexes[n], Kind: k, KindID: id,
			OccurredAt: store.MicrosOf(it.Timestamp), ReceivedAt: store.MicrosOf(it.ReceivedAt),
			Subject: subjects[n], Sealed: ciphers[n].Seal(nil, private, sealEvent),
		})
	}
	return rows, sessions, nil
}

// link makes the sessions of a user findable by the user, for erasure and export.
func (s *storer) link(ctx context.Context, events []*item, place map[string]int, subjects []seal.Subject) error {
	type pair struct {
		user    string
		session int
	}
	seen := map[pair]bool{}
	var users []seal.Alias
	var to []seal.Subject
	for _, it := range events {
		n := place[it.SessionID]
		p := pair{it.UserID, n}
		if it.UserID == "" || seen[p] || subjects[n] == (seal.Subject{}) {
			continue
		}
		seen[p] = true
		users = append(users, seal.Alias{Kind: "user_id", Value: it.UserID})
		to = append(to, subjects[n])
	}
	if len(users) == 0 {
		return nil
	}
	if err := s.keys.Link(ctx, users, to); err != nil {
		return fmt.Errorf("link users: %w", err)
	}
	return nil
}
