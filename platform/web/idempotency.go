package web

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"switchboard/platform/auth"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	headerIdempotencyKey = "Idempotency-Key"
	maxIdempotencyKey    = 255

	keepAnswer    = 24 * time.Hour
	maxKeptAnswer = 1 << 20 // bytes; a larger answer is sent but not kept

	// claimLease is how long a first request may take before its claim counts
	// as that of a process that died.
	claimLease = 2 * time.Minute
	// twinWait is how long a second request waits for the first one's answer.
	twinWait = 5 * time.Second

	sweepEvery = time.Minute
	sweepBatch = 500
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the migrations of the database "web".
func Migrations() fs.FS { return migrations }

// idempotency gives the first answer again to a request that is repeated with
// its Idempotency-Key. Nothing of a request is stored in the clear: keys and
// bodies as keyed hashes, answers sealed.
type idempotency struct {
	db      *store.DB
	keyring *seal.Keyring
	now     func() time.Time
	log     *slog.Logger
}

func newIdempotency(db *store.DB, k *seal.Keyring, now func() time.Time, log *slog.Logger) *idempotency {
	return &idempotency{db: db, keyring: k, now: now, log: log}
}

// answer is what is kept of a first answer.
type answer struct {
	Status      int    `json:"status"`
	ContentType string `json:"content_type,omitempty"`
	Location    string `json:"location,omitempty"`
	Body        []byte `json:"body,omitempty"`
}

// claim is one request's hold on its Idempotency-Key.
type claim struct {
	id, request seal.Index
	at          store.Micros
}

var (
	errTwin  = newProblem(http.StatusConflict, "a request with this Idempotency-Key is still being answered").with("Retry-After", "1")
	errOther = newProblem(http.StatusUnprocessableEntity, "this Idempotency-Key was used with another request",
		errs.Field{Location: "header." + headerIdempotencyKey, Message: "used before with another body or path"})
	errBadKey = newProblem(http.StatusUnprocessableEntity, "the Idempotency-Key is not valid",
		errs.Field{Location: "header." + headerIdempotencyKey, Message: fmt.Sprintf("must be one value of 1 to %d visible characters", maxIdempotencyKey)})
)

// serve answers r with next, or with the answer next gave the first time.
func (i *idempotency) serve(x *exchange, r *http.Request, keys []string, next http.Handler) {
	if len(keys) != 1 || !visible(keys[0], maxIdempotencyKey) {
		Fail(x, r, errBadKey)
		return
	}
	x.idem = keys[0]
	data, err := ReadBody(x, r, 0)
	if err != nil {
		Fail(x, r, err)
		return
	}
	c := &claim{
		id:      i.keyring.Index("web.idempotency.key", auth.From(r.Context()).Key.ID+"\n"+x.route.op.pattern()+"\n"+x.idem),
		request: i.keyring.Index("web.idempotency.request", requestIdentity(r, data)),
	}
	first, err := i.acquire(r.Context(), c)
	if err != nil {
		Fail(x, r, err)
		return
	}
	if first != nil {
		replay(x, first)
		return
	}
	i.answerFirst(x, r, c, next)
}

// requestIdentity is all that makes two requests the same. A key in the query
// is left out: it may have been rotated in between.
func requestIdentity(r *http.Request, body []byte) string {
	query := ""
	if r.URL.RawQuery != "" {
		q := r.URL.Query()
		q.Del("key")
		query = q.Encode()
	}
	return r.URL.EscapedPath() + "\n" + query + "\n" + url.QueryEscape(r.Header.Get("Content-Type")) + "\n" + string(body)
}

func replay(x *exchange, a *answer) {
	h := x.Header()
	if a.ContentType != "" {
		h.Set("Content-Type", a.ContentType)
	}
	if a.Location != "" {
		h.Set("Location", a.Location)
	}
	h.Set("Idempotency-Replayed", "true")
	x.WriteHeader(a.Status)
	_, _ = x.Write(a.Body)
}

// answerFirst lets next answer the first time and keeps the answer before it is sent.
func (i *idempotency) answerFirst(x *exchange, r *http.Request, c *claim, next http.Handler) {
	kept := false
	// What follows happens even if the client has left.
	ctx := context.WithoutCancel(r.Context())
	defer func() {
		if !kept {
			i.abandon(ctx, c)
		}
	}()
	held := &capture{limit: maxKeptAnswer}
	x.capture = held
	next.ServeHTTP(x, r)
	if x.capture == nil { // too large: it was sent while it was written
		return
	}
	or(&held.status, http.StatusOK)
	if keeps(held.status) {
		h := x.Header()
		err := i.keep(ctx, c, &answer{Status: held.status, ContentType: h.Get("Content-Type"), Location: h.Get("Location"), Body: held.body.Bytes()})
		if kept = err == nil; !kept {
			// The work is done and the client should know; only a repetition
			// would do it again.
			i.log.Error("answer for an Idempotency-Key was not kept", "route", x.route.op.Path, "request_id", x.id, "error", err)
		}
	}
	_ = x.release()
}

