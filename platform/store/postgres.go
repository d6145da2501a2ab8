package store

import (
	"context"
	"database/sql"
	"hash/fnv"
	"io/fs"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sync/semaphore"

	"switchboard/platform/errs"
)

// Sizes of the pool of one module on one instance: a product has about ten
// modules, and a server of default settings 100 connections.
const (
	poolSize     = 6
	idlePool     = 2
	idlePostgres = time.Minute
	agePostgres  = 30 * time.Minute
)

// postgresSettings gives how to connect for one module, and with how many
// connections at most.
func postgresSettings(cfg Config, name string) (settings *pgx.ConnConfig, size int, err error) {
	settings, err = pgx.ParseConfig(cfg.URL.Reveal())
	if err != nil {
		return nil, 0, errs.Wrap(errs.Invalid, err, "store: url") // pgx leaves the password out
	}
	size = poolSize
	if text, ok := settings.RuntimeParams["pool_max_conns"]; ok {
		delete(settings.RuntimeParams, "pool_max_conns")
		if size, err = strconv.Atoi(text); err != nil || size < 2 {
			return nil, 0, errs.New(errs.Invalid, "store: url: pool_max_conns must be a number above 1")
		}
	}
	if settings.ConnectTimeout == 0 {
		settings.ConnectTimeout = 5 * time.Second
	}
	// Texts of multi-row inserts differ by their row count; each is a prepared
	// statement that costs memory on the server.
	settings.StatementCacheCapacity = min(settings.StatementCacheCapacity, 128)
	settings.RuntimeParams["search_path"] = pgx.Identifier{name}.Sanitize()
	settings.RuntimeParams["synchronous_commit"] = "on"
	if cfg.Sync == "normal" {
		settings.RuntimeParams["synchronous_commit"] = "off"
	}
	if settings.RuntimeParams["application_name"] == "" {
		settings.RuntimeParams["application_name"] = "switchboard/" + name
	}
	return settings, size, nil
}

func openPostgres(ctx context.Context, cfg Config, name string, migrations fs.FS) (*DB, error) {
	settings, size, err := postgresSettings(cfg, name)
	if err != nil {
		return nil, err
	}
	// A connection learns the type of blob columns when it is made, so the
	// pool comes after the migrations.
	first := sql.OpenDB(connector{stdlib.GetConnector(*settings), false})
	err = migrate(ctx, first, Postgres, name, migrations)
	_ = first.Close()
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(connector{stdlib.GetConnector(*settings, stdlib.OptionAfterConnect(learnBlob)), false})
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(idlePool)
	pool.SetConnMaxIdleTime(idlePostgres)
	pool.SetConnMaxLifetime(agePostgres)
	return &DB{name: name, engine: Postgres, writer: pool, reader: pool,
		turns: semaphore.NewWeighted(int64(size)), size: int64(size)}, nil
}

// learnBlob tells the driver that the domain blob is bytea: parameters then
// travel as bytes and not as hexadecimal text.
func learnBlob(ctx context.Context, conn *pgx.Conn) error {
	var oid uint32
	if err := conn.QueryRow(ctx, `select t.oid from pg_type t join pg_namespace n on n.oid = t.typnamespace
		where n.nspname = current_schema() and t.typname = 'blob'`).Scan(&oid); err != nil {
		return err
	}
	conn.TypeMap().RegisterType(&pgtype.Type{Name: "blob", OID: oid, Codec: pgtype.ByteaCodec{}})
	return nil
}

// prepareSchema waits for other instances that migrate the same schema (the
// lock ends with the transaction) and makes the schema and its blob type. It
// looks before it creates: whoever runs the product may lack the right to.
func prepareSchema(ctx context.Context, tx *sql.Tx, name string) error {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte("switchboard migrations " + name))
	if _, err := tx.ExecContext(ctx, `select pg_advisory_xact_lock($1)`, int64(hash.Sum64())); err != nil {
		return err
	}
	for _, thing := range []struct{ query, create string }{
		{`select count(*) from pg_namespace where nspname = $1`,
			`create schema ` + pgx.Identifier{name}.Sanitize()},
		{`select count(*) from pg_type t join pg_namespace n on n.oid = t.typnamespace where n.nspname = $1 and t.typname = 'blob'`,
			`create domain ` + pgx.Identifier{name, "blob"}.Sanitize() + ` as bytea`},
	} {
		var count int
		if err := tx.QueryRowContext(ctx, thing.query, name).Scan(&count); err != nil {
			return err
		}
		if count > 0 {
			continue
		}
		if _, err := tx.ExecContext(ctx, thing.create); err != nil {
			return err
		}
	}
	return nil
}
