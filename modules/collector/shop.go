package collector

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"
)

// shop plays the visitors of a web shop: it makes the events that their
// browsers would send. It is as random as its source, so that a seed repeats
// a day exactly.
type shop struct {
	rand     *rand.Rand
	visitors []*visitor
	// late and bad are the shares of events that come out of order, and that
	// no collector should accept.
	late, bad float64
	held      []shopEvent // to be sent later than they occurred
}

// visitor is one person in the shop with one session.
type visitor struct {
	session, user string
	first, last   string
	step          int
	path          string
	cart          int
}

// shopEvent is an event as the shop's script would send it.
type shopEvent map[string]any

var (
	shopFirst    = []string{"Ada", "Bruno", "Chiara", "David", "Elif", "Farid", "Greta", "Hugo", "Inés", "Jonas", "Keiko", "Liam"}
	shopLast     = []string{"Almeida", "Berg", "Costa", "Dubois", "Eriksen", "Fischer", "García", "Haddad", "Ivanova", "Jansen", "Kowalski", "Li"}
	shopSections = []string{"/shoes", "/coats", "/lamps", "/chairs", "/books"}
	shopClicks   = []string{"chat bubble", "buy button", "newsletter", "size guide"}
)

func newShop(seed uint64, visitors int, late, bad float64) *shop {
	s := &shop{rand: rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15)), late: late, bad: bad}
	for range visitors {
		s.visitors = append(s.visitors, s.enter())
	}
	return s
}

// enter makes a new visitor.
func (s *shop) enter() *visitor {
	v := &visitor{session: fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", s.rand.Uint32(), s.rand.Uint32()>>16, s.rand.Uint32()>>20, s.rand.Uint32()>>20, s.rand.Uint64()>>16),
		first: pick(s.rand, shopFirst), last: pick(s.rand, shopLast), path: "/"}
	if s.rand.Float64() < 0.4 { // logged in from the start
		v.user = fmt.Sprintf("customer-%d", s.rand.IntN(100_000))
	}
	return v
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// next gives the next event that arrives at the collector, now being the time
// there. Few events carry an id of their own; none has two visitors.
func (s *shop) next(now time.Time) shopEvent {
	if len(s.held) > 0 && s.rand.Float64() < 0.3 {
		e := s.held[0]
		s.held = s.held[1:]
		return e
	}
	i := s.rand.IntN(len(s.visitors))
	v := s.visitors[i]
	e := s.visit(v, now)
	if v.step > 25 || v.step > 4 && s.rand.Float64() < 0.08 {
		s.visitors[i] = s.enter()
	}
	switch p := s.rand.Float64(); {
	case p < s.bad:
		return s.spoil(e)
	case p < s.bad+s.late && len(s.held) < 100:
		s.held = append(s.held, e)
		return s.next(now)
	}
	return e
}

// visit is what a visitor does next: they look around, put things into the
// cart, and some of them buy.
func (s *shop) visit(v *visitor, now time.Time) shopEvent {
	v.step++
	category, name := "page interaction", "pageview"
	data := map[string]any{"host": "shop.example", "path": v.path}
	switch p := s.rand.Float64(); {
	case v.step == 1:
	case p < 0.45:
		v.path = pick(s.rand, shopSections)
		if s.rand.Float64() < 0.6 {
			v.path += fmt.Sprintf("/%d", 100+s.rand.IntN(50))
		}
		data["path"] = v.path
	case p < 0.65:
		name = "cta click"
		data["element"] = pick(s.rand, shopClicks)
	case p < 0.85:
		category, name = "cart", "add"
		v.cart++
		data = map[string]any{"sku": fmt.Sprintf("sku-%d", 100+s.rand.IntN(50)), "quantity": 1 + s.rand.IntN(3), "price": float64(500+s.rand.IntN(20_000)) / 100, "in_cart": v.cart}
	case v.cart > 0:
		category, name = "form interaction", "submit"
		v.path, v.cart = "/checkout", 0
		data = map[string]any{"host": "shop.example", "path": v.path, "form": map[string]any{"first_name": v.first, "last_name": v.last}}
	}
	e := shopEvent{"session_id": v.session, "category": category, "name": name, "data": data, "timestamp": now.UTC().Format("2006-01-02 15:04:05.000000")}
	if v.user != "" {
		e["user_id"] = v.user
	}
	if s.rand.Float64() < 0.2 {
		e["id"] = fmt.Sprintf("%s-%d", v.session, v.step)
	}
	return e
}

// spoil makes an event one that is refused, as broken pages do.
func (s *shop) spoil(e shopEvent) shopEvent {
	switch s.rand.IntN(5) {
	case 0:
		delete(e, "session_id")
	case 1:
		e["data"] = "undefined"
	case 2:
		e["timestamp"] = "yesterday"
	case 3:
		e["timestamp"] = "2199-01-01 00:00:00.000000"
	default:
		e["sessionId"] = e["session_id"]
	}
	return e
}

// batch gives n events as a request body.
func (s *shop) batch(n int, now func() time.Time) ([]byte, error) {
	events := make([]shopEvent, n)
	for i := range events {
		events[i] = s.next(now())
	}
	return json.Marshal(map[string]any{"events": events})
}
