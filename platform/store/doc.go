// Package store opens a module's own database and runs its SQL.
//
// Every module has a database of its own: a SQLite file <name>.db in the data
// directory, or a schema <name> in one PostgreSQL database. One SQL text
// serves both engines: `$1` placeholders, `bigint` for time (see [Micros]),
// `blob` for bytes (on PostgreSQL a domain over bytea that [Open] creates),
// `insert … on conflict`, `returning`. No `now()`, sequences, triggers or
// `for update`.
//
// # Reading and writing
//
// [DB.Read] reads. [DB.Tx] writes: one transaction, serializable on both
// engines, so that what it read still holds when it commits. Transactions of a
// SQLite file run one after another in the order they asked; on PostgreSQL
// they run at once and one that collides is run again. Keep them short (under
// 50 ms), do nothing in them that cannot be done twice, and never begin one
// inside another. Insert many rows with one statement of about 100 rows, built
// by [Values].
//
// A statement that fails, fails its transaction, as PostgreSQL has it: what
// may collide is written `on conflict do nothing`, or the error is returned
// and recognised by [IsUnique] outside. PostgreSQL does not take `do nothing` for
// a read: who relies on the row that is there, while others may delete it, writes
// it with `do update`.
//
// # Errors
//
// An error that would go away by itself (disk full, I/O error, server away,
// deadline passed, still busy after every retry) has the kind
// errs.Unavailable, wherever it surfaces: from a statement, a row's Scan, a
// commit. (One exception: QueryRowContext outside a transaction gives the bare
// context error if ctx ends while every reader is in use.) All others are
// passed on as the engine gave them.
//
// # Migrations
//
// Files `migrations/0001_name.sql` are applied in order when the database is
// opened, all that are pending in one transaction and under a lock, so that
// several instances may start at once. A file that must differ between the
// engines is a pair `0001_name.sqlite.sql` and `0001_name.postgres.sql`.
// Migrations go forward only; an applied file that was changed or removed, and
// a database that is newer than the program, are refused.
package store
