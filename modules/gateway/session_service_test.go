package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/platform/apptest"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

const (
	testWindow = 2 * time.Minute
	testKeep   = 24 * time.Hour
)

// sessions is one instance, known to the others, that does not run yet.
func (h house) sessions(t *testing.T, instance string) *sessionService {
	t.Helper()
	transit, err := h.keys.Transit(t.Context(), "gateway.session", testKeep)
	if err != nil {
		t.Fatal(err)
	}
	s := newSessionService(sessionConfig{DB: h.db, Keys: h.keys, Transit: transit, Keep: testKeep, Instance: instance,
		Window: testWindow, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	if err := s.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// runSessions runs an instance until stop is called, or the test ends.
func runSessions(t *testing.T, s *sessionService) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func aSession(pid string) *session {
	return &session{PID: pid, SID: "sid of " + pid, Namespace: "/", Rooms: map[string]uint64{"orders.1": 7, "lobby": 9}, Since: 5,
		Grant: Grant{KeyID: "k", TokenID: "t", User: "zoe@example.com", Rooms: []string{"orders.*", "lobby"}, ExpiresAt: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}}
}

func mustPut(t *testing.T, s *sessionService, sess *session) {
	t.Helper()
	if err := s.put(t.Context(), sess); err != nil {
		t.Fatal(err)
	}
}

// lookup gives the session of a pid, nil if there is none.
func lookup(t *testing.T, s *sessionService, pid string) *session {
	t.Helper()
	got, err := s.find(t.Context(), pid)
	if err != nil && errs.KindOf(err) != errs.NotFound {
		t.Fatal(err)
	}
	return got
}

func TestSessionIsFoundFromAnyInstance(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		one, two := h.sessions(t, "one"), h.sessions(t, "two")
		runSessions(t, one)
		want := aSession("p")
		mustPut(t, one, want)
		got := lookup(t, two, "p")
		if got == nil {
			t.Fatal("it is not found")
		}
		if got.SID != want.SID || got.Namespace != "/" || !maps.Equal(got.Rooms, want.Rooms) || got.Since != 5 || got.Instance != "one" ||
			got.LeftAt != nil || got.Grant.User != want.Grant.User || !got.Grant.May("orders.9") || !got.Grant.ExpiresAt.Equal(want.Grant.ExpiresAt) {
			t.Errorf("found %+v", got)
		}
		if lookup(t, two, "q") != nil {
			t.Error("a pid that was never given out is found")
		}
	})
}

func TestSessionEndsAWindowAfterItsConnection(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.sessions(t, "one")
		runSessions(t, s)
		sess := aSession("p")
		mustPut(t, s, sess)
		h.advance(time.Hour)
		if lookup(t, s, "p") == nil {
			t.Fatal("a session of a long connection is not found")
		}
		s.leaveLater(sess)
		h.advance(testWindow)
		if got := lookup(t, s, "p"); got == nil || got.LeftAt == nil || !got.LeftAt.Equal(h.now().Add(-testWindow)) {
			t.Fatalf("at the end of the window: %+v", got)
		}
		h.advance(time.Microsecond)
		if lookup(t, s, "p") != nil {
			t.Error("it is found after the window")
		}
	})
}

func TestSessionOfADeadInstanceEndsAWindowAfterItsLastSign(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		one, two := h.sessions(t, "one"), h.sessions(t, "two")
		stop := runSessions(t, one)
		mustPut(t, one, aSession("p"))
		stop() // as a killed one: nobody has said that the socket left
		h.advance(testWindow + beatEvery)
		if got := lookup(t, two, "p"); got == nil || got.LeftAt != nil {
			t.Fatalf("within the window: %+v", got)
		}
		h.advance(time.Microsecond)
		if lookup(t, two, "p") != nil {
			t.Error("it is found after the window")
		}
		if lookup(t, one, "p") == nil {
			t.Error("an instance must trust in its own life, not in its beats")
		}
		h.advance(3 * beatEvery)
		if err := two.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, m := countRows(t, h.db, "gateway_session"), countRows(t, h.db, "gateway_instance"); n != 0 || m != 1 {
			t.Errorf("%d sessions and %d instances are left", n, m)
		}
	})
}

