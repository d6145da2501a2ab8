package collector_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// sign gives the X-Signature of a body as it travels.
func sign(secret string, at time.Time, body []byte) string {
	h := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(h, "%d.", at.Unix())
	h.Write(body)
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(h.Sum(nil)))
}

// signingKey makes a key whose requests must be signed.
func signingKey(t *testing.T, p *apptest.Product, more fields) (key, secret string) {
	t.Helper()
	var k struct {
		Key           string `json:"key"`
		SigningSecret string `json:"signing_secret"`
	}
	if status := p.Call(http.MethodPost, "/admin/keys", with(fields{"name": "shop", "app": "shop", "scopes": []string{"collector:write"}, "signed": true}, more), &k); status != http.StatusCreated {
		t.Fatalf("make a key: %d", status)
	}
	return k.Key, k.SigningSecret
}

func TestSignedKeyDemandsAFreshSignatureOfTheBodyAsItTravelled(t *testing.T) {
	t.Parallel()
	now := newClock()
	p := start(t, apptest.Now(now.now))
	key, secret := signingKey(t, p, nil)
	_, otherSecret := signingKey(t, p, nil)
	body := []byte(eventText("session_id", `"s-signed"`))
	packed := zipped(t, body)
	at := now.now()
	good := sign(secret, at, body)
	_, mac, _ := strings.Cut(good, "v1=")
	for _, c := range []struct {
		name, header string
		body         []byte
		gzip         bool
		reason       string // empty: accepted
	}{
		{"none", "", body, false, "missing"},
		{"words", "trust me", body, false, "not of the form"},
		{"no time", "v1=" + mac, body, false, "not of the form"},
		{"no signature", fmt.Sprintf("t=%d", at.Unix()), body, false, "not of the form"},
		{"a time that is no number", "t=now,v1=" + mac, body, false, "not of the form"},
		{"another body", sign(secret, at, append([]byte(" "), body...)), body, false, "does not match"},
		{"another secret", sign(otherSecret, at, body), body, false, "does not match"},
		{"another time", fmt.Sprintf("t=%d,v1=%s", at.Unix()-1, mac), body, false, "does not match"},
		{"no hexadecimal", fmt.Sprintf("t=%d,v1=%s", at.Unix(), strings.Repeat("g", 64)), body, false, "does not match"},
		{"half of it", fmt.Sprintf("t=%d,v1=%s", at.Unix(), mac[:32]), body, false, "does not match"},
		{"another version alone", strings.Replace(good, "v1=", "v2=", 1), body, false, "not of the form"},
		{"too old", sign(secret, at.Add(-5*time.Minute-time.Second), body), body, false, "5 minutes"},
		{"too new", sign(secret, at.Add(5*time.Minute+time.Second), body), body, false, "5 minutes"},
		{"a time beyond all", fmt.Sprintf("t=9223372036854775807,v1=%s", mac), body, false, "5 minutes"},
		{"of what was packed", sign(secret, at, body), packed, true, "does not match"},

		{"right", good, body, false, ""},
		{"right, with blanks", strings.Replace(good, ",", " , ", 1), body, false, ""},
		{"right, in capitals", strings.Replace(good, mac, strings.ToUpper(mac), 1), body, false, ""},
		{"right beside a wrong one", good + ",v1=" + strings.Repeat("0", 64) + ",v2=x", body, false, ""},
		{"almost too old", sign(secret, at.Add(-5*time.Minute), body), body, false, ""},
		{"almost too new", sign(secret, at.Add(5*time.Minute), body), body, false, ""},
		{"of the bytes as packed", sign(secret, at, packed), packed, true, ""},
	} {
		req := p.Request(key, http.MethodPost, "/collector/events", c.body)
		if c.header != "" {
			req.Header.Set("X-Signature", c.header)
		}
		if c.gzip {
			req.Header.Set("Content-Encoding", "gzip")
		}
		if c.reason == "" {
			if resp, text := p.Exchange(req); resp.StatusCode != http.StatusAccepted {
				t.Errorf("%s: %s %s", c.name, resp.Status, text)
			}
			continue
		}
		got := refused(t, p, req)
		if got.Status != http.StatusUnauthorized || !strings.HasPrefix(got.Detail, "X-Signature ") || !strings.Contains(got.Detail, c.reason) {
			t.Errorf("%s: %+v, want 401 with %q", c.name, got, c.reason)
		}
	}
	// The key in the address changes nothing.
	if got := refused(t, p, p.Request("", http.MethodPost, "/collector/events?key="+key, body)); got.Status != http.StatusUnauthorized {
		t.Errorf("key in the address, unsigned: %d", got.Status)
	}
	req := p.Request("", http.MethodPost, "/collector/events?key="+key, body)
	req.Header.Set("X-Signature", good)
	if resp, text := p.Exchange(req); resp.StatusCode != http.StatusAccepted {
		t.Errorf("key in the address, signed: %s %s", resp.Status, text)
	}
	// Time goes on; the signature does not stay good.
	now.advance(6 * time.Minute)
	req = p.Request(key, http.MethodPost, "/collector/events", body)
	req.Header.Set("X-Signature", good)
	if got := refused(t, p, req); got.Status != http.StatusUnauthorized {
		t.Errorf("six minutes later: %d", got.Status)
	}
	stored(t, p, 8)
	kept(t, p, 0)
}

