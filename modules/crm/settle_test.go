package crm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/apptest"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// elsewhere is a CRM that nobody calls while the test holds all places. The mock
// would have all users marked once more, some time after the start.
var elsewhere = apptest.Env("APP_CRM_URL=http://127.0.0.1:1/crm", "APP_CRM_TOKEN=token")

// holds has the test do what workers do: it takes all places.
func (o *office) holds() *reconciler {
	r := o.service().sync
	for range cap(r.room) {
		r.room <- struct{}{}
	}
	o.Cleanup(func() {
		for range cap(r.room) {
			<-r.room
		}
	})
	return r
}

// folds folds events of users and bookings, as the next of a log.
func (o *office) folds(events ...any) {
	o.Helper()
	var list []rawEvent
	for _, event := range events {
		topic := topicUser
		if _, ok := event.(bookingEvent); ok {
			topic = topicBooking
		}
		text, err := json.Marshal(map[string]any{"Event": event, "Id": 1})
		if err != nil {
			o.Fatal(err)
		}
		list = append(list, rawEvent{Topic: topic, Log: "test", Seq: o.seqs["test"], At: time.Now(), Value: text})
		o.seqs["test"]++
	}
	if err := o.service().fold.fold(o.Context(), list); err != nil {
		o.Fatal(err)
	}
}

// takes claims all units that are due at a time, and loads them.
func (o *office) takes(r *reconciler, now time.Time, claim int64) map[seal.Index]*unit {
	o.Helper()
	units, err := r.store.claim(o.Context(), now, now.Add(time.Hour), claim, 1000)
	if err == nil {
		err = r.store.load(o.Context(), units)
	}
	if err != nil {
		o.Fatal(err)
	}
	of := map[seal.Index]*unit{}
	for _, u := range units {
		of[u.id] = u
	}
	return of
}

// unitRow is what crm_unit has of a unit, with how many marks it has.
type unitRow struct {
	due      store.Micros
	claim    int64
	attempts int64
	err      string
	marks    int
}

func (o *office) units() map[seal.Index]unitRow {
	o.Helper()
	units := map[seal.Index]unitRow{}
	err := store.Each(o.Context(), o.service().p.DB.Read(), `select unit, due_at, claim, attempts, last_error, (select count(*) from crm_dirty d where d.unit = u.unit) from crm_unit u`, nil, func(scan func(...any) error) error {
		var id seal.Index
		var u unitRow
		err := scan(&id, &u.due, &u.claim, &u.attempts, &u.err, &u.marks)
		units[id] = u
		return err
	})
	if err != nil {
		o.Fatal(err)
	}
	return units
}

