package telephony

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"switchboard/modules/telephony/internal/vendor"
	"switchboard/platform/app"
	"switchboard/platform/apptest"
)

// withPlatform runs the product beside a platform.
func withPlatform(t *testing.T, env ...string) (*apptest.Product, *vendor.Fake) {
	t.Helper()
	f := vendor.New(vendor.Options{User: deskUser, Password: deskPassword})
	s := httptest.NewServer(f)
	t.Cleanup(func() {
		f.Heal()
		s.Close()
		f.Close()
	})
	p := apptest.Start(t, []app.Module{Module}, apptest.Env(append([]string{"APP_TELEPHONY_PROVIDER_URL=" + s.URL, "APP_TELEPHONY_PROVIDER_USER=" + deskUser,
		"APP_TELEPHONY_PROVIDER_PASSWORD=" + deskPassword, "APP_TELEPHONY_PROVIDER_TIMEOUT=500ms"}, env...)...))
	return p, f
}

func webhook(t *testing.T, p *apptest.Product, event map[string]string) {
	t.Helper()
	event["timestamp"] = "2017-01-01T00:00:00Z"
	if status := p.Call(http.MethodPost, "/telephony/webhook", event, nil); status != http.StatusOK {
		t.Fatalf("webhook: %d", status)
	}
}

type deskProblem struct {
	Detail string `json:"detail"`
	Errors []struct {
		Location string `json:"location"`
	} `json:"errors"`
}

func (p deskProblem) locations() (out []string) {
	for _, e := range p.Errors {
		out = append(out, e.Location)
	}
	return out
}

func TestACallIsDelegatedByHandOverHTTP(t *testing.T) {
	t.Parallel()
	p, f := withPlatform(t)
	webhook(t, p, map[string]string{"type": "call.new", "call_id": "1463669263.30050", "their_number": "11991910000"})
	const path = "/telephony/calls/1463669263.30050/delegate"
	for body, want := range map[string]string{`{"destination":"950"}`: "950", `{"destination":951}`: "951"} {
		var got map[string]string
		if status := p.Call(http.MethodPost, path, body, &got); status != http.StatusOK || got["status"] != "ok" || got["call_id"] != "1463669263.30050" || got["destination"] != want {
			t.Errorf("%s: %d %v", body, status, got)
		}
	}
	for body, want := range map[string]string{`{}`: "body.destination", `{"destination":""}`: "body.destination", `{"destination":"a b"}`: "body.destination",
		`{"destination":1.5}`: "body.destination", `{"destination":["1"]}`: "body.destination", `{"destination":"1","x":1}`: "body.x"} {
		var got deskProblem
		if status := p.Call(http.MethodPost, path, body, &got); status != http.StatusUnprocessableEntity || !slices.ContainsFunc(got.locations(), func(at string) bool { return strings.HasPrefix(at, want) || at == "body" }) {
			t.Errorf("%s: %d %+v", body, status, got)
		}
	}
	var got deskProblem
	if status := p.Call(http.MethodPost, "/telephony/calls/1.1/delegate", `{"destination":"950"}`, &got); status != http.StatusNotFound {
		t.Errorf("an unknown call: %d", status)
	}
	f.Fail(403, `{"error":"no such destination"}`)
	if status := p.Call(http.MethodPost, path, `{"destination":"950"}`, &got); status != http.StatusConflict || !strings.Contains(got.Detail, "no such destination") {
		t.Errorf("refused: %d %+v", status, got)
	}
	f.Fail(503, "")
	if status := p.Call(http.MethodPost, path, `{"destination":"950"}`, &got); status != http.StatusServiceUnavailable {
		t.Errorf("away: %d", status)
	}
	f.Heal()
	if status := p.CallAs(p.NewKey(map[string]any{"scopes": []string{"telephony:read", "telephony:webhook"}}), http.MethodPost, path, `{"destination":"950"}`, nil); status != http.StatusForbidden {
		t.Errorf("with another scope: %d", status)
	}
	if n := len(f.Accepted("1463669263.30050")); n != 2 {
		t.Errorf("%d were taken", n)
	}
	if strings.Contains(p.Log.String(), deskPassword) {
		t.Error("the password is in the log")
	}
}