func TestKeyThatIsNotSignedNeedsNoSignature(t *testing.T) {
	t.Parallel()
	p := start(t)
	req := p.Request(p.Key, http.MethodPost, "/collector/events", eventText())
	req.Header.Set("X-Signature", "t=1,v1=00")
	if resp, text := p.Exchange(req); resp.StatusCode != http.StatusAccepted {
		t.Errorf("%s %s", resp.Status, text)
	}
}

func TestBrowsersOfListedOriginsMaySendEvents(t *testing.T) {
	t.Parallel()
	p := start(t)
	key := p.NewKey(fields{"app": "shop", "scopes": []string{"collector:write"}, "origins": []string{"https://shop.example", "http://localhost:3000"}})
	unbound := p.NewKey(fields{"app": "till", "scopes": []string{"collector:write"}})
	send := func(key, origin, media string) *http.Response {
		// As navigator.sendBeacon does: the key in the address, a simple body.
		req := p.Request("", http.MethodPost, "/collector/events?key="+key, eventText())
		req.Header.Set("Content-Type", media)
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		resp, _ := p.Exchange(req)
		return resp
	}
	for _, c := range []struct {
		name, key, origin string
		status            int
		allowed           string
	}{
		{"a listed origin", key, "https://shop.example", 202, "https://shop.example"},
		{"another listed origin", key, "http://localhost:3000", 202, "http://localhost:3000"},
		{"no origin: no browser", key, "", 202, ""},
		{"a foreign origin", key, "https://evil.example", 403, ""},
		{"another scheme", key, "http://shop.example", 403, ""},
		{"another port", key, "http://localhost:3001", 403, ""},
		{"a page of no origin", key, "null", 403, ""},
		{"a longer name", key, "https://shop.example.evil.example", 403, ""},
		{"a key that lists none", unbound, "https://shop.example", 403, ""},
		{"a page of this server", key, p.URL, 202, ""},
	} {
		resp := send(c.key, c.origin, "text/plain;charset=UTF-8")
		if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != c.status || got != c.allowed {
			t.Errorf("%s: %s, allows %q; want %d, %q", c.name, resp.Status, got, c.status, c.allowed)
		}
	}
	if resp := send("sb_nobody_x", "https://shop.example", "text/plain"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong key: %s", resp.Status)
	}
	// A refused event tells the page why.
	req := p.Request(key, http.MethodPost, "/collector/events", `{}`)
	req.Header.Set("Origin", "https://shop.example")
	if resp, _ := p.Exchange(req); resp.StatusCode != http.StatusUnprocessableEntity || resp.Header.Get("Access-Control-Allow-Origin") != "https://shop.example" {
		t.Errorf("a bad event: %s, %v", resp.Status, resp.Header)
	}

	// fetch asks first, without a key.
	pre := p.Request("", http.MethodOptions, "/collector/events", nil)
	pre.Header.Set("Origin", "https://shop.example")
	pre.Header.Set("Access-Control-Request-Method", "POST")
	pre.Header.Set("Access-Control-Request-Headers", "authorization,content-type,content-encoding,idempotency-key,x-signature")
	resp, _ := p.Exchange(pre)
	headers := strings.ToLower(resp.Header.Get("Access-Control-Allow-Headers"))
	if resp.StatusCode != http.StatusNoContent || resp.Header.Get("Access-Control-Allow-Origin") != "https://shop.example" || !strings.Contains(resp.Header.Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("preflight: %s %v", resp.Status, resp.Header)
	}
	for _, name := range []string{"authorization", "content-type", "content-encoding", "idempotency-key", "x-signature"} {
		if !strings.Contains(headers, name) {
			t.Errorf("preflight does not allow %s", name)
		}
	}
	stored(t, p, 4)
}

func TestKeyInTheAddressWorksOnlyWhereBrowsersNeedIt(t *testing.T) {
	t.Parallel()
	p := start(t)
	for path, want := range map[string]int{"/collector/events": 401, "/collector/sessions": 401, "/collector/rejects": 401, "/collector/stats": 401, "/collector/schemas": 401} {
		if status := p.CallAs("", http.MethodGet, path+"?key="+p.Key, nil, nil); status != want {
			t.Errorf("GET %s?key=: %d, want %d", path, status, want)
		}
	}
}
