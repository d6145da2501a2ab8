package telephony

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/config"
	"switchboard/platform/errs"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// projections reads all that the projections hold, but for what is sealed,
// which looks different each time.
func projections(t *testing.T, cfg store.Config) map[string][]string {
	t.Helper()
	db, err := store.Open(t.Context(), cfg, "telephony", migrations)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	out := map[string][]string{}
	for table, columns := range map[string]string{
		"telephony_call":        "id, call, state, outcome, direction, queue, our, their, created_at, updated_at, facts, subject",
		"telephony_customer":    "their, event",
		"telephony_actor":       "actor, subject, seen_at, seen, call, entered, call_at, call_event",
		"telephony_actor_queue": "actor, queue, logged, logged_at, logged_event, paused, paused_at, paused_event",
		"telephony_stat": "hour, queue, actor, calls, offered, answered, in_time, abandoned, overflowed, forwarded, unanswered, waits, wait_us, " +
			"talks, talk_us, rings, no_answers",
	} {
		n := strings.Count(columns, ",") + 1
		row, to := make([]any, n), make([]any, n)
		for i := range row {
			to[i] = &row[i]
		}
		err := store.Each(context.Background(), db.Read(), `select `+columns+` from `+table+` where generation = (select generation from telephony_head) order by `+columns, nil, func(scan func(...any) error) error {
			if err := scan(to...); err != nil {
				return err
			}
			out[table] = append(out[table], fmt.Sprintf("%x", row))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// rebuild rebuilds and gives the last line of the answer and how many came.
func rebuild(t *testing.T, p *apptest.Product) (last RebuildProgress, lines int) {
	t.Helper()
	resp, text := p.Exchange(p.Request(p.Key, http.MethodPost, "/telephony/calls/rebuild", nil))
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%s %s", resp.Status, text)
	}
	scan := bufio.NewScanner(bytes.NewReader(text))
	for ; scan.Scan(); lines++ {
		last = RebuildProgress{}
		if err := json.Unmarshal(scan.Bytes(), &last); err != nil {
			t.Fatalf("%s: %v", scan.Text(), err)
		}
	}
	return last, lines
}

// noise posts calls of all kinds, in disorder, until stop is set.
func noise(t *testing.T, p *apptest.Product, worker int, calls int) (posted int) {
	files := []string{"inbound-full", "inbound-abandoned", "outbound-simulator", "inbound-full-with-recording", "sandbox-four"}
	for i := range calls {
		lines, callID := sequence(t, files[rand.IntN(len(files))])
		own := fmt.Sprintf("%d.%d", worker, i)
		rand.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		for _, line := range lines {
			line = strings.Replace(line, callID, own, 1)
			line = strings.Replace(line, "11999990000", fmt.Sprint("1199999", 1000+rand.IntN(50)), 1)
			line = strings.Replace(line, "user.name", fmt.Sprint("user.", rand.IntN(5)), 1)
			post(t, p, line)
			posted++
		}
		for _, kind := range []string{"logged-in", "logged-out", "paused", "unpaused"}[:rand.IntN(5)] {
			post(t, p, fmt.Sprintf(`{"type":"actor.%s","queue":"9%02d","actor":"user.%d@email.com","number":"200","timestamp":"2019-10-15T00:%02d:%02dZ","n":"%s"}`,
				kind, rand.IntN(2), rand.IntN(5), rand.IntN(60), rand.IntN(60), own))
			posted++
		}
	}
	return posted
}

func TestARebuildGivesTheSameWhileTheServiceGoesOn(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			cfg := store.Config{}
			var options []apptest.Option
			if engine == "postgres" {
				cfg.URL = config.Secret(storetest.Postgres(t))
				options = append(options, apptest.Args("--database-url="+cfg.URL.Reveal()))
			}
			p := apptest.Start(t, []app.Module{Module}, options...)
			if engine == "sqlite" {
				cfg.Dir = p.Dir
			}
			noise(t, p, 0, 40)
			before := projections(t, cfg)
			last, _ := rebuild(t, p)
			if last.Error != "" || last.Seconds == nil || last.Done != last.Total || last.Done == 0 {
				t.Errorf("%+v", last)
			}
			if diff := cmp.Diff(before, projections(t, cfg)); diff != "" {
				t.Errorf("after a rebuild (-before +after):\n%s", diff)
			}

			// Beside webhooks: what they make of the projections is what the log says.
			var workers sync.WaitGroup
			var busy atomic.Int32
			busy.Store(2)
			for w := range 2 {
				workers.Go(func() {
					defer busy.Add(-1)
					noise(t, p, w+1, 25)
				})
			}
			for busy.Load() > 0 {
				if last, _ := rebuild(t, p); last.Error != "" {
					t.Error(last.Error)
				}
			}
			workers.Wait()
			before = projections(t, cfg)
			rebuild(t, p)
			if diff := cmp.Diff(before, projections(t, cfg)); diff != "" {
				t.Errorf("after rebuilds beside webhooks (-before +after):\n%s", diff)
			}
			// The generations before go away.
			apptest.Eventually(t, func() string {
				db, err := store.Open(t.Context(), cfg, "telephony", migrations)
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				for _, table := range tables {
					var n int
					if err := db.Read().QueryRowContext(t.Context(), `select count(distinct generation) from `+table.name).Scan(&n); err != nil || n != 1 {
						return fmt.Sprintf("%s has %d generations (%v)", table.name, n, err)
					}
				}
				return ""
			})
		})
	}
}

// The projections come from the log and nothing else: damaged ones are whole
// again after a rebuild.
func TestARebuildMendsProjections(t *testing.T) {
	t.Parallel()
	p := apptest.Start(t, []app.Module{Module})
	noise(t, p, 0, 10)
	cfg := store.Config{Dir: p.Dir}
	before := projections(t, cfg)
	db, err := store.Open(t.Context(), cfg, "telephony", migrations)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Tx(t.Context(), func(tx store.Querier) error {
		for _, text := range []string{`delete from telephony_call where id % 2 = 0`, `update telephony_stat set calls = 7`, `delete from telephony_customer`, `delete from telephony_actor`, `update telephony_actor_queue set logged = 1 - logged`} {
			if _, err := tx.ExecContext(t.Context(), text); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if diff := cmp.Diff(before, projections(t, cfg)); diff == "" {
		t.Fatal("nothing was damaged")
	}
	rebuild(t, p)
	if diff := cmp.Diff(before, projections(t, cfg)); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyOneRebuildRunsAndADeadOneIsPassedOver(t *testing.T) {
	t.Parallel()
	db, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()}, "telephony", migrations)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := &rebuildStore{db}
	now := time.Unix(1_700_000_000, 0)
	first, _, err := s.begin(t.Context(), now)
	if err != nil || first != 2 {
		t.Fatalf("%d %v", first, err)
	}
	if _, _, err := s.begin(t.Context(), now.Add(rebuildSilence-time.Second)); errs.KindOf(err) != errs.Conflict {
		t.Errorf("a second one: %v", err)
	}
	second, _, err := s.begin(t.Context(), now.Add(rebuildSilence))
	if err != nil || second != 3 {
		t.Errorf("after a silence: %d %v", second, err)
	}
	r := &rebuildService{events: &eventService{}, store: s, now: func() time.Time { return now }}
	if _, err := r.finish(t.Context(), first, 0); errs.KindOf(err) != errs.Conflict {
		t.Errorf("the dead one goes on: %v", err)
	}
	if done, err := r.finish(t.Context(), second, 0); !done || err != nil {
		t.Errorf("%v %v", done, err)
	}
}
