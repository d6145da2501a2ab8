package crm

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/store/storetest"
)

// office is crm at work.
type office struct {
	*testing.T
	product *apptest.Product
	mu      sync.Mutex
	s       *service
	seqs    map[string]int64
}

// newOffice starts the module on its own. Pauses are short.
func newOffice(t *testing.T, options ...apptest.Option) *office {
	t.Helper()
	o := &office{T: t, seqs: map[string]int64{}}
	module := Module
	module.New = func(p app.Platform) (app.Service, error) {
		s, err := newService(p)
		if err == nil {
			o.mu.Lock()
			o.s = s.(*service)
			o.mu.Unlock()
		}
		return s, err
	}
	options = append([]apptest.Option{apptest.Env("APP_CRM_RETRY_MIN=5ms", "APP_CRM_RETRY_MAX=50ms", "APP_CRM_TIMEOUT=500ms")}, options...)
	o.product = apptest.Start(t, []app.Module{module}, options...)
	return o
}

func (o *office) service() *service {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.s
}

// onBoth runs a test with SQLite and with PostgreSQL.
func onBoth(t *testing.T, test func(t *testing.T, options ...apptest.Option)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, apptest.Args("--database-url="+storetest.Postgres(t)))
	})
}

// say publishes an event as the next of its log.
func (o *office) say(topic string, event any) rawEvent {
	o.Helper()
	text, err := json.Marshal(map[string]any{"Event": event, "Id": o.seqs[topic] + 1})
	if err != nil {
		o.Fatal(err)
	}
	e := rawEvent{Topic: topic, Log: "kafka/" + topic + "/0", Seq: o.seqs[topic], At: time.Now(), Value: text}
	o.seqs[topic]++
	o.publish(e)
	return e
}

func (o *office) publish(events ...rawEvent) {
	o.Helper()
	if err := o.service().publish(o.Context(), events); err != nil {
		o.Fatal(err)
	}
}

func (o *office) faults(f mock.Faults) { o.service().mock.SetFaults(f) }

// crm is what the CRM shows.
type crm struct {
	users map[string]crmUser
	trips map[string]crmTrip
}

// shows reads the CRM over HTTP.
func (o *office) shows() crm {
	o.Helper()
	var users []crmUser
	var trips []crmTrip
	if o.product.Call(http.MethodGet, "/crm/users", nil, &users) != 200 || o.product.Call(http.MethodGet, "/crm/trips", nil, &trips) != 200 {
		o.Fatal("the CRM cannot be read")
	}
	return shownBy(o.T, users, trips)
}

// shownBy fails the test if an object is there twice.
func shownBy(t *testing.T, users []crmUser, trips []crmTrip) crm {
	t.Helper()
	c := crm{map[string]crmUser{}, map[string]crmTrip{}}
	for _, u := range users {
		if _, twice := c.users[u.ID]; twice {
			t.Fatalf("user %s is there twice", u.ID)
		}
		c.users[u.ID] = u
	}
	for _, trip := range trips {
		if _, twice := c.trips[trip.ID]; twice {
			t.Fatalf("trip %s is there twice", trip.ID)
		}
		c.trips[trip.ID] = trip
	}
	return c
}

