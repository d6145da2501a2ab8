package collector

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// key16 makes a key out of a text.
func key16(text string) [16]byte {
	sum := sha256.Sum256([]byte(text))
	return [16]byte(sum[:16])
}

// row is an event as the storer writes it. at is in seconds after a begin.
func row(id, session string, k kind, arrival int64, at int) eventRow {
	return eventRow{
		Arrival: arrival, EventID: key16(id), Session: key16(session), Subject: key16("subject of " + session), Kind: k, KindID: k.id(),
		OccurredAt: store.Micros(1_600_000_000_000_000 + int64(at)*1e6), ReceivedAt: store.Micros(1_700_000_000_000_000 + arrival),
		Sealed: []byte("sealed " + id),
	}
}

// sealedSessions is what the storer hands over with rows.
func sealedSessions(rows []eventRow) map[[16]byte][]byte {
	out := map[[16]byte][]byte{}
	for _, r := range rows {
		out[r.Session] = []byte("sealed session")
	}
	return out
}

func insert(t *testing.T, s *eventStore, rows ...eventRow) (fresh []eventRow) {
	t.Helper()
	fresh, err := s.insert(t.Context(), rows, sealedSessions(rows))
	if err != nil {
		t.Fatal(err)
	}
	return fresh
}

// number reads one number.
func number(t *testing.T, db *store.DB, query string, args ...any) (n int64) {
	t.Helper()
	if err := db.Read().QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// tally checks that the events and every count of them agree.
func tally(t *testing.T, db *store.DB, want int64) {
	t.Helper()
	for what, query := range map[string]string{
		"events":             `select count(*) from collector_event`,
		"counts of sessions": `select coalesce(sum(events), 0) from collector_session`,
		"counts per minute":  `select coalesce(sum(events), 0) from collector_stat where grain = 60`,
		"counts per hour":    `select coalesce(sum(events), 0) from collector_stat where grain = 3600`,
	} {
		if got := number(t, db, query); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	for what, query := range map[string]string{
		"sessions without events": `select count(*) from collector_session s where not exists (select 1 from collector_event e where e.session = s.session)`,
		"events without session":  `select count(*) from collector_event e where not exists (select 1 from collector_session s where s.session = e.session)`,
		"events without kind":     `select count(*) from collector_event e where not exists (select 1 from collector_kind k where k.kind = e.kind)`,
		"pairs missing":           `select count(*) from (select distinct session, kind from collector_event) e where not exists (select 1 from collector_session_kind p where p.session = e.session and p.kind = e.kind)`,
		"wrong first times":       `select count(*) from collector_session s where first_at <> (select min(occurred_at) from collector_event e where e.session = s.session)`,
		"wrong last times":        `select count(*) from collector_session s where last_at <> (select max(occurred_at) from collector_event e where e.session = s.session)`,
		"wrong last receipts":     `select count(*) from collector_session s where last_received_at <> (select max(received_at) from collector_event e where e.session = s.session)`,
	} {
		if got := number(t, db, query); got != 0 {
			t.Errorf("%s: %d", what, got)
		}
	}
}

var view = kind{"page", "view", "shop"}

func TestInsertStoresEachEventOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, migrations, func(t *testing.T, db *store.DB) {
		t.Parallel()
		s := &eventStore{db: db}
		a, b, c := row("a", "s-1", view, 1, 5), row("b", "s-1", view, 2, 3), row("c", "s-2", kind{"form", "send", "shop"}, 3, 4)
		if fresh := insert(t, s, a, b); len(fresh) != 2 {
			t.Errorf("%d were new", len(fresh))
		}
		tally(t, db, 2)
		// The same frame once more.
		if fresh := insert(t, s, a, b); len(fresh) != 0 {
			t.Errorf("%d of a repeated frame were new", len(fresh))
		}
		tally(t, db, 2)
		// A frame of which some is there, under another arrival.
		again := row("a", "s-1", view, 7, 5)
		if fresh := insert(t, s, again, c); len(fresh) != 1 || fresh[0].EventID != c.EventID {
			t.Errorf("new were %v", fresh)
		}
		tally(t, db, 3)
		// Twice in one frame, once for another session: the first one counts.
		d1, d2, e := row("d", "s-3", view, 10, 1), row("d", "s-4", view, 11, 2), row("e", "s-3", view, 12, 3)
		if fresh := insert(t, s, d1, d2, e); len(fresh) != 2 || fresh[0].Session != d1.Session {
			t.Errorf("new were %v", fresh)
		}
		tally(t, db, 5)
		if n := number(t, db, `select count(*) from collector_session`); n != 3 {
			t.Errorf("%d sessions", n)
		}
		if fresh := insert(t, s); len(fresh) != 0 {
			t.Errorf("of nothing %d were new", len(fresh))
		}
	})
}

