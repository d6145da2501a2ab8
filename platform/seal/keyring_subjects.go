package seal

import (
	"context"
	"fmt"
	"slices"

	"switchboard/platform/errs"
	"switchboard/platform/store"
)

// Subjects finds the subject of each alias and makes one, with its key, where
// there is none; what it made is durable when it returns. An alias of a person
// who has been erased yields the zero Subject, for ever. Where an alias means
// several people, the first it was bound to counts. It fails with errs.Invalid
// for an alias without kind or value.
//
// Subjects that nobody has asked for in the last minute cost one query per 32
// of them; all new ones of all concurrent calls share a transaction.
func (k *Keyring) Subjects(ctx context.Context, aliases []Alias) ([]Subject, error) {
	found, err := k.persons(ctx, aliases, true)
	if err != nil {
		return nil, err
	}
	out := make([]Subject, len(found))
	for i := range found {
		out[i] = found[i].live()
	}
	return out, nil
}

// SubjectsOnce is Subjects and Ciphers in one, for those who go through many
// people and do not soon come back to any, as an import does: the cache keeps
// nothing of it.
func (k *Keyring) SubjectsOnce(ctx context.Context, aliases []Alias) ([]Subject, []*Cipher, error) {
	found, err := k.persons(ctx, aliases, false)
	if err != nil {
		return nil, nil, err
	}
	subjects, ciphers := make([]Subject, len(found)), make([]*Cipher, len(found))
	for i := range found {
		subjects[i], ciphers[i] = found[i].live(), found[i].cipher
	}
	return subjects, ciphers, nil
}

// person is a subject and its cipher, nil if the person has been erased.
type person struct {
	subject Subject
	cipher  *Cipher
}

// live is the subject, zero if the person has been erased.
func (p *person) live() Subject {
	if p.cipher == nil {
		return Subject{}
	}
	return p.subject
}

// persons finds whom aliases mean, or makes them; keep has the cache keep them.
func (k *Keyring) persons(ctx context.Context, aliases []Alias, keep bool) ([]person, error) {
	indexes, err := k.indexes(aliases)
	if err != nil {
		return nil, err
	}
	out := make([]person, len(aliases))
	missing := k.cachedPersons(indexes, out)
	// Twice is enough but for a Forget in between.
	for range 4 {
		if len(missing) == 0 {
			return out, nil
		}
		found, err := k.resolve(ctx, unique(indexes, missing), keep)
		if err != nil {
			return nil, fmt.Errorf("find subjects: %w", err)
		}
		missing = assign(out, indexes, missing, found)
		if len(missing) == 0 {
			return out, nil
		}
		var wants []want
		seen := make(map[Index]bool, len(missing))
		for _, i := range missing {
			if !seen[indexes[i]] {
				seen[indexes[i]] = true
				wants = append(wants, want{indexes[i], aliases[i].Kind, keep})
			}
		}
		made, err := k.make(ctx, wants)
		if err != nil {
			return nil, fmt.Errorf("make subjects: %w", err)
		}
		// Those that another instance made first are read in the next round.
		missing = assign(out, indexes, missing, made)
	}
	return nil, errs.New(errs.Unavailable, "subjects are made and forgotten faster than they can be read")
}

