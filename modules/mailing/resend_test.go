package mailing

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"switchboard/modules/mailing/internal/probe"
	"switchboard/platform/apptest"
)

func TestWhatTheProviderRefusedGoesAgainUnderItsID(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, options ...apptest.Option) {
		var mu sync.Mutex
		var refused []int64
		f := newOffice(t, probe.Options{Fate: func(id int64, n int) probe.Fault {
			if id%5 == 0 && n == 1 {
				mu.Lock()
				defer mu.Unlock()
				refused = append(refused, id)
				return probe.BadRequest
			}
			return probe.None
		}}, options...)
		f.add(0, 20, "vip", "UTC")
		now := time.Now()
		c := f.campaign(newCampaign{StartAt: now, EndAt: now.Add(time.Hour)})
		before := f.becomes(c.ID, campaignFinished)
		if before[messageFailed] == 0 || int(before[messageFailed]) != len(refused) {
			t.Fatalf("%v, refused %v", before, refused)
		}
		var failures Failures
		f.product.Call(http.MethodGet, "/mailing/campaigns/1/failures", nil, &failures)
		if len(failures.Reasons) != 1 || failures.Reasons[0].Messages != before[messageFailed] || failures.Reasons[0].LastError == "" {
			t.Errorf("%+v", failures)
		}
		var got Resent
		if status := f.product.Call(http.MethodPost, "/mailing/campaigns/1/resend", nil, &got); status != http.StatusOK || got.Queued != before[messageFailed] {
			t.Fatal(status, got)
		}
		after := f.becomes(c.ID, campaignFinished)
		if after[messageSent] != 20 || after[messageFailed] != 0 {
			t.Error(after)
		}
		f.once(20)
		slices.Sort(refused)
		for _, id := range refused {
			if f.probe.Attempts(id) != 2 || f.probe.Accepted(id) != 1 {
				t.Errorf("message %d: %d attempts, accepted %d times", id, f.probe.Attempts(id), f.probe.Accepted(id))
			}
		}
	})
}

func TestATestGoesToTheNamedClientsAndCountsNowhere(t *testing.T) {
	t.Parallel()
	f := newOffice(t, probe.Options{})
	f.add(0, 3, "vip", "UTC")
	now := time.Now()
	c := f.campaign(newCampaign{StartAt: now.Add(time.Hour), EndAt: now.Add(2 * time.Hour), Filter: filter{Tag: []string{"other"}}})
	var got CampaignTest
	if status := f.product.Call(http.MethodPost, "/mailing/campaigns/1/test", `{"client_ids":[1,3]}`, &got); status != http.StatusOK || got.Sent != 2 {
		t.Fatal(status, got)
	}
	f.once(2)
	for status, n := range f.counts(c.ID) {
		if n != 0 {
			t.Errorf("%d are %s", n, status)
		}
	}
	// A provider that does not accept it is named.
	f.probe.Set(probe.Faults{Fail: 1})
	if status := f.product.Call(http.MethodPost, "/mailing/campaigns/1/test", `{"client_ids":[2]}`, nil); status != http.StatusServiceUnavailable {
		t.Error(status)
	}
}