func TestVerdictsOfABatchDoNotMeetEachOther(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, append(options, elsewhere)...)
		r := o.holds()
		id := func(name string) seal.Index { return r.keys.Index("user_id", name) }
		names := []string{"newer", "taken", "later", "teller", "failing", "refused", "again"}
		for n := range 150 { // more than go into a statement
			names = append(names, fmt.Sprintf("common-%d", n))
		}
		var events []any
		for _, name := range names {
			events = append(events, userEvent{ID: name})
		}
		for n := range 100 {
			events = append(events, bookingEvent{ID: fmt.Sprintf("trip-%d", n), UserID: new("common-0"), StartDate: "2023-04-25T12:56:15.1234567+03:00"})
		}
		o.folds(events...)
		now := time.Now().Truncate(time.Microsecond)
		units := o.takes(r, now, 1)
		if len(units) != len(names) {
			t.Fatalf("%d units of %d", len(units), len(names))
		}

		verdicts := map[string]*verdict{}
		for _, name := range names {
			u := units[id(name)]
			verdicts[name] = &verdict{unit: u.id, claim: 1, until: u.until, done: true, clear: append(u.trips, u.user)}
		}
		verdicts["teller"].later = []seal.Index{id("later")}
		verdicts["failing"].failed, verdicts["failing"].due, verdicts["failing"].err, verdicts["failing"].clear = true, now.Add(time.Minute), "503", nil
		dead := deadLetter{Kind: deadUser, Reason: "no", Sealed: []byte{}, CreatedAt: now, At: now}
		for i, name := range []string{"refused", "again"} {
			dead.ID[0], dead.Entity, dead.Subject = byte(i+1), new(id(name)), new(units[id(name)].user.subject)
			verdicts[name].dead = []deadLetter{dead}
		}
		verdicts["again"].alive = []seal.Index{id("again")}
		// Meanwhile:
		o.folds(userEvent{ID: "newer", FirstName: new("Mylaeshuro")}, userEvent{ID: "taken", FirstName: new("Mylaeshuro")})
		err := r.store.db.Tx(t.Context(), func(tx store.Querier) error {
			_, err := tx.ExecContext(t.Context(), `update crm_unit set claim = 2 where unit = $1`, id("taken"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		list := make([]verdict, 0, len(verdicts))
		for _, v := range verdicts { // in any order
			list = append(list, *v)
		}
		now = now.Add(time.Second)
		if err := r.store.settle(t.Context(), list, now); err != nil {
			t.Fatal(err)
		}

		want := map[seal.Index]unitRow{
			id("newer"):   {due: store.MicrosOf(now), marks: 1},
			id("taken"):   {due: o.units()[id("taken")].due, claim: 2, marks: 1},
			id("later"):   {due: store.MicrosOf(now), marks: 1},
			id("failing"): {due: store.MicrosOf(now.Add(59 * time.Second)), attempts: 1, err: "503", marks: 1},
		}
		if have := o.units(); !maps.Equal(have, want) {
			t.Errorf("units\n%v, want\n%v", have, want)
		}
		letters, err := o.service().deads.store.list(t.Context(), "", nil, 10)
		if err != nil || len(letters) != 1 || *letters[0].Entity != id("refused") {
			t.Errorf("dead letters %v, %v", letters, err)
		}
	})
}

func TestATripIsReadAsADirtyOneAndAsTheLastOne(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, append(options, elsewhere)...)
		r := o.holds()
		user := func(name string) seal.Index { return r.keys.Index("user_id", name) }
		trip := func(name string) seal.Index { return r.keys.Index("trip_id", name) }
		at := func(hour int) string { return fmt.Sprintf("2023-04-25T%02d:56:15.1234567+03:00", hour) }
		o.folds(userEvent{ID: "anna"}, userEvent{ID: "ben"},
			bookingEvent{ID: "first", UserID: new("anna"), StartDate: at(1)}, bookingEvent{ID: "last", UserID: new("anna"), StartDate: at(2)},
			bookingEvent{ID: "unsent", UserID: new("anna"), StartDate: at(3)}, bookingEvent{ID: "early", UserID: new("nobody"), StartDate: at(4)},
			bookingEvent{ID: "alone", StartDate: at(5)})
		o.folds(bookingEvent{ID: "gone", UserID: new("anna"), StartDate: at(6)})
		o.folds(bookingEvent{ID: "gone", UserID: new("ben"), StartDate: at(6)}) // still in anna's unit
		now := time.Now()
		units := o.takes(r, now, rand.Int64())
		var copies []copied
		for _, name := range []string{"first", "last", "gone"} {
			copies = append(copies, copied{trip(name), kindTrip, copyRow{state: copyExists, sealed: []byte{}, sentAt: now}})
		}
		refused := deadLetter{ID: [16]byte{1}, Kind: deadTrip, Entity: new(trip("unsent")), Subject: new(seal.Subject), Sealed: []byte{}, CreatedAt: now, At: now}
		err := r.store.settle(t.Context(), []verdict{{unit: user("anna"), until: now.Add(time.Hour), copies: copies, dead: []deadLetter{refused}}}, now)
		if err == nil {
			err = r.store.load(t.Context(), slices.Collect(maps.Values(units)))
		}
		if err != nil {
			t.Fatal(err)
		}

		type seen struct{ dirty, last string }
		names := map[seal.Index]string{}
		for _, name := range []string{"first", "last", "unsent", "early", "alone", "gone"} {
			names[trip(name)] = name
		}
		have := map[seal.Index]seen{}
		for _, u := range units {
			var s seen
			var dirty []string
			for _, tr := range u.trips {
				name := names[tr.entity]
				if tr.subject.IsZero() { // a mark of a user whom nobody knows
					name = "-"
				}
				if !tr.dirty || tr.mark == 0 || tr.dead != (name == "unsent") || (tr.copy.state == copyExists) != (name == "first" || name == "last" || name == "gone") {
					t.Errorf("trip %s is read as %+v", name, tr)
				}
				dirty = append(dirty, name)
			}
			slices.Sort(dirty)
			s.dirty = fmt.Sprint(dirty)
			if u.last != nil {
				s.last = names[u.last.entity]
			}
			have[u.id] = s
		}
		want := map[seal.Index]seen{
			user("anna"):   {"[first gone last unsent]", "last"},
			user("ben"):    {"[]", "gone"},
			user("nobody"): {"[- early]", ""},
			trip("alone"):  {"[alone]", ""},
		}
		if !maps.Equal(have, want) {
			t.Errorf("read\n%v, want\n%v", have, want)
		}
	})
}