// Find gives every subject an alias is bound to, the first one first; none is
// no error. Erased ones are among them: their Cipher is nil.
func (k *Keyring) Find(ctx context.Context, alias Alias) ([]Subject, error) {
	x := k.Index(alias.Kind, alias.Value)
	var out []Subject
	err := each(ctx, k.db.Read(), `select subject from keys_alias where hash = $1 order by home desc, created_at, subject`, []any{x[:]},
		func(scan func(...any) error) error {
			var s Subject
			err := scan(&s)
			out = append(out, s)
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("find subjects: %w", err)
	}
	return out, nil
}

// Link binds further aliases: aliases[i] to subjects[i]. It is idempotent. A
// zero Subject is passed over, so that the result of Subjects can be handed on.
// An alias bound to an erased subject alone is refused from then on.
func (k *Keyring) Link(ctx context.Context, aliases []Alias, subjects []Subject) error {
	if len(aliases) != len(subjects) {
		return errs.New(errs.Invalid, "link %d aliases to %d subjects", len(aliases), len(subjects))
	}
	indexes, err := k.indexes(aliases)
	if err != nil {
		return err
	}
	now := store.MicrosOf(k.now())
	type link struct {
		x Index
		s Subject
	}
	var rows []any
	seen := map[link]bool{}
	for i, s := range subjects {
		if l := (link{indexes[i], s}); !s.IsZero() && !seen[l] {
			seen[l] = true
			rows = append(rows, indexes[i][:], s[:], aliases[i].Kind, 1, int64(now))
		}
	}
	if len(rows) == 0 {
		return nil
	}
	err = k.db.Tx(ctx, func(tx store.Querier) error {
		// First as the home of an alias that has none, then as one of many.
		for _, home := range []int{1, 0} {
			for i := 3; i < len(rows); i += 5 {
				rows[i] = home
			}
			if err := insert(ctx, tx, `insert into keys_alias (hash, subject, kind, home, created_at) values `, ` on conflict do nothing`, 5, rows); err != nil {
				return err
			}
		}
		return nil
	})
	return wrapText(err, "link subjects")
}

// Ciphers gives the cipher of each subject; nil for one that is erased,
// forgotten or zero.
func (k *Keyring) Ciphers(ctx context.Context, subjects []Subject) ([]*Cipher, error) {
	return k.ciphers(ctx, subjects, true)
}

// CiphersOnce is Ciphers for those who do not soon come back to any of these
// people, as a campaign or a list of thousands does: the cache keeps nothing of it.
func (k *Keyring) CiphersOnce(ctx context.Context, subjects []Subject) ([]*Cipher, error) {
	return k.ciphers(ctx, subjects, false)
}

func (k *Keyring) ciphers(ctx context.Context, subjects []Subject, keep bool) ([]*Cipher, error) {
	out := make([]*Cipher, len(subjects))
	var missing []int
	now := k.now()
	k.cache.mu.Lock()
	gen := k.cache.gen
	for i, s := range subjects {
		if s.IsZero() {
			continue
		}
		cipher, ok := k.cache.key(s, now)
		if !ok {
			missing = append(missing, i)
			continue
		}
		out[i] = cipher
	}
	k.cache.mu.Unlock()
	if len(missing) == 0 {
		return out, nil
	}

	found := map[Subject]*Cipher{}
	for part := range slices.Chunk(unique(subjects, missing), chunk) {
		args := make([]any, 0, chunk)
		for _, s := range part {
			args = append(args, s[:])
		}
		args = pad(args)
		err := each(ctx, k.db.Read(), `select subject, wrapped, state from keys_subject where subject in `+store.Values(1, len(args), 1), args,
			func(scan func(...any) error) error {
				var s Subject
				var wrapped []byte
				var state int
				if err := scan(&s, &wrapped, &state); err != nil {
					return err
				}
				cipher, err := k.cipher(s, wrapped, state)
				found[s] = cipher
				return err
			})
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
	}
	for _, i := range missing {
		out[i] = found[subjects[i]]
	}
	if keep {
		k.cache.fill(gen, now, found, nil)
	}
	return out, nil
}

func (k *Keyring) cipher(s Subject, wrapped []byte, state int) (*Cipher, error) {
	if state != stateLive {
		return nil, nil
	}
	aead, err := k.wrap.open(wrapped, s[:])
	if err != nil {
		return nil, fmt.Errorf("key of subject %s: %w", s, err)
	}
	return &Cipher{subject: s, aead: aead, scratch: k.scratch}, nil
}

func (k *Keyring) indexes(aliases []Alias) ([]Index, error) {
	out := make([]Index, len(aliases))
	for i, a := range aliases {
		if a.Kind == "" || a.Value == "" {
			return nil, errs.New(errs.Invalid, "an alias needs a kind and a value: alias %d of kind %q", i, a.Kind)
		}
		out[i] = k.Index(a.Kind, a.Value)
	}
	return out, nil
}

// cachedPersons fills out from the cache and tells which elements it lacks.
func (k *Keyring) cachedPersons(indexes []Index, out []person) (missing []int) {
	now := k.now()
	k.cache.mu.Lock()
	defer k.cache.mu.Unlock()
	for i, x := range indexes {
		p, ok := k.cache.alias(x, now)
		if !ok {
			missing = append(missing, i)
			continue
		}
		out[i] = p
	}
	return missing
}

// resolve reads whom aliases mean; keep has the cache keep it.
func (k *Keyring) resolve(ctx context.Context, indexes []Index, keep bool) (map[Index]person, error) {
	gen, now := k.cache.generation(), k.now()
	found := make(map[Index]person, len(indexes))
	for part := range slices.Chunk(indexes, chunk) {
		args := make([]any, 0, chunk)
		for _, x := range part {
			args = append(args, x[:])
		}
		args = pad(args)
		err := each(ctx, k.db.Read(), `select a.hash, a.subject, s.wrapped, s.state
			from keys_alias a join keys_subject s on s.subject = a.subject
			where a.hash in `+store.Values(1, len(args), 1)+` order by a.home desc, a.created_at, a.subject`, args,
			func(scan func(...any) error) error {
				var x Index
				var s Subject
				var wrapped []byte
				var state int
				if err := scan(&x, &s, &wrapped, &state); err != nil {
					return err
				}
				if _, known := found[x]; known {
					return nil // not the first of several
				}
				cipher, err := k.cipher(s, wrapped, state)
				if err != nil {
					return err
				}
				found[x] = person{s, cipher}
				return nil
			})
		if err != nil {
			return nil, err
		}
	}
	if keep {
		k.cache.fill(gen, now, nil, found)
	}
	return found, nil
}

// want is an alias that needs a subject.
type want struct {
	index Index
	kind  string
	keep  bool // in the cache
}

// insertSubjects makes a subject and a key for each alias that still has none,
// in one transaction, and gives those it made. Wants are sorted and unique.
func (k *Keyring) insertSubjects(ctx context.Context, wants []want) (map[Index]person, error) {
	gen, now := k.cache.generation(), k.now()
	at := int64(store.MicrosOf(now))
	aliases := make([]any, 0, 5*len(wants))
	keys := make([]any, 0, 4*len(wants))
	fresh := make([]person, len(wants))
	for i, w := range wants {
		s := newSubject(now)
		key, wrapped := k.wrap.newKey(s[:])
		aead, err := newAEAD(key)
		clear(key)
		if err != nil {
			return nil, err
		}
		fresh[i] = person{s, &Cipher{subject: s, aead: aead, scratch: k.scratch}}
		aliases = append(aliases, wants[i].index[:], fresh[i].subject[:], w.kind, 1, at)
		keys = append(keys, fresh[i].subject[:], wrapped, stateLive, at)
	}

	made := make(map[Index]Subject, len(wants))
	err := k.db.Tx(ctx, func(tx store.Querier) error {
		clear(made)
		for i := 0; i < len(wants); i += chunk {
			n := min(chunk, len(wants)-i)
			// Whoever inserts the alias first, here or in another instance, has made its subject.
			err := each(ctx, tx, `insert into keys_alias (hash, subject, kind, home, created_at) values `+
				store.Values(n, 5, 1)+` on conflict do nothing returning hash, subject`, aliases[5*i:5*(i+n)],
				func(scan func(...any) error) error {
					var x Index
					var s Subject
					err := scan(&x, &s)
					made[x] = s
					return err
				})
			if err != nil {
				return err
			}
		}
		won := make([]any, 0, len(keys))
		for i, w := range wants {
			if made[w.index] == fresh[i].subject {
				won = append(won, keys[4*i:4*i+4]...)
			}
		}
		return insert(ctx, tx, `insert into keys_subject (subject, wrapped, state, changed_at) values `, ``, 4, won)
	})
	if err != nil {
		return nil, err
	}
	out, kept := make(map[Index]person, len(made)), map[Index]person{}
	for i, w := range wants {
		if made[w.index] != fresh[i].subject {
			continue
		}
		out[w.index] = fresh[i]
		if w.keep {
			kept[w.index] = fresh[i]
		}
	}
	k.cache.fill(gen, now, nil, kept)
	return out, nil
}

// insert runs multi-row inserts of cols columns each.
func insert(ctx context.Context, tx store.Querier, head, tail string, cols int, args []any) error {
	for len(args) > 0 {
		n := min(chunk, len(args)/cols)
		if _, err := tx.ExecContext(ctx, head+store.Values(n, cols, 1)+tail, args[:n*cols]...); err != nil {
			return err
		}
		args = args[n*cols:]
	}
	return nil
}

// assign sets out where found knows the element, and tells which are left.
func assign(out []person, indexes []Index, missing []int, found map[Index]person) (left []int) {
	for _, i := range missing {
		p, ok := found[indexes[i]]
		if !ok {
			left = append(left, i)
			continue
		}
		out[i] = p
	}
	return left
}

// unique gives the elements of all at the places, each once.
func unique[T comparable](all []T, places []int) []T {
	seen := make(map[T]bool, len(places))
	out := make([]T, 0, len(places))
	for _, i := range places {
		if !seen[all[i]] {
			seen[all[i]] = true
			out = append(out, all[i])
		}
	}
	return out
}

// pad repeats the last argument up to a power of two, so that a list of any
// length is one of few texts, which engines keep prepared.
func pad(args []any) []any {
	n := 1
	for n < len(args) {
		n *= 2
	}
	for len(args) < n {
		args = append(args, args[len(args)-1])
	}
	return args
}

func wrapText(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