func TestSessionIsTakenOverFromALivingConnection(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		one, two := h.sessions(t, "one"), h.sessions(t, "two")
		runSessions(t, one)
		runSessions(t, two)
		old := aSession("p")
		mustPut(t, one, old)
		next := lookup(t, two, "p").resumed("two")
		next.Rooms["new"] = 20
		mustPut(t, two, next)

		// What the old connection's instance says late must not count.
		old.Rooms["late"] = 21
		mustPut(t, one, old)
		one.leaveLater(old)
		h.advance(time.Hour)
		for _, s := range []*sessionService{one, two} {
			if err := s.start(t.Context()); err != nil { // it beats
				t.Fatal(err)
			}
		}
		got := lookup(t, one, "p") // waits until one's change is written
		if got == nil || got.Instance != "two" || got.Life != 1 || got.LeftAt != nil || got.Rooms["new"] != 20 || got.Rooms["late"] != 0 {
			t.Fatalf("found %+v", got)
		}
		two.leaveLater(next)
		if again := lookup(t, two, "p"); again == nil || again.LeftAt == nil {
			t.Errorf("the new connection's end: %+v", again)
		}
		third := lookup(t, one, "p").resumed("one")
		mustPut(t, one, third)
		if got := lookup(t, two, "p"); got == nil || got.LeftAt != nil || got.Life != 2 || got.Rooms["new"] != 20 {
			t.Errorf("taken over twice: %+v", got)
		}
	})
}

func TestSessionTakenOverOnTheSameInstance(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.sessions(t, "one")
		runSessions(t, s)
		old := aSession("p")
		mustPut(t, s, old)
		next := lookup(t, s, "p").resumed("one")
		mustPut(t, s, next)
		s.leaveLater(old)
		if got := lookup(t, s, "p"); got == nil || got.LeftAt != nil {
			t.Errorf("the old connection's end counts for the new one: %+v", got)
		}
	})
}

func TestChangesOfASessionMergeInTheirOrder(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	put := func(life int64, since uint64) *sessionChange {
		return &sessionChange{row: &sessionRow{Life: life, Since: since}}
	}
	leave := func(life int64) *sessionChange {
		return &sessionChange{left: &departure{Life: life}, leftAt: at, lasting: true}
	}
	for _, c := range []struct {
		name    string
		changes []*sessionChange
		want    string
	}{
		{"the later of two", []*sessionChange{put(0, 1), put(0, 2)}, "put life 0 since 2"},
		{"put and left", []*sessionChange{put(0, 1), leave(0)}, "put life 0 since 1 left"},
		{"an older one late", []*sessionChange{put(1, 2), put(0, 1)}, "put life 1 since 2"},
		{"an older one's end late", []*sessionChange{put(1, 2), leave(0)}, "put life 1 since 2"},
		{"left and taken up", []*sessionChange{leave(0), put(1, 2)}, "put life 1 since 2"},
		{"left twice", []*sessionChange{leave(0), leave(1)}, "left life 1"},
		{"the end of one that was never put", []*sessionChange{put(0, 1), leave(1)}, "put life 0 since 1 left"},
	} {
		got := c.changes[0]
		for _, later := range c.changes[1:] {
			got.merge(later)
		}
		var text string
		if got.row != nil {
			text = fmt.Sprintf("put life %d since %d", got.row.Life, got.row.Since)
			if got.row.LeftAt != nil {
				text += " left"
			}
		} else {
			text = fmt.Sprintf("left life %d", got.left.Life)
		}
		if text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
}

func TestManySessionsAreWrittenTogether(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.sessions(t, "one")
		stop := runSessions(t, s)
		const n = 1500
		var g sync.WaitGroup
		for i := range n {
			g.Go(func() {
				if err := s.put(context.Background(), aSession(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			})
		}
		g.Wait()
		if got := countRows(t, h.db, "gateway_session"); got != n {
			t.Errorf("%d sessions are written", got)
		}
		for i := range n {
			sess := aSession(fmt.Sprint(i))
			if i%2 == 0 {
				s.leaveLater(sess)
			} else {
				sess.Rooms["late"] = 1
				s.putLater(sess)
			}
		}
		stop() // writes what waits
		var left int
		if err := h.db.Read().QueryRowContext(t.Context(), `select count(*) from gateway_session where left_at is not null`).Scan(&left); err != nil || left != n/2 {
			t.Errorf("%d sessions are left (%v)", left, err)
		}
		other := h.sessions(t, "two")
		if got := lookup(t, other, "1499"); got == nil || got.Rooms["late"] != 1 {
			t.Errorf("found %+v", got)
		}
		if err := s.put(t.Context(), aSession("late")); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("put after the end: %v", err)
		}
		h.advance(testWindow + time.Minute)
		if err := other.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := countRows(t, h.db, "gateway_session"); got != 0 {
			t.Errorf("%d sessions survive the sweep", got)
		}
	})
}

