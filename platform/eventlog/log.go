package eventlog

import (
	"context"
	"sync"

	"switchboard/platform/errs"
)

// Log is the log of one module. It is safe for concurrent use.
type Log struct {
	service *Service
	module  string
	cfg     Config
	workers []*worker
	sql     *sqlStrategy // nil if the module does not use it

	mu   sync.Mutex
	seen uint64 // missed when Flush was last called
}

var _ Logger = (*Log)(nil)

// Log hands e to every strategy and returns at once. It takes over the slices
// of e without copying: the caller must not change them afterwards. The error
// is errs.Invalid, for an entry that no strategy could ever write; what a
// strategy misses is counted, not returned. It may be called before Run has
// begun; after Run has ended everything is missed.
func (l *Log) Log(_ context.Context, e Entry) error {
	if err := e.complete(l.module, l.service.now); err != nil {
		return err
	}
	r := &record{Entry: e, size: e.size()}
	if r.size > maxEntry {
		return errs.New(errs.Invalid, "event log: an entry of %d bytes is too large, the limit is %d", r.size, maxEntry)
	}
	for _, w := range l.workers {
		w.put(r)
	}
	return nil
}

// Flush waits until all that was logged before is written by the strategies
// that promise at-least-once (sql, jetstream), so that a bus consumer may
// acknowledge what it logged about. It returns errs.Unavailable when ctx ends
// first, when the log has stopped, and when one of these strategies has missed
// an entry since the last call of Flush, because its queue was full: then
// whoever can should log again, under the same ids. Where several goroutines
// flush one Log, only one of them learns of a miss; they should compare Missed.
func (l *Log) Flush(ctx context.Context) error {
	for _, w := range l.workers {
		if w.promises {
			if err := w.q.flushed(ctx); err != nil {
				return err
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	missed := l.Missed()
	if missed == l.seen {
		return nil
	}
	n := missed - l.seen
	l.seen = missed
	return errs.New(errs.Unavailable, "event log of %s: %d entries were missed", l.module, n)
}

// Missed is how many entries the strategies that promise at-least-once have
// missed so far, each strategy counted. It only grows.
func (l *Log) Missed() uint64 {
	var n uint64
	for _, w := range l.workers {
		if w.promises {
			n += w.missed.Load()
		}
	}
	return n
}

// Find gives the entries of q, newest first. It needs the strategy sql: the
// error is errs.Unavailable where the module does not use it or the database
// is away, errs.Invalid for a query that makes no sense.
func (l *Log) Find(ctx context.Context, q Query) (Page, error) {
	of := l
	if q.Module != "" && q.Module != l.module {
		if of = l.service.log(q.Module); of == nil {
			return Page{}, errs.New(errs.Unavailable, "event log: the module %s does not log here", q.Module)
		}
	}
	if of.sql == nil {
		return Page{}, errs.New(errs.Unavailable, "event log: the module %s does not log to sql", of.module)
	}
	return of.sql.find(ctx, q)
}
