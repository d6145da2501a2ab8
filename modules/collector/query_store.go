package collector

import (
	"strconv"
	"strings"
	"time"

	"switchboard/platform/store"
)

// conditions builds the where clause of a query and its arguments.
type conditions struct {
	all  []string
	args []any
}

// add adds a condition, each ? in it standing for the next value.
func (c *conditions) add(condition string, values ...any) {
	for _, v := range values {
		c.args = append(c.args, v)
		condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(c.args)), 1)
	}
	c.all = append(c.all, condition)
}

// equal restricts a column to a value unless that is empty.
func (c *conditions) equal(column, value string) {
	if value != "" {
		c.add(column+" = ?", value)
	}
}

// between restricts a column to a range of time, both ends inclusive; nil
// leaves an end open.
func (c *conditions) between(column string, from, to *time.Time) {
	if from != nil {
		c.add(column+" >= ?", store.MicrosOf(*from))
	}
	if to != nil {
		c.add(column+" <= ?", store.MicrosOf(*to))
	}
}

// where writes the clause, nothing if there is no condition.
func (c *conditions) where() string {
	if len(c.all) == 0 {
		return ""
	}
	return " where " + strings.Join(c.all, " and ")
}