// When the bus forgets its last sequence, places in the order of arrival come
// again. No event is lost for it; it goes to the end.
func TestInsertMovesAnEventWhoseArrivalIsTaken(t *testing.T) {
	t.Parallel()
	storetest.Each(t, migrations, func(t *testing.T, db *store.DB) {
		t.Parallel()
		s := &eventStore{db: db}
		insert(t, s, row("a", "s-1", view, 1, 0), row("b", "s-1", view, 2, 0), row("c", "s-1", view, 5, 0))
		fresh := insert(t, s, row("x", "s-1", view, 1, 0), row("b", "s-1", view, 2, 0), row("y", "s-1", view, 3, 0), row("z", "s-1", view, 5, 0))
		places := map[string]int64{}
		for _, r := range fresh {
			places[string(r.Sealed)] = r.Arrival
		}
		if want := map[string]int64{"sealed x": 6, "sealed y": 3, "sealed z": 7}; !maps.Equal(places, want) {
			t.Errorf("they arrived at %v, want %v", places, want)
		}
		tally(t, db, 6)
		if again := insert(t, s, row("x", "s-1", view, 1, 0), row("z", "s-1", view, 5, 0)); len(again) != 0 {
			t.Errorf("%d were new again", len(again))
		}
		tally(t, db, 6)
		// The end is also behind what comes with it.
		fresh = insert(t, s, row("p", "s-1", view, 9, 0), row("q", "s-1", view, 1, 0), row("r", "s-1", view, 8, 0), row("c", "s-1", view, 5, 0))
		if got := arrivalsOf(fresh); len(got) != 3 || slices.Max(got) != 10 {
			t.Errorf("they arrived at %v", got)
		}
		tally(t, db, 9)
		// More than are looked up at once, all taken.
		var all, others []eventRow
		for i := range 350 {
			all = append(all, row(fmt.Sprint("n", i), "s-2", view, int64(100+i), i))
			others = append(others, row(fmt.Sprint("m", i), "s-2", view, int64(100+i), i))
		}
		insert(t, s, all...)
		if fresh := insert(t, s, others...); len(fresh) != 350 {
			t.Errorf("%d were new", len(fresh))
		}
		tally(t, db, 709)
	})
}

// model answers a query as a person would, from all rows.
func model(rows []eventRow, q eventQuery) (out []eventRow) {
	for _, r := range rows {
		at := r.OccurredAt.Time()
		if (q.Session == nil || r.Session == *q.Session) && (q.Category == "" || r.Kind.Category == q.Category) && (q.Name == "" || r.Kind.Name == q.Name) &&
			(q.App == "" || r.Kind.App == q.App) && (q.From == nil || !at.Before(*q.From)) && (q.To == nil || !at.After(*q.To)) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b eventRow) int {
		order := cmp.Or(cmp.Compare(a.OccurredAt, b.OccurredAt), cmp.Compare(a.Arrival, b.Arrival))
		if q.Desc {
			return -order
		}
		return order
	})
	return out
}

func arrivalsOf(rows []eventRow) (out []int64) {
	for _, r := range rows {
		out = append(out, r.Arrival)
	}
	return out
}