func TestAVerdictThatComesTooLateOnlyCastsDoubt(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, append(options, elsewhere)...)
		r := o.holds()
		o.folds(userEvent{ID: "anna"}, userEvent{ID: "ben"}, userEvent{ID: "carl"})
		user := func(name string) seal.Index { return r.keys.Index("user_id", name) }
		now := time.Now()
		slow := o.takes(r, now, 1)
		later := now.Add(2 * time.Hour)
		says := func(u *unit, state copyState, sent string) verdict {
			c := copyRow{state: state, subject: u.user.subject, sealed: []byte{}, sentAt: later}
			if state == copyExists {
				c.digest, c.remote = r.keys.Index("crm.copy", sent), new(r.keys.Index("crm.id", sent))
			}
			return verdict{unit: u.id, claim: u.claim, until: u.until, copies: []copied{{u.id, kindUser, c}}}
		}
		ends := func(v verdict, u *unit) verdict {
			v.done, v.clear = true, []*object{u.user}
			return v
		}
		settle := func(v verdict, at time.Time) {
			t.Helper()
			if err := r.store.settle(t.Context(), []verdict{v}, at); err != nil {
				t.Fatal(err)
			}
		}
		settle(says(slow[user("ben")], copyTried, ""), now)
		// Of one whose unit nobody took it counts, late as it is.
		settle(ends(says(slow[user("carl")], copyExists, "alone"), slow[user("carl")]), later)
		quick := o.takes(r, later, 2)
		if len(slow) != 3 || len(quick) != 2 || !quick[user("anna")].lost {
			t.Fatalf("the first took %v, the second %v", slow, quick)
		}
		settle(ends(says(quick[user("anna")], copyExists, "new"), quick[user("anna")]), later)
		settle(ends(says(slow[user("anna")], copyExists, "old"), slow[user("anna")]), later)
		settle(ends(says(slow[user("ben")], copyExists, "lost"), slow[user("ben")]), later)
		copies, err := r.store.copiesOf(t.Context(), user("anna"), user("ben"), user("carl"))
		if err != nil {
			t.Fatal(err)
		}
		remote := func(name string) string { return r.keys.Index("crm.id", name).String() }
		type knows struct {
			state  copyState
			remote string
			sure   bool
		}
		for name, want := range map[string]knows{"anna": {copyExists, remote("new"), false}, "ben": {copyTried, "", false}, "carl": {copyExists, remote("alone"), true}} {
			c := copies[user(name)]
			have := knows{c.state, "", c.digest != seal.Index{}}
			if c.remote != nil {
				have.remote = c.remote.String()
			}
			if have != want {
				t.Errorf("of %s it knows %+v, want %+v", name, have, want)
			}
		}
		// Whoever has the unit keeps it, and what there is to do in it.
		left := o.units()
		if u := left[user("ben")]; len(left) != 1 || u.claim != 2 || u.marks != 1 {
			t.Errorf("the units are %+v", left)
		}
	})
}

