package mailing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// What an import holds at a time: it is the same for a thousand lines and for
// a million.
const (
	importChunk      = 500     // lines of a transaction
	importChunkBytes = 1 << 20 // and their text
)

// existing says what an import does with a number that a client has already.
type existing string

const (
	existingUpdate existing = "update"
	existingSkip   existing = "skip"
	existingError  existing = "error"
)

// importCounts is how far an import has got. Every line that is not blank is
// counted once, when it was stored or refused.
type importCounts struct {
	Line                              int64 // that was read last
	Created, Updated, Skipped, Failed int64
}

// importTold hears how an import goes. An error of a method ends the import.
type importTold interface {
	fault(importFault) error
	progress(importCounts) error
}

// importService takes many clients at once.
type importService struct {
	clients *clientService
	now     func() time.Time
}

func newImportService(clients *clientService, now func() time.Time) *importService {
	return &importService{clients, now}
}

// run stores the clients of a source, a chunk in each transaction; while one is
// being written, the next is read and sealed. Lines that are wrong are told of
// and passed over. A number that comes again means the later line. After an
// error of the source, of a store or of the listener, what was stored stays, and
// the counts tell of it.
func (s *importService) run(ctx context.Context, source importSource, mode existing, told importTold) (importCounts, error) {
	r := &importRun{importService: s, mode: mode, before: math.MaxInt64, told: told}
	if mode != existingUpdate {
		// Clients that came later are of this import, so that its later lines win.
		var err error
		if r.before, err = s.clients.store.highest(ctx, s.clients.store.db.Read()); err != nil {
			return r.counts, fmt.Errorf("begin the import: %w", err)
		}
	}
	err := r.read(ctx, source)
	if err != nil {
		// Whole lines that came before are not lost.
		ctx = context.WithoutCancel(ctx)
	}
	err = errors.Join(err, r.flush(ctx), r.settle(ctx))
	return r.counts, err
}

// importRun is an import under way.
type importRun struct {
	*importService
	mode    existing
	before  int64 // the greatest client that was there before
	told    importTold
	counts  importCounts
	lines   []importLine // that are not being written yet
	size    int          // bytes of their text
	writing *importedChunk
}

// importedChunk is lines that are written in one transaction.
type importedChunk struct {
	lines            []importLine
	rows             []audienceRow // of the lines; without Subject: erased
	known            map[seal.Index]knownClient
	created, updated []audienceRow
	err              error
	done             chan struct{}
}

// read takes the source to its end.
func (r *importRun) read(ctx context.Context, source importSource) error {
	for {
		if err := ctx.Err(); err != nil {
			return errs.Wrap(errs.Unavailable, err, "the import was ended")
		}
		line, err := source.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		r.counts.Line = line.Line
		if line.Client == nil {
			r.counts.Failed++
			for _, f := range line.Faults {
				if err := r.told.fault(f); err != nil {
					return err
				}
			}
		} else {
			r.lines, r.size = append(r.lines, line), r.size+line.Size
		}
		if len(r.lines) >= importChunk || r.size >= importChunkBytes {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
		if err := r.told.progress(r.counts); err != nil {
			return err
		}
	}
}

// flush seals the lines that wait, and begins to write them once the chunk
// before is written.
func (r *importRun) flush(ctx context.Context) error {
	if len(r.lines) == 0 {
		return nil
	}
	c := &importedChunk{lines: r.lines, done: make(chan struct{})}
	r.lines, r.size = make([]importLine, 0, importChunk), 0
	clients := make([]*client, len(c.lines))
	for i := range c.lines {
		clients[i] = c.lines[i].Client
	}
	var err error
	if c.rows, err = r.clients.seal(ctx, clients); err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	r.writing = c
	go func() {
		defer close(c.done)
		c.err = r.write(context.WithoutCancel(ctx), c) // what was taken is stored
	}()
	return nil
}

// settle waits for the chunk that is being written, and counts it.
func (r *importRun) settle(ctx context.Context) error {
	c := r.writing
	if c == nil {
		return nil
	}
	<-c.done
	r.writing = nil
	if c.err != nil {
		return fmt.Errorf("store clients: %w", c.err)
	}
	return errors.Join(r.count(c), r.note(ctx, eventClientCreated, c.created), r.note(ctx, eventClientEdited, c.updated))
}

// write stores a chunk. The later line of a number is what is written.
func (r *importRun) write(ctx context.Context, c *importedChunk) error {
	last, phones := make(map[seal.Index]int, len(c.rows)), make([]seal.Index, 0, len(c.rows))
	for i := range c.rows {
		phone := c.rows[i].Phone
		if c.rows[i].Subject.IsZero() {
			continue
		}
		if _, again := last[phone]; !again {
			phones = append(phones, phone)
		}
		last[phone] = i
	}
	clients, at := r.clients.store, store.MicrosOf(r.now())
	return clients.db.Tx(ctx, func(tx store.Querier) (err error) {
		c.created, c.updated = nil, nil
		if c.known, err = clients.having(ctx, tx, phones); err != nil {
			return err
		}
		for _, phone := range phones {
			row := c.rows[last[phone]]
			row.CreatedAt, row.UpdatedAt = at, at
			k, there := c.known[phone]
			switch {
			case !there:
				c.created = append(c.created, row)
			case r.mode == existingUpdate || k.ID > r.before:
				row.ID, row.CreatedAt = k.ID, k.CreatedAt
				c.updated = append(c.updated, row)
			}
		}
		if len(c.created) > 0 {
			id, err := nextIDs(ctx, tx, "client", len(c.created))
			if err != nil {
				return err
			}
			for i := range c.created {
				c.created[i].ID = id + int64(i)
			}
		}
		if err := clients.replace(ctx, tx, c.updated); err != nil {
			return err
		}
		return clients.insert(ctx, tx, c.created)
	})
}

// count counts the lines of a chunk that is written: where a number comes
// twice, the first line made the client and the later one changed it.
func (r *importRun) count(c *importedChunk) error {
	seen := make(map[seal.Index]bool, len(c.rows))
	refuse := func(line int64, message string) error {
		r.counts.Failed++
		return r.told.fault(importFault{line, "phone_number", message})
	}
	var failed error
	for i := range c.rows {
		phone := c.rows[i].Phone
		k, there := c.known[phone]
		switch old := there && k.ID <= r.before; {
		case c.rows[i].Subject.IsZero():
			failed = errors.Join(failed, refuse(c.lines[i].Line, "belongs to a person who has been erased"))
		case old && r.mode == existingSkip:
			r.counts.Skipped++
		case old && r.mode == existingError:
			failed = errors.Join(failed, refuse(c.lines[i].Line, "belongs to another client"))
		case there || seen[phone]:
			r.counts.Updated++
		default:
			r.counts.Created++
		}
		seen[phone] = true
	}
	return failed
}

func (s *importService) note(ctx context.Context, event string, rows []audienceRow) error {
	ids := make([]int64, len(rows))
	for i := range rows {
		ids[i] = rows[i].ID
	}
	return s.clients.note(ctx, event, ids...)
}
