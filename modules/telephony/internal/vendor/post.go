package vendor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// post posts an event until it is taken or refused, and gives that status; 0
// if the context ended.
func (p *performance) post(ctx context.Context, callID string, body []byte, duplicate bool) int {
	if ctx.Err() != nil {
		return 0
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		status, atLeast := p.f.send(ctx, body)
		switch {
		case status/100 == 2:
			p.note(func(t *Tally) {
				t.Events++
				if duplicate {
					t.Duplicates++
				}
			})
		case status == 0 || status == http.StatusTooManyRequests || status >= 500:
			if sleep(ctx, max(atLeast, pause/2+rand.N(pause))) {
				p.note(func(t *Tally) { t.Retries++ })
				continue
			}
			status = 0
		default:
			p.note(func(t *Tally) { t.Refused++ })
		}
		if p.o.OnEvent != nil {
			p.o.OnEvent(callID, body, status)
		}
		return status
	}
}

// send posts an event once. The status is 0 without an answer; atLeast is how
// long the webhook wants to be left alone.
func (f *Fake) send(ctx context.Context, body []byte) (status int, atLeast time.Duration) {
	f.mu.Lock()
	target, key := f.webhook, f.key
	f.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		f.complain("its URL is invalid")
		return 0, 0
	}
	req.Header.Set("Content-Type", "application/json")
	switch {
	case key == "":
	case f.o.BasicKey:
		req.SetBasicAuth("webhook", key)
	default:
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := f.o.Client.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			var u *url.Error
			if errors.As(err, &u) {
				err = u.Err // without the URL, which may hold a key
			}
			f.complain(err.Error())
		}
		return 0, 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
		f.complain("it answers " + resp.Status)
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return resp.StatusCode, time.Duration(min(max(seconds, 0), 30)) * time.Second
	}
	if f.silent.CompareAndSwap(true, false) {
		f.o.Log("the webhook takes events again")
	}
	return resp.StatusCode, 0
}

// complain tells once that the webhook does not take events.
func (f *Fake) complain(why string) {
	if f.silent.CompareAndSwap(false, true) {
		f.o.Log("the webhook does not take events, trying again: %s", why)
	}
}
