package crm

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/apptest"
)

// story tells events as a mobility platform does, in the order of each topic.
// Each event of a user or trip bears, in FirstName or From, whose it is and a
// number that grows, so that a state of the CRM tells how old it is.
type story struct {
	*rand.Rand
	logs     map[string]*storyLog
	at       time.Time
	users    []string
	owners   []*string // of trips
	versions map[string]int
	events   []rawEvent
}

// storyLog is what a topic was when its producer or its cluster began.
type storyLog struct {
	made    int   // how often the topic was made
	seq     int64 // of the next event
	counter int   // of the producer
}

func newStory(t *testing.T) *story {
	seed := rand.Uint64()
	t.Logf("the story of %d", seed)
	return &story{Rand: rand.New(rand.NewPCG(seed, 0)), logs: map[string]*storyLog{topicUser: {}, topicBooking: {}},
		at: time.Now().Add(-time.Hour), versions: map[string]int{}}
}

func (s *story) maybe(text string) *string {
	if s.IntN(2) == 0 {
		return nil
	}
	return new(text + strconv.Itoa(s.IntN(1000)))
}

func (s *story) version(of string) *string {
	s.versions[of]++
	return new(of + " v" + strconv.Itoa(s.versions[of]))
}

// versionOf undoes version.
func versionOf(text *string) (of string, version int) {
	if text == nil {
		return "", 0
	}
	at := strings.LastIndex(*text, " v")
	if at < 0 {
		return "", 0
	}
	version, _ = strconv.Atoi((*text)[at+2:]) // 0 is older than all
	return (*text)[:at], version
}

// tells gives the next event of a topic.
func (s *story) tells(topic string, event any) rawEvent {
	l := s.logs[topic]
	l.counter++
	value, _ := json.Marshal(map[string]any{"Event": event, "Id": l.counter}) // texts and finite numbers
	s.at = s.at.Add(time.Millisecond)
	e := rawEvent{Topic: topic, Log: fmt.Sprintf("kafka/%s/0@%08x", topic, l.made), Seq: l.seq, At: s.at, Value: value}
	l.seq++
	s.events = append(s.events, e)
	return e
}

// next is about a user or a trip that there is already, or a new one.
func (s *story) next() rawEvent {
	if s.IntN(3) == 0 {
		n := s.IntN(len(s.users) + 1)
		if n == len(s.users) {
			s.users = append(s.users, "user-"+strconv.Itoa(n))
		}
		id := s.users[n]
		return s.tells(topicUser, userEvent{id, s.maybe("last"), s.version(id), s.maybe("mail@")})
	}
	n := s.IntN(len(s.owners) + 1)
	switch {
	case n == len(s.owners): // its user may come later
		s.owners = append(s.owners, nil)
		if s.IntN(8) > 0 {
			s.owners[n] = new("user-" + strconv.Itoa(s.IntN(len(s.users)+2)))
		}
	case s.IntN(8) == 0 && len(s.users) > 0: // it goes to another
		s.owners[n] = new(s.users[s.IntN(len(s.users))])
	}
	id := fmt.Sprintf("trip/%d ü", n)
	b := bookingEvent{ID: id, UserID: s.owners[n], From: s.version(id), To: s.maybe("to"), Type: s.IntN(4), Price: s.Float64(),
		StartDate: time.Date(2023, 4, 25, s.IntN(24), 0, 0, 123456700, time.FixedZone("", 3*3600)).Format(time.RFC3339Nano)}
	if s.IntN(2) == 0 {
		b.EndDate = new("2023-05-02T01:12:15.1234567+03:00")
	}
	return s.tells(topicBooking, b)
}

// restart has the producer begin again, which counts from 1 then, and now and
// then the topics are made anew.
func (s *story) restart() {
	anew := s.IntN(2)
	for _, l := range s.logs {
		l.counter, l.made = 0, l.made+anew
		if anew > 0 {
			l.seq = 0
		}
	}
}

// twin is of users who are all alike: their objects differ only by their ids.
const twin = "twin"

func (s *story) twin(n int) rawEvent {
	return s.tells(topicUser, userEvent{ID: twin + "-" + strconv.Itoa(n), FirstName: new(twin + " v1")})
}

// onlyGrows checks that no object of the CRM got an older state after a newer
// one, and that none was made twice.
func onlyGrows(t *testing.T, history []mock.Change) {
	t.Helper()
	newest, made := map[string]int{}, map[string]int{}
	for _, c := range history {
		var state struct{ FirstName, From *string }
		if err := json.Unmarshal(c.State, &state); err != nil {
			t.Fatal(err)
		}
		text := state.FirstName
		if c.Kind == "trips" {
			text = state.From
		}
		of, version := versionOf(text)
		if of == "" {
			t.Fatalf("a state of nobody: %s", c.State)
		}
		if object := c.Kind + "/" + c.ID; version < newest[object] {
			t.Errorf("%s went from version %d back to %d", object, newest[object], version)
		} else {
			newest[object] = version
		}
		if c.Created && of != twin {
			if made[of]++; made[of] == 2 {
				t.Errorf("%s was made twice", of)
			}
		}
	}
}

