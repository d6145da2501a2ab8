package telephony

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"switchboard/platform/app"
	"switchboard/platform/apptest"
	"switchboard/platform/bus/bustest"
	"switchboard/platform/store/storetest"
)

// boardsPatience is how long a test waits for what must come.
const boardsPatience = 30 * time.Second

// boardClient is a client of the boards' protocol.
type boardClient struct {
	t      testing.TB
	conn   *websocket.Conn
	frames chan string
	err    error // why frames was closed
}

// startBoards starts telephony with a second listener, and gives its address.
func startBoards(t testing.TB, options ...apptest.Option) (p *apptest.Product, beside string) {
	t.Helper()
	p = apptest.Start(t, []app.Module{Module}, append(options, apptest.Env("APP_TELEPHONY_BOARD_LISTEN=127.0.0.1:0"))...)
	return p, besideOf(t, p)
}

func besideOf(t testing.TB, p *apptest.Product) (beside string) {
	t.Helper()
	apptest.Eventually(t, func() string {
		found := regexp.MustCompile(`board listens".*"url":"(ws://127\.0\.0\.1:\d+/)"`).FindAllStringSubmatch(p.Log.String(), -1)
		if len(found) == 0 {
			return "no line says where the board listens"
		}
		beside = found[len(found)-1][1]
		return ""
	})
	return beside
}

// withKey is the address of the first listener.
func withKey(p *apptest.Product, key string) string {
	return "ws" + strings.TrimPrefix(p.URL, "http") + "/telephony/ws?key=" + key
}

// dialBoard connects, and takes the greeting.
func dialBoard(t testing.TB, address string) *boardClient {
	t.Helper()
	c, resp := tryBoard(t, address, nil)
	if c == nil {
		t.Fatalf("refused: %s", resp.Status)
	}
	c.want(string(frameWelcome))
	return c
}

// tryBoard connects; header pairs follow. Nil if it is refused.
func tryBoard(t testing.TB, address string, header http.Header) (*boardClient, *http.Response) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), boardsPatience)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		if resp == nil {
			t.Fatal(err)
		}
		return nil, resp
	}
	conn.SetReadLimit(16 << 20)
	c := &boardClient{t: t, conn: conn, frames: make(chan string, 10_000)}
	go func() {
		defer close(c.frames)
		for {
			kind, text, err := conn.Read(context.Background())
			if err != nil {
				c.err = err
				return
			}
			if kind != websocket.MessageText {
				t.Errorf("a frame that is not text: %q", text)
			}
			c.frames <- string(text)
		}
	}()
	t.Cleanup(func() {
		_ = conn.CloseNow()
		for range c.frames { // until the reader is gone
		}
	})
	return c, resp
}