func TestListAgreesWithPlainFilteringForEveryQuery(t *testing.T) {
	t.Parallel()
	storetest.Each(t, migrations, func(t *testing.T, db *store.DB) {
		t.Parallel()
		s := &eventStore{db: db}
		random := rand.New(rand.NewPCG(4, 2))
		var all []eventRow
		for i := range 1500 {
			// 600 kinds: of category "many" there are more than one query merges.
			k := kind{"many", fmt.Sprint("n", random.IntN(300)), fmt.Sprint("app", random.IntN(2))}
			if random.IntN(3) == 0 {
				k = kind{fmt.Sprint("c", random.IntN(3)), fmt.Sprint("n", random.IntN(3)), "app0"}
			}
			all = append(all, row(fmt.Sprint("e", i), fmt.Sprint("s", random.IntN(20)), k, int64(i), random.IntN(200)))
		}
		for frame := range slices.Chunk(all, 500) {
			insert(t, s, frame...)
		}
		tally(t, db, int64(len(all)))
		pick := func(of ...string) string { return of[random.IntN(len(of))] }
		for range 40 {
			q := eventQuery{Category: pick("", "", "many", "c1"), Name: pick("", "", "n1", "n7"), App: pick("", "", "app0", "app1", "none"), Desc: random.IntN(2) == 0, Limit: 10 + random.IntN(300)}
			if random.IntN(2) == 0 {
				id := key16(fmt.Sprint("s", random.IntN(21)))
				q.Session = &id
			}
			if random.IntN(2) == 0 {
				from := store.Micros(1_600_000_000_000_000 + random.Int64N(200e6)).Time()
				q.From = &from
			}
			if random.IntN(2) == 0 {
				to := store.Micros(1_600_000_000_000_000 + int64(random.IntN(200))*1e6).Time()
				q.To = &to
			}
			want := arrivalsOf(model(all, q))
			var got []int64
			page := q
			for {
				rows, err := s.list(t.Context(), page)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, arrivalsOf(rows)...)
				if len(rows) < q.Limit {
					break
				}
				last := rows[len(rows)-1]
				page.After = &position{last.OccurredAt, last.Arrival}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%+v: %d rows, want %d\n%v\n%v", q, len(got), len(want), got, want)
			}
		}
	})
}

func TestManyThousandKindsOfOneApplicationCanBeQueried(t *testing.T) {
	t.Parallel()
	storetest.Each(t, migrations, func(t *testing.T, db *store.DB) {
		t.Parallel()
		s := &eventStore{db: db}
		const kinds = 1500
		var rows []eventRow
		for i := range kinds {
			rows = append(rows, row(fmt.Sprint("e", i), "s-1", kind{"c", fmt.Sprint("n", i), "shop"}, int64(i), i%7))
		}
		for frame := range slices.Chunk(rows, 1000) {
			insert(t, s, frame...)
		}
		q := eventQuery{App: "shop", Limit: 1000, Desc: true}
		want := arrivalsOf(model(rows, q))
		got, err := s.list(t.Context(), q)
		if err != nil || !slices.Equal(arrivalsOf(got), want[:1000]) {
			t.Errorf("by application: %d rows, %v", len(got), err)
		}
		session := key16("s-1")
		got, err = s.list(t.Context(), eventQuery{Session: &session, Category: "c", Limit: kinds + 1})
		if err != nil || len(got) != kinds {
			t.Errorf("by session and category: %d rows, %v", len(got), err)
		}
		if err := s.name(t.Context(), got); err != nil {
			t.Fatal(err)
		}
		for _, r := range got {
			if r.Kind.id() != r.KindID {
				t.Fatalf("event %d is of kind %v", r.Arrival, r.Kind)
			}
		}
	})
}

