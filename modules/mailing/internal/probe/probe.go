package probe

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options make a Probe. The zero value is one in good health that takes any
// token.
type Options struct {
	// Token is the only one that counts; any that is not empty if it is "".
	Token string
	// Faults are what goes wrong at first. Their windows count from New.
	Faults Faults
	// Seed repeats what happens to each message; random if 0.
	Seed uint64
	// Fate decides instead of the shares, if set: it gives one of the faults
	// from None to Busy for an attempt, from 1, at a message. It is called
	// concurrently.
	Fate func(id int64, attempt int) Fault
	// OnAccept is called for every acceptance before it is answered, if set;
	// concurrently.
	OnAccept func(id int64, phone, text string, at time.Time)
	// Now is the clock of windows, the rate and times; time.Now by default.
	Now func() time.Time
	// HangFor is how long a request hangs whose client does not leave; 60 s by
	// default.
	HangFor time.Duration
	// Remember is how many ids the ledger takes; 20,000,000 by default. What is
	// accepted beyond is only counted.
	Remember int
}

// Probe plays the message provider. It is safe for concurrent use. Close it
// when done.
type Probe struct {
	o      Options
	mux    *http.ServeMux
	hash   maphash.Seed
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	now    atomic.Pointer[setting]
	ledger atomic.Pointer[ledger]
	held   atomic.Int64
	// window counts what the rate let through: the second since the faults were
	// set above, the count below.
	window atomic.Uint64

	mu     sync.Mutex // of wg.Go against Close
	closed bool
}

// New makes a probe that does not listen yet.
func New(o Options) *Probe {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	if o.HangFor <= 0 {
		o.HangFor = time.Minute
	}
	if o.Remember <= 0 {
		o.Remember = 20_000_000
	}
	p := &Probe{o: o, hash: maphash.MakeSeed(), mux: http.NewServeMux()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.Set(o.Faults)
	p.Clear()
	p.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	p.mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, p.Faults()) })
	p.mux.HandleFunc("PUT /faults", p.putFaults)
	p.mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) {
		p.Set(Faults{})
		w.WriteHeader(http.StatusNoContent)
	})
	p.mux.HandleFunc("GET /ledger", p.listLedger)
	p.mux.HandleFunc("GET /ledger/summary", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, p.Summary()) })
	p.mux.HandleFunc("GET /ledger/{msgId}", p.showEntry)
	p.mux.HandleFunc("DELETE /ledger", func(w http.ResponseWriter, _ *http.Request) {
		p.Clear()
		w.WriteHeader(http.StatusNoContent)
	})
	return p
}

// Listen serves on an address, as in 127.0.0.1:0, and gives its URL without a
// slash at the end. It serves until ctx ends or Close.
func (p *Probe) Listen(ctx context.Context, addr string) (url string, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return "", errors.Join(errors.New("the probe is closed"), l.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	context.AfterFunc(p.ctx, stop)
	srv := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute,
		// The context reaches held requests, so that they end with the server.
		BaseContext: func(net.Listener) context.Context { return ctx },
		// Close waits for connections too: their requests may still have effects.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				p.wg.Add(1)
			case http.StateClosed, http.StateHijacked:
				p.wg.Done()
			}
		}}
	p.wg.Go(func() {
		defer stop()
		_ = srv.Serve(l)
		_ = srv.Close() // a connection that came while the other one closed
	})
	p.wg.Go(func() {
		<-ctx.Done()
		_ = srv.Close()
	})
	return "http://" + l.Addr().String(), nil
}

// Close ends what hangs and Listen, and waits for both.
func (p *Probe) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
}

// Set changes what goes wrong, for requests that come from now on. Windows
// count from now. Values that [Faults.Check] refuses have no meaning.
func (p *Probe) Set(f Faults) {
	p.window.Store(0)
	p.now.Store(newSetting(f, p.o.Now()))
}

