package crm

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/apptest"
	"switchboard/platform/store"
)

// user and trip make events.
func user(id, last string) map[string]any {
	return map[string]any{"Id": id, "LastName": last, "FirstName": nil, "Email": id + "@example.com"}
}

func trip(id, user string, day int) map[string]any {
	e := map[string]any{"Id": id, "UserId": user, "From": "Here", "To": nil, "Type": 1, "StartDate": fmt.Sprintf("2026-01-%02dT10:00:00.1234567+03:00", day), "EndDate": nil, "Price": 1.5}
	if user == "" {
		e["UserId"] = nil
	}
	return e
}

// ask calls a route and wants a status.
func (o *office) ask(want int, method, path string, in, out any) {
	o.Helper()
	resp, text := o.product.Exchange(o.product.Request(o.product.Key, method, path, in))
	if resp.StatusCode != want {
		o.Fatalf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, want, text)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(text, out); err != nil {
		o.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
}

func (o *office) status() (s IntegrationStatus) {
	o.Helper()
	o.ask(200, http.MethodGet, "/crm/integration/status", nil, &s)
	return s
}

// rests waits until nothing is on its way and so many users and trips are known.
func (o *office) rests(users, trips int64) {
	o.Helper()
	apptest.Within(o, time.Minute, func() string {
		if s := o.status(); s.State != stateInStep || s.Users != users || s.Trips != trips {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
}

func (o *office) reconcile(body string) (r Reconciliation) {
	o.Helper()
	o.ask(200, http.MethodPost, "/crm/integration/reconcile", body, &r)
	return r
}

// tells gives differences as lines, in order.
func (r *Reconciliation) tells() string {
	var lines []string
	for _, d := range r.Differences {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", d.Kind, d.ID, d.What, strings.Join(d.Fields, ","))))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestStatusTellsHowFarTheCRMIs(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		if s := o.status(); s.State != stateInStep || s.CRM.Address != "mock" || s.CRM.Breaker != "closed" || s.CRM.Until != nil || s.Unfolded == nil || *s.Unfolded != 0 {
			t.Errorf("at the beginning: %+v", s)
		}
		o.say(topicUser, user("u1", "One"))
		o.say(topicBooking, trip("t1", "u1", 1))
		o.say(topicBooking, trip("t2", "nobody", 1))
		o.say(topicUser, map[string]any{"Id": ""})
		o.rests(1, 2)
		s := o.status()
		if s.Dirty.Units != 0 || s.Dirty.Objects != 0 || s.Dirty.Waiting == 0 || s.Dirty.OldestAt != nil || s.DeadLetters != (DeadLetterCounts{Events: 1}) || len(s.Reasons) != 0 {
			t.Errorf("at rest: %+v", s)
		}
		made := map[string]int64{}
		for _, c := range s.CRM.Calls {
			made[c.Kind+" "+c.Call+" "+c.Result] = c.Count
		}
		if made["user create done"] != 1 || made["trip create done"] != 1 {
			t.Errorf("calls: %v", made)
		}
		if len(s.Positions) != 2 || s.Positions[0].Log != "kafka/"+topicBooking+"/0" || s.Positions[0].Events != 2 || s.Positions[0].Seq != 1 || s.Positions[1].Events != 2 {
			t.Errorf("positions: %+v", s.Positions)
		}
		if err := o.service().statuses.refresh(t.Context()); err != nil {
			t.Error(err)
		}
		resp, text := o.product.Exchange(o.product.Request(o.product.Key, http.MethodGet, "/metrics", nil))
		for _, line := range []string{"crm_dead_letters 1", `crm_dirty{of="units"} 0`, `crm_dirty{of="objects"} 0`, "crm_dirty_oldest_seconds 0"} {
			if resp.StatusCode != 200 || !strings.Contains(string(text), "\n"+line+"\n") {
				t.Errorf("metrics lack %s", line)
			}
		}
		o.faults(mock.Faults{Down: true})
		for i := range 40 {
			o.say(topicUser, user(fmt.Sprintf("d%d", i), "Down"))
		}
		apptest.Within(t, time.Minute, func() string {
			if s = o.status(); s.State != stateFailing || s.CRM.Breaker != "open" || s.CRM.Until == nil || s.Dirty.Units == 0 || s.Dirty.OldestAt == nil {
				return fmt.Sprintf("with the CRM down: %+v", s)
			}
			return ""
		})
		o.faults(mock.Faults{})
		o.rests(41, 2)
	})
}

func TestAddressOfTheCRMIsShownWithoutCredentials(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "mock", "https://crm.example/api": "https://crm.example/api", "https://me:secret@crm.example:8443/api?key=secret#x": "https://crm.example:8443/api"} {
		if got := addressOf(text); got != want {
			t.Errorf("%s is shown as %s", text, got)
		}
	}
}

func TestReconciliationFindsAndRepairsWhatDiffers(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		var events []rawEvent
		for i := range 5 {
			events = append(events, o.say(topicUser, user(fmt.Sprintf("u%d", i), "Last")), o.say(topicBooking, trip(fmt.Sprintf("t%d", i), fmt.Sprintf("u%d", i), 1+i)))
		}
		events = append(events, o.say(topicBooking, trip("t5", "", 1)), o.say(topicBooking, trip("t6", "nobody", 1)))
		o.rests(5, 7)
		if r := o.reconcile(`{}`); r.tells() != "" || r.Repairing != 0 || r.Users != (Comparison{Compared: 5, Equal: 5}) || r.Trips != (Comparison{Compared: 7, Equal: 6, Waiting: 1}) {
			t.Errorf("in step: %+v", r)
		}
		// The same instant in another form is no difference.
		u1, t1 := o.shows().users["u1"], o.shows().trips["t1"]
		u1.LastTripDate = "2026-01-02T07:00:00.1234567Z"
		t1.StartDate = u1.LastTripDate
		o.ask(200, http.MethodPost, "/crm/users/u1", u1, nil)
		o.ask(200, http.MethodPost, "/crm/trips/t1", t1, nil)
		u2, t2 := o.shows().users["u2"], o.shows().trips["t2"]
		u2.LastName, u2.FirstName, u2.LastTripDate = "Changed", new("By hand"), "2026-01-02T07:00:00.1234566Z"
		t2.Price, t2.From, t2.EndDate = 2, nil, new("2026-01-03T07:00:00Z")
		o.ask(200, http.MethodPost, "/crm/users/u2", u2, nil)
		o.ask(200, http.MethodPost, "/crm/trips/t2", t2, nil)
		extra := crmUser{ID: "stranger", LastTripDate: noTripDate}
		o.ask(201, http.MethodPost, "/crm/users", extra, nil)
		want := "trip t2 different From,Price,EndDate\nuser stranger extra\nuser u2 different LastName,FirstName,LastTripDate"
		r := o.reconcile(`{"repair":false}`)
		if r.tells() != want || r.Repairing != 0 || r.Truncated || r.Users != (Comparison{Compared: 5, Equal: 4, Different: 1, Extra: 1}) {
			t.Errorf("without repair: %s\n%+v", r.tells(), r)
		}
		if r := o.reconcile(`{"repair":false,"limit":1}`); len(r.Differences) != 1 || !r.Truncated || r.Trips.Different != 1 {
			t.Errorf("with a limit: %+v", r)
		}
		if o.status(); o.shows().users["u2"].LastName != "Changed" {
			t.Error("it was repaired although nobody asked for that")
		}
		if r := o.reconcile(``); r.tells() != want || r.Repairing != 2 {
			t.Errorf("with repair: %s\n%+v", r.tells(), r)
		}
		o.rests(5, 7)
		if r := o.reconcile(`{}`); r.tells() != "user stranger extra" {
			t.Errorf("after the repair: %+v", r)
		}
		// The CRM loses everything.
		o.service().mock.Reset()
		if r := o.reconcile(`{}`); r.Users.Missing != 5 || r.Trips.Missing+r.Trips.Waiting != 7 || r.Repairing != r.Users.Missing+r.Trips.Missing || r.Differences[0].What != wrongMissing {
			t.Errorf("an empty CRM: %+v", r)
		}
		o.comesTo(events)
		o.rests(5, 7)
		if r := o.reconcile(`{}`); r.tells() != "" {
			t.Errorf("at the end: %+v", r)
		}
	})
}