// Several instances store at the same time, in parts the same events in other
// orders, for the same sessions and kinds. Nobody waits for ever, nothing is
// counted twice or lost.
func TestConcurrentInsertersLoseNoCount(t *testing.T) {
	t.Parallel()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		instances := []*store.DB{storetest.Open(t, cfg, "test", migrations)}
		if instances[0].Engine() == store.Postgres {
			instances = append(instances, storetest.Open(t, cfg, "test", migrations), storetest.Open(t, cfg, "test", migrations))
		}
		const frames, size = 24, 120
		frame := func(n int) (rows []eventRow) {
			for i := range size {
				// Half of each frame comes again in the next one.
				id := n*size/2 + i
				rows = append(rows, row(fmt.Sprint("e", id), fmt.Sprint("s", id%13), kind{"c", fmt.Sprint("n", id%7), "shop"}, int64(id), id%97))
			}
			rand.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
			return rows
		}
		work := make(chan int)
		var wg sync.WaitGroup
		var mu sync.Mutex
		fresh := 0
		for worker := range 6 {
			s := &eventStore{db: instances[worker%len(instances)]}
			wg.Go(func() {
				for n := range work {
					rows := frame(n)
					stored, err := s.insert(t.Context(), rows, sealedSessions(rows))
					if err != nil {
						t.Errorf("frame %d: %v", n, err)
					}
					mu.Lock()
					fresh += len(stored)
					mu.Unlock()
				}
			})
		}
		for n := range frames {
			work <- n
			work <- n // delivered twice
		}
		close(work)
		wg.Wait()
		const want = (frames + 1) * size / 2
		if fresh != want {
			t.Errorf("%d were new, want %d", fresh, want)
		}
		tally(t, instances[0], want)
	})
}

func TestASessionThatGoesOnWhileItExpiresStays(t *testing.T) {
	t.Parallel()
	storetest.Each(t, migrations, func(t *testing.T, db *store.DB) {
		t.Parallel()
		s := &eventStore{db: db}
		insert(t, s, row("old", "s", view, 1, 0))
		// Another instance stores an event under the key that the person got anew.
		again := row("new", "s", view, 100, 0)
		again.Subject = key16("the same one later")
		n, err := s.expireSessions(t.Context(), store.Micros(1_700_000_000_000_000+20).Time(), 10, func(context.Context, []seal.Subject) error {
			_, err := s.insert(t.Context(), []eventRow{again}, sealedSessions([]eventRow{again}))
			return err
		})
		if err != nil || n != 1 {
			t.Fatalf("%d sessions, %v", n, err)
		}
		session, err := s.session(t.Context(), key16("s"))
		if err != nil || session.Subject != key16("the same one later") {
			t.Errorf("the session is %+v, %v", session, err)
		}
		if left := number(t, db, `select count(*) from collector_event`); left != 2 {
			t.Errorf("%d events are left", left)
		}
	})
}

func TestExpireRemovesOldMinutesAndKeepsHours(t *testing.T) {
	t.Parallel()
	storetest.Each(t, migrations, func(t *testing.T, db *store.DB) {
		t.Parallel()
		s := &eventStore{db: db}
		const minute = 60_000_000
		for i := range int64(10) { // two kinds in each minute
			insert(t, s, row(fmt.Sprint("a", i), "s", view, 2*i, int(60*i)), row(fmt.Sprint("b", i), "s", kind{"form", "send", "shop"}, 2*i+1, int(60*i)))
		}
		first := number(t, db, `select min(bucket) from collector_stat where grain = 60`)
		hours := number(t, db, `select sum(events) from collector_stat where grain = 3600`)
		before, total := store.Micros(first+4*minute).Time(), 0
		for n := 3; n > 0; total += n {
			var err error
			if n, err = s.expireMinutes(t.Context(), before, 3); err != nil {
				t.Fatal(err)
			}
		}
		if total != 8 {
			t.Errorf("%d counters went", total)
		}
		if oldest := number(t, db, `select min(bucket) from collector_stat where grain = 60`); oldest != first+4*minute {
			t.Errorf("the oldest minute is %d after the first", oldest-first)
		}
		if left := number(t, db, `select sum(events) from collector_stat where grain = 3600`); left != hours || left != 20 {
			t.Errorf("%d events are counted by hours, want %d", left, hours)
		}
	})
}

