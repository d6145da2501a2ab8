package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"switchboard/platform/apptest"
)

// settleTime is how long it may take until what was acknowledged is stored:
// far longer than the ten seconds for which a message that a killed instance
// had in hand waits for another one.
const settleTime = 2 * time.Minute

// held is what a server says it has stored.
type held struct {
	events   []event // in the order of the list
	times    []time.Time
	sessions map[string]int64 // events by session
	counted  int64            // events in the statistics
}

// get reads an answer into out.
func (c *crowd) get(s server, path string, out any) error {
	req, err := http.NewRequest(http.MethodGet, s.url+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return fmt.Errorf("GET %s: %s: %s", path, resp.Status, text)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// pages reads a list from its first page to its last.
func pages[T any](c *crowd, s server, path string, each func(T)) error {
	for cursor := ""; ; {
		var page struct {
			Items []T     `json:"items"`
			Next  *string `json:"next"`
		}
		if err := c.get(s, path+"limit=1000&cursor="+url.QueryEscape(cursor), &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			each(item)
		}
		if page.Next == nil {
			return nil
		}
		cursor = *page.Next
	}
}

// session is one in the list of sessions.
type session struct {
	SessionID string    `json:"session_id"`
	Events    int64     `json:"events"`
	FirstAt   time.Time `json:"first_at"`
	LastAt    time.Time `json:"last_at"`
}

// read asks a server for all that it has.
func (c *crowd) read(s server) (*held, error) {
	h := &held{sessions: map[string]int64{}}
	var broken error
	err := pages(c, s, "/collector/events?", func(e event) {
		at, err := time.Parse("2006-01-02T15:04:05.000000Z", e.Timestamp)
		if err != nil {
			broken = err
		}
		h.events = append(h.events, e)
		h.times = append(h.times, at)
	})
	if err != nil || broken != nil {
		return nil, fmt.Errorf("read all events: %w, %w", err, broken)
	}
	if err := pages(c, s, "/collector/sessions?", func(se session) { h.sessions[se.SessionID] = se.Events }); err != nil {
		return nil, err
	}
	type stat struct{ Events int64 }
	since := url.QueryEscape(c.begin.Add(-2 * time.Hour).Format(time.RFC3339))
	err = pages(c, s, "/collector/stats?bucket=minute&from="+since+"&", func(st stat) { h.counted += st.Events })
	return h, err
}

// missing counts the acknowledged events that are not there.
func (c *crowd) missing(h *held) int {
	there := make(map[[2]int]bool, len(h.events))
	for _, e := range h.events {
		there[[2]int{e.Data.Visitor, e.Data.Number}] = true
	}
	n := 0
	for _, v := range c.visitors {
		for i := range v.ledger {
			if v.ledger[i].acked && !there[[2]int{v.number, i}] {
				n++
			}
		}
	}
	return n
}

// settle waits until a server has stored all that was acknowledged and has
// nothing left to store, and gives what it holds then. The visitors must not
// be sending.
func (c *crowd) settle(s server) *held {
	c.t.Helper()
	began := time.Now()
	var complete time.Time
	apptest.Within(c.t, settleTime, func() string {
		if !complete.IsZero() {
			return ""
		}
		var sum int64
		if err := pages(c, s, "/collector/sessions?", func(se session) { sum += se.Events }); err != nil {
			return err.Error()
		}
		if acked := c.acked.Load(); sum < acked {
			return fmt.Sprintf("the sessions hold %d events, but %d were acknowledged", sum, acked)
		}
		h, err := c.read(s)
		if err != nil {
			return err.Error()
		}
		if n := c.missing(h); n > 0 {
			return fmt.Sprintf("%d acknowledged events are missing", n)
		}
		complete = time.Now()
		return ""
	})
	c.drain(s) // frames that came again may still be on their way
	h, err := c.read(s)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("all acknowledged events stored %s after the load, queue seen empty after %s",
		complete.Sub(began).Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	return h
}

// drain waits until a server has nothing left to store. It looks at its queue
// every five seconds, so that only what it says later than that counts.
func (c *crowd) drain(s server) {
	c.t.Helper()
	began := time.Now()
	apptest.Within(c.t, settleTime, func() string {
		waiting, err := c.waiting(s)
		switch {
		case err != nil:
			return err.Error()
		case waiting > 0:
			return fmt.Sprintf("%d messages wait to be stored", waiting)
		case time.Since(began) < 6*time.Second:
			return "the figures are old"
		}
		return ""
	})
}

// waiting tells how many messages are to be stored.
func (c *crowd) waiting(s server) (int, error) {
	const of = `{consumer="collector-store",stream="COLLECTOR_INGEST"}`
	figures, err := c.figures(s)
	if err != nil {
		return 0, err
	}
	pending, known := figures["bus_consumer_pending"+of]
	if !known {
		return 0, errors.New("the metrics do not tell yet what waits")
	}
	return int(pending + figures["bus_consumer_unacknowledged"+of]), nil
}

// figures reads the metrics.
func (c *crowd) figures(s server) (map[string]float64, error) {
	resp, err := c.http.Get(s.url + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		text := lines.Text()
		if end := strings.LastIndexByte(text, ' '); end > 0 && text[0] != '#' {
			if all[text[:end]], err = strconv.ParseFloat(text[end+1:], 64); err != nil {
				return nil, err
			}
		}
	}
	return all, lines.Err()
}

// report collects failures of one kind and shows a few.
type report struct {
	n    int
	some []string
}

func (r *report) add(format string, args ...any) {
	if r.n++; r.n <= 5 {
		r.some = append(r.some, fmt.Sprintf(format, args...))
	}
}

func (r *report) fail(t testing.TB, what string) {
	t.Helper()
	if r.n > 0 {
		t.Errorf("%d %s, among them:\n  %s", r.n, what, strings.Join(r.some, "\n  "))
	}
}

// audit compares what a server holds with the ledger: every acknowledged event
// once, no event twice, each as it was sent, each session in order and counted.
func (c *crowd) audit(s server, h *held) {
	t := c.t
	t.Helper()
	var lost, doubled, changed, order report
	var last = make([]int, len(c.visitors)) // listed before, by visitor, plus one
	seen := make([][]bool, len(c.visitors))
	listed := map[string]int64{}
	for i, v := range c.visitors {
		seen[i] = make([]bool, len(v.ledger))
	}
	for i := range h.events {
		e, at := &h.events[i], h.times[i]
		listed[e.SessionID]++
		if i > 0 && at.Before(h.times[i-1]) {
			order.add("%s is listed after %s", at, h.times[i-1])
		}
		n := e.Data.Number
		if e.Data.Visitor >= len(c.visitors) || n >= len(c.visitors[e.Data.Visitor].ledger) {
			changed.add("nobody sent %+v", *e)
			continue
		}
		v := c.visitors[e.Data.Visitor]
		sent := v.ledger[n]
		if seen[v.number][n] {
			doubled.add("visitor %d, event %d, id %s", v.number, n, e.ID)
			continue
		}
		seen[v.number][n] = true
		if !at.Equal(sent.at) || e.SessionID != v.session || sent.id != "" && e.ID != sent.id || e.Name != fmt.Sprintf("step %d", n%3) {
			changed.add("visitor %d, event %d: sent %+v, stored %+v", v.number, n, sent, *e)
		}
		if before := last[v.number] - 1; before > n && v.ledger[before].at.Equal(sent.at) {
			order.add("visitor %d: event %d is listed after event %d, both of %s", v.number, n, before, at)
		}
		last[v.number] = n + 1
	}
	for i, v := range c.visitors {
		for n := range v.ledger {
			if v.ledger[n].acked && !seen[i][n] {
				lost.add("visitor %d, event %d, id %q", i, n, v.ledger[n].id)
			}
		}
	}
	lost.fail(t, "acknowledged events are lost")
	doubled.fail(t, "events are stored twice")
	changed.fail(t, "events are not what was sent")
	order.fail(t, "places in the order are wrong")
	c.auditSessions(s, h, listed)
	// The bus's own count of what it recovered must not cry wolf.
	if figures, err := c.figures(s); err != nil || figures["bus_ledger_alarms"] != 0 {
		t.Errorf("alarms of the ledger: %v, %v", figures["bus_ledger_alarms"], err)
	}
	t.Logf("acknowledged %d, stored %d (%d without a clear answer), requests repeated %d, refused with 503 %d and 507 %d, given up %d",
		c.acked.Load(), len(h.events), int64(len(h.events))-c.acked.Load()+int64(lost.n), c.resent.Load(), c.refused.Load(), c.full.Load(), c.locked.Load())
}

// auditSessions compares what is counted with what is listed.
func (c *crowd) auditSessions(s server, h *held, listed map[string]int64) {
	t := c.t
	t.Helper()
	for id, n := range listed {
		if h.sessions[id] != n {
			t.Errorf("session %q has %d events in the list of sessions, %d are listed", id, h.sessions[id], n)
		}
	}
	if len(h.sessions) != len(listed) {
		t.Errorf("there are %d sessions, and events of %d", len(h.sessions), len(listed))
	}
	if h.counted != int64(len(h.events)) {
		t.Errorf("the statistics count %d events, %d are listed", h.counted, len(h.events))
	}
	// The events of one session by itself are those of the list, in its order.
	bySession := map[string][]event{}
	for _, e := range h.events {
		bySession[e.SessionID] = append(bySession[e.SessionID], e)
	}
	for _, v := range c.visitors {
		var one session
		path := "/collector/sessions/" + url.PathEscape(v.session) + "?"
		if listed[v.session] == 0 {
			continue
		}
		if err := c.get(s, path+"limit=1", &one); err != nil {
			t.Errorf("session %q: %v", v.session, err)
			continue
		}
		var alone []event
		if err := pages(c, s, path, func(e event) { alone = append(alone, e) }); err != nil {
			t.Errorf("session %q: %v", v.session, err)
			continue
		}
		all := bySession[v.session]
		if one.Events != int64(len(all)) || len(alone) != len(all) {
			t.Errorf("session %q says it has %d events and gives %d; %d are listed", v.session, one.Events, len(alone), len(all))
			continue
		}
		for i := range all {
			if all[i] != alone[i] {
				t.Errorf("session %q: its event %d is %+v, in the list of all it is %+v", v.session, i, alone[i], all[i])
				break
			}
		}
	}
}