func TestReconciliationSendsTripsAgainWhileTheirUserIsMadeAnew(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		o.say(topicUser, user("u", "Last"))
		o.say(topicBooking, trip("t", "u", 1))
		o.rests(1, 1)
		r := o.holds()
		o.service().mock.Reset()
		if err := o.service().p.DB.Tx(t.Context(), func(tx store.Querier) error {
			_, err := tx.ExecContext(t.Context(), `update crm_copy set state = $1 where entity = $2`, int64(copyTried), r.keys.Index("user_id", "u"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if r := o.reconcile(`{}`); r.Users.Missing != 1 || r.Trips.Missing != 1 || r.Repairing != 2 {
			t.Errorf("%+v", r)
		}
	})
}

func TestReconciliationNamesTheSecondOfTwo(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.say(topicUser, user("u1", "One"))
	o.rests(1, 0)
	o.faults(mock.Faults{IDs: mock.Duplicate})
	o.ask(201, http.MethodPost, "/crm/users", crmUser{ID: "u1", LastTripDate: noTripDate}, nil)
	o.faults(mock.Faults{})
	if r := o.reconcile(`{}`); r.tells() != "user u1 duplicate" || r.Users != (Comparison{Compared: 1, Equal: 1, Duplicate: 1}) {
		t.Errorf("%+v", r)
	}
}

func TestReconciliationBindsWhatTheCRMHasAlready(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		events := []rawEvent{o.say(topicUser, user("u1", "One")), o.say(topicUser, user("u2", "Two"))}
		o.rests(2, 0)
		err := o.service().p.DB.Tx(t.Context(), func(tx store.Querier) error {
			_, err := tx.ExecContext(t.Context(), `delete from crm_copy`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		o.faults(mock.Faults{IDs: mock.Duplicate}) // another one would be seen
		u2 := o.shows().users["u2"]
		u2.LastName = "Changed"
		o.ask(200, http.MethodPost, "/crm/users/u2", u2, nil)
		if r := o.reconcile(`{}`); r.tells() != "user u2 different LastName" || r.Users.Equal != 1 {
			t.Errorf("%+v", r)
		}
		o.comesTo(events)
		var u TracedUser
		if o.ask(200, http.MethodGet, "/crm/integration/users/u1", nil, &u); u.AtCRM != "there" || !u.Current || u.State != stateInStep {
			t.Errorf("u1: %+v", u)
		}
	})
}

func TestReconciliationMatchesIdsOfTheCRM(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.faults(mock.Faults{IDs: mock.Own})
	o.say(topicUser, user("u1", "One"))
	o.say(topicBooking, trip("t1", "u1", 1))
	o.rests(1, 1)
	agrees := func() string {
		c := o.shows()
		if len(c.users) != 1 || len(c.trips) != 1 {
			return fmt.Sprintf("the CRM has %d users and %d trips", len(c.users), len(c.trips))
		}
		for id, trip := range c.trips {
			for user, has := range c.users {
				if user == "u1" || trip.UserID != user || has.LastTripID == nil || *has.LastTripID != id {
					return fmt.Sprintf("%+v", c)
				}
			}
		}
		return ""
	}
	apptest.Eventually(t, agrees)
	if r := o.reconcile(`{}`); r.tells() != "" || r.Users.Equal != 1 || r.Trips.Equal != 1 {
		t.Errorf("in step: %+v", r)
	}
	o.service().mock.Reset() // all ids are other ones then
	if r := o.reconcile(`{}`); r.Users.Missing != 1 {
		t.Errorf("an empty CRM: %+v", r)
	}
	apptest.Within(t, time.Minute, func() string {
		o.rests(1, 1)
		if r := o.reconcile(`{}`); r.tells() != "" {
			return r.tells()
		}
		return agrees()
	})
}

func TestReconciliationNeedsTheCRM(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.faults(mock.Faults{Down: true})
	var problem struct{ Detail string }
	if o.ask(503, http.MethodPost, "/crm/integration/reconcile", nil, &problem); !strings.HasPrefix(problem.Detail, "the CRM does not give its users") {
		t.Errorf("%+v", problem)
	}
	o.service().reconciles.running.Lock()
	o.ask(409, http.MethodPost, "/crm/integration/reconcile", nil, nil)
	o.service().reconciles.running.Unlock()
	o.ask(422, http.MethodPost, "/crm/integration/reconcile", `{"limit":1001}`, nil)
	reader := o.product.NewKey(map[string]any{"name": "reader", "scopes": []string{"crm:read"}})
	for _, path := range []string{"/reconcile", "/backfill", "/dead-letters/redrive"} {
		if status := o.product.CallAs(reader, http.MethodPost, "/crm/integration"+path, nil, nil); status != http.StatusForbidden {
			t.Errorf("a reader may %s: %d", path, status)
		}
	}
}

func (o *office) letters(query string) []DeadLetter {
	o.Helper()
	var page struct{ Items []DeadLetter }
	o.ask(200, http.MethodGet, "/crm/integration/dead-letters"+query, nil, &page)
	return page.Items
}

// dies waits for so many dead letters.
func (o *office) dies(n int) (list []DeadLetter) {
	o.Helper()
	apptest.Within(o, time.Minute, func() string {
		if list = o.letters(""); len(list) != n {
			return fmt.Sprintf("%d dead letters, want %d: %+v", len(list), n, list)
		}
		return ""
	})
	return list
}

func TestDeadEventsAreShownDiscardedAndRedriven(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		o.say(topicUser, map[string]any{"Id": "u1", "LastName": 7, "FirstName": nil, "Email": nil})
		o.say(topicUser, user("u2", "Now"))
		o.publish(rawEvent{Topic: "someones_topic", Log: "kafka/x/0", Seq: 3, At: time.Now(), Value: []byte("\xff no text")})
		letters := o.dies(2)
		o.rests(1, 0)
		stranger, typed := letters[0], letters[1]
		if typed.Topic != topicUser {
			stranger, typed = typed, stranger
		}
		if typed.Kind != deadEvent || typed.Reason != "Event.LastName is not a text or null" || *typed.Seq != 0 || typed.Log != "kafka/"+topicUser+"/0" || typed.Content != nil || typed.At == nil {
			t.Errorf("%+v", typed)
		}
		if stranger.Topic != "unknown" || stranger.Reason != "the topic is unknown" {
			t.Errorf("%+v", stranger)
		}
		if len(o.letters("?kind=event")) != 2 || len(o.letters("?kind=user")) != 0 {
			t.Error("the filter by kind")
		}
		var first, second answered[DeadLetter]
		o.ask(200, http.MethodGet, "/crm/integration/dead-letters?limit=1", nil, &first)
		o.ask(200, http.MethodGet, "/crm/integration/dead-letters?limit=1&cursor="+*first.Next, nil, &second)
		if first.Items[0].ID != letters[0].ID || second.Items[0].ID != letters[1].ID || second.Next != nil {
			t.Errorf("pages: %+v %+v", first, second)
		}

		at := "/crm/integration/dead-letters/" + typed.ID.String()
		var d DeadLetter
		if o.ask(200, http.MethodGet, at+"?content=true", nil, &d); d.Content == nil || !strings.Contains(*d.Content, `"LastName":7`) {
			t.Errorf("content: %+v", d)
		}
		if o.ask(200, http.MethodGet, "/crm/integration/dead-letters/"+stranger.ID.String()+"?content=true", nil, &d); string(d.Bytes) != "\xff no text" {
			t.Errorf("content of bytes: %+v", d)
		}
		reader := o.product.NewKey(map[string]any{"name": "reader", "scopes": []string{"crm:read"}})
		if status := o.product.CallAs(reader, http.MethodGet, at, nil, nil); status != 200 {
			t.Errorf("a reader sees the letter: %d", status)
		}
		if status := o.product.CallAs(reader, http.MethodGet, at+"?content=true", nil, nil); status != 403 {
			t.Errorf("a reader sees the content: %d", status)
		}

		var r Redriven
		if o.ask(200, http.MethodPost, at+"/redrive", nil, &r); r.Dead != 1 || len(r.Reasons) != 1 || r.Reasons[0] != (DeadReason{typed.Reason, 1}) {
			t.Errorf("still dead: %+v", r)
		}
		// What was not understood of old, and is today: one that nothing followed, and
		// one that something newer followed.
		s := o.service()
		err := s.p.DB.Tx(t.Context(), func(tx store.Querier) error {
			var list []deadLetter
			for i, e := range []map[string]any{user("u3", "Found"), user("u2", "Old")} {
				text, _ := json.Marshal(map[string]any{"Event": e, "Id": 1})
				raw := rawEvent{Topic: topicUser, Log: "kafka/" + topicUser + "/0", Seq: int64(-10 + i), At: time.Now(), Value: text}
				sealed, err := s.fold.dead.Seal(encodeRaw(raw))
				if err != nil {
					return err
				}
				list = append(list, deadLetter{ID: uuid.Must(uuid.NewV7()), Kind: deadEvent, Topic: topicUser, Log: raw.Log, Seq: raw.Seq, Reason: "of old", Sealed: sealed, CreatedAt: time.Now(), At: raw.At})
			}
			return insertDead(t.Context(), tx, list)
		})
		if err != nil {
			t.Fatal(err)
		}
		if o.ask(200, http.MethodPost, "/crm/integration/dead-letters/redrive", `{"kind":"event"}`, &r); r.Folded != 2 || r.Dead != 2 || len(r.Reasons) != 2 || r.Sending != 0 || r.Gone != 0 {
			t.Errorf("all: %+v", r)
		}
		o.rests(2, 0)
		apptest.Eventually(t, func() string {
			if c := o.shows(); c.users["u3"].LastName != "Found" || c.users["u2"].LastName != "Now" {
				return fmt.Sprintf("%+v", c)
			}
			return ""
		})
		o.ask(204, http.MethodDelete, at, nil, nil)
		o.ask(404, http.MethodDelete, at, nil, nil)
		o.ask(404, http.MethodGet, at, nil, nil)
		o.ask(404, http.MethodPost, at+"/redrive", nil, nil)
		o.ask(422, http.MethodGet, "/crm/integration/dead-letters/x", nil, nil)
		o.dies(1)
	})
}

// answered is a page of a list.
type answered[T any] struct {
	Items []T
	Next  *string
}

func TestWhatTheCRMRefusesIsSentAgain(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		o.faults(mock.Faults{Refuse: []string{"u1", "t2"}})
		events := []rawEvent{o.say(topicUser, user("u1", "One")), o.say(topicUser, user("u2", "Two")), o.say(topicBooking, trip("t2", "u2", 1))}
		letters := o.dies(2)
		o.rests(2, 1)
		for _, d := range letters {
			if want := map[string]string{deadUser: "u1", deadTrip: "t2"}[d.Kind]; d.ObjectID != want || d.Seq != nil || d.Reason != "the CRM refuses it: status 400" {
				t.Errorf("%+v", d)
			}
		}
		if r := o.reconcile(`{}`); r.tells() != "" || r.Users.Refused != 1 || r.Trips.Refused != 1 {
			t.Errorf("reconciled: %+v", r)
		}
		var u TracedUser
		if o.ask(200, http.MethodGet, "/crm/integration/users/u1", nil, &u); u.State != "refused" || u.Refusal == "" || u.AtCRM != "unknown" || u.SentAt != nil {
			t.Errorf("%+v", u)
		}
		o.faults(mock.Faults{})
		var r Redriven
		if o.ask(200, http.MethodPost, "/crm/integration/dead-letters/redrive", nil, &r); r.Sending != 2 || r.Dead != 0 || r.Folded != 0 {
			t.Errorf("%+v", r)
		}
		o.comesTo(events)
		o.dies(0)
	})
}