func TestExpireRemovesWhatArrivedBefore(t *testing.T) {
	t.Parallel()
	storetest.Each(t, migrations, func(t *testing.T, db *store.DB) {
		t.Parallel()
		s := &eventStore{db: db}
		for i := range 30 {
			insert(t, s, row(fmt.Sprint("e", i), fmt.Sprint("s", i/10), view, int64(i), 0))
		}
		insert(t, s, row("late", "s0", view, 30, 0))
		before := store.Micros(1_700_000_000_000_000 + 15).Time()
		total := 0
		for {
			n, err := s.expire(t.Context(), before, 4)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			total += n
		}
		if total != 15 || number(t, db, `select count(*) from collector_event`) != 16 {
			t.Errorf("%d events went", total)
		}
		var forgotten []seal.Subject
		forget := func(_ context.Context, subjects []seal.Subject) error {
			forgotten = append(forgotten, subjects...)
			return nil
		}
		last := store.Micros(1_700_000_000_000_000 + 20).Time()
		// Nothing goes before its key has gone, so that no key stays.
		events := number(t, db, `select count(*) from collector_event`)
		stuck := errors.New("no keys now")
		if _, err := s.expireSessions(t.Context(), last, 10, func(context.Context, []seal.Subject) error { return stuck }); !errors.Is(err, stuck) || number(t, db, `select count(*) from collector_event`) != events {
			t.Errorf("without keys: %v", err)
		}
		for want := 1; want >= 0; want-- {
			if n, err := s.expireSessions(t.Context(), last, 10, forget); err != nil || n != want {
				t.Errorf("%d sessions went, want %d: %v", n, want, err)
			}
		}
		if len(forgotten) != 1 || forgotten[0] != key16("subject of s1") {
			t.Errorf("forgotten: %x", forgotten)
		}
		if n := number(t, db, `select count(*) from collector_event`); n != 11 { // e20…e29 and late
			t.Errorf("%d events are left", n)
		}
		if n := number(t, db, `select count(*) from collector_session_kind`); n != 2 {
			t.Errorf("%d pairs are left", n)
		}
	})
}

func TestRejectsExpireByTimeAndByNumber(t *testing.T) {
	t.Parallel()
	storetest.Each(t, migrations, func(t *testing.T, db *store.DB) {
		t.Parallel()
		s := &rejectStore{db}
		var rows []rejectRow
		for i := range 40 {
			rows = append(rows, rejectRow{ID: key16(fmt.Sprint(i)), App: "shop", Reason: reasonShape, ReceivedAt: store.Micros(1000 + i/20), Sealed: []byte("x")})
		}
		for range 2 { // a frame may come again
			if err := s.insert(t.Context(), rows); err != nil {
				t.Fatal(err)
			}
		}
		gone := func(before store.Micros, keep int64) (total int) {
			for {
				n, err := s.expire(t.Context(), before.Time(), keep, 3)
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					return total
				}
				total += n
			}
		}
		for _, step := range []struct {
			name   string
			before store.Micros
			keep   int64
			want   int
		}{
			{"nothing is old, nothing too much", 1000, 40, 0},
			{"five too many, all of one time", 1000, 35, 5},
			{"the first fifteen are old, one is too much", 1001, 34, 15},
			{"thirteen too many, all of one time", 0, 7, 13},
			{"the rest is old", 2000, 100, 7},
			{"nothing is there", 2000, 0, 0},
		} {
			if n := gone(step.before, step.keep); n != step.want {
				t.Errorf("%s: %d went, want %d", step.name, n, step.want)
			}
		}
	})
}