func (c *boardClient) send(text string) {
	c.t.Helper()
	if err := c.conn.Write(c.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// next is the next frame, pushes included.
func (c *boardClient) next() string {
	c.t.Helper()
	select {
	case f, ok := <-c.frames:
		if !ok {
			c.t.Fatalf("the connection ended: %v", c.err)
		}
		return f
	case <-time.After(boardsPatience):
		c.t.Fatal("nothing came")
	}
	return ""
}

func (c *boardClient) want(frame string) {
	c.t.Helper()
	if got := c.next(); got != frame {
		c.t.Fatalf("got  %s\nwant %s", got, frame)
	}
}

// ask sends a request and gives the next frame that is no push.
func (c *boardClient) ask(text string) string {
	c.t.Helper()
	c.send(text)
	for {
		if f := c.next(); f != string(frameChanged) {
			return f
		}
	}
}

// ended waits for the end and gives its code and reason.
func (c *boardClient) ended() (websocket.StatusCode, string) {
	c.t.Helper()
	late := time.After(boardsPatience)
	for {
		select {
		case _, ok := <-c.frames:
			if ok {
				continue
			}
			var closed websocket.CloseError
			if errors.As(c.err, &closed) {
				return closed.Code, closed.Reason
			}
			return 0, c.err.Error()
		case <-late:
			c.t.Fatal("the connection does not end")
		}
	}
}

// eventOf is an event of a call.
func eventOf(kind, call, at string) string {
	return fmt.Sprintf(`{"type":"call.%s","call_id":"%s","direction":"inbound","our_number":"0800000000","their_number":"11999990000","timestamp":"%s"}`, kind, call, at)
}

// The frames of the shared sample, one for one, on both listeners.
func TestBoardFramesAreThoseOfTheProtocol(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("testdata", "ws-frames.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var frames []string
	for line := range bytes.Lines(text) {
		var l struct {
			Frame json.RawMessage `json:"frame"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		frames = append(frames, string(l.Frame))
	}
	welcome, askAll, askNew, answerNew, askEvents, answerEvents := frames[0], frames[1], frames[2], frames[3], frames[4], frames[5]
	answerNone, changed, invalidMessage, invalidEvent := frames[6], frames[7], frames[8], frames[9]

	for i, listener := range []string{"with a key", "beside"} {
		t.Run(listener, func(t *testing.T) {
			t.Parallel()
			p, beside := startBoards(t)
			address := []string{withKey(p, p.NewKey(map[string]any{"scopes": []string{"telephony:read"}})), beside}[i]
			c, _ := tryBoard(t, address, nil)
			c.want(welcome)
			if got := c.ask(askEvents); got != answerNone {
				t.Errorf("an unknown call: %s", got)
			}
			c.send("not JSON")
			c.want(invalidMessage)
			c.send(`{"data":{}}`)
			c.want(invalidMessage)
			c.send(`{"event":"Nobody knows","data":{}}`)
			c.want(invalidEvent)

			var sample struct {
				Data []struct {
					ID    int64           `json:"id"`
					Call  string          `json:"aggregate_id"`
					UUID  string          `json:"uuid"`
					Event json.RawMessage `json:"event"`
				} `json:"data"`
			}
			if err := json.Unmarshal([]byte(answerEvents), &sample); err != nil {
				t.Fatal(err)
			}
			row := sample.Data[0]
			got := post(t, p, string(row.Event))
			c.want(changed)
			want := strings.NewReplacer(row.UUID, got.UUID.String(), `"id":1,`, fmt.Sprintf(`"id":%d,`, got.ID)).Replace(answerEvents)
			if got := c.ask(`{"event":"ListCallEvents","data":{"call_id":"` + row.Call + `"}}`); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			for n := range 4 {
				post(t, p, eventOf("finished", fmt.Sprint("1463669263.3003", 3+n%2), fmt.Sprintf("2019-10-15T00:31:0%dZ", n)))
			}
			if got := post(t, p, eventOf("new", "1463669263.30038", "2019-10-15T00:30:26Z")); got.ID != 6 {
				t.Fatalf("the call has the id %d", got.ID)
			}
			if got := c.ask(askNew); got != answerNew {
				t.Errorf("got  %s\nwant %s", got, answerNew)
			}
			if got := c.ask(askAll); strings.Count(got, `"aggregate_id"`) != 3 {
				t.Errorf("all calls: %s", got)
			}
			// The sample's frame with neither member is no request either.
			if got := c.ask("{}"); got != invalidMessage {
				t.Errorf("{}: %s", got)
			}
			if err := c.conn.Write(t.Context(), websocket.MessageBinary, []byte(askAll)); err != nil {
				t.Fatal(err)
			}
			for got := c.next(); got != invalidMessage; got = c.next() {
				if got != changed {
					t.Fatalf("a binary frame: %s", got)
				}
			}
		})
	}
}

// idsOf lists the calls of an answer.
func idsOf(t testing.TB, frame string) (ids []string, next string) {
	t.Helper()
	var f struct {
		Data []struct {
			Call string `json:"aggregate_id"`
		} `json:"data"`
		Status string `json:"status"`
		Next   string `json:"next"`
	}
	if err := json.Unmarshal([]byte(frame), &f); err != nil || f.Status != "Ok" {
		t.Fatalf("%s: %v", frame, err)
	}
	for _, c := range f.Data {
		ids = append(ids, c.Call)
	}
	return ids, f.Next
}

func TestListCallsFindsByParams(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t)
	post(t, p, eventOf("new", "10.1", "2020-01-01T10:00:00.123456Z"))
	post(t, p, eventOf("ongoing", "10.2", "2020-01-01T10:00:01Z"))
	post(t, p, eventOf("new", "10.3", "2020-01-01T10:00:02Z"))
	third := post(t, p, eventOf("finished", "10.3", "2020-01-01T10:00:03Z"))
	post(t, p, eventOf("new", "10.4", "2020-01-01T10:00:04Z"))
	c := dialBoard(t, beside)
	for _, row := range []struct{ data, want string }{
		{`{}`, "10.4 10.3 10.2 10.1"},
		{`null`, "10.4 10.3 10.2 10.1"},
		{`{"params":null}`, "10.4 10.3 10.2 10.1"},
		{`{"params":[]}`, "10.4 10.3 10.2 10.1"},
		{`{"params":[{"state":"NEW"},{}],"more":1}`, "10.4 10.3 10.2 10.1"},
		{`{"params":{"state":"NEW"}}`, "10.4 10.1"},
		{`{"params":{"state":"WAITING"}}`, ""},
		{`{"params":{"state":"NEW","aggregate_id":"10.1"}}`, "10.1"},
		{`{"params":{"state":"NEW","aggregate_id":"10.2"}}`, ""},
		{`{"params":[{"state":"NEW","aggregate_id":"10.2"},{"aggregate_id":10.3},{"id":2},{"id":"1"}]}`, "10.3 10.2 10.1"},
		{`{"params":{"aggregate_id":"nobody"}}`, ""},
		{`{"params":{"id":999}}`, ""},
		{`{"params":{"id":"x"}}`, ""},
		{`{"params":{"id":-1}}`, ""},
		{`{"params":[{"id":1.5},{"created_at":"2020-01-01T10:00:01.000Z"}]}`, "10.2"},
		{`{"params":{"created_at":"2020-01-01T10:00:00.123Z"}}`, "10.1"},
		{`{"params":{"created_at":"2020-01-01T08:00:00.123-02:00"}}`, "10.1"},
		{`{"params":{"created_at":1577872801000}}`, "10.2"},
		{`{"params":{"updated_at":"2020-01-01T10:00:03.000Z"}}`, "10.3"},
		{`{"params":{"created_at":"2020-01-01T10:00:03.000Z"}}`, ""},
	} {
		ids, next := idsOf(t, c.ask(`{"event":"ListCalls","data":`+row.data+`}`))
		if got := strings.Join(ids, " "); got != row.want || next != "" {
			t.Errorf("%s: %s (next %q), want %s", row.data, got, next, row.want)
		}
	}
	if ids, _ := idsOf(t, c.ask(`{"event":"ListCalls"}`)); len(ids) != 4 {
		t.Errorf("without data: %s", ids)
	}
	if got := c.ask(`{"event":"ListCalls","data":{"params":{"aggregate_id":"10.3"}}}`); !strings.Contains(got, fmt.Sprintf(`{"id":%d,"aggregate_id":"10.3","state":"FINISHED","created_at":"2020-01-01T10:00:02.000Z","updated_at":"2020-01-01T10:00:03.000Z"}`, third.ID-1)) {
		t.Errorf("a call: %s", got)
	}
}

func TestBoardRequestsThatMakeNoSenseSayWhy(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t)
	_ = p
	c := dialBoard(t, beside)
	objects := strings.TrimSuffix(strings.Repeat(`{"id":1},`, maxBoardParams+1), ",")
	asked := 0
	for _, row := range []struct{ event, data, want string }{
		{"ListCalls", `[]`, "data: want an object"},
		{"ListCalls", `{"params":"NEW"}`, "params: want an object, or an array of objects"},
		{"ListCalls", `{"params":[null]}`, "params: want an object, or an array of objects"},
		{"ListCalls", `{"params":[[]]}`, "params: want an object, or an array of objects"},
		{"ListCalls", `{"params":[` + objects + `]}`, "params: want at most 100 objects"},
		{"ListCalls", `{"params":{"state":"new"}}`, "params.state: want one of NEW, STANDBY, WAITING, ONGOING, FINISHED"},
		{"ListCalls", `{"params":{"state":1}}`, "params.state: want one of NEW, STANDBY, WAITING, ONGOING, FINISHED"},
		{"ListCalls", `{"params":{"their_number":"1"}}`, `params."their_number": is not one of id, aggregate_id, state, created_at, updated_at`},
		{"ListCalls", `{"params":{"id":null}}`, "params.id: want a text or a number"},
		{"ListCalls", `{"params":{"aggregate_id":true}}`, "params.aggregate_id: want a text or a number"},
		{"ListCalls", `{"params":{"created_at":"yesterday"}}`, "params.created_at: is not a time: want RFC 3339, such as 2017-01-01T00:00:00Z"},
		{"ListCalls", `{"params":{"updated_at":1e99}}`, "params.updated_at: is not a time: want RFC 3339, such as 2017-01-01T00:00:00Z"},
		{"ListCalls", `{"limit":0}`, "limit: want a number between 1 and 1000"},
		{"ListCalls", `{"limit":"5"}`, "limit: want a number between 1 and 1000"},
		{"ListCalls", `{"cursor":7}`, "cursor: want the next of an earlier answer"},
		{"ListCalls", `{"cursor":"!"}`, "cursor: want the next of an earlier answer"},
		{"ListCallEvents", `{}`, "call_id: want a text or a number"},
		{"ListCallEvents", `null`, "call_id: want a text or a number"},
		{"ListCallEvents", `{"call_id":["x"]}`, "call_id: want a text or a number"},
		{"ListCallEvents", `{"call_id":"x","limit":1001}`, "limit: want a number between 1 and 1000"},
		{"ListCallEvents", `{"call_id":"x","cursor":"MS4x"}`, "cursor: want the next of an earlier answer"},
		{"Subscribe", `{"call_id":{}}`, "call_id: want a text or a number"},
		{"Subscribe", `7`, "data: want an object"},
	} {
		reason, err := json.Marshal(row.want)
		if err != nil {
			t.Fatal(err)
		}
		if asked++; asked%30 == 0 {
			c = dialBoard(t, beside) // another allowance
		}
		want := `{"data":{"success":false,"error":` + string(reason) + `},"event":"` + row.event + `","status":"Failed"}`
		if got := c.ask(`{"event":"` + row.event + `","data":` + row.data + `}`); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", row.data, got, want)
		}
	}
	c = dialBoard(t, beside)
	for _, text := range []string{"", "null", "[]", "7", `"ListCalls"`, `{"event":7}`, `{"event":""}`, `{"event":null}`, `{"Event":"ListCalls","data":{}}`, `{"event":"ListCalls"`, "{\"event\":\"\xff\"}", strings.Repeat("[", 60_000)} {
		if got := c.ask(text); got != string(frameInvalidMessage) {
			t.Errorf("%.40q: %s", text, got)
		}
	}
}

func TestBoardListsComeInPages(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t)
	for i := range 5 {
		post(t, p, eventOf("new", fmt.Sprint("20.", i), "2020-01-01T10:00:00Z")) // all at once
		post(t, p, eventOf("waiting", "20.0", fmt.Sprintf("2020-01-01T10:01:0%dZ", i)))
	}
	c := dialBoard(t, beside)
	var calls []string
	for next := ""; ; {
		ids, more := idsOf(t, c.ask(`{"event":"ListCalls","data":{"limit":2`+cursorMember(next)+`}}`))
		calls = append(calls, ids...)
		if next = more; next == "" {
			break
		}
	}
	if got := strings.Join(calls, " "); got != "20.4 20.3 20.2 20.1 20.0" {
		t.Errorf("the pages have %s", got)
	}
	var events []string
	for next, pages := "", 0; ; pages++ {
		ids, more := idsOf(t, c.ask(`{"event":"ListCallEvents","data":{"call_id":"20.0","limit":2`+cursorMember(next)+`}}`))
		events = append(events, ids...)
		if next = more; next == "" {
			if pages != 2 {
				t.Errorf("%d pages more", pages)
			}
			break
		}
	}
	if len(events) != 6 {
		t.Errorf("%d events", len(events))
	}
}

func cursorMember(next string) string {
	if next == "" {
		return ""
	}
	return `,"cursor":"` + next + `"`
}

func TestManyEventsArePushedTogetherAndTheLastIsNeverLeftOut(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t)
	c := dialBoard(t, beside)
	begin := time.Now()
	const events = 300
	var posted sync.WaitGroup
	for w := range 4 {
		posted.Go(func() {
			for i := range events / 4 {
				post(t, p, eventOf("new", fmt.Sprintf("%d.%d", w, i), "2020-01-01T10:00:00Z"))
			}
		})
	}
	posted.Wait()
	pushes, seen := 0, 0
	for seen < events {
		c.want(string(frameChanged))
		pushes++
		c.send(`{"event":"ListCalls","data":{"params":{}}}`)
		for {
			f := c.next()
			if f == string(frameChanged) {
				pushes++
				continue
			}
			ids, _ := idsOf(t, f)
			seen = len(ids)
			break
		}
	}
	if most := int(time.Since(begin)/boardLimits.PushEvery) + 2; pushes > most {
		t.Errorf("%d pushes in %s", pushes, time.Since(begin))
	}
	// A duplicate is not stored and not pushed; the next event is.
	drainPushes(c)
	if got := post(t, p, eventOf("new", "0.0", "2020-01-01T10:00:00Z")); !got.Duplicate {
		t.Error("stored twice")
	}
	if f := c.ask(`{"event":"?"}`); f != string(frameInvalidEvent) {
		t.Errorf("got %s", f)
	}
	post(t, p, eventOf("ongoing", "0.0", "2020-01-01T10:00:00Z"))
	c.want(string(frameChanged))
}

// drainPushes waits until no push is due any more.
func drainPushes(c *boardClient) {
	for {
		select {
		case f := <-c.frames:
			if f != string(frameChanged) {
				c.t.Fatalf("got %s", f)
			}
		case <-time.After(3 * boardLimits.PushEvery):
			return
		}
	}
}

type toldEvent struct {
	Data struct {
		ID    int64           `json:"id"`
		Call  string          `json:"aggregate_id"`
		UUID  string          `json:"uuid"`
		Event json.RawMessage `json:"event"`
	} `json:"data"`
	Event  string `json:"event"`
	Status string `json:"status"`
}

// events gives the next n events that the subscription brings.
func (c *boardClient) events(n int) (got []toldEvent) {
	c.t.Helper()
	for len(got) < n {
		f := c.next()
		if f == string(frameChanged) {
			continue
		}
		var e toldEvent
		if err := json.Unmarshal([]byte(f), &e); err != nil || e.Event != "CallEvent" || e.Status != "Ok" {
			c.t.Fatalf("got %s", f)
		}
		got = append(got, e)
	}
	return got
}

func TestASubscriberGetsEveryEventOnceAndInOrder(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t)
	post(t, p, eventOf("new", "before", "2020-01-01T10:00:00Z"))
	const workers, each = 4, 60
	var posted sync.WaitGroup
	for w := range workers {
		posted.Go(func() {
			for i := range each {
				post(t, p, eventOf("new", fmt.Sprintf("%d.%d", w, i), "2020-01-01T10:00:00Z"))
			}
		})
	}
	// They come while events are stored; each gets all from its first on.
	clients := make([]*boardClient, 6)
	for i := range clients {
		clients[i] = dialBoard(t, []string{beside, withKey(p, p.Key)}[i%2])
		if got := clients[i].ask(`{"event":"Subscribe","data":{}}`); got != string(frameSubscribed) {
			t.Fatalf("got %s", got)
		}
		clients[i].send(`{"event":"Subscribe","data":{}}`) // once more is the same one
	}
	posted.Wait()
	last := post(t, p, eventOf("new", "after", "2020-01-01T10:00:00Z")).ID
	if last != workers*each+2 {
		t.Fatalf("the log has %d events", last)
	}
	for i, c := range clients {
		var before int64
		for again := false; before < last; {
			f := c.next()
			if f == string(frameSubscribed) && !again {
				again = true
				continue
			}
			if f == string(frameChanged) {
				continue
			}
			var e toldEvent
			if err := json.Unmarshal([]byte(f), &e); err != nil || e.Event != "CallEvent" {
				t.Fatalf("got %s", f)
			}
			if before != 0 && e.Data.ID != before+1 {
				t.Fatalf("client %d: event %d after %d", i, e.Data.ID, before)
			}
			before = e.Data.ID
		}
	}
}

func TestASubscriptionMayBeToOneCall(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t)
	c := dialBoard(t, beside)
	if got := c.ask(`{"event":"Subscribe","data":{"call_id":30.2}}`); got != string(frameSubscribed) {
		t.Fatalf("got %s", got)
	}
	post(t, p, eventOf("new", "30.1", "2020-01-01T10:00:00Z"))
	text := `{"type":"call.waiting","call_id":"30.2","queue":"900","n":12345678901234567890.10,"timestamp":"2020-01-01T10:00:00Z"}`
	got := post(t, p, text)
	want := fmt.Sprintf(`{"data":{"id":%d,"aggregate_id":"30.2","uuid":"%s","event":%s},"event":"CallEvent","status":"Ok"}`, got.ID, got.UUID, text)
	f := c.next()
	for f == string(frameChanged) {
		f = c.next()
	}
	if f != want {
		t.Errorf("got  %s\nwant %s", f, want)
	}
	// Subscribing again, to all, goes on where it was.
	if got := c.ask(`{"event":"Subscribe","data":{}}`); got != string(frameSubscribed) {
		t.Fatalf("got %s", got)
	}
	post(t, p, `{"type":"actor.paused","actor":"ana@example.com","queue":"900","timestamp":"2020-01-01T10:00:00Z"}`)
	post(t, p, eventOf("finished", "30.1", "2020-01-01T10:00:00Z"))
	events := c.events(2)
	if events[0].Data.Call != "" || events[1].Data.Call != "30.1" || events[1].Data.ID != got.ID+2 {
		t.Errorf("got %+v", events)
	}
}

func TestAllInstancesPushWhatOneStores(t *testing.T) {
	t.Parallel()
	shared := apptest.Env("APP_NATS_URL="+bustest.External(t), "APP_DATABASE_URL="+storetest.Postgres(t),
		"APP_MASTER_KEY=a master key of two instances", "APP_ADMIN_KEY=the-admin-key-of-both")
	one, _ := startBoards(t, shared)
	two, beside := startBoards(t, shared)
	one.Key, two.Key = "the-admin-key-of-both", "the-admin-key-of-both"
	c := dialBoard(t, beside)
	if got := c.ask(`{"event":"Subscribe"}`); got != string(frameSubscribed) {
		t.Fatalf("got %s", got)
	}
	for i := range 20 {
		got := post(t, []*apptest.Product{one, two}[i%2], eventOf("new", fmt.Sprint("40.", i), "2020-01-01T10:00:00Z"))
		if e := c.events(1)[0]; e.Data.ID != got.ID {
			t.Fatalf("event %d, want %d", e.Data.ID, got.ID)
		}
		// What one has acknowledged is in the other's answer.
		if ids, _ := idsOf(t, c.ask(`{"event":"ListCalls","data":{"params":{}}}`)); len(ids) != i+1 {
			t.Fatalf("%d calls, want %d", len(ids), i+1)
		}
	}
}

// statusOf gives how a listener answers a request for a WebSocket.
func statusOf(t testing.TB, address string, header http.Header) int {
	t.Helper()
	c, resp := tryBoard(t, address, header)
	if c != nil {
		c.want(string(frameWelcome))
		_ = c.conn.CloseNow()
		return http.StatusSwitchingProtocols
	}
	return resp.StatusCode
}

func TestPagesOfStrangersCannotReadTheBoard(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t, apptest.Env("APP_TELEPHONY_BOARD_ORIGINS=https://wall.example,http://10.0.0.5:3000"))
	u, err := url.Parse(beside)
	if err != nil {
		t.Fatal(err)
	}
	for origin, want := range map[string]int{
		"http://localhost": 101, "http://localhost:3000": 101, "https://LOCALHOST:1": 101, "http://board.localhost:81": 101, "http://127.0.0.1:3000": 101,
		"http://127.8.9.1": 101, "http://[::1]:3000": 101, "https://wall.example": 101, "http://10.0.0.5:3000": 101, "HTTPS://WALL.EXAMPLE": 101,
		"https://evil.example": 403, "http://wall.example": 403, "https://wall.example:444": 403, "https://wall.example.evil.com": 403, "null": 403, "": 403,
		"file://": 403, "http://localhost.evil.com": 403, "http://evillocalhost": 403, "http://127.0.0.1.evil.com": 403, "http://0.0.0.0": 403, "http://10.0.0.5": 403,
		"http://user@localhost": 403, "http://localhost/x": 403, "chrome-extension://localhost": 403, "http://2130706433": 403, "http://[::ffff:127.0.0.1]": 101,
	} {
		if got := statusOf(t, beside, http.Header{"Origin": {origin}}); got != want {
			t.Errorf("%q: %d, want %d", origin, got, want)
		}
	}
	if got := statusOf(t, beside, http.Header{"Origin": {"http://localhost", "https://evil.example"}}); got != http.StatusForbidden {
		t.Errorf("two origins: %d", got)
	}
	if got := statusOf(t, beside, nil); got != http.StatusSwitchingProtocols {
		t.Errorf("no origin: %d", got)
	}
	for _, path := range []string{"", "/any/path?x=1", "//"} {
		if got := statusOf(t, "ws://"+u.Host+path, http.Header{"Sec-Websocket-Protocol": {"chat"}}); got != http.StatusSwitchingProtocols {
			t.Errorf("%s: %d", path, got)
		}
	}

	// With a key the key's origins count, and the server's own.
	bound := p.NewKey(map[string]any{"scopes": []string{"telephony:read"}, "origins": []string{"https://shop.example"}})
	own := p.URL
	for _, row := range []struct {
		key, origin string
		want        int
	}{{bound, "https://shop.example", 101}, {bound, "https://evil.example", 403}, {p.Key, "https://evil.example", 403}, {p.Key, own, 101}, {p.Key, "null", 403},
		{p.NewKey(map[string]any{"scopes": []string{"telephony:webhook"}}), own, 403}, {"", own, 401}} {
		if got := statusOf(t, withKey(p, row.key), http.Header{"Origin": {row.origin}}); got != row.want {
			t.Errorf("with a key from %q: %d, want %d", row.origin, got, row.want)
		}
	}
}

func TestAPlainRequestIsToldWhatListensThere(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t)
	plain := "http" + strings.TrimPrefix(beside, "ws")
	for _, row := range []struct {
		method, address, media string
		header                 http.Header
		want                   int
	}{
		{http.MethodGet, plain, "text/plain; charset=utf-8", nil, 426},
		{http.MethodPost, plain + "webhook", "text/plain; charset=utf-8", nil, 426},
		{http.MethodGet, plain, "text/plain; charset=utf-8", http.Header{"Upgrade": {"websocket"}, "Connection": {"keep-alive, Upgrade"}}, 400},
		{http.MethodGet, p.URL + "/telephony/ws?key=" + p.Key, "application/problem+json", nil, 426},
		{http.MethodGet, p.URL + "/telephony/ws?key=" + p.Key, "application/problem+json", http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"x"}}, 400},
	} {
		req, err := http.NewRequest(row.method, row.address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = row.header.Clone()
		resp, body := p.Exchange(req)
		if resp.StatusCode != row.want || resp.Header.Get("Content-Type") != row.media {
			t.Errorf("%s %s: %s %s %s", row.method, row.address, resp.Status, resp.Header.Get("Content-Type"), body)
		}
	}
}

func TestAFloodIsCutButNotTheAnswerToPushes(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t)
	flood := dialBoard(t, beside)
	for range 200 {
		if flood.conn.Write(t.Context(), websocket.MessageText, []byte(`{"event":"ListCalls","data":{"params":{}}}`)) != nil {
			break // cut
		}
	}
	if code, reason := flood.ended(); code != websocket.StatusPolicyViolation || reason != "too many requests" {
		t.Errorf("%d %s", code, reason)
	}

	// A client that slept through pushes and then answers all of them at once.
	c := dialBoard(t, beside)
	pushes := 0
	for i := range 30 {
		post(t, p, eventOf("new", fmt.Sprint("50.", i), "2020-01-01T10:00:00Z"))
		c.want(string(frameChanged))
		pushes++
	}
	for range pushes + boardLimits.RequestBurst {
		c.send(`{"event":"ListCallEvents","data":{"call_id":"50.0"}}`)
	}
	for range pushes + boardLimits.RequestBurst {
		if f := c.next(); !strings.Contains(f, `"event":"ListCallEvents","status":"Ok"`) {
			t.Fatalf("got %s", f)
		}
	}
}

func TestAMessageThatIsTooLargeEndsTheSocket(t *testing.T) {
	t.Parallel()
	_, beside := startBoards(t)
	c := dialBoard(t, beside)
	c.send(`{"event":"ListCalls","data":"` + strings.Repeat("x", 64<<10) + `"}`)
	if code, _ := c.ended(); code != websocket.StatusMessageTooBig {
		t.Errorf("%d: %v", code, c.err)
	}
}

func TestBoardsAreCounted(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t, apptest.Env("APP_TELEPHONY_MAX_BOARDS=2"))
	one := dialBoard(t, beside)
	dialBoard(t, withKey(p, p.Key))
	for _, address := range []string{beside, withKey(p, p.Key)} {
		if got := statusOf(t, address, nil); got != http.StatusServiceUnavailable {
			t.Errorf("one too many: %d", got)
		}
	}
	if err := one.conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	apptest.Eventually(t, func() string {
		c, resp := tryBoard(t, beside, nil)
		if c == nil {
			return resp.Status
		}
		return ""
	})
}

func TestBoardsAreToldOfTheStop(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t)
	clients := []*boardClient{dialBoard(t, beside), dialBoard(t, withKey(p, p.Key)), dialBoard(t, beside)}
	if got := clients[0].ask(`{"event":"Subscribe"}`); got != string(frameSubscribed) {
		t.Fatal(got)
	}
	begin := time.Now()
	p.Stop()
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the stop took %s", took)
	}
	for _, c := range clients {
		if code, reason := c.ended(); code != websocket.StatusGoingAway || reason != "server is stopping" {
			t.Errorf("%d %s (%v)", code, reason, c.err)
		}
	}
	if strings.Contains(p.Log.String(), "cut off") {
		t.Errorf("requests were cut off:\n%s", p.Log)
	}
}

func TestTheSecondListenerIsOfThisMachineUnlessForced(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		listen string
		public bool
		want   string
	}{
		{"", false, ""}, {"127.0.0.1:4000", false, ""}, {"localhost:0", false, ""}, {"[::1]:4000", false, ""}, {"127.9.9.9:1", false, ""},
		{"0.0.0.0:4000", false, "other machines"}, {":4000", false, "other machines"}, {"10.0.0.5:4000", false, "other machines"}, {"board.example:4000", false, "other machines"},
		{"0.0.0.0:4000", true, ""}, {":4000", true, ""},
		{"4000", false, "host:port"}, {"127.0.0.1", true, "host:port"}, {"127.0.0.1:", true, "host:port"}, {"127.0.0.1:http", true, "host:port"}, {"a/b:1", true, "host:port"}, {"x@127.0.0.1:1", true, "host:port"},
	} {
		cfg := &Config{BoardListen: row.listen, BoardPublic: row.public}
		err := cfg.checkBoardListen()
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "telephony.board_listen")) {
			t.Errorf("%q: %v", row.listen, err)
		}
	}
	p, beside := startBoards(t)
	_ = p
	taken := strings.TrimSuffix(strings.TrimPrefix(beside, "ws://"), "/")
	err := app.Serve(t.Context(), app.Options{Modules: []app.Module{Module}, Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}, Now: time.Now,
		Args: []string{"--listen=127.0.0.1:0", "--data-dir=" + t.TempDir()}, Env: []string{"APP_TELEPHONY_BOARD_LISTEN=" + taken}})
	if err == nil || !strings.Contains(err.Error(), "telephony.board_listen") || !strings.Contains(err.Error(), taken) {
		t.Errorf("a port that is taken: %v", err)
	}
}

func TestManyBoardsAskForTheSameOnce(t *testing.T) {
	t.Parallel()
	p, beside := startBoards(t)
	for i := range 50 {
		post(t, p, eventOf("new", fmt.Sprint("60.", i), "2020-01-01T10:00:00Z"))
	}
	clients := make([]*boardClient, 40)
	for i := range clients {
		clients[i] = dialBoard(t, beside)
	}
	var done sync.WaitGroup
	answers := make([]string, len(clients))
	for i, c := range clients {
		done.Go(func() { answers[i] = c.ask(`{"event":"ListCalls","data":{"params":{}}}`) })
	}
	done.Wait()
	if len(slices.Compact(answers)) != 1 {
		t.Error("the answers differ")
	}
}
