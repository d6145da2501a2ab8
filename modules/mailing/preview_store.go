package mailing

import (
	"context"
	"strings"

	"switchboard/platform/store"
)

// previewStore counts audiences.
type previewStore struct{ db *store.DB }

// zoneCount is how many clients of a time zone a filter picks, and how many of
// them are suppressed.
type zoneCount struct {
	timezone            string
	clients, suppressed int64
}

// zones counts the clients that f picks by time zone, of which there are a few
// hundred.
func (s *previewStore) zones(ctx context.Context, f filter) (out []zoneCount, err error) {
	var where []string
	var args []any
	for _, member := range []struct {
		column string
		values []string
	}{{"c.operator_code", f.OperatorCode}, {"c.tag", f.Tag}} {
		if len(member.values) == 0 {
			continue
		}
		where = append(where, member.column+" in "+store.Values(1, len(member.values), len(args)+1))
		for _, v := range member.values {
			args = append(args, v)
		}
	}
	text := `select c.timezone, count(*), count(s.phone) from mailing_client c left join mailing_suppression s on s.phone = c.phone`
	if len(where) > 0 {
		text += ` where ` + strings.Join(where, ` and `)
	}
	err = store.Each(ctx, s.db.Read(), text+` group by c.timezone order by count(*) desc, c.timezone`, args, func(scan func(...any) error) error {
		var z zoneCount
		err := scan(&z.timezone, &z.clients, &z.suppressed)
		out = append(out, z)
		return err
	})
	return out, err
}
