package mailing

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"switchboard/platform/apptest"
	"switchboard/platform/breaker"
	"switchboard/platform/bus"
	"switchboard/platform/seal"
	"switchboard/platform/store"
	"switchboard/platform/store/storetest"
)

// feeder is a dispatcher that does one step when a test says so. What it hands
// out is only noted.
type feeder struct {
	*planner
	dispatch *dispatcher
	mu       sync.Mutex
	out      []int64
}

func newFeeder(t *testing.T, options ...apptest.Option) *feeder {
	t.Helper()
	f := &feeder{planner: newPlanner(t, options...)}
	b := &breaker.Breaker{}
	f.dispatch = &dispatcher{cfg: &Config{Batch: 200, MaxInFlight: 1000}, campaigns: f.campaigns.store, messages: f.campaigns.messages, store: &dispatchStore{f.p.DB}, clients: f.clients,
		suppressions: f.silent, breaker: b, bus: f.p.Bus, relay: f.p.Outbox, logged: f.campaigns.logged, metrics: newMetrics(f.p.Metrics, b), log: f.p.Log, now: f.clock, empty: map[int64]time.Time{}}
	if err := f.dispatch.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	t.Cleanup(func() { stop(); reading.Wait() })
	reading.Go(func() {
		err := f.p.Bus.Consume(ctx, bus.Consumer{Stream: streamSend, Name: "notes", Subject: subjectSend}, func(_ context.Context, msgs []bus.Message) error {
			for _, m := range msgs {
				var h handed
				if err := json.Unmarshal(m.Data, &h); err != nil {
					return err
				}
				f.mu.Lock()
				f.out = append(f.out, h.IDs...)
				f.mu.Unlock()
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	return f
}

// begun makes a campaign from noon to noon that runs.
func (f *feeder) begun(more string) *campaign {
	f.t.Helper()
	id := f.planner.plan(more).ID
	if err := f.dispatch.begin(f.t.Context(), id, campaignScheduled, f.clock()); err != nil {
		f.t.Fatal(err)
	}
	return f.read(id)
}

func (f *feeder) read(id int64) *campaign {
	f.t.Helper()
	c, err := f.campaigns.get(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// feed does a step with a campaign as it was read.
func (f *feeder) feed(c *campaign, room int) (behind, fed bool) {
	f.t.Helper()
	behind, n, err := f.dispatch.feed(f.t.Context(), c, f.clock(), room, expandChunk)
	if err != nil {
		f.t.Fatal(err)
	}
	return behind, n > 0
}

// rows gives the messages of a campaign, after it made sure that the counters
// are what they say.
func (f *feeder) rows(id int64) []message {
	f.t.Helper()
	list, err := f.campaigns.messages.list(f.t.Context(), messageQuery{Campaign: &id, Limit: 100_000})
	if err != nil {
		f.t.Fatal(err)
	}
	counts, err := f.campaigns.counts(f.t.Context(), []int64{id})
	if err != nil {
		f.t.Fatal(err)
	}
	counted := map[messageStatus]int64{}
	for _, m := range list {
		counted[m.Status]++
	}
	if shown(counted) != shown(counts[id]) {
		f.t.Errorf("counted %s, there are %s", shown(counts[id]), shown(counted))
	}
	return list
}

// has checks how many messages of a campaign are in each status.
func (f *feeder) has(id int64, want string) {
	f.t.Helper()
	counted := map[messageStatus]int64{}
	for _, m := range f.rows(id) {
		counted[m.Status]++
	}
	if got := shown(counted); got != want {
		f.t.Errorf("campaign %d: %s; want %s", id, got, want)
	}
}

// handedOut waits until these clients' messages of a campaign were handed out,
// and no others.
func (f *feeder) handedOut(id int64, clients ...int64) {
	f.t.Helper()
	of := map[int64]int64{}
	for _, m := range f.rows(id) {
		of[m.ID] = m.ClientID
	}
	apptest.Eventually(f.t, func() string {
		f.mu.Lock()
		defer f.mu.Unlock()
		var got []int64
		for _, id := range f.out {
			got = append(got, of[id])
		}
		slices.Sort(got)
		if !slices.Equal(got, clients) {
			return fmt.Sprintf("handed out for %v, want %v", got, clients)
		}
		return ""
	})
}

// waits makes messages of a campaign that are there before it is fed.
func (f *feeder) waits(id int64, status messageStatus, due time.Time, clients ...int64) {
	f.t.Helper()
	f.sql(`update mailing_counter set value = value + $1 where name = 'message'`, slices.Max(clients))
	for _, client := range clients {
		row, err := f.clients.store.get(f.t.Context(), client)
		if err != nil {
			f.t.Fatal(err)
		}
		f.sql(`insert into mailing_message (id, campaign, client, phone, status, attempts, due_at, claim, created_at, delivered, last_error) values ($1, $2, $3, $4, $5, 1, $6, 0, 0, '', '')`,
			client, id, client, row.Phone[:], int64(status), store.MicrosOf(due))
	}
	f.sql(`insert into mailing_count (campaign, status, messages) values ($1, $2, $3)`, id, int64(status), len(clients))
}

func TestWhatIsMadeIsHandedOutAsFarAsThereIsRoom(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := newFeeder(t, options...)
		for i := range 6 {
			zone := "UTC"
			if i == 2 {
				zone = "Asia/Tokyo" // it is 21:00
			}
			f.client(fmt.Sprintf("7916000000%d", i), "vip", zone, `{}`)
		}
		if _, _, err := f.silent.add(t.Context(), "79160000001", "", ""); err != nil {
			t.Fatal(err)
		}
		c := f.begun(`,"window":{"from":"09:00","to":"20:00"}`)
		if behind, fed := f.feed(c, 2); behind || !fed {
			t.Error(behind, fed)
		}
		f.has(c.ID, "3 pending, 2 sending, 1 canceled")
		for _, m := range f.rows(c.ID) {
			due := map[messageStatus]time.Time{messageSending: noon.Add(lease), messagePending: noon, messageCanceled: noon}[m.Status]
			if m.ClientID == 3 {
				due = noon.Add(12 * time.Hour)
			}
			if !m.DueAt.Equal(due) || !m.CreatedAt.Equal(noon) || m.Attempts != 0 {
				t.Errorf("%+v", m)
			}
		}
		f.handedOut(c.ID, 1, 4)
		// Those that wait are handed out next, and not again when somebody looks.
		for range 2 {
			f.feed(f.read(c.ID), 100)
			f.has(c.ID, "1 pending, 4 sending, 1 canceled")
			f.handedOut(c.ID, 1, 4, 5, 6)
		}
		// Without room they are made all the same.
		f.client("79160000009", "vip", "UTC", `{}`)
		if _, fed := f.feed(f.read(c.ID), 0); fed {
			t.Error("handed out without room")
		}
		f.has(c.ID, "2 pending, 4 sending, 1 canceled")
	})
}

// While workers have enough in hand, messages are made ahead only now and then,
// and a campaign whose clients were not looked at is not over.
func TestACampaignForWhichThereIsNoRoomIsNotOver(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := newFeeder(t, options...)
		for i := range 3 {
			f.client(fmt.Sprintf("7916000000%d", i), "vip", "UTC", `{}`)
		}
		other, c := f.begun(""), f.begun("")
		f.sql(`insert into mailing_count (campaign, status, messages) values ($1, $2, $3)`, other.ID, int64(messageSending), f.dispatch.cfg.MaxInFlight-10)
		advance := func(ahead bool) {
			t.Helper()
			busy, err := f.dispatch.advance(t.Context(), f.read(c.ID), f.clock(), ahead)
			if busy || err != nil {
				t.Fatal(busy, err)
			}
			if got := f.read(c.ID).Status; got != campaignRunning {
				t.Fatalf("it is %s", got)
			}
		}
		advance(false)
		f.has(c.ID, "")
		advance(true)
		f.has(c.ID, "3 sending")
	})
}

func TestANumberThatHasItsMessageIsNotHandedOut(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := newFeeder(t, options...)
		for i := range 8 {
			f.client(fmt.Sprintf("7916000000%d", i), "vip", "UTC", `{}`)
		}
		c := f.begun("")
		f.waits(c.ID, messageSent, noon, 1, 3, 4)
		f.feed(c, 4)
		f.has(c.ID, "4 pending, 1 sending, 3 sent") // it had places for four
		f.handedOut(c.ID, 2)
		f.feed(f.read(c.ID), 4)
		f.has(c.ID, "5 sending, 3 sent")
		f.handedOut(c.ID, 2, 5, 6, 7, 8)
	})
}

// What cannot be handed over is not made either: a death in between leaves
// nothing, and the next one begins where this one did.
func TestMessagesAreMadeAndHandedOutTogetherOrNotAtAll(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := newFeeder(t, options...)
		for i := range 3 {
			f.client(fmt.Sprintf("7916000000%d", i), "vip", "UTC", `{}`)
		}
		c := f.begun("")
		f.waits(c.ID, messageRetrying, noon, 1)
		f.sql(`alter table outbox rename to outbox_away`)
		_, _, err := f.dispatch.feed(t.Context(), c, noon, 10, expandChunk)
		f.sql(`alter table outbox_away rename to outbox`)
		if err == nil {
			t.Fatal("no error")
		}
		f.has(c.ID, "1 retrying")
		if c = f.read(c.ID); c.Expanded != 0 {
			t.Errorf("the audience was made up to client %d", c.Expanded)
		}
		f.feed(c, 10)
		f.has(c.ID, "3 sending")
		f.handedOut(c.ID, 1, 2, 3)
	})
}

