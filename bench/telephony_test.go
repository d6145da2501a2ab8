package bench

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"switchboard/modules/telephony"
	"switchboard/platform/apptest"
	"switchboard/platform/store"
)

// webhookConns is how many connections post webhooks, and so the most that one
// transaction of the product takes here.
const webhookConns = 64

// BenchmarkTelephonyWebhooks: acknowledged (durable) webhooks per second of
// whole calls, seven events each, half of the callers new, over 64 connections.
// Beside it, in the same run:
//
//   - bus/s: the collector's events, one per request over as many connections,
//     which are acknowledged once the bus has them on disk, many in one write:
//     what this product can acknowledge without tables (ratio-to-bus);
//   - bare-std/s: a bare handler that decodes the same bodies, skipping members
//     that it has no field for, and forgets them (ratio-to-bare-std);
//   - sqlite-log-rows/s: the same rows in bare SQLite, tables and indexes of the
//     call log alone, synchronous=FULL, in transactions as large as the
//     product's can be, sealing, projections and HTTP left out (ratio-to-log);
//   - jetstream-synced-msg/s: the bus' library alone, without HTTP.
//
// delegating-webhooks/s is the product's rate with a platform that takes the
// delegation of every call.
func BenchmarkTelephonyWebhooks(b *testing.B) {
	raw := bare(b)
	std := wholeCalls().playFor(b, raw+"/skip", "", webhookConns, lasting(b, measured/4)).rate(1)
	bus := busLimit(b)

	dir := b.TempDir()
	p := apptest.Exec(b, dir, nil, "--modules=telephony")
	calls := wholeCalls()
	calls.playFor(b, p.URL+"/telephony/webhook", p.Key, webhookConns, lasting(b, time.Second))
	l := calls.playFor(b, p.URL+"/telephony/webhook", p.Key, webhookConns, lasting(b, measured))
	b.ReportMetric(rss(b, p), "rss-MB")
	p.Terminate()
	table := rawLog(b, dir, lasting(b, measured/4))

	b.ReportMetric(0, "ns/op")
	b.ReportMetric(l.rate(1), "webhooks/s")
	b.ReportMetric(ms(l.percentile(0.5)), "p50-ms")
	b.ReportMetric(ms(l.percentile(0.99)), "p99-ms")
	b.ReportMetric(delegating(b), "delegating-webhooks/s")
	b.ReportMetric(bus, "bus/s")
	b.ReportMetric(std, "bare-std/s")
	b.ReportMetric(table, "sqlite-log-rows/s")
	b.ReportMetric(rawJetStream(b, 300, 256, lasting(b, measured/4)), "jetstream-synced-msg/s")
	b.ReportMetric(l.rate(1)/bus, "ratio-to-bus")
	b.ReportMetric(l.rate(1)/std, "ratio-to-bare-std")
	b.ReportMetric(l.rate(1)/table, "ratio-to-log")
}

// busLimit gives how many events per second the product takes onto the bus.
func busLimit(b *testing.B) float64 {
	b.Helper()
	p := apptest.Exec(b, b.TempDir(), nil, "--modules=collector")
	defer p.Kill()
	one := func(conn, n int) []byte { return event(nil, conn, n, time.Now()) }
	drive(b, p.URL+"/collector/events", p.Key, webhookConns, lasting(b, time.Second), one)
	return drive(b, p.URL+"/collector/events", p.Key, webhookConns, lasting(b, measured/2), one).rate(1)
}

// delegating gives webhooks per second with a platform that answers at once.
func delegating(b *testing.B) float64 {
	b.Helper()
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write([]byte(`{"status":"ok"}`))
	}))
	defer platform.Close()
	p := apptest.Exec(b, b.TempDir(), []string{"APP_TELEPHONY_PROVIDER_URL=" + platform.URL}, "--modules=telephony")
	defer p.Kill()
	calls := wholeCalls()
	calls.playFor(b, p.URL+"/telephony/webhook", p.Key, webhookConns, lasting(b, time.Second))
	return calls.playFor(b, p.URL+"/telephony/webhook", p.Key, webhookConns, lasting(b, measured/2)).rate(1)
}

// logColumns are those of the call log.
const logColumns = `id, event_id, call, code, kind, occurred_at, received_at, subject, sealed, actor, actor_sealed`

const logWidth = 11