func TestWhatAnotherMadeWhileItsUnitWasTakenIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		o.faults(mock.Faults{IDs: mock.Own})
		r := o.holds()
		event := userEvent{ID: "anna", FirstName: new("Anna")}
		o.folds(event)
		now, anna := time.Now(), r.keys.Index("user_id", "anna")
		slow := &job{reconciler: r, unit: o.takes(r, now, 1)[anna]}
		body, err := json.Marshal(event.user("anna", nil))
		if err == nil {
			err = r.load(t.Context(), []*unit{slow.unit})
		}
		if err == nil {
			err = slow.tried(t.Context(), slow.user, body)
		}
		if err != nil {
			t.Fatal(err)
		}
		quick := o.takes(r, now.Add(2*time.Hour), 2)[anna]
		if err := r.load(t.Context(), []*unit{quick}); err != nil || quick.user.copy.state != copyTried {
			t.Fatalf("the second worker reads %+v, %v", quick.user.copy, err)
		}
		made := r.client.create(t.Context(), kindUser, body)
		err = slow.shown(t.Context(), slow.user, "anna", made.id, r.keys.Index("crm.copy", string(body)))
		if err == nil {
			err = r.store.settle(t.Context(), []verdict{{unit: anna, claim: quick.claim, until: quick.until, copies: slow.v.copies}}, now)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.work(t.Context(), quick)
		apptest.Eventually(t, func() string {
			if u := o.units(); len(u) > 0 {
				return fmt.Sprintf("under way: %+v", u)
			}
			return ""
		})
		if users := o.shows().users; len(users) != 1 || made.id == "" || users[made.id].FirstName == nil {
			t.Errorf("the CRM shows %+v, the first one is %s", users, made.id)
		}
	})
}

func TestAMarkThatComesWhileItsUnitIsLeftBringsItBack(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, append(options, elsewhere)...)
		r := o.holds()
		o.folds(userEvent{ID: "anna"})
		anna := r.keys.Index("user_id", "anna")
		now := time.Now().Truncate(time.Microsecond)
		u := o.takes(r, now, 1)[anna]

		marked, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		errs := make(chan error, 2)
		go func() {
			errs <- r.store.db.Tx(t.Context(), func(tx store.Querier) error {
				err := markDirty(t.Context(), tx, map[dirtyKey]bool{{anna, r.keys.Index("trip_id", "trip")}: true}, now)
				once.Do(func() { close(marked) })
				<-goOn
				return err
			})
		}()
		<-marked
		var left atomic.Bool
		go func() {
			err := r.store.settle(t.Context(), []verdict{{unit: anna, claim: 1, until: u.until, done: true, clear: []*object{u.user}}}, now)
			left.Store(true)
			errs <- err
		}()
		apptest.Eventually(t, func() string {
			if left.Load() || r.store.db.Engine() == store.SQLite { // it waits for its turn
				return ""
			}
			waiting := 0
			if err := r.store.db.Read().QueryRowContext(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&waiting); err != nil || waiting == 0 {
				return fmt.Sprintf("the unit is neither left nor waited for: %v", err)
			}
			return ""
		})
		close(goOn)
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if have, want := o.units()[anna], (unitRow{due: store.MicrosOf(now), marks: 1}); have != want {
			t.Errorf("the unit is %+v, want %+v", have, want)
		}
	})
}

func TestMarksThatLostTheirUnitGetOne(t *testing.T) {
	t.Parallel()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		first, err := fs.ReadFile(migrations, "migrations/0001_crm.sql")
		if err != nil {
			t.Fatal(err)
		}
		before, err := store.Open(t.Context(), cfg, "crm", fstest.MapFS{"migrations/0001_crm.sql": {Data: first}})
		if err != nil {
			t.Fatal(err)
		}
		one, two := seal.Index{1}, seal.Index{2}
		err = before.Tx(t.Context(), func(tx store.Querier) error {
			err := markDirty(t.Context(), tx, map[dirtyKey]bool{{one, one}: true, {one, two}: true, {two, two}: true}, time.Now())
			if err == nil {
				_, err = tx.ExecContext(t.Context(), `delete from crm_unit where unit = $1`, one)
			}
			return err
		})
		if err := errors.Join(err, before.Close()); err != nil {
			t.Fatal(err)
		}
		db := storetest.Open(t, cfg, "crm", migrations)
		var units, due int
		if err := db.Read().QueryRowContext(t.Context(), `select count(*), sum(case when due_at = 0 then 1 else 0 end) from crm_unit`).Scan(&units, &due); err != nil || units != 2 || due != 1 {
			t.Errorf("%d units, %d are due: %v", units, due, err)
		}
	})
}