func TestACampaignThatChangedSinceItWasReadMakesNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := newFeeder(t, options...)
		f.client("79160000001", "vip", "UTC", `{}`)
		for name, change := range map[string]func(id int64) error{
			"paused":   func(id int64) error { _, err := f.campaigns.pause(t.Context(), id); return err },
			"canceled": func(id int64) error { _, err := f.campaigns.cancel(t.Context(), id); return err },
			"an earlier end": func(id int64) error {
				end := noon.Add(time.Minute)
				_, err := f.campaigns.update(t.Context(), id, campaignChange{EndAt: &end})
				return err
			},
			"another window": func(id int64) error {
				_, err := f.campaigns.update(t.Context(), id, campaignChange{Window: &window{18 * 60, 19 * 60}, WindowSet: true})
				return err
			},
			"made by another instance": func(id int64) error {
				f.sql(`update mailing_campaign set expanded = 1 where id = $1`, id)
				return nil
			},
		} {
			c := f.begun("")
			if err := change(c.ID); err != nil {
				t.Fatal(err)
			}
			if _, fed := f.feed(c, 10); fed {
				t.Errorf("%s: it was handed out", name)
			}
			f.has(c.ID, "")
		}
	})
}

// A campaign of thousands makes messages for each of its steps. Those that wait
// for a retry, or could have gone before, are handed out first.
func TestWhatWaitsIsNotStarvedByABigCampaign(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := newFeeder(t, options...)
		for i := range 5 {
			f.client(fmt.Sprintf("7916000000%d", i), "vip", "UTC", `{}`)
		}
		rows := make([]audienceRow, 2*expandChunk)
		for i := range rows {
			rows[i] = audienceRow{ID: int64(i + 100), Phone: seal.Index{byte(i), byte(i >> 8), 1}, Subject: seal.Subject{1}, Sealed: []byte{1}, OperatorCode: "916", Tag: "vip", Timezone: "UTC"}
		}
		if err := f.p.DB.Tx(t.Context(), func(tx store.Querier) error { return f.clients.store.insert(t.Context(), tx, rows) }); err != nil {
			t.Fatal(err)
		}
		c := f.begun("")
		f.waits(c.ID, messageRetrying, noon.Add(-time.Second), 1, 2, 3)
		f.waits(c.ID, messagePending, noon.Add(-time.Minute), 4, 5)
		if behind, fed := f.feed(c, 3); !behind || !fed {
			t.Error(behind, fed)
		}
		f.handedOut(c.ID, 1, 4, 5)
		if behind, _ := f.feed(f.read(c.ID), 4); !behind {
			t.Error("there are more clients")
		}
		f.handedOut(c.ID, 1, 2, 3, 4, 5, 100, 101)
	})
}

