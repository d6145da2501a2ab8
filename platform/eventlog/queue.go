package eventlog

import (
	"context"
	"slices"
	"sync"

	"switchboard/platform/errs"
)

// record is an entry on its way. All strategies share it; none changes it.
type record struct {
	Entry
	size int
}

// queue holds what waits for one strategy, in order, bounded in entries and in
// bytes. What the worker has in hand stays in it, and counts, until settled.
type queue struct {
	maxEntries, maxBytes int
	more                 chan struct{} // holds one token when something came

	mu      sync.Mutex
	waiting []*record // from head on
	head    int
	bytes   int
	in, out uint64 // entries that were taken; that were settled
	waiters []waiter
	closed  bool
}

// waiter wants to know when out has reached a number.
type waiter struct {
	at   uint64
	done chan struct{}
}

func newQueue(entries, bytes int) *queue {
	return &queue{maxEntries: entries, maxBytes: bytes, more: make(chan struct{}, 1)}
}

// put appends r; it is false when there is no room, or never will be.
func (q *queue) put(r *record) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.waiting)-q.head >= q.maxEntries || q.bytes+r.size > q.maxBytes {
		return false
	}
	if q.head > 64 && q.head > len(q.waiting)/2 {
		n := copy(q.waiting, q.waiting[q.head:])
		clear(q.waiting[n:])
		q.waiting, q.head = q.waiting[:n], 0
	}
	q.waiting = append(q.waiting, r)
	q.bytes += r.size
	q.in++
	select {
	case q.more <- struct{}{}:
	default:
	}
	return true
}

// peek appends the oldest records to batch, at least one if there is any and
// else within both bounds.
func (q *queue) peek(batch []*record, entries, bytes int) []*record {
	q.mu.Lock()
	defer q.mu.Unlock()
	sum := 0
	for _, r := range q.waiting[q.head:] {
		sum += r.size
		if len(batch) >= entries || len(batch) > 0 && sum > bytes {
			break
		}
		batch = append(batch, r)
	}
	return batch
}

// wait returns true when there is something, false when stop is closed and
// there is nothing.
func (q *queue) wait(stop <-chan struct{}) bool {
	select {
	case <-q.more:
		return true
	case <-stop:
		return q.len() > 0
	}
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) - q.head
}

// settle lets go of the n oldest records.
func (q *queue) settle(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.waiting)-q.head) // none after close
	for i := q.head; i < q.head+n; i++ {
		q.bytes -= q.waiting[i].size
		q.waiting[i] = nil
	}
	if q.head += n; q.head == len(q.waiting) {
		q.waiting, q.head = q.waiting[:0], 0
	}
	q.out += uint64(n)
	q.waiters = slices.DeleteFunc(q.waiters, func(w waiter) bool {
		if w.at > q.out {
			return false
		}
		close(w.done)
		return true
	})
}

// close refuses further records and lets go of those that were left, after
// counting them. Those who wait learn that it is over.
func (q *queue) close(count func(left int)) (left int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if left = len(q.waiting) - q.head; left > 0 {
		count(left)
	}
	for _, w := range q.waiters {
		close(w.done)
	}
	q.waiting, q.head, q.bytes, q.waiters = nil, 0, 0, nil
	return left
}

// flushed waits until all that is in the queue now has been settled.
func (q *queue) flushed(ctx context.Context) error {
	q.mu.Lock()
	w := waiter{at: q.in, done: make(chan struct{})}
	if q.out < w.at && !q.closed {
		q.waiters = append(q.waiters, w)
	} else {
		close(w.done)
	}
	q.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		q.forget(w)
		return errs.Wrap(errs.Unavailable, ctx.Err(), "event log: flush")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.out < w.at {
		return errs.New(errs.Unavailable, "event log: stopped before all was written")
	}
	return nil
}

func (q *queue) forget(gone waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiters = slices.DeleteFunc(q.waiters, func(w waiter) bool { return w.done == gone.done })
}
