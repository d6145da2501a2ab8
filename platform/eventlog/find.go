package eventlog

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// Query selects entries; zero fields do not restrict.
type Query struct {
	Module string // whose entries; empty means those of the Log's module
	Event  string
	Ref    Ref       // Kind and ID, or neither
	Target string    // a receiver; looked for among the entries that the rest selects, so give Ref or Event too
	From   time.Time // inclusive
	To     time.Time // inclusive
	After  string    // Page.Next of the page before
	Limit  int       // of entries in a page: 100 if 0, at most 1000
}

// Page is a part of what was found.
type Page struct {
	// Entries, newest first, with all that they were logged with. There may be
	// fewer than Limit, even none, although there are more: a look-up stops
	// after a bounded amount of work.
	Entries []Entry
	// Next continues the query, as its After; empty at the end.
	Next string
}

// Bounds of one look-up.
const (
	defaultLimit = 100
	maxLimit     = 1000
	maxRead      = 5000    // rows
	maxOpened    = 8 << 20 // bytes
	readRows     = 100     // of one statement
)

// position is a place in the order of the entries.
type position struct {
	at  store.Micros
	key []byte
}

func (p position) String() string {
	return base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint64(nil, uint64(p.at)), p.key...))
}

func parsePosition(text string) (*position, error) {
	if text == "" {
		return nil, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != 8+16 {
		return nil, errs.InvalidFields("not a cursor of the event log", errs.Field{Location: "after", Message: "is not what a page before gave"})
	}
	return &position{store.Micros(binary.BigEndian.Uint64(raw)), raw[8:]}, nil
}

func (s *sqlStrategy) find(ctx context.Context, q Query) (Page, error) {
	if s.db == nil {
		return Page{}, errs.New(errs.Unavailable, "event log: not started")
	}
	if (q.Ref.Kind == "") != (q.Ref.ID == "") || q.Limit < 0 || q.Limit > maxLimit {
		return Page{}, errs.New(errs.Invalid, "event log: a ref has a kind and an id, a limit is at most %d", maxLimit)
	}
	if q.Limit == 0 {
		q.Limit = defaultLimit
	}
	at, err := parsePosition(q.After)
	if err != nil {
		return Page{}, err
	}
	var page Page
	for read, opened := 0, 0; ; {
		rows, err := s.read(ctx, q, at)
		if err != nil {
			return Page{}, err
		}
		for _, r := range rows {
			at = &position{r.at, r.key}
			read++
			opened += len(r.sealed) + len(r.receivers)
			e, ok, err := s.open(&r, q)
			if err != nil {
				return Page{}, err
			}
			if ok {
				page.Entries = append(page.Entries, e)
			}
			if len(page.Entries) == q.Limit || opened > maxOpened || read >= maxRead {
				page.Next = at.String()
				return page, nil
			}
		}
		if len(rows) < readRows {
			return page, nil
		}
	}
}

// read gives the next rows that one index selects; the rest of the query is
// checked on what was read.
func (s *sqlStrategy) read(ctx context.Context, q Query, after *position) ([]row, error) {
	const columns = `e.key, e.at, e.event, e.target_kind, e.sealed, e.receivers`
	args := []any{s.module}
	bind := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	var text strings.Builder
	by := "e"
	if q.Ref.Kind != "" {
		by = "r"
		index := s.ref(q.Ref)
		text.WriteString(`select ` + columns + ` from eventlog_ref r join eventlog_entry e on e.module = r.module and e.key = r.key where r.module = $1 and r.ref = ` + bind(index[:]))
	} else {
		text.WriteString(`select ` + columns + ` from eventlog_entry e where e.module = $1`)
	}
	if q.Event != "" {
		text.WriteString(` and e.event = ` + bind(q.Event))
	}
	if !q.From.IsZero() {
		text.WriteString(` and ` + by + `.at >= ` + bind(store.MicrosOf(q.From)))
	}
	if !q.To.IsZero() {
		text.WriteString(` and ` + by + `.at <= ` + bind(store.MicrosOf(q.To)))
	}
	if after != nil {
		text.WriteString(` and (` + by + `.at, ` + by + `.key) < (` + bind(after.at) + `, ` + bind(after.key) + `)`)
	}
	text.WriteString(` order by ` + by + `.at desc, ` + by + `.key desc limit ` + strconv.Itoa(readRows))

	rows, err := s.db.Read().QueryContext(ctx, text.String(), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.key, &r.at, &r.event, &r.targetKind, &r.sealed, &r.receivers); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// open gives the entry of a row; ok is false if it is not asked for, or past
// its retention.
func (s *sqlStrategy) open(r *row, q Query) (e Entry, ok bool, err error) {
	e = Entry{Time: r.at.Time(), Module: s.module, Event: r.event, TargetKind: r.targetKind}
	expired := func(err error) (Entry, bool, error) {
		if errors.Is(err, seal.ErrExpired) {
			err = nil
		}
		return Entry{}, false, err
	}
	if r.receivers != nil {
		packed, err := s.transit.Open(r.receivers)
		if err != nil {
			return expired(err)
		}
		if e.Targets, err = unpackTargets(packed); err != nil {
			return Entry{}, false, err
		}
	}
	if q.Target != "" && !slices.Contains(e.Targets, q.Target) {
		return Entry{}, false, nil
	}
	plain, err := s.transit.Open(r.sealed)
	if err != nil {
		return expired(err)
	}
	var h hidden
	if err := json.Unmarshal(plain, &h); err != nil {
		return Entry{}, false, errs.Wrap(errs.Internal, err, "event log: damaged entry")
	}
	e.ID, e.Text, e.Refs, e.Data = h.ID, h.Text, h.Refs, h.Data
	return e, true, nil
}
