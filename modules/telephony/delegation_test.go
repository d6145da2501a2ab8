package telephony

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"switchboard/modules/telephony/telephonyapi"
	"switchboard/platform/apptest"
	"switchboard/platform/bus"
	"switchboard/platform/errs"
	"switchboard/platform/seal"
	"switchboard/platform/store"
)

func TestANewNumberGoesToOneQueueAndAReturningOneToAnother(t *testing.T) {
	t.Parallel()
	eachDesk(t, nil, func(t *testing.T, d *desk) {
		d.standby("1.1", "11991910000")
		d.becomes("1.1", delegationDelegated)
		d.sent("1.1", "900")
		d.stop()
		d.start()
		// Another way to write the same number.
		d.standby("1.2", "(11) 99191-0000")
		got := d.becomes("1.2", delegationDelegated)
		d.sent("1.2", "901")
		if !got.Returning || got.Attempts != 1 || got.Destination != "901" || got.SettledAt == nil || got.Detail != "" {
			t.Errorf("%+v", got)
		}
		d.standby("1.3", "11991910001")
		d.becomes("1.3", delegationDelegated)
		d.sent("1.3", "900")
		apptest.Eventually(t, d.said.has("call.delegated callId: 1.1, destination: 900"))
		apptest.Eventually(t, d.said.has("call.delegated callId: 1.2, destination: 901"))
	})
}

func TestACallIsDelegatedOnceHoweverOftenItStandsBy(t *testing.T) {
	t.Parallel()
	eachDesk(t, nil, func(t *testing.T, d *desk) {
		first := d.standby("2.1", "11991910000")
		if again := d.standby("2.1", "11991910000"); !again.Duplicate {
			t.Error("the webhook that came twice was stored twice")
		}
		d.standby("2.1", "11991910000", "code", "another")
		d.becomes("2.1", delegationDelegated)
		// The bus delivers again, to several at once.
		for i := range 3 {
			_, err := d.bus.Publish(t.Context(), bus.Message{Subject: subjectDelegate, ID: fmt.Sprint(i), Data: planned{first.ID}.encode()})
			must(t, err)
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := d.delegations.delegate(t.Context(), nil, first.ID, true); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		d.standby("2.2", "11991910000")
		d.becomes("2.2", delegationDelegated) // what was published before it has been handled
		if n := d.platform.ActionCount(); n != 2 {
			t.Errorf("the platform was asked %d times for two calls", n)
		}
		d.sent("2.1", "900")
	})
}

func TestManyAtOnceSendADelegationOnce(t *testing.T) {
	t.Parallel()
	eachDesk(t, nil, func(t *testing.T, d *desk) {
		d.stop() // nobody takes messages
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- d.events.run(ctx) }()
		d.events.stopped = false
		d.platform.Slow(50 * time.Millisecond)
		first := d.standby("2.9", "11991910000")
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := d.delegations.delegate(t.Context(), nil, first.ID, false); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		d.sent("2.9", "900")
		if got := d.row("2.9"); got.State != delegationDelegated || got.Attempts != 1 {
			t.Errorf("%+v", got)
		}
		cancel()
		must(t, <-done)
	})
}

func TestADelegationWaitsForAPlatformThatIsAway(t *testing.T) {
	t.Parallel()
	for _, status := range []int{503, 500, 429} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, nil)
			d.platform.Fail(status, "")
			d.standby("3.1", "11991910000")
			d.tried("3.1", 3)
			if got := d.row("3.1"); got.State != delegationPending || got.Detail != tryAway {
				t.Errorf("%+v", got)
			}
			d.platform.Heal()
			d.becomes("3.1", delegationDelegated)
			d.sent("3.1", "900")
		})
	}
}

func TestADelegationWaitsForAPlatformThatCannotBeReached(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	d := newDesk(t, func(c *Config) { c.ProviderURL = "http://" + addr })
	d.standby("3.2", "11991910000")
	d.tried("3.2", 2)
	if _, err := d.platform.Listen(t.Context(), addr); err != nil {
		t.Skip("the port was taken meanwhile")
	}
	d.becomes("3.2", delegationDelegated)
	d.sent("3.2", "900")
}

func TestARefusalSettlesADelegation(t *testing.T) {
	t.Parallel()
	eachDesk(t, nil, func(t *testing.T, d *desk) {
		d.platform.Fail(403, `{"error":"call of 11991910000\u0000\n is\tnot yours, zoe@example.com"}`)
		first := d.standby("4.1", "11991910000")
		got := d.becomes("4.1", delegationRefused)
		if got.Detail != "the platform answered 403 Forbidden" || got.Attempts != 1 {
			t.Errorf("%+v", got)
		}
		d.platform.Heal()
		must(t, d.delegations.delegate(t.Context(), nil, first.ID, true))
		if n := d.platform.ActionCount(); n != 1 {
			t.Errorf("the platform was asked %d times", n)
		}
		apptest.Eventually(t, d.said.has("call.delegate_refused callId: 4.1, destination: 900"))
	})
}

