package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"switchboard/platform/apptest"
)

// Telephony asks mailing over the bus whether somebody who calls is a client,
// and knows the number in whatever form it comes.
func TestACallerWhoIsAClientGoesWhereTheRuleSays(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := map[string]bool{}
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		asked[string(body)] = true
		mu.Unlock()
		_, _ = io.WriteString(w, `{"status":"ok"}`)
	}))
	t.Cleanup(platform.Close)
	p := apptest.Start(t, modules, apptest.Args("--modules=telephony,mailing"),
		apptest.Env("APP_TELEPHONY_PROVIDER_URL="+platform.URL, "APP_TELEPHONY_RULES=known=mailing -> 950"))
	if status := p.Call(http.MethodPost, "/mailing/clients", `{"phone_number":"79161234567","tag":"vip","timezone":"Europe/Moscow"}`, nil); status != http.StatusCreated {
		t.Fatalf("make a client: %d", status)
	}
	for call, number := range map[string]string{"1": "+7 (916) 123-45-67", "2": "+7 916 765-43-21"} {
		body := `{"type":"call.standby","call_id":"` + call + `","their_number":"` + number + `","timestamp":"2026-01-05T12:00:00Z"}`
		if status := p.Call(http.MethodPost, "/webhook", body, nil); status != http.StatusOK {
			t.Fatalf("standby: %d", status)
		}
	}
	apptest.Eventually(t, func() string {
		mu.Lock()
		defer mu.Unlock()
		client, stranger := false, false
		for body := range asked {
			client = client || strings.Contains(body, `"call_id":"1"`) && strings.Contains(body, `"destination":"950"`)
			stranger = stranger || strings.Contains(body, `"call_id":"2"`) && strings.Contains(body, `"destination":"900"`)
		}
		if !client || !stranger {
			return "not yet delegated"
		}
		return ""
	})
}