// replay reads events in the order of their logs, and tells what a CRM has to
// show. It shares no code with the module.
func replay(events []rawEvent) crm {
	type user struct {
		Id                         string
		LastName, FirstName, Email *string
	}
	type booking struct {
		Id               string
		UserId, From, To *string
		Type             int
		StartDate        string
		EndDate          *string
		Price            float64
		place            int
	}
	users, bookings := map[string]user{}, map[string]booking{}
	for i, e := range events {
		switch e.Topic {
		case "internal_user_updated":
			var v struct{ Event user }
			if json.Unmarshal(e.Value, &v) == nil {
				users[v.Event.Id] = v.Event
			}
		case "internal_booking_updated":
			var v struct{ Event booking }
			if json.Unmarshal(e.Value, &v) == nil {
				v.Event.place = i
				bookings[v.Event.Id] = v.Event
			}
		}
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	c := crm{map[string]crmUser{}, map[string]crmTrip{}}
	last := map[string]booking{}
	for id, b := range bookings {
		owner := text(b.UserId)
		if _, known := users[owner]; owner != "" && !known {
			continue
		}
		c.trips[id] = crmTrip{ID: id, UserID: owner, From: b.From, To: b.To, Price: b.Price, StartDate: b.StartDate, EndDate: b.EndDate,
			Type: []string{"Unknown", "Scooter", "Rental", "RideHailing"}[b.Type]}
		start, _ := time.Parse(time.RFC3339Nano, b.StartDate)
		was, _ := time.Parse(time.RFC3339Nano, last[owner].StartDate)
		if l, ok := last[owner]; !ok || start.After(was) || start.Equal(was) && b.place > l.place {
			last[owner] = b
		}
	}
	for id, u := range users {
		shown := crmUser{ID: id, LastName: text(u.LastName), FirstName: u.FirstName, Email: text(u.Email), LastTripDate: "0001-01-01T00:00:00Z"}
		if l, ok := last[id]; ok {
			shown.LastTripID, shown.LastTripType, shown.LastTripDate = &l.Id, new(c.trips[l.Id].Type), l.StartDate
		}
		c.users[id] = shown
	}
	return c
}

// differs tells how the CRM differs from what it should show.
func differs(have, want crm) string {
	var out strings.Builder
	compare(&out, "user", have.users, want.users)
	compare(&out, "trip", have.trips, want.trips)
	return out.String()
}

func compare[T any](out *strings.Builder, kind string, have, want map[string]T) {
	if len(have) != len(want) {
		fmt.Fprintf(out, "%d %ss, want %d\n", len(have), kind, len(want))
	}
	n := 0
	all := maps.Clone(want)
	maps.Copy(all, have)
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if _, ok := want[id]; !ok {
			fmt.Fprintf(out, "%s %s should not be there\n", kind, id)
			continue
		}
		a, _ := json.Marshal(have[id])
		b, _ := json.Marshal(want[id])
		if string(a) != string(b) {
			if n++; n > 3 {
				break
			}
			fmt.Fprintf(out, "%s %s:\n  is     %s\n  should %s\n", kind, id, a, b)
		}
	}
}

// comesTo waits until the CRM shows what events say.
func (o *office) comesTo(events []rawEvent) {
	o.Helper()
	want := replay(events)
	apptest.Within(o, time.Minute, func() string { return differs(o.shows(), want) })
}

// platformLike makes events as a mobility platform does.
type platformLike struct {
	*rand.Rand
	users, trips []string
	owners       []*string
}

func (p *platformLike) maybe(text string) *string {
	if p.IntN(2) == 0 {
		return nil
	}
	return new(fmt.Sprintf("%s%d", text, p.IntN(1000)))
}

func (p *platformLike) next(o *office) rawEvent {
	if p.IntN(2) == 0 {
		if len(p.users) == 0 || p.IntN(4) == 0 {
			p.users = append(p.users, fmt.Sprintf("user-%d", len(p.users)))
		}
		return o.say(topicUser, userEvent{p.users[p.IntN(len(p.users))], p.maybe("last"), p.maybe("first"), p.maybe("mail@")})
	}
	b := bookingEvent{From: p.maybe("from"), To: p.maybe("to"), Type: p.IntN(4), Price: p.Float64(),
		StartDate: time.Date(2023, 4, 25, p.IntN(24), p.IntN(60), p.IntN(60), 123456700, time.FixedZone("", 3*3600)).Format(time.RFC3339Nano)}
	if p.IntN(2) == 0 {
		b.EndDate = new("2023-05-02T01:12:15.1234567+03:00")
	}
	switch n := p.IntN(10); {
	case len(p.trips) == 0 || n < 4: // its user may come later
		b.ID = fmt.Sprintf("trip/%d ü", len(p.trips))
		p.trips, p.owners = append(p.trips, b.ID), append(p.owners, nil)
		if n > 0 {
			p.owners[len(p.owners)-1] = new(fmt.Sprintf("user-%d", p.IntN(len(p.users)+2)))
		}
		b.UserID = p.owners[len(p.owners)-1]
	default:
		i := p.IntN(len(p.trips))
		if n == 9 && len(p.users) > 0 { // it goes to another user
			p.owners[i] = new(p.users[p.IntN(len(p.users))])
		}
		b.ID, b.UserID = p.trips[i], p.owners[i]
	}
	return o.say(topicBooking, b)
}

