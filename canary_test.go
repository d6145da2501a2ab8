package main

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/nats-io/nats.go"

	"switchboard/platform/apptest"
)

// A canary is a text that stands nowhere else. One goes into each place where
// a client may send something personal; none may be found in a file of the
// data directory or in the log, in whatever form.
type canaries struct{ all map[string]string } // by place

// at gives the canary of a place.
func (c *canaries) at(place string) string {
	if c.all[place] == "" {
		c.all[place] = "cnry" + strings.ToLower(rand.Text()[:20])
	}
	return c.all[place]
}

// forms are the ways in which a text may hide in bytes.
func forms(text string) map[string]string {
	out := map[string]string{
		"as it is":    text,
		"in capitals": strings.ToUpper(text),
		"in hex":      hex.EncodeToString([]byte(text)),
		"in HEX":      strings.ToUpper(hex.EncodeToString([]byte(text))),
		"backwards":   backwards(text),
	}
	var escaped, percent strings.Builder
	for _, b := range []byte(text) {
		fmt.Fprintf(&escaped, `\u%04x`, b)
		fmt.Fprintf(&percent, "%%%02X", b)
	}
	out["escaped"], out["percent-encoded"] = escaped.String(), percent.String()
	var little, big []byte
	for _, u := range utf16.Encode([]rune(text)) {
		little = append(little, byte(u), byte(u>>8))
		big = append(big, byte(u>>8), byte(u))
	}
	out["in UTF-16LE"], out["in UTF-16BE"] = string(little), string(big)
	// In base64 a text has three forms, by its place among the bytes around it.
	for shift := range 3 {
		coded := base64.RawStdEncoding.EncodeToString([]byte("__"[:shift] + text))
		skip := []int{0, 2, 3}[shift]
		coded = coded[skip : skip+(len(coded)-skip)/4*4-4]
		out[fmt.Sprintf("in base64, shifted by %d", shift)] = coded
		out[fmt.Sprintf("in base64url, shifted by %d", shift)] = strings.NewReplacer("+", "-", "/", "_").Replace(coded)
	}
	return out
}

func backwards(text string) string {
	b := []byte(text)
	slices.Reverse(b)
	return string(b)
}

// search looks for the canaries in every form.
func (c *canaries) search(t *testing.T, dir, log string) (found []string) {
	t.Helper()
	var texts []string
	meaning := map[string]string{}
	for place, canary := range c.all {
		for form, text := range forms(canary) {
			if meaning[text] == "" {
				texts = append(texts, text)
				meaning[text] = place + ", " + form
			}
		}
	}
	for _, hit := range apptest.Hits(t, dir, log, texts...) {
		for text, what := range meaning {
			if strings.Contains(hit, fmt.Sprintf("%q ", text)) {
				hit = what + ": " + hit
			}
		}
		found = append(found, hit)
	}
	return found
}

