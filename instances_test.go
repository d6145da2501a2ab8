package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/store/storetest"
)

// cluster is instances that share a bus and a database, each with a data
// directory of its own.
type cluster struct {
	t    *testing.T
	env  []string
	args []string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	return &cluster{t,
		[]string{"APP_MASTER_KEY=one master key for all instances", "APP_ADMIN_KEY=one-admin-key-for-all-instances"},
		[]string{"--nats-url=" + bustest.External(t), "--database-url=" + storetest.Postgres(t)}}
}

// launch starts instances at once and waits until all are ready.
func (c *cluster) launch(dirs ...string) []*apptest.Process {
	c.t.Helper()
	var all []*apptest.Process
	for _, dir := range dirs {
		all = append(all, apptest.Launch(c.t, dir, c.env, c.args...))
	}
	for _, p := range all {
		if why := p.Await(); why != "" {
			c.t.Fatal(why)
		}
	}
	return all
}

// call sends a request and gives the status and the body of the answer.
func call(t *testing.T, s server, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// newKey makes a key for an application that may write and read events, and
// gives its id and the credential.
func newKey(t *testing.T, p *apptest.Process) (id, key string) {
	t.Helper()
	status, text := call(t, server{p.URL, p.Key}, http.MethodPost, "/admin/keys",
		`{"name":"shop","app":"shop","scopes":["collector:write","collector:read"]}`)
	if status != http.StatusCreated {
		t.Fatalf("make a key: %d %s", status, text)
	}
	var made struct{ ID, Key string }
	if err := json.Unmarshal([]byte(text), &made); err != nil {
		t.Fatal(err)
	}
	return made.ID, made.Key
}

// TestInstanceKilledUnderLoadLosesNothing has each session's client send to
// either of two instances, kills one of them and lets the clients turn to the
// other with what was not acknowledged.
func TestInstanceKilledUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	dirs := []string{t.TempDir(), t.TempDir()}
	group := newCluster(t)
	both := group.launch(dirs...)
	_, key := newKey(t, both[0])
	a, b := server{both[0].URL, key}, server{both[1].URL, key}
	c := newCrowd(t, 8)
	c.sendTo(a, b)
	c.start()
	apptest.Within(t, 2*time.Minute, c.more(1500))
	both[1].Kill()
	killed := time.Now()
	c.sendTo(a)
	apptest.Within(t, time.Minute, c.more(1))
	t.Logf("the other instance acknowledged %s after the kill", time.Since(killed).Round(time.Millisecond))
	apptest.Within(t, 2*time.Minute, c.more(800))

	// It comes back while the load goes on, and both are equal in the end.
	back := group.launch(dirs[1])[0]
	b = server{back.URL, key}
	c.sendTo(a, b)
	apptest.Within(t, 2*time.Minute, c.more(800))
	c.halt()
	for _, s := range []server{a, b} {
		c.audit(s, c.settle(s))
	}
}

func TestWhatOneInstanceChangesHoldsOnTheOther(t *testing.T) {
	t.Parallel()
	both := newCluster(t).launch(t.TempDir(), t.TempDir())
	here, there := server{both[0].URL, both[0].Key}, server{both[1].URL, both[1].Key}
	event := fmt.Sprintf(`{"session_id":"s","category":"shop","name":"order paid","data":{"amount":"1"},"timestamp":%q}`,
		time.Now().UTC().Format(time.RFC3339))
	postThere := func(key string) int {
		status, _ := call(t, server{there.url, key}, http.MethodPost, "/collector/events", event)
		return status
	}
	moment := func(what string, change func(), want int, key string) {
		t.Helper()
		if status := postThere(key); status != http.StatusAccepted {
			t.Fatalf("before %s: %d", what, status)
		}
		began := time.Now()
		change()
		apptest.Within(t, 10*time.Second, func() string {
			if status := postThere(key); status != want {
				return fmt.Sprintf("%s: %d, want %d", what, status, want)
			}
			return ""
		})
		t.Logf("%s: holds on the other instance after %s", what, time.Since(began).Round(time.Millisecond))
	}

	path := "/collector/schemas/shop/" + url.PathEscape("order paid")
	moment("a schema that is put", func() {
		status, text := call(t, here, http.MethodPut, path, `{"type":"object","properties":{"amount":{"type":"number"}}}`)
		if status != http.StatusCreated {
			t.Fatalf("put a schema: %d %s", status, text)
		}
	}, http.StatusUnprocessableEntity, there.key)
	status, text := call(t, here, http.MethodDelete, path, "")
	if status != http.StatusNoContent {
		t.Fatalf("delete a schema: %d %s", status, text)
	}
	apptest.Within(t, 10*time.Second, func() string {
		if status := postThere(there.key); status != http.StatusAccepted {
			return fmt.Sprintf("after the schema was deleted: %d", status)
		}
		return ""
	})
	id, key := newKey(t, both[0])
	moment("a key that is revoked", func() {
		if status, text := call(t, here, http.MethodDelete, "/admin/keys/"+id, ""); status != http.StatusNoContent {
			t.Fatalf("revoke a key: %d %s", status, text)
		}
	}, http.StatusUnauthorized, key)
}