// openStore opens the telephony database of a product that has stopped.
func openStore(b *testing.B, dir string) *store.DB {
	b.Helper()
	db, err := store.Open(b.Context(), store.Config{Dir: dir}, "telephony", telephony.Module.Migrations)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	return db
}

// readRows reads what a query gives.
func readRows(b *testing.B, q store.Querier, query string, args ...any) (columns []string, list [][]any) {
	b.Helper()
	rows, err := q.QueryContext(b.Context(), query, args...)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	if columns, err = rows.Columns(); err != nil {
		b.Fatal(err)
	}
	for rows.Next() {
		row, to := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			to[i] = &row[i]
		}
		if err := rows.Scan(to...); err != nil {
			b.Fatal(err)
		}
		for i, v := range row {
			if blob, ok := v.([]byte); ok && len(blob) == 0 {
				row[i] = []byte{} // empty, not null
			}
		}
		list = append(list, row)
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	return columns, list
}

// rawLog inserts the rows of a product's log into an empty one, 64 in a
// transaction and statement, and gives rows per second. When they are used up
// they come again under other ids.
func rawLog(b *testing.B, dir string, d time.Duration) float64 {
	b.Helper()
	db := openStore(b, dir)
	_, list := readRows(b, db.Read(), `select `+logColumns+` from telephony_event order by id limit 50000`)
	list = list[:len(list)/webhookConns*webhookConns]
	if len(list) == 0 {
		b.Fatal("the log is too short")
	}
	schema, err := fs.ReadFile(telephony.Module.Migrations, "migrations/0001_telephony.sqlite.sql")
	if err != nil {
		b.Fatal(err)
	}
	raw, err := sql.Open("sqlite", "file:"+filepath.Join(b.TempDir(), "raw.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-16384)&_pragma=wal_autocheckpoint(4000)&_txlock=immediate")
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	raw.SetMaxOpenConns(1)
	if _, err := raw.Exec(string(schema)); err != nil {
		b.Fatal(err)
	}
	row := "(?" + strings.Repeat(",?", logWidth-1) + ")"
	insert, err := raw.Prepare(`insert into telephony_event (` + logColumns + `) values ` + row + strings.Repeat(","+row, webhookConns-1))
	if err != nil {
		b.Fatal(err)
	}
	defer insert.Close()
	args := make([]any, 0, webhookConns*logWidth)
	begin, n := time.Now(), 0
	for time.Since(begin) < d {
		args = args[:0]
		for range webhookConns {
			from := len(args)
			args = append(args, list[n%len(list)]...)
			args[from] = int64(n + 1)
			if pass := n / len(list); pass > 0 {
				id := [16]byte(args[from+1].([]byte))
				binary.BigEndian.PutUint32(id[:], binary.BigEndian.Uint32(id[:])+uint32(pass)) //nolint:gosec // a few
				args[from+1] = id[:]
			}
			n++
		}
		tx, err := raw.Begin()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := tx.Stmt(insert).Exec(args...); err != nil {
			b.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	return float64(n) / time.Since(begin).Seconds()
}

// rebuiltCalls are posted for the benchmark of rebuilding: 70,000 events.
const (
	rebuiltCalls  = 10_000
	rebuildRounds = 3
)

// BenchmarkTelephonyRebuild: events per second that a rebuild folds, from the
// request to the end of its answer, on a product that has just started, so that
// no key is at hand. Beside it what the database alone takes: on a copy of it
// the same log is read in chunks of the same size, the next one while one is
// written, and the rows that the rebuild makes are written, as a generation of
// their own beside the present one, in as many transactions. Rows that a later
// chunk changes again are written again. Measured in turn, since the machine has
// moods.
func BenchmarkTelephonyRebuild(b *testing.B) {
	dir := b.TempDir()
	p := apptest.Exec(b, dir, nil, "--modules=telephony")
	calls := sized(b, rebuiltCalls)
	begin := time.Now()
	l := wholeCalls().play(b, p.URL+"/telephony/webhook", p.Key, webhookConns, func(serial int) bool { return serial < calls })
	b.Logf("%d events posted in %s", l.requests, time.Since(begin).Round(100*time.Millisecond))
	p.Terminate()

	// Each round begins with the database as it was left.
	left, used := b.TempDir(), filepath.Join(dir, "telephony.db")
	copyFile(b, used, filepath.Join(left, "telephony.db"))
	var took, rawTook time.Duration
	for range rebuildRounds {
		rawTook += rawRebuild(b, left)
		copyFile(b, filepath.Join(left, "telephony.db"), used)
		p := apptest.Exec(b, dir, nil, "--modules=telephony")
		begin := time.Now()
		events := rebuildOf(b, p)
		took += time.Since(begin)
		if events != l.requests {
			b.Errorf("%d of %d events were folded", events, l.requests)
		}
		p.Terminate()
	}
	all := float64(rebuildRounds * l.requests)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(all/took.Seconds(), "events/s")
	b.ReportMetric(all/rawTook.Seconds(), "raw-events/s")
	b.ReportMetric(rawTook.Seconds()/took.Seconds(), "ratio")
}

// rebuildOf has a product rebuild its projections and gives how many events it
// folded.
func rebuildOf(b *testing.B, p *apptest.Process) int64 {
	b.Helper()
	req, err := http.NewRequest(http.MethodPost, p.URL+"/telephony/calls/rebuild", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	var last telephony.RebuildProgress
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		last = telephony.RebuildProgress{}
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			b.Fatalf("%s: %v", lines.Text(), err)
		}
	}
	if err := lines.Err(); err != nil || resp.StatusCode != http.StatusOK || last.Error != "" || last.Seconds == nil {
		b.Fatalf("%s: %+v (%v)", resp.Status, last, err)
	}
	return last.Done
}

// rebuildChunk is how many events the product folds in a transaction.
const rebuildChunk = 5000

// rebuildBeside is the generation that rawRebuild makes: the product has fewer.
const rebuildBeside = 1000

// projection is a table with the rows of the generation that answers, under the
// number of another.
type projection struct {
	insert  string
	columns []string
	rows    [][]any
}

func projectionOf(b *testing.B, db *store.DB, table string) *projection {
	b.Helper()
	columns, rows := readRows(b, db.Read(), `select * from `+table+` where generation = (select generation from telephony_head)`)
	t := &projection{`insert into ` + table + ` (` + strings.Join(columns, ", ") + `) values `, columns, rows}
	generation := t.column("generation")
	for _, row := range rows {
		row[generation] = int64(rebuildBeside)
	}
	return t
}

func (t *projection) column(name string) int { return slices.Index(t.columns, name) }

// write inserts rows; again says what becomes of those that are there.
func (t *projection) write(ctx context.Context, tx store.Querier, rows [][]any, again string) error {
	for len(rows) > 0 {
		size := store.Chunk(len(rows))
		args := make([]any, 0, size*len(t.columns))
		for _, row := range rows[:size] {
			args = append(args, row...)
		}
		rows = rows[size:]
		if _, err := tx.ExecContext(ctx, t.insert+store.Values(size, len(t.columns), 1)+again, args...); err != nil {
			return err
		}
	}
	return nil
}

// bareProjections write what a rebuild writes, which they know beforehand.
type bareProjections struct {
	calls, customers, actors, stats *projection

	byCall  map[string][]any // rows of calls by their index
	written map[string]bool  // calls
	byHour  map[int64][][]any
}

func newBareProjections(b *testing.B, db *store.DB) *bareProjections {
	b.Helper()
	p := &bareProjections{calls: projectionOf(b, db, "telephony_call"), customers: projectionOf(b, db, "telephony_customer"), actors: projectionOf(b, db, "telephony_actor"),
		stats: projectionOf(b, db, "telephony_stat"), byCall: map[string][]any{}, written: map[string]bool{}, byHour: map[int64][][]any{}}
	call, hour, place := p.calls.column("call"), p.stats.column("hour"), p.customers.column("event")
	for _, row := range p.calls.rows {
		p.byCall[string(row[call].([]byte))] = row
	}
	for _, row := range p.stats.rows {
		p.byHour[row[hour].(int64)] = append(p.byHour[row[hour].(int64)], row)
	}
	slices.SortFunc(p.customers.rows, func(x, y []any) int { return cmp.Compare(x[place].(int64), y[place].(int64)) })
	return p
}

// bareChunk is what is looked at of a chunk of the log.
type bareChunk struct {
	last  int64
	calls []string // in order, each once
}

// fold writes, in one transaction, what a chunk changes.
func (p *bareProjections) fold(ctx context.Context, db *store.DB, chunk bareChunk) error {
	return db.Tx(ctx, func(tx store.Querier) error {
		id, created, state, outcome, updated, facts := p.calls.column("id"), p.calls.column("created_at"), p.calls.column("state"), p.calls.column("outcome"), p.calls.column("updated_at"), p.calls.column("facts")
		var fresh, stats [][]any
		hours := map[int64]bool{}
		for _, call := range chunk.calls {
			row := p.byCall[call]
			hours[row[created].(int64)/time.Hour.Microseconds()*time.Hour.Microseconds()] = true
			if !p.written[call] {
				p.written[call] = true
				fresh = append(fresh, row)
				continue
			}
			_, err := tx.ExecContext(ctx, `update telephony_call set state = $1, outcome = $2, updated_at = $3, facts = $4 where generation = $5 and id = $6`,
				row[state], row[outcome], row[updated], row[facts], int64(rebuildBeside), row[id])
			if err != nil {
				return err
			}
		}
		for hour := range hours {
			stats = append(stats, p.byHour[hour]...)
		}
		n := 0
		for n < len(p.customers.rows) && p.customers.rows[n][p.customers.column("event")].(int64) <= chunk.last {
			n++
		}
		customers := p.customers.rows[:n]
		p.customers.rows = p.customers.rows[n:]
		// Each agent has calls in each chunk.
		return errors.Join(p.calls.write(ctx, tx, fresh, ""), p.customers.write(ctx, tx, customers, ""),
			p.stats.write(ctx, tx, stats, ` on conflict (generation, hour, queue, actor) do update set calls = excluded.calls, wait_us = excluded.wait_us, talk_us = excluded.talk_us`),
			p.actors.write(ctx, tx, p.actors.rows, ` on conflict (generation, actor) do update set sealed = excluded.sealed, call = excluded.call, call_event = excluded.call_event`))
	})
}

// rawRebuild gives how long the database alone takes for the whole log.
func rawRebuild(b *testing.B, dir string) time.Duration {
	b.Helper()
	copied := b.TempDir()
	copyFile(b, filepath.Join(dir, "telephony.db"), filepath.Join(copied, "telephony.db"))
	db := openStore(b, copied)
	defer db.Close()
	bare := newBareProjections(b, db)
	chunks := make(chan bareChunk, 1)
	begin := time.Now()
	g, ctx := errgroup.WithContext(b.Context())
	g.Go(func() error {
		defer close(chunks)
		for last := int64(0); ; {
			chunk, n, err := bareRead(ctx, db, last)
			if err != nil || n == 0 {
				return err
			}
			last = chunk.last
			select {
			case chunks <- chunk:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	g.Go(func() error {
		for chunk := range chunks {
			if err := bare.fold(ctx, db, chunk); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	took := time.Since(begin)
	if len(bare.written) != len(bare.calls.rows) || len(bare.customers.rows) > 0 {
		b.Fatalf("%d of %d calls were written, %d customers were not", len(bare.written), len(bare.calls.rows), len(bare.customers.rows))
	}
	return took
}

// bareRead reads the rows of a chunk and gives their number.
func bareRead(ctx context.Context, db *store.DB, after int64) (chunk bareChunk, n int, err error) {
	seen := map[string]bool{}
	err = store.Each(ctx, db.Read(), `select `+logColumns+` from telephony_event where id > $1 order by id limit $2`, []any{after, rebuildChunk}, func(scan func(...any) error) error {
		var kind, at, received int64
		var eventID, call, code, subject, sealed, actor, part []byte
		if err := scan(&chunk.last, &eventID, &call, &code, &kind, &at, &received, &subject, &sealed, &actor, &part); err != nil {
			return err
		}
		if n++; !seen[string(call)] {
			seen[string(call)] = true
			chunk.calls = append(chunk.calls, string(call))
		}
		return nil
	})
	return chunk, n, err
}

// copyFile copies a database that nobody has open over another.
func copyFile(b *testing.B, from, to string) {
	b.Helper()
	if info, err := os.Stat(from + "-wal"); err == nil && info.Size() > 0 {
		b.Fatal("the database has been left with a write-ahead log")
	}
	in, err := os.Open(from)
	if err != nil {
		b.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		b.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		b.Fatal(err)
	}
}