func TestBackfillSendsEverythingAgain(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		events := []rawEvent{o.say(topicUser, user("u1", "One")), o.say(topicUser, user("u2", "Two")), o.say(topicBooking, trip("t1", "u1", 1))}
		o.rests(2, 1)
		o.service().mock.Reset()
		var b Backfill
		if o.ask(202, http.MethodPost, "/crm/integration/backfill", `{"from":"2026-01-02T00:00:00Z"}`, &b); b.State != backfillReading || b.From == nil {
			t.Errorf("%+v", b)
		}
		apptest.Eventually(t, func() string {
			if s := o.status(); s.Backfill == nil || s.Backfill.State != backfillDone || s.Backfill.Users != 2 || s.Backfill.Trips != 1 || s.Backfill.EndedAt == nil {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		})
		o.comesTo(events)
		o.service().backfills.note(func(b *backfill) { b.state = backfillSending })
		o.ask(409, http.MethodPost, "/crm/integration/backfill", nil, nil)
		o.service().backfills.note(func(b *backfill) { b.state = backfillDone })
		o.ask(202, http.MethodPost, "/crm/integration/backfill", nil, nil)
		o.ask(422, http.MethodPost, "/crm/integration/backfill", `{"from":"yesterday"}`, nil)
	})
}

func TestUsersAndTripsAreTraced(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		o.say(topicBooking, trip("t/1", "u 1", 1))
		apptest.Eventually(t, func() string {
			var trip TracedTrip
			if o.product.Call(http.MethodGet, "/crm/integration/trips/t%2F1", nil, &trip); trip.State != "waiting" || trip.AtCRM != "unknown" {
				return fmt.Sprintf("%+v", trip)
			}
			return ""
		})
		o.ask(404, http.MethodGet, "/crm/integration/users/u%201", nil, nil)
		o.say(topicUser, user("u 1", "One"))
		o.rests(1, 1)
		var u TracedUser
		o.ask(200, http.MethodGet, "/crm/integration/users/u%201", nil, &u)
		if u.State != stateInStep || !u.Current || u.SentAt == nil || u.User.LastTripID == nil || *u.User.LastTripID != "t/1" || u.DirtySince != nil || u.Log != "kafka/"+topicUser+"/0" || u.Seq != 0 {
			t.Errorf("%+v", u)
		}
		o.faults(mock.Faults{Errors: 1})
		o.say(topicUser, user("u 1", "Two"))
		apptest.Eventually(t, func() string {
			if o.ask(200, http.MethodGet, "/crm/integration/users/u%201", nil, &u); u.State != stateBehind || u.Current || u.Attempts == 0 || u.LastError != "status 503" || u.NextAttemptAt == nil || u.DirtySince == nil {
				return fmt.Sprintf("%+v", u)
			}
			return ""
		})
		o.faults(mock.Faults{})
		o.rests(1, 1)

		events := func(path string, limit int) (out []string) {
			for cursor := ""; ; {
				var page answered[LogEntry]
				o.ask(200, http.MethodGet, fmt.Sprintf("%s?limit=%d%s", path, limit, cursor), nil, &page)
				for _, e := range page.Items {
					out = append(out, e.Event)
				}
				if page.Next == nil {
					return out
				}
				if len(page.Items) != limit {
					t.Errorf("a page of %d, not %d", len(page.Items), limit)
				}
				cursor = "&cursor=" + *page.Next
			}
		}
		wantUser := []string{"crm.trip.received", "crm.user.received", "crm.user.created", "crm.trip.created", "crm.user.updated", "crm.user.received", "crm.user.updated"}
		apptest.Eventually(t, func() string {
			if got := events("/crm/integration/users/u%201/log", 1000); !slices.Equal(got, wantUser) {
				return fmt.Sprintf("%q", got)
			}
			return ""
		})
		for limit := 1; limit < 8; limit++ {
			if got := events("/crm/integration/users/u%201/log", limit); !slices.Equal(got, wantUser) {
				t.Errorf("in pages of %d: %q", limit, got)
			}
		}
		if got, want := events("/crm/integration/trips/t%2F1/log", 50), []string{"crm.trip.received", "crm.trip.created"}; !slices.Equal(got, want) {
			t.Errorf("of the trip: %q", got)
		}
		if got := events("/crm/integration/users/nobody/log", 50); len(got) != 0 {
			t.Errorf("of nobody: %q", got)
		}
	})
}

