package telephony

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// projectionStore folds events into the projections: calls, customers, actors
// and statistics. It is the only one that writes them.
type projectionStore struct {
	keys  *seal.Keyring
	level time.Duration // longest wait that counts as answered in time
}

// projected is what a batch of events made of the projections.
type projected struct {
	calls     map[seal.Index]*callRow
	returning map[int64]bool // by the event of a standby: the number was known
}

// callRow is a call as it rests, and what it was before the batch.
type callRow struct {
	ID      int64
	Call    seal.Index
	Name    []byte
	Our     *seal.Index
	Their   *seal.Index
	Subject seal.Subject
	Sealed  []byte
	facts   *facts

	isNew   bool
	private *private // opened, or new
	cipher  *seal.Cipher
	reseal  bool
	before  shape
	counted map[counterKey]counter // what it added to the statistics before
}

// shape is what of a call indexes depend on.
type shape struct {
	state     state
	queue     string
	created   int64
	direction direction
	our       seal.Index
	their     seal.Index
}

func (c *callRow) shape(queue string) shape {
	s := shape{state: c.facts.State, queue: queue, created: c.facts.First, direction: c.facts.Direction}
	if c.Our != nil {
		s.our = *c.Our
	}
	if c.Their != nil {
		s.their = *c.Their
	}
	return s
}

// private is what of a call is personal.
type private struct {
	TheirNumber     string `json:"their_number,omitempty"`
	TheirNumberType string `json:"their_number_type,omitempty"`
	OurNumber       string `json:"our_number,omitempty"`
	Code            string `json:"code,omitempty"`
}

// project folds events, which follow each other in the log, into a generation
// of the projections. seen, if there is one, knows the calls that this
// generation has.
func (s *projectionStore) project(ctx context.Context, tx store.Querier, generation int64, events []*received, seen *seenCalls) (*projected, error) {
	out := &projected{calls: map[seal.Index]*callRow{}, returning: map[int64]bool{}}
	if err := s.load(ctx, tx, generation, events, seen, out.calls); err != nil {
		return nil, fmt.Errorf("load calls: %w", err)
	}
	changed := map[counterKey]counter{}
	for _, c := range out.calls {
		if !c.isNew {
			c.counted = map[counterKey]counter{}
			c.facts.count(s.level, func(k counterKey, n counter) { c.counted[k] = n })
		}
	}
	for _, r := range events {
		if r.Call == nil {
			continue
		}
		c := out.calls[*r.Call]
		if c.isNew && c.ID == 0 {
			c.ID, c.Subject, c.cipher, c.reseal = r.ID, r.Subject, r.cipher, true
		}
		if err := s.fold(ctx, c, r); err != nil {
			return nil, err
		}
	}
	for _, c := range out.calls {
		for k, n := range c.counted {
			n2 := changed[k]
			n2.add(n, -1)
			changed[k] = n2
		}
		c.facts.count(s.level, func(k counterKey, n counter) {
			n2 := changed[k]
			n2.add(n, 1)
			changed[k] = n2
		})
	}
	if err := restoreNames(ctx, tx, out.calls); err != nil {
		return nil, fmt.Errorf("find names of calls: %w", err)
	}
	if err := s.saveCalls(ctx, tx, generation, out.calls); err != nil {
		return nil, fmt.Errorf("save calls: %w", err)
	}
	if err := saveStats(ctx, tx, generation, changed); err != nil {
		return nil, fmt.Errorf("save statistics: %w", err)
	}
	if err := saveCustomers(ctx, tx, generation, events, out.returning); err != nil {
		return nil, fmt.Errorf("save customers: %w", err)
	}
	if err := saveActors(ctx, tx, generation, events); err != nil {
		return nil, fmt.Errorf("save actors: %w", err)
	}
	return out, nil
}

