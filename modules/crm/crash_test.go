package crm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"switchboard/modules/crm/internal/mock"
	"switchboard/platform/apptest"
)

// farCRM is the mock in a process of its own, which does nothing else.
type farCRM struct {
	*testing.T
	p *apptest.Process
}

func newFarCRM(t *testing.T) *farCRM {
	t.Helper()
	return &farCRM{t, apptest.Exec(t, t.TempDir(), []string{"APP_CRM_NATS_SOURCE=false"}, "--modules=crm")}
}

// env has an integration use it. Pauses are short.
func (c *farCRM) env(more ...string) []string {
	return append(more, "APP_CRM_URL="+c.p.URL+"/crm", "APP_CRM_TOKEN="+c.p.Key, "APP_CRM_TIMEOUT=500ms", "APP_CRM_RETRY_MIN=10ms", "APP_CRM_RETRY_MAX=200ms")
}

// asked sends a request to a process and reads the answer into out unless that
// is nil.
func asked(t *testing.T, p *apptest.Process, method, path string, body, out any) int {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, p.URL+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Key)
	req.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if out != nil {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			t.Fatalf("%s %s: %s: %v", method, path, resp.Status, err)
		}
	}
	return resp.StatusCode
}

func (c *farCRM) faults(f mock.Faults) {
	c.Helper()
	if f.Refuse == nil {
		f.Refuse = []string{}
	}
	if f.IDs == "" {
		f.IDs = mock.Conflict
	}
	if status := asked(c.T, c.p, http.MethodPut, "/crm/mock/faults", f, nil); status != http.StatusOK {
		c.Fatalf("faults: %d", status)
	}
}

func (c *farCRM) counts() (n mock.Counts) {
	c.Helper()
	asked(c.T, c.p, http.MethodGet, "/crm/mock", nil, &n)
	return n
}

// shows reads the CRM, which must be in good health.
func (c *farCRM) shows() crm {
	c.Helper()
	var users []crmUser
	var trips []crmTrip
	asked(c.T, c.p, http.MethodGet, "/crm/users", nil, &users)
	asked(c.T, c.p, http.MethodGet, "/crm/trips", nil, &trips)
	return shownBy(c.T, users, trips)
}

func (c *farCRM) history() (all []mock.Change) {
	c.Helper()
	for cursor := ""; ; {
		var page struct {
			Items []MockChange
			Next  string
		}
		asked(c.T, c.p, http.MethodGet, "/crm/mock/history?limit=1000&cursor="+cursor, nil, &page)
		for _, m := range page.Items {
			all = append(all, mock.Change{Seq: m.Seq, Kind: m.Kind, ID: m.ID, Created: m.Created, State: m.State})
		}
		if cursor = page.Next; cursor == "" {
			return all
		}
	}
}

// comesTo waits until the CRM, in good health again, shows what the story says,
// and checks how it came to it.
func (c *farCRM) comesTo(s *story, ids string) {
	c.Helper()
	c.faults(mock.Faults{IDs: ids})
	want := replay(s.events)
	apptest.Within(c, 2*time.Minute, func() string {
		have := c.shows()
		if ids == mock.Own {
			have = have.ours(c.T)
		}
		return differs(have, want)
	})
	onlyGrows(c.T, c.history())
}

// telling publishes a story, an event after the other, whatever becomes of who
// listens: until each is acknowledged.
func telling(ctx context.Context, url string) (tell func(rawEvent) error, hangUp func(), err error) {
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1), nats.RetryOnFailedConnect(true))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	return func(e rawEvent) error {
		for {
			try, cancel := context.WithTimeout(ctx, 2*time.Second)
			_, err := js.Publish(try, "maas."+e.Topic, e.Value)
			cancel()
			if err == nil || ctx.Err() != nil {
				return ctx.Err()
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}, nc.Close, err
}

// TestKilledBeforeTheAnswerAStateThatComesBackIsSent kills the integration when
// the CRM has a new state and has not said so; then the state goes back to the
// one of which the integration knows that the CRM had it.
func TestKilledBeforeTheAnswerAStateThatComesBackIsSent(t *testing.T) {
	t.Parallel()
	far := mock.New("")
	defer far.Close()
	var silent atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !silent.Load() {
			far.ServeHTTP(w, r)
			return
		}
		far.ServeHTTP(httptest.NewRecorder(), r)
		<-r.Context().Done()
	}))
	defer server.Close()
	shows := func(name string) {
		t.Helper()
		apptest.Within(t, time.Minute, func() string {
			history := far.History("", "", 0, 0)
			if len(history) == 0 {
				return "the CRM shows nothing"
			}
			if text := string(history[len(history)-1].State); !strings.Contains(text, `"FirstName":"`+name+`"`) {
				return "the CRM shows " + text
			}
			return ""
		})
	}
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	tell, hangUp, err := telling(t.Context(), "nats://"+address)
	if err != nil {
		t.Fatal(err)
	}
	defer hangUp()
	s := newStory(t)
	becomes := func(name string) {
		t.Helper()
		if err := tell(s.tells(topicUser, userEvent{ID: "u", FirstName: &name})); err != nil {
			t.Fatal(err)
		}
	}
	env, dir := []string{"APP_CRM_URL=" + server.URL, "APP_CRM_TIMEOUT=500ms"}, t.TempDir()
	p := apptest.Exec(t, dir, env, "--modules=crm", "--bus-listen="+address)
	becomes("one")
	shows("one")
	apptest.Within(t, time.Minute, func() string { // the answer is written down
		var status struct {
			State string
			Users int
		}
		if asked(t, p, http.MethodGet, "/crm/integration/status", nil, &status); status.State != "in_step" || status.Users != 1 {
			return fmt.Sprintf("%+v", status)
		}
		return ""
	})
	silent.Store(true)
	becomes("two")
	shows("two")
	p.Kill()
	silent.Store(false)
	p = apptest.Exec(t, dir, env, "--modules=crm", "--bus-listen="+address)
	becomes("one")
	shows("one")
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.Log)
	}
}

