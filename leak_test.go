package main

import (
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"switchboard/platform/apptest"
)

// TestNothingRunsAfterTheEnd uses the product and wants every goroutine of it
// gone when it has stopped. It is not parallel: others would be counted too.
func TestNothingRunsAfterTheEnd(t *testing.T) {
	before := goleak.IgnoreCurrent()
	p := apptest.Start(t, modules)
	event := map[string]any{"session_id": "s", "category": "c", "name": "n", "data": map[string]any{}, "timestamp": "2021-01-01 00:00:00"}
	if status := p.Call(http.MethodPost, "/collector/events", event, nil); status != http.StatusAccepted {
		t.Fatal(status)
	}
	apptest.Eventually(t, func() string {
		var page struct{ Items []any }
		if p.Call(http.MethodGet, "/collector/events", nil, &page); len(page.Items) != 1 {
			return "the event is not stored"
		}
		return ""
	})
	p.Stop()
	goleak.VerifyNone(t, before)
}
