package vendor

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a fake; the zero value of a field is its default.
type Options struct {
	// User and Password are asked for with HTTP Basic on every route; if both
	// are empty, everyone may ask.
	User, Password string
	// Webhook is the URL to which events are posted, and Key its credential:
	// sent as a bearer, or, with BasicKey, as the password of HTTP Basic.
	// SetWebhook changes both.
	Webhook, Key string
	BasicKey     bool
	// Client posts the events; by default one of the fake's own.
	Client *http.Client
	// Now is the clock of timestamps and call ids; time.Now by default.
	Now func() time.Time
	// Seed repeats the content of the calls; 0 is random.
	Seed uint64
	// Agents is the size of the staff, 24 by default.
	Agents int
	// DialSpeed is the Speed of calls that come of dialer actions; 0 has no
	// pauses.
	DialSpeed float64
	// DialFailure says why dialing a number fails, "" that it does not; by
	// default one attempt in five fails, by chance. It is called concurrently.
	DialFailure func(number string) (reason string)
	// Remember is how many actions, and how many calls that are over, are kept;
	// 250,000 by default. The oldest go first.
	Remember int
	// Log gets a line for what a person would like to see, if set. No line
	// holds personal data.
	Log func(format string, args ...any)
}

// Fake plays the phone platform: it takes actions over HTTP and plays calls to
// a webhook. It is safe for concurrent use. Close it when done.
type Fake struct {
	o      Options
	mux    *http.ServeMux
	ctx    context.Context // of what goes on without a caller: dialer actions, Listen
	cancel context.CancelFunc
	wg     sync.WaitGroup
	dials  chan struct{} // slots of dialer actions that are being played
	silent atomic.Bool   // the webhook did not answer last time
	// turnedAway: an action was refused with 401, which is told once.
	turnedAway atomic.Bool
	callNo     atomic.Uint64 // of the content of a call
	dialNo     atomic.Uint64
	lastID     atomic.Uint64

	idBase uint64

	mu      sync.Mutex
	closed  bool
	webhook string
	key     string
	base    string // URL of Listen
	faults  faults
	actions actionLog
	calls   map[string]*playedCall
	over    []string // ids of finished calls in calls, oldest first
	staff   []*agent
	onDuty  int // plays that have the staff logged in
	tally   Tally
}

// playedCall is what the REST API knows of a call that this fake plays.
type playedCall struct {
	standing, over bool
	talk           time.Duration
	delegated      chan string // takes one destination
}

// maxDials bounds the dialer actions that are played at the same time.
const maxDials = 1000

// New makes a fake that neither listens nor plays yet.
func New(o Options) *Fake {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	if o.Agents <= 0 {
		o.Agents = 24
	}
	if o.Remember <= 0 {
		o.Remember = 250_000
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	f := &Fake{o: o, webhook: o.Webhook, key: o.Key, calls: map[string]*playedCall{}, dials: make(chan struct{}, maxDials),
		// Two fakes that start in the same second give other ids.
		idBase: 30_000 + newRand(o.Seed, 0).Uint64N(1_000_000_000), staff: newStaff(o.Agents)}
	f.actions.limit = o.Remember
	if f.o.Client == nil {
		f.o.Client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			MaxIdleConnsPerHost: 256, MaxConnsPerHost: 256, IdleConnTimeout: 30 * time.Second}}
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.mux = http.NewServeMux()
	f.mux.HandleFunc("POST /actions", f.takeAction)
	f.mux.HandleFunc("GET /calls/{call_id}", f.showCall)
	f.mux.HandleFunc("GET /recording/{file}", f.showRecording)
	f.mux.HandleFunc("GET /peers", f.showPeers)
	return f
}

// SetWebhook changes where events are posted, and the credential. What is
// being posted again goes there too.
func (f *Fake) SetWebhook(url, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.webhook, f.key = url, key
}

// Listen serves the REST API on an address, as in 127.0.0.1:0, and gives its
// URL without a slash at the end. It serves until ctx ends or Close.
func (f *Fake) Listen(ctx context.Context, addr string) (url string, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return "", errors.Join(errors.New("the phone platform is closed"), l.Close())
	}
	f.base = "http://" + l.Addr().String()
	ctx, stop := context.WithCancel(ctx)
	context.AfterFunc(f.ctx, stop)
	// The context reaches held requests, so that they end with the server.
	srv := &http.Server{Handler: f, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	f.wg.Go(func() {
		defer stop()
		_ = srv.Serve(l)
	})
	f.wg.Go(func() {
		<-ctx.Done()
		_ = srv.Close()
	})
	return f.base, nil
}