// Whatever is asked, SQLite answers from an index, however many events there are.
func TestEveryListIsReadFromAnIndex(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t, store.Config{Dir: t.TempDir()}, "test", migrations)
	now := time.Now()
	session := key16("s-1")
	spans := []struct {
		name     string
		from, to *time.Time
	}{{"", nil, nil}, {" from", &now, nil}, {" between", &now, &now}}
	// A list of everything walks an index in its order; that is no search in it.
	// g and t are the results of inner queries.
	scan := regexp.MustCompile(`^SCAN [^gt]( USING INDEX collector_event_(kind|session)|$)`)
	check := func(name, text string, args []any, sorts bool) string {
		t.Helper()
		var plan []string
		err := store.Each(t.Context(), db.Read(), "explain query plan "+text, args, func(scan func(...any) error) error {
			var id, parent, unused int
			var detail string
			err := scan(&id, &parent, &unused, &detail)
			plan = append(plan, detail)
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if len(plan) == 0 {
			t.Fatalf("%s: no plan", name)
		}
		for _, step := range plan {
			if scan.MatchString(step) || !sorts && strings.Contains(step, "TEMP B-TREE") {
				t.Errorf("%s: %s\n%s\n%s", name, step, text, strings.Join(plan, "\n"))
			}
		}
		return strings.Join(plan, "\n")
	}
	after := &position{1, 1}
	for _, span := range spans {
		for _, desc := range []bool{false, true} {
			for _, at := range []*position{nil, after} {
				q := eventQuery{From: span.from, To: span.to, Desc: desc, After: at, Limit: 51}
				name := fmt.Sprintf("%s desc=%t cursor=%t", span.name, desc, at != nil)
				for kindName, kinds := range map[string][]int64{"any kind": nil, "one kind": {1}, "three kinds": {1, 2, 3}} {
					text, args := q.sql(kinds)
					check("events of "+kindName+name, text, args, len(kinds) > 1)
					inSession := q
					inSession.Session = &session
					text, args = inSession.sql(kinds)
					// The session is what narrows it down, not a kind that most events may be of.
					if plan := check("events of a session, "+kindName+name, text, args, false); !strings.Contains(plan, "collector_event_session") {
						t.Errorf("events of a session, %s%s: %s", kindName, name, plan)
					}
				}
			}
		}
		for _, at := range []*sessionPosition{nil, {1, session}} {
			text, args := sessionQuery{From: span.from, To: span.to, After: at, Limit: 51}.sql()
			check("sessions"+span.name, text, args, false)
		}
		for _, at := range []*rejectPosition{nil, {1, session}} {
			for _, q := range []rejectQuery{{}, {App: "shop"}, {Reason: reasonShape}, {Category: "c", Name: "n"}} {
				q.From, q.To, q.After, q.Limit = span.from, span.to, at, 51
				text, args := q.sql()
				check("rejects"+span.name, text, args, false)
			}
		}
	}
	for _, q := range []statQuery{{}, {App: "shop"}, {Category: "c", Name: "n"}, {By: []string{"category", "name", "app"}}, {After: &statPosition{1, "c", "n", "a"}}} {
		for _, bucket := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour} {
			q.Bucket, q.From, q.To, q.Limit = bucket, now.Add(-time.Hour), now, 51
			text, args := q.sql()
			check("stats", text, args, true)
		}
	}
}

// A batch that fails leaves nothing behind, and can be stored afterwards.
func TestInsertThatIsCutOffLeavesNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, migrations, func(t *testing.T, db *store.DB) {
		t.Parallel()
		s := &eventStore{db: db}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		rows := []eventRow{row("a", "s-1", view, 1, 1)}
		if _, err := s.insert(ctx, rows, sealedSessions(rows)); err == nil || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		tally(t, db, 0)
		insert(t, s, rows...)
		tally(t, db, 1)
	})
}

func TestFloorRoundsDownBelowZeroToo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ n, unit, want int64 }{{0, 60, 0}, {59, 60, 0}, {60, 60, 60}, {61, 60, 60}, {-1, 60, -60}, {-60, 60, -60}, {-61, 60, -120}} {
		if got := floor(c.n, c.unit); got != c.want {
			t.Errorf("floor(%d, %d) = %d, want %d", c.n, c.unit, got, c.want)
		}
	}
}

func TestKindsAreToldApart(t *testing.T) {
	t.Parallel()
	seen := map[int64]kind{}
	for _, k := range []kind{{"a", "b", "c"}, {"ab", "", "c"}, {"", "ab", "c"}, {"a", "bc", ""}, {"a", "", "bc"}, {"", "", ""}} {
		if other, ok := seen[k.id()]; ok || k.id() < 0 {
			t.Errorf("%v and %v are both %d", k, other, k.id())
		}
		seen[k.id()] = k
	}
}
