package mailing

import (
	"context"
	"strconv"
	"strings"

	"switchboard/platform/seal"
	"switchboard/platform/store"
)

// audienceRow is a client as it lies in the table: number and attributes are
// sealed.
type audienceRow struct {
	ID                          int64
	Phone                       seal.Index
	Subject                     seal.Subject
	Sealed                      []byte
	OperatorCode, Tag, Timezone string
	CreatedAt, UpdatedAt        store.Micros
}

// clientStore keeps clients.
type clientStore struct{ db *store.DB }

const (
	clientColumns = `id, phone, subject, sealed, operator_code, tag, timezone, created_at, updated_at`
	selectClients = `select ` + clientColumns + ` from mailing_client `
)

// maxBranches is how many ranges of an index a query is put together from.
const maxBranches = 128

// audience gives the clients that f picks, by id, after one of them. Each value
// of the filter is a range of an index; ranges are merged, so that a page costs
// what it gives and not what there is.
func (*clientStore) audience(ctx context.Context, q store.Querier, f filter, after int64, limit int) ([]audienceRow, error) {
	query, args := audienceQuery(clientColumns, f, after, limit)
	return listClients(ctx, q, query, args)
}

// addressee is as much of a client as it takes to make a message.
type addressee struct {
	ID       int64
	Phone    seal.Index
	Timezone string
}

// addressees is audience without what is of no use before a message goes.
func (*clientStore) addressees(ctx context.Context, q store.Querier, f filter, after int64, limit int) (out []addressee, err error) {
	query, args := audienceQuery(`id, phone, timezone`, f, after, limit)
	err = store.Each(ctx, q, query, args, func(scan func(...any) error) error {
		var a addressee
		err := scan(&a.ID, &a.Phone, &a.Timezone)
		out = append(out, a)
		return err
	})
	return out, err
}

func audienceQuery(columns string, f filter, after int64, limit int) (query string, args []any) {
	selected := `select ` + columns + ` from mailing_client `
	bind := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	begin, most := bind(after), bind(limit)
	several := func(column string, values []string) string {
		marks := make([]string, len(values))
		for i, value := range values {
			marks[i] = bind(value)
		}
		return column + ` in (` + strings.Join(marks, ", ") + `) and `
	}
	var ranges []string
	switch {
	case f.empty():
		ranges = []string{""}
	case len(f.Tag) == 0:
		for _, code := range f.OperatorCode {
			ranges = append(ranges, `operator_code = `+bind(code)+` and `)
		}
	case len(f.OperatorCode)*len(f.Tag) <= maxBranches:
		for _, tag := range f.Tag {
			with := `tag = ` + bind(tag) + ` and `
			if len(f.OperatorCode) == 0 {
				ranges = append(ranges, with)
			}
			for _, code := range f.OperatorCode {
				ranges = append(ranges, `operator_code = `+bind(code)+` and `+with)
			}
		}
	default:
		codes := several(`operator_code`, f.OperatorCode)
		for _, tag := range f.Tag {
			ranges = append(ranges, `tag = `+bind(tag)+` and `+codes)
		}
	}
	end := `id > ` + begin + ` order by id limit ` + most
	if len(ranges) == 1 {
		return selected + `where ` + ranges[0] + end, args
	}
	var text strings.Builder
	text.WriteString(selected + `where id in (select id from (`)
	for i, r := range ranges {
		if i > 0 {
			text.WriteString(` union all `)
		}
		text.WriteString(`select id from (select id from mailing_client where ` + r + end + `) as r` + strconv.Itoa(i))
	}
	text.WriteString(`) as picked order by id limit ` + most + `) order by id`)
	return text.String(), args
}

// clientQuery selects clients, by id.
type clientQuery struct {
	Filter filter
	Phone  *seal.Index
	After  int64
	Limit  int
}

func (s *clientStore) list(ctx context.Context, q clientQuery) ([]audienceRow, error) {
	if q.Phone == nil {
		return s.audience(ctx, s.db.Read(), q.Filter, q.After, q.Limit)
	}
	found, err := listClients(ctx, s.db.Read(), selectClients+`where phone = $1 and id > $2 limit $3`, []any{q.Phone[:], q.After, q.Limit})
	if err != nil || len(found) == 0 || !q.Filter.matches(&client{OperatorCode: found[0].OperatorCode, Tag: found[0].Tag}) {
		return nil, err
	}
	return found, nil
}