func TestWhatWasDoneWithoutAnAnswerIsNotSentAgain(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	d.platform.LoseNext(1)
	d.standby("5.1", "11991910000")
	apptest.Eventually(t, func() string {
		if d.platform.ActionCount() == 0 {
			return "the platform was not asked"
		}
		return ""
	})
	d.tell("call.waiting", "5.1", "queue", "900")
	got := d.becomes("5.1", delegationDelegated)
	d.sent("5.1", "900")
	if got.Attempts != 1 || got.Detail != "no answer came, but the call moved on" {
		t.Errorf("%+v", got)
	}
}

func TestWhatWasNotAnsweredIsSentAgainIfTheCallStays(t *testing.T) {
	t.Parallel()
	d := newDesk(t, func(c *Config) { c.ProviderTimeout = 100 * time.Millisecond })
	d.platform.Hang()
	d.standby("5.2", "11991910000")
	d.tried("5.2", 1)
	if got := d.row("5.2"); got.Detail != tryDoubtful {
		t.Errorf("%+v", got)
	}
	d.platform.Heal()
	got := d.becomes("5.2", delegationDelegated)
	d.sent("5.2", "900")
	if got.Attempts < 2 || got.Detail != "" {
		t.Errorf("%+v", got)
	}
}

func TestARefusalAfterDoubtMayMeanThatItWasDone(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	d.platform.LoseNext(1)
	d.standby("5.3", "11991910000")
	d.tried("5.3", 1)
	d.platform.Fail(400, `{"error":"call is not standing by"}`)
	apptest.Eventually(t, func() string {
		if d.platform.ActionCount() < 2 {
			return "the platform was not asked again"
		}
		return ""
	})
	d.tell("call.ongoing", "5.3")
	d.becomes("5.3", delegationDelegated)
	d.sent("5.3", "900")

	d.platform.Heal()
	d.platform.LoseNext(1)
	d.standby("5.4", "11991910000")
	d.tried("5.4", 1)
	d.platform.Fail(400, `{"error":"call is not standing by"}`)
	if got := d.becomes("5.4", delegationRefused); got.Attempts != 2 {
		t.Errorf("%+v", got)
	}
}

func TestADelegationGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	eachDesk(t, nil, func(t *testing.T, d *desk) {
		d.platform.Fail(503, "")
		d.standby("6.1", "11991910000")
		d.tried("6.1", 2)
		d.stop()
		d.platform.Heal()
		d.start()
		d.becomes("6.1", delegationDelegated)
		d.sent("6.1", "900")
	})
}

func TestADelegationOfADeadProcessIsLookedUpFirst(t *testing.T) {
	t.Parallel()
	d := newDesk(t, func(c *Config) { c.ProviderTimeout = 300 * time.Millisecond })
	d.stop()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d.events.stopped = false
	go func() { done <- d.events.run(ctx) }()
	moved, stays := d.standby("6.2", "11991910000"), d.standby("6.3", "11991910000")
	for _, id := range []string{"6.2", "6.3"} { // a process sends both, and dies
		if ok, err := d.delegations.store.claim(t.Context(), d.row(id), "900", store.MicrosOf(time.Now())); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	d.tell("call.waiting", "6.2")
	must(t, d.delegations.delegate(t.Context(), nil, moved.ID, true))
	must(t, d.delegations.delegate(t.Context(), nil, stays.ID, true))
	if got := d.row("6.2"); got.State != delegationDelegated || got.Attempts != 1 {
		t.Errorf("%+v", got)
	}
	d.sent("6.2")
	if got := d.row("6.3"); got.State != delegationDelegated || got.Attempts != 2 {
		t.Errorf("%+v", got)
	}
	d.sent("6.3", "900") // where the dead one would have sent it
	cancel()
	must(t, <-done)
}

func TestADelegationExpires(t *testing.T) {
	t.Parallel()
	eachDesk(t, func(c *Config) { c.DelegateWithin = 2 * time.Second }, func(t *testing.T, d *desk) {
		d.platform.Fail(503, "")
		first := d.standby("7.1", "11991910000")
		got := d.becomes("7.1", delegationExpired)
		if got.Attempts < 2 || got.Detail != "the platform was away" {
			t.Errorf("%+v", got)
		}
		n := d.platform.ActionCount()
		d.platform.Heal()
		must(t, d.delegations.delegate(t.Context(), nil, first.ID, true))
		if again := d.platform.ActionCount(); again != n {
			t.Errorf("asked %d times after it expired", again-n)
		}
		apptest.Eventually(t, d.said.has("call.delegate_expired callId: 7.1, destination: 900"))
	})
}

func TestAPlatformThatAsksForMorePatienceThanThereIsIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	d.delegations.Provider.base = retryLater(t, "60")
	d.standby("7.2", "11991910000")
	if got := d.becomes("7.2", delegationExpired); got.Attempts != 1 {
		t.Errorf("%+v", got)
	}
}

