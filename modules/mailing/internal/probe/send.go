package probe

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// These are shared by all answers; nobody changes them.
var (
	acceptedBody   = []byte(`{"code":0,"message":"OK"}`)
	acceptedLength = []string{strconv.Itoa(len(acceptedBody))}
	jsonType       = []string{"application/json"}
	failures       = [...]int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}
)

// delivery is one request to send, and the fault that it suffers.
type delivery struct {
	p      *Probe
	w      http.ResponseWriter
	r      *http.Request
	ledger *ledger
	set    *setting
	now    time.Time
	number uint64 // all chance of this request
}

// send takes one message.
func (p *Probe) send(w http.ResponseWriter, r *http.Request, msgID string) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusMethodNotAllowed, "only POST sends")
		return
	}
	d := delivery{p: p, w: w, r: r, ledger: p.ledger.Load(), set: p.now.Load(), now: p.o.Now()}
	d.ledger.requests.Add(1)
	later(&d.ledger.last, d.now)
	id, err := strconv.ParseInt(msgID, 10, 64)
	m, whole := readMessage(r, id, p.hash, p.o.OnAccept != nil)
	if !whole {
		return // the client left
	}
	if err != nil {
		m.wrong = "msgId is not an integer"
	}
	if !d.admit() {
		return
	}
	fault := None
	if err == nil {
		attempt := d.ledger.attempt(id)
		d.number = mix(mix(p.o.Seed^mix(uint64(id))) + uint64(attempt))
		if p.o.Fate != nil {
			fault = p.o.Fate(id, int(attempt))
		} else {
			fault = d.set.draw(d.number)
		}
		d.delay()
	}
	if d.suffer(fault) {
		return
	}
	if m.wrong != "" {
		d.ledger.refused.Add(1)
		refuse(w, http.StatusBadRequest, m.wrong)
		return
	}
	at := p.o.Now()
	d.ledger.accept(id, &m, at, fault.loses())
	if p.o.OnAccept != nil {
		p.o.OnAccept(id, strconv.FormatUint(m.phone, 10), m.text, at)
	}
	d.confirm(fault)
}

// admit is what stands before the provider: windows, the token and the rate.
func (d *delivery) admit() bool {
	age := d.now.Sub(d.set.since)
	switch {
	case within(d.set.Outages, age):
		d.count(Outage)
		if d.set.OutageReset {
			d.reset()
		} else {
			d.fail(http.StatusServiceUnavailable)
		}
	case within(d.set.Unauthorized, age):
		d.count(Unauthorized)
		d.deny(http.StatusUnauthorized, "the token has expired")
	case !d.p.allows(d.r):
		d.ledger.refused.Add(1)
		d.deny(http.StatusUnauthorized, "a Bearer token is required")
	case d.p.limited(d.set.Rate, age):
		d.count(Limited)
		d.busy()
	default:
		return true
	}
	return false
}

// delay waits for the latency of this request, or until its client leaves.
func (d *delivery) delay() {
	latency := d.set.latency(d.number)
	if latency <= 0 {
		return
	}
	t := time.NewTimer(latency)
	defer t.Stop()
	select {
	case <-t.C:
	case <-d.r.Context().Done():
	case <-d.p.ctx.Done():
	}
}

// suffer carries out a fault that comes before the effect. It says no if fault
// is not one.
func (d *delivery) suffer(fault Fault) bool {
	switch fault {
	case Fail:
		d.count(fault)
		d.fail(failures[mix(d.number+2)%uint64(len(failures))])
	case Hang:
		d.count(fault)
		d.hang()
	case Reset:
		d.count(fault)
		d.reset()
	case Garbage:
		d.count(fault)
		d.garbage()
	case Rejected:
		d.count(fault)
		answer(d.w, http.StatusOK, result{1, "not delivered"})
	case BadRequest:
		d.count(fault)
		refuse(d.w, http.StatusBadRequest, "the message was refused")
	case Denied:
		d.count(fault)
		d.deny(http.StatusUnauthorized, "the token has expired")
	case Forbidden:
		d.count(fault)
		d.deny(http.StatusForbidden, "sending is not allowed")
	case Busy:
		d.count(fault)
		d.busy()
	default:
		return false
	}
	return true
}

// confirm answers for a message that was accepted, or loses the answer.
func (d *delivery) confirm(fault Fault) {
	switch fault {
	case HangAfter:
		d.count(fault)
		d.hang()
	case ResetAfter:
		d.count(fault)
		d.reset()
	case GarbageAfter:
		d.count(fault)
		d.garbage()
	default:
		h := d.w.Header()
		h["Content-Type"], h["Content-Length"] = jsonType, acceptedLength
		_, _ = d.w.Write(acceptedBody)
	}
}

func (d *delivery) count(f Fault) { d.ledger.byFault[f].Add(1) }

func (d *delivery) fail(status int) {
	if d.set.RetryAfterOn5xx {
		d.set.askToWait(d.w.Header(), d.p.o.Now())
	}
	refuse(d.w, status, http.StatusText(status))
}

func (d *delivery) deny(status int, why string) {
	if status == http.StatusUnauthorized {
		d.w.Header().Set("WWW-Authenticate", "Bearer")
	}
	refuse(d.w, status, why)
}

func (d *delivery) busy() {
	d.set.askToWait(d.w.Header(), d.p.o.Now())
	refuse(d.w, http.StatusTooManyRequests, "too many requests")
}

func (d *delivery) garbage() {
	g := garbageBodies[mix(d.number+3)%uint64(len(garbageBodies))]
	d.w.Header().Set("Content-Type", g.kind)
	_, _ = io.WriteString(d.w, g.body)
}

// hang holds the request until its client leaves, and then cuts the connection,
// for a handler that returns would be taken for an answer.
func (d *delivery) hang() {
	d.p.held.Add(1)
	t := time.NewTimer(d.p.o.HangFor)
	select {
	case <-t.C:
	case <-d.r.Context().Done():
	case <-d.p.ctx.Done():
	}
	t.Stop()
	d.p.held.Add(-1)
	d.reset()
}

// reset cuts the connection so that the client sees a reset and not an end.
func (d *delivery) reset() {
	conn, _, err := http.NewResponseController(d.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // cuts the connection, and nobody logs it
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
