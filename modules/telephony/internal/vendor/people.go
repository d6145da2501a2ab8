package vendor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The queues: of numbers that are not known yet, which is also where the
// platform sends a call that nobody delegates, of returning ones, and where
// calls overflow to.
const (
	queueNew       = "900"
	queueReturning = "901"
	queueOverflow  = "910"
)

var (
	ourNumbers   = []string{"0800000000", "0800000001", "1130900000"}
	areas        = []string{"11", "21", "31", "41", "51", "61", "71", "81"}
	unknownTypes = []string{"call.sentiment-scored", "call.on-hold", "call.transfer-offered"}
	firstNames   = []string{"Ana", "André", "Iara", "Bruno", "Carla", "Davi", "Elisa", "Felipe", "Gabriela", "Heitor", "Inês", "João"}
	lastNames    = []string{"souza", "lima", "rocha", "alves", "pinto", "melo", "costa"}
	staffQueues  = [][]string{{queueNew, queueReturning}, {queueNew, queueOverflow}, {queueReturning, queueOverflow}}
	withoutMarks = strings.NewReplacer("é", "e", "ê", "e", "ã", "a")
)

// agent is one of the staff.
type agent struct {
	name, email, number string
	queues              []string
	// busy: on a call, or telling of a break. These are guarded by Fake.mu.
	busy, paused bool
	last         time.Time // of what was told of the agent alone
}

func newStaff(n int) []*agent {
	staff := make([]*agent, n)
	for i := range staff {
		first, last := firstNames[i%len(firstNames)], lastNames[i%len(lastNames)]
		staff[i] = &agent{name: first, number: strconv.Itoa(100 + i), queues: staffQueues[i%len(staffQueues)],
			email: strings.ToLower(withoutMarks.Replace(first)) + "." + last + "@example.com"}
		if round := i / (len(firstNames) * len(lastNames)); round > 0 {
			staff[i].email = fmt.Sprintf("%d.%s", round, staff[i].email)
		}
	}
	return staff
}

// take gives an agent for a queue or an extension, from a random place on: the
// one with that extension; else a free one of the queue; else the one at that
// place, who then has two calls.
func (f *Fake) take(place int, destination string) *agent {
	f.mu.Lock()
	defer f.mu.Unlock()
	chosen := slices.IndexFunc(f.staff, func(a *agent) bool { return a.number == destination })
	for i := 0; chosen < 0 && i < len(f.staff); i++ {
		at := (place + i) % len(f.staff)
		if a := f.staff[at]; !a.busy && !a.paused && (slices.Contains(a.queues, destination) || !isStaffed(destination)) {
			chosen = at
		}
	}
	if chosen < 0 {
		chosen = place % len(f.staff)
	}
	a := f.staff[chosen]
	a.busy = true
	return a
}

func isStaffed(queue string) bool {
	return slices.ContainsFunc(staffQueues, func(queues []string) bool { return slices.Contains(queues, queue) })
}

func (f *Fake) release(a *agent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a.busy = false
}

// logIn tells that the staff comes, unless another play has it here already.
func (p *performance) logIn(ctx context.Context) {
	p.f.mu.Lock()
	p.f.onDuty++
	first := p.f.onDuty == 1
	p.f.mu.Unlock()
	for _, a := range p.f.staff {
		if first {
			p.tell(ctx, a, "actor.logged-in")
		}
	}
}

// logOut tells that the staff leaves, with the last play.
func (p *performance) logOut(ctx context.Context) {
	p.f.mu.Lock()
	p.f.onDuty--
	last := p.f.onDuty == 0
	p.f.mu.Unlock()
	for _, a := range p.f.staff {
		if last {
			p.tell(ctx, a, "actor.logged-out")
			p.f.mu.Lock()
			a.paused = false
			p.f.mu.Unlock()
		}
	}
}

// tell posts an event of an agent, one for each queue.
func (p *performance) tell(ctx context.Context, a *agent, kind string) {
	for _, queue := range a.queues {
		p.f.mu.Lock()
		a.last = p.f.after(a.last)
		at := a.last
		p.f.mu.Unlock()
		if p.post(ctx, "", event{Type: kind, Queue: queue, Actor: a.email, Number: a.number}.at(at), false) == 0 {
			return
		}
	}
}

// changeBreak lets an agent take a break or come back from it, unless they are
// busy or too many others have one.
func (p *performance) changeBreak(ctx context.Context, place int) {
	p.f.mu.Lock()
	a, resting := p.f.staff[place%len(p.f.staff)], 0
	for _, other := range p.f.staff {
		if other.paused {
			resting++
		}
	}
	kind := "actor.paused"
	if a.paused {
		kind = "actor.unpaused"
	}
	idle := !a.busy && (a.paused || 3*(resting+1) <= len(p.f.staff))
	a.busy = a.busy || idle
	p.f.mu.Unlock()
	if !idle {
		return
	}
	p.tell(ctx, a, kind)
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	a.paused, a.busy = !a.paused, false
}

// caller gives who takes part in the nth call. A returning caller has called
// before from outside; no two callers share a number within ten million calls.
func (c casting) caller(n uint64) (number, kindOfNumber string) {
	r := newRand(c.seed^0xca11e4, n)
	if n > 1 && c.o.Mix.draw(newRand(c.seed, n)) != outbound && r.Float64() < c.o.Returning {
		for start, i := r.Uint64N(n-1), uint64(0); i < n-1; i++ {
			if before := 1 + (start+i)%(n-1); c.o.Mix.draw(newRand(c.seed, before)) != outbound {
				return c.caller(before)
			}
		}
	}
	const many = 10_000_000
	// The factor has no divisor in common with many: each n has a number of its own.
	local := (n*7_654_321 + c.seed%many) % many
	if r.Float64() < 0.1 {
		return fmt.Sprintf("%s3%07d", pick(r, areas), local), "landline"
	}
	return fmt.Sprintf("%s99%07d", pick(r, areas), local), "mobile"
}

// cpf makes the number of a person, and cnpj of a company, with valid check
// digits; they begin with three zeros.
func cpf(r *rand.Rand) string {
	return withChecks(fmt.Sprintf("000%06d", r.IntN(1_000_000)), 11)
}

func cnpj(r *rand.Rand) string {
	return withChecks(fmt.Sprintf("000%05d0001", r.IntN(100_000)), 9)
}

// withChecks appends two check digits modulo 11; weights count up from 2 at the
// right and begin anew after maxWeight.
func withChecks(digits string, maxWeight int) string {
	for range 2 {
		sum, weight := 0, 2
		for i := len(digits) - 1; i >= 0; i-- {
			sum += int(digits[i]-'0') * weight
			if weight++; weight > maxWeight {
				weight = 2
			}
		}
		digits += strconv.Itoa((11 - sum%11) % 11 % 10)
	}
	return digits
}
