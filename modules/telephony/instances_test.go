package telephony

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"switchboard/modules/telephony/internal/vendor"
	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/store/storetest"
)

// TestTwoInstancesKeepOneLog plays calls to one of two instances and each event
// a second time to the other, kills the first and goes on with the second. A
// board at the second sees every event once and in the order of the log.
func TestTwoInstancesKeepOneLog(t *testing.T) {
	t.Parallel()
	fake := vendor.New(vendor.Options{})
	defer fake.Close()
	provider, err := fake.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"APP_MASTER_KEY=one master key for all instances", "APP_ADMIN_KEY=one-admin-key-for-all-instances", "APP_TELEPHONY_PROVIDER_URL=" + provider}
	args := []string{"--modules=telephony", "--nats-url=" + bustest.External(t), "--database-url=" + storetest.Postgres(t)}
	a := apptest.Exec(t, t.TempDir(), env, args...)
	b := apptest.Exec(t, t.TempDir(), env, args...)

	conn, _, err := websocket.Dial(t.Context(), strings.Replace(b.URL, "http", "ws", 1)+"/telephony/ws?key="+b.Key, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 20)
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"event":"Subscribe","data":{}}`)); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var pushed []int64
	subscribed := make(chan struct{})
	var reading sync.WaitGroup
	listening, deaf := context.WithCancel(t.Context())
	defer deaf()
	reading.Go(func() {
		for {
			_, text, err := conn.Read(listening)
			if err != nil {
				return
			}
			var frame struct {
				Event string
				Data  json.RawMessage
			}
			if err := json.Unmarshal(text, &frame); err != nil {
				t.Error(err)
			}
			switch frame.Event {
			case "Subscribe":
				close(subscribed)
			case "CallEvent":
				var e struct{ ID int64 }
				if err := json.Unmarshal(frame.Data, &e); err != nil {
					t.Error(err)
				}
				mu.Lock()
				pushed = append(pushed, e.ID)
				mu.Unlock()
			}
		}
	})
	<-subscribed

	var l ledger
	again := func(callID string, body []byte, status int) {
		l.note(callID, body, status)
		req, err := http.NewRequest(http.MethodPost, b.URL+"/webhook?key="+b.Key, strings.NewReader(string(body)))
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		var got EventReceipt
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.StatusCode != http.StatusOK || status == http.StatusOK && !got.Duplicate {
			t.Errorf("the other instance: %s %+v (%v)", resp.Status, got, err)
		}
	}
	fake.SetWebhook(a.URL+"/webhook", a.Key)
	played := make(chan error, 1)
	playing, halt := context.WithCancel(t.Context())
	defer halt()
	go func() {
		_, err := fake.Play(playing, vendor.PlayOptions{For: time.Hour, Parallel: 8, Returning: 0.3, OutOfOrder: 0.2, Duplicates: 0.1,
			AwaitDelegate: true, DelegateWait: 10 * time.Second, OnEvent: again})
		played <- err
	}()
	apptest.Within(t, time.Minute, l.more(400))
	a.Kill()
	fake.SetWebhook(b.URL+"/webhook", b.Key)
	apptest.Within(t, time.Minute, l.more(300))
	halt()
	<-played

	delegated := l.audit(t, b.URL, b.Key)
	for callID := range l.acked {
		if n := len(fake.Accepted(callID)); n > 1 {
			t.Errorf("call %s was delegated %d times", callID, n)
		}
	}
	if delegated == 0 {
		t.Error("no call was delegated")
	}
	// The log has no gaps, on the board neither.
	var page struct{ Items []LoggedEvent }
	get(t, b.URL, b.Key, "/telephony/events?limit=1", &page)
	last := page.Items[0].ID
	apptest.Eventually(t, func() string {
		mu.Lock()
		defer mu.Unlock()
		if len(pushed) == 0 || pushed[len(pushed)-1] < last {
			return "the board is behind"
		}
		return ""
	})
	deaf()
	reading.Wait()
	for i, id := range pushed {
		if id != int64(i+1) {
			t.Fatalf("event %d came as number %d", id, i+1)
		}
	}
	t.Logf("%d events in one log, %d calls delegated", last, delegated)
}