func TestHeldMessagesComeWithTheirClients(t *testing.T) {
	t.Parallel()
	storetest.Each(t, os.DirFS("."), func(t *testing.T, db *store.DB) {
		const n = 150
		rows := crowd(t, db, n, 3, 3)
		list := make([]planned, n)
		for i := range list {
			list[i] = planned{Client: rows[i].ID, Phone: rows[i].Phone, Due: noon}
		}
		h := newHanding(1, noon, n)
		err := db.Tx(t.Context(), func(tx store.Querier) error {
			if err := (&messageStore{db}).plan(t.Context(), tx, list, h); err != nil {
				return err
			}
			if _, err := tx.ExecContext(t.Context(), `update mailing_message set claim = claim + 1 where id = $1`, h.IDs[0]); err != nil {
				return err
			}
			if _, err := tx.ExecContext(t.Context(), `update mailing_message set status = 2 where id = $1`, h.IDs[1]); err != nil {
				return err
			}
			_, err := (&clientStore{db}).remove(t.Context(), tx, rows[2].ID)
			return err
		})
		if err != nil || len(h.IDs) != n {
			t.Fatal(len(h.IDs), err)
		}
		for _, size := range []int{1, 3, 64, 65, n} {
			var got []held
			for part := range slices.Chunk(h.IDs, size) {
				some, err := (&dispatchStore{db}).held(t.Context(), h.Claim, part)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, some...)
			}
			if len(got) != n-2 {
				t.Fatalf("%d by %d", len(got), size)
			}
			for i, m := range got {
				want := rows[i+2]
				if m.id != h.IDs[i+2] || m.client != want.ID || m.phone != want.Phone || m.attempts != 0 || (m.to == nil) != (i == 0) {
					t.Fatalf("%+v", m)
				}
				if m.to != nil && (m.to.Phone != want.Phone || m.to.Subject != want.Subject || m.to.Tag != want.Tag || m.to.OperatorCode != want.OperatorCode || m.to.Timezone != want.Timezone) {
					t.Errorf("%+v, want %+v", m.to, want)
				}
			}
		}
	})
}

