package collector_test

import (
	"net/http"
	"testing"
)

// A key that stands in a web page may send events, and no more.
func TestKeyBoundToOriginsMayOnlySend(t *testing.T) {
	t.Parallel()
	p := start(t)
	key := p.NewKey(map[string]any{"app": "shop", "scopes": []string{"collector:write"}, "origins": []string{"https://shop.example"}})
	for _, c := range []struct{ method, path string }{
		{http.MethodPut, "/collector/schemas/a/b"},
		{http.MethodDelete, "/collector/schemas/a/b"},
		{http.MethodPost, "/collector/rejects/00000000-0000-0000-0000-000000000000/retry"},
	} {
		if status := p.CallAs(key, c.method, c.path, "{}", nil); status != http.StatusForbidden {
			t.Errorf("%s %s: %d", c.method, c.path, status)
		}
	}
	if status := p.CallAs(key, http.MethodPost, "/collector/events", `{"session_id":"s","category":"c","name":"n","data":{},"timestamp":"2021-01-01 00:00:00"}`, nil); status != http.StatusAccepted {
		t.Errorf("an event: %d", status)
	}
}