// TestKilledInTheMiddleTheCRMEndsRightAndNeverGoesBack kills the integration
// three times while events come and the CRM fails, in each of the ways in which
// a CRM may treat an id.
func TestKilledInTheMiddleTheCRMEndsRightAndNeverGoesBack(t *testing.T) {
	t.Parallel()
	for _, ids := range []string{mock.Conflict, mock.Replace, mock.Own, mock.Duplicate} {
		t.Run("nats/"+ids, func(t *testing.T) {
			t.Parallel()
			address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
			tell, hangUp, err := telling(t.Context(), "nats://"+address)
			if err != nil {
				t.Fatal(err)
			}
			defer hangUp()
			besiege(t, ids, tell, nil, "--bus-listen="+address)
		})
	}
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		_, cfg := fake(t, withTopics(1))
		cl, adm := admin(t, cfg)
		tell := func(e rawEvent) error {
			return cl.ProduceSync(t.Context(), &kgo.Record{Topic: e.Topic, Key: []byte{0, 0, 0, 1}, Value: e.Value}).FirstErr()
		}
		besiege(t, mock.Conflict, tell, func() { expel(t, cl, adm) }, "--kafka-brokers="+cfg.Brokers[0])
	})
}

// expel takes all members out of the group, as brokers do in time with those
// that say nothing.
func expel(t *testing.T, cl *kgo.Client, adm *kadm.Client) {
	t.Helper()
	const group = "switchboard-crm"
	groups, err := adm.DescribeGroups(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group = group
	for _, m := range groups[group].Members {
		gone := kmsg.NewLeaveGroupRequestMember()
		gone.MemberID = m.MemberID
		leave.Members = append(leave.Members, gone)
	}
	if len(leave.Members) > 0 {
		if _, err := leave.RequestWith(t.Context(), cl); err != nil {
			t.Fatal(err)
		}
	}
}

const kills = 3

// besiege kills an integration while it works. tell publishes an event; killed
// runs after each kill.
func besiege(t *testing.T, ids string, tell func(rawEvent) error, killed func(), args ...string) {
	t.Helper()
	far := newFarCRM(t)
	bad := mock.Faults{IDs: ids, Errors: 0.1, Resets: 0.05, Lost: 0.15, Garbage: 0.05, Latency: mock.Duration(5 * time.Millisecond), Jitter: mock.Duration(20 * time.Millisecond)}
	far.faults(bad)
	env, args, dir := far.env(), append(args, "--modules=crm"), t.TempDir()
	p := apptest.Exec(t, dir, env, args...)
	s := newStory(t)
	for n := range 3 {
		if err := tell(s.twin(n)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	told, progress := make(chan error, 1), make(chan int)
	go func() { // only it has the story until it ends
		for n := 0; ; n++ {
			select {
			case progress <- n:
			case <-ctx.Done():
				told <- nil
				return
			default:
			}
			if n%50 == 49 {
				s.restart()
			}
			if err := tell(s.next()); err != nil {
				told <- err
				return
			}
		}
	}()
	for turn := range kills {
		least, changes := <-progress+30+rand.IntN(60), far.counts().Changes+10+rand.Int64N(60)
		apptest.Within(t, time.Minute, func() string {
			select {
			case n := <-progress:
				if n < least {
					return fmt.Sprintf("%d of %d events are told", n, least)
				}
			case <-time.After(time.Second):
				return "nobody tells"
			}
			if n := far.counts().Changes; n < changes {
				return fmt.Sprintf("%d of %d states", n, changes)
			}
			return ""
		})
		p.Kill()
		if killed != nil {
			killed()
		}
		p = apptest.Launch(t, dir, env, args...)
		if turn == 1 { // also while it begins
			before := far.counts().Changes
			if why := p.Await(); why != "" {
				t.Fatal(why)
			}
			apptest.Within(t, time.Minute, func() string {
				if far.counts().Changes == before {
					return "nothing is sent"
				}
				return ""
			})
			p.Kill()
			if killed != nil {
				killed()
			}
			p = apptest.Launch(t, dir, env, args...)
		}
		if why := p.Await(); why != "" {
			t.Fatal(why)
		}
	}
	stop()
	if err := <-told; err != nil {
		t.Fatal(err)
	}
	far.comesTo(s, ids)
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.Log)
	}
}