func TestReconciliationTakesNothingOnItsWayForADifference(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		p := &platformLike{Rand: rand.New(rand.NewPCG(1, 2))}
		for range 15 {
			for range 20 {
				p.next(o)
			}
			if r := o.reconcile(`{"repair":false}`); r.tells() != "" {
				t.Fatalf("%s\n%+v", r.tells(), r)
			}
		}
	})
}

func TestReconciliationGoesThroughManyPages(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	const users, trips = comparePage + 10, 10
	var events []rawEvent
	for i := range users {
		text, _ := json.Marshal(map[string]any{"Event": user(fmt.Sprintf("u%d", i), "Last"), "Id": i})
		events = append(events, rawEvent{Topic: topicUser, Log: "kafka/u", Seq: int64(i), At: time.Now(), Value: text})
	}
	for i := range trips {
		text, _ := json.Marshal(map[string]any{"Event": trip(fmt.Sprintf("t%d", i), fmt.Sprintf("u%d", i), 1), "Id": i})
		events = append(events, rawEvent{Topic: topicBooking, Log: "kafka/t", Seq: int64(i), At: time.Now(), Value: text})
	}
	o.publish(events...)
	o.rests(users, trips)
	if r := o.reconcile(`{}`); r.Users != (Comparison{Compared: users, Equal: users}) || r.Trips != (Comparison{Compared: trips, Equal: trips}) {
		t.Errorf("%+v", r)
	}
	o.service().mock.Reset()
	if r := o.reconcile(`{"repair":false,"limit":10}`); r.Users.Missing != users || r.Trips.Missing != trips || len(r.Differences) != 10 || !r.Truncated {
		t.Errorf("%+v", r)
	}
}