func TestNumbersAreDialledOverHTTP(t *testing.T) {
	t.Parallel()
	p, f := withPlatform(t)
	var got map[string]string
	if status := p.Call(http.MethodPost, "/telephony/dial", `{"numbers":["5511999998888",5511999997777],"destination":"100","destination_type":"peer","code":"happy-peer-100","retries":1,"retry_gap":"10s","ttl":"5m"}`, &got); status != http.StatusOK ||
		got["status"] != "ok" || got["code"] != "happy-peer-100" {
		t.Errorf("%d %v", status, got)
	}
	if status := p.Call(http.MethodPost, "/telephony/dial", `{"numbers":["5511999998888"],"destination":100}`, &got); status != http.StatusOK || len(got["code"]) != 36 {
		t.Errorf("%d %v", status, got)
	}
	actions := f.Actions()
	if len(actions) != 2 || fmt.Sprint(actions[0].Numbers) != "[5511999998888 5511999997777]" || actions[1].Code != got["code"] || actions[1].Destination != "100" {
		t.Errorf("%+v", actions)
	}
	many, err := json.Marshal(slices.Repeat([]string{"1"}, 101))
	must(t, err)
	for body, want := range map[string]string{
		`{"numbers":[],"destination":"1"}`:                           "body.numbers",
		`{"destination":"1"}`:                                        "body",
		`{"numbers":null,"destination":"1"}`:                         "body.numbers",
		`{"numbers":` + string(many) + `,"destination":"1"}`:         "body.numbers",
		`{"numbers":["1",""],"destination":"1"}`:                     "body.numbers[1]",
		`{"numbers":["me"],"destination":"1"}`:                       "body.numbers[0]",
		`{"numbers":["1"]}`:                                          "body",
		`{"numbers":["1"],"destination":""}`:                         "body.destination",
		`{"numbers":["1"],"destination":"1","retries":"x"}`:          "body.retries",
		`{"numbers":["1"],"destination":"1","retries":-1}`:           "body.retries",
		`{"numbers":["1"],"destination":"1","retries":1000}`:         "body.retries",
		`{"numbers":["1"],"destination":"1","retry_gap":"ten"}`:      "body.retry_gap",
		`{"numbers":["1"],"destination":"1","ttl":"0s"}`:             "body.ttl",
		`{"numbers":["1"],"destination":"1","code":"a\nb"}`:          "body.code",
		`{"numbers":["1"],"destination":"1","destination_type":" "}`: "body.destination_type",
	} {
		var problem deskProblem
		if status := p.Call(http.MethodPost, "/telephony/dial", body, &problem); status != http.StatusUnprocessableEntity || !slices.Contains(problem.locations(), want) {
			t.Errorf("%.60s: %d %+v", body, status, problem)
		}
	}
	if n := f.ActionCount(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	if strings.Contains(p.Log.String(), "55119999") {
		t.Error("a number is in the log")
	}
}

func TestACallTellsOfItsDelegation(t *testing.T) {
	t.Parallel()
	p, _ := withPlatform(t, "APP_TELEPHONY_RULES=days=mon-sun -> 950")
	webhook(t, p, map[string]string{"type": "call.standby", "call_id": "1.1", "their_number": "11991910000"})
	apptest.Eventually(t, func() string {
		var got struct {
			Delegation struct{ State, Destination, Customer string }
		}
		if status := p.Call(http.MethodGet, "/telephony/calls/1.1", nil, &got); status != http.StatusOK || got.Delegation.State != "delegated" ||
			got.Delegation.Destination != "950" || got.Delegation.Customer != "new" {
			return fmt.Sprintf("%d %+v", status, got)
		}
		return ""
	})
}

func TestRecordingsOverHTTP(t *testing.T) {
	t.Parallel()
	f := vendor.New(vendor.Options{User: deskUser, Password: deskPassword})
	s := httptest.NewServer(f)
	t.Cleanup(func() {
		s.Close()
		f.Close()
	})
	p := apptest.Start(t, []app.Module{Module}, apptest.Env("APP_TELEPHONY_PROVIDER_URL="+s.URL, "APP_TELEPHONY_PROVIDER_USER="+deskUser,
		"APP_TELEPHONY_PROVIDER_PASSWORD="+deskPassword, "APP_TELEPHONY_RECORDINGS=fetch"))
	webhook(t, p, map[string]string{"type": "call.new", "call_id": "1.1", "their_number": "11991910000"})
	webhook(t, p, map[string]string{"type": "call.recording-available", "call_id": "1.1", "url": s.URL + "/recording/1.1.wav"})
	webhook(t, p, map[string]string{"type": "call.recording-available", "call_id": "1.1", "url": "file:///nowhere"})
	const path = "/telephony/calls/1.1/recordings"
	var got struct {
		Items []struct {
			ID        int64  `json:"id"`
			URL       string `json:"url"`
			State     string `json:"state"`
			Size      int    `json:"size"`
			MediaType string `json:"media_type"`
		} `json:"items"`
	}
	apptest.Eventually(t, func() string {
		if status := p.Call(http.MethodGet, path, nil, &got); status != http.StatusOK || len(got.Items) != 2 || got.Items[0].State != recordingKept || got.Items[1].State != recordingFailed {
			return fmt.Sprintf("%d %+v", status, got)
		}
		return ""
	})
	kept := got.Items[0]
	resp, sound := p.Exchange(p.Request(p.Key, http.MethodGet, fmt.Sprintf("%s/%d", path, kept.ID), nil))
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "audio/wav" || kept.MediaType != "audio/wav" || len(sound) != kept.Size || string(sound[:4]) != "RIFF" ||
		resp.ContentLength != int64(kept.Size) || kept.URL != s.URL+"/recording/1.1.wav" {
		t.Errorf("%s %v, %d bytes of %+v", resp.Status, resp.Header, len(sound), kept)
	}
	for _, none := range []string{fmt.Sprintf("%s/%d", path, got.Items[1].ID), path + "/999", path + "/x", fmt.Sprintf("/telephony/calls/1.2/recordings/%d", kept.ID), "/telephony/calls/1.2/recordings"} {
		if status := p.Call(http.MethodGet, none, nil, nil); status != http.StatusNotFound {
			t.Errorf("%s: %d", none, status)
		}
	}
	if strings.Contains(p.Log.String(), "/recording/1.1.wav") {
		t.Error("the link is in the log")
	}
}