// Fates of all kinds in one transaction: of messages in hand, and of some that
// were taken away meanwhile.
func TestFatesAreWrittenTogetherAndCountedOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		f := newFeeder(t, options...)
		for i := range 7 {
			f.client(fmt.Sprintf("7916000000%d", i), "vip", "UTC", `{}`)
		}
		c := f.begun("")
		f.feed(c, 100)
		f.sql(`update mailing_message set claim = claim + 1 where client in (6, 7)`)
		fates := make([]fate, 0, 8)
		for _, m := range f.rows(c.ID) {
			fates = append(fates, fate{campaign: c.ID, claim: 1, id: m.ID, client: m.ClientID, attempts: 1, due: noon.Add(time.Duration(m.ClientID) * time.Second)})
		}
		for i, status := range []messageStatus{messageRetrying, messageSent, messageFailed, messageSent, messagePending, messageSent, messageFailed} {
			if fates[i].status = status; status == messageRetrying || status == messageFailed {
				fates[i].err = "busy"
			}
		}
		fates[4].attempts = 0
		fates = append(fates, fates[1]) // delivered twice
		if err := f.dispatch.store.settle(t.Context(), fates); err != nil {
			t.Fatal(err)
		}
		f.has(c.ID, "1 pending, 1 sending, 3 sent, 1 retrying, 1 failed") // what failed elsewhere is not known here
		for i, m := range f.rows(c.ID) {
			want := fates[i]
			if i == 6 {
				want = fate{status: messageSending, due: noon.Add(lease)}
			}
			sent := m.SentAt != nil && m.SentAt.Equal(want.due)
			if m.Status != want.status || m.Attempts != want.attempts || !m.DueAt.Equal(want.due) || m.LastError != want.err || sent != (want.status == messageSent) || !sent && m.SentAt != nil {
				t.Errorf("%+v, want %+v", m, want)
			}
		}
	})
}
