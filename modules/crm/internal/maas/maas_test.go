package maas_test

import (
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"switchboard/modules/crm/internal/maas"
)

var now = time.Date(2023, 4, 25, 12, 0, 0, 123_456_700, time.FixedZone("", 3*3600))

type fields struct {
	ID, UserID, LastName, FirstName, Email, From, To, StartDate, EndDate *string
	Type                                                                 int
	Price                                                                float64
}

func read(t *testing.T, e maas.Event) (f fields, id int) {
	t.Helper()
	var v struct {
		Event fields
		ID    int `json:"Id"`
	}
	if err := json.Unmarshal(e.Value, &v); err != nil {
		t.Fatalf("%v: %s", err, e.Value)
	}
	return v.Event, v.ID
}

func TestTheStatisticsAreThoseOfThePlatform(t *testing.T) {
	t.Parallel()
	p := maas.New(maas.Options{Seed: 7, Now: func() time.Time { return now }})
	const events = 20_000
	var count struct{ users, newUsers, bookings, newBookings float64 }
	nulls := map[string]float64{}
	types := map[int]float64{}
	firstUser, firstBooking := map[string]fields{}, map[string]fields{}
	var users []string
	updated := map[string]bool{}
	back, price0, long, clock := 0.0, 0.0, 0, time.Duration(0)
	tally := func(name string, s *string) {
		if s == nil {
			nulls[name]++
		}
	}
	for i := range events {
		e, pause := p.Next()
		if clock += pause; pause < 0 || pause > 4*time.Second || pause%time.Second != 0 {
			t.Fatalf("event %d comes after %v", i, pause)
		}
		f, id := read(t, e)
		if want := binary.BigEndian.Uint32(e.Key); len(e.Key) != 4 || id != int(want)+1 {
			t.Fatalf("key %x, Id %d", e.Key, id)
		}
		if e.Topic == maas.TopicUser {
			if n := int(count.users); id != n+1 {
				t.Fatalf("Id %d of user event %d", id, n)
			}
			count.users++
			first, known := firstUser[*f.ID]
			if known == e.New {
				t.Fatal("New is wrong")
			}
			if !known {
				count.newUsers++
				firstUser[*f.ID] = f
				users = append(users, *f.ID)
				tally("LastName", f.LastName)
				tally("FirstName", f.FirstName)
				if !strings.HasSuffix(*f.Email, "@trafi.com") {
					t.Fatal(*f.Email)
				}
				if f.LastName != nil && (len(*f.LastName) < 10 || len(*f.LastName) > 17) {
					long++
				}
			} else {
				if *f.Email != *first.Email {
					t.Fatal("an e-mail changed")
				}
				if same(f.LastName, first.LastName) {
					back++
				}
			}
			continue
		}
		count.bookings++
		types[f.Type]++
		first, known := firstBooking[*f.ID]
		if known == e.New {
			t.Fatal("New is wrong")
		}
		tally("To", f.To)
		tally("EndDate", f.EndDate)
		if f.Price == 0 {
			price0++
		}
		if f.Price < 0 || f.Price >= 1 || *f.StartDate != "2023-04-25T12:00:00.1234567+03:00" {
			t.Fatalf("%s", e.Value)
		}
		if !known {
			count.newBookings++
			firstBooking[*f.ID] = f
			tally("From", f.From)
			if f.UserID == nil || *f.UserID == users[len(users)-1] && len(users) > 1 {
				t.Fatalf("of the last of %d users: %s", len(users), e.Value)
			}
		} else {
			updated[*f.ID] = true
			if !same(f.From, first.From) || !same(f.UserID, first.UserID) || f.Type != first.Type {
				t.Fatal("an update changed what it should not")
			}
		}
	}
	for _, c := range []struct {
		what           string
		got, low, high float64
	}{
		{"user events of all", count.users / events, 0.48, 0.52},
		{"events per second and topic", events / 2 / clock.Seconds(), 0.38, 0.42},
		{"new users", count.newUsers / count.users, 0.08, 0.12},
		{"new bookings", count.newBookings / count.bookings, 0.67, 0.73},
		{"LastName null at first", nulls["LastName"] / count.newUsers, 0.54, 0.66},
		{"FirstName null at first", nulls["FirstName"] / count.newUsers, 0.54, 0.66},
		{"From null", nulls["From"] / count.newBookings, 0.57, 0.63},
		{"To null", nulls["To"] / count.bookings, 0.57, 0.63},
		{"EndDate null", nulls["EndDate"] / count.bookings, 0.57, 0.63},
		{"Price 0", price0 / count.bookings, 0.57, 0.63},
		{"LastName as at first, of updates", back / (count.users - count.newUsers), 0.57, 0.63},
		{"Type 0", types[0] / count.bookings, 0.3, 0.37},
		{"Type 1", types[1] / count.bookings, 0.3, 0.37},
		{"Type 2", types[2] / count.bookings, 0.3, 0.37},
		{"bookings that were updated, by users", float64(len(updated)) / count.newUsers, 0.7, 1},
		{"odd names", float64(long), 0, 0},
	} {
		if c.got < c.low || c.got > c.high {
			t.Errorf("%s: %.3f, want %.2f to %.2f", c.what, c.got, c.low, c.high)
		}
	}
}

func same(a, b *string) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

func TestARestartForgetsEverything(t *testing.T) {
	t.Parallel()
	p := maas.New(maas.Options{Seed: 7, RestartAfter: 100})
	runs := make([]map[string]bool, 3)
	for i := range runs {
		runs[i] = map[string]bool{}
		for n := range 100 {
			e, _ := p.Next()
			if n == 0 && (e.Topic != maas.TopicUser || !e.New || !slices.Equal(e.Key, []byte{0, 0, 0, 0})) {
				t.Errorf("run %d begins with %s %x", i, e.Topic, e.Key)
			}
			f, _ := read(t, e)
			runs[i][*f.ID] = true
		}
		for id := range runs[i] {
			if i > 0 && runs[i-1][id] {
				t.Errorf("run %d knows %s", i, id)
			}
		}
	}
	if p.Restarts() != 2 {
		t.Errorf("%d restarts", p.Restarts())
	}
}

func TestASeedRepeatsTheSameEvents(t *testing.T) {
	t.Parallel()
	o := maas.Options{Seed: 3, Now: func() time.Time { return now }}
	a, b := maas.New(o), maas.New(o)
	o.Seed = 4
	c := maas.New(o)
	differs := false
	for range 50 {
		x, _ := a.Next()
		y, _ := b.Next()
		z, _ := c.Next()
		if string(x.Value) != string(y.Value) {
			t.Fatalf("%s\n%s", x.Value, y.Value)
		}
		differs = differs || string(x.Value) != string(z.Value)
	}
	if !differs {
		t.Error("another seed makes the same events")
	}
}