// Faults gives what goes wrong now.
func (p *Probe) Faults() Faults { return newSetting(p.now.Load().Faults, time.Time{}).Faults }

// Held gives how many requests hang now.
func (p *Probe) Held() int { return int(p.held.Load()) }

// Summary counts what the probe was asked since New or Clear.
func (p *Probe) Summary() Summary { return p.ledger.Load().summary() }

// Accepted gives how often a message was accepted.
func (p *Probe) Accepted(id int64) int {
	e, _ := p.ledger.Load().find(id)
	return int(e.accepted)
}

// Attempts gives how many requests there were for a message that no window and
// no rate turned away.
func (p *Probe) Attempts(id int64) int {
	e, _ := p.ledger.Load().find(id)
	return int(e.attempts)
}

// EachAccepted calls f with every accepted message, in no order: its phone at
// first, how often it was accepted, and how often of these a fault kept the
// answer from the client.
func (p *Probe) EachAccepted(f func(id int64, phone uint64, n, lost int)) { p.ledger.Load().each(f) }

// Clear forgets what the probe was asked. What the seed brings begins anew.
func (p *Probe) Clear() { p.ledger.Store(newLedger(p.o.Remember, p.hash)) }

// ServeHTTP answers the routes of the package comment. To reset a connection it
// needs one that can be hijacked; else it panics with http.ErrAbortHandler,
// which cuts it.
func (p *Probe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Not through the mux, for speed.
	if id, ok := strings.CutPrefix(strings.TrimPrefix(r.URL.Path, "/v1"), "/send/"); ok {
		p.send(w, r, id)
		return
	}
	p.mux.ServeHTTP(w, r)
}

func (p *Probe) allows(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return false
	}
	return p.o.Token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(p.o.Token)) == 1
}

// limited counts a request, and says whether it is beyond the rate.
func (p *Probe) limited(rate int, age time.Duration) bool {
	if rate <= 0 {
		return false
	}
	second := uint64(max(age, 0)/time.Second) & math.MaxUint32
	for {
		old := p.window.Load()
		next := old + 1
		if old>>32 != second {
			next = second<<32 + 1
		}
		if next&math.MaxUint32 > uint64(rate) {
			return true
		}
		if p.window.CompareAndSwap(old, next) {
			return false
		}
	}
}

func (p *Probe) putFaults(w http.ResponseWriter, r *http.Request) {
	var f Faults
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err == nil {
		err = json.Unmarshal(body, &f)
	}
	if err == nil {
		err = f.Check()
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	p.Set(f)
	answer(w, http.StatusOK, p.Faults())
}

// The entries that GET /ledger gives, if not told and at most.
const (
	defaultPage = 1000
	maxPage     = 100_000
)

func (p *Probe) listLedger(w http.ResponseWriter, r *http.Request) {
	first, limit := int64(math.MinInt64), defaultPage
	q := r.URL.Query()
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPage {
			refuse(w, http.StatusBadRequest, "limit is not an integer between 1 and "+strconv.Itoa(maxPage))
			return
		}
		limit = n
	}
	if text := q.Get("after"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n == math.MaxInt64 {
			refuse(w, http.StatusBadRequest, "after is not the id of a message")
			return
		}
		first = n + 1
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	for _, e := range p.ledger.Load().page(first, limit) {
		if out.Encode(e) != nil {
			return // the client left
		}
	}
}

func (p *Probe) showEntry(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("msgId"), 10, 64)
	if err != nil {
		refuse(w, http.StatusBadRequest, "msgId is not an integer")
		return
	}
	l := p.ledger.Load()
	e, ok := l.find(id)
	if !ok {
		refuse(w, http.StatusNotFound, "there was no request for this message")
		return
	}
	answer(w, http.StatusOK, l.show(e))
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// result is the body of an answer.
type result struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func refuse(w http.ResponseWriter, status int, why string) { answer(w, status, result{status, why}) }