// keeps tells whether an answer is final. What may go better next time is not.
func keeps(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status < 500
}

// acquire claims c's key. It returns the first answer if there is one, and
// waits a while for the answer of a request that came first.
func (i *idempotency) acquire(ctx context.Context, c *claim) (*answer, error) {
	deadline := time.NewTimer(twinWait)
	defer deadline.Stop()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		first, claimed, err := i.claim(ctx, c)
		if err != nil || first != nil || claimed {
			return first, err
		}
		select {
		case <-time.After(pause):
		case <-deadline.C:
			return nil, errTwin
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

const (
	sqlDropStale = `delete from idempotency where id = $1 and (expires_at <= $2 or (answer is null and claimed_at <= $3))`
	sqlClaim     = `insert into idempotency (id, request, claimed_at, expires_at) values ($1, $2, $3, $4) on conflict (id) do nothing`
	sqlLook      = `select request, answer from idempotency where id = $1`
	sqlKeep      = `update idempotency set answer = $1, expires_at = $2 where id = $3 and claimed_at = $4`
	sqlAbandon   = `delete from idempotency where id = $1 and claimed_at = $2 and answer is null`
	sqlSweep     = `delete from idempotency where id in (select id from idempotency where expires_at <= $1 order by expires_at limit $2)`
)

// claim tries once: it claims the key, or finds the first answer, or neither
// while the first request is under way.
func (i *idempotency) claim(ctx context.Context, c *claim) (first *answer, claimed bool, err error) {
	now := i.now()
	c.at = store.MicrosOf(now)
	var request, sealed []byte
	err = i.db.Tx(ctx, func(tx store.Querier) error {
		request, sealed, claimed = nil, nil, false
		if _, err := tx.ExecContext(ctx, sqlDropStale, c.id, c.at, store.MicrosOf(now.Add(-claimLease))); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, sqlClaim, c.id, c.request, c.at, store.MicrosOf(now.Add(keepAnswer)))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			claimed = err == nil
			return err
		}
		return tx.QueryRowContext(ctx, sqlLook, c.id).Scan(&request, &sealed)
	})
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("claim an idempotency key: %w", err)
	case claimed:
		return nil, true, nil
	case string(request) != string(c.request[:]):
		return nil, false, errOther
	case sealed == nil:
		return nil, false, nil
	}
	plain, err := i.keyring.System().Open(nil, sealed, c.context())
	if err != nil {
		return nil, false, fmt.Errorf("open a kept answer: %w", err)
	}
	first = new(answer)
	if err := json.Unmarshal(plain, first); err != nil {
		return nil, false, fmt.Errorf("read a kept answer: %w", err)
	}
	return first, false, nil
}

// context binds a sealed answer to its row.
func (c *claim) context() string { return "web.idempotency." + c.id.String() }

func (i *idempotency) keep(ctx context.Context, c *claim, a *answer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	plain, err := json.Marshal(a)
	if err != nil {
		return err
	}
	sealed := i.keyring.System().Seal(nil, plain, c.context())
	return i.db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, sqlKeep, sealed, store.MicrosOf(i.now().Add(keepAnswer)), c.id, c.at)
		return err
	})
}

// abandon frees the key, so that a repetition is answered anew.
func (i *idempotency) abandon(ctx context.Context, c *claim) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := i.db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, sqlAbandon, c.id, c.at)
		return err
	})
	if err != nil { // the lease frees it later
		i.log.Warn("idempotency key stays claimed for a while", "error", err)
	}
}

// takeOver frees the keys that a process before claimed and left unanswered
// when it was killed: its clients should not have to wait for the lease. Only
// SQLite has no second process that may be at work.
func (i *idempotency) takeOver(ctx context.Context) error {
	if i.db.Engine() != store.SQLite {
		return nil
	}
	return i.db.Tx(ctx, func(tx store.Querier) error {
		_, err := tx.ExecContext(ctx, `delete from idempotency where answer is null`)
		return err
	})
}

// run deletes expired rows in small batches until ctx ends.
func (i *idempotency) run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := i.sweep(ctx); err != nil && ctx.Err() == nil {
			i.log.Warn("expired idempotency keys were not deleted", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (i *idempotency) sweep(ctx context.Context) error {
	for {
		var deleted int64
		err := i.db.Tx(ctx, func(tx store.Querier) error {
			res, err := tx.ExecContext(ctx, sqlSweep, store.MicrosOf(i.now()), sweepBatch)
			if err == nil {
				deleted, err = res.RowsAffected()
			}
			return err
		})
		if err != nil || deleted < sweepBatch {
			return err
		}
	}
}
