package telephony

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var plain = cmp.AllowUnexported(mark{}, figures{}, actorFigures{})

// marks draws events of one call.
func marks(t *rapid.T) []mark {
	n := rapid.IntRange(1, 40).Draw(t, "events")
	out := make([]mark, n)
	for i := range out {
		out[i] = mark{stamp: stamp{int64(rapid.IntRange(0, 30).Draw(t, "at")) * 1e6, int64(i + 1)},
			Kind:  kind(rapid.IntRange(0, int(kindDialExceeded)).Draw(t, "kind")),
			Queue: rapid.SampledFrom([]string{"", "900", "901"}).Draw(t, "queue"),
			Actor: rapid.SampledFrom([]person{{}, {1}, {2}}).Draw(t, "actor")}
	}
	return out
}

func fold(list []mark) *facts {
	f := &facts{}
	for _, m := range list {
		f.add(m, direction(m.ID%3))
	}
	return f
}

func TestACallDoesNotDependOnTheOrderOfItsEvents(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		list := marks(t)
		want := fold(list)
		got := fold(rapid.Permutation(list).Draw(t, "order"))
		if diff := cmp.Diff(want, got, plain); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(want.figures(), got.figures(), plain); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestFactsAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := fold(marks(t))
		want.PrivateSaid, want.PrivateKnown = stamp{-5, 7}, 3
		got, err := decodeFacts(want.encode())
		if err != nil {
			t.Fatal(err)
		}
		if len(want.Marks) == 0 {
			want.Marks, got.Marks = nil, nil
		}
		if diff := cmp.Diff(want, got, plain); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzDecodeFacts(f *testing.F) {
	f.Add(fold([]mark{{stamp{1, 1}, kindWaiting, "900", person{}}, {stamp{2, 2}, kindEntered, "900", person{1}}}).encode())
	f.Add([]byte{1, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := decodeFacts(b); err == nil {
			again, err := decodeFacts(got.encode())
			if err != nil || !bytes.Equal(again.encode(), got.encode()) {
				t.Fatalf("%v", err)
			}
			got.figures()
		}
	})
}

// A call of which somebody sends thousands of events keeps the first of them
// and still comes to its end.
func TestACallWithoutEndIsBounded(t *testing.T) {
	t.Parallel()
	var list []mark
	for i := range int64(5000) {
		list = append(list, mark{stamp{i * 1e6, i + 1}, kindRinging, "900", person{1}})
	}
	list = append(list, mark{stamp{6000 * 1e6, 6000}, kindFinished, "", person{}})
	forward := fold(list)
	slices.Reverse(list)
	backward := fold(list)
	if len(forward.Marks) != maxMarks || forward.State != stateFinished || forward.Events != 5001 || forward.Finished != 6000*1e6 {
		t.Errorf("%d marks, %s, %d events", len(forward.Marks), forward.State, forward.Events)
	}
	if diff := cmp.Diff(forward, backward, plain); diff != "" {
		t.Error(diff)
	}
}

func TestWhatBecomesOfACall(t *testing.T) {
	t.Parallel()
	at := func(seconds int64, k kind, queue string, actor ...byte) mark {
		m := mark{stamp: stamp{seconds * 1e6, seconds + 1}, Kind: k, Queue: queue}
		if actor != nil {
			m.Actor = person{actor[0]}
		}
		return m
	}
	const none = -time.Second
	for name, c := range map[string]struct {
		events     []mark
		outcome    outcome
		queue      string
		wait, talk time.Duration
	}{
		"answered":                              {[]mark{at(0, kindNew, ""), at(5, kindWaiting, "900"), at(9, kindEntered, "900", 1), at(10, kindOngoing, ""), at(40, kindFinished, "")}, outcomeAnswered, "900", 4 * time.Second, 30 * time.Second},
		"answered and still talking":            {[]mark{at(5, kindWaiting, "900"), at(10, kindOngoing, "")}, outcomeAnswered, "900", 5 * time.Second, none},
		"abandoned":                             {[]mark{at(5, kindWaiting, "900"), at(8, kindQueueAbandon, "900"), at(9, kindFinished, "")}, outcomeAbandoned, "900", 3 * time.Second, none},
		"hung up while waiting, without a word": {[]mark{at(5, kindWaiting, "900"), at(9, kindFinished, "")}, outcomeAbandoned, "900", 4 * time.Second, none},
		"still waiting":                         {[]mark{at(5, kindWaiting, "900")}, outcomeNone, "900", none, none},
		"overflowed":                            {[]mark{at(5, kindWaiting, "900"), at(20, kindOverflow, ""), at(21, kindFinished, "")}, outcomeOverflow, "900", 16 * time.Second, none},
		"overflowed and answered elsewhere":     {[]mark{at(5, kindWaiting, "900"), at(20, kindOverflow, ""), at(21, kindWaiting, "910"), at(25, kindEntered, "910", 2), at(30, kindFinished, "")}, outcomeAnswered, "910", 20 * time.Second, 5 * time.Second},
		"forwarded":                             {[]mark{at(0, kindNew, ""), at(2, kindFollowMe, ""), at(9, kindFinished, "")}, outcomeForwarded, "", none, none},
		"hung up at once":                       {[]mark{at(0, kindNew, ""), at(9, kindFinished, "")}, outcomeUnanswered, "", none, none},
		"stood by, never delegated":             {[]mark{at(0, kindNew, ""), at(1, kindStandby, ""), at(9, kindFinished, "")}, outcomeUnanswered, "", 8 * time.Second, none},
		"clocks that disagree":                  {[]mark{at(9, kindWaiting, "900"), at(5, kindOngoing, ""), at(3, kindFinished, "")}, outcomeAnswered, "900", 0, 0},
	} {
		g := fold(c.events).figures()
		wait, talk := none, none
		if g.Waited {
			wait = g.Wait
		}
		if g.Talked {
			talk = g.Talk
		}
		if g.Outcome != c.outcome || g.Queue != c.queue || wait != c.wait || talk != c.talk {
			t.Errorf("%s: %s in %q, wait %s, talk %s", name, g.Outcome, g.Queue, wait, talk)
		}
	}
}
