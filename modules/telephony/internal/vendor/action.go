package vendor

import (
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// Action is a request to POST /actions as it came, with what came of it.
type Action struct {
	// Type is delegate, dialer, or whatever else was sent; "" if the body was
	// no JSON object.
	Type string
	// CallID and Destination are of a delegate, Numbers, Destination and Code
	// of a dialer action.
	CallID, Destination string
	Numbers             []string
	Code                string
	// At is when it came, by Options.Now.
	At time.Time
	// Accepted says that it had its effect, also when the answer was lost.
	Accepted bool
	// Status is the answer's; 0 if the client did not get one.
	Status int
}

// actionLog keeps the last actions, and finds those of a call. Sequence
// numbers count from 0 for ever.
type actionLog struct {
	limit int
	first uint64 // of list
	list  []Action
	of    map[string][]uint64
}

func (l *actionLog) add(a Action) {
	if l.of == nil {
		l.of = map[string][]uint64{}
	}
	if a.CallID != "" {
		l.of[a.CallID] = append(l.of[a.CallID], l.first+uint64(len(l.list)))
	}
	l.list = append(l.list, a)
	if len(l.list) <= l.limit {
		return
	}
	if id := l.list[0].CallID; id != "" {
		if l.of[id] = l.of[id][1:]; len(l.of[id]) == 0 {
			delete(l.of, id)
		}
	}
	l.list[0] = Action{}
	l.list = l.list[1:]
	l.first++
}

// Actions gives the last action requests in the order in which they were
// answered, at most Options.Remember of them.
func (f *Fake) Actions() []Action {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Action(nil), f.actions.list...)
}

// ActionCount gives how many action requests there were since the start, those
// forgotten included.
func (f *Fake) ActionCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.actions.first) + len(f.actions.list)
}

// Accepted gives the remembered actions for a call that had their effect.
func (f *Fake) Accepted(callID string) []Action {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []Action
	for _, n := range f.actions.of[callID] {
		if a := f.actions.list[n-f.actions.first]; a.Accepted {
			found = append(found, a)
		}
	}
	return found
}

func (f *Fake) remember(a *exchange) {
	a.action.Status = a.status
	f.mu.Lock()
	f.actions.add(*a.action)
	f.mu.Unlock()
	if a.status == http.StatusUnauthorized && !f.turnedAway.Swap(true) {
		f.o.Log("an action came with wrong credentials")
	}
}

// text is a JSON string or number: some clients send a destination as a number.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] != '"' {
		var n json.Number
		err := json.Unmarshal(b, &n)
		*t = text(n)
		return err
	}
	return json.Unmarshal(b, (*string)(t))
}

// request is the body of an action.
type request struct {
	valid           bool
	Type            text   `json:"type"`
	CallID          text   `json:"call_id"`
	Destination     text   `json:"destination"`
	DestinationType text   `json:"destination_type"`
	Numbers         []text `json:"numbers"`
	Code            text   `json:"code"`
	Retries         text   `json:"retries"`
	RetryGap        text   `json:"retry_gap"`
	TTL             text   `json:"ttl"`
}

// readRequest reads a body to its end, for only then a server notices that the
// client leaves.
func readRequest(w http.ResponseWriter, r *http.Request) (*request, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	in := &request{}
	if in.valid = json.Unmarshal(body, in) == nil; !in.valid {
		in = &request{}
	}
	return in, nil
}

func (in *request) action(at time.Time) *Action {
	return &Action{Type: string(in.Type), CallID: string(in.CallID), Destination: string(in.Destination), Numbers: in.numbers(), Code: string(in.Code), At: at}
}

func (in *request) numbers() []string {
	var numbers []string
	for _, n := range in.Numbers {
		numbers = append(numbers, string(n))
	}
	return numbers
}

// takeAction carries out an action.
func (f *Fake) takeAction(w http.ResponseWriter, r *http.Request) {
	a, _ := r.Context().Value(exchangeKey{}).(*exchange)
	why := ""
	switch in := a.in; {
	case !in.valid:
		why = "invalid body"
	case in.Type != "delegate" && in.Type != "dialer":
		why = "unknown type"
	case in.Destination == "":
		why = "destination is required"
	case in.Type == "delegate" && in.CallID == "":
		why = "call_id is required"
	case in.Type == "dialer" && len(in.Numbers) == 0:
		why = "numbers are required"
	case in.Type == "delegate" && !f.delegate(string(in.CallID), string(in.Destination)):
		why = "call is not standing by"
	case in.Type == "dialer" && !f.dial(in):
		refuse(w, http.StatusTooManyRequests, "too many numbers are being dialed")
		return
	}
	if why != "" {
		refuse(w, http.StatusBadRequest, why)
		return
	}
	a.action.Accepted = true
	answer(w, http.StatusOK, map[string]string{"status": "ok"})
}

// delegate sends a call on its way. A call that this fake does not play is
// taken for one of someone's own events.
func (f *Fake) delegate(id, destination string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls[id]
	if c == nil {
		return true
	}
	if !c.standing {
		return false
	}
	c.standing = false
	c.delegated <- destination
	return true
}

// dial plays a dialer action in the background. It says no if too many are
// under way.
func (f *Fake) dial(in *request) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.webhook == "" || f.closed {
		return true
	}
	select {
	case f.dials <- struct{}{}:
	default:
		return false
	}
	d := newDialing(in, newRand(f.o.Seed^0xd1a1, f.dialNo.Add(1)))
	f.wg.Go(func() {
		defer func() { <-f.dials }()
		f.newPerformance(PlayOptions{Speed: f.o.DialSpeed}).dial(f.ctx, d)
	})
	return true
}
