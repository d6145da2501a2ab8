package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
)

// The wrapper of both drivers. It gives errors their kind where they arise, so
// that sql.Row and sql.Rows hand them on too, and makes the engines alike: the
// same argument types, and a failed statement fails its transaction.

type connector struct {
	driver.Connector
	// keep holds prepared statements; the PostgreSQL driver does so itself.
	keep bool
}

// rawConn is what both drivers implement.
type rawConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	raw, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, classify(err)
	}
	wrapped := &conn{rawConn: raw.(rawConn)}
	if c.keep {
		wrapped.statements = &statements{}
	}
	return wrapped, nil
}

type conn struct {
	rawConn
	statements *statements // nil if none are kept
	inTx       bool
	failed     error // why the open transaction can no longer commit
}

func (c *conn) note(err error) error {
	err = classify(err)
	if err != nil && err != io.EOF && c.inTx && c.failed == nil {
		c.failed = err
	}
	return err
}

func (c *conn) aborted() error {
	if c.failed == nil {
		return nil
	}
	return errors.Join(errors.New("store: an earlier statement failed this transaction"), c.failed)
}

// CheckNamedValue leaves arguments to database/sql: the types that both engines know.
func (c *conn) CheckNamedValue(*driver.NamedValue) error { return driver.ErrSkip }

// IsValid tells the pool whether to keep the connection.
func (c *conn) IsValid() bool {
	v, ok := c.rawConn.(driver.Validator)
	return !ok || v.IsValid()
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	raw, err := c.rawConn.BeginTx(ctx, opts)
	if err != nil {
		return nil, classify(err)
	}
	c.inTx, c.failed = true, nil
	return &transaction{c, raw}, nil
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.aborted(); err != nil {
		return nil, err
	}
	if st := c.kept(ctx, query); st != nil {
		res, err := st.exec(ctx, args)
		return res, c.note(err)
	}
	res, err := c.rawConn.ExecContext(ctx, query, args)
	return res, c.note(err)
}

func (c *conn) kept(ctx context.Context, query string) *statement {
	if c.statements == nil {
		return nil
	}
	return c.statements.prepared(ctx, c.rawConn, query)
}

// Close ends the connection.
func (c *conn) Close() error {
	var err error
	if c.statements != nil {
		err = c.statements.close()
	}
	return errors.Join(err, c.rawConn.Close())
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.aborted(); err != nil {
		return nil, err
	}
	var raw driver.Rows
	var err error
	if st := c.kept(ctx, query); st != nil {
		raw, err = st.query(ctx, args)
	} else {
		raw, err = c.rawConn.QueryContext(ctx, query, args)
	}
	if err != nil {
		return nil, c.note(err)
	}
	return &rows{raw, c}, nil
}

type rows struct {
	driver.Rows
	conn *conn
}

func (r *rows) Next(dest []driver.Value) error { return r.conn.note(r.Rows.Next(dest)) }

type transaction struct {
	conn *conn
	raw  driver.Tx
}

func (t *transaction) Commit() error {
	err := t.conn.aborted()
	t.conn.inTx, t.conn.failed = false, nil
	if err != nil {
		return errors.Join(err, t.raw.Rollback())
	}
	return classify(t.raw.Commit())
}

func (t *transaction) Rollback() error {
	t.conn.inTx, t.conn.failed = false, nil
	return classify(t.raw.Rollback())
}
