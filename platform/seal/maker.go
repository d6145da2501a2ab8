package seal

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"
)

// makeTimeout bounds a transaction that several callers share and that
// therefore outlives the contexts of each.
const makeTimeout = 30 * time.Second

// maker is a group commit of new subjects. The first caller writes at once;
// those that come meanwhile wait, and the first of them writes for all. One
// fsync then pays for many people, and an idle keyring adds no delay.
type maker struct {
	mu      sync.Mutex
	busy    bool
	waiting []*making
}

// making is one caller's share. turn tells it to write for all that wait;
// otherwise done tells it that its part has been written.
type making struct {
	wants []want
	turn  chan struct{}
	done  chan struct{}
	made  map[Index]person // of the whole batch
	err   error
}

// make gives subjects to wants, leaving out those another instance was faster with.
func (k *Keyring) make(ctx context.Context, wants []want) (map[Index]person, error) {
	m := &making{wants: wants, turn: make(chan struct{}), done: make(chan struct{})}
	k.maker.mu.Lock()
	k.maker.waiting = append(k.maker.waiting, m)
	first := !k.maker.busy
	k.maker.busy = true
	k.maker.mu.Unlock()
	if !first {
		select {
		case <-m.done:
			return m.made, m.err
		case <-m.turn:
		}
	}
	k.makeWaiting(context.WithoutCancel(ctx))
	return m.made, m.err
}

// makeWaiting writes for all that wait, then passes the turn on.
func (k *Keyring) makeWaiting(ctx context.Context) {
	k.maker.mu.Lock()
	batch := k.maker.waiting
	k.maker.waiting = nil
	k.maker.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	made, err := k.insertSubjects(ctx, merged(batch))

	k.maker.mu.Lock()
	if len(k.maker.waiting) > 0 {
		close(k.maker.waiting[0].turn)
	} else {
		k.maker.busy = false
	}
	k.maker.mu.Unlock()
	for _, m := range batch {
		m.made, m.err = made, err
		close(m.done)
	}
}

// merged gives the wants of a batch, each once, in one order for all
// instances: two transactions that insert the same rows must not meet crosswise.
func merged(batch []*making) []want {
	var all []want
	for _, m := range batch {
		all = append(all, m.wants...)
	}
	slices.SortFunc(all, func(a, b want) int { return bytes.Compare(a.index[:], b.index[:]) })
	return slices.CompactFunc(all, func(a, b want) bool { return a.index == b.index })
}
