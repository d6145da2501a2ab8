package store

import (
	"context"
	"database/sql/driver"
	"errors"
)

// statements keeps the prepared statements of one SQLite connection: to parse
// a multi-row insert takes longer than to run it, since SQLite looks up each
// $n by its name. A text is prepared the second time it comes, so that texts
// that are made up for one query do not push the others out. The pool uses a
// connection from one goroutine at a time.
type statements struct {
	kept map[string]*statement
	ring [keptStatements]string // in the order of preparing
	next int
	seen map[string]struct{}
}

const (
	keptStatements = 48
	seenStatements = 256
	// maxKeptText leaves out what would take much memory.
	maxKeptText = 16 << 10
)

type statement struct {
	driver.Stmt
	busy bool // rows of it are open
}

// prepared gives a kept statement for a text, or nil.
func (s *statements) prepared(ctx context.Context, raw rawConn, query string) *statement {
	if st := s.kept[query]; st != nil {
		if st.busy {
			return nil
		}
		return st
	}
	if len(query) > maxKeptText {
		return nil
	}
	if _, again := s.seen[query]; !again {
		if s.seen == nil || len(s.seen) >= seenStatements {
			s.seen = map[string]struct{}{}
		}
		s.seen[query] = struct{}{}
		return nil
	}
	if old := s.kept[s.ring[s.next]]; old != nil {
		if old.busy {
			return nil
		}
		_ = old.Close()
		delete(s.kept, s.ring[s.next])
	}
	st, err := raw.PrepareContext(ctx, unnumbered(query))
	if err != nil {
		return nil // running it without gives the error
	}
	if s.kept == nil {
		s.kept = map[string]*statement{}
	}
	kept := &statement{Stmt: st}
	s.kept[query] = kept
	s.ring[s.next] = query
	s.next = (s.next + 1) % keptStatements
	delete(s.seen, query)
	return kept
}

// close gives the statements back, before their connection ends.
func (s *statements) close() error {
	var all []error
	for _, st := range s.kept {
		all = append(all, st.Close())
	}
	s.kept = nil
	return errors.Join(all...)
}

func (st *statement) exec(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return st.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (st *statement) query(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	raw, err := st.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return nil, err
	}
	st.busy = true
	return &keptRows{raw, st}, nil
}

// keptRows frees its statement when it is closed.
type keptRows struct {
	driver.Rows
	st *statement
}

func (r *keptRows) Close() error {
	r.st.busy = false
	return r.Rows.Close()
}

// unnumbered writes the parameters of a text as plain question marks if they
// stand in order, $1 to $n, each once: SQLite finds a numbered one by walking
// through a list of all. Any other text is returned as it is.
func unnumbered(query string) string {
	out := make([]byte, 0, len(query))
	want, quoted := 1, false
	for i := 0; i < len(query); i++ {
		c := query[i]
		if c == '\'' {
			quoted = !quoted
		}
		if c != '$' || quoted {
			out = append(out, c)
			continue
		}
		n, start := 0, i+1
		for i+1 < len(query) && query[i+1] >= '0' && query[i+1] <= '9' {
			i++
			n = 10*n + int(query[i]-'0')
		}
		if i < start || n != want {
			return query
		}
		want++
		out = append(out, '?')
	}
	return string(out)
}