func TestTheCRMComesToWhatTheEventsSay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		faults mock.Faults
	}{
		{"a CRM that is well", mock.Faults{}},
		{"a CRM that fails", mock.Faults{Errors: 0.2, Resets: 0.1, Lost: 0.1, Garbage: 0.05, Throttle: 0.01}},
		{"a CRM that replaces what is there", mock.Faults{IDs: "replace", Errors: 0.1, Lost: 0.2}},
		{"a CRM that takes an id twice", mock.Faults{IDs: "duplicate", Errors: 0.1, Lost: 0.2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, options ...apptest.Option) {
				o := newOffice(t, options...)
				o.faults(c.faults)
				p := &platformLike{Rand: rand.New(rand.NewPCG(1, 2))}
				var events []rawEvent
				for range 300 {
					e := p.next(o)
					events = append(events, e)
					for p.IntN(4) == 0 { // again
						o.publish(events[p.IntN(len(events))])
					}
				}
				apptest.Within(t, 30*time.Second, func() string {
					o.faults(mock.Faults{IDs: c.faults.IDs}) // for who looks
					have := o.shows()
					o.faults(c.faults)
					return differs(have, replay(events))
				})
			})
		})
	}
}

func TestTheMockIsToldAgainAfterARestart(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	p := &platformLike{Rand: rand.New(rand.NewPCG(5, 6))}
	var events []rawEvent
	for range 50 {
		events = append(events, p.next(o))
	}
	o.comesTo(events)
	o.product.Restart()
	o.comesTo(events)
}

func TestUsersWhoAreAlikeAreTwo(t *testing.T) {
	t.Parallel()
	for _, ids := range []string{mock.Conflict, mock.Own} {
		t.Run(ids, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			suffers := func(what string, f mock.Faults, event userEvent) rawEvent {
				f.IDs = ids
				before := o.service().mock.Counts().Faults[what]
				o.faults(f)
				e := o.say(topicUser, event)
				apptest.Eventually(t, func() string {
					if o.service().mock.Counts().Faults[what] == before {
						return "nothing suffers"
					}
					return ""
				})
				return e
			}
			// The one is there, though nobody knows; the other is not.
			events := []rawEvent{suffers("lost", mock.Faults{Lost: 1}, userEvent{ID: "1", FirstName: new(twin + " v1")}),
				suffers("errors", mock.Faults{Errors: 1}, userEvent{ID: "2", FirstName: new(twin + " v1")})}
			o.faults(mock.Faults{IDs: ids})
			if ids == mock.Conflict {
				o.comesTo(events)
				return
			}
			apptest.Eventually(t, func() string {
				if n, units := len(o.shows().users), o.waiting(); n != 2 || units > 0 {
					return fmt.Sprintf("%d users, %d units wait", n, units)
				}
				return ""
			})
		})
	}
}