// load reads the calls of the events; those that are not there are new.
func (s *projectionStore) load(ctx context.Context, tx store.Querier, generation int64, events []*received, seen *seenCalls, calls map[seal.Index]*callRow) error {
	var wanted []seal.Index
	for _, r := range events {
		if r.Call != nil && calls[*r.Call] == nil {
			calls[*r.Call] = &callRow{Call: *r.Call, isNew: true, facts: &facts{}}
			if seen == nil || seen.add(*r.Call) {
				wanted = append(wanted, *r.Call)
			}
		}
	}
	for len(wanted) > 0 {
		n := store.Chunk(len(wanted))
		args := []any{generation}
		for _, x := range wanted[:n] {
			args = append(args, x[:])
		}
		wanted = wanted[n:]
		err := store.Each(ctx, tx, `select id, call, name, our, their, facts, subject, sealed, queue from telephony_call where generation = $1 and call in `+
			store.Values(1, n, 2), args, func(scan func(...any) error) error {
			c := &callRow{}
			var call, our, their, told, subject []byte
			var queue string
			err := scan(&c.ID, &call, &c.Name, &our, &their, &told, &subject, &c.Sealed, &queue)
			if err != nil {
				return err
			}
			c.Call, c.Subject = seal.Index(call), seal.Subject(subject)
			if our != nil {
				c.Our = (*seal.Index)(our)
			}
			if their != nil {
				c.Their = (*seal.Index)(their)
			}
			if c.facts, err = decodeFacts(told); err != nil {
				return err
			}
			c.before = c.shape(queue)
			calls[c.Call] = c
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// seenCalls is a Bloom filter of calls: nearly all that a rebuild meets are new,
// and need not be looked for. At a million calls it is wrong about one in
// fifty, which costs a look. Blind indexes are as good as hashes.
type seenCalls [1 << 17]uint64

// add tells whether the call may have been added before.
func (s *seenCalls) add(call seal.Index) bool {
	before := true
	for i := 0; i < len(call); i += 4 {
		bit := binary.LittleEndian.Uint32(call[i:]) % (64 * uint32(len(s)))
		before = before && s[bit/64]>>(bit%64)&1 == 1
		s[bit/64] |= 1 << (bit % 64)
	}
	return before
}

// fold takes one event into account.
func (s *projectionStore) fold(ctx context.Context, c *callRow, r *received) error {
	e := r.event
	at := stamp{int64(r.At), r.ID}
	m := mark{stamp: at, Kind: r.Kind, Queue: e.Queue}
	if r.actor != nil {
		m.Actor = person(*r.actor)
	}
	c.facts.add(m, parseDirection(e.Direction))
	if c.Name == nil && e.CallID != "" {
		c.Name = s.keys.System().Seal(nil, []byte(e.CallID), sealName)
	}
	return s.name(ctx, c, r, at)
}

// name notes whose number the call is with. The latest event that tells counts.
func (s *projectionStore) name(ctx context.Context, c *callRow, r *received, at stamp) error {
	e := r.event
	if r.their == nil && r.our == nil && e.Code == "" && e.TheirNumberType == "" || r.cipher == nil {
		return nil
	}
	said := flags(e)
	same := (r.their == nil || c.Their != nil && *r.their == *c.Their) && (r.our == nil || c.Our != nil && *r.our == *c.Our)
	if same && said&^c.facts.PrivateKnown == 0 {
		return nil
	}
	if err := s.unseal(ctx, c); err != nil {
		return err
	}
	newer := at.compare(c.facts.PrivateSaid) > 0
	take := func(to *string, value string) bool {
		if value == "" || *to != "" && !newer {
			return false
		}
		*to = value
		return true
	}
	p := c.private
	if take(&p.TheirNumber, e.TheirNumber) {
		c.Their, c.Subject, c.cipher = r.their, r.Subject, r.cipher
		c.facts.PrivateSaid = at
	}
	if take(&p.OurNumber, e.OurNumber) {
		c.Our = r.our
	}
	take(&p.TheirNumberType, e.TheirNumberType)
	take(&p.Code, e.Code)
	c.facts.PrivateKnown |= said
	c.reseal = true
	return nil
}

// flags tells which of the private fields an event fills in.
func flags(e *event) (said int64) {
	for i, field := range [...]string{e.TheirNumber, e.OurNumber, e.TheirNumberType, e.Code} {
		if field != "" {
			said |= 1 << i
		}
	}
	return said
}

// unseal opens the private part of a call, once. That of an erased person is
// empty.
func (s *projectionStore) unseal(ctx context.Context, c *callRow) error {
	if c.private != nil {
		return nil
	}
	c.private = &private{}
	if c.isNew {
		return nil
	}
	cipher, err := s.cipher(ctx, c.Subject)
	if err != nil || cipher == nil {
		return err
	}
	c.cipher = cipher
	return openPrivate(cipher, c.Sealed, c.private)
}

func (s *projectionStore) cipher(ctx context.Context, subject seal.Subject) (*seal.Cipher, error) {
	if subject.IsZero() {
		return s.keys.System(), nil
	}
	ciphers, err := s.keys.Ciphers(ctx, []seal.Subject{subject})
	if err != nil {
		return nil, fmt.Errorf("find the key of a call: %w", err)
	}
	return ciphers[0], nil
}

func openPrivate(cipher *seal.Cipher, sealed []byte, p *private) error {
	if len(sealed) == 0 {
		return nil
	}
	plain, err := cipher.Open(nil, sealed, sealCall)
	if err == nil {
		err = json.Unmarshal(plain, p)
	}
	if err != nil {
		return fmt.Errorf("open a call: %w", err)
	}
	return nil
}

// restoreNames finds the ids of calls whose events do not tell them any more,
// because their person was erased: the generation that answers has them.
func restoreNames(ctx context.Context, tx store.Querier, calls map[seal.Index]*callRow) error {
	for _, c := range calls {
		if c.Name != nil {
			continue
		}
		err := store.Each(ctx, tx, `select name from telephony_call where generation = (select generation from telephony_head where one = 1) and call = $1`, []any{c.Call[:]},
			func(scan func(...any) error) error { return scan(&c.Name) })
		if err != nil {
			return err
		}
	}
	return nil
}

const insertCallSQL = `insert into telephony_call
	(generation, id, call, name, state, outcome, direction, queue, our, their, created_at, updated_at, facts, subject, sealed) values `

// saveCalls writes new calls, and of changed ones what changed: each column
// that an index holds costs another write.
func (s *projectionStore) saveCalls(ctx context.Context, tx store.Querier, generation int64, calls map[seal.Index]*callRow) error {
	var added []any
	order := slices.SortedFunc(maps.Values(calls), func(a, b *callRow) int { return cmp.Compare(a.ID, b.ID) })
	for _, c := range order {
		f, g := c.facts, c.facts.figures()
		if c.reseal {
			if c.private == nil {
				c.private = &private{}
			}
			plain, err := json.Marshal(c.private)
			if err != nil {
				return err
			}
			c.Sealed = c.cipher.Seal([]byte{}, plain, sealCall)
		}
		now := c.shape(g.Queue)
		var err error
		switch {
		case c.isNew:
			added = append(added, generation, c.ID, c.Call[:], notNil(c.Name), int64(f.State), int64(g.Outcome), int64(f.Direction), g.Queue, optional(c.Our), optional(c.Their),
				f.First, f.Last, f.encode(), c.Subject[:], notNil(c.Sealed))
		case c.reseal || now.created != c.before.created || now.our != c.before.our || now.their != c.before.their || now.direction != c.before.direction:
			_, err = tx.ExecContext(ctx, `update telephony_call set name = $1, state = $2, outcome = $3, direction = $4, queue = $5, our = $6, their = $7,
				created_at = $8, updated_at = $9, facts = $10, subject = $11, sealed = $12 where generation = $13 and id = $14`,
				notNil(c.Name), int64(f.State), int64(g.Outcome), int64(f.Direction), g.Queue, optional(c.Our), optional(c.Their),
				f.First, f.Last, f.encode(), c.Subject[:], notNil(c.Sealed), generation, c.ID)
		case now.queue != c.before.queue:
			_, err = tx.ExecContext(ctx, `update telephony_call set state = $1, outcome = $2, queue = $3, updated_at = $4, facts = $5 where generation = $6 and id = $7`,
				int64(f.State), int64(g.Outcome), g.Queue, f.Last, f.encode(), generation, c.ID)
		case now.state != c.before.state:
			_, err = tx.ExecContext(ctx, `update telephony_call set state = $1, outcome = $2, updated_at = $3, facts = $4 where generation = $5 and id = $6`,
				int64(f.State), int64(g.Outcome), f.Last, f.encode(), generation, c.ID)
		default:
			_, err = tx.ExecContext(ctx, `update telephony_call set outcome = $1, updated_at = $2, facts = $3 where generation = $4 and id = $5`,
				int64(g.Outcome), f.Last, f.encode(), generation, c.ID)
		}
		if err != nil {
			return err
		}
	}
	return store.Insert(ctx, tx, insertCallSQL, 15, added, "")
}

// notNil makes an empty blob of a missing one.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

const addStatSQL = ` on conflict (generation, hour, queue, actor) do update set calls = telephony_stat.calls + excluded.calls,
	offered = telephony_stat.offered + excluded.offered, answered = telephony_stat.answered + excluded.answered,
	in_time = telephony_stat.in_time + excluded.in_time, abandoned = telephony_stat.abandoned + excluded.abandoned,
	overflowed = telephony_stat.overflowed + excluded.overflowed, forwarded = telephony_stat.forwarded + excluded.forwarded,
	unanswered = telephony_stat.unanswered + excluded.unanswered, waits = telephony_stat.waits + excluded.waits,
	wait_us = telephony_stat.wait_us + excluded.wait_us, talks = telephony_stat.talks + excluded.talks,
	talk_us = telephony_stat.talk_us + excluded.talk_us, rings = telephony_stat.rings + excluded.rings,
	no_answers = telephony_stat.no_answers + excluded.no_answers`

func saveStats(ctx context.Context, tx store.Querier, generation int64, changed map[counterKey]counter) error {
	keys := make([]counterKey, 0, len(changed))
	for k, c := range changed {
		if c != (counter{}) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b counterKey) int {
		return cmp.Or(cmp.Compare(a.Hour, b.Hour), cmp.Compare(a.Queue, b.Queue), bytes.Compare(a.Actor[:], b.Actor[:]))
	})
	var args []any
	for _, k := range keys {
		actor := []byte{}
		if k.Actor != (person{}) {
			actor = k.Actor[:]
		}
		args = append(args, generation, k.Hour, k.Queue, actor)
		c := changed[k]
		for _, n := range c.fields() {
			args = append(args, *n)
		}
	}
	if err := store.Insert(ctx, tx, `insert into telephony_stat (generation, hour, queue, actor, calls, offered, answered, in_time, abandoned, overflowed,
		forwarded, unanswered, waits, wait_us, talks, talk_us, rings, no_answers) values `, 18, args, addStatSQL); err != nil {
		return err
	}
	// Where calls went elsewhere, nothing may be left to count.
	for i, k := range keys {
		if changed[k].shrinks() {
			if _, err := tx.ExecContext(ctx, emptyStatSQL, args[18*i:18*i+4]...); err != nil {
				return err
			}
		}
	}
	return nil
}

const emptyStatSQL = `delete from telephony_stat where generation = $1 and hour = $2 and queue = $3 and actor = $4 and calls = 0 and offered = 0 and answered = 0
	and in_time = 0 and abandoned = 0 and overflowed = 0 and forwarded = 0 and unanswered = 0 and waits = 0 and wait_us = 0 and talks = 0 and talk_us = 0
	and rings = 0 and no_answers = 0`

// saveCustomers remembers the numbers that stand by, and tells of each event
// whether its number had done so before.
func saveCustomers(ctx context.Context, tx store.Querier, generation int64, events []*received, returning map[int64]bool) error {
	var standing []*received
	var wanted []seal.Index
	for _, r := range events {
		if r.Kind == kindStandby && r.phone {
			standing = append(standing, r)
			wanted = append(wanted, *r.their)
		}
	}
	known := map[seal.Index]bool{}
	for len(wanted) > 0 {
		n := store.Chunk(len(wanted))
		args := []any{generation}
		for _, x := range wanted[:n] {
			args = append(args, x[:])
		}
		wanted = wanted[n:]
		err := store.Each(ctx, tx, `select their from telephony_customer where generation = $1 and their in `+store.Values(1, n, 2), args, func(scan func(...any) error) error {
			var their []byte
			err := scan(&their)
			if err == nil {
				known[seal.Index(their)] = true
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	var args []any
	for _, r := range standing {
		if known[*r.their] {
			returning[r.ID] = true
			continue
		}
		known[*r.their] = true
		args = append(args, generation, r.their[:], r.ID)
	}
	return store.Insert(ctx, tx, `insert into telephony_customer (generation, their, event) values `, 3, args, "")
}

// actorName is what of an actor is personal.
type actorName struct {
	Actor  string `json:"actor"`
	Number string `json:"number,omitempty"`
}

// actorRow is what the latest of some events say of an actor.
type actorRow struct {
	actor   seal.Index
	name    *received // the latest that names it
	named   stamp
	call    *seal.Index
	entered int64
	moved   stamp
	logged  map[string]flag // by queue
	paused  map[string]flag
}

// flag is a yes or no, and which event said so.
type flag struct {
	on bool
	stamp
}

// later keeps the later of two flags.
func later(flags map[string]flag, queue string, f flag) {
	if old, ok := flags[queue]; !ok || f.compare(old.stamp) > 0 {
		flags[queue] = f
	}
}

func saveActors(ctx context.Context, tx store.Querier, generation int64, events []*received) error {
	actors := map[seal.Index]*actorRow{}
	for _, r := range events {
		if r.actor == nil || r.actorCipher == nil {
			continue
		}
		a := actors[*r.actor]
		if a == nil {
			a = &actorRow{actor: *r.actor, logged: map[string]flag{}, paused: map[string]flag{}}
			actors[*r.actor] = a
		}
		at := stamp{int64(r.At), r.ID}
		if a.name == nil || at.compare(a.named) > 0 {
			a.name, a.named = r, at
		}
		switch r.Kind {
		case kindEntered, kindLeft:
			if r.Call != nil && (a.call == nil || at.compare(a.moved) > 0) {
				a.call, a.moved, a.entered = r.Call, at, count(r.Kind == kindEntered)
			}
		case kindLoggedIn, kindLoggedOut:
			later(a.logged, r.event.Queue, flag{r.Kind == kindLoggedIn, at})
		case kindPaused, kindUnpaused:
			later(a.paused, r.event.Queue, flag{r.Kind == kindPaused, at})
		}
	}
	var rows, queues []any
	for _, a := range slices.SortedFunc(maps.Values(actors), func(a, b *actorRow) int { return bytes.Compare(a.actor[:], b.actor[:]) }) {
		name, err := json.Marshal(actorName{a.name.event.Actor, a.name.event.Number})
		if err != nil {
			return err
		}
		rows = append(rows, generation, a.actor[:], a.name.actorSubject[:], a.name.actorCipher.Seal(nil, name, sealActor), a.named.At, a.named.ID,
			optional(a.call), a.entered, a.moved.At, a.moved.ID)
		for _, queue := range slices.Sorted(maps.Keys(union(a.logged, a.paused))) {
			l, p := a.logged[queue], a.paused[queue]
			queues = append(queues, generation, a.actor[:], queue, count(l.on), l.At, l.ID, count(p.on), p.At, p.ID)
		}
	}
	if err := store.Insert(ctx, tx, `insert into telephony_actor (generation, actor, subject, sealed, seen_at, seen, call, entered, call_at, call_event) values `, 10, rows, mergeActorSQL); err != nil {
		return err
	}
	return store.Insert(ctx, tx, `insert into telephony_actor_queue (generation, actor, queue, logged, logged_at, logged_event, paused, paused_at, paused_event) values `, 9, queues, mergeActorQueueSQL)
}

func union(a, b map[string]flag) map[string]flag {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// What was said later counts; an event of number 0 said nothing.
const mergeActorSQL = ` on conflict (generation, actor) do update set
	subject = case when (excluded.seen_at, excluded.seen) > (telephony_actor.seen_at, telephony_actor.seen) then excluded.subject else telephony_actor.subject end,
	sealed = case when (excluded.seen_at, excluded.seen) > (telephony_actor.seen_at, telephony_actor.seen) then excluded.sealed else telephony_actor.sealed end,
	seen_at = case when (excluded.seen_at, excluded.seen) > (telephony_actor.seen_at, telephony_actor.seen) then excluded.seen_at else telephony_actor.seen_at end,
	seen = case when (excluded.seen_at, excluded.seen) > (telephony_actor.seen_at, telephony_actor.seen) then excluded.seen else telephony_actor.seen end,
	call = case when excluded.call_event > 0 and (telephony_actor.call_event = 0 or (excluded.call_at, excluded.call_event) > (telephony_actor.call_at, telephony_actor.call_event)) then excluded.call else telephony_actor.call end,
	entered = case when excluded.call_event > 0 and (telephony_actor.call_event = 0 or (excluded.call_at, excluded.call_event) > (telephony_actor.call_at, telephony_actor.call_event)) then excluded.entered else telephony_actor.entered end,
	call_at = case when excluded.call_event > 0 and (telephony_actor.call_event = 0 or (excluded.call_at, excluded.call_event) > (telephony_actor.call_at, telephony_actor.call_event)) then excluded.call_at else telephony_actor.call_at end,
	call_event = case when excluded.call_event > 0 and (telephony_actor.call_event = 0 or (excluded.call_at, excluded.call_event) > (telephony_actor.call_at, telephony_actor.call_event)) then excluded.call_event else telephony_actor.call_event end`

const mergeActorQueueSQL = ` on conflict (generation, actor, queue) do update set
	logged = case when excluded.logged_event > 0 and (telephony_actor_queue.logged_event = 0 or (excluded.logged_at, excluded.logged_event) > (telephony_actor_queue.logged_at, telephony_actor_queue.logged_event)) then excluded.logged else telephony_actor_queue.logged end,
	logged_at = case when excluded.logged_event > 0 and (telephony_actor_queue.logged_event = 0 or (excluded.logged_at, excluded.logged_event) > (telephony_actor_queue.logged_at, telephony_actor_queue.logged_event)) then excluded.logged_at else telephony_actor_queue.logged_at end,
	logged_event = case when excluded.logged_event > 0 and (telephony_actor_queue.logged_event = 0 or (excluded.logged_at, excluded.logged_event) > (telephony_actor_queue.logged_at, telephony_actor_queue.logged_event)) then excluded.logged_event else telephony_actor_queue.logged_event end,
	paused = case when excluded.paused_event > 0 and (telephony_actor_queue.paused_event = 0 or (excluded.paused_at, excluded.paused_event) > (telephony_actor_queue.paused_at, telephony_actor_queue.paused_event)) then excluded.paused else telephony_actor_queue.paused end,
	paused_at = case when excluded.paused_event > 0 and (telephony_actor_queue.paused_event = 0 or (excluded.paused_at, excluded.paused_event) > (telephony_actor_queue.paused_at, telephony_actor_queue.paused_event)) then excluded.paused_at else telephony_actor_queue.paused_at end,
	paused_event = case when excluded.paused_event > 0 and (telephony_actor_queue.paused_event = 0 or (excluded.paused_at, excluded.paused_event) > (telephony_actor_queue.paused_at, telephony_actor_queue.paused_event)) then excluded.paused_event else telephony_actor_queue.paused_event end`