// Close heals the fake, ends what dialer actions started and Listen, and waits
// for them. Plays end with their own context.
func (f *Fake) Close() {
	f.Heal()
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.wg.Wait()
	f.o.Client.CloseIdleConnections()
}

// ServeHTTP answers POST /actions, GET /calls/{call_id},
// GET /recording/{call_id}.wav and GET /peers.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in, err := readRequest(w, r)
	if err != nil {
		return // the client left, or sent more than any action has
	}
	a := &exchange{ResponseWriter: w, in: in}
	if r.Method == http.MethodPost && r.URL.Path == "/actions" {
		a.action = in.action(f.o.Now())
		// Deferred, for the connection may be cut by a panic.
		defer func() { f.remember(a) }()
	}
	lose, ok := f.suffer(a, r)
	if !ok {
		return
	}
	if lose {
		a.ResponseWriter = discarded{w.Header()}
	}
	if !f.allows(r) {
		a.Header().Set("WWW-Authenticate", `Basic realm="phone platform"`)
		a.WriteHeader(http.StatusUnauthorized)
		_, _ = a.Write([]byte("Unauthorized"))
	} else {
		f.mux.ServeHTTP(a, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, a)))
	}
	if lose {
		a.status = 0
		panic(http.ErrAbortHandler) // cuts the connection, and nobody logs it
	}
}

// exchange is one request with what came of it.
type exchange struct {
	http.ResponseWriter
	in     *request
	action *Action // nil but for actions
	status int
}

type exchangeKey struct{}

func (a *exchange) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// discarded takes an answer that nobody gets.
type discarded struct{ header http.Header }

func (d discarded) Header() http.Header         { return d.header }
func (d discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d discarded) WriteHeader(int)             {}

func (f *Fake) allows(r *http.Request) bool {
	if f.o.User == "" && f.o.Password == "" {
		return true
	}
	user, password, _ := r.BasicAuth()
	return subtle.ConstantTimeCompare([]byte(user), []byte(f.o.User))&subtle.ConstantTimeCompare([]byte(password), []byte(f.o.Password)) == 1
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int, why string) {
	answer(w, status, map[string]string{"error": why})
}

func (f *Fake) showCall(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	c := f.calls[r.PathValue("call_id")]
	var talk time.Duration
	if c != nil && c.over {
		talk = c.talk
	}
	f.mu.Unlock()
	if c == nil {
		refuse(w, http.StatusNotFound, "call not found")
		return
	}
	answer(w, http.StatusOK, map[string]string{"call_id": r.PathValue("call_id"), "talk_time": strconv.Itoa(int(talk.Seconds()))})
}

func (f *Fake) showRecording(w http.ResponseWriter, r *http.Request) {
	id, ok := strings.CutSuffix(r.PathValue("file"), ".wav")
	if !ok || id == "" {
		refuse(w, http.StatusNotFound, "recording not found")
		return
	}
	w.Header().Set("Content-Type", "audio/wav")
	w.Header().Set("Content-Length", strconv.Itoa(len(tone())))
	_, _ = w.Write(tone())
}

func (f *Fake) showPeers(w http.ResponseWriter, _ *http.Request) {
	type peer struct {
		Name   string `json:"name"`
		Number string `json:"number"`
	}
	list := make([]peer, len(f.staff))
	for i, a := range f.staff {
		list[i] = peer{a.name, a.number}
	}
	answer(w, http.StatusOK, struct {
		Size string `json:"size"`
		List []peer `json:"list"`
	}{strconv.Itoa(len(list)), list})
}

// newID gives the id of a new call.
func (f *Fake) newID() string {
	return fmt.Sprintf("%d.%d", f.o.Now().Unix(), f.idBase+f.lastID.Add(1))
}

// enter makes a call known to the REST API.
func (f *Fake) enter(id string, talk time.Duration) *playedCall {
	c := &playedCall{talk: talk, delegated: make(chan string, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[id] = c
	return c
}

// leave ends a call, and forgets the one that ended longest ago.
func (f *Fake) leave(id string, c *playedCall) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.standing, c.over, c.delegated = false, true, nil
	f.over = append(f.over, id)
	if len(f.over) > f.o.Remember {
		delete(f.calls, f.over[0])
		f.over = f.over[1:]
	}
}

// newRand gives the source of one thing's content.
func newRand(seed, thing uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, thing^0x9e3779b97f4a7c15))
}