// TestAStateThatComesBackIsSentThoughTheOneBetweenGotNoAnswer has a user change
// and change back, while the CRM takes what it is sent and answers nothing.
func TestAStateThatComesBackIsSentThoughTheOneBetweenGotNoAnswer(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		user := userEvent{ID: "u", FirstName: new("one")}
		o.comesTo([]rawEvent{o.say(topicUser, user)})
		o.faults(mock.Faults{Lost: 1})
		user.FirstName = new("two")
		o.say(topicUser, user)
		apptest.Eventually(t, func() string {
			if n := o.service().mock.Counts().Faults["lost"]; n == 0 {
				return "no answer was lost"
			}
			// The failure is written down, not left to the lease.
			var attempts int
			if err := o.service().p.DB.Read().QueryRowContext(t.Context(), `select coalesce(max(attempts), 0) from crm_unit`).Scan(&attempts); err != nil || attempts == 0 {
				return fmt.Sprintf("%d attempts, %v", attempts, err)
			}
			return ""
		})
		user.FirstName = new("one")
		events := []rawEvent{o.say(topicUser, user)}
		apptest.Eventually(t, func() string {
			last := o.service().mock.History("", "", 0, 0)
			if text := string(last[len(last)-1].State); !strings.Contains(text, `"FirstName":"one"`) {
				return "the CRM shows " + text
			}
			return ""
		})
		o.faults(mock.Faults{})
		o.comesTo(events)
	})
}

// A gateway that gives up tells nothing of the CRM behind it, which may still be
// at it.
func TestAGatewaysTimeoutIsOne(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var calls []time.Time
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if calls = append(calls, time.Now()); len(calls) == 1 {
			w.WriteHeader(http.StatusGatewayTimeout)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	defer s.Close()
	o := newOffice(t, apptest.Env("APP_CRM_URL="+s.URL, "APP_CRM_TOKEN=token"))
	o.say(topicUser, userEvent{ID: "u"})
	apptest.Eventually(t, func() string {
		mu.Lock()
		defer mu.Unlock()
		if len(calls) < 2 {
			return fmt.Sprintf("%d calls", len(calls))
		}
		return ""
	})
	mu.Lock()
	defer mu.Unlock()
	if rest := calls[1].Sub(calls[0]); rest < o.service().cfg.Timeout {
		t.Errorf("it called again after %s", rest)
	}
}

// waiting is how many units the CRM does not show yet.
func (o *office) waiting() (units int) {
	o.Helper()
	if err := o.service().p.DB.Read().QueryRowContext(o.Context(), `select count(*) from crm_unit`).Scan(&units); err != nil {
		o.Fatal(err)
	}
	return units
}

func TestATripThatWaitsMayGoToAUserWhoIsThere(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		o := newOffice(t, options...)
		r := o.service().sync
		for range cap(r.room) { // the test has all places
			r.room <- struct{}{}
		}
		folded := func(n int) {
			apptest.Eventually(t, func() string {
				var events int
				err := o.service().p.DB.Read().QueryRowContext(t.Context(), `select coalesce(sum(events), 0) from crm_position`).Scan(&events)
				if err != nil || events < n {
					return fmt.Sprintf("%d of %d events are folded, %v", events, n, err)
				}
				return ""
			})
		}
		trip := bookingEvent{ID: "trip", UserID: new("nobody"), StartDate: "2023-04-25T12:56:15.1234567+03:00"}
		events := []rawEvent{o.say(topicUser, userEvent{ID: "somebody"}), o.say(topicBooking, trip)}
		folded(2)
		now := time.Now()
		units, err := r.store.claim(t.Context(), now, now.Add(time.Hour), 1, 10)
		if err == nil {
			err = r.store.load(t.Context(), units)
		}
		if err != nil || len(units) != 2 {
			t.Fatal(len(units), err)
		}
		// While somebody finds that the trip has to wait:
		trip.UserID = new("somebody")
		events = append(events, o.say(topicBooking, trip))
		folded(3)
		var verdicts []verdict
		for _, u := range units {
			v := verdict{unit: u.id, claim: 1, done: true, waiting: u.trips}
			if u.user != nil {
				v.due = now
			}
			verdicts = append(verdicts, v)
		}
		if err := r.store.settle(t.Context(), verdicts, now); err != nil {
			t.Fatal(err)
		}
		for range cap(r.room) {
			<-r.room
		}
		o.comesTo(events)
	})
}
