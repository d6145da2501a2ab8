package collector

import (
	"context"
	"database/sql"
	"errors"
	"strconv"

	"switchboard/platform/store"
)

// schemaRow is one version of the schema of a kind of event. Body is empty in
// a version that stands for a deletion.
type schemaRow struct {
	Category, Name string
	Version        int64
	Body           string
	CreatedAt      store.Micros
}

// schemaStore keeps every version of every schema.
type schemaStore struct{ db *store.DB }

const schemaColumns = `s.category, s.name, s.version, coalesce(s.body, ''), s.created_at`

func scanSchema(scan func(...any) error) (schemaRow, error) {
	var r schemaRow
	err := scan(&r.Category, &r.Name, &r.Version, &r.Body, &r.CreatedAt)
	return r, err
}

// latest gives the newest version, a deletion included; Version 0 if there
// never was a schema.
func (s *schemaStore) latest(ctx context.Context, q store.Querier, category, name string) (schemaRow, error) {
	r, err := scanSchema(q.QueryRowContext(ctx, `select `+schemaColumns+` from collector_schema s
		where s.category = $1 and s.name = $2 order by s.version desc limit 1`, category, name).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return schemaRow{}, nil
	}
	return r, err
}

// insert adds a version; IsUnique if another instance just added it.
func (s *schemaStore) insert(ctx context.Context, tx store.Querier, r schemaRow) error {
	var body any
	if r.Body != "" {
		body = r.Body
	}
	_, err := tx.ExecContext(ctx, `insert into collector_schema (category, name, version, body, created_at) values ($1, $2, $3, $4, $5)`,
		r.Category, r.Name, r.Version, body, r.CreatedAt)
	return err
}

// versions gives the history of one schema, newest first.
func (s *schemaStore) versions(ctx context.Context, category, name string, before int64, limit int) ([]schemaRow, error) {
	return s.list(ctx, `select `+schemaColumns+` from collector_schema s where s.category = $1 and s.name = $2 and s.version < $3
		order by s.version desc limit `+strconv.Itoa(limit), category, name, before)
}

// current gives the newest versions that are not deletions, in order of name.
func (s *schemaStore) current(ctx context.Context, afterCategory, afterName string, limit int) ([]schemaRow, error) {
	return s.list(ctx, `select `+schemaColumns+` from collector_schema s where s.body is not null
		and (s.category, s.name) > ($1, $2)
		and s.version = (select max(v.version) from collector_schema v where v.category = s.category and v.name = s.name)
		order by s.category, s.name limit `+strconv.Itoa(limit), afterCategory, afterName)
}

func (s *schemaStore) list(ctx context.Context, query string, args ...any) ([]schemaRow, error) {
	var out []schemaRow
	err := store.Each(ctx, s.db.Read(), query, args, func(scan func(...any) error) error {
		r, err := scanSchema(scan)
		out = append(out, r)
		return err
	})
	return out, err
}