func TestOldDelegationsAreSettledAtTheStart(t *testing.T) {
	t.Parallel()
	eachDesk(t, nil, func(t *testing.T, d *desk) {
		call := d.events.callIndex("7.3")
		old := &delegation{Call: call, Name: d.keys.System().Seal(nil, []byte("7.3"), sealName), Event: 1 << 40, State: delegationPending, DueAt: store.MicrosOf(time.Now().Add(-2 * time.Hour))}
		must(t, d.db.Tx(t.Context(), func(tx store.Querier) error {
			fresh, err := d.delegations.store.plan(t.Context(), tx, []*delegation{old})
			if err == nil && !fresh[call] {
				return errors.New("it was there")
			}
			return err
		}))
		d.stop()
		d.start()
		d.becomes("7.3", delegationExpired)
	})
}

func TestACallThatMovedOnIsLeftAlone(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	d.tell("call.ongoing", "8.1", "their_number", "11991910000")
	d.standby("8.1", "11991910000")
	if got := d.becomes("8.1", delegationSkipped); got.Detail != movedOn || got.Attempts != 0 {
		t.Errorf("%+v", got)
	}
	apptest.Eventually(t, d.said.has("call.delegate_skipped callId: 8.1"))
	d.platform.Fail(503, "")
	d.standby("8.2", "11991910000")
	d.tried("8.2", 1)
	d.tell("call.finished", "8.2")
	d.becomes("8.2", delegationSkipped)
	apptest.Eventually(t, d.said.has("call.delegate_skipped callId: 8.2, destination: 901"))
	d.platform.Heal()
	d.sent("8.2")
}

func TestWithoutAPlatformNothingIsSent(t *testing.T) {
	t.Parallel()
	eachDesk(t, func(c *Config) { c.ProviderURL = "" }, func(t *testing.T, d *desk) {
		d.standby("9.1", "11991910000")
		if got := d.row("9.1"); got.State != delegationSkipped || got.Detail != "no provider is configured" || got.SettledAt == nil {
			t.Errorf("%+v", got)
		}
		if err := d.delegations.byHand(t.Context(), "9.1", "950"); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "no phone platform is configured") {
			t.Errorf("by hand: %v", err)
		}
		if err := d.delegations.dial(t.Context(), dialRequest{Numbers: []string{"1"}, Destination: "2"}); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("dial: %v", err)
		}
	})
}

func TestOneOfHandAndMachineDelegates(t *testing.T) {
	t.Parallel()
	eachDesk(t, nil, func(t *testing.T, d *desk) {
		d.platform.Fail(503, "")
		d.standby("10.1", "11991910000")
		d.tried("10.1", 1)
		done := make(chan error, 1)
		go func() { done <- d.delegations.byHand(t.Context(), "10.1", "950") }()
		d.becomes("10.1", delegationManual)
		d.platform.Heal()
		must(t, <-done)
		d.sent("10.1", "950")
		apptest.Eventually(t, d.said.has("call.delegated callId: 10.1, destination: 950"))
		// Whoever was at it before has let it go.
		d.standby("10.2", "11991910000")
		d.becomes("10.2", delegationDelegated)
		d.sent("10.1", "950")
		// A call that was delegated can be sent elsewhere.
		must(t, d.delegations.byHand(t.Context(), "10.2", "950"))
		d.sent("10.2", "901", "950")
		if got := d.row("10.2"); got.State != delegationDelegated || got.Destination != "901" {
			t.Errorf("%+v", got)
		}
	})
}

func TestAHandWaitsForTheMachine(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	d.platform.Hang()
	d.standby("10.3", "11991910000")
	apptest.Eventually(t, func() string {
		if d.platform.Held() == 0 {
			return "nothing is being sent"
		}
		return ""
	})
	before := d.looks.Load()
	done := make(chan error, 1)
	go func() { done <- d.delegations.byHand(t.Context(), "10.3", "950") }()
	apptest.Eventually(t, func() string {
		if d.looks.Load() == before {
			return "the hand has not looked how long it has to wait"
		}
		return ""
	})
	d.platform.Heal()
	if err := <-done; errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), "to 900 in this moment") {
		t.Errorf("%v", err)
	}
	d.sent("10.3", "900")
}