// ours gives what a CRM with ids of its own shows by the ids of the platform.
// Two objects of one user or trip are an error.
func (c crm) ours(t *testing.T) crm {
	t.Helper()
	out := crm{map[string]crmUser{}, map[string]crmTrip{}}
	users, trips := map[string]string{"": ""}, map[string]string{}
	twins := 0
	for remote, u := range c.users {
		id, _ := versionOf(u.FirstName)
		if id == twin {
			id += "-" + strconv.Itoa(twins)
			twins++
		}
		if _, twice := out.users[id]; twice {
			t.Fatalf("user %s is there twice", id)
		}
		users[remote], u.ID = id, id
		out.users[id] = u
	}
	for remote, trip := range c.trips {
		id, _ := versionOf(trip.From)
		if _, twice := out.trips[id]; twice {
			t.Fatalf("trip %s is there twice", id)
		}
		trips[remote] = id
		user, ok := users[trip.UserID]
		if !ok {
			user = "nobody's " + trip.UserID
		}
		trip.ID, trip.UserID = id, user
		out.trips[id] = trip
	}
	for id, u := range out.users {
		if u.LastTripID != nil {
			trip, ok := trips[*u.LastTripID]
			if !ok {
				trip = "nobody's " + *u.LastTripID
			}
			u.LastTripID = &trip
			out.users[id] = u
		}
	}
	return out
}

// TestWhateverHappensTheCRMEndsRightAndNeverGoesBack has everything that can go
// wrong at a CRM go wrong while events come, again and again, from topics that
// are not in step.
func TestWhateverHappensTheCRMEndsRightAndNeverGoesBack(t *testing.T) {
	t.Parallel()
	for _, ids := range []string{mock.Conflict, mock.Replace, mock.Own, mock.Duplicate} {
		t.Run(ids, func(t *testing.T) {
			t.Parallel()
			onBoth(t, func(t *testing.T, options ...apptest.Option) {
				o := newOffice(t, append(options, apptest.Env("APP_CRM_TIMEOUT=200ms"))...)
				s := newStory(t)
				suffers(o, s, ids)
				comesToStory(o, s, ids)
			})
		})
	}
}

// suffers tells a story through each kind of fault.
func suffers(o *office, s *story, ids string) {
	o.Helper()
	late := mock.Duration(300 * time.Millisecond) // beyond the timeout
	spells := []mock.Faults{{Errors: 1}, {Throttle: 1}, {Resets: 1}, {Lost: 1}, {Garbage: 1}, {Down: true}, {Latency: late}, {Lost: 0.5, Jitter: late}}
	s.Shuffle(len(spells), func(i, j int) { spells[i], spells[j] = spells[j], spells[i] })
	var waiting [2][]rawEvent // by topic, in its order
	var told []rawEvent
	tell := func(least int) {
		for len(waiting[0])+len(waiting[1]) > least {
			q := &waiting[s.IntN(2)]
			n := min(len(*q), 1+s.IntN(8))
			o.publish((*q)[:n]...)
			told, *q = append(told, (*q)[:n]...), (*q)[n:]
			if s.IntN(4) == 0 && len(told) > 0 { // again, from an older place on
				from := s.IntN(len(told))
				o.publish(told[from:min(len(told), from+10)]...)
			}
		}
	}
	hear := func(e rawEvent) {
		topic := 0
		if e.Topic == topicBooking {
			topic = 1
		}
		waiting[topic] = append(waiting[topic], e)
	}
	for n := range 4 {
		hear(s.twin(n))
	}
	for _, f := range spells {
		f.IDs = ids
		before := o.service().mock.Counts()
		o.faults(f)
		for range 15 {
			hear(s.next())
		}
		hear(s.tells(topicUser, userEvent{ID: "user-of-" + strconv.Itoa(len(s.events)), FirstName: s.version("user-of-" + strconv.Itoa(len(s.events)))})) // somebody whom the CRM does not have
		tell(0)
		apptest.Within(o, 20*time.Second, func() string {
			if now := o.service().mock.Counts(); sumOf(now.Faults) < sumOf(before.Faults)+2 && f.Latency == 0 && f.Jitter == 0 || sumOf(now.Calls) < sumOf(before.Calls)+2 {
				return fmt.Sprintf("nothing suffers %+v: %+v, before %+v", f, now, before)
			}
			return ""
		})
		o.faults(mock.Faults{IDs: ids, Errors: 0.1, Resets: 0.05, Lost: 0.1, Garbage: 0.05, Jitter: mock.Duration(2 * time.Millisecond)})
		for range 20 {
			hear(s.next())
			if s.IntN(10) == 0 {
				s.restart()
			}
			tell(10) // some stay behind
		}
		before = o.service().mock.Counts() // the breaker closes with a call that went well
		apptest.Within(o, 30*time.Second, func() string {
			if o.service().mock.Counts().Changes == before.Changes {
				return "the CRM is not served again"
			}
			return ""
		})
	}
	tell(0)
}

func sumOf(counts map[string]int64) (sum int64) {
	for n := range maps.Values(counts) {
		sum += n
	}
	return sum
}

// comesToStory waits until the CRM, in good health again, shows what the story
// says, and checks how it came to it.
func comesToStory(o *office, s *story, ids string) {
	o.Helper()
	o.faults(mock.Faults{IDs: ids})
	want := replay(s.events)
	apptest.Within(o, 40*time.Second, func() string {
		have := o.shows()
		if ids == mock.Own {
			have = have.ours(o.T)
		}
		return differs(have, want)
	})
	history := o.service().mock.History("", "", 0, 0)
	onlyGrows(o.T, history)
	made := len(slices.DeleteFunc(history, func(c mock.Change) bool { return !c.Created }))
	if made != len(want.users)+len(want.trips) {
		o.Errorf("%d objects were made for %d users and %d trips", made, len(want.users), len(want.trips))
	}
}
