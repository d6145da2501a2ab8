package store

import (
	"context"
	"strconv"
	"sync"
)

// maxCached bounds the texts Values keeps: a module has a handful of shapes,
// each with at most about a hundred row counts.
const maxCached = 512

type shape struct{ rows, cols, first int }

// values remembers texts, which depend on nothing but their shape.
var values = struct {
	sync.RWMutex
	text map[shape]string
}{text: map[shape]string{}}

// Values gives the placeholders of a multi-row insert: Values(2, 2, 1) is
// "($1,$2),($3,$4)". first is the number of the first placeholder. Texts are
// kept, so that asking again costs a look-up. SQLite takes 32766 parameters in
// a statement, PostgreSQL 65535. Insert sizes of Chunk rows at a time: few
// texts, so that they stay prepared.
func Values(rows, cols, first int) string {
	key := shape{rows, cols, first}
	values.RLock()
	text, ok := values.text[key]
	values.RUnlock()
	if ok {
		return text
	}
	buf := make([]byte, 0, rows*(cols*6+2))
	for n, row := first, 0; row < rows; row++ {
		if row > 0 {
			buf = append(buf, ',')
		}
		buf = append(buf, '(')
		for col := 0; col < cols; col, n = col+1, n+1 {
			if col > 0 {
				buf = append(buf, ',')
			}
			buf = append(buf, '$')
			buf = strconv.AppendInt(buf, int64(n), 10)
		}
		buf = append(buf, ')')
	}
	text = string(buf)
	values.Lock()
	if len(values.text) < maxCached {
		values.text[key] = text
	}
	values.Unlock()
	return text
}

// Chunk is how many of n waiting rows to put into the next statement: a power
// of two, at most 64. However many rows come, only seven texts are needed, and
// those stay prepared.
func Chunk(n int) int {
	size := 64
	for size > n && size > 1 {
		size /= 2
	}
	return size
}

// Insert writes rows of so many columns, whose values follow each other in args,
// many in a statement: insert is the text up to the values, suffix what follows
// them.
func Insert(ctx context.Context, tx Querier, insert string, columns int, args []any, suffix string) error {
	for len(args) > 0 {
		n := Chunk(len(args) / columns)
		if _, err := tx.ExecContext(ctx, insert+Values(n, columns, 1)+suffix, args[:n*columns]...); err != nil {
			return err
		}
		args = args[n*columns:]
	}
	return nil
}

// InsertEach is Insert with a suffix that returns rows, which go to fn as with
// Each.
func InsertEach(ctx context.Context, tx Querier, insert string, columns int, args []any, suffix string, fn func(scan func(...any) error) error) error {
	for len(args) > 0 {
		n := Chunk(len(args) / columns)
		if err := Each(ctx, tx, insert+Values(n, columns, 1)+suffix, args[:n*columns], fn); err != nil {
			return err
		}
		args = args[n*columns:]
	}
	return nil
}