func TestAHandIsToldWhatThePlatformSays(t *testing.T) {
	t.Parallel()
	d := newDesk(t, func(c *Config) { c.ProviderTimeout = 200 * time.Millisecond })
	if err := d.delegations.byHand(t.Context(), "11.0", "950"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("an unknown call: %v", err)
	}
	d.tell("call.new", "11.1", "their_number", "11991910000")
	d.platform.Fail(400, `{"error":"no such destination"}`)
	if err := d.delegations.byHand(t.Context(), "11.1", "950"); errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), "no such destination") {
		t.Errorf("refused: %v", err)
	}
	d.platform.Fail(503, "")
	if err := d.delegations.byHand(t.Context(), "11.1", "950"); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("away: %v", err)
	}
	if n := d.platform.ActionCount(); n < 3 {
		t.Errorf("asked %d times", n)
	}
	d.platform.Heal()
	d.platform.LoseNext(1)
	if err := d.delegations.byHand(t.Context(), "11.1", "950"); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "not known") {
		t.Errorf("lost: %v", err)
	}
	d.sent("11.1", "950") // not again
}

func TestRulesAskOtherModulesWhoCalls(t *testing.T) {
	t.Parallel()
	d := newDesk(t, func(c *Config) {
		c.Rules = []string{"known=mailing -> 909", "our=0800000000 known=crm -> 950"}
	})
	unheard := make(chan struct{}, 100)
	d.delegations.Unheard = func() { unheard <- struct{}{} }
	// Nobody answers.
	d.standby("12.1", "11991910000")
	d.becomes("12.1", delegationDelegated)
	d.sent("12.1", "900")
	if len(unheard) == 0 {
		t.Error("that nobody answered is not counted")
	}
	alias, ok := seal.PhoneIn("", "11991910000")
	if !ok {
		t.Fatal("no alias")
	}
	persons, err := d.keys.Find(t.Context(), alias)
	if err != nil || len(persons) != 1 {
		t.Fatal(persons, err)
	}
	// A module that knows this one person.
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	serving.Go(func() {
		_ = d.bus.Serve(ctx, telephonyapi.CallerSubject("crm"), "crm", func(_ context.Context, data []byte) ([]byte, error) {
			var q telephonyapi.CallerQuestion
			if err := json.Unmarshal(data, &q); err != nil {
				return nil, err
			}
			return json.Marshal(telephonyapi.CallerAnswer{Known: q.Person == persons[0].String()})
		})
	})
	apptest.Eventually(t, func() string {
		if _, err := d.bus.Request(ctx, telephonyapi.CallerSubject("crm"), []byte(`{}`)); err != nil {
			return err.Error()
		}
		return ""
	})
	d.standby("12.2", "11991910000")
	d.standby("12.3", "11991910007")
	d.standby("12.4", "anonymous")
	for id, want := range map[string]string{"12.2": "950", "12.3": "900", "12.4": "900"} {
		d.becomes(id, delegationDelegated)
		d.sent(id, want)
	}
}

func TestCallsDoNotWaitForThoseThatFail(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	d.platform.Fail(503, "")
	const many = 2 * delegateWorkers
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() { d.standby(fmt.Sprintf("13.%d", i), fmt.Sprintf("1199191%04d", i)) })
	}
	all.Wait()
	apptest.Eventually(t, func() string { // any of them: who comes second waits for a worker
		for i := range many {
			if d.row(fmt.Sprintf("13.%d", i)).Attempts > 0 {
				return ""
			}
		}
		return "none was tried"
	})
	d.platform.Heal()
	for i := range many {
		id := fmt.Sprintf("13.%d", i)
		d.becomes(id, delegationDelegated)
		d.sent(id, "900")
	}
}

func TestDialling(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	must(t, d.delegations.dial(t.Context(), dialRequest{Numbers: []string{"5511999998888"}, Destination: "100", Code: "c"}))
	got := d.platform.Actions()
	if len(got) != 1 || got[0].Type != "dialer" || got[0].Code != "c" || got[0].Destination != "100" || len(got[0].Numbers) != 1 {
		t.Errorf("%+v", got)
	}
	apptest.Eventually(t, d.said.has("numbers.dialled numbers: 1, destination: 100, code: c"))
	d.platform.LoseNext(1)
	if err := d.delegations.dial(t.Context(), dialRequest{Numbers: []string{"5511999998888"}, Destination: "100", Code: "d"}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("without an answer: %v", err)
	}
	if n := d.platform.ActionCount(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}