func TestNothingPersonalIsFoundInAnyFileOrTheLog(t *testing.T) {
	t.Parallel()
	c := &canaries{map[string]string{}}
	provider := phoneProvider(t, c)
	listen := freeAddress(t)
	p := apptest.Start(t, modules, apptest.Env("APP_BUS_LISTEN="+listen, "APP_LOG_LEVEL=debug", "APP_WEB_ACCESS_LOG=all", "APP_TELEPHONY_PROVIDER_URL="+provider,
		"APP_TELEPHONY_PROVIDER_USER="+c.at("user at the phone platform"), "APP_TELEPHONY_PROVIDER_PASSWORD="+c.at("password at the phone platform"), "APP_TELEPHONY_RECORDINGS=fetch",
		"APP_MAILING_SENDER_URL="+provider, "APP_MAILING_SENDER_TOKEN="+c.at("token of the message provider"), "APP_SMTP_URL=smtp://"+c.at("user of the mail server")+":"+c.at("password of the mail server")+"@127.0.0.1:1"))
	feedCollector(t, p, c)
	feedGateway(t, p, c)
	feedTelephony(t, p, c, provider)
	feedMailing(t, p, c)
	feedCRM(t, p, c, "nats://"+listen)

	if found := c.search(t, p.Dir, p.Log.String()); len(found) > 0 {
		t.Errorf("while it runs:\n%s", strings.Join(found, "\n"))
	}
	p.Stop()
	if found := c.search(t, p.Dir, p.Log.String()); len(found) > 0 {
		t.Errorf("after the stop:\n%s", strings.Join(found, "\n"))
	}
	// It was not for want of canaries: with the keys they can all be read again.
	p.Restart()
	for _, place := range []string{"session id", "user id", "event id", "data key", "data value"} {
		if !answers(t, p, "/collector/events?limit=1000", c.at(place)) {
			t.Errorf("the %s cannot be read any more", place)
		}
	}
	for _, place := range []string{"call id", "their number", "our number", "code", "actor", "extension", "number of a dialling", "field nobody knows", "data of a call", "type nobody knows"} {
		if !answers(t, p, "/telephony/events?limit=1000", c.at(place)) {
			t.Errorf("the %s cannot be read any more", place)
		}
	}
	for _, place := range []string{"phone of a client", "name of a client", "changed attribute", "phone imported", "remark imported"} {
		if !answers(t, p, "/mailing/clients?limit=1000", c.at(place)) {
			t.Errorf("the %s cannot be read any more", place)
		}
	}
	apptest.Within(t, 30*time.Second, func() string { // the mock forgot, and is told again
		for _, place := range []string{"id of a user", "last name", "first name", "email"} {
			if !answers(t, p, "/crm/integration/users/"+c.at("id of a user"), c.at(place)) {
				return "the " + place + " cannot be read any more"
			}
		}
		return ""
	})
	for _, place := range []string{"refused session id", "refused data", "refused field", "refused element", "refused time"} {
		if !answers(t, p, "/collector/rejects?limit=1000", c.at(place)) {
			t.Errorf("the %s cannot be read any more", place)
		}
	}
}