func TestSweepSparesTheLiving(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		one, two := h.sessions(t, "one"), h.sessions(t, "two")
		runSessions(t, one)
		mustPut(t, one, aSession("lives"))
		gone := aSession("left")
		mustPut(t, one, gone)
		one.leaveLater(gone)
		if lookup(t, one, "left") == nil {
			t.Fatal("it is not found")
		}
		h.advance(time.Hour)
		for _, s := range []*sessionService{one, two} {
			if err := s.start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := two.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if lookup(t, two, "lives") == nil || countRows(t, h.db, "gateway_session") != 1 {
			t.Errorf("%d sessions are left", countRows(t, h.db, "gateway_session"))
		}
		known, err := two.store.instances(t.Context())
		if err != nil || len(known) != 2 || known[0].Name != "one" || known[1].Name != "two" {
			t.Errorf("instances %v %v", known, err)
		}
	})
}

func TestSessionOfAConnectionThatLastsLongerThanItsKey(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.sessions(t, "one")
		runSessions(t, s)
		sess := aSession("p")
		mustPut(t, s, sess)
		for range 4 {
			h.advance(testKeep/2 + time.Minute)
			if err := s.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := h.keys.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := lookup(t, s, "p"); got == nil || got.SID != sess.SID {
			t.Errorf("found %+v", got)
		}
	})
}

func TestFailedWritesAreToldOrTriedAgain(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.sessions(t, "one")
		closed := *s.store
		s.store = &sessionStore{closedDB(t)}
		ctx := t.Context()

		told := make(chan error, 1)
		go func() { told <- s.put(ctx, aSession("told")) }()
		waitFor(t, s, 1)
		if _, err := s.write(ctx); err == nil {
			t.Fatal("a closed database takes sessions")
		}
		if err := <-told; errs.KindOf(err) != errs.Unavailable {
			t.Errorf("who waits is told %v", err)
		}

		sess := aSession("later")
		s.putLater(sess)
		if _, err := s.write(ctx); err == nil {
			t.Fatal("a closed database takes sessions")
		}
		sess.Rooms["late"] = 3
		s.putLater(sess)
		s.store = &closed
		if more, err := s.write(ctx); more || err != nil {
			t.Fatalf("more %v, %v", more, err)
		}
		if got := lookup(t, s, "later"); got == nil || got.Rooms["late"] != 3 {
			t.Errorf("found %+v", got)
		}
		if got := countRows(t, h.db, "gateway_session"); got != 1 {
			t.Errorf("%d sessions are there: what failed for one who was told must not come back", got)
		}
	})
}

// closedDB is a database that answers nothing.
func closedDB(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()}, "gateway", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return db
}

// waitFor waits until n sessions wait to be written.
func waitFor(t *testing.T, s *sessionService, n int) {
	t.Helper()
	apptest.Eventually(t, func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.order) != n {
			return fmt.Sprintf("%d sessions wait", len(s.order))
		}
		return ""
	})
}

func TestSessionsRestSealed(t *testing.T) {
	t.Parallel()
	eachHouse(t, func(t *testing.T, h house) {
		s := h.sessions(t, "one")
		runSessions(t, s)
		mustPut(t, s, aSession("p"))
		var sealed []byte
		var pid []byte
		if err := h.db.Read().QueryRowContext(t.Context(), `select pid, sealed from gateway_session`).Scan(&pid, &sealed); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"zoe", "orders", "sid of"} {
			if strings.Contains(string(sealed), text) {
				t.Errorf("%q rests in the clear", text)
			}
		}
		if seal.Index(pid) != s.index("p") {
			t.Error("the key is not the blind index of the pid")
		}
	})
}
