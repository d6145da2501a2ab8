package vendor

import (
	"net/http"
	"time"
)

// faults are what is wrong with the platform now. They hold for every route.
type faults struct {
	status int    // of Fail
	body   string // of Fail
	next   []failures
	lose   int
	slow   time.Duration
	hang   chan struct{} // closed when it is over
	held   int
}

// failures are what FailNext asked for.
type failures struct{ left, status int }

// Fail answers every request with a status and a body until Heal.
func (f *Fake) Fail(status int, body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults.status, f.faults.body = status, body
}

// FailNext answers the next n requests with a status.
func (f *Fake) FailNext(n, status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n > 0 {
		f.faults.next = append(f.faults.next, failures{n, status})
	}
}

// Hang holds requests, without an effect, until Heal or until the client
// leaves; after Heal they go on.
func (f *Fake) Hang() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.faults.hang == nil {
		f.faults.hang = make(chan struct{})
	}
}

// Held gives how many requests wait because of Hang or Slow.
func (f *Fake) Held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.faults.held
}

// LoseNext lets the next n requests have their effect, and then cuts the
// connection without an answer, by a panic with http.ErrAbortHandler. Requests
// that FailNext or Fail answers are not counted.
func (f *Fake) LoseNext(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults.lose += n
}

// Slow lets every request wait for d. One whose client leaves meanwhile still
// has its effect.
func (f *Fake) Slow(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults.slow = d
}

// Heal ends all faults.
func (f *Fake) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.faults.hang != nil {
		close(f.faults.hang)
	}
	f.faults = faults{held: f.faults.held}
}

// suffer lets a request meet the faults. It says whether the answer must be
// lost, and whether the request goes on at all.
func (f *Fake) suffer(a *exchange, r *http.Request) (lose, goesOn bool) {
	f.mu.Lock()
	hang := f.faults.hang
	f.mu.Unlock()
	if hang != nil && !f.hold(r, hang, 0) {
		return false, false
	}
	f.mu.Lock()
	slow := f.faults.slow
	f.mu.Unlock()
	stays := slow <= 0 || f.hold(r, nil, slow)

	f.mu.Lock()
	status, body := f.faults.status, f.faults.body
	if len(f.faults.next) > 0 {
		next := &f.faults.next[0]
		status, body = next.status, `{"error":"`+http.StatusText(next.status)+`"}`
		if next.left--; next.left == 0 {
			f.faults.next = f.faults.next[1:]
		}
	}
	if status == 0 && f.faults.lose > 0 {
		f.faults.lose--
		lose = true
	}
	f.mu.Unlock()
	if status == 0 {
		return lose || !stays, true
	}
	if stays {
		a.WriteHeader(status)
		_, _ = a.Write([]byte(body))
	}
	return false, false
}

// hold keeps a request waiting until over is closed or, if it is nil, for d.
// It says no if the client leaves before.
func (f *Fake) hold(r *http.Request, over <-chan struct{}, d time.Duration) (stays bool) {
	f.addHeld(1)
	defer f.addHeld(-1)
	var timer <-chan time.Time
	if over == nil {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-over:
	case <-timer:
	case <-r.Context().Done():
		return false
	}
	return true
}

func (f *Fake) addHeld(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults.held += n
}