// feedGateway sends canaries through every input of the gateway, while a socket
// listens, and waits until all is logged. Names of events are not personal.
func feedGateway(t *testing.T, p *apptest.Product, c *canaries) {
	t.Helper()
	room := c.at("room")
	var token struct{ ID, Token string }
	if status := p.Call(http.MethodPost, "/gateway/tokens", map[string]any{"rooms": []string{room, c.at("pattern") + "*"}, "user": c.at("user of a token")}, &token); status != http.StatusCreated {
		t.Fatalf("make a token: %d", status)
	}
	listen, err := http.DefaultClient.Do(p.Request("", http.MethodGet, "/gateway/sse?token="+url.QueryEscape(token.Token)+"&room="+room, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer listen.Body.Close()
	pollSocketIO(t, p, token.Token, room, c)
	for _, body := range []string{
		`{"event":"canary","room":"` + room + `","data":{"orderId":"` + c.at("id in data") + `","` + c.at("key in data") + `":["` + c.at("value in data") + `"]}}`,
		`{"events":[{"event":"canary","data":"` + c.at("data for all") + `"}]}`,
		`{"event":"canary","room":"` + c.at("room of nobody") + `"}`,
		`{"event":"connect","data":"` + c.at("refused data of an emit") + `"}`,
		`{"event":"canary","` + c.at("unknown field of an emit") + `":1}`,
		`{"event":"canary","room":5,"data":"` + c.at("mistyped emit") + `"}`,
		`{"event":"canary","data":"` + c.at("broken emit"),
	} {
		req := p.Request(p.Key, http.MethodPost, "/events", body)
		req.Header.Set("Idempotency-Key", c.at("idempotency key of an emit")+strconv.Itoa(len(body)))
		p.Exchange(req)
	}
	q := url.QueryEscape
	for _, path := range []string{
		"/gateway/rooms/" + room, "/gateway/rooms/" + c.at("unknown room"), "/gateway/rooms?cursor=" + c.at("cursor of rooms"),
		"/gateway/deliveries?room=" + room, "/gateway/deliveries?room=" + c.at("room asked for") + "&socket=" + c.at("socket asked for"),
		"/gateway/sse?token=" + c.at("token that is none"), "/gateway/ws?token=" + c.at("token of a ws"), "/gateway/ws?token=" + q(token.Token) + "&room=" + c.at("foreign room"),
		"/socket.io/?EIO=4&transport=" + c.at("transport"), "/socket.io/?EIO=4&transport=polling&sid=" + c.at("sid"),
	} {
		key := p.Key
		if strings.Contains(path, "token=") {
			key = "" // which would count before the token
		}
		p.Exchange(p.Request(key, http.MethodGet, path, nil))
	}
	p.Call(http.MethodDelete, "/gateway/sockets/"+c.at("socket disconnected"), nil, nil)
	p.Call(http.MethodDelete, "/gateway/tokens/"+c.at("token revoked"), nil, nil)
	apptest.Eventually(t, func() string {
		if !answers(t, p, "/gateway/deliveries?room="+room, room) {
			return "no delivery is logged"
		}
		return ""
	})
}

// phoneProvider plays the phone platform: it takes actions, refuses those for
// one call with a reason of its own, and has recordings.
func phoneProvider(t *testing.T, c *canaries) string {
	t.Helper()
	refused, reason, sound := c.at("call that is refused"), c.at("reason of a refusal"), c.at("sound of a recording")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.Method == http.MethodGet:
			w.Header().Set("Content-Type", "audio/wav")
			_, _ = io.WriteString(w, strings.Repeat(sound, 1000))
		case bytes.Contains(body, []byte(refused)):
			http.Error(w, `{"error":"`+reason+`"}`, http.StatusBadRequest)
		default:
			_, _ = io.WriteString(w, `{"status":"ok"}`)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// feedTelephony sends canaries through every input of telephony, and waits
// until calls are delegated and a recording is kept. Names of queues are not
// personal.
func feedTelephony(t *testing.T, p *apptest.Product, c *canaries, provider string) {
	t.Helper()
	call := c.at("call id")
	event := func(kind string, fields map[string]any) string {
		all := map[string]any{"type": kind, "timestamp": "2019-10-15T00:30:00Z"}
		maps.Copy(all, fields)
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	of := map[string]any{"call_id": call, "code": c.at("code"), "direction": "inbound", "our_number": c.at("our number"), "their_number": c.at("their number"), c.at("field nobody knows"): 1}
	actor := map[string]any{"call_id": call, "actor": c.at("actor") + "@example.com", "number": c.at("extension"), "queue": "900"}
	for _, body := range []string{
		event("call.new", of), event("call.new", of), event("call.standby", of),
		event("call.standby", map[string]any{"call_id": c.at("call that is refused"), "their_number": "+" + c.digits("phone number")}),
		event("call.data-provided", map[string]any{"call_id": call, "tag": c.at("tag of data"), "data": c.at("data of a call")}),
		event("call.cpf-provided", map[string]any{"call_id": call, "data": c.digits("document")}),
		event("actor.entered", actor), event("actor.left", actor),
		event("actor.logged-in", map[string]any{"actor": c.at("actor alone"), "number": c.at("extension alone"), "queue": "900"}),
		event("dialer.attempt", map[string]any{"number": c.at("number of a dialling"), "code": c.at("code of a dialling")}),
		event("dialer.failure", map[string]any{"call_id": c.at("dialled call"), "number": c.digits("dialled number"), "code": "x", "reason": c.at("reason of a failure")}),
		event("call.recording-available", map[string]any{"call_id": call, "url": provider + "/" + c.at("recording") + ".wav"}),
		event("call."+c.at("type nobody knows"), map[string]any{"call_id": call, "x": map[string]any{c.at("inner field"): []any{c.at("inner value")}}}),
		event(c.at("type of nothing"), map[string]any{"direction": c.at("direction")}),
		event("call.new", map[string]any{"their_number": c.at("number without a call")}), `{"type":"` + c.at("broken event"), `{"type":["` + c.at("type that is a list") + `"]}`,
		event("call.new", map[string]any{"call_id": strings.Repeat(c.at("long call id"), 20)}), event("call.new", map[string]any{"call_id": "x", "timestamp": c.at("time of a call")}),
	} {
		p.Exchange(p.Request(p.Key, http.MethodPost, "/webhook", body))
		p.Exchange(p.Request("", http.MethodPost, "/telephony/webhook?key="+c.at("key of a webhook"), body))
	}
	basic := p.Request("", http.MethodPost, "/webhook", "{}")
	basic.SetBasicAuth(c.at("user of a webhook"), c.at("password of a webhook"))
	p.Exchange(basic)

	listen, err := http.DefaultClient.Do(p.Request("", http.MethodGet, "/telephony/ws?key="+c.at("key of a board"), nil))
	if err != nil {
		t.Fatal(err)
	}
	listen.Body.Close()
	for _, path := range []string{
		"/telephony/calls/" + call, "/telephony/calls/" + call + "/events", "/telephony/calls/" + call + "/recordings", "/telephony/calls/" + c.at("unknown call"),
		"/telephony/calls?their_number=" + c.at("number asked for") + "&our_number=" + c.at("our number asked for") + "&cursor=" + c.at("cursor of calls"),
		"/telephony/calls?their_number=" + c.at("their number"), "/telephony/events?code=" + c.at("code asked for"), "/telephony/actors", "/telephony/queues",
		"/telephony/stats?by=actor&actor=" + c.at("actor asked for"), "/telephony/stats?from=" + c.at("beginning of statistics"),
	} {
		p.Exchange(p.Request(p.Key, http.MethodGet, path, nil))
	}
	p.Call(http.MethodPost, "/telephony/calls/"+call+"/delegate", `{"destination":"`+c.at("destination by hand")+`"}`, nil)
	p.Call(http.MethodPost, "/telephony/calls/"+c.at("unknown call delegated")+"/delegate", `{"destination":"`+c.at("destination by hand")+`"}`, nil)
	p.Call(http.MethodPost, "/telephony/dial", map[string]any{"numbers": []string{c.digits("number to dial")}, "destination": "100", "code": c.at("code to dial")}, nil)
	p.Call(http.MethodPost, "/telephony/dial", `{"numbers":"`+c.at("bad number to dial")+`"}`, nil)
	p.Call(http.MethodPost, "/telephony/calls/rebuild", nil, nil)
	apptest.Eventually(t, func() string {
		if !answers(t, p, "/telephony/calls/"+c.at("call that is refused"), `"refused"`) {
			return "no delegation is refused"
		}
		if !answers(t, p, "/telephony/calls/"+call+"/recordings", `"kept"`) {
			return "no recording is kept"
		}
		return ""
	})
}

// feedMailing sends canaries through every input of mailing. Names and texts of
// campaigns, tags and zones are not personal.
func feedMailing(t *testing.T, p *apptest.Product, c *canaries) {
	t.Helper()
	phone := func(place string) string {
		if c.all[place] == "" {
			c.all[place] = fmt.Sprintf("7%010d", mathrand.Int64N(1e10))
		}
		return c.all[place]
	}
	var made struct{ ID int64 }
	if status := p.Call(http.MethodPost, "/mailing/clients", map[string]any{"phone_number": phone("phone of a client"), "tag": "vip", "timezone": "UTC",
		"attributes": map[string]any{"name": c.at("name of a client"), "address": []any{c.at("address of a client")}}}, &made); status != http.StatusCreated {
		t.Fatalf("make a client: %d", status)
	}
	now := time.Now().UTC()
	var campaign struct{ ID int64 }
	if status := p.Call(http.MethodPost, "/mailing/campaigns", map[string]any{"text": "Dear {{.attributes.name}}", "start_at": now, "end_at": now.Add(time.Hour)}, &campaign); status != http.StatusCreated {
		t.Fatalf("make a campaign: %d", status)
	}
	csv := p.Request(p.Key, http.MethodPost, "/mailing/clients/import", "phone_number,tag,timezone,remark\n"+phone("phone imported")+",x,UTC,"+c.at("remark imported")+"\n"+c.at("bad line")+",,,\n")
	csv.Header.Set("Content-Type", "text/csv")
	p.Exchange(csv)
	for _, body := range []string{`{"phone_number":"` + c.at("bad phone") + `","tag":"x","timezone":"UTC"}`, `{"phone_number":"` + phone("refused phone") + `","tag":"x","timezone":"Mars"}`, `{"phone_number":"` + c.at("broken client")} {
		p.Call(http.MethodPost, "/mailing/clients", body, nil)
	}
	p.Call(http.MethodPost, "/mailing/suppressions", map[string]any{"phone_number": phone("phone suppressed")}, nil)
	p.Call(http.MethodDelete, "/mailing/suppressions/"+phone("phone asked for"), nil, nil)
	p.Call(http.MethodPost, "/mailing/callbacks", `{"id":1,"status":"failed","reason":"`+c.at("reason of a callback")+` said Zoe@"}`, nil)
	for _, path := range []string{"/mailing/clients?phone_number=" + phone("phone looked for"), fmt.Sprintf("/mailing/campaigns/%d/preview", campaign.ID), "/mailing/clients?cursor=" + c.at("cursor of clients")} {
		p.Exchange(p.Request(p.Key, http.MethodGet, path, nil))
	}
	p.Call(http.MethodPatch, fmt.Sprintf("/mailing/clients/%d", made.ID), map[string]any{"attributes": map[string]any{"name": c.at("name of a client"), "new": c.at("changed attribute")}}, nil)
	apptest.Within(t, 30*time.Second, func() string {
		if !answers(t, p, fmt.Sprintf("/mailing/campaigns/%d/messages", campaign.ID), `"attempts":1`) {
			return "no message was tried"
		}
		return ""
	})
}

// feedCRM sends canaries through every input of crm. Ids of trips are not
// personal.
func feedCRM(t *testing.T, p *apptest.Product, c *canaries, url string) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	user := c.at("id of a user")
	for _, m := range [][2]string{
		{"maas.internal_booking_updated", `{"Event":{"Id":"trip","UserId":"` + user + `","From":"` + c.at("start of a trip") + `","To":"` + c.at("end of a trip") + `","Type":1,"StartDate":"2023-04-25T12:56:15.1234567+03:00","EndDate":null,"Price":0},"Id":1}`},
		{"maas.internal_user_updated", `{"Event":{"Id":"` + user + `","LastName":"` + c.at("last name") + `","FirstName":"` + c.at("first name") + `","Email":"` + c.at("email") + `"},"Id":1}`},
		{"maas.internal_user_updated", `{"Event":{"Id":"` + c.at("id in a poisonous event") + `","` + c.at("field of a poisonous event") + `":1},"Id":1}`},
		{"maas.internal_user_updated", c.at("no JSON")},
		{"maas." + c.at("subject nobody knows"), `{}`},
	} {
		if _, err := nc.Request(m[0], []byte(m[1]), 10*time.Second); err != nil {
			t.Fatalf("publish: %v", err)
		}
	}
	for _, body := range []string{
		`{"Id":"` + c.at("id posted to the mock") + `","LastName":"` + c.at("name posted to the mock") + `","Email":"x","LastTripDate":"2023-04-25T12:00:00Z"}`,
		`{"Id":"` + c.at("id refused by the mock") + `","LastName":"` + c.at("name refused by the mock") + `","Email":5}`,
		`{"` + c.at("broken body for the mock"),
	} {
		p.Exchange(p.Request(p.Key, http.MethodPost, "/crm/users", body))
		p.Exchange(p.Request(p.Key, http.MethodPost, "/crm/users/"+c.at("id replaced at the mock"), body))
	}
	apptest.Within(t, 30*time.Second, func() string {
		var status struct {
			State       string
			DeadLetters struct{ Events int } `json:"dead_letters"`
		}
		if p.Call(http.MethodGet, "/crm/integration/status", nil, &status); status.State != "in_step" || status.DeadLetters.Events < 2 || !answers(t, p, "/crm/users", user) {
			return fmt.Sprintf("crm is %+v", status)
		}
		return ""
	})
	for _, path := range []string{"/crm/integration/dead-letters", "/crm/integration/users/" + user, "/crm/integration/users/" + user + "/log", "/crm/integration/trips/" + c.at("trip looked for"), "/crm/trips"} {
		p.Exchange(p.Request(p.Key, http.MethodGet, path, nil))
	}
	p.Call(http.MethodPost, "/crm/integration/dead-letters/redrive", nil, nil)
	p.Call(http.MethodPost, "/crm/integration/reconcile", map[string]any{}, nil)
	p.Call(http.MethodPost, "/crm/integration/backfill", map[string]any{}, nil)
}

// digits gives a canary for a place that takes digits alone.
func (c *canaries) digits(place string) string {
	if c.all[place] == "" {
		digits := []byte("55")
		for range 13 {
			digits = append(digits, '0'+byte(mathrand.IntN(10)))
		}
		c.all[place] = string(digits)
	}
	return c.all[place]
}

// pollSocketIO connects a Socket.IO client by polling, joins rooms and leaves
// the connection to time out.
func pollSocketIO(t *testing.T, p *apptest.Product, token, room string, c *canaries) {
	t.Helper()
	const path = "/socket.io/?EIO=4&transport=polling"
	_, body := p.Exchange(p.Request("", http.MethodGet, path, nil))
	var open struct{ SID string }
	if err := json.Unmarshal(bytes.TrimPrefix(body, []byte("0")), &open); err != nil {
		t.Fatalf("open packet %s: %v", body, err)
	}
	for _, packet := range []string{
		`40{"token":"` + token + `","rooms":["` + room + `"],"` + c.at("field of auth") + `":1}`,
		`420["join",{"room":"` + c.at("pattern") + `.x"}]`, `421["join","` + c.at("room refused") + `"]`, `42["` + c.at("unknown client event") + `","` + c.at("client data") + `"]`,
	} {
		if resp, text := p.Exchange(p.Request("", http.MethodPost, path+"&sid="+open.SID, packet)); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s", packet, resp.Status, text)
		}
	}
}

// answers tells whether the answer to a GET holds the text.
func answers(t *testing.T, p *apptest.Product, path, text string) bool {
	t.Helper()
	_, body := p.Exchange(p.Request(p.Key, http.MethodGet, path, nil))
	return bytes.Contains(body, []byte(text))
}

// feedCollector sends canaries through every input of the collector and of
// what stands before it, and waits until all is stored.
func feedCollector(t *testing.T, p *apptest.Product, c *canaries) {
	t.Helper()
	send := func(method, path string, body any, change ...func(http.Header)) int {
		t.Helper()
		req := p.Request(p.Key, method, path, body)
		for _, f := range change {
			f(req.Header)
		}
		resp, _ := p.Exchange(req)
		return resp.StatusCode
	}
	header := func(name, value string) func(http.Header) { return func(h http.Header) { h.Set(name, value) } }
	event := func(change map[string]any) map[string]any {
		e := map[string]any{
			"id": c.at("event id"), "session_id": c.at("session id"), "user_id": c.at("user id"), "category": "page", "name": "view",
			"data": map[string]any{c.at("data key"): []any{c.at("data value"), map[string]any{c.at("inner key"): "x"}}}, "timestamp": "2021-01-01 00:00:00",
		}
		for name, value := range change {
			e[name] = value
		}
		return e
	}
	want := func(got int, statuses ...int) {
		t.Helper()
		if !slices.Contains(statuses, got) {
			t.Errorf("status %d, want %v", got, statuses)
		}
	}
	const events = "/collector/events"

	// A live reader, asking for the session.
	live := p.Request(p.Key, http.MethodGet, "/collector/live?session_id="+c.at("session id"), nil)
	watching, err := http.DefaultClient.Do(live)
	if err != nil {
		t.Fatal(err)
	}
	defer watching.Body.Close()

	// Accepted: alone, in a batch, under an Idempotency-Key (twice), zipped, large.
	want(send("POST", events, event(nil)), 202)
	want(send("POST", events, []any{event(nil), event(map[string]any{"id": c.at("second event id")})}), 202)
	want(send("POST", events, event(map[string]any{"id": nil}), header("Idempotency-Key", c.at("idempotency key"))), 202)
	want(send("POST", events, event(map[string]any{"id": nil}), header("Idempotency-Key", c.at("idempotency key"))), 202)
	want(send("POST", events, event(nil), header("Idempotency-Key", c.at("idempotency key"))), 422)
	want(send("POST", events, event(map[string]any{"id": c.at("large event id"), "data": map[string]any{"text": strings.Repeat(c.at("large data"), 100_000)}})), 202)
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	if err := json.NewEncoder(zip).Encode(event(map[string]any{"id": c.at("zipped event id")})); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	want(send("POST", events, zipped.Bytes(), header("Content-Encoding", "gzip")), 202)
	const accepted = 5

	// Refused: by shape, by schema, by type, as no event at all.
	want(send("PUT", "/collector/schemas/page/strict", `{"additionalProperties":false,"properties":{"n":{"type":"integer"},"mail":{"format":"email"}}}`), 201)
	refused := []any{
		event(map[string]any{"session_id": map[string]any{"x": c.at("refused session id")}}),
		event(map[string]any{"timestamp": c.at("refused time")}),
		event(map[string]any{c.at("refused field"): 1}),
		event(map[string]any{"user_id": []any{c.at("refused user id")}}),
		event(map[string]any{"id": strings.Repeat(c.at("refused long id"), 50)}),
		event(map[string]any{"data": c.at("refused data")}),
		event(map[string]any{"name": "strict", "data": map[string]any{c.at("refused data key"): 1, "n": c.at("refused data value"), "mail": c.at("refused mail")}}),
		c.at("refused element"), []any{c.at("refused list")}, map[string]any{"events": c.at("refused events")},
	}
	want(send("POST", events, refused), 422)
	want(send("POST", events, map[string]any{"events": refused}, header("Idempotency-Key", c.at("idempotency key of refused"))), 422)
	want(send("POST", events, `{"session_id":"`+c.at("broken JSON")+`",}`), 400)
	want(send("POST", events, `{"`+c.at("doubled name")+`":1,"`+c.at("doubled name")+`":2}`), 400)
	want(send("POST", events, c.at("no gzip"), header("Content-Encoding", "gzip")), 400)
	want(send("POST", events, c.at("unknown coding"), header("Content-Encoding", c.at("coding"))), 415)
	want(send("PUT", "/collector/schemas/page/bad", `{"type":"`+c.at("bad schema")+`"}`), 422)

	// Queries, found or not, good or bad.
	q := func(pairs ...string) string {
		v := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			v.Add(pairs[i], pairs[i+1])
		}
		return "?" + v.Encode()
	}
	for _, path := range []string{
		events + q("session_id", c.at("session id")), events + q("session_id", c.at("session asked for")), events + q("cursor", c.at("cursor")),
		events + q("from", c.at("from"), "order", c.at("order"), "limit", c.at("limit")), events + q(c.at("parameter"), c.at("argument")),
		events + q("category", c.at("category asked for"), "name", c.at("name asked for"), "app", c.at("app asked for")),
		"/collector/sessions/" + c.at("session id"), "/collector/sessions/" + c.at("unknown session") + "/", "/collector/sessions" + q("cursor", c.at("cursor of sessions")),
		"/collector/rejects" + q("name", c.at("reject asked for"), "reason", c.at("reason")), "/collector/stats" + q("by", c.at("group")),
		"/collector/schemas/" + c.at("schema asked for") + "/x",
		"/collector/" + c.at("unknown path"), "/" + c.at("unknown root") + "/x", "/admin/keys/" + c.at("key id asked for"), "//" + c.at("double slash"), "/collector/%zz" + c.at("broken path"),
	} {
		if req, err := http.NewRequest("GET", p.URL+path, nil); err == nil {
			req.Header.Set("Authorization", "Bearer "+p.Key)
			p.Exchange(req)
		}
	}
	send("GET", events, map[string]any{"init_time": c.at("init time"), c.at("body field"): 1})
	send("POST", events+"/search", map[string]any{"session_id": c.at("session searched"), "to": "2022-01-01T00:00:00Z"})
	send("POST", events+"/search", `{"session_id":"`+c.at("broken search"))
	send("POST", "/collector/rejects/"+c.at("reject retried")+"/retry", nil)
	send("DELETE", "/collector/schemas/"+c.at("schema deleted")+"/x", nil)

	// Credentials that are none, and what else a client says of itself.
	for name, value := range map[string]string{
		"Authorization": "Bearer " + c.at("wrong key"), "X-Api-Key": "sb_" + c.at("wrong key id") + "_" + c.at("wrong secret"), "X-Signature": "t=1,v1=" + c.at("signature"),
		"Origin": "https://" + c.at("origin") + ".example", "Referer": "https://x.example/" + c.at("referer"), "User-Agent": c.at("agent"), "Cookie": "a=" + c.at("cookie"),
		"X-Forwarded-For": c.at("address"), "Content-Type": "text/" + c.at("media type"), "Idempotency-Key": c.at("bad idempotency key") + " x", "Accept": c.at("accept"),
	} {
		send("POST", events, `{}`, header(name, value))
		send("GET", "/collector/sessions/"+c.at("session id"), nil, header(name, value))
	}
	p.CallAs("", http.MethodPost, events+q("key", c.at("key in the address")), event(nil), nil)
	p.CallAs("", http.MethodGet, "/collector/live"+q("key", c.at("live key")), nil, nil)
	p.CallAs("sb_"+c.at("unknown key id")+"_x", http.MethodGet, "/healthz"+q("x", c.at("health")), nil, nil)

	apptest.Eventually(t, func() string {
		var page struct{ Items []json.RawMessage }
		p.Call(http.MethodGet, events+"?limit=1000", nil, &page)
		if n := len(page.Items); n != accepted {
			return fmt.Sprintf("%d of %d events are stored", n, accepted)
		}
		p.Call(http.MethodGet, "/collector/rejects?limit=1000", nil, &page)
		if n := len(page.Items); n < 2*len(refused) {
			return fmt.Sprintf("%d of %d rejects are stored", n, 2*len(refused))
		}
		return ""
	})
}

// The search must be able to find: in a database, in the log, in every form.
func TestCanaryInAnyFormIsFound(t *testing.T) {
	t.Parallel()
	c := &canaries{map[string]string{}}
	p := apptest.Start(t, modules, apptest.Env("APP_LOG_LEVEL=debug", "APP_WEB_ACCESS_LOG=all"))

	// The name of a schema is not personal and stands in the clear.
	if status := p.Call(http.MethodPut, "/collector/schemas/page/"+c.at("schema name"), `{}`, nil); status != http.StatusCreated {
		t.Fatalf("put schema: %d", status)
	}
	// So does the id that a client gives its request.
	req := p.Request(p.Key, http.MethodGet, "/collector/events", nil)
	req.Header.Set("X-Request-Id", c.at("request id"))
	p.Exchange(req)
	for _, when := range []string{"while it runs", "after the stop"} {
		found := strings.Join(c.search(t, p.Dir, p.Log.String()), "\n")
		if !strings.Contains(found, "schema name, as it is") || !strings.Contains(found, "collector.db") {
			t.Errorf("%s: the schema is not found:\n%s", when, found)
		}
		if !strings.Contains(found, "request id, as it is") || !strings.Contains(found, "the log") {
			t.Errorf("%s: the log line is not found:\n%s", when, found)
		}
		p.Stop()
	}

	hidden := &canaries{map[string]string{}}
	canary := hidden.at("planted")
	for form, text := range forms(canary) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "bus", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "bus", "x", "1.blk"), []byte("\x00\xff"+text+"\x00"), 0o600); err != nil {
			t.Fatal(err)
		}
		if found := hidden.search(t, dir, ""); len(found) == 0 {
			t.Errorf("%s it is not found in a file", form)
		}
		if found := hidden.search(t, t.TempDir(), "level=INFO x="+text); len(found) == 0 {
			t.Errorf("%s it is not found in the log", form)
		}
	}
	// Among other bytes, too.
	for lead := range 4 {
		text := base64.StdEncoding.EncodeToString([]byte("abcd"[:lead] + canary + "tail"))
		if found := hidden.search(t, t.TempDir(), text); len(found) == 0 {
			t.Errorf("within base64, after %d bytes, it is not found", lead)
		}
	}
	if found := hidden.search(t, p.Dir, p.Log.String()); len(found) > 0 {
		t.Errorf("found what nobody planted: %v", found)
	}
}
