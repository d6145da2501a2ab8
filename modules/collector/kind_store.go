package collector

import (
	"context"
	"slices"

	"switchboard/platform/store"
)

// name fills in the kinds of rows that a query gave.
func (s *eventStore) name(ctx context.Context, rows []eventRow) error {
	known := map[int64]kind{}
	for _, r := range rows {
		known[r.KindID] = kind{}
	}
	ids := make([]any, 0, len(known))
	for id := range known {
		ids = append(ids, id)
	}
	for chunk := range slices.Chunk(ids, 500) {
		err := store.Each(ctx, s.db.Read(), `select kind, category, name, app from collector_kind where kind in `+store.Values(1, len(chunk), 1), chunk, func(scan func(...any) error) error {
			var id int64
			var k kind
			err := scan(&id, &k.Category, &k.Name, &k.App)
			known[id] = k
			return err
		})
		if err != nil {
			return err
		}
	}
	for i := range rows {
		rows[i].Kind = known[rows[i].KindID]
	}
	return nil
}

// kinds gives the keys of the kinds that match; empty texts match all.
func (s *eventStore) kinds(ctx context.Context, category, name, app string) ([]int64, error) {
	var c conditions
	c.equal("category", category)
	c.equal("name", name)
	c.equal("app", app)
	var out []int64
	err := store.Each(ctx, s.db.Read(), `select kind from collector_kind`+c.where()+` order by kind`, c.args, func(scan func(...any) error) error {
		var k int64
		err := scan(&k)
		out = append(out, k)
		return err
	})
	return out, err
}