func listClients(ctx context.Context, q store.Querier, query string, args []any) (out []audienceRow, err error) {
	err = store.Each(ctx, q, query, args, func(scan func(...any) error) error {
		var r audienceRow
		var phone []byte
		if err := scan(&r.ID, &phone, &r.Subject, &r.Sealed, &r.OperatorCode, &r.Tag, &r.Timezone, &r.CreatedAt, &r.UpdatedAt); err != nil {
			return err
		}
		r.Phone = seal.Index(phone)
		out = append(out, r)
		return nil
	})
	return out, err
}

// highest gives the greatest id of a client, 0 if there is none.
func (*clientStore) highest(ctx context.Context, q store.Querier) (id int64, err error) {
	err = q.QueryRowContext(ctx, `select coalesce(max(id), 0) from mailing_client`).Scan(&id)
	return id, err
}

// load gives the clients of these ids that there are.
func (*clientStore) load(ctx context.Context, q store.Querier, ids []int64) (map[int64]audienceRow, error) {
	out := make(map[int64]audienceRow, len(ids))
	for len(ids) > 0 {
		n := store.Chunk(len(ids))
		args := make([]any, n)
		for i, id := range ids[:n] {
			args[i] = id
		}
		ids = ids[n:]
		rows, err := listClients(ctx, q, selectClients+`where id in `+inList(n), args)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			out[r.ID] = r
		}
	}
	return out, nil
}

// inList gives ($1, $2, …) for n values.
func inList(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("$" + strconv.Itoa(i+1))
	}
	return "(" + b.String() + ")"
}

// get gives a client, else errNoClient.
func (s *clientStore) get(ctx context.Context, id int64) (audienceRow, error) {
	found, err := s.load(ctx, s.db.Read(), []int64{id})
	if err != nil {
		return audienceRow{}, err
	}
	r, ok := found[id]
	if !ok {
		return audienceRow{}, errNoClient
	}
	return r, nil
}

// knownClient is a client that has a number already.
type knownClient struct {
	ID        int64
	CreatedAt store.Micros
}

// having gives the clients with these numbers.
func (*clientStore) having(ctx context.Context, q store.Querier, phones []seal.Index) (map[seal.Index]knownClient, error) {
	out := make(map[seal.Index]knownClient, len(phones))
	for len(phones) > 0 {
		n := store.Chunk(len(phones))
		args := make([]any, n)
		for i := range n {
			args[i] = phones[i][:]
		}
		phones = phones[n:]
		err := store.Each(ctx, q, `select phone, id, created_at from mailing_client where phone in `+inList(n), args, func(scan func(...any) error) error {
			var phone []byte
			var k knownClient
			if err := scan(&phone, &k.ID, &k.CreatedAt); err != nil {
				return err
			}
			out[seal.Index(phone)] = k
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// insert writes new clients.
func (*clientStore) insert(ctx context.Context, tx store.Querier, rows []audienceRow) error {
	const columns = 9
	args := make([]any, 0, columns*len(rows))
	for i := range rows {
		r := &rows[i]
		args = append(args, r.ID, r.Phone[:], r.Subject, r.Sealed, r.OperatorCode, r.Tag, r.Timezone, r.CreatedAt, r.UpdatedAt)
	}
	return store.Insert(ctx, tx, `insert into mailing_client (`+clientColumns+`) values `, columns, args, ``)
}

// replace writes clients that are there. It takes them out and puts them in
// again: few statements for many rows on both engines.
func (s *clientStore) replace(ctx context.Context, tx store.Querier, rows []audienceRow) error {
	for left := rows; len(left) > 0; {
		n := store.Chunk(len(left))
		args := make([]any, n)
		for i := range n {
			args[i] = left[i].ID
		}
		left = left[n:]
		if _, err := tx.ExecContext(ctx, `delete from mailing_client where id in `+inList(n), args...); err != nil {
			return err
		}
	}
	return s.insert(ctx, tx, rows)
}

// update writes a client that was last changed then. It is false if there is
// none, or somebody got ahead.
func (*clientStore) update(ctx context.Context, tx store.Querier, r *audienceRow, changed store.Micros) (bool, error) {
	res, err := tx.ExecContext(ctx, `update mailing_client set phone = $1, subject = $2, sealed = $3, operator_code = $4, tag = $5, timezone = $6, updated_at = $7
		where id = $8 and updated_at = $9`, r.Phone[:], r.Subject, r.Sealed, r.OperatorCode, r.Tag, r.Timezone, r.UpdatedAt, r.ID, changed)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// remove takes a client out, and tells whether there was one.
func (*clientStore) remove(ctx context.Context, tx store.Querier, id int64) (bool, error) {
	res, err := tx.ExecContext(ctx, `delete from mailing_client where id = $1`, id)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}
